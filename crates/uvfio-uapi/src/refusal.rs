//! Why a call was refused: a number for the caller, a sentence for whoever reads the log.

use rustix::io::Errno;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request}: {why} ({errno})")]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    /// The request, as the kernel's header names it.
    pub(crate) request: &'static str,
    /// The rule, and what to do.
    pub(crate) why: String,
}
