//! The worker's process, from its start to its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SendError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use uvfio_core::{Device, GoneReason, Policy, VirtualDevice};
use uvfio_pci::View;
use uvfio_proto::{Limits, Server};

use crate::channel::{Channel, Lost, Order, Report, Setup};
use crate::confine::{self, Begun, CALLS, Call, Files, HARDWARE_CALLS};
use crate::image::Image;
use crate::log::{finish_log, log_to_supervisor};
use crate::opened::Opened;
use crate::owned::{Descriptors, Owned};
use crate::run::{how_ended, serve_one};
use crate::shape::{Remains, Shape};
use crate::{Control, DeviceSpec, Ended, memory};

/// Which build this is. Supervisor and worker must be of the same.
pub(crate) const BUILD: &str = env!("UVFIO_BUILD");

/// What no shape in words has in it.
const BETWEEN_SHAPES: &str = ";";

/// How long the worker may take to end after its supervisor is gone.
const ALONE: Duration = Duration::from_secs(10);

/// The whole life of a worker's process. Standard input is the socket to its supervisor, standard error its log.
#[must_use]
pub fn worker_main() -> ExitCode {
    let Ok(channel) = Channel::inherited() else {
        eprintln!("uvfio-worker: this is started by `uvfio serve`, not by hand");
        return ExitCode::from(2);
    };
    drop(channel);
    // Closes all that is not needed, so the channel is opened once more after it.
    let begun = confine::begin();
    let Ok(channel) = Channel::inherited() else {
        return ExitCode::from(2);
    };
    let channel = Arc::new(channel);
    let result = begun
        .map_err(|error| error.to_string())
        .and_then(|begun| serve(&channel, begun));
    let (last, code) = match result {
        Ok(ended) => {
            let gone = ended == Ended::Gone;
            (Report::Ended { gone }, ExitCode::SUCCESS)
        }
        Err(why) => (Report::Failed(why), ExitCode::FAILURE),
    };
    // Nobody to tell where the supervisor is gone.
    let _ = channel.report(&last);
    finish_log();
    code
}

/// A user who has come.
struct User {
    stream: std::os::unix::net::UnixStream,
    journal: std::os::fd::OwnedFd,
    peer: String,
}

fn serve(channel: &Arc<Channel>, begun: Begun) -> Result<Ended, String> {
    let tell = |report: &Report| {
        channel
            .report(report)
            .map_err(|error| format!("the supervisor does not listen: {error}"))
    };
    tell(&Report::Hello(BUILD.into()))?;
    let Some((setup, given)) = setup(channel)? else {
        return Ok(Ended::Stopped);
    };
    log_to_supervisor(&setup.log, setup.ansi).map_err(|error| error.to_string())?;
    let spec = DeviceSpec::from_words(&setup.spec).map_err(|error| error.to_string())?;
    let opened = given.open(&spec, setup.view)?;
    let bytes = opened.images.iter().map(|image| image.bytes);
    let mut longest_file = bytes.max().unwrap_or_default().max(spec.own_file_bytes());
    let owns_hardware = !opened.functions.is_empty();
    let devices: Vec<Arc<dyn Device>> = if setup.gone.is_some() && !spec.addresses().is_empty() {
        remains(&setup.shape)?
    } else {
        spec.build_over(opened, setup.bars)
            .map_err(|error| error.to_string())?
    };
    let shape = match owns_hardware {
        true => shapes(&devices),
        false => String::new(),
    };
    let policy = Policy {
        view: setup.view,
        ..Policy::default()
    };
    let limits = Limits::default();
    let mut places = Places::default();
    let mut functions = Vec::new();
    for (number, device) in (0..).zip(devices) {
        let device = VirtualDevice::new(device, &policy).map_err(|error| error.to_string())?;
        let control = Control::new().map_err(|error| error.to_string())?;
        control.set_device(&device);
        if let Some(lost) = setup.gone {
            let why = match lost {
                Lost::Worker => GoneReason::Failed("its worker has died".into()),
                Lost::Function => GoneReason::Unplugged,
                Lost::Time => GoneReason::Revoked,
            };
            device.gone(why, false);
        }
        for region in 0..uvfio_core::region_index::ROM {
            let info = device.region_info(region).map_err(|error| error.to_string())?;
            longest_file = longest_file.max(info.bytes);
        }
        let users = places.add(device.name(), &control);
        let served = Served {
            number,
            device,
            control,
            channel: Arc::clone(channel),
            limits,
            gone: setup.gone.is_some(),
        };
        functions.push((served, users));
    }
    let room = memory::for_users(&policy, &limits, functions.len(), spec.memory_bytes());
    listen(Arc::clone(channel), places)?;
    // The first one is this thread's. All threads are made before anything is forbidden.
    let mut functions = functions.into_iter();
    let (first, users) = functions.next().ok_or("there is no device")?;
    let others = functions.map(|(served, users)| served.on_its_own_thread(users));
    let others: Result<Vec<_>, _> = others.collect();
    let others = others.map_err(|error| error.to_string())?;

    let files = begun.files();
    let tables: &[&[Call]] = match owns_hardware {
        true => &[CALLS, HARDWARE_CALLS],
        false => &[CALLS],
    };
    begun
        .finish(longest_file, room, tables)
        .map_err(|error| error.to_string())?;
    tell_how_confined(files, tables);
    tell(&Report::Ready { shape })?;
    let mut ended = first.serve(users);
    for other in others {
        let other = other.join().unwrap_or_else(|_| Err("a thread has ended".into()));
        ended = match (ended, other) {
            (Ok(Ended::Stopped), other) => other,
            (Ok(_), Err(why)) => Err(why),
            (ended, _) => ended,
        };
    }
    ended
}

