//! Answers system calls that the kernel tells of (seccomp's user notification).
#![allow(unsafe_code)] // The ioctls of a listener.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;

use libc::{
    SECCOMP_ADDFD_FLAG_SETFD, SECCOMP_IOCTL_NOTIF_ADDFD, SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND,
    SECCOMP_USER_NOTIF_FLAG_CONTINUE, seccomp_notif, seccomp_notif_addfd, seccomp_notif_resp,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, statat};
use rustix::io::Errno;
use rustix::process::Pid;
use uvfio_calls::{AT_POSITION, Call, Reply, is_vfio_request, kind, op};

use crate::calls::Calls;
use crate::filter::OPENING;
use crate::process::Thread;

/// Threads that answer: as many calls can be under way at a time.
const THREADS: usize = 8;
const STACK: usize = 256 << 10;
/// Bytes of the longest path, its end among them.
const PATH: usize = 4096;

/// Where calls are told.
pub(crate) struct Listener {
    calls: Arc<Calls>,
    listener: OwnedFd,
    /// Devices get descriptors from this number on: only of those are reads and writes told
    first_device: RawFd,
    /// Held from the look at which numbers are free until one of them is given
    numbering: Mutex<()>,
}

impl Listener {
    /// Answers from now on, as long as there are processes that could call.
    pub(crate) fn answer(calls: Arc<Calls>, listener: OwnedFd, first_device: RawFd) -> io::Result<()> {
        let listener = Arc::new(Self {
            calls,
            listener,
            first_device,
            numbering: Mutex::default(),
        });
        for _ in 0..THREADS {
            let listener = listener.clone();
            Builder::new()
                .name("system calls".into())
                .stack_size(STACK)
                .spawn(move || while listener.next() {})?;
        }
        Ok(())
    }

    /// Waits for a call and answers it; false where there will be none.
    fn next(&self) -> bool {
        let mut ready = [PollFd::new(&self.listener, PollFlags::IN)];
        // Interrupted: as if nothing had happened.
        let _ = poll(&mut ready, None);
        if ready[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return false;
        }
        // SAFETY: integers; the kernel wants them to be 0.
        let mut told: seccomp_notif = unsafe { std::mem::zeroed() };
        // Another thread may have taken it, or its process may be gone.
        if self.control(SECCOMP_IOCTL_NOTIF_RECV, &raw mut told).is_ok() {
            let answered = self.answered(&told);
            self.reply(&told, answered);
        }
        true
    }

    fn control<T>(&self, request: libc::Ioctl, argument: *mut T) -> Result<i32, Errno> {
        // SAFETY: each request with the structure that the kernel has for it, valid for the call.
        let result = unsafe { libc::ioctl(self.listener.as_raw_fd(), request, argument) };
        if result >= 0 {
            return Ok(result);
        }
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    }

    /// What the call gives; none where the kernel shall make it.
    fn answered(&self, told: &seccomp_notif) -> Option<Result<(Reply, Vec<OwnedFd>), Errno>> {
        let thread = Thread::new(Pid::from_raw(told.pid as i32)?);
        let data = &told.data;
        let call = if OPENING.contains(&data.nr.into()) {
            open(&thread, told)?
        } else {
            other(told)?
        };
        let result = self.calls.call_of(&call, &thread);
        match result {
            Ok((reply, _)) if reply.kind == kind::NOT_OURS => None,
            // The thread has gone meanwhile.
            Err(Errno::SRCH) => None,
            result => Some(result),
        }
    }

    fn reply(&self, told: &seccomp_notif, answered: Option<Result<(Reply, Vec<OwnedFd>), Errno>>) {
        // SAFETY: integers.
        let mut reply: seccomp_notif_resp = unsafe { std::mem::zeroed() };
        reply.id = told.id;
        let fail = |errno: Errno| -errno.raw_os_error();
        match answered {
            None => reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Some(Err(errno)) => reply.error = fail(errno),
            Some(Ok((answer, descriptors))) => match descriptors.into_iter().next() {
                None => reply.val = answer.value as i64,
                // Given, and our own copy closed, before the caller goes on: what it then closes is closed.
                Some(descriptor) => match self.give(told, &answer, &descriptor) {
                    Ok(number) => reply.val = number.into(),
                    Err(errno) => reply.error = fail(errno),
                },
            },
        }
        // Where it fails, the caller is gone.
        let _ = self.control(SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply);
    }

