//! Interrupts: the server is given the program's own eventfds, and signals them itself.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use uvfio_core::{IrqAction, IrqData, IrqIndex, SetIrqs};
use uvfio_pci::tables::express;
use uvfio_proto::message::SetIrqsFlags;
use uvfio_uapi::{Refusal, signal_eventfd};

use crate::link::Unanswered;
use crate::remote::Remote;

/// What the user has enabled.
#[derive(Debug, Default)]
pub(crate) struct Irqs {
    /// Which indices of the server's. Held while it is asked, so that requests come to it one at a time.
    enabled: Mutex<[bool; IrqIndex::COUNT as usize]>,
    /// The eventfds of ERR and REQ, which tell when there is no server any more, either. Never held while it is asked.
    notices: Mutex<Notices>,
}

#[derive(Debug, Default)]
struct Notices {
    /// Of ERR and REQ.
    eventfds: [Option<Arc<OwnedFd>>; 2],
    signals: Arc<Mutex<Signals>>,
}

/// What a thread of its own signals: an eventfd that its user fills at the wrong moment has it wait.
#[derive(Debug, Default)]
struct Signals {
    /// There is the thread, one at a time.
    busy: bool,
    /// What it has yet to signal.
    pending: [Option<Arc<OwnedFd>>; 2],
}

/// How long a user that tries a notice waits for it, at most: with the kernel it is there when the request returns.
const TRIED: Duration = Duration::from_millis(100);

impl Irqs {
    fn enabled(&self) -> MutexGuard<'_, [bool; IrqIndex::COUNT as usize]> {
        self.enabled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the user that there is no device any more.
    pub(crate) fn tell_gone(&self) {
        let _ = self.notices().send([true, true]);
    }

    /// Tells the user, by REQ, that the device is wanted back.
    pub(crate) fn tell_wanted(&self) {
        let _ = self.notices().send([false, true]);
    }

    /// Nothing more is told. A thread that waits for an eventfd of this user keeps nothing from the next one.
    pub(crate) fn forget_notices(&self) {
        *self.notices() = Notices::default();
    }

    /// What ERR or REQ is to do here, whatever the server has.
    fn notice(&self, request: &SetIrqs) -> Result<(), Refusal> {
        let number = request.index.checked_sub(IrqIndex::Err as u32);
        let mut notices = self.notices();
        let Some(number) = number.map(|number| number as usize).filter(|number| *number < 2) else {
            return Ok(());
        };
        let kept = match &request.data {
            IrqData::EventFd(eventfds) => {
                let given = eventfds.first().and_then(Option::as_ref);
                let kept = given.map(OwnedFd::try_clone).transpose();
                kept.map_err(|_| Refusal::new(Errno::MFILE, "no descriptor is left for an eventfd"))?
            }
            IrqData::None if request.count == 0 => None,
            IrqData::Bool(flags) if flags.iter().all(|flag| *flag == 0) => return Ok(()),
            // The user tries it.
            IrqData::None | IrqData::Bool(_) => {
                let told = notices.send([number == 0, number == 1]);
                drop(notices);
                let _ = told.recv_timeout(TRIED);
                return Ok(());
            }
        };
        if let Some(place) = notices.eventfds.get_mut(number) {
            *place = kept.map(Arc::new);
        }
        Ok(())
    }
}

impl Notices {
    /// Has ERR, REQ or both signalled. What is given ends when that is done, or can't be waited for.
    fn send(&self, which: [bool; 2]) -> Receiver<()> {
        let (done, told) = channel();
        let mut signals = lock(&self.signals);
        for ((pending, eventfd), wanted) in signals.pending.iter_mut().zip(&self.eventfds).zip(which) {
            if wanted && eventfd.is_some() {
                pending.clone_from(eventfd);
            }
        }
        if !signals.busy && signals.pending.iter().any(Option::is_some) {
            let shared = Arc::clone(&self.signals);
            let thread = std::thread::Builder::new().name("notices".to_owned());
            match thread.spawn(move || signal_all(&shared, done)) {
                Ok(_) => signals.busy = true,
                Err(error) => tracing::error!(%error, "no thread to signal ERR or REQ"),
            }
        }
        told
    }
}

fn lock(signals: &Mutex<Signals>) -> MutexGuard<'_, Signals> {
    signals.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread.
fn signal_all(shared: &Mutex<Signals>, done: Sender<()>) {
    loop {
        let mut signals = lock(shared);
        let Some(eventfd) = signals.pending.iter_mut().find_map(Option::take) else {
            signals.busy = false;
            // Whoever tries it again finds no thread at work.
            drop(signals);
            drop(done);
            return;
        };
        drop(signals);
        signal_eventfd(&eventfd);
    }
}

/// Whether a request only signals what is attached.
fn tries(request: &SetIrqs) -> bool {
    match request.data {
        IrqData::None => request.count > 0,
        IrqData::Bool(_) => true,
        IrqData::EventFd(_) => false,
    }
}

