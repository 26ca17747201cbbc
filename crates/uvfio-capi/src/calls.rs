//! One function for each in `include/uvfio.h`, which says what they do.
//!
//! # Safety
//! Of every function: pointers are as the header says. Null is an error where it is not allowed.
#![allow(unsafe_code, clippy::missing_safety_doc)] // pointers from the caller; the module's head has the section

use std::ffi::{OsStr, c_char, c_int};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use uvfio_driver::{DriverError, Event, Function, IrqKind, PowerState};

use crate::edge::{self, Failure, Outcome, bytes, bytes_mut, call, give, handle, put, string, take_back};
use crate::handles::{BufferHandle, FunctionHandle};

/// `struct uvfio_identity`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Base class, sub-class, programming interface.
    pub class_code: [u8; 3],
    /// Revision ID.
    pub revision: u8,
}

/// `struct uvfio_range`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Range {
    /// First address.
    pub first: u64,
    /// Last address, inclusive.
    pub last: u64,
}

fn done<T>(_: T) -> Outcome<c_int> {
    Ok(0)
}

/// At most what an `int` holds.
fn count(n: u64) -> c_int {
    c_int::try_from(n).unwrap_or(c_int::MAX)
}

fn offset16(offset: u32) -> Outcome<u16> {
    u16::try_from(offset).map_err(|_| Failure::Argument("configuration space ends before that offset"))
}

/// Negative means for ever.
fn patience(milliseconds: c_int) -> Option<Duration> {
    u64::try_from(milliseconds).ok().map(Duration::from_millis)
}

fn interrupt_kind(kind: u32) -> Outcome<IrqKind> {
    match kind {
        0 => Ok(IrqKind::Intx),
        1 => Ok(IrqKind::Msi),
        2 => Ok(IrqKind::MsiX),
        _ => Err(Failure::Argument(
            "the kind of interrupt is 0 (INTx), 1 (MSI) or 2 (MSI-X)",
        )),
    }
}

