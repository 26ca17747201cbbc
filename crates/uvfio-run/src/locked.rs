//! Memory that counts as locked while it is mapped for DMA, where there is to be a limit: nothing is locked here, but a
//! program may be tested for what the kernel would say.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use uvfio_uapi::Account;

/// How much memory a program may map for DMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LockedMemory {
    /// As much as it has.
    #[default]
    Unlimited,
    /// RLIMIT_MEMLOCK of the process that maps it, as with the kernel, less what it has locked by mlock(2) where that is
    /// counted together.
    Rlimit,
    /// So many bytes.
    Bytes(u64),
}

/// A text that says no [`LockedMemory`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither `unlimited` nor `rlimit` nor a number of bytes, such as 8388608 or 8M")]
pub struct LockedMemoryError(String);

impl FromStr for LockedMemory {
    type Err = LockedMemoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "unlimited" => return Ok(Self::Unlimited),
            "rlimit" => return Ok(Self::Rlimit),
            _ => {}
        }
        let (digits, unit) = match text.find(|letter: char| !letter.is_ascii_digit()) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let shift = match unit {
            "" => Some(0),
            "K" => Some(10),
            "M" => Some(20),
            "G" => Some(30),
            _ => None,
        };
        let bytes = shift.and_then(|shift| digits.parse::<u64>().ok()?.checked_mul(1 << shift));
        bytes
            .map(Self::Bytes)
            .ok_or_else(|| LockedMemoryError(text.to_owned()))
    }
}

impl LockedMemory {
    /// The account of a process with these `limits` and this `status`, files of `/proc`, in which `locked` bytes are counted;
    /// `mlocked`: with what it has locked otherwise.
    pub(crate) fn account(
        self,
        locked: &Arc<AtomicU64>,
        mlocked: bool,
        limits: impl FnOnce() -> Option<String>,
        status: impl FnOnce() -> Option<String>,
    ) -> Option<Account> {
        let limit = match self {
            Self::Unlimited => return None,
            Self::Bytes(bytes) => bytes,
            Self::Rlimit => {
                let limit = rlimit(&limits()?)?;
                let other = if mlocked { locked_otherwise(&status()?) } else { 0 };
                limit.saturating_sub(other)
            }
        };
        Some(Account {
            locked: Arc::clone(locked),
            limit,
        })
    }
}

/// The soft limit in `/proc/PID/limits`; none where there is none.
fn rlimit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What `/proc/PID/status` says is locked, in bytes.
fn locked_otherwise(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_on_the_command_line_is_a_word_or_a_number() {
        for (text, expected) in [
            ("unlimited", Some(LockedMemory::Unlimited)),
            ("rlimit", Some(LockedMemory::Rlimit)),
            ("0", Some(LockedMemory::Bytes(0))),
            ("4096", Some(LockedMemory::Bytes(4096))),
            ("8M", Some(LockedMemory::Bytes(8 << 20))),
            ("17179869184G", None),
            ("8m", None),
            ("M", None),
            ("", None),
            ("-1", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_limit_is_the_process_s_less_what_it_has_locked() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max locked memory         8388608              unlimited            bytes     \n";
        let status = "Name:\tx\nVmLck:\t      12 kB\nVmPin:\t       4 kB\n";
        let locked = Arc::default();
        let limit = |of: LockedMemory, mlocked| {
            let account = of.account(&locked, mlocked, || Some(limits.into()), || Some(status.into()));
            account.map(|account| account.limit)
        };
        assert_eq!(limit(LockedMemory::Rlimit, true), Some(8_388_608 - 12 * 1024));
        assert_eq!(limit(LockedMemory::Rlimit, false), Some(8_388_608));
        assert_eq!(limit(LockedMemory::Bytes(5), true), Some(5));
        assert_eq!(limit(LockedMemory::Unlimited, true), None);
        assert_eq!(rlimit(&limits.replace("8388608  ", "unlimited")), None);
    }
}
