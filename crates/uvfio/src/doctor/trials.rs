//! What shows only when it is tried.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};
use uvfio_linux::device::BarGrant;
use uvfio_pci::View;
use uvfio_worker::{BetweenUsers, DeviceSpec, Job, Orders, Supervisor, Terms};

use super::findings::Namespaces;
use crate::namespace;

/// The hidden verb under which the command tries a user namespace.
pub(crate) const VERB: &str = "doctor-namespace";

/// An ordinary user, whom nobody is: `nobody`.
const ORDINARY: u32 = 65_534;

/// Why no sealed memfd can be made, where none can.
pub(super) fn memfd_seals() -> Result<(), String> {
    let made =
        memfd_create("uvfio-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).and_then(|memory| {
            ftruncate(&memory, 4096)?;
            fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
        });
    made.map_err(|errno| errno.to_string())
}

pub(super) fn pidfd() -> bool {
    pidfd_open(getpid(), PidfdFlags::empty()).is_ok()
}

/// How many bytes this process may lock; none: no limit.
pub(super) fn locked_bytes() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Starts a server's worker for the smallest device, up to the point where a user could come, and ends it.
pub(super) fn worker() -> Result<(), String> {
    let spec: DeviceSpec = "edu".parse().map_err(|error| format!("{error}"))?;
    let orders = Orders::new().map_err(|error| error.to_string())?;
    let job = Job {
        spec: &spec,
        terms: Terms::of(View::Virtual),
        bars: BarGrant::Trapped,
        log: "off",
        ansi: false,
        between_users: BetweenUsers::Reset,
        release_within: Duration::ZERO,
    };
    Supervisor::start(&job, &orders).map_err(|error| error.to_string())?;
    Ok(())
}

/// Has an ordinary user, who is another one where this one is root, try it.
pub(super) fn namespaces() -> Namespaces {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(VERB)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if rustix::process::geteuid().is_root() {
        command.uid(ORDINARY).gid(ORDINARY);
    }
    match command.output() {
        Ok(output) => said(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => Namespaces::CantTell(format!(
            "no process of an ordinary user could be started: {error}"
        )),
    }
}

fn said(answer: &str) -> Namespaces {
    match answer.trim().split_once(' ') {
        None if answer.trim() == "work" => Namespaces::Work,
        Some(("refused", why)) => Namespaces::Refused(why.to_owned()),
        Some(("powerless", why)) => Namespaces::Powerless(why.to_owned()),
        _ => Namespaces::CantTell("the process that tried ended without an answer".into()),
    }
}

/// In the process that tries: the answer.
pub(crate) fn try_namespace() -> String {
    if let Err(errno) = namespace::leave_for_new_user_namespace() {
        return format!("refused {errno}\n");
    }
    match namespace::leave_for_new_host_name() {
        Err(errno) => format!("powerless {errno}\n"),
        Ok(()) => "work\n".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_process_that_tries_is_understood() {
        assert_eq!(said("work\n"), Namespaces::Work);
        assert_eq!(
            said("refused Operation not permitted (os error 1)\n"),
            Namespaces::Refused("Operation not permitted (os error 1)".into())
        );
        assert_eq!(said("powerless why\n"), Namespaces::Powerless("why".into()));
        for nonsense in ["", "works", "refused", "error: unknown command"] {
            assert!(matches!(said(nonsense), Namespaces::CantTell(_)), "{nonsense:?}");
        }
    }
}
