//! The process beside the worker: it opens what the device needs, accepts users, follows the operator, and sees to
//! it that a user whose worker dies has a device that is gone, not a socket that is closed.
//!
//! It keeps a duplicate of the user's socket and of the journal (`uvfio_proto::Journal`), and reads neither.

mod removal;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use uvfio_linux::device::{BarGrant, Baseline};
use uvfio_linux::sysfs::Address;
use uvfio_pci::View;
use uvfio_proto::{Journal, Limits};

use self::removal::Removal;
use crate::channel::{Lost, Order, Report, Setup};
use crate::child::Worker;
use crate::opened::Opened;
use crate::orders::Orders;
use crate::owned::{NotBack, OwnError, Owned, Terms, raise_locked_memory};
use crate::run::{accept, peer, uid};
use crate::{BuildError, DeviceSpec, Ended, Source};

/// How long a worker may take to end in order: a device's reset, and a little more.
const PATIENCE: Duration = Duration::from_secs(40);

/// Why there is no server, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The device can't be made as it was asked for.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The worker could not make or serve the device; its own words.
    #[error("{0}")]
    Refused(String),
    /// The worker's process could not be started.
    #[error("the worker could not be started: {0}")]
    Start(io::Error),
    /// The socket between supervisor and worker failed, or the worker broke the rules of it.
    #[error("the worker can't be talked to: {0}")]
    Channel(io::Error),
    /// The function can't be owned once more, for the next user.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// The function did not stop, or did not come back from its reset as it was.
    #[error("{0}; it gets no other user: start it again when it works")]
    NotBack(#[from] NotBack),
    /// What the function stores could not be erased.
    #[error("{address} could not be erased: {why}; it gets no other user")]
    NotErased {
        /// The function.
        address: Address,
        /// Why not.
        why: String,
    },
    /// The worker died.
    #[error("the worker died ({0}); start the device again")]
    Died(String),
    /// No user could be accepted.
    #[error("no user can be accepted any more: {0}")]
    Accept(io::Error),
}

/// What is to be served.
#[derive(Debug)]
pub struct Job<'a> {
    /// The device.
    pub spec: &'a DeviceSpec,
    /// What its user sees of it, and how a function that exists is opened.
    pub terms: Terms,
    /// How its user reaches the BARs of a function that exists.
    pub bars: BarGrant,
    /// What the worker logs: a filter of `tracing_subscriber`'s.
    pub log: &'a str,
    /// Whether its log may be coloured.
    pub ansi: bool,
    /// What is done with a function that exists before another user gets it.
    pub between_users: BetweenUsers,
    /// How long its user has to give it back when the kernel wants it.
    pub release_within: Duration,
}

/// What is done with a function that exists between two users, beyond what always is: it is stopped, reset and
/// verified.
#[derive(Clone, Copy, Debug)]
pub enum BetweenUsers {
    /// Nothing: what it stores is the next user's.
    Reset,
    /// What it stores is erased, by this. It is called when nobody has the function, and must leave it so.
    Erase(fn(Address) -> Result<(), String>),
    /// There is no other user.
    Never,
}

/// A worker that is confined and ready, and all that another one would need.
#[derive(Debug)]
pub struct Supervisor<'a> {
    orders: &'a Orders,
    setup: Setup,
    opened: Opened,
    /// What each function was before it had its first user, in this lease or another one.
    baselines: Arc<[Baseline]>,
    worker: Worker,
    /// The users who are being served, by the places of their functions in the specification.
    users: Vec<Option<User>>,
    /// What the worker said before it ended.
    last_words: Option<Report>,
    /// It has been told to stop, and must have by then.
    stop_by: Option<Instant>,
    /// It has been told that the device is taken away.
    taken_away: bool,
    /// The only user has left, from all functions that it had.
    user_left: bool,
    /// How the first worker died, where the second one serves.
    died: Option<String>,
    /// The function did not come back after that.
    not_back: Option<SupervisorError>,
    /// Whether a function is about to go, or gone.
    removal: Removal,
}

/// A user who is being served: its connection to one function.
#[derive(Debug)]
struct User {
    function: u8,
    stream: UnixStream,
    journal: OwnedFd,
    peer: String,
    /// Who it is for the kernel; none: it does not say.
    uid: Option<u32>,
}

