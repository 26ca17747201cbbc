//! VFIO_DEVICE_SET_IRQS: the kernel's rules, in its order, before the virtual device is asked.
//!
//! ```text
//! the structure  argsz, index, count and start, flags, exactly one kind of data, room for it   EINVAL
//! its data       copied in                                                                     EFAULT
//! the action     one that the index has                                                        ENOTTY
//! the index      which kind is in use, which vectors it has                                    EINVAL
//! descriptors    there, and eventfds                                                           EBADF, EINVAL
//! ```

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use uvfio_core::{IrqAction, IrqData, IrqIndex, SetIrqs};
use vfio_bindings::bindings::vfio as sys;

use super::Device;
use crate::argument::{Argument, field};
use crate::refusal::{Outcome, Refusal};
use crate::{Caller, descriptor};

/// What requests have enabled.
#[derive(Debug, Default)]
pub(super) struct Irqs {
    /// INTx, MSI or MSI-X.
    in_use: Option<IrqIndex>,
    /// How many vectors were asked for when it was enabled; more of MSI can't be had.
    allocated: u32,
    /// INTx is unmasked by an eventfd.
    resample: bool,
    /// ERR has an eventfd.
    err: bool,
    /// REQ has one.
    req: bool,
}

/// A request whose structure breaks no rule.
struct Request {
    index: IrqIndex,
    start: u32,
    count: u32,
    action: Option<IrqAction>,
    data: Data,
}

enum Data {
    None,
    Bool(Vec<u8>),
    /// Numbers of descriptors.
    EventFd(Vec<i32>),
}

impl Device {
    /// VFIO_DEVICE_SET_IRQS.
    pub(super) fn set_irqs(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let request = self.irq_request(address, caller)?;
        let index = request.index;
        let unsupported = || {
            Refusal::new(
                Errno::NOTTY,
                format!("interrupt index {} does not have that action", index as u32),
            )
        };
        let action = request.action.ok_or_else(unsupported)?;
        let mut irqs = self.irqs();
        match index {
            IrqIndex::Intx => self.set_intx(&mut irqs, &request, action, caller),
            _ if action != IrqAction::Trigger => Err(unsupported()),
            IrqIndex::Msi | IrqIndex::MsiX => self.set_messages(&mut irqs, &request, caller),
            IrqIndex::Err => self.set_notice(&mut irqs.err, &request, caller),
            IrqIndex::Req => {
                let set = self.set_notice(&mut irqs.req, &request, caller);
                self.removal.hears.store(irqs.req, Ordering::SeqCst);
                set
            }
        }
    }

    /// The request, if its structure and its data are right.
    fn irq_request(&self, address: u64, caller: &dyn Caller) -> Outcome<Request> {
        let least = field!(vfio_irq_set.data);
        let mut argument = Argument::new(caller, address, least)?;
        let number = argument.u32(field!(vfio_irq_set.index));
        let start = argument.u32(field!(vfio_irq_set.start));
        let count = argument.u32(field!(vfio_irq_set.count));
        let flags = argument.u32(field!(vfio_irq_set.flags));
        let have = self.vectors(number);
        let index = IrqIndex::from_number(number).ok_or_else(|| {
            Refusal::invalid(format!(
                "there is no interrupt index {number}; a PCI function has 0 (INTx) to 4 (REQ)"
            ))
        })?;
        let known = sys::VFIO_IRQ_SET_DATA_TYPE_MASK | sys::VFIO_IRQ_SET_ACTION_TYPE_MASK;
        if flags & !known != 0 {
            return Err(Refusal::invalid(format!(
                "flags {:#x} are not known",
                flags & !known
            )));
        }
        if start >= have || start.checked_add(count).is_none_or(|end| end > have) {
            return Err(Refusal::invalid(format!(
                "vectors {start}..{start}+{count} lie outside the {have} of index {number}"
            )));
        }
        let each = match flags & sys::VFIO_IRQ_SET_DATA_TYPE_MASK {
            sys::VFIO_IRQ_SET_DATA_NONE => 0,
            sys::VFIO_IRQ_SET_DATA_BOOL => 1,
            sys::VFIO_IRQ_SET_DATA_EVENTFD => size_of::<i32>(),
            kinds => {
                return Err(Refusal::invalid(format!(
                    "flags {kinds:#x} are not one of DATA_NONE, DATA_BOOL and DATA_EVENTFD"
                )));
            }
        };
        // `count` is at most what the index has: some thousands.
        let bytes = count as usize * each;
        if argument.argsz() - least < bytes {
            return Err(Refusal::invalid(format!(
                "argsz leaves {} bytes for the data of {count} vectors, which takes {bytes}",
                argument.argsz() - least
            )));
        }
        argument.extend(least, bytes)?;
        let given = argument.bytes(least..least + bytes);
        let data = match each {
            0 => Data::None,
            1 => Data::Bool(given.to_vec()),
            _ => Data::EventFd(given.chunks_exact(each).map(number_of).collect()),
        };
        let action = match flags & sys::VFIO_IRQ_SET_ACTION_TYPE_MASK {
            sys::VFIO_IRQ_SET_ACTION_MASK => Some(IrqAction::Mask),
            sys::VFIO_IRQ_SET_ACTION_UNMASK => Some(IrqAction::Unmask),
            sys::VFIO_IRQ_SET_ACTION_TRIGGER => Some(IrqAction::Trigger),
            _ => None,
        };
        Ok(Request {
            index,
            start,
            count,
            action,
            data,
        })
    }

