//! Errors that the function reports: PCI Express Base 5.0, 6.2.4 and 7.8.4.

use crate::tables::{aer, express, header};
use crate::{Field, Layout, State};

/// Sets the bits that an error of the function's sets. What the specification does not define changes nothing.
pub(crate) fn report(layout: &Layout, state: &mut State, correctable: bool, bit: u8, header: [u32; 4]) {
    let status = if correctable {
        &aer::CORRECTABLE_STATUS
    } else {
        &aer::UNCORRECTABLE_STATUS
    };
    let Some(mask) = 1_u32.checked_shl(u32::from(bit)) else {
        return;
    };
    let Some(at) = layout.structures.aer else {
        return detected(
            layout,
            state,
            if correctable {
                Severity::Correctable
            } else {
                Severity::NonFatal
            },
        );
    };
    if layout.word(status.place(at).word).clear & mask == 0 {
        return;
    }
    let earlier = state.field(at, status);
    state.put(at, status, earlier | mask);
    if correctable {
        return detected(layout, state, Severity::Correctable);
    }
    let severity = if state.field(at, &aer::SEVERITY) & mask != 0 {
        Severity::Fatal
    } else {
        Severity::NonFatal
    };
    if mask == aer::UNSUPPORTED_REQUEST.mask()
        && let Some(at) = layout.structures.express
    {
        state.put(at, &express::UNSUPPORTED_DETECTED, 1);
    }
    if state.field(at, &aer::UNCORRECTABLE_MASK) & mask == 0 {
        log_first(state, at, earlier, bit, header);
        if state.field(0, &header::SERR) != 0 {
            state.put(0, &header::SIGNALED_SYSTEM_ERROR, 1);
        }
    }
    detected(layout, state, severity);
}

/// The header log belongs to the first error whose status bit has not been cleared.
fn log_first(state: &mut State, at: u16, earlier: u32, bit: u8, header: [u32; 4]) {
    let first = state.field(at, &aer::FIRST_ERROR);
    if earlier & (1 << first) != 0 {
        return;
    }
    state.put(at, &aer::FIRST_ERROR, u32::from(bit));
    for (field, dword) in aer::HEADER_LOG.iter().zip(header) {
        state.put(at, field, dword);
    }
}

#[derive(Clone, Copy)]
enum Severity {
    Correctable,
    NonFatal,
    Fatal,
}

/// Device Status tells of every error, whether it is masked or not.
fn detected(layout: &Layout, state: &mut State, severity: Severity) {
    let field: &Field = match severity {
        Severity::Correctable => &express::CORRECTABLE_DETECTED,
        Severity::NonFatal => &express::NONFATAL_DETECTED,
        Severity::Fatal => &express::FATAL_DETECTED,
    };
    if let Some(at) = layout.structures.express {
        state.put(at, field, 1);
    }
}
