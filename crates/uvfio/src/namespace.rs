//! A user namespace of one's own.
#![allow(unsafe_code)] // The system call is unsafe for what it can do to descriptors shared between threads.

use rustix::thread::UnshareFlags;

/// Moves the process, which must have one thread only, into a new user namespace, in which it has no mapped uid.
///
/// # Errors
/// Where the system forbids it, or the process has several threads.
pub(crate) fn leave_for_new_user_namespace() -> rustix::io::Result<()> {
    // SAFETY: only the user namespace is unshared; descriptor tables and memory stay as they are, which is what the
    // unsafety is about.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }
}

/// Moves the process into a new namespace of host names: what least needs rights in its user namespace.
///
/// # Errors
/// Where the process has no such rights.
pub(crate) fn leave_for_new_host_name() -> rustix::io::Result<()> {
    // SAFETY: as above, of host names.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUTS) }
}

/// The user namespace of process `who` (`self`, or a number), as the kernel names it.
pub(crate) fn user_namespace(who: &str) -> String {
    std::fs::read_link(format!("/proc/{who}/ns/user")).map_or_else(
        |error| format!("unknown ({error})"),
        |link| link.display().to_string(),
    )
}