    fn set_intx(
        &self,
        irqs: &mut Irqs,
        request: &Request,
        action: IrqAction,
        caller: &dyn Caller,
    ) -> Outcome<()> {
        let enabled = irqs.in_use == Some(IrqIndex::Intx);
        let disables =
            action == IrqAction::Trigger && matches!(request.data, Data::None) && request.count == 0;
        if enabled && disables {
            self.ask(request.asking(action, IrqData::None))?;
            irqs.disable();
            return Ok(());
        }
        if request.count != 1 {
            return Err(Refusal::invalid(format!(
                "INTx is one interrupt, and {} were asked for{}",
                request.count,
                if disables { " (it is not enabled)" } else { "" }
            )));
        }
        let enables = action == IrqAction::Trigger && matches!(request.data, Data::EventFd(_));
        if !(enabled || enables && irqs.in_use.is_none()) {
            return Err(irqs.not(IrqIndex::Intx));
        }
        match (&request.data, action) {
            (Data::EventFd(_), IrqAction::Mask) => {
                return Err(Refusal::new(
                    Errno::NOTTY,
                    "INTx can't be masked by an eventfd; mask it by request",
                ));
            }
            (Data::EventFd(numbers), IrqAction::Unmask) => {
                let eventfds = eventfds(caller, numbers)?;
                let attach = eventfds.iter().any(Option::is_some);
                if attach && irqs.resample {
                    return Err(Refusal::new(
                        Errno::BUSY,
                        "an eventfd unmasks INTx already; take it away by -1 first",
                    ));
                }
                self.ask(request.asking(action, IrqData::EventFd(eventfds)))?;
                irqs.resample = attach;
            }
            (Data::EventFd(numbers), IrqAction::Trigger) => {
                self.ask(request.asking(action, IrqData::EventFd(eventfds(caller, numbers)?)))?;
                irqs.in_use = Some(IrqIndex::Intx);
            }
            _ => self.ask(request.asking(action, request.plain()))?,
        }
        Ok(())
    }

    fn set_messages(&self, irqs: &mut Irqs, request: &Request, caller: &dyn Caller) -> Outcome<()> {
        let index = request.index;
        let enabled = irqs.in_use == Some(index);
        match &request.data {
            Data::None if request.count == 0 => {
                if !enabled {
                    return Err(irqs.not(index));
                }
                self.ask(request.asking(IrqAction::Trigger, IrqData::None))?;
                irqs.disable();
            }
            Data::EventFd(numbers) => {
                let end = request.start + request.count;
                if !enabled && irqs.in_use.is_some() {
                    return Err(irqs.not(index));
                }
                if end == 0 && !enabled {
                    return Err(Refusal::new(
                        Errno::RANGE,
                        "no vector is asked for, so there is nothing to enable",
                    ));
                }
                // Of MSI there are as many as when it was enabled; of MSI-X there may be more at any time.
                let room = if enabled && index == IrqIndex::Msi {
                    irqs.allocated
                } else {
                    end
                };
                // Vectors beyond them may be named where nothing is to be attached to them.
                if (request.start..)
                    .zip(numbers)
                    .any(|(vector, number)| *number >= 0 && vector >= room)
                {
                    return Err(Refusal::invalid(format!(
                        "MSI was enabled with {room} vectors; disable it to have more"
                    )));
                }
                let eventfds = eventfds(caller, numbers)?;
                self.ask(if enabled || request.count > 0 {
                    request.within(room, eventfds)
                } else {
                    request.without_eventfds(end)
                })?;
                irqs.in_use = Some(index);
                irqs.allocated = irqs.allocated.max(room);
            }
            _ if !enabled => return Err(irqs.not(index)),
            _ => self.ask(request.asking(IrqAction::Trigger, request.plain()))?,
        }
        Ok(())
    }

