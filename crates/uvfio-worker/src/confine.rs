//! What a process gives up before it reads the first byte from its user.
//!
//! ```text
//! begin()    at the start: no other descriptors, no core dump, no new privileges, the end with its parent; then
//!            Landlock, which holds for this thread and those that it makes from now on
//!            ... the device is made, with its threads
//! finish()   limits (of memory: what is in use by then, and some more), and the list of system calls, for all threads
//! ```

mod calls;
mod system;

use std::fs::File;
use std::os::unix::fs::FileExt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

pub use calls::{CALLS, Call, HARDWARE_CALLS, Only};
pub use system::landlock_version;

/// The most descriptors: every interrupt of MSI-X and as many again.
pub(crate) const DESCRIPTORS: u64 = 4096;

/// The newest rules of Landlock's that are known here; an older kernel gets those that it knows.
const NEWEST: ABI = ABI::V6;

/// The version of Landlock's interface from which on a worker is under all of its rules that are known here.
pub const LANDLOCK_KNOWN: u32 = NEWEST as u32;

/// Why a process could not be confined. It must not serve then.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// A limit, or one of the small promises.
    #[error("the worker could not be confined ({what}): {why}")]
    System {
        /// Which.
        what: &'static str,
        /// The system's reason.
        why: rustix::io::Errno,
    },
    /// What it has of memory can't be told.
    #[error("the worker could not be confined (/proc/self/statm: {0}); it needs /proc")]
    Memory(std::io::Error),
    /// Landlock.
    #[error("the worker could not be confined (Landlock): {0}")]
    Landlock(#[from] RulesetError),
    /// The filter could not be made.
    #[error("the worker could not be confined (making the list of system calls): {0}")]
    Filter(#[from] seccompiler::BackendError),
    /// The filter could not be put in force.
    #[error("the worker could not be confined (seccomp): {0}")]
    Seccomp(#[from] seccompiler::Error),
}

/// How far the kernel's Landlock goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// No access to any file by name, no TCP, no abstract socket, no signal to others.
    None,
    /// The same, as far as this kernel knows it.
    Partly,
    /// The kernel has no Landlock, or has it switched off; the list of system calls remains.
    NotConfined,
}

/// A process whose confinement has begun, and must be [finished](Self::finish) before it serves.
#[must_use]
#[derive(Debug)]
pub struct Begun {
    files: Files,
    /// How much memory is in use: opened while files could be.
    usage: File,
}

/// Begins: closes all descriptors but 0 to 2, and gives up files and the network by name. Must be called by the only
/// thread there is.
///
/// # Errors
/// Where something is refused that every kernel has.
pub fn begin() -> Result<Begun, ConfineError> {
    let system = |what| move |why| ConfineError::System { what, why };
    system::close_all_but_standard().map_err(system("closing other descriptors"))?;
    system::no_fault_handlers().map_err(system("signals"))?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(system("the end with the parent"))?;
    limit(Resource::Core, 0)?;
    rustix::thread::set_no_new_privs(true).map_err(system("no new privileges"))?;
    let usage = File::open("/proc/self/statm").map_err(ConfineError::Memory)?;
    uvfio_linux::vfio::watch_locked_memory();
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    let files = match status.ruleset {
        RulesetStatus::FullyEnforced => Files::None,
        RulesetStatus::PartiallyEnforced => Files::Partly,
        RulesetStatus::NotEnforced => Files::NotConfined,
    };
    Ok(Begun { files, usage })
}

impl Begun {
    /// How far files are out of reach.
    #[must_use]
    pub fn files(&self) -> Files {
        self.files
    }

    /// Finishes: from now on every thread may make the calls of `tables` only ([`CALLS`], and [`HARDWARE_CALLS`] where
    /// the process owns a PCI function), no file may be made longer than `longest_file` bytes, and the process may have
    /// `more_memory` bytes beyond what it has now.
    ///
    /// # Errors
    /// Where the kernel refuses; the process must end then.
    pub fn finish(self, longest_file: u64, more_memory: u64, tables: &[&[Call]]) -> Result<(), ConfineError> {
        limit(Resource::Fsize, longest_file)?;
        limit(Resource::Nofile, DESCRIPTORS)?;
        limit(Resource::Data, self.memory_in_use()?.saturating_add(more_memory))?;
        drop(self.usage);
        // First the weaker filter: the stronger one does not let another be made.
        seccompiler::apply_filter_all_threads(&calls::no_clone3()?)?;
        let own = rustix::process::getpid().as_raw_nonzero().get();
        seccompiler::apply_filter_all_threads(&calls::filter(tables, u64::from(own.cast_unsigned()))?)?;
        Ok(())
    }

    /// Bytes that the kernel counts against the limit of data, and the first thread's stack.
    fn memory_in_use(&self) -> Result<u64, ConfineError> {
        let mut bytes = [0; 256];
        let got = self.usage.read_at(&mut bytes, 0).map_err(ConfineError::Memory)?;
        let text = String::from_utf8_lossy(bytes.get(..got).unwrap_or_default());
        // proc(5): size, resident, shared, text, lib, data and stack, dirty; in pages.
        let pages = text
            .split_whitespace()
            .nth(5)
            .and_then(|data| data.parse::<u64>().ok());
        let bytes = pages.and_then(|pages| pages.checked_mul(rustix::param::page_size() as u64));
        bytes.ok_or_else(|| ConfineError::Memory(std::io::ErrorKind::InvalidData.into()))
    }
}

/// Lowers a limit for good. One that is lower already stays as it is.
fn limit(resource: Resource, value: u64) -> Result<(), ConfineError> {
    let most = getrlimit(resource).maximum.unwrap_or(u64::MAX).min(value);
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    setrlimit(resource, limit).map_err(|why| ConfineError::System { what: "limits", why })
}