const WIDTH: Failure = Failure::Argument("the width of an access is 1, 2, 4 or 8");

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn uvfio_last_error() -> *const c_char {
    edge::last_error()
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_open(target: *const c_char, function: *mut *mut FunctionHandle) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let target = unsafe { string(target) }?;
        let make = || {
            let target = OsStr::from_bytes(target.to_bytes());
            Ok(FunctionHandle::new(Function::open_target(target)?))
        };
        // SAFETY: see the module's head.
        done(unsafe { give(function, make) }?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_close(function: *mut FunctionHandle) {
    call(|| {
        // SAFETY: see the module's head.
        unsafe { take_back(function) };
        Ok(0)
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_identify(function: *const FunctionHandle, identity: *mut Identity) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let found = unsafe { handle(function) }?.function.identity()?;
        let value = Identity {
            vendor: found.vendor,
            device: found.device,
            class_code: found.class,
            revision: found.revision,
        };
        // SAFETY: see the module's head.
        done(unsafe { put(identity, value) }?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_config_read(
    function: *const FunctionHandle,
    offset: u32,
    width: u32,
    value: *mut u32,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let config = unsafe { handle(function) }?.function.config();
        let offset = offset16(offset)?;
        let read = match width {
            1 => config.read::<u8>(offset)?.into(),
            2 => config.read::<u16>(offset)?.into(),
            4 => config.read::<u32>(offset)?,
            _ => return Err(WIDTH),
        };
        // SAFETY: see the module's head.
        done(unsafe { put(value, read) }?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_config_write(
    function: *const FunctionHandle,
    offset: u32,
    width: u32,
    value: u32,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let config = unsafe { handle(function) }?.function.config();
        let offset = offset16(offset)?;
        match width {
            1 => config.write(offset, value as u8)?,
            2 => config.write(offset, value as u16)?,
            4 => config.write(offset, value)?,
            _ => return Err(WIDTH),
        }
        Ok(0)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_capability(
    function: *const FunctionHandle,
    id: u32,
    extended: c_int,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let found = unsafe { handle(function) }?.function.config().capabilities();
        found
            .iter()
            .find(|capability| u32::from(capability.id) == id && capability.extended == (extended != 0))
            .map(|capability| capability.offset.into())
            .ok_or(Failure::Driver(DriverError::NoCapability("requested")))
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_bar_size(function: *const FunctionHandle, bar: u32, size: *mut u64) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let have = unsafe { handle(function) }?.bar(bar)?.bytes();
        // SAFETY: see the module's head.
        done(unsafe { put(size, have) }?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_bar_read(
    function: *const FunctionHandle,
    bar: u32,
    offset: u64,
    width: u32,
    value: *mut u64,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let bar = unsafe { handle(function) }?.bar(bar)?;
        let read = match width {
            1 => bar.read::<u8>(offset)?.into(),
            2 => bar.read::<u16>(offset)?.into(),
            4 => bar.read::<u32>(offset)?.into(),
            8 => bar.read::<u64>(offset)?,
            _ => return Err(WIDTH),
        };
        // SAFETY: see the module's head.
        done(unsafe { put(value, read) }?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_bar_write(
    function: *const FunctionHandle,
    bar: u32,
    offset: u64,
    width: u32,
    value: u64,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let bar = unsafe { handle(function) }?.bar(bar)?;
        match width {
            1 => bar.write(offset, value as u8)?,
            2 => bar.write(offset, value as u16)?,
            4 => bar.write(offset, value as u32)?,
            8 => bar.write(offset, value)?,
            _ => return Err(WIDTH),
        }
        Ok(0)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_set_bus_master(function: *const FunctionHandle, on: c_int) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        done(unsafe { handle(function) }?.function.set_bus_master(on != 0)?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_set_dma_limit(function: *const FunctionHandle, last: u64) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        unsafe { handle(function) }?.function.set_dma_limit(last);
        Ok(0)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_usable_iova(
    function: *const FunctionHandle,
    ranges: *mut Range,
    room: usize,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let usable = unsafe { handle(function) }?.function.usable_iova();
        for (n, &(first, last)) in usable.iter().take(room).enumerate() {
            // SAFETY: see the module's head; `n` is less than `room`.
            unsafe { put(ranges.wrapping_add(n), Range { first, last }) }?;
        }
        Ok(count(usable.len() as u64))
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_buffer_new(
    function: *const FunctionHandle,
    size: u64,
    buffer: *mut *mut BufferHandle,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let function = unsafe { handle(function) }?;
        let make = || {
            let buffer = function.function.dma_buffer(size)?;
            Ok(BufferHandle { buffer })
        };
        // SAFETY: see the module's head.
        done(unsafe { give(buffer, make) }?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_buffer_free(buffer: *mut BufferHandle) {
    call(|| {
        // SAFETY: see the module's head.
        unsafe { take_back(buffer) };
        Ok(0)
    });
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_buffer_iova(buffer: *const BufferHandle) -> u64 {
    let mut iova = 0;
    call(|| {
        // SAFETY: see the module's head.
        iova = unsafe { handle(buffer) }?.buffer.iova();
        Ok(0)
    });
    iova
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_buffer_read(
    buffer: *const BufferHandle,
    offset: u64,
    data: *mut u8,
    size: usize,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let buffer = &unsafe { handle(buffer) }?.buffer;
        // SAFETY: see the module's head.
        let data = unsafe { bytes_mut(data, size) }?;
        done(buffer.read_bytes(offset, data)?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_buffer_write(
    buffer: *const BufferHandle,
    offset: u64,
    data: *const u8,
    size: usize,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let buffer = &unsafe { handle(buffer) }?.buffer;
        // SAFETY: see the module's head.
        let data = unsafe { bytes(data, size) }?;
        done(buffer.write_bytes(offset, data)?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_irq_count(function: *const FunctionHandle, kind: u32) -> c_int {
    call(|| {
        let kind = interrupt_kind(kind)?;
        // SAFETY: see the module's head.
        let vectors = unsafe { handle(function) }?.function.vectors(kind)?;
        Ok(count(vectors.into()))
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_irq_enable(function: *const FunctionHandle, kind: u32, vectors: u32) -> c_int {
    call(|| {
        let kind = interrupt_kind(kind)?;
        // SAFETY: see the module's head.
        let function = unsafe { handle(function) }?;
        let make = || function.function.interrupts(kind, vectors).map(Some);
        done(function.set_interrupts(make)?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_irq_disable(function: *const FunctionHandle) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        done(unsafe { handle(function) }?.set_interrupts(|| Ok(None))?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_irq_wait(
    function: *const FunctionHandle,
    vector: u32,
    milliseconds: c_int,
) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let interrupts = unsafe { handle(function) }?.interrupts()?;
        Ok(count(interrupts.wait(vector, patience(milliseconds))?))
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_irq_fd(function: *const FunctionHandle, vector: u32) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let interrupts = unsafe { handle(function) }?.interrupts()?;
        Ok(interrupts.fd(vector)?.as_raw_fd())
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_irq_rearm(function: *const FunctionHandle) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        done(unsafe { handle(function) }?.interrupts()?.rearm()?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_event_wait(function: *const FunctionHandle, milliseconds: c_int) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let events = unsafe { handle(function) }?.events()?;
        Ok(match events.wait(patience(milliseconds))? {
            None => 0,
            Some(Event::Error) => 1,
            Some(Event::RemovalRequested) => 2,
        })
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_reset(function: *const FunctionHandle) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        done(unsafe { handle(function) }?.function.reset()?)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_power_state(function: *const FunctionHandle) -> c_int {
    call(|| {
        // SAFETY: see the module's head.
        let state = unsafe { handle(function) }?.function.power_state()?;
        Ok(state as c_int)
    })
}

/// See the header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn uvfio_set_power_state(function: *const FunctionHandle, state: u32) -> c_int {
    call(|| {
        let state = match state {
            0 => PowerState::D0,
            1 => PowerState::D1,
            2 => PowerState::D2,
            3 => PowerState::D3hot,
            _ => return Err(Failure::Argument("the power state is 0 (D0) to 3 (D3hot)")),
        };
        // SAFETY: see the module's head.
        done(unsafe { handle(function) }?.function.set_power_state(state)?)
    })
}
