//! A function that goes: the kernel wants it back, or it is gone already. Where there are several of an IOMMU group,
//! all go with it: they have one lease.
//!
//! ```text
//! REQ                the user is asked, each time; who has left when it is time has left in order
//!   time is up       gone for its user: a worker with nothing of the function answers in the place of its own
//! no answer          the same, at once
//!      |
//!      v
//! everything closed, on a thread: in the kernel that may take minutes -> the server ends when its user has left
//! ```

use std::os::fd::BorrowedFd;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use uvfio_linux::sysfs::{self, Address, Host};

use super::{Supervisor, SupervisorError, User};
use crate::Ended;
use crate::channel::{Lost, Order};
use crate::child::Worker;
use crate::events::Events;
use crate::owned::{Owned, holders};

/// How often is looked whether a closing has ended, and who holds the function after it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_WHO_HOLDS_EVERY: Duration = Duration::from_secs(1);

/// How long a closing may take before a word is said, and how long between two words.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What is known of a function's going.
#[derive(Debug)]
pub(super) struct Removal {
    /// What is heard of each function, as long as it is open here.
    events: Vec<Events>,
    /// How long the user has when the kernel wants one back.
    within: Duration,
    /// When that ends, from the first time that the kernel asks.
    wanted: Option<Instant>,
    /// One answers no more.
    unplugged: bool,
    closing: Option<Closing>,
}

impl Removal {
    pub(super) fn new(within: Duration, functions: &[Owned]) -> Result<Self, SupervisorError> {
        Ok(Self {
            events: functions.iter().map(Events::of).collect::<Result<_, _>>()?,
            within,
            wanted: None,
            unplugged: false,
            closing: None,
        })
    }

    /// Readable when there is something to do.
    pub(super) fn files(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().flat_map(Events::files)
    }

    /// How long to wait at most.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let left = |by: Instant| by.saturating_duration_since(Instant::now());
        let release = self.wanted.filter(|_| !self.events.is_empty()).map(left);
        let look = self.closing.as_ref().filter(|closing| !closing.is_over());
        let look = look.map(|closing| {
            if closing.is_closed {
                LOOK_WHO_HOLDS_EVERY
            } else {
                LOOK_EVERY
            }
        });
        release.into_iter().chain(look).min()
    }

    /// Nothing more is to be heard: nothing of the functions is open here.
    pub(super) fn forget(&mut self) {
        self.events.clear();
    }

    /// Whether a function goes or is gone.
    pub(super) fn has_begun(&self) -> bool {
        self.wanted.is_some() || self.unplugged
    }
}

