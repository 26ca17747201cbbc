//! VFIO_DEVICE_IOEVENTFD: eventfds that, signalled by their user, write a value to a register.
//!
//! One thread a device waits for them, from the first on. Signalled faster than it writes, several signals are one
//! write, as with the kernel.

use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{Errno, ReadWriteFlags};
use uvfio_core::region_index;
use uvfio_pci::Window;
use vfio_bindings::bindings::vfio as sys;

use super::Device;
use super::regions::split;
use crate::argument::{Argument, field};
use crate::backend::Backend;
use crate::descriptor::signal_eventfd;
use crate::refusal::{Outcome, Refusal};
use crate::{Caller, descriptor};

/// The most of one device: the kernel's limit.
const MOST: usize = 1000;

/// Which write an eventfd stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Write {
    bar: u32,
    offset: u64,
    value: u64,
    /// 1, 2, 4 or 8.
    bytes: usize,
}

#[derive(Debug)]
struct Doorbell {
    write: Write,
    eventfd: OwnedFd,
}

/// A device's doorbells.
#[derive(Debug, Default)]
pub(super) struct Doorbells {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    list: Mutex<List>,
    /// Signalled when the list has changed. Nobody else has it and it is not blocking, so that never waits.
    changed: OwnedFd,
}

#[derive(Debug, Default)]
struct List {
    doorbells: Vec<Arc<Doorbell>>,
    /// The thread is to end.
    over: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Doorbells {
    /// Forgets all of them, and ends the thread: nothing is written any more on return.
    pub(super) fn clear(&mut self) {
        if let Some(shared) = self.shared.take() {
            let mut list = shared.lock();
            list.doorbells.clear();
            list.over = true;
            drop(list);
            signal_eventfd(&shared.changed);
        }
    }

    /// Where the one for a write stands, and how many there are. Only who has all of this locked changes the list.
    fn find(&self, write: Write) -> (Option<(Arc<Shared>, usize)>, usize) {
        let Some(shared) = &self.shared else {
            return (None, 0);
        };
        let list = shared.lock();
        let at = list.doorbells.iter().position(|doorbell| doorbell.write == write);
        (at.map(|at| (Arc::clone(shared), at)), list.doorbells.len())
    }

    /// The list, with a thread that serves it.
    fn started(&mut self, device: &Arc<dyn Backend>) -> Outcome<Arc<Shared>> {
        if let Some(shared) = &self.shared {
            return Ok(Arc::clone(shared));
        }
        let failed =
            |why: std::io::Error| Refusal::new(Errno::NOMEM, format!("no thread for ioeventfds: {why}"));
        let changed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let shared = Arc::new(Shared {
            list: Mutex::default(),
            changed,
        });
        let (served, device) = (Arc::clone(&shared), Arc::clone(device));
        std::thread::Builder::new()
            .name("ioeventfd".to_owned())
            .spawn(move || serve(&served, &*device))
            .map_err(failed)?;
        self.shared = Some(Arc::clone(&shared));
        Ok(shared)
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Waits for eventfds and writes, until it is over.
fn serve(shared: &Shared, device: &dyn Backend) {
    loop {
        let doorbells = {
            let list = shared.lock();
            if list.over {
                return;
            }
            list.doorbells.clone()
        };
        let mut ready: Vec<PollFd<'_>> = Vec::with_capacity(doorbells.len() + 1);
        ready.push(PollFd::new(&shared.changed, PollFlags::IN));
        ready.extend(
            doorbells
                .iter()
                .map(|doorbell| PollFd::new(&doorbell.eventfd, PollFlags::IN)),
        );
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                tracing::error!(target: "uapi", %errno, "ioeventfds are no longer served");
                return;
            }
        }
        take(&shared.changed);
        let rung = ready.iter().skip(1).zip(&doorbells);
        for (_, doorbell) in rung.filter(|(ready, _)| ready.revents().contains(PollFlags::IN)) {
            // Under the lock: one that has been taken away writes no more.
            let list = shared.lock();
            if list.doorbells.iter().any(|other| Arc::ptr_eq(other, doorbell)) && take(&doorbell.eventfd) {
                let Write {
                    bar,
                    offset,
                    value,
                    bytes,
                } = doorbell.write;
                let data = value.to_le_bytes();
                let _ = device.write(bar, offset, data.get(..bytes).unwrap_or_default());
            }
        }
    }
}

/// Empties an eventfd without waiting, whatever its user does; says whether anything was in it.
fn take(file: &OwnedFd) -> bool {
    let mut count = [0; 8];
    let mut into = [IoSliceMut::new(&mut count)];
    // Offset -1: an eventfd has none.
    rustix::io::preadv2(file, &mut into, u64::MAX, ReadWriteFlags::NOWAIT).is_ok()
}

impl Device {
    /// VFIO_DEVICE_IOEVENTFD.
    pub(super) fn ioeventfd(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let least = field!(vfio_device_ioeventfd.reserved);
        let argument = Argument::new(caller, address, least)?;
        let flags = argument.u32(field!(vfio_device_ioeventfd.flags));
        let number = argument.descriptor(field!(vfio_device_ioeventfd.fd));
        // The flags are the width.
        if flags & !sys::VFIO_DEVICE_IOEVENTFD_SIZE_MASK != 0 || flags.count_ones() != 1 {
            return Err(Refusal::invalid(format!(
                "flags {flags:#x} are not one width of 1, 2, 4 or 8 bytes"
            )));
        }
        if number < -1 {
            return Err(Refusal::invalid(format!(
                "descriptor {number} is neither one nor -1"
            )));
        }
        let (bar, offset) = split(argument.u64(field!(vfio_device_ioeventfd.offset)));
        let write = Write {
            bar,
            offset,
            value: argument.u64(field!(vfio_device_ioeventfd.data)),
            bytes: flags as usize,
        };
        self.check_doorbell(write)?;
        let mut doorbells = self.doorbells();
        let (there, count) = doorbells.find(write);
        let shared = match there {
            Some((shared, at)) if number == -1 => {
                shared.lock().doorbells.remove(at);
                shared
            }
            Some(_) => {
                return Err(Refusal::new(
                    Errno::EXIST,
                    "there is an ioeventfd for that write already",
                ));
            }
            None if number == -1 => {
                return Err(Refusal::new(Errno::NODEV, "there is no ioeventfd for that write"));
            }
            None if count >= MOST => {
                return Err(Refusal::new(
                    Errno::NOSPC,
                    format!("the device has {MOST} ioeventfds, the most that there may be"),
                ));
            }
            None => {
                let eventfd = descriptor::eventfd(caller, number)?;
                let shared = doorbells.started(&self.device)?;
                let doorbell = Arc::new(Doorbell { write, eventfd });
                shared.lock().doorbells.push(doorbell);
                shared
            }
        };
        signal_eventfd(&shared.changed);
        Ok(())
    }

    fn check_doorbell(&self, write: Write) -> Outcome<()> {
        let Write {
            bar, offset, bytes, ..
        } = write;
        if bar >= region_index::ROM {
            return Err(Refusal::invalid(format!("region {bar} is not a BAR")));
        }
        let have = self.region_bytes(bar).unwrap_or(0);
        // Offsets have 40 bits.
        let end = offset + bytes as u64;
        if end > have {
            return Err(Refusal::invalid(format!(
                "{bytes} bytes at {offset:#x} lie outside the {have:#x} bytes of BAR {bar}"
            )));
        }
        let layout = self.device.layout();
        if let Some(span) = layout.window_span(Window::MsixTable) {
            let start = u64::from(span.offset);
            let past = start + u64::from(layout.window_bytes(Window::MsixTable));
            if u32::from(span.bar) == bar && end > start && offset < past {
                return Err(Refusal::invalid("the MSI-X table can't be written by eventfd"));
            }
        }
        Ok(())
    }
}
