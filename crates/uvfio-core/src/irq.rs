//! Interrupts: from the model's decision to the user's eventfd.
//!
//! ```text
//! device thread -> Lines::signal -> model -> eventfd written at once, no lock held
//! socket thread -> Lines::signal -> model -> Queue -> delivery thread -> eventfd
//! SET_IRQS      -> request (what it may ask) -> model and eventfds, all or nothing
//! hardware      -> kernel -> eventfd, where the model says that the vector is open (routes)
//! ```

/// What the latch is made of.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}
mod delivery;
mod eventfd;
mod latch;
#[cfg(test)]
mod latch_tests;
mod lines;
mod request;
mod routes;

use std::os::fd::OwnedFd;

pub(crate) use eventfd::EventFd;
pub use lines::Lines;
pub use routes::{IntxRoute, Routes, UserEventfd};
use uvfio_pci::Interrupt;

/// VFIO's interrupt indices of a PCI device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum IrqIndex {
    /// INTx.
    Intx = 0,
    /// MSI.
    Msi = 1,
    /// MSI-X.
    MsiX = 2,
    /// An error was detected (AER).
    Err = 3,
    /// The device is wanted back.
    Req = 4,
}

impl IrqIndex {
    /// How many indices there are.
    pub const COUNT: u32 = 5;

    /// The index of a number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Intx),
            1 => Some(Self::Msi),
            2 => Some(Self::MsiX),
            3 => Some(Self::Err),
            4 => Some(Self::Req),
            _ => None,
        }
    }

    /// The kind of interrupt that the model knows by this index; none for ERR and REQ, which are VFIO's own.
    pub(crate) const fn interrupt(self) -> Option<Interrupt> {
        match self {
            Self::Intx => Some(Interrupt::Intx),
            Self::Msi => Some(Interrupt::Msi),
            Self::MsiX => Some(Interrupt::MsiX),
            Self::Err | Self::Req => None,
        }
    }
}

impl From<Interrupt> for IrqIndex {
    fn from(kind: Interrupt) -> Self {
        match kind {
            Interrupt::Intx => Self::Intx,
            Interrupt::Msi => Self::Msi,
            Interrupt::MsiX => Self::MsiX,
        }
    }
}

/// What GET_IRQ_INFO tells of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqInfo {
    /// How many interrupts there are; 0 where the function has none of this kind.
    pub count: u32,
    /// Signalled by eventfd.
    pub eventfd: bool,
    /// Can be masked by SET_IRQS.
    pub maskable: bool,
    /// Masked by itself on delivery.
    pub automasked: bool,
    /// Vectors can't be added while enabled.
    pub noresize: bool,
}

/// What SET_IRQS asks for vectors `start .. start + count`.
#[derive(Debug)]
pub struct SetIrqs {
    /// Which index.
    pub index: u32,
    /// First vector.
    pub start: u32,
    /// How many.
    pub count: u32,
    /// The action.
    pub action: IrqAction,
    /// The data.
    pub data: IrqData,
}

/// SET_IRQS' action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqAction {
    /// Mask.
    Mask,
    /// Unmask (with eventfds: by these, from now on).
    Unmask,
    /// Trigger (with eventfds: deliver by these, from now on).
    Trigger,
}

/// SET_IRQS' data.
#[derive(Debug)]
pub enum IrqData {
    /// The action is done for every vector now; trigger with count 0 disables the index.
    None,
    /// The action is done for vectors whose byte is not 0.
    Bool(Vec<u8>),
    /// Eventfds, one a vector; `None` takes one away. May be shorter than `count`: the rest is taken as `None`
    /// (vfio-user's clients send DATA_EVENTFD with no descriptors to enable an index without any).
    EventFd(Vec<Option<OwnedFd>>),
}

/// Why SET_IRQS was refused; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    /// No such index.
    #[error("SET_IRQS: there is no interrupt index {0}; a PCI function has 0 (INTx) to 4 (REQ)")]
    NoSuchIndex(u32),
    /// Vectors out of range.
    #[error("SET_IRQS: vectors {start}..{start}+{count} lie outside the {have} of index {index}")]
    OutOfRange {
        /// Which index.
        index: u32,
        /// First asked.
        start: u32,
        /// How many asked.
        count: u32,
        /// How many there are.
        have: u32,
    },
    /// This index can't do that.
    #[error("SET_IRQS: index {0} can't be masked or unmasked by request; use its mask bits")]
    NotMaskable(u32),
    /// Not an eventfd.
    #[error("SET_IRQS: descriptor {0} of the message is not an eventfd")]
    NotAnEventFd(usize),
    /// INTx can be unmasked by eventfd, not masked.
    #[error("SET_IRQS: INTx can't be masked by an eventfd; mask it by request, and unmask it by eventfd")]
    MaskByEventFd,
    /// The index is not enabled.
    #[error("SET_IRQS: index {0} has no eventfd yet, so there is nothing to mask, unmask or trigger")]
    NotEnabled(u32),
    /// Another kind of interrupt is in use.
    #[error("SET_IRQS: index {wanted} can't be enabled while index {in_use} is; disable that first")]
    OtherInUse {
        /// Asked for.
        wanted: u32,
        /// In use.
        in_use: u32,
    },
}