    /// Gives the caller a descriptor, and tells its number there.
    fn give(&self, told: &seccomp_notif, answer: &Reply, descriptor: &OwnedFd) -> Result<i32, Errno> {
        let close_on_exec = if OPENING.contains(&told.data.nr.into()) {
            flags_of(told) & libc::O_CLOEXEC as u64 != 0
        } else {
            answer.value != 0
        };
        let _numbering = self.numbering.lock().unwrap_or_else(PoisonError::into_inner);
        let number = if answer.device == 1 {
            Some(self.free(told)?)
        } else {
            None
        };
        let mut given = seccomp_notif_addfd {
            id: told.id,
            flags: 0,
            srcfd: descriptor.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        if let Some(number) = number {
            given.flags = SECCOMP_ADDFD_FLAG_SETFD as u32;
            given.newfd = number as u32;
        }
        self.control(SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut given)
    }

    /// A number for a device that the caller does not use.
    fn free(&self, told: &seccomp_notif) -> Result<RawFd, Errno> {
        let thread = Thread::new(Pid::from_raw(told.pid as i32).ok_or(Errno::SRCH)?);
        let process = self.calls.processes.get(thread.process()?)?;
        let mut numbers = self.first_device..self.first_device.saturating_mul(2);
        numbers
            .find(|number| process.descriptor(*number).is_err())
            .ok_or(Errno::MFILE)
    }
}

fn flags_of(told: &seccomp_notif) -> u64 {
    let [_, second, third, ..] = told.data.args;
    if i64::from(told.data.nr) == libc::SYS_openat {
        third
    } else {
        second
    }
}

/// The call that opens a node, if this is one.
fn open(thread: &Thread, told: &seccomp_notif) -> Option<Call> {
    let [first, second, ..] = told.data.args;
    let (folder, path) = match i64::from(told.data.nr) {
        libc::SYS_openat => (first as i32, second),
        _ => (libc::AT_FDCWD, first),
    };
    let path = thread.string(path, PATH)?;
    let task = thread.folder();
    let found = if path.starts_with(b"/") {
        if !path.starts_with(b"/dev/") {
            return None;
        }
        [task.as_bytes(), b"/root", &path].concat()
    } else if folder == libc::AT_FDCWD {
        [task.as_bytes(), b"/cwd/", &path].concat()
    } else {
        [task.as_bytes(), format!("/fd/{folder}/").as_bytes(), &path].concat()
    };
    let found = statat(CWD, CString::new(found).ok()?, rustix::fs::AtFlags::empty()).ok()?;
    let node = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0;
    node.then(|| Call {
        op: op::OPEN,
        request: found.st_dev,
        offset: found.st_ino,
        ..Call::default()
    })
}

fn other(told: &seccomp_notif) -> Option<Call> {
    let [descriptor, second, third, fourth, _, sixth] = told.data.args;
    let descriptor = descriptor as i32;
    let at = |op, offset| Call {
        op,
        descriptor,
        address: second,
        bytes: third,
        offset,
        ..Call::default()
    };
    // Negative ones the kernel refuses, whatever file it is.
    let at_offset = |op| (fourth as i64 >= 0).then(|| at(op, fourth));
    let with_flags = |op| {
        let call = Call {
            request: sixth & u64::from(u32::MAX),
            ..at(op, fourth)
        };
        (fourth as i64 >= 0 || fourth == AT_POSITION).then_some(call)
    };
    match i64::from(told.data.nr) {
        libc::SYS_ioctl if is_vfio_request(second) => Some(Call {
            op: op::IOCTL,
            descriptor,
            request: second,
            address: third,
            ..Call::default()
        }),
        libc::SYS_read => Some(at(op::READ, AT_POSITION)),
        libc::SYS_write => Some(at(op::WRITE, AT_POSITION)),
        libc::SYS_readv => Some(at(op::READ_VECTOR, AT_POSITION)),
        libc::SYS_writev => Some(at(op::WRITE_VECTOR, AT_POSITION)),
        libc::SYS_pread64 => at_offset(op::READ),
        libc::SYS_pwrite64 => at_offset(op::WRITE),
        libc::SYS_preadv => at_offset(op::READ_VECTOR),
        libc::SYS_pwritev => at_offset(op::WRITE_VECTOR),
        libc::SYS_preadv2 => with_flags(op::READ_VECTOR),
        libc::SYS_pwritev2 => with_flags(op::WRITE_VECTOR),
        _ => None,
    }
}
