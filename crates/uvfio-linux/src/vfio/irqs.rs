//! A device's interrupts: which there are, and where they go (`VFIO_DEVICE_SET_IRQS`).

use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::argument::Argument;
use super::device::DeviceFile;
use super::error::{Asked, Result, VfioError};
use super::info::IrqInfo;
use super::request;
use super::rule::Rule;

/// A kind of interrupt of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    /// The pin, level triggered: the kernel masks it when it signals it, until it is unmasked.
    Intx,
    /// Messages, 1 to 32.
    Msi,
    /// Messages by a table, 1 to 2048.
    Msix,
    /// The function has reported an error (AER); a reset is the only remedy.
    Error,
    /// Somebody wants the function back (unbind, removal): let go of it.
    Request,
}

impl Irq {
    fn index(self) -> u32 {
        match self {
            Self::Intx => sys::VFIO_PCI_INTX_IRQ_INDEX,
            Self::Msi => sys::VFIO_PCI_MSI_IRQ_INDEX,
            Self::Msix => sys::VFIO_PCI_MSIX_IRQ_INDEX,
            Self::Error => sys::VFIO_PCI_ERR_IRQ_INDEX,
            Self::Request => sys::VFIO_PCI_REQ_IRQ_INDEX,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Intx => "INTx",
            Self::Msi => "MSI",
            Self::Msix => "MSI-X",
            Self::Error => "the error interrupt",
            Self::Request => "the release request",
        }
    }
}

/// What is done to vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Mask,
    Unmask,
    Trigger,
}

impl Action {
    fn flag(self) -> u32 {
        match self {
            Self::Mask => sys::VFIO_IRQ_SET_ACTION_MASK,
            Self::Unmask => sys::VFIO_IRQ_SET_ACTION_UNMASK,
            Self::Trigger => sys::VFIO_IRQ_SET_ACTION_TRIGGER,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mask => "mask",
            Self::Unmask => "unmask",
            Self::Trigger => "trigger",
        }
    }
}

/// What goes with each vector.
enum Data<'a> {
    None,
    Chosen(&'a [bool]),
    Eventfds(&'a [Option<BorrowedFd<'a>>]),
}

impl Data<'_> {
    fn flag(&self) -> u32 {
        match self {
            Self::None => sys::VFIO_IRQ_SET_DATA_NONE,
            Self::Chosen(_) => sys::VFIO_IRQ_SET_DATA_BOOL,
            Self::Eventfds(_) => sys::VFIO_IRQ_SET_DATA_EVENTFD,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Chosen(vectors) => vectors.iter().map(|chosen| u8::from(*chosen)).collect(),
            Self::Eventfds(files) => {
                // -1 takes an eventfd away.
                let number = |file: &Option<BorrowedFd<'_>>| file.map_or(-1, |file| file.as_raw_fd());
                files.iter().flat_map(|file| number(file).to_ne_bytes()).collect()
            }
        }
    }
}

/// The argument as vfio.h lays it out.
fn argument(irq: Irq, action: Action, vectors: &Range<u32>, data: &Data<'_>) -> Argument {
    Argument::with_data::<sys::vfio_irq_set>(&data.bytes())
        .set_u32(offset_of!(sys::vfio_irq_set, flags), action.flag() | data.flag())
        .set_u32(offset_of!(sys::vfio_irq_set, index), irq.index())
        .set_u32(offset_of!(sys::vfio_irq_set, start), vectors.start)
        .set_u32(
            offset_of!(sys::vfio_irq_set, count),
            vectors.end.saturating_sub(vectors.start),
        )
}

impl DeviceFile {
    /// How many vectors an interrupt has, and what they can do.
    pub fn irq(&self, irq: Irq) -> Result<IrqInfo> {
        let mut argument =
            Argument::of::<sys::vfio_irq_info>().set_u32(offset_of!(sys::vfio_irq_info, index), irq.index());
        match self.send(request::DEVICE_GET_IRQ_INFO, &mut argument) {
            Ok(_) => Ok(IrqInfo::parse(argument.bytes())),
            Err(errno) => {
                let rule = if errno == Errno::INVAL {
                    Rule::Unsupported
                } else {
                    Rule::Other
                };
                let about = format!("{} of {}", irq.name(), self.name());
                Err(Asked::new(request::DEVICE_GET_IRQ_INFO.name, about).refused(rule, errno))
            }
        }
    }