impl<'a> Supervisor<'a> {
    /// Opens what the device needs and starts its worker. None where an order to stop comes first.
    ///
    /// # Errors
    /// Where the device can't be made, or its worker not be started or confined.
    pub fn start(job: &Job<'_>, orders: &'a Orders) -> Result<Option<Self>, SupervisorError> {
        if !job.spec.addresses().is_empty() {
            raise_locked_memory();
        }
        let opened = job.spec.open(job.terms)?;
        let baselines: Result<_, _> = opened.functions.iter().map(Owned::baseline).collect();
        Self::start_over(job, orders, opened, baselines.map_err(BuildError::from)?)
    }

    /// As [`start`](Self::start), over what is open already, and is what it was at first: `baselines`.
    pub(crate) fn start_over(
        job: &Job<'_>,
        orders: &'a Orders,
        opened: Opened,
        baselines: Arc<[Baseline]>,
    ) -> Result<Option<Self>, SupervisorError> {
        let setup = Setup {
            gone: None,
            ansi: job.ansi,
            view: job.terms.view,
            bars: job.bars,
            shape: String::new(),
            log: job.log.into(),
            spec: job.spec.to_string(),
        };
        let Some(worker) = Worker::start(&setup, &opened, orders)? else {
            return Ok(None);
        };
        // After the worker, which listens as well when it takes the functions over.
        let removal = Removal::new(job.release_within, &opened.functions)?;
        let functions = opened.functions.len().max(1);
        Ok(Some(Self {
            orders,
            setup,
            opened,
            baselines,
            worker,
            users: (0..functions).map(|_| None).collect(),
            last_words: None,
            stop_by: None,
            taken_away: false,
            user_left: false,
            died: None,
            not_back: None,
            removal,
        }))
    }

    /// Serves the users that come from `source` until an order, the only user's leaving or a failure ends it.
    ///
    /// # Errors
    /// Where the device or its worker fails. A user whose worker dies is served to its end first: the device is gone
    /// for it.
    pub fn run(mut self, source: Source<'_>) -> Result<Ended, SupervisorError> {
        match source {
            Source::Listener(listener) => self.serve_until_end(&[listener]),
            Source::Connected(stream) => {
                self.serve(0, stream)?;
                self.serve_until_end(&[])
            }
        }
    }

    /// Serves the users that come from these listeners, one for each function, or the one that is there already.
    /// Functions that exist are served to one user: each lease has a worker of its own.
    pub(crate) fn serve_until_end(&mut self, listeners: &[&UnixListener]) -> Result<Ended, SupervisorError> {
        let only_user = listeners.is_empty() || !self.opened.functions.is_empty();
        for listener in listeners {
            listener.set_nonblocking(true).map_err(SupervisorError::Accept)?;
        }
        loop {
            self.pass_on_orders()?;
            self.follow_functions()?;
            let open = self.open_places(listeners);
            self.wait(&open)?;
            if self.stop_by.is_some_and(|late| Instant::now() > late) {
                return Err(SupervisorError::Died("it did not end when it was told to".into()));
            }
            match self
                .worker
                .channel
                .next_report()
                .map_err(SupervisorError::Channel)?
            {
                Some(Some(Report::Free { function })) => {
                    if let Some(place) = self.users.get_mut(usize::from(function)) {
                        *place = None;
                    }
                    let nobody = self.has_no_user();
                    let last = only_user || self.died.is_some() || self.taken_away;
                    if nobody && last && self.stop_by.is_none() {
                        self.user_left = true;
                        self.stop()?;
                    }
                }
                Some(Some(last @ (Report::Ended { .. } | Report::Failed(_)))) => self.last_words = Some(last),
                Some(None) => {
                    if let Some(ended) = self.worker_has_ended()? {
                        return Ok(ended);
                    }
                }
                Some(Some(Report::Hello(_) | Report::Ready { .. })) | None => {}
            }
            for (function, listener) in open {
                // Not where the report was that serving is at its end. And who comes after somebody has left waits
                // until the worker has said so: it is not to be turned away for the sake of one who has gone.
                if self.stop_by.is_none()
                    && !self.is_being_left()
                    && let Some(stream) = accept(listener).map_err(SupervisorError::Accept)?
                {
                    self.serve(function, stream)?;
                }
            }
        }
    }