/// The shapes of devices in words, and devices of such shapes that are gone.
fn shapes(devices: &[Arc<dyn Device>]) -> String {
    let shapes = devices
        .iter()
        .map(|device| Shape::of(&device.blueprint()).to_text());
    shapes.collect::<Vec<_>>().join(BETWEEN_SHAPES)
}

fn remains(shapes: &str) -> Result<Vec<Arc<dyn Device>>, String> {
    let mut devices: Vec<Arc<dyn Device>> = Vec::new();
    for shape in shapes.split(BETWEEN_SHAPES) {
        let shape = Shape::from_text(shape).ok_or("the device's shape is not known")?;
        devices.push(Remains::of(shape));
    }
    Ok(devices)
}

/// A device that is served: of several functions one.
struct Served {
    /// Its place in the specification.
    number: u8,
    device: Arc<VirtualDevice>,
    control: Arc<Control>,
    channel: Arc<Channel>,
    limits: Limits,
    /// It is gone from the start.
    gone: bool,
}

impl Served {
    fn on_its_own_thread(self, users: Receiver<User>) -> std::io::Result<JoinHandle<Result<Ended, String>>> {
        let name = format!("function {}", self.number);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || self.serve(users))
    }

    /// Serves its users, until an order or the device ends that.
    fn serve(self, users: Receiver<User>) -> Result<Ended, String> {
        let free = || {
            let free = Report::Free {
                function: self.number,
            };
            let told = self.channel.report(&free);
            told.map_err(|error| format!("the supervisor does not listen: {error}"))
        };
        one_after_another(users, |user| self.serve_user(user), free)
    }

    /// Serves one user, and says how serving has ended with it, if it has.
    fn serve_user(&self, user: User) -> Result<Option<Ended>, String> {
        let (device, name) = (&self.device, self.device.name());
        let stream = user.stream;
        let made = if self.gone {
            Server::resume(stream, Arc::clone(device), self.limits, &user.journal)
                .map_err(|error| error.to_string())
        } else {
            Server::with_journal(stream, Arc::clone(device), self.limits, &user.journal)
                .map_err(|error| error.to_string())
        };
        match made {
            Ok(server) => {
                serve_one(server, &user.peer, device, &self.control).map_err(|error| error.to_string())?;
            }
            Err(error) => {
                tracing::error!(target: "audit", "{name}: {} can't be served: {error}", user.peer);
            }
        }
        if self.gone {
            return Ok(Some(if self.control.stopping() {
                Ended::Stopped
            } else {
                Ended::Gone
            }));
        }
        how_ended(device, &self.control).map_err(|error| error.to_string())
    }
}

/// Serves users until one ends that, and has each who has left reported by `free`. The supervisor hands out a function
/// that is free: so where there is no user after this one, there is no place for one by then, and who comes is turned
/// away.
fn one_after_another<U>(
    users: Receiver<U>,
    mut serve: impl FnMut(U) -> Result<Option<Ended>, String>,
    mut free: impl FnMut() -> Result<(), String>,
) -> Result<Ended, String> {
    while let Ok(user) = users.recv() {
        if let Some(ended) = serve(user).transpose() {
            drop(users);
            // How it ended is said after all, where somebody listens.
            let _ = free();
            return ended;
        }
        free()?;
    }
    Ok(Ended::Stopped)
}

/// What the supervisor has opened.
#[derive(Default)]
struct Given {
    images: Vec<Image>,
    functions: Vec<Descriptors>,
}

impl Given {
    fn open(self, spec: &DeviceSpec, view: View) -> Result<Opened, String> {
        let functions = spec.addresses().iter().zip(self.functions);
        let functions = functions.map(|(address, given)| Owned::from_descriptors(*address, view, given));
        let functions: Result<Vec<_>, _> = functions.collect();
        Ok(Opened {
            images: self.images,
            functions: functions.map_err(|error| error.to_string())?,
        })
    }
}

