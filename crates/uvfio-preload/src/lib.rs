//! The library by which `uvfio run` catches a program's calls on files of VFIO's. It is preloaded (`LD_PRELOAD`), and has
//! the names of those functions of libc that such calls are made by.
//!
//! ```text
//! open, ioctl, pread, mmap ...   files, transfer,   the kernel first; its refusal shows that a call is ours
//!                                map, stat
//!   -> ask                                          one call to the supervisor, who does everything
//! ```
//!
//! What is not VFIO's costs a comparison: `ioctl` looks at its request; the others make the system call, and only where
//! that fails, in the way that it does for nodes and files of ours, is the supervisor asked. Nothing here waits for a lock
//! or allocates, so it may be called from any thread, after fork, and in a signal's handler.
//!
//! Nothing here may panic; were it to, the process would be aborted, since no panic crosses an `extern "C"` function.

/// Defines a function under names that libc has for it. Where libc's declaration ends in `...`, one word follows, which is
/// passed as a parameter is on the architectures that this is built for.
macro_rules! exported {
    ([$first:ident $(, $rest:ident)*] $arguments:tt -> $result:ty $body:block) => {
        exported!(@one $first $arguments -> $result $body);
        exported!([$($rest),*] $arguments -> $result $body);
    };
    ([] $arguments:tt -> $result:ty $body:block) => {};
    (@one $name:ident ($($argument:ident : $kind:ty),*) -> $result:ty $body:block) => {
        #[unsafe(no_mangle)]
        pub(crate) unsafe extern "C" fn $name($($argument: $kind),*) -> $result $body
    };
}

mod ask;
mod connection;
mod files;
mod instruction;
mod map;
mod mask;
mod next;
mod raw;
mod regions;
mod stat;
mod transfer;
mod trap;
