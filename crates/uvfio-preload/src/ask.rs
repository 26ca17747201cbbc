//! One call to the supervisor.

use core::mem::MaybeUninit;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg};
use uvfio_calls::{Call, PARTS, Reply, kind};
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::connection::{self, Connection};

/// The descriptors that came with a reply.
pub(crate) type Descriptors = [Option<OwnedFd>; PARTS];

/// Asks. None where the supervisor can't be reached, or the file is none of VFIO's: the kernel's own answer stands then.
pub(crate) fn ask(call: &Call) -> Option<(Reply, Descriptors)> {
    let mut descriptors = Descriptors::default();
    let reply = converse(call, &mut descriptors).ok()?;
    (reply.kind != kind::NOT_OURS).then_some((reply, descriptors))
}

fn converse(call: &Call, descriptors: &mut Descriptors) -> rustix::io::Result<Reply> {
    let kept = connection::take().filter(|connection| send(connection, call).is_ok());
    let connection = match kept {
        Some(connection) => connection,
        // Nothing of the call has gone by the other, if there was one.
        None => {
            let connection = connection::make()?;
            send(&connection, call)?;
            connection
        }
    };
    let reply = receive(&connection, descriptors)?;
    connection::keep(connection);
    Ok(reply)
}

fn send(connection: &Connection, call: &Call) -> rustix::io::Result<()> {
    let bytes = call.as_bytes();
    // So few go at once or not at all.
    match again(|| rustix::net::send(connection, bytes, SendFlags::NOSIGNAL))? {
        sent if sent == bytes.len() => Ok(()),
        _ => Err(Errno::IO),
    }
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
pub(crate) fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
