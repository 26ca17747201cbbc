//! SET_IRQS: what it may ask, by the rules of Linux's VFIO, and what it does. Everything is checked before anything
//! is changed.
//!
//! | index | trigger | mask, unmask |
//! |---|---|---|
//! | INTx | eventfd: enable or exchange; nothing, count 0: disable; else deliver now | now; unmask also by eventfd |
//! | MSI, MSI-X | eventfds: enable, more vectors, exchange; nothing, count 0: disable; else deliver now | never |
//! | ERR, REQ | eventfd: set; nothing, count 0: clear; else signal now | never |
//!
//! One of INTx, MSI and MSI-X at a time. vfio-user's clients may send eventfd data without descriptors: enabled, with
//! nobody to be told yet.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use uvfio_pci::{Effects, Input, InterruptMode, Layout};

use super::delivery::Queue;
use super::eventfd::{EventFd, Inspector};
use super::lines::{Model, Targets};
use super::{IrqAction, IrqData, IrqError, IrqIndex, SetIrqs};
use crate::close_elsewhere;

/// A request that breaks no rule.
#[derive(Debug)]
pub(super) enum Change {
    /// Eventfds for vectors from `start`; `None` takes one away.
    Attach {
        index: IrqIndex,
        start: u16,
        eventfds: Vec<Option<Arc<EventFd>>>,
    },
    /// The eventfd that unmasks INTx.
    UnmaskBy(Option<Arc<EventFd>>),
    /// An index is disabled.
    Disable(IrqIndex),
    /// INTx is masked or unmasked.
    Mask(bool),
    /// Vectors are delivered now.
    Loopback { index: IrqIndex, vectors: Vec<u32> },
    /// Nothing.
    None,
}

/// A request whose descriptors have been looked at.
#[derive(Debug)]
pub(super) struct Inspected {
    index: u32,
    start: u32,
    count: u32,
    action: IrqAction,
    data: Data,
}

/// As [`IrqData`], with eventfds that are eventfds.
#[derive(Debug)]
enum Data {
    None,
    Bool(Vec<u8>),
    EventFd(Result<Vec<Option<Arc<EventFd>>>, IrqError>),
}

impl Inspected {
    /// Looks at a request's descriptors; those that aren't eventfds are closed, without waiting.
    pub(super) fn new(request: SetIrqs, inspector: &Inspector) -> Self {
        let SetIrqs {
            index,
            start,
            count,
            action,
            data,
        } = request;
        let data = match data {
            IrqData::None => Data::None,
            IrqData::Bool(flags) => Data::Bool(flags),
            IrqData::EventFd(files) => Data::EventFd(inspect(files, inspector)),
        };
        Self {
            index,
            start,
            count,
            action,
            data,
        }
    }

    /// Checks a request by the rules.
    pub(super) fn check(self, targets: &Targets, mode: InterruptMode) -> Result<Change, IrqError> {
        let Self {
            index,
            start,
            count,
            action,
            data,
        } = self;
        let known = IrqIndex::from_number(index).ok_or(IrqError::NoSuchIndex(index))?;
        let have = targets.vectors[known as usize].len() as u32;
        if start >= have || start.checked_add(count).is_none_or(|end| end > have) {
            return Err(IrqError::OutOfRange {
                index,
                start,
                count,
                have,
            });
        }
        let by_eventfd = matches!(data, Data::EventFd(_));
        if action != IrqAction::Trigger {
            if known != IrqIndex::Intx {
                return Err(IrqError::NotMaskable(index));
            }
            if action == IrqAction::Mask && by_eventfd {
                return Err(IrqError::MaskByEventFd);
            }
        }
        let enabled = targets.enabled[known as usize] > 0;
        match data {
            Data::EventFd(eventfds) => {
                let mut eventfds = eventfds?;
                eventfds.resize(count as usize, None);
                by_eventfds(known, start as u16, action, eventfds, targets)
            }
            Data::None if count == 0 && action == IrqAction::Trigger => {
                // A register may have enabled it where no request has.
                let may = enabled || by_register(mode) == Some(known);
                may.then_some(Change::Disable(known))
                    .ok_or(IrqError::NotEnabled(index))
            }
            _ if !enabled => Err(IrqError::NotEnabled(index)),
            Data::None => Ok(at_once(known, action, (start..start + count).collect())),
            Data::Bool(flags) => {
                let asked = (start..start + count).zip(flags).filter(|(_, flag)| *flag != 0);
                Ok(at_once(known, action, asked.map(|(vector, _)| vector).collect()))
            }
        }
    }
}

