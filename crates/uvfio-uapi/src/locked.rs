//! Memory that counts as locked while it is mapped for DMA. The kernel, which pins pages, counts them against
//! RLIMIT_MEMLOCK; here nothing is pinned, so whoever catches calls says whether there is a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use crate::Account;
use crate::refusal::{Outcome, Refusal};

/// Bytes that are counted in an account as long as this lives.
#[derive(Debug)]
pub(crate) struct Locked {
    account: Arc<AtomicU64>,
    bytes: u64,
}

impl Locked {
    /// Counts `bytes` more; ENOMEM where the account's limit does not allow that.
    pub(crate) fn new(account: Account, bytes: u64) -> Outcome<Self> {
        let Account { locked, limit } = account;
        let more = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit);
        match locked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self {
                account: locked,
                bytes,
            }),
            Err(now) => Err(Refusal::new(
                Errno::NOMEM,
                format!(
                    "{bytes:#x} bytes beside the {now:#x} that are locked for DMA would be more than the limit of \
                     {limit:#x}; raise RLIMIT_MEMLOCK (ulimit -l)"
                ),
            )),
        }
    }

    /// Whether it counts in this account.
    pub(crate) fn is_of(&self, account: &Account) -> bool {
        Arc::ptr_eq(&self.account, &account.locked)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
