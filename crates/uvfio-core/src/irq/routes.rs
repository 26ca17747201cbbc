//! Where the interrupts of a device that exists go, as the model has it at this moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use uvfio_pci::{InterruptMode, Layout, State};

use super::IrqIndex;
use super::eventfd::EventFd;
use super::lines::Targets;

/// An eventfd of the user's, for the kernel to signal: known to be one. It is closed when the last copy is dropped.
#[derive(Clone, Debug)]
pub struct UserEventfd(Arc<OwnedFd>);

impl UserEventfd {
    fn of(target: &Arc<EventFd>) -> Self {
        Self(target.file().clone())
    }
}

/// The same attachment, not merely the same number.
impl PartialEq for UserEventfd {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for UserEventfd {}

impl AsFd for UserEventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Where interrupts go. A vector is *open* if what the device sends by it is to be delivered at once: its kind is
/// enabled, nothing masks it, an eventfd is attached, bus master is on, the function is in D0 and not being reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// The kind of interrupts that is enabled.
    pub mode: InterruptMode,
    /// By message, MSI's or MSI-X's by the mode: the user's eventfd where the vector is open. Empty for INTx.
    pub vectors: Vec<Option<UserEventfd>>,
    /// INTx, where the mode is that and an eventfd is attached.
    pub intx: Option<IntxRoute>,
}

/// Where INTx goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntxRoute {
    /// The user's eventfd.
    pub eventfd: UserEventfd,
    /// Whether it may be signalled: COMMAND's INTx disable is off, the function is in D0 and not being reset. What
    /// masks the line beside that (itself, once it is signalled, and SET_IRQS) is not in here.
    pub open: bool,
    /// The user's eventfd by which it unmasks the line.
    pub unmask: Option<UserEventfd>,
}

impl Routes {
    pub(super) fn new(layout: &Layout, state: &State, targets: &Targets) -> Self {
        let mode = state.interrupt_mode(layout);
        let eventfd = |index, vector| targets.get(index, vector).map(UserEventfd::of);
        let vectors = |index, count| {
            let open = |vector| {
                state
                    .open(layout, vector)
                    .then(|| eventfd(index, vector))
                    .flatten()
            };
            (0..count).map(open).collect()
        };
        Self {
            mode,
            vectors: match mode {
                InterruptMode::Intx => Vec::new(),
                InterruptMode::Msi(count) => vectors(IrqIndex::Msi, count),
                InterruptMode::MsiX(count) => vectors(IrqIndex::MsiX, count),
            },
            intx: (mode == InterruptMode::Intx)
                .then(|| eventfd(IrqIndex::Intx, 0))
                .flatten()
                .map(|eventfd| IntxRoute {
                    eventfd,
                    open: state.open(layout, 0),
                    unmask: targets.unmask.as_ref().map(UserEventfd::of),
                }),
        }
    }
}