impl Supervisor<'_> {
    /// Follows what the kernel and the hardware say of the functions.
    pub(super) fn follow_functions(&mut self) -> Result<(), SupervisorError> {
        if let Some(closing) = &mut self.removal.closing {
            closing.progress();
        }
        if self.removal.events.is_empty() {
            return Ok(());
        }
        for function in 0..self.removal.events.len() as u8 {
            self.follow_function(function)?;
        }
        if !self.removal.has_begun() {
            return Ok(());
        }
        let late = self.removal.wanted.is_some_and(|by| Instant::now() >= by);
        if self.has_no_user() {
            // It ends by itself where it is on its way out.
            return if self.stop_by.is_none() {
                self.stop()
            } else {
                Ok(())
            };
        }
        if self.removal.unplugged {
            self.take(Lost::Function)
        } else if late {
            self.take(Lost::Time)
        } else {
            Ok(())
        }
    }

    fn follow_function(&mut self, function: u8) -> Result<(), SupervisorError> {
        let Some(events) = self.removal.events.get(usize::from(function)) else {
            return Ok(());
        };
        let (error, request, silent) = (events.error(), events.request(), events.silent());
        let name = self.name(function);
        if error {
            let user = self.users.get(usize::from(function)).and_then(Option::as_ref);
            match user {
                Some(User { peer, .. }) => tracing::warn!(
                    target: "audit",
                    "{name}: the kernel reports an error of the function; {peer} is told by ERR, and decides: a reset has \
                     it verified"
                ),
                None => {
                    tracing::warn!(target: "audit", "{name}: the kernel reports an error of the function; nobody uses it");
                }
            }
            self.worker.order(&Order::ReportError { function })?;
        }
        if request && !silent {
            let by = *self
                .removal
                .wanted
                .get_or_insert_with(|| Instant::now() + self.removal.within);
            let left = by.saturating_duration_since(Instant::now()).as_secs_f32();
            match self.peer() {
                Some(peer) => tracing::warn!(
                    target: "audit",
                    "{name}: the kernel wants the function back; {peer} is asked for it by REQ, and has {left:.0} s"
                ),
                None => {
                    tracing::warn!(target: "audit", "{name}: the kernel wants the function back, and nobody uses it");
                }
            }
            self.worker.order(&Order::RequestRelease)?;
        }
        if silent && !self.removal.unplugged {
            tracing::error!(
                target: "audit",
                "{name}: the function does not answer any more: it is unplugged, or has failed"
            );
            self.removal.unplugged = true;
        }
        Ok(())
    }

    /// Whoever has the functions: who has several has one uid, so one of its connections says who it is.
    fn peer(&self) -> Option<&str> {
        let mut users = self.users.iter().flatten();
        users.next().map(|user| user.peer.as_str())
    }

    /// Takes the function from its user, who goes on with one that is gone, and closes all of it.
    fn take(&mut self, why: Lost) -> Result<(), SupervisorError> {
        // Its worker may be in a call of the kernel's that does not end; what it has open goes with it.
        self.worker.kill();
        let Some(next) = self.stand_in(why)? else {
            return Ok(());
        };
        let peer = self.peer().unwrap_or("nobody");
        let reason = match why {
            Lost::Time => "it was not given back in time",
            Lost::Function | Lost::Worker => "it does not answer",
        };
        tracing::warn!(
            target: "audit",
            "{}: the function is taken from {peer}: {reason}; worker {} answers for a device that is gone",
            self.setup.spec,
            next.id()
        );
        let worker = std::mem::replace(&mut self.worker, next);
        self.close(Some(worker));
        Ok(())
    }

    /// Begins to close all that is open of the functions.
    fn close(&mut self, worker: Option<Worker>) {
        self.removal.forget();
        let functions = std::mem::take(&mut self.opened.functions);
        if !functions.is_empty() && self.removal.closing.is_none() {
            self.removal.closing = Some(Closing::begin(functions, worker));
        }
    }

    /// The user has left, if there was one: waits until all of the function is closed.
    pub(super) fn finish_removal(&mut self) -> Result<Ended, SupervisorError> {
        self.close(None);
        while let Some(closing) = &mut self.removal.closing
            && !closing.progress()
        {
            self.orders.heard();
            if self.orders.stopping() {
                return Ok(Ended::Stopped);
            }
            let wake = self.orders.wake();
            let mut ready = [PollFd::new(&wake, PollFlags::IN)];
            match poll(&mut ready, Timespec::try_from(LOOK_EVERY).ok().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(SupervisorError::Channel(errno.into())),
            }
        }
        Ok(if self.removal.unplugged {
            Ended::Unplugged
        } else {
            Ended::Wanted
        })
    }
}

/// The closing of all descriptors of functions, on a thread of its own: the kernel resets what is closed last, and
/// waits for it (three times 65 seconds for one that does not answer).
#[derive(Debug)]
struct Closing {
    /// The functions, for people.
    names: String,
    /// None where there was no thread to be had, and it is done.
    thread: Option<JoinHandle<()>>,
    since: Instant,
    /// When something was said last.
    said: Instant,
    is_closed: bool,
    /// Those that somebody may have something of, as far as can be seen.
    held: Vec<Held>,
}

/// A function that is closed here.
#[derive(Debug)]
struct Held {
    address: Address,
    /// Who holds it, or why that can't be seen, as it was said.
    by: String,
}