    /// The functions that can have a user now, and where it comes from.
    fn open_places<'l>(&self, listeners: &[&'l UnixListener]) -> Vec<(u8, &'l UnixListener)> {
        if self.stop_by.is_some() || self.died.is_some() || self.removal.has_begun() || self.is_being_left() {
            return Vec::new();
        }
        let places = (0..).zip(listeners).zip(&self.users);
        let free = places.filter(|(_, user)| user.is_none());
        free.map(|((function, listener), _)| (function, *listener))
            .collect()
    }

    /// Whether a user has closed its connection, and the worker has still to reset what it had.
    fn is_being_left(&self) -> bool {
        self.users.iter().flatten().any(|user| {
            let mut ready = [PollFd::new(&user.stream, PollFlags::RDHUP)];
            // Not to be asked is not to be left.
            poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0)
        })
    }

    fn has_no_user(&self) -> bool {
        self.users.iter().all(Option::is_none)
    }

    /// What a function is called.
    fn name(&self, function: u8) -> String {
        let address = self
            .opened
            .functions
            .get(usize::from(function))
            .map(Owned::address);
        address.map_or_else(|| self.setup.spec.clone(), |address| address.to_string())
    }

    /// Hands a user to the worker; not one who may not have the function together with who has others.
    fn serve(&mut self, function: u8, stream: UnixStream) -> Result<(), SupervisorError> {
        let (peer, uid) = (peer(&stream), uid(&stream));
        let name = self.name(function);
        // The functions have one address space: what one user maps, another one's function would reach.
        if let Some(other) = self.users.iter().flatten().next()
            && (uid.is_none() || uid != other.uid)
        {
            tracing::warn!(
                target: "audit",
                "{name}: {peer} is turned away: {} has {}, and functions of one IOMMU group go to one user",
                other.peer,
                self.name(other.function)
            );
            return Ok(());
        }
        if self.setup.view == View::Raw && !self.opened.functions.is_empty() {
            tracing::warn!(
                target: "audit",
                "{name}: {peer} gets the raw view, by this server's command line: it is inside the trusted base, and can \
                 disturb other devices (by a moved BAR)"
            );
        }
        let journal = Journal::create(&Limits::default()).map_err(SupervisorError::Accept)?;
        let user = User {
            function,
            stream,
            journal,
            peer,
            uid,
        };
        // Kept whatever becomes of it: where the worker has just died, the next one gets it.
        self.worker.order(&user.order()?)?;
        if let Some(place) = self.users.get_mut(usize::from(function)) {
            *place = Some(user);
        }
        Ok(())
    }

    fn pass_on_orders(&mut self) -> Result<(), SupervisorError> {
        self.orders.heard();
        if self.orders.taking_away() && !self.taken_away {
            self.taken_away = true;
            self.worker.order(&Order::TakeAway)?;
        }
        if self.orders.stopping() && self.stop_by.is_none() {
            self.stop()?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), SupervisorError> {
        self.stop_by = Some(Instant::now() + PATIENCE);
        self.worker.order(&Order::Stop)
    }

    /// Waits for an order, a report or a user at one of these places.
    fn wait(&self, open: &[(u8, &UnixListener)]) -> Result<(), SupervisorError> {
        let wake = self.orders.wake();
        let mut ready = vec![
            PollFd::new(&self.worker.channel, PollFlags::IN),
            PollFd::new(&wake, PollFlags::IN),
        ];
        ready.extend(
            open.iter()
                .map(|(_, listener)| PollFd::new(*listener, PollFlags::IN)),
        );
        let left = self
            .stop_by
            .map(|late| late.saturating_duration_since(Instant::now()));
        ready.extend(
            self.removal
                .files()
                .map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN)),
        );
        let left = left.into_iter().chain(self.removal.timeout()).min();
        let timeout = left.and_then(|left| Timespec::try_from(left + Duration::from_millis(1)).ok());
        match poll(&mut ready, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(SupervisorError::Channel(errno.into())),
        }
    }

    /// The worker's socket is closed: in order, or it has died. Gives how serving ended, or nothing where the next
    /// worker serves on.
    fn worker_has_ended(&mut self) -> Result<Option<Ended>, SupervisorError> {
        let process = self.worker.id();
        let how = self.worker.end();
        if let Some(error) = self.not_back.take() {
            return Err(error);
        }
        if let Some(first) = &self.died {
            return Err(SupervisorError::Died(first.clone()));
        }
        // Without a last word it was killed here, and an order to stop came before the next one was ready.
        if self.removal.has_begun() && (self.last_words.is_some() || self.orders.stopping()) {
            return self.finish_removal().map(Some);
        }
        match self.last_words.take() {
            Some(Report::Failed(why)) => return Err(SupervisorError::Refused(why)),
            Some(Report::Ended { gone: true }) => return Ok(Some(Ended::Gone)),
            Some(Report::Ended { .. }) if self.user_left => return Ok(Some(Ended::UserLeft)),
            Some(_) => return Ok(Some(Ended::Stopped)),
            None => {}
        }
        tracing::error!(target: "audit", "{}: worker {process} died: {how}", self.setup.spec);
        if self.setup.gone.is_some() {
            return Err(SupervisorError::Died(how));
        }
        let stopped: Vec<_> = self.opened.functions.iter().map(Owned::quieten).collect();
        let stopped: Result<(), _> = stopped.into_iter().collect();
        let stopped = stopped.map_err(NotBack::from);
        if self.stop_by.is_some() || self.has_no_user() {
            self.take_back(stopped)?;
            return Err(SupervisorError::Died(how));
        }
        let Some(next) = self.stand_in(Lost::Worker)? else {
            return Err(SupervisorError::Died(how));
        };
        for user in self.users.iter().flatten() {
            tracing::warn!(
                target: "audit",
                "{}: the device is gone for {}; worker {} answers in the place of the one that died",
                self.name(user.function),
                user.peer,
                next.id()
            );
        }
        self.worker = next;
        self.died = Some(how);
        // It takes its time, and the user has its answers by now.
        self.not_back = self.take_back(stopped).err();
        Ok(None)
    }

    /// Starts a worker for whom the device is gone, and hands it the users; none where an order to stop comes first.
    fn stand_in(&mut self, why: Lost) -> Result<Option<Worker>, SupervisorError> {
        // Nothing of the disk or the function for whoever broke the first one.
        let stand_ins = self.opened.stand_ins().map_err(SupervisorError::Start)?;
        self.opened.images.clear();
        self.setup.gone = Some(why);
        self.setup.shape = std::mem::take(&mut self.worker.shape);
        let next = Worker::start(&self.setup, &stand_ins, self.orders)?;
        if let Some(next) = &next {
            for user in self.users.iter().flatten() {
                next.order(&user.order()?)?;
            }
        }
        Ok(next)
    }

    /// Resets functions whose worker has died, compares them with what they were, and lets go of them.
    fn take_back(&mut self, stopped: Result<(), NotBack>) -> Result<(), SupervisorError> {
        self.removal.forget();
        let functions = std::mem::take(&mut self.opened.functions);
        // All of them first: the reset of one may be that of a bus.
        let reset: Vec<_> = functions.iter().map(Owned::reset).collect();
        let mut all = stopped;
        for ((function, was), reset) in functions.iter().zip(self.baselines.iter()).zip(reset) {
            let back = reset.map_err(NotBack::from).and_then(|()| function.verify(was));
            match &back {
                Ok(()) => tracing::info!(target: "audit", "{}: stopped and reset", function.address()),
                Err(error) => tracing::error!(target: "audit", "{}: {error}", function.address()),
            }
            all = all.and(back);
        }
        Ok(all?)
    }

    /// Whether the user has been served to its end, by whichever worker, and another one may come.
    pub(crate) fn lease_is_over(&self, ended: &Result<Ended, SupervisorError>) -> bool {
        match ended {
            Ok(ended) => *ended == Ended::UserLeft,
            // Killed while it served, or on its way out: stopped and reset by us.
            Err(SupervisorError::Died(_)) => {
                self.opened.functions.is_empty() && (self.died.is_some() || self.user_left)
            }
            Err(_) => false,
        }
    }

    /// What each function was before it had its first user.
    pub(crate) fn baselines(&self) -> Arc<[Baseline]> {
        Arc::clone(&self.baselines)
    }

    /// The functions that exist, as long as they are open.
    pub(crate) fn functions(&self) -> &[Owned] {
        &self.opened.functions
    }
}

impl User {
    fn order(&self) -> Result<Order, SupervisorError> {
        Ok(Order::Serve {
            function: self.function,
            stream: self.stream.try_clone().map_err(SupervisorError::Start)?,
            journal: self.journal.try_clone().map_err(SupervisorError::Start)?,
            peer: self.peer.clone(),
        })
    }
}