/// Waits for all that is needed to make the device; none where the worker is to end instead.
fn setup(channel: &Channel) -> Result<Option<(Setup, Given)>, String> {
    let mut given = Given::default();
    loop {
        match channel
            .next_order()
            .map_err(|error| format!("no orders: {error}"))?
        {
            Some(Order::Image(image)) => given.images.push(image),
            Some(Order::Function(descriptors)) => given.functions.push(descriptors),
            Some(Order::Make(setup)) => return Ok(Some((setup, given))),
            Some(
                Order::Serve { .. } | Order::TakeAway | Order::RequestRelease | Order::ReportError { .. },
            ) => {
                return Err("a user came before the device".into());
            }
            Some(Order::Stop) | None => return Ok(None),
        }
    }
}

fn tell_how_confined(files: Files, tables: &[&[Call]]) {
    let calls: usize = tables.iter().map(|table| table.len()).sum();
    match files {
        Files::None => tracing::info!(
            "confined: no files, no network, {calls} system calls (Landlock fully enforced, seccomp)"
        ),
        Files::Partly => tracing::warn!(
            "confined: {calls} system calls; this kernel's Landlock knows only a part of the rules about files"
        ),
        Files::NotConfined => tracing::warn!(
            "confined: {calls} system calls; this kernel has no Landlock, so they alone keep it from files"
        ),
    }
}

/// Where the orders for each function go.
#[derive(Default)]
struct Places(Vec<(&'static str, Arc<Control>, Sender<User>)>);

impl Places {
    /// One more function; its users come out of what is returned.
    fn add(&mut self, name: &'static str, control: &Arc<Control>) -> Receiver<User> {
        let (send, users) = mpsc::channel();
        self.0.push((name, Arc::clone(control), send));
        users
    }

    /// Hands a user to its function. False where the function has none any more: it did not come back from its reset,
    /// while others of its group work on.
    fn serve(&self, function: u8, user: User) -> bool {
        let Some((name, _, users)) = self.0.get(usize::from(function)) else {
            return false;
        };
        let sent = users.send(user);
        if let Err(SendError(user)) = &sent {
            tracing::warn!(
                target: "audit",
                "{name}: {} can't be served: the function has not been reset after its last user, and is had once in a \
                 lease", user.peer
            );
        }
        sent.is_ok()
    }

    fn take_away(&self) {
        self.0.iter().for_each(|(_, control, _)| control.take_away());
    }

    fn request_release(&self) {
        self.0
            .iter()
            .for_each(|(_, control, _)| control.request_release());
    }

    fn report_error(&self, function: u8) {
        if let Some((_, control, _)) = self.0.get(usize::from(function)) {
            control.report_error();
        }
    }

    /// Ends all, and lets nobody in any more.
    fn stop(self) {
        self.0.iter().for_each(|(_, control, _)| control.stop());
    }
}

/// Follows orders on a thread of its own.
fn listen(channel: Arc<Channel>, places: Places) -> Result<(), String> {
    std::thread::Builder::new()
        .name("orders".into())
        .stack_size(256 << 10)
        .spawn(move || {
            loop {
                match channel.next_order() {
                    Ok(Some(Order::Serve {
                        function,
                        stream,
                        journal,
                        peer,
                    })) => {
                        let user = User {
                            stream,
                            journal,
                            peer,
                        };
                        // The others may have users for long. Nobody to tell where the supervisor is gone.
                        if !places.serve(function, user) {
                            let _ = channel.report(&Report::Free { function });
                        }
                    }
                    Ok(Some(Order::TakeAway)) => places.take_away(),
                    Ok(Some(Order::RequestRelease)) => places.request_release(),
                    Ok(Some(Order::ReportError { function })) => places.report_error(function),
                    Ok(Some(Order::Stop)) => {
                        places.stop();
                        break;
                    }
                    Ok(Some(Order::Image(_) | Order::Function(_) | Order::Make(_))) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(None) | Err(_) => {
                        places.stop();
                        std::thread::sleep(ALONE);
                        std::process::exit(1);
                    }
                }
            }
        })
        .map_err(|error| error.to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_after_the_last_user_of_a_function_was_reported_is_turned_away() {
        for last in [Err("it did not come back".to_owned()), Ok(Some(Ended::Gone))] {
            let (send, users) = mpsc::channel();
            let mut said = vec![last.clone(), Ok(None)];
            send.send(1).expect("a place");
            let mut next = 2;
            let mut taken = Vec::new();
            let ended = one_after_another(
                users,
                |_| said.pop().expect("nobody after the last one"),
                || {
                    // As the supervisor does once it has heard that.
                    taken.push(send.send(next).is_ok());
                    next += 1;
                    Ok(())
                },
            );
            assert_eq!(taken, [true, false], "{last:?}");
            assert_eq!(ended.map(Some), last);
        }
    }
}
