//! Has the kernel tell the supervisor of a program's system calls (seccomp's user notification): for programs that no
//! library can be preloaded to, and those that call the kernel without libc.
#![allow(unsafe_code)] // seccomp(2).

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_USER_NOTIF, c_long, seccomp_data, sock_filter, sock_fprog,
};
use rustix::thread::set_no_new_privs;

use crate::channel::FromInside;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Where in what a filter sees things are.
mod at {
    use super::seccomp_data;

    pub(super) const CALL: usize = std::mem::offset_of!(seccomp_data, nr);
    pub(super) const ARCHITECTURE: usize = std::mem::offset_of!(seccomp_data, arch);
    /// The low half of an argument.
    pub(super) const fn argument(number: usize) -> usize {
        std::mem::offset_of!(seccomp_data, args) + 8 * number
    }
}

/// Calls that open files.
pub(crate) const OPENING: &[c_long] = &[
    libc::SYS_openat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
];

/// Calls that read and write files.
const TRANSFERRING: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
];

/// From here on descriptors are devices': `room` is how many numbers the program may use. Others are rarely so high, and
/// are only slower to read where they are.
pub(crate) fn first_device(room: u64) -> RawFd {
    RawFd::try_from(room.clamp(64, 1024)).unwrap_or(1024) * 3 / 4
}

/// Has calls of this process and its children told to the descriptor that comes back: those that open files, VFIO's
/// requests, and reads and writes of descriptors from `first_device` on. It is closed on exec. Until somebody answers,
/// such calls wait.
pub(crate) fn install(first_device: RawFd) -> io::Result<OwnedFd> {
    set_no_new_privs(true)?;
    let mut filter = program(first_device as u32);
    let program = sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // Once a call is being answered, only death interrupts it: it would be made twice.
    let patient = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    for flags in [patient, 0] {
        // SAFETY: a program of that many instructions, which the kernel copies.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | flags,
                &raw const program,
            )
        };
        if listener >= 0 {
            // SAFETY: a new descriptor, which nobody else knows.
            return Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) });
        }
    }
    Err(io::Error::last_os_error())
}

/// Has [`install`] run in a process that is about to become `command`'s program. Its supervisor is told by `channel`, and has
/// taken the listener when it answers with a byte.
pub(crate) fn install_before(command: &mut Command, mut channel: UnixStream, first_device: RawFd) {
    let before = move || {
        let listener = install(first_device)?;
        let message = FromInside::Listener {
            process: std::process::id() as i32,
            listener: listener.as_raw_fd(),
        };
        let mut line = serde_json::to_vec(&message)?;
        line.push(b'\n');
        channel.write_all(&line)?;
        channel.read_exact(&mut [0])
    };
    // SAFETY: it runs in the child of a process that has one thread, so that no lock is held there, libc's allocator's among
    // them.
    unsafe { command.pre_exec(before) };
}

fn program(first_device: u32) -> Vec<sock_filter> {
    let mut program = Vec::new();
    let allow = Code::Return(SECCOMP_RET_ALLOW);
    let tell = Code::Return(SECCOMP_RET_USER_NOTIF);
    // Other architectures have other numbers.
    program.extend([
        Code::Load(at::ARCHITECTURE),
        Code::Unless(ARCHITECTURE, 1),
        Code::Skip(1),
        allow,
    ]);
    program.push(Code::Load(at::CALL));
    for call in OPENING {
        program.extend([Code::Unless(*call as u32, 1), tell]);
    }
    program.extend([
        Code::Unless(libc::SYS_ioctl as u32, 5),
        Code::Load(at::argument(1)),
        Code::And(0xffff_ff00),
        Code::Unless(0x3b00, 1),
        tell,
        allow,
    ]);
    for call in TRANSFERRING {
        program.extend([
            Code::Unless(*call as u32, 4),
            Code::Load(at::argument(0)),
            Code::UnlessAtLeast(first_device, 1),
            tell,
            allow,
        ]);
    }
    program.push(allow);
    program.into_iter().map(Code::instruction).collect()
}

/// Instructions of a filter.
#[derive(Clone, Copy)]
enum Code {
    Load(usize),
    And(u32),
    /// Skips so many unless what was loaded is this.
    Unless(u32, u8),
    /// Skips so many unless what was loaded is at least this, and not negative.
    UnlessAtLeast(u32, u8),
    Skip(u32),
    Return(u32),
}

impl Code {
    fn instruction(self) -> sock_filter {
        let (code, k, jf) = match self {
            Self::Load(at) => (BPF_LD | BPF_W | BPF_ABS, at as u32, 0),
            Self::And(mask) => (BPF_ALU | BPF_AND | BPF_K, mask, 0),
            Self::Unless(value, skipped) => (BPF_JMP | BPF_JEQ | BPF_K, value, skipped),
            Self::UnlessAtLeast(value, skipped) => (BPF_JMP | BPF_JGE | BPF_K, value, skipped),
            Self::Skip(skipped) => (BPF_JMP | libc::BPF_JA, skipped, 0),
            Self::Return(value) => (BPF_RET | BPF_K, value, 0),
        };
        sock_filter {
            code: code as u16,
            jt: 0,
            jf,
            k,
        }
    }
}
