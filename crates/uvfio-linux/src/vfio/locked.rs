//! The limit of locked memory, against which the kernel counts what devices are given.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use rustix::thread::CapabilitySet;

use super::rule::Rule;

/// Files of a process that may open none by the time when it takes a container.
static EARLY: OnceLock<LockedMemory> = OnceLock::new();

/// Opens what tells of this process's limit of locked memory, for containers that it takes when it can open no files
/// any more.
pub fn watch_locked_memory() {
    EARLY.get_or_init(LockedMemory::open);
}

/// Where this process can see its limit and what counts against it, opened early: a process that is confined later can
/// neither open files nor ask for its limits, but still read these.
#[derive(Debug)]
pub(super) struct LockedMemory {
    status: Option<File>,
    limits: Option<File>,
}

impl LockedMemory {
    /// Of this process.
    pub(super) fn new() -> Self {
        let copy = |file: &Option<File>| file.as_ref()?.try_clone().ok();
        match EARLY.get() {
            Some(Self { status, limits }) => Self {
                status: copy(status),
                limits: copy(limits),
            },
            None => Self::open(),
        }
    }

    fn open() -> Self {
        Self {
            status: File::open("/proc/self/status").ok(),
            limits: File::open("/proc/self/limits").ok(),
        }
    }

    /// The kernel's refusal of `wanted` bytes more, with the numbers that go with it.
    pub(super) fn rule(&self, wanted: u64) -> Rule {
        Rule::LockedMemory {
            wanted,
            limit: limit(&text(self.limits.as_ref())),
            locked: locked(&text(self.status.as_ref())),
        }
    }

    /// The same, where it is certain before the kernel is asked: this process is not exempt from the limit, and what is
    /// locked and `wanted` are more than that.
    pub(super) fn too_much(&self, wanted: u64) -> Option<Rule> {
        let status = text(self.status.as_ref());
        let limit = limit(&text(self.limits.as_ref()))?;
        let sum = locked(&status)?.checked_add(wanted);
        (!exempt(&status) && sum.is_none_or(|sum| sum > limit)).then(|| self.rule(wanted))
    }
}

/// What is in such a file now; nothing where it can't be read.
fn text(file: Option<&File>) -> String {
    let mut bytes = [0; 8192];
    let read = file.and_then(|file| file.read_at(&mut bytes, 0).ok());
    let bytes = bytes.get(..read.unwrap_or_default()).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

/// What stands after `name` in its line.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()
}

/// The limit in bytes; `None`: there is none, or it is not known.
fn limit(limits: &str) -> Option<u64> {
    after(limits, "Max locked memory")?.parse().ok()
}

/// How many bytes are locked.
fn locked(status: &str) -> Option<u64> {
    let kib: u64 = after(status, "VmLck:")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Whether the limit does not hold.
fn exempt(status: &str) -> bool {
    after(status, "CapEff:")
        .and_then(|bits| u64::from_str_radix(bits, 16).ok())
        .is_some_and(|bits| bits & CapabilitySet::IPC_LOCK.bits() != 0)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit};
    use rustix::thread::capabilities;

    use super::*;

    #[test]
    fn limit_locked_and_exemption_are_read_from_proc() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             62778                62778                processes\n\
                      Max locked memory         8388608              unlimited            bytes\n";
        assert_eq!(limit(limits), Some(8_388_608));
        assert_eq!(limit(&limits.replace("8388608  ", "unlimited")), None);
        assert_eq!(limit(""), None);
        let status =
            "Name:\tuvfio\nVmLck:\t      32 kB\nCapPrm:\tffffffffffffffff\nCapEff:\t0000000000004000\n";
        assert_eq!((locked(status), exempt(status)), (Some(32 << 10), true));
        let status = "VmLck:\t0 kB\nCapEff:\t000001ffffffbfff\n";
        assert_eq!((locked(status), exempt(status)), (Some(0), false));
        assert_eq!((locked(""), exempt("")), (None, false));
    }

    #[test]
    fn this_process_is_seen_as_the_kernel_says() {
        let ours = LockedMemory::new();
        let status = text(ours.status.as_ref());
        assert_eq!(
            limit(&text(ours.limits.as_ref())),
            getrlimit(Resource::Memlock).current
        );
        assert!(locked(&status).is_some(), "{status}");
        let has = capabilities(None)
            .unwrap()
            .effective
            .contains(CapabilitySet::IPC_LOCK);
        assert_eq!(exempt(&status), has);
    }
}
