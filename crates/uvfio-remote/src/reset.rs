//! Resets, and what the user has set, written again where a reset took it.
//!
//! The kernel saves a function's registers before a reset and restores them after it. A server need not: one may keep
//! what the user had set, and another begin anew.

use std::time::Duration;

use uvfio_core::region_index::CONFIG;
use uvfio_core::{DeviceError, ResetProgress};
use uvfio_pci::tables::{advanced, express, header, vendor, vpd};
use uvfio_pci::{Access, Action, After, Bar, Field, Layout, Placed};

use uvfio_proto::Client;

use crate::link::Unanswered;
use crate::remote::Remote;

impl Remote {
    pub(crate) fn failure(&self, what: impl Into<String>) -> DeviceError {
        DeviceError {
            device: self.name,
            what: what.into(),
        }
    }

    /// Resets the function; the user keeps what it has set.
    pub(crate) fn reset_function(&self, patience: Duration) -> Result<ResetProgress, DeviceError> {
        if self.link.is_gone() {
            return Ok(ResetProgress::Done);
        }
        if !self.declared.resettable {
            return Err(self.failure("its server has no way to reset it; it goes on as it is"));
        }
        let had = self.page();
        match self.link.ask_within(patience, Client::reset) {
            Ok(()) => {}
            Err(Unanswered::Refused(errno)) => {
                return Err(self.failure(format!("its server refused to reset it: {errno}")));
            }
            Err(Unanswered::Gone) => {
                return Err(self.failure("its server did not answer to a reset, and the device is gone"));
            }
        }
        if let Some(had) = had {
            self.put_back(&had, After::Kept);
        }
        self.look_at_switches();
        Ok(ResetProgress::Done)
    }

    /// The user has gone: configuration space as it was before there was one.
    pub(crate) fn put_back_first(&self) {
        self.put_back(&self.declared.page, After::Initial);
        self.look_at_switches();
    }

    /// Configuration space as it is.
    fn page(&self) -> Option<Vec<u8>> {
        let mut page = vec![0; self.declared.page.len()];
        let read = self.link.ask(|client| client.read(CONFIG, 0, &mut page));
        read.is_ok().then_some(page)
    }

    /// Writes fields again that do not hold what they held in `had`. After a reset those that the user keeps; when the
    /// user has gone all that it may have written.
    fn put_back(&self, had: &[u8], after: After) {
        let Some(now) = self.page() else { return };
        let mut words = vec![0_u32; had.len() / 4];
        let layout = &self.declared.layout;
        for placed in layout.placed() {
            for field in placed
                .table
                .fields
                .iter()
                .filter(|field| comes_back(&placed, field, after))
            {
                let place = field.place(placed.offset);
                if let Some(mask) = words.get_mut(usize::from(place.word)) {
                    *mask |= place.mask;
                }
            }
        }
        for register in address_registers(layout) {
            if let Some(mask) = words.get_mut(usize::from(register / 4)) {
                *mask = u32::MAX;
            }
        }
        let word = |page: &[u8], n: usize| {
            let bytes = page.get(n * 4..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let command = usize::from(header::MEMORY.place(0).word);
        // COMMAND at last: nothing decodes or goes out before all else is in its place.
        let order = (0..words.len()).filter(|n| *n != command).chain([command]);
        for n in order {
            let mask = words.get(n).copied().unwrap_or(0);
            let (had, now) = (word(had, n), word(&now, n));
            if (had ^ now) & mask == 0 {
                continue;
            }
            // Elsewhere zeros: they clear nothing that a written 1 clears, and start nothing.
            let value = (had & mask).to_le_bytes();
            let lanes = mask.to_le_bytes().map(|lane| lane != 0);
            let first = lanes.iter().position(|lane| *lane).unwrap_or(0);
            let last = lanes.iter().rposition(|lane| *lane).unwrap_or(3);
            for (lane, bytes) in widths(first, last) {
                let piece = value.get(lane..lane + bytes).unwrap_or_default();
                self.write_piece(CONFIG, (n * 4 + lane) as u64, piece);
            }
        }
    }

    /// Takes the bits out of a write of configuration space that begin a function level reset, and says whether there
    /// were any of a function that can be reset so.
    pub(crate) fn take_reset(&self, offset: u16, data: &mut [u8]) -> bool {
        if !self.declared.resettable {
            return false;
        }
        let mut resets = false;
        for (at, field) in reset_bits(&self.declared.layout, &self.declared.page) {
            let bit = at + field.register + u16::from(field.lsb / 8);
            let mask = 1 << (field.lsb % 8);
            if let Some(byte) = bit
                .checked_sub(offset)
                .and_then(|place| data.get_mut(usize::from(place)))
                .filter(|byte| **byte & mask != 0)
            {
                *byte &= !mask;
                resets = true;
            }
        }
        resets
    }
}

/// The bits that begin a function level reset, of structures that say that they do.
fn reset_bits<'a>(layout: &'a Layout, page: &'a [u8]) -> impl Iterator<Item = (u16, &'static Field)> + 'a {
    let capable = |at, field: &Field| uvfio_pci::chain::value(page, at, field).unwrap_or_default() != 0;
    layout.placed().filter_map(move |placed| {
        let (able, bit) = if std::ptr::eq(placed.table, &raw const express::EXPRESS) {
            (&express::FLR_CAPABLE, &express::INITIATE_FLR)
        } else if std::ptr::eq(placed.table, &raw const advanced::ADVANCED) {
            (&advanced::FLR_CAPABLE, &advanced::INITIATE_FLR)
        } else {
            return None;
        };
        capable(placed.offset, able).then_some((placed.offset, bit))
    })
}

/// The registers that hold addresses of BARs and of the ROM. A page in which they are 0 does not tell that they are there.
fn address_registers(layout: &Layout) -> impl Iterator<Item = u16> {
    let bar = |n: u8| match layout.bar(n) {
        Bar::None => 0,
        Bar::Memory32 { .. } | Bar::Io { .. } => 1,
        Bar::Memory64 { .. } => 2,
    };
    let dwords: Vec<(u16, u16)> = (0..6)
        .map(|n| (header::BAR0 + 4 * u16::from(n), bar(n)))
        .collect();
    let rom = (header::ROM_BAR, u16::from(layout.rom_bytes() > 0));
    let all = dwords.into_iter().chain([rom]);
    all.flat_map(|(register, count)| (0..count).map(move |n| register + 4 * n))
}

/// Whether a field is to hold again what it held.
fn comes_back(placed: &Placed, field: &Field, after: After) -> bool {
    let foreign = [&raw const vendor::BODY, &raw const vpd::VPD]
        .into_iter()
        .any(|table| std::ptr::eq(placed.table, table));
    let writable = matches!(field.access, Access::Rw | Access::Rws);
    let works = matches!(
        field.action,
        Action::FunctionLevelReset | Action::PowerState | Action::Vpd
    );
    writable && !foreign && !works && (after == After::Initial || field.resets.flr == After::Kept)
}

/// Lanes `first ..= last` of a dword as naturally aligned accesses: first lane, and bytes.
fn widths(first: usize, last: usize) -> Vec<(usize, usize)> {
    match (first, last) {
        (0, 2..) => vec![(0, 4)],
        (0, 1) => vec![(0, 2)],
        (2, 3) => vec![(2, 2)],
        _ => (first..=last).map(|lane| (lane, 1)).collect(),
    }
}
