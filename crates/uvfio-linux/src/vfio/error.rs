//! Why the kernel's VFIO refused something, in sentences.
//!
//! The kernel answers with an error number, which means something else for each request. The number is kept
//! ([`VfioError::errno`]); a [`Rule`] says what it means here, as far as that can be told, and what to do.

use std::fmt;

use rustix::io::Errno;

pub use super::chain::Malformed;
pub use super::rule::Rule;

/// The result of everything in this module.
pub type Result<T> = std::result::Result<T, VfioError>;

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum VfioError {
    /// The kernel refused; nothing has changed unless the request's own page says so.
    #[error("{asked}: {rule} [{errno}]")]
    Refused {
        /// The request, and what it was for.
        asked: Asked,
        /// What the kernel's answer means.
        rule: Box<Rule>,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The kernel was not asked, because it cannot be asked that.
    #[error("{asked}: {why}")]
    Invalid {
        /// The request, and what it was for.
        asked: Asked,
        /// Which rule it breaks.
        why: String,
    },
    /// The kernel's answer makes no sense.
    #[error("{asked}: the kernel's answer makes no sense: {source}")]
    Malformed {
        /// The request, and what it was for.
        asked: Asked,
        /// What is wrong with it.
        source: Malformed,
    },
    /// Fewer vectors could be had than asked for, so none are enabled.
    #[error("{asked}: {available} of {wanted} vectors can be had, so none are enabled; ask for {available}")]
    FewerVectors {
        /// The request, and what it was for.
        asked: Asked,
        /// How many were asked for.
        wanted: u32,
        /// How many there are to be had.
        available: u32,
    },
    /// A mapping of several pieces failed at one of them, and those before it could not be undone.
    #[error("{source}; its first {left:#x} bytes stay mapped, since they could not be undone: {undoing}")]
    LeftMapped {
        /// Why the mapping failed.
        source: Box<VfioError>,
        /// How many bytes stay mapped, from the mapping's first address on.
        left: u64,
        /// Why they do.
        undoing: Box<VfioError>,
    },
    /// An access of a region ended early.
    #[error("{asked}: ended after {done} of {wanted} bytes")]
    Partial {
        /// The access, and where it went.
        asked: Asked,
        /// How many bytes were asked for.
        wanted: usize,
        /// How many went.
        done: usize,
    },
}

impl VfioError {
    /// The kernel answered `errno` to something that is not VFIO's own.
    pub(crate) fn other(request: &'static str, about: String, errno: Errno) -> Self {
        Asked::new(request, about).refused(Rule::Other, errno)
    }

    /// The kernel's error number, where it gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::LeftMapped { source, .. } => source.errno(),
            _ => None,
        }
    }

    /// What the kernel's answer means, where it refused.
    pub fn rule(&self) -> Option<&Rule> {
        match self {
            Self::Refused { rule, .. } => Some(rule),
            Self::LeftMapped { source, .. } => source.rule(),
            _ => None,
        }
    }
}

/// A request, and what it was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The request as vfio.h names it, or the system call.
    pub request: &'static str,
    /// What it was for.
    pub about: String,
}

impl Asked {
    /// `request` for `about`.
    pub(super) fn new(request: &'static str, about: impl Into<String>) -> Self {
        Self {
            request,
            about: about.into(),
        }
    }

    /// The kernel answered `errno`, which means `rule` here.
    pub(super) fn refused(self, rule: Rule, errno: Errno) -> VfioError {
        VfioError::Refused {
            asked: self,
            rule: Box::new(rule),
            errno,
        }
    }

    /// It cannot be asked.
    pub(super) fn invalid(self, why: impl Into<String>) -> VfioError {
        VfioError::Invalid {
            asked: self,
            why: why.into(),
        }
    }

    /// The answer makes no sense.
    pub(super) fn malformed(self, source: Malformed) -> VfioError {
        VfioError::Malformed { asked: self, source }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}", self.request, self.about)
    }
}
