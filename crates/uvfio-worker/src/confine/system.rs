//! Calls for which there is no library: giving up what a process was started with and should not have, and what the
//! kernel says of itself.
#![allow(unsafe_code)] // Descriptors that nobody here owns are known by number only; handlers are process-wide.

use rustix::io::Errno;

/// Closes every descriptor from 3 on. To be called before any is opened.
pub(super) fn close_all_but_standard() -> Result<(), Errno> {
    // SAFETY: numbers only; nothing of this process owns a descriptor above 2 yet, as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Takes away the handlers by which Rust tells of a stack that is too small: they make calls that are not in the list,
/// and a worker that dies of SIGSEGV should be seen to.
pub(super) fn no_fault_handlers() -> Result<(), Errno> {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action is always sound.
        if unsafe { libc::signal(signal, libc::SIG_DFL) } == libc::SIG_ERR {
            return Err(last_error());
        }
    }
    Ok(())
}

/// The version of the kernel's Landlock interface; none where it has none, or has it switched off.
#[must_use]
pub fn landlock_version() -> Option<u32> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes no memory and makes no descriptor; it gives the version.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(version).ok()
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
