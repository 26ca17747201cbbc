//! One user after another for functions that exist, of one IOMMU group, each with a worker of its own.
//!
//! ```text
//! open the group -> a worker -> a user -> the user leaves, or the worker dies
//!      ^                                     | stopped, reset, every descriptor closed
//!      +--- the group opens again: free -----+ EBUSY: something of the former lease is left: held, not leased
//! ```
//!
//! What the function stores is erased in between, or there is no second user, where policy says so ([`BetweenUsers`]).
//!
//! The kernel opens a group again only when the last descriptor of the former lease is closed and its last mapping
//! undone, whoever has them: it is asked, and nothing else is believed. It resets the function when it is closed, and
//! once more when it is opened.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use uvfio_linux::sysfs::{Address, Host};

use crate::opened::Opened;
use crate::orders::Orders;
use crate::owned::{NotBack, OwnError, Owned};
use crate::supervisor::{BetweenUsers, Job, Supervisor, SupervisorError};
use crate::{Ended, Source};

/// How long after the first try to open a group that is held the next one is made; each is twice as long as the last.
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A device that is served to one user after another: a software device by one worker, functions that exist by one a
/// lease.
#[derive(Debug)]
pub struct Leases<'a> {
    job: Job<'a>,
    orders: &'a Orders,
    first: Supervisor<'a>,
}

/// How a lease of a function ended.
enum Over {
    /// With the server, in this way.
    Server(Ended),
    /// Another user may come.
    Lease,
}

impl<'a> Leases<'a> {
    /// Opens what the device needs and starts its first worker. None where an order to stop comes first.
    ///
    /// # Errors
    /// As [`Supervisor::start`].
    pub fn start(job: Job<'a>, orders: &'a Orders) -> Result<Option<Self>, SupervisorError> {
        let first = Supervisor::start(&job, orders)?;
        Ok(first.map(|first| Self { job, orders, first }))
    }

    /// Serves the users that come from `source`, until an order, the only user's leaving or a failure ends it.
    ///
    /// # Errors
    /// As [`Supervisor::run`]; for a function also where it can't be owned again for the next user.
    pub fn run(self, source: Source<'_>) -> Result<Ended, SupervisorError> {
        match source {
            Source::Listener(listener) if !self.job.spec.addresses().is_empty() => {
                self.run_group(&[listener])
            }
            source => self.first.run(source),
        }
    }

    /// Serves functions that exist to the users that come from `listeners`, one for each function in the order of the
    /// specification. They go to one user: while somebody has one of them, nobody of another uid gets another one.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_group(self, listeners: &[&UnixListener]) -> Result<Ended, SupervisorError> {
        let Self { job, orders, first } = self;
        let known = identities(first.functions())?;
        let baselines = first.baselines();
        for function in first.functions() {
            if !function.resets().map_err(OwnError::Vfio)? {
                tracing::warn!(
                    target: "audit",
                    "{} can't be reset, so {} will have one user only", function.address(), job.spec
                );
            }
        }
        let mut now = first;
        loop {
            match one_lease(now, listeners, orders)? {
                Over::Server(ended) => return Ok(ended),
                Over::Lease => {}
            }
            match job.between_users {
                BetweenUsers::Reset => {}
                BetweenUsers::Never => return Ok(Ended::OneUser),
                BetweenUsers::Erase(erase) => {
                    // Opened once to be sure that nobody has anything of it any more.
                    if own_again(&job, orders)?.is_none() {
                        return Ok(Ended::Stopped);
                    }
                    for &address in job.spec.addresses() {
                        erase(address).map_err(|why| SupervisorError::NotErased { address, why })?;
                        tracing::info!(target: "audit", "{address}: erased");
                    }
                }
            }
            let Some(functions) = own_again(&job, orders)? else {
                return Ok(Ended::Stopped);
            };
            for ((address, was), (_, is)) in known.iter().zip(identities(&functions)?) {
                let (address, was) = (*address, *was);
                if was != is {
                    return Err(OwnError::Exchanged { address, was, is }.into());
                }
            }
            // Its worker compares with what it finds; so that must not be what the last user has left.
            for (function, was) in functions.iter().zip(baselines.iter()) {
                function.verify(was)?;
            }
            let opened = Opened {
                images: Vec::new(),
                functions,
            };
            now = match Supervisor::start_over(&job, orders, opened, Arc::clone(&baselines))? {
                Some(next) => next,
                None => return Ok(Ended::Stopped),
            };
        }
    }
}

/// Device and vendor ID of each function.
fn identities(functions: &[Owned]) -> Result<Vec<(Address, u32)>, OwnError> {
    let identity = |function: &Owned| Ok((function.address(), function.identity()?));
    functions.iter().map(identity).collect()
}

/// Serves one user. On return nothing of the functions is open here.
fn one_lease(
    mut lease: Supervisor<'_>,
    listeners: &[&UnixListener],
    orders: &Orders,
) -> Result<Over, SupervisorError> {
    let mut resets = true;
    for function in lease.functions() {
        resets &= function.resets().map_err(NotBack::from)?;
    }
    let ended = lease.serve_until_end(listeners);
    let over = lease.lease_is_over(&ended);
    // Their worker has done that. But it has had a user, and what it says is not believed.
    let quiet: Vec<_> = lease.functions().iter().map(Owned::quieten).collect();
    let quiet: Result<(), _> = quiet.into_iter().collect();
    quiet.map_err(NotBack::from)?;
    // Its worker says no more than that the reset failed.
    let served = over || matches!(ended, Err(SupervisorError::Refused(_)));
    if served && !resets && !orders.stopping() {
        return Ok(Over::Server(Ended::NoReset));
    }
    match ended {
        _ if over && orders.stopping() => Ok(Over::Server(Ended::Stopped)),
        _ if over => Ok(Over::Lease),
        other => other.map(Over::Server),
    }
}

/// Opens the functions for the next lease, as soon as nothing is left of the last one. None where an order to stop
/// comes first.
fn own_again(job: &Job<'_>, orders: &Orders) -> Result<Option<Vec<Owned>>, SupervisorError> {
    let (host, spec) = (Host::default(), job.spec);
    let mut wait = FIRST_WAIT;
    let mut said = String::new();
    loop {
        if orders.stopping() {
            return Ok(None);
        }
        match Owned::open_all(&host, spec.addresses(), job.terms) {
            Ok(functions) => {
                if !said.is_empty() {
                    tracing::warn!(target: "audit", "{spec}: free again");
                }
                return Ok(Some(functions));
            }
            Err(OwnError::InUse { holders, .. }) => {
                let who = match holders.as_str() {
                    "" => "a process that can't be seen".to_owned(),
                    _ => holders,
                };
                if said != who {
                    tracing::warn!(
                        target: "audit",
                        "{spec}: held, not leased: {who} has something of it open; no user is served until it lets go"
                    );
                    said = who;
                }
            }
            Err(other) => return Err(other.into()),
        }
        pause(wait, orders)?;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Waits, or until the next order.
fn pause(time: Duration, orders: &Orders) -> Result<(), SupervisorError> {
    let wake = orders.wake();
    let mut ready = [PollFd::new(&wake, PollFlags::IN)];
    match poll(&mut ready, Timespec::try_from(time).ok().as_ref()) {
        Ok(_) | Err(Errno::INTR) => {
            orders.heard();
            Ok(())
        }
        Err(errno) => Err(SupervisorError::Channel(errno.into())),
    }
}
