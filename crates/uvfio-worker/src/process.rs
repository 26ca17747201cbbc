//! The worker's process, from its start to its end.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
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
    let spec: DeviceSpec = setup.spec.parse().map_err(|error| format!("{error}"))?;
    let opened = given.open(&spec, setup.view)?;
    let bytes = opened.images.iter().map(|image| image.bytes);
    let mut longest_file = bytes.max().unwrap_or_default().max(spec.own_file_bytes());
    let owns_hardware = opened.function.is_some();
    let device: Arc<dyn Device> = if setup.gone.is_some() && spec.address().is_some() {
        let shape = Shape::from_text(&setup.shape).ok_or("the device's shape is not known")?;
        Remains::of(shape)
    } else {
        spec.build_over(opened, setup.bars)
            .map_err(|error| error.to_string())?
    };
    let shape = match owns_hardware {
        true => Shape::of(&device.blueprint()).to_text(),
        false => String::new(),
    };
    let policy = Policy {
        view: setup.view,
        ..Policy::default()
    };
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
    let users = listen(Arc::clone(channel), Arc::clone(&control))?;
    for region in 0..uvfio_core::region_index::ROM {
        let info = device.region_info(region).map_err(|error| error.to_string())?;
        longest_file = longest_file.max(info.bytes);
    }

    let limits = Limits::default();
    let files = begun.files();
    let room = memory::for_users(&policy, &limits, spec.memory_bytes());
    let tables: &[&[Call]] = match owns_hardware {
        true => &[CALLS, HARDWARE_CALLS],
        false => &[CALLS],
    };
    begun
        .finish(longest_file, room, tables)
        .map_err(|error| error.to_string())?;
    tell_how_confined(files, tables);
    tell(&Report::Ready { shape })?;
    for user in users {
        let name = device.name();
        let stream = user.stream;
        let made = if setup.gone.is_some() {
            Server::resume(stream, Arc::clone(&device), limits, &user.journal)
                .map_err(|error| error.to_string())
        } else {
            Server::with_journal(stream, Arc::clone(&device), limits, &user.journal)
                .map_err(|error| error.to_string())
        };
        match made {
            Ok(server) => {
                serve_one(server, &user.peer, &device, &control).map_err(|error| error.to_string())?;
            }
            Err(error) => {
                tracing::error!(target: "audit", "{name}: {} can't be served: {error}", user.peer);
            }
        }
        if setup.gone.is_some() {
            return Ok(if control.stopping() {
                Ended::Stopped
            } else {
                Ended::Gone
            });
        }
        if let Some(ended) = how_ended(&device, &control).map_err(|error| error.to_string())? {
            return Ok(ended);
        }
        tell(&Report::Free)?;
    }
    Ok(Ended::Stopped)
}

/// What the supervisor has opened.
#[derive(Default)]
struct Given {
    images: Vec<Image>,
    function: Option<Descriptors>,
}

impl Given {
    fn open(self, spec: &DeviceSpec, view: View) -> Result<Opened, String> {
        let function = match (self.function, spec.address()) {
            (Some(descriptors), Some(address)) => {
                let owned = Owned::from_descriptors(address, view, descriptors);
                Some(owned.map_err(|error| error.to_string())?)
            }
            _ => None,
        };
        Ok(Opened {
            images: self.images,
            function,
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
            Some(Order::Function(descriptors)) => given.function = Some(descriptors),
            Some(Order::Make(setup)) => return Ok(Some((setup, given))),
            Some(Order::Serve { .. } | Order::TakeAway | Order::RequestRelease | Order::ReportError) => {
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

/// Follows orders on a thread of its own; users come out of what is returned.
fn listen(channel: Arc<Channel>, control: Arc<Control>) -> Result<Receiver<User>, String> {
    let (send, users) = mpsc::channel();
    std::thread::Builder::new()
        .name("orders".into())
        .stack_size(256 << 10)
        .spawn(move || {
            loop {
                match channel.next_order() {
                    Ok(Some(Order::Serve {
                        stream,
                        journal,
                        peer,
                    })) => {
                        // The main thread has ended, and with it soon the process.
                        let _ = send.send(User {
                            stream,
                            journal,
                            peer,
                        });
                    }
                    Ok(Some(Order::TakeAway)) => control.take_away(),
                    Ok(Some(Order::RequestRelease)) => control.request_release(),
                    Ok(Some(Order::ReportError)) => control.report_error(),
                    Ok(Some(Order::Stop)) => {
                        control.stop();
                        break;
                    }
                    Ok(Some(Order::Image(_) | Order::Function(_) | Order::Make(_))) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(None) | Err(_) => {
                        control.stop();
                        drop(send);
                        std::thread::sleep(ALONE);
                        std::process::exit(1);
                    }
                }
            }
        })
        .map_err(|error| error.to_string())?;
    Ok(users)
}