    /// ERR and REQ; `is_set` says whether there is an eventfd.
    fn set_notice(&self, is_set: &mut bool, request: &Request, caller: &dyn Caller) -> Outcome<()> {
        let nothing = |what| Refusal::invalid(format!("there is no {what}"));
        match &request.data {
            Data::EventFd(_) | Data::Bool(_) if request.count == 0 => {
                return Err(nothing("vector to act on"));
            }
            Data::EventFd(numbers) => {
                // -1 takes the eventfd away; other negative numbers say nothing.
                if numbers.iter().any(|number| *number < -1) {
                    return Ok(());
                }
                let eventfds = eventfds(caller, numbers)?;
                let attach = eventfds.iter().any(Option::is_some);
                self.ask(request.asking(IrqAction::Trigger, IrqData::EventFd(eventfds)))?;
                *is_set = attach;
            }
            Data::Bool(_) if !*is_set => {}
            Data::None if !*is_set => return Err(nothing("eventfd to signal or take away")),
            _ => {
                self.ask(request.asking(IrqAction::Trigger, request.plain()))?;
                *is_set &= request.count > 0;
            }
        }
        Ok(())
    }

    fn ask(&self, request: SetIrqs) -> Outcome<()> {
        self.device.set_irqs(request)
    }
}

impl Request {
    fn asking(&self, action: IrqAction, data: IrqData) -> SetIrqs {
        SetIrqs {
            index: self.index as u32,
            start: self.start,
            count: self.count,
            action,
            data,
        }
    }

    /// The part of an eventfd request that lies within `have` vectors: what lies beyond names no eventfd.
    fn within(&self, have: u32, mut eventfds: Vec<Option<OwnedFd>>) -> SetIrqs {
        let count = self.count.min(have.saturating_sub(self.start));
        eventfds.truncate(count as usize);
        SetIrqs {
            count,
            // A start beyond them all, with nothing to attach.
            start: if count == 0 { 0 } else { self.start },
            ..self.asking(IrqAction::Trigger, IrqData::EventFd(eventfds))
        }
    }

    /// Vectors 0 to `count`, with nothing attached.
    fn without_eventfds(&self, count: u32) -> SetIrqs {
        SetIrqs {
            start: 0,
            count,
            ..self.asking(IrqAction::Trigger, IrqData::EventFd(Vec::new()))
        }
    }

    /// Its data, if they are no eventfds.
    fn plain(&self) -> IrqData {
        match &self.data {
            Data::Bool(flags) => IrqData::Bool(flags.clone()),
            Data::None | Data::EventFd(_) => IrqData::None,
        }
    }
}

impl Irqs {
    /// INTx, MSI or MSI-X is disabled.
    fn disable(&mut self) {
        self.in_use = None;
        self.allocated = 0;
        self.resample = false;
    }

    /// `index` is not the one in use.
    fn not(&self, index: IrqIndex) -> Refusal {
        let wanted = index as u32;
        Refusal::invalid(match self.in_use {
            Some(other) => {
                format!(
                    "interrupt index {} is enabled, not {wanted}; one at a time",
                    other as u32
                )
            }
            None => format!("interrupt index {wanted} is not enabled"),
        })
    }
}

fn number_of(bytes: &[u8]) -> i32 {
    i32::from_ne_bytes(bytes.first_chunk().copied().unwrap_or([0xff; 4]))
}

/// Eventfds by their numbers; a negative one is none.
fn eventfds(caller: &dyn Caller, numbers: &[i32]) -> Outcome<Vec<Option<OwnedFd>>> {
    let one = |&number: &i32| match number {
        ..0 => Ok(None),
        _ => descriptor::eventfd(caller, number).map(Some),
    };
    numbers.iter().map(one).collect()
}
