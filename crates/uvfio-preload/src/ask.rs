//! One call to the supervisor.

use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, socket_with,
};
use uvfio_calls::{Call, PARTS, Reply, SOCKET, kind};
use zerocopy::{FromZeros as _, IntoBytes as _};

/// The descriptors that came with a reply.
pub(crate) type Descriptors = [Option<OwnedFd>; PARTS];

/// Asks. None where the supervisor can't be reached, or the file is none of VFIO's: the kernel's own answer stands then.
pub(crate) fn ask(call: &Call) -> Option<(Reply, Descriptors)> {
    let mut descriptors = Descriptors::default();
    let reply = converse(call, &mut descriptors).ok()?;
    (reply.kind != kind::NOT_OURS).then_some((reply, descriptors))
}

fn converse(call: &Call, descriptors: &mut Descriptors) -> rustix::io::Result<Reply> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let address = SocketAddrUnix::new(SOCKET)?;
    again(|| connect(&socket, &address))?;
    let bytes = call.as_bytes();
    let sent = again(|| {
        let mut nothing = SendAncillaryBuffer::default();
        sendmsg(&socket, &[IoSlice::new(bytes)], &mut nothing, SendFlags::NOSIGNAL)
    })?;
    // So few bytes go at once or not at all.
    if sent != bytes.len() {
        return Err(Errno::IO);
    }
    receive(&socket, descriptors)
}

/// Receives a reply, which may come in two pieces, descriptors with the first.
fn receive(socket: impl AsFd, descriptors: &mut Descriptors) -> rustix::io::Result<Reply> {
    let mut reply = Reply::new_zeroed();
    let mut places = descriptors.iter_mut();
    let mut rest = reply.as_mut_bytes();
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARTS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = again(|| {
            let mut buffer = [IoSliceMut::new(rest)];
            recvmsg(&socket, &mut buffer, &mut control, RecvFlags::CMSG_CLOEXEC)
        })?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(came) = message {
                for (place, descriptor) in places.by_ref().zip(came) {
                    *place = Some(descriptor);
                }
            }
        }
        rest = match received.bytes {
            0 => return Err(Errno::IO),
            bytes => rest.get_mut(bytes..).unwrap_or_default(),
        };
    }
    Ok(reply)
}

/// Makes a system call once more where a signal came in between: the program's calls on VFIO's files end in no other way
/// than done.
fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