impl Remote {
    /// How many vectors an index has. Errors and the wish to have the device back are told whatever the server has.
    pub(crate) fn vectors_of(&self, index: u32) -> u32 {
        let express = || {
            let mut placed = self.declared.layout.placed();
            placed.any(|placed| std::ptr::eq(placed.table, &raw const express::EXPRESS))
        };
        match IrqIndex::from_number(index) {
            None => 0,
            Some(IrqIndex::Req) => 1,
            Some(IrqIndex::Err) => express().into(),
            Some(_) => self.of_server(index),
        }
    }

    fn of_server(&self, index: u32) -> u32 {
        self.declared.vectors.get(index as usize).copied().unwrap_or(0)
    }

    pub(crate) fn set(&self, request: &SetIrqs) -> Result<(), Refusal> {
        let mut enabled = self.irqs.enabled();
        let index = request.index;
        if index >= IrqIndex::Err as u32 && (self.of_server(index) == 0 || tries(request)) {
            return self.irqs.notice(request);
        }
        // Of a request that it refused half way the server would keep eventfds.
        self.pass_on(request)
            .and_then(|()| self.irqs.notice(request))
            .inspect_err(|_| {
                let enables =
                    request.action == IrqAction::Trigger && matches!(request.data, IrqData::EventFd(_));
                if enables && enabled.get(index as usize) == Some(&false) {
                    self.disable(index);
                }
            })?;
        if let Some(enabled) = enabled.get_mut(index as usize)
            && request.action == IrqAction::Trigger
        {
            *enabled = !(request.count == 0 && matches!(request.data, IrqData::None));
        }
        Ok(())
    }

    /// The user has gone: none of its eventfds is the server's any more.
    pub(crate) fn disable_all(&self) {
        self.irqs.forget_notices();
        let mut enabled = self.irqs.enabled();
        let enabled = std::mem::take(&mut *enabled);
        for (index, _) in (0..).zip(enabled).filter(|(_, enabled)| *enabled) {
            self.disable(index);
        }
    }

    fn disable(&self, index: u32) {
        let disable = SetIrqs {
            index,
            start: 0,
            count: 0,
            action: IrqAction::Trigger,
            data: IrqData::None,
        };
        if let Err(error) = self.pass_on(&disable) {
            tracing::warn!(device = self.name, %error, index, "the server did not disable interrupts");
        }
    }

    fn pass_on(&self, request: &SetIrqs) -> Result<(), Refusal> {
        let SetIrqs {
            index, start, count, ..
        } = *request;
        let action = match request.action {
            IrqAction::Mask => SetIrqsFlags::MASK,
            IrqAction::Unmask => SetIrqsFlags::UNMASK,
            IrqAction::Trigger => SetIrqsFlags::TRIGGER,
        };
        match &request.data {
            IrqData::None => self.tell(index, action | SetIrqsFlags::NONE, start, count, &[]),
            IrqData::Bool(flags) => self.tell(index, action | SetIrqsFlags::BOOL, start, count, flags),
            IrqData::EventFd(eventfds) => self.pass_eventfds(index, action, start, count, eventfds),
        }
    }

    /// Eventfds, and vectors without any, which the protocol has in messages of their own.
    fn pass_eventfds(
        &self,
        index: u32,
        action: SetIrqsFlags,
        start: u32,
        count: u32,
        eventfds: &[Option<OwnedFd>],
    ) -> Result<(), Refusal> {
        let most = self.msg_fds;
        let without = action | SetIrqsFlags::EVENTFD;
        let given = eventfds.iter().flatten().count();
        // Of MSI there are as many vectors as the first message names.
        if index == IrqIndex::Msi as u32
            && start == 0
            && given > 0
            && (given > most || given < count as usize)
        {
            self.tell(index, without, start, count, &[])?;
        }
        let mut vector = 0;
        let total = count as usize;
        while vector < total {
            let at = |n: usize| eventfds.get(n).and_then(Option::as_ref);
            let is_some = at(vector).is_some();
            let end = (vector + 1..total)
                .find(|n| at(*n).is_some() != is_some)
                .unwrap_or(total);
            let first = start.saturating_add(vector as u32);
            if is_some {
                let run: Vec<BorrowedFd<'_>> =
                    (vector..end).filter_map(at).map(|file| file.as_fd()).collect();
                self.answered(
                    &self
                        .link
                        .ask(|client| client.set_eventfds(index, action, first, &run)),
                )?;
            } else {
                self.tell(index, without, first, (end - vector) as u32, &[])?;
            }
            vector = end;
        }
        Ok(())
    }

    fn tell(
        &self,
        index: u32,
        flags: SetIrqsFlags,
        start: u32,
        count: u32,
        bytes: &[u8],
    ) -> Result<(), Refusal> {
        self.answered(
            &self
                .link
                .ask(|client| client.set_irqs(index, flags, start, count, bytes)),
        )
    }

    /// To a device that is gone everything can be said.
    pub(crate) fn answered(&self, answer: &Result<(), Unanswered>) -> Result<(), Refusal> {
        match answer {
            Ok(()) | Err(Unanswered::Gone) => Ok(()),
            Err(Unanswered::Refused(errno)) => Err(Refusal::new(
                *errno,
                format!("the server of {} refused it", self.name),
            )),
        }
    }
}
