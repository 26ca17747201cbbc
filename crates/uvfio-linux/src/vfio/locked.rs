//! The limit of locked memory, against which the kernel counts what devices are given.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use super::rule::Rule;

/// This process's limit, looked at once: a process that is confined later can't ask any more.
#[derive(Debug)]
pub(super) struct LockedMemory {
    limit: Option<u64>,
    /// The limit does not hold for this process.
    exempt: bool,
    /// `/proc/self/status`, which says how much is locked.
    status: Option<File>,
}

impl LockedMemory {
    /// Of this process.
    pub(super) fn new() -> Self {
        Self {
            limit: getrlimit(Resource::Memlock).current,
            exempt: capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK)),
            status: File::open("/proc/self/status").ok(),
        }
    }

    /// The kernel's refusal of `wanted` bytes more, with the numbers that go with it.
    pub(super) fn rule(&self, wanted: u64) -> Rule {
        Rule::LockedMemory {
            wanted,
            limit: self.limit,
            locked: self.now(),
        }
    }

    /// The same, where it is certain before the kernel is asked: what is locked and `wanted` are more than the limit.
    pub(super) fn too_much(&self, wanted: u64) -> Option<Rule> {
        let limit = self.limit?;
        let sum = self.now()?.checked_add(wanted);
        (!self.exempt && sum.is_none_or(|sum| sum > limit)).then(|| self.rule(wanted))
    }

    /// How many bytes this process has locked.
    fn now(&self) -> Option<u64> {
        let mut text = [0; 4096];
        let bytes = self.status.as_ref()?.read_at(&mut text, 0).ok()?;
        let text = String::from_utf8_lossy(text.get(..bytes)?);
        let line = text.lines().find_map(|line| line.strip_prefix("VmLck:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_locked_is_known_and_counted_against_its_limit() {
        let mut locked = LockedMemory::new();
        let now = locked.now().unwrap();
        assert_eq!(locked.too_much(0), None, "{locked:?}");
        (locked.limit, locked.exempt) = (Some(now + 0x1000), false);
        assert_eq!(locked.too_much(0x1000), None);
        let rule = locked.too_much(0x1001);
        let expected = Rule::LockedMemory {
            wanted: 0x1001,
            limit: Some(now + 0x1000),
            locked: Some(now),
        };
        assert_eq!(rule, Some(expected));
        locked.exempt = true;
        assert_eq!(locked.too_much(u64::MAX), None);
    }
}