impl Closing {
    fn begin(functions: Vec<Owned>, worker: Option<Worker>) -> Self {
        let now = Instant::now();
        let addresses: Vec<Address> = functions.iter().map(Owned::address).collect();
        let thread = std::thread::Builder::new()
            .name("closing".into())
            .stack_size(128 << 10)
            .spawn(move || {
                // Its descriptors go first, so that ours are the last.
                drop(worker);
                for function in &functions {
                    if let Err(error) = function.quieten() {
                        tracing::warn!("{}: {error}", function.address());
                    }
                }
            });
        let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let held = addresses.into_iter().map(|address| Held {
            address,
            by: String::new(),
        });
        Self {
            names: names.join(", "),
            thread: thread.ok(),
            since: now,
            said: now,
            is_closed: false,
            held: held.collect(),
        }
    }

    /// Nobody has anything of a function any more, as far as can be seen.
    fn is_over(&self) -> bool {
        self.held.is_empty()
    }

    /// Says how it goes; true once everything is closed.
    fn progress(&mut self) -> bool {
        let Self { names, since, .. } = self;
        let seconds = since.elapsed().as_secs_f32();
        if !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            if self.said.elapsed() >= SAY_EVERY {
                self.said = Instant::now();
                tracing::warn!(
                    target: "audit",
                    "{names}: still being closed after {seconds:.0} s: the kernel resets it, and waits for it to answer"
                );
            }
            return false;
        }
        if !self.is_closed {
            self.is_closed = true;
            tracing::info!(target: "audit", "{names}: closed, after {seconds:.1} s; nothing of it is open here");
        }
        self.held.retain_mut(Held::is_held);
        true
    }
}

impl Held {
    /// Says who keeps the function from leaving; false where nobody does.
    fn is_held(&mut self) -> bool {
        self.is_held_on(&Host::default())
    }

    fn is_held_on(&mut self, host: &Host) -> bool {
        let address = self.address;
        let function = match host.sysfs().function(address) {
            Ok(function) => function,
            Err(sysfs::Error::NoFunction { .. }) => {
                tracing::info!(target: "audit", "{address}: it is no longer in the machine");
                return false;
            }
            // It may be on its way out: the next look tells.
            Err(error) => {
                let error = error.to_string();
                if error != self.by {
                    tracing::warn!(target: "audit", "{address}: who holds it can't be seen: {error}");
                    self.by = error;
                }
                return true;
            }
        };
        let holders = holders(host, &function);
        // Its driver has lost it as soon as somebody takes it from there, and waits then for whoever has it open.
        if holders.is_empty() && !function.has_vfio_driver() {
            tracing::info!(target: "audit", "{address}: nobody has anything of it any more, as far as can be seen");
            return false;
        }
        if !holders.is_empty() && holders != self.by {
            tracing::warn!(
                target: "audit",
                "{address}: held: {holders} has something of it open; whoever removes it waits for that"
            );
            self.by = holders;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_function_of_which_nothing_can_be_read_is_not_taken_for_one_that_has_left_the_machine() {
        let root = tempfile::tempdir().expect("a folder");
        let device = root.path().join("sys/devices/pci0000:00/0000:00:03.0");
        let list = root.path().join("sys/bus/pci/devices");
        for folder in [&device, &list, &root.path().join("proc")] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let link = list.join("0000:00:03.0");
        symlink("../../../devices/pci0000:00/0000:00:03.0", &link).expect("a link");
        fs::write(device.join("vendor"), "not a number").expect("written");
        let host = Host::at(root.path());
        let mut held = Held {
            address: "0000:00:03.0".parse().expect("an address"),
            by: String::new(),
        };
        assert!(held.is_held_on(&host));
        assert!(held.by.contains("not a number"), "{}", held.by);
        fs::remove_file(link).expect("removed");
        assert!(!held.is_held_on(&host));
    }
}
