//! The journal's memory, and the two system calls that note in it what they did.
//!
//! Soundness: the mapping is shared between processes, but only one of them uses it at a time: the next server maps
//! it when the last one is dead. Within a process, the notes are atomics; the bytes belong to the one
//! [`Buffer`]; the structures of the calls are used by the holder of the buffer (receive) and of the notes (send).
//!
//! The calls are made in place, not by a function of libc's, which would return after them: `Server::command` says why.
#![allow(unsafe_code)] // Memory between processes, and calls that rustix has not.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use rustix::cmsg_space;
use rustix::mm::{MapFlags, ProtFlags};
use syscalls::{Errno, Sysno, syscall};

use super::page::{Call, Lengths, Noted, PAGE_BYTES, Page};
use super::{Buffer, Notes, Sending};
use crate::transport::{MAX_FDS, MOST_RECEIVED};

/// Bytes of control messages with [`MOST_RECEIVED`] descriptors, of which [`MAX_FDS`] at most are sent.
const CONTROL_BYTES: usize = cmsg_space!(ScmRights(MOST_RECEIVED));

/// Room for control messages, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; CONTROL_BYTES]);

/// What one call received.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: usize,
    pub(crate) attached: Option<Attached>,
}

/// What came with the bytes.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) fds: Vec<OwnedFd>,
    /// There were more descriptors than could be taken.
    pub(crate) lost: bool,
}

