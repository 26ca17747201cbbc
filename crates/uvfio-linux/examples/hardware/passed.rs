//! Container, group and device, passed by SCM_RIGHTS to a process that could open none of them.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use uvfio_linux::vfio::{Container, DeviceFile, Group, Rule};

use crate::edu;
use crate::owned::{Function, Owned};
use crate::report::Report;

/// A user that may open nothing.
const NOBODY: u32 = 65534;
const FILES: usize = 3;

/// Opens an edu device, and has a process of another user check it.
pub(crate) fn give(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [owned.container.as_fd(), owned.group.as_fd(), owned.device.as_fd()];
    ensure!(
        control.push(SendAncillaryMessage::ScmRights(&files)),
        "no room for the descriptors"
    );
    sendmsg(&ours, &[IoSlice::new(b"3")], &mut control, SendFlags::empty())?;
    drop(owned);
    let status = Command::new(std::env::current_exe()?)
        .args(["passed-to", address])
        .stdin(Stdio::from(theirs))
        .uid(NOBODY)
        .gid(NOBODY)
        .status()?;
    report.same(
        "the other user's process ends with success",
        &Some(0),
        &status.code(),
    )
}

/// In that process: takes the descriptors from standard input.
pub(crate) fn take(address: &str, report: &mut Report) -> Result<()> {
    let number = Function::new(address).group()?;
    let rule = |rule: &Rule| *rule == Rule::NoPermission;
    report.refused(
        "the group, for another user",
        Group::open(number),
        (Errno::ACCESS, &rule),
        &["udev rule"],
    )?;
    let mut files = receive(std::io::stdin().as_fd())?.into_iter();
    let mut next = || files.next().context("three descriptors were sent");
    let owned = Owned {
        container: Container::from_descriptor(next()?)?,
        group: Group::from_descriptor(next()?, number)?,
        device: DeviceFile::from_descriptor(next()?, address)?,
        function: Function::new(address),
    };
    report.same(
        "the passed group is in its container",
        &true,
        &owned.group.status()?.in_container,
    )?;
    edu::check(owned, report)
}

fn receive(socket: BorrowedFd<'_>) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            files.extend(passed);
        }
    }
    Ok(files)
}
