//! Why a call was refused: a number for the caller, a sentence for whoever reads the log.

use rustix::io::Errno;

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why} ({errno})")]
pub struct Refusal {
    /// What the caller gets.
    pub errno: Errno,
    /// The rule, and what to do.
    pub why: String,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(errno: Errno, why: impl Into<String>) -> Self {
        Self {
            errno,
            why: why.into(),
        }
    }

    /// EINVAL, the most frequent.
    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::new(Errno::INVAL, why)
    }

    /// A request that files of this kind do not know.
    pub(crate) fn unknown(request: u32) -> Self {
        Self::new(
            Errno::NOTTY,
            format!("this kind of file knows no request {request:#x}"),
        )
    }
}

/// What handlers give.
pub(crate) type Outcome<T> = Result<T, Refusal>;