/// What is asked with eventfds, one for each vector from `start`.
fn by_eventfds(
    index: IrqIndex,
    start: u16,
    action: IrqAction,
    mut eventfds: Vec<Option<Arc<EventFd>>>,
    targets: &Targets,
) -> Result<Change, IrqError> {
    if action == IrqAction::Unmask {
        return match targets.enabled[index as usize] {
            0 => Err(IrqError::NotEnabled(index as u32)),
            _ => Ok(eventfds.pop().map_or(Change::None, Change::UnmaskBy)),
        };
    }
    if index.interrupt().is_some()
        && let Some(in_use) = other_in_use(targets, index)
    {
        return Err(IrqError::OtherInUse {
            wanted: index as u32,
            in_use,
        });
    }
    Ok(match eventfds.len() {
        0 => Change::None,
        _ => Change::Attach {
            index,
            start,
            eventfds,
        },
    })
}

/// What is asked for now, of the vectors given.
fn at_once(index: IrqIndex, action: IrqAction, vectors: Vec<u32>) -> Change {
    match action {
        _ if vectors.is_empty() => Change::None,
        IrqAction::Mask => Change::Mask(true),
        IrqAction::Unmask => Change::Mask(false),
        IrqAction::Trigger => Change::Loopback { index, vectors },
    }
}

/// The kind of messages that the registers enable.
pub(super) fn by_register(mode: InterruptMode) -> Option<IrqIndex> {
    match mode {
        InterruptMode::Intx => None,
        InterruptMode::Msi(_) => Some(IrqIndex::Msi),
        InterruptMode::MsiX(_) => Some(IrqIndex::MsiX),
    }
}

/// Another kind that a request has enabled.
fn other_in_use(targets: &Targets, wanted: IrqIndex) -> Option<u32> {
    [IrqIndex::Intx, IrqIndex::Msi, IrqIndex::MsiX]
        .into_iter()
        .find(|&other| other != wanted && targets.enabled[other as usize] > 0)
        .map(|other| other as u32)
}

/// Checks that descriptors are eventfds.
fn inspect(
    files: Vec<Option<OwnedFd>>,
    inspector: &Inspector,
) -> Result<Vec<Option<Arc<EventFd>>>, IrqError> {
    let mut first_wrong = None;
    let mut eventfds = Vec::with_capacity(files.len());
    for (at, file) in files.into_iter().enumerate() {
        eventfds.push(match file {
            Some(file) if inspector.is_eventfd(&file) => Some(Arc::new(EventFd::new(file))),
            Some(file) => {
                close_elsewhere(file);
                first_wrong = first_wrong.or(Some(at));
                None
            }
            None => None,
        });
    }
    first_wrong.map_or(Ok(eventfds), |at| Err(IrqError::NotAnEventFd(at)))
}

impl Change {
    /// Whether it masks (true) or unmasks INTx, if either.
    pub(super) fn masks_intx(&self) -> Option<bool> {
        match self {
            Self::Mask(on) => Some(*on),
            _ => None,
        }
    }

    /// Does it. Eventfds that were taken away go to `removed`; says whether the delivery thread must be woken.
    pub(super) fn apply(
        self,
        layout: &Layout,
        model: &mut Model,
        queue: &Queue,
        removed: &mut Vec<Arc<EventFd>>,
    ) -> bool {
        let mut effects = Effects::new();
        let Model { state, targets, .. } = model;
        let mut step = |input| uvfio_pci::step(layout, state, input, &mut effects);
        match self {
            Self::None => false,
            Self::Attach {
                index,
                start,
                eventfds,
            } => {
                let end = start.saturating_add(eventfds.len() as u16);
                let vectors = end.max(targets.enabled[index as usize]);
                targets.enabled[index as usize] = vectors;
                if let Some(kind) = index.interrupt() {
                    step(Input::Enable { kind, vectors });
                }
                for (vector, eventfd) in (start..end).zip(eventfds) {
                    let Some(place) = targets.vectors[index as usize].get_mut(usize::from(vector)) else {
                        continue;
                    };
                    let attached = eventfd.is_some();
                    removed.extend(std::mem::replace(place, eventfd));
                    match index.interrupt() {
                        Some(kind) if attached => step(Input::Attach { kind, vector }),
                        Some(kind) => step(Input::Detach { kind, vector }),
                        None => {}
                    }
                }
                false
            }
            Self::UnmaskBy(eventfd) => {
                removed.extend(std::mem::replace(&mut targets.unmask, eventfd));
                true
            }
            Self::Disable(index) => {
                if let Some(kind) = index.interrupt() {
                    step(Input::Disable { kind });
                }
                targets.enabled[index as usize] = 0;
                removed.extend(
                    targets.vectors[index as usize]
                        .iter_mut()
                        .filter_map(Option::take),
                );
                if index == IrqIndex::Intx {
                    removed.extend(targets.unmask.take());
                }
                true
            }
            Self::Mask(true) => {
                step(Input::MaskIntx);
                false
            }
            Self::Mask(false) => {
                step(Input::UnmaskIntx);
                false
            }
            Self::Loopback { index, vectors } => {
                for vector in vectors {
                    let vector = vector as u16;
                    match (targets.get(index, vector), index.interrupt()) {
                        (Some(_), Some(_)) => queue.push(index, vector),
                        (Some(target), None) => queue.notice(index, target.clone()),
                        (None, _) => {}
                    }
                }
                true
            }
        }
    }
}