    /// How many vectors an interrupt has, 0 where the function has no such interrupt.
    pub fn irq_count(&self, irq: Irq) -> Result<u32> {
        match self.irq(irq) {
            Ok(info) => Ok(info.count),
            Err(error) if error.errno() == Some(Errno::INVAL) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Has vectors from `first` on signal eventfds, one each; `None` takes a vector's eventfd away and keeps the
    /// vector.
    ///
    /// The first call for an interrupt enables `first` plus as many vectors; where the kernel cannot have so many,
    /// [`VfioError::FewerVectors`] says how many it can, and none are enabled. Later calls change eventfds of enabled
    /// vectors, and, where [`IrqInfo::resizable`] says so, add vectors.
    pub fn set_eventfds(&self, irq: Irq, first: u32, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<()> {
        let end = u32::try_from(eventfds.len())
            .ok()
            .and_then(|count| first.checked_add(count));
        let Some(end) = end.filter(|end| *end > first) else {
            return Err(self
                .asked_irq(irq, Action::Trigger, &(first..first))
                .invalid("no vectors are named"));
        };
        self.set_irqs(irq, Action::Trigger, first..end, &Data::Eventfds(eventfds))
    }

    /// Disables an interrupt, with all its vectors.
    pub fn disable(&self, irq: Irq) -> Result<()> {
        self.set_irqs(irq, Action::Trigger, 0..0, &Data::None)
    }

    /// Signals the eventfds of vectors as if the device had raised them: a test of everything behind the device.
    pub fn trigger(&self, irq: Irq, vectors: Range<u32>) -> Result<()> {
        self.set_irqs(irq, Action::Trigger, vectors, &Data::None)
    }

    /// As [`trigger`](Self::trigger), for those of the vectors from `first` on that are chosen.
    pub fn trigger_chosen(&self, irq: Irq, first: u32, chosen: &[bool]) -> Result<()> {
        let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        self.set_irqs(
            irq,
            Action::Trigger,
            first..first.saturating_add(count),
            &Data::Chosen(chosen),
        )
    }

    /// Masks INTx: the kernel keeps the pin from the processor, and remembers nothing.
    pub fn mask_intx(&self) -> Result<()> {
        self.set_irqs(Irq::Intx, Action::Mask, 0..1, &Data::None)
    }

    /// Unmasks INTx; where the pin is still asserted, it is signalled again at once.
    pub fn unmask_intx(&self) -> Result<()> {
        self.set_irqs(Irq::Intx, Action::Unmask, 0..1, &Data::None)
    }

    /// Has the kernel unmask INTx whenever `eventfd` is signalled, which it then reads. `None` ends that.
    pub fn unmask_intx_by(&self, eventfd: Option<BorrowedFd<'_>>) -> Result<()> {
        self.set_irqs(Irq::Intx, Action::Unmask, 0..1, &Data::Eventfds(&[eventfd]))
    }

    fn asked_irq(&self, irq: Irq, action: Action, vectors: &Range<u32>) -> Asked {
        let (action, irq, device) = (action.name(), irq.name(), self.name());
        let about = format!("{action} of {irq}, vectors {vectors:?}, of {device}");
        Asked::new(request::DEVICE_SET_IRQS.name, about)
    }

    fn set_irqs(&self, irq: Irq, action: Action, vectors: Range<u32>, data: &Data<'_>) -> Result<()> {
        let asked = || self.asked_irq(irq, action, &vectors);
        let mut argument = argument(irq, action, &vectors, data);
        match self.send(request::DEVICE_SET_IRQS, &mut argument) {
            Ok(0) => Ok(()),
            Ok(available) => Err(VfioError::FewerVectors {
                asked: asked(),
                wanted: vectors.end,
                available: available.cast_unsigned(),
            }),
            Err(errno) => {
                let rule = match errno {
                    Errno::INVAL => self.why_not_set(irq, &vectors),
                    Errno::NOTTY => Rule::Unsupported,
                    Errno::BUSY => Rule::InterruptOrder,
                    Errno::BADF => Rule::WrongKind,
                    _ => Rule::Other,
                };
                Err(asked().refused(rule, errno))
            }
        }
    }

    /// What the kernel's EINVAL meant.
    fn why_not_set(&self, irq: Irq, vectors: &Range<u32>) -> Rule {
        match self.irq(irq) {
            Ok(info) if vectors.end > info.count || info.count == 0 => Rule::Vectors { count: info.count },
            Ok(info) if vectors.start > 0 && !info.resizable => Rule::NoResize,
            Ok(_) => Rule::InterruptOrder,
            Err(_) => Rule::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::vfio::argument::u32_at;

    /// The words of an argument, as vfio.h draws them by hand: argsz, flags, index, start, count, data.
    fn words(mut argument: Argument) -> Vec<u32> {
        let bytes = argument.sealed().to_vec();
        (0..bytes.len()).step_by(4).map(|at| u32_at(&bytes, at)).collect()
    }

    #[test]
    fn eventfds_are_sent_as_32_bit_numbers_with_minus_one_for_none() {
        let file = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let number = file.as_raw_fd().cast_unsigned();
        let data = Data::Eventfds(&[Some(file.as_fd()), None]);
        let got = words(argument(Irq::Msix, Action::Trigger, &(3..5), &data));
        assert_eq!(got, [28, 0x24, 2, 3, 2, number, u32::MAX]);
    }

    #[test]
    fn requests_without_data_end_after_the_count() {
        let none = |irq, action, vectors| words(argument(irq, action, &vectors, &Data::None));
        assert_eq!(none(Irq::Msi, Action::Trigger, 0..0), [20, 0x21, 1, 0, 0]);
        assert_eq!(none(Irq::Intx, Action::Mask, 0..1), [20, 0x09, 0, 0, 1]);
        assert_eq!(none(Irq::Intx, Action::Unmask, 0..1), [20, 0x11, 0, 0, 1]);
        assert_eq!(none(Irq::Request, Action::Trigger, 0..1), [20, 0x21, 4, 0, 1]);
    }

    #[test]
    fn chosen_vectors_are_sent_as_one_byte_each() {
        let chosen = [true, false, false, true];
        let got = words(argument(
            Irq::Error,
            Action::Trigger,
            &(0..4),
            &Data::Chosen(&chosen),
        ));
        assert_eq!(got, [24, 0x22, 3, 0, 4, u32::from_le_bytes([1, 0, 0, 1])]);
    }
}