/// The mapping.
#[derive(Debug)]
pub(super) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread; see the module's page for who uses what.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `bytes` bytes of a file that has so many and can't shrink.
    pub(super) fn map(file: BorrowedFd<'_>, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if bytes < PAGE_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, flags, file, 0) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, bytes })
    }

    #[inline]
    pub(super) fn page(&self) -> &Page {
        // SAFETY: the mapping begins with the page (`map` checked the length, `Page` that it fits), aligned to
        // pages; every bit pattern is a valid `Page`, and all of it is atomics but the structures of the calls.
        unsafe { self.base.cast::<Page>().as_ref() }
    }

    /// The bytes received.
    #[inline]
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: within the mapping.
        let first = unsafe { self.base.add(PAGE_BYTES) };
        // SAFETY: within the mapping, initialised by the kernel, changed only through the one buffer's `&mut`; this
        // is called for a `&Buffer` only.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.bytes - PAGE_BYTES) }
    }

    /// The same, to be changed, for the one who has the buffer.
    #[inline]
    #[allow(clippy::mut_from_ref)] // Unique by the buffer, not by the mapping, which the notes share.
    pub(super) fn bytes_of<'a>(&'a self, _owner: &'a Buffer) -> &'a mut [u8] {
        // SAFETY: within the mapping.
        let first = unsafe { self.base.add(PAGE_BYTES) };
        // SAFETY: as in `bytes`; the callers, `Buffer`'s, have the one buffer as `&mut`.
        unsafe { std::slice::from_raw_parts_mut(first.as_ptr(), self.bytes - PAGE_BYTES) }
    }

    /// Receives into `free`, noting that this is byte `end` of the stream and those after it.
    #[inline(always)] // Of the way through that `Server::command` tells of.
    pub(super) fn receive(
        &self,
        socket: BorrowedFd<'_>,
        free: &mut [u8],
        end: u64,
        dont_wait: bool,
    ) -> io::Result<Received> {
        let mut control = Control([MaybeUninit::uninit(); CONTROL_BYTES]);
        let mut piece = libc::iovec {
            iov_base: free.as_mut_ptr().cast(),
            iov_len: free.len(),
        };
        let call = &self.page().receive;
        let message = fill(
            call,
            &raw mut piece,
            1,
            control.0.as_mut_ptr().cast(),
            CONTROL_BYTES,
        );
        call.arm(end);
        let flags = libc::MSG_CMSG_CLOEXEC | if dont_wait { libc::MSG_DONTWAIT } else { 0 };
        loop {
            let no_time_limit = std::ptr::null_mut::<libc::timespec>();
            // SAFETY: `message` points to `piece`, which is `free`, and to `control`; all live through the call.
            let result = unsafe {
                syscall!(
                    Sysno::recvmmsg,
                    socket.as_raw_fd(),
                    message,
                    1,
                    flags,
                    no_time_limit
                )
            };
            match result {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
        // SAFETY: the structure is ours, and no call is under way; the kernel has written it.
        let got = unsafe { &*message };
        call.disarm(end + u64::from(got.msg_len));
        let lost = got.msg_hdr.msg_flags & libc::MSG_CTRUNC != 0;
        Ok(Received {
            bytes: got.msg_len as usize,
            attached: (got.msg_hdr.msg_controllen != 0 || lost).then(|| Attached {
                fds: descriptors(&got.msg_hdr),
                lost,
            }),
        })
    }

    /// Sends what the socket takes at once, noting how much of its message has gone.
    #[inline(always)] // As `receive`.
    pub(super) fn send(
        &self,
        what: Sending,
        socket: BorrowedFd<'_>,
        pieces: &[IoSlice<'_>],
        fds: &[BorrowedFd<'_>],
        _turn: &Notes,
    ) -> rustix::io::Result<usize> {
        let mut control = Control([MaybeUninit::uninit(); CONTROL_BYTES]);
        let bytes = if fds.is_empty() {
            0
        } else {
            put_descriptors(&mut control, fds).ok_or(rustix::io::Errno::TOOMANYREFS)?
        };
        let call = &self.page().outgoing(what).call;
        let message = fill(
            call,
            pieces.as_ptr().cast_mut().cast(),
            pieces.len(),
            if bytes == 0 {
                std::ptr::null_mut()
            } else {
                control.0.as_mut_ptr().cast()
            },
            bytes,
        );
        let sent = call.moved();
        call.arm(sent);
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: `IoSlice` has the layout of `iovec`; pieces and control messages live through the call, and the
        // kernel only reads them.
        let result = unsafe { syscall!(Sysno::sendmmsg, socket.as_raw_fd(), message, 1, flags) };
        result.map_err(failed)?;
        // SAFETY: as in `receive`.
        let got = unsafe { &*message }.msg_len;
        call.disarm(sent + u64::from(got));
        Ok(got as usize)
    }

    /// All notes, as they are.
    pub(super) fn left(&self) -> Noted {
        let page = self.page();
        let length = |call: &Call| {
            // SAFETY: nobody else uses the structure; any bits are a valid one.
            unsafe { call.message.get().read_volatile() }.msg_len
        };
        page.noted(Lengths {
            received: length(&page.receive),
            reply: length(&page.outgoing(Sending::Reply).call),
            command: length(&page.outgoing(Sending::Command).call),
        })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which no address is left outside this value.
        // It can't fail, since it is a whole mapping.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// The error of a call, in the type of all others.
#[cold]
fn failed(error: Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(error.into_raw())
}

/// Fills the structure of a call, its count 0.
#[inline]
fn fill(
    call: &Call,
    pieces: *mut libc::iovec,
    count: usize,
    control: *mut libc::c_void,
    control_bytes: usize,
) -> *mut libc::mmsghdr {
    let message = call.message.get();
    // SAFETY: all zeroes are a valid structure: null pointers, lengths 0.
    let mut filled: libc::mmsghdr = unsafe { std::mem::zeroed() };
    filled.msg_hdr.msg_iov = pieces;
    filled.msg_hdr.msg_iovlen = count as _;
    filled.msg_hdr.msg_control = control;
    filled.msg_hdr.msg_controllen = control_bytes as _;
    // SAFETY: the structure lies in the page, and only the holder of the buffer or the notes is here.
    unsafe { message.write(filled) };
    message
}

/// Takes the descriptors out of the control messages that the kernel has written.
#[cold]
fn descriptors(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    if header.msg_controllen == 0 {
        return fds;
    }
    // SAFETY: the kernel wrote well-formed control messages within the bounds in the header.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    // SAFETY: null, or a control message within the bounds.
    while let Some(message) = unsafe { next.as_ref() } {
        if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: of a control message within the bounds.
            let data = unsafe { libc::CMSG_DATA(next) };
            // Its type differs between C libraries.
            #[allow(clippy::unnecessary_cast)]
            let bytes = (message.cmsg_len as usize).saturating_sub(data as usize - next as usize);
            for at in 0..bytes / size_of::<i32>() {
                // SAFETY: within the data of the control message.
                let place = unsafe { data.cast::<i32>().add(at) };
                // SAFETY: as above.
                let number = unsafe { place.read_unaligned() };
                // SAFETY: the kernel has just opened it for us.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: `next` is a control message within the bounds in the header.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    fds
}

/// Writes one control message with the descriptors, at least one; gives its length, `None` for too many.
#[cold]
fn put_descriptors(control: &mut Control, fds: &[BorrowedFd<'_>]) -> Option<usize> {
    let data_bytes = u32::try_from(size_of_val(fds))
        .ok()
        .filter(|_| fds.len() <= MAX_FDS)?;
    // SAFETY: arithmetic only.
    let length = unsafe { libc::CMSG_LEN(data_bytes) };
    // SAFETY: arithmetic only.
    let space = unsafe { libc::CMSG_SPACE(data_bytes) } as usize;
    let header = libc::cmsghdr {
        cmsg_len: length as _,
        cmsg_level: libc::SOL_SOCKET,
        cmsg_type: libc::SCM_RIGHTS,
    };
    // Padding goes to the kernel, too.
    control.0.fill(MaybeUninit::zeroed());
    let place = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: there is room for MOST_RECEIVED descriptors, and so for a header, at the right alignment.
    unsafe { place.write(header) };
    // SAFETY: of the header just written.
    let data = unsafe { libc::CMSG_DATA(place) };
    for (at, fd) in fds.iter().enumerate() {
        // SAFETY: at most MAX_FDS, for which there is room.
        let place = unsafe { data.cast::<i32>().add(at) };
        // SAFETY: as above.
        unsafe { place.write_unaligned(fd.as_raw_fd()) };
    }
    Some(space)
}
