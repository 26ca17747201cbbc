//! The program's parent: a process between the supervisor and the program.
//!
//! It moves to namespaces of its own, in which it may mount; has the program find what it should; gives up its rights;
//! starts the program, and waits for it. Whatever the program leaves behind becomes its child (it is a subreaper) and is
//! killed at the end, which is also when the supervisor is gone, however that came about.

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, exit};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, wait};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT};

use crate::channel::{Channel, FromInside, Go, ToInside};
use crate::filter::install_before;
use crate::place::place;
use crate::{descendants, namespace};

/// Becomes the program's parent. `command` is the program and its arguments; by `socket` the supervisor talks. The
/// process must have one thread only.
///
/// Comes back when the program has ended and everything that it left is gone. What goes wrong is told to the supervisor.
pub fn inside(socket: UnixStream, command: &[OsString]) {
    let Ok(mut channel) = Channel::new(socket) else {
        return;
    };
    let started = prepare(&mut channel).and_then(|go| start(command, go, &channel));
    let last = match started {
        Ok(program) => end_of(&program, channel),
        Err(failure) => channel.tell(&failure),
    };
    // Where this fails nobody is left to be told.
    let _ = last;
    descendants::kill_all();
}

/// Everything that must be before the program; tells how that is started.
fn prepare(channel: &mut Channel) -> Result<Go, FromInside> {
    let failed = |error: io::Error| FromInside::Failed(error.to_string());
    // What a terminal sends to everybody in its foreground is for the program. Not ignored: that it would inherit.
    for signal in [SIGINT, SIGQUIT, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    }
    set_child_subreaper(Some(getpid())).map_err(|errno| failed(errno.into()))?;
    let ToInside::Tree(tree) = channel.hear().map_err(failed)? else {
        return Err(FromInside::Failed("it was told nothing to place".into()));
    };
    namespace::enter().map_err(FromInside::Failed)?;
    let placed = place(&tree).map_err(|error| FromInside::Failed(error.to_string()))?;
    namespace::give_up_rights().map_err(failed)?;
    let listener = placed.listeners.first().map_or(-1, AsRawFd::as_raw_fd);
    let nodes = placed.nodes;
    channel
        .tell(&FromInside::Placed { nodes, listener })
        .map_err(failed)?;
    match channel.hear().map_err(failed)? {
        ToInside::Go(go) => Ok(go),
        ToInside::Tree(_) => Err(FromInside::Failed("it was told to place something again".into())),
    }
}

fn start(command: &[OsString], go: Go, channel: &Channel) -> Result<Child, FromInside> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(FromInside::NotStarted("no program was given".into()));
    };
    let refused = |error: io::Error| {
        FromInside::NotStarted(format!("{} could not be started: {error}", program.display()))
    };
    let mut command = Command::new(program);
    command.args(arguments).envs(go.environment);
    if let Some(first_device) = go.filter {
        install_before(&mut command, channel.socket().map_err(refused)?, first_device);
    }
    command.spawn().map_err(refused)
}

/// Waits for the program, and tells the supervisor how it ended.
fn end_of(program: &Child, mut channel: Channel) -> io::Result<()> {
    let process = program.id() as i32;
    channel.tell(&FromInside::Started { process })?;
    let mut closed = channel.socket()?;
    std::thread::Builder::new().spawn(move || {
        // Nothing more is said: this comes back when the supervisor has ended.
        let _ = closed.read(&mut [0]);
        descendants::kill_all();
        exit(1);
    })?;
    loop {
        if let Some((ended, status)) = wait(WaitOptions::empty())?
            && Some(ended) == Pid::from_raw(process)
        {
            let status = status.as_raw();
            return channel.tell(&FromInside::Ended { status });
        }
    }
}
