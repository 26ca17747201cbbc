//! Closing what a process was started with and should not have.
#![allow(unsafe_code)] // Descriptors that nobody here owns are known by number only.

use rustix::io::Errno;

/// Closes every descriptor from 3 on. To be called before any is opened.
pub(super) fn close_all_but_standard() -> Result<(), Errno> {
    // SAFETY: numbers only; nothing of this process owns a descriptor above 2 yet, as the caller promises.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()
            .raw_os_error()
            .map_or(Errno::NOSYS, Errno::from_raw_os_error))
    }
}
