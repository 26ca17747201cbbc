//! The user's side of the socket.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use uvfio_core::IrqIndex;
use uvfio_proto::message::{DmaMapFlags, SetIrqsFlags};
use uvfio_proto::{Client, ClientError};

/// A connection to the server.
pub(super) struct Link(Client);

impl Link {
    pub(super) fn connect(socket: &Path) -> Result<Self, Refused> {
        Ok(Self(Client::connect(socket)?))
    }

    pub(super) fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        Ok(self.0.read(region, offset, data)?)
    }

    pub(super) fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        Ok(self.0.write(region, offset, data)?)
    }

    pub(super) fn region_bytes(&mut self, region: u32) -> Result<u64, Refused> {
        Ok(self.0.region_info(region)?.bytes)
    }

    pub(super) fn irq_count(&mut self, index: IrqIndex) -> Result<u32, Refused> {
        Ok(self.0.irq_info(index as u32)?.count)
    }

    /// Enables interrupts: each vector triggers the eventfd of the same number.
    pub(super) fn enable(&mut self, index: IrqIndex, counters: &Counters) -> Result<(), Refused> {
        let fds: Vec<BorrowedFd<'_>> = counters.0.iter().map(AsFd::as_fd).collect();
        self.set_eventfds(index, 0, &fds)
    }

    pub(super) fn set_eventfds(
        &mut self,
        index: IrqIndex,
        start: u32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), Refused> {
        Ok(self
            .0
            .set_eventfds(index as u32, SetIrqsFlags::TRIGGER, start, fds)?)
    }

    /// Lets the device read and write the first `bytes` of `memory` at `iova`.
    pub(super) fn map(&mut self, memory: &File, iova: u64, bytes: u64) -> Result<(), Refused> {
        Ok(self.0.dma_map(
            iova,
            bytes,
            DmaMapFlags::READ | DmaMapFlags::WRITE,
            Some((memory.as_fd(), 0)),
        )?)
    }

    pub(super) fn unmap(&mut self, iova: u64, bytes: u64) -> Result<(), Refused> {
        Ok(self.0.dma_unmap(iova, bytes)?)
    }
}

/// Eventfds that count interrupts.
pub(super) struct Counters(Vec<OwnedFd>);

impl Counters {
    pub(super) fn new(count: u32) -> Result<Self, Refused> {
        (0..count.min(2048))
            .map(|_| counter())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Adds what has arrived since the last time.
    pub(super) fn add_to(&self, arrived: &mut [u64]) {
        for (fd, arrived) in self.0.iter().zip(arrived) {
            let mut count = [0; 8];
            if rustix::io::read(fd, &mut count) == Ok(8) {
                *arrived += u64::from_ne_bytes(count);
            }
        }
    }
}

/// An eventfd that a read never waits for.
pub(super) fn counter() -> Result<OwnedFd, Refused> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|errno| Refused::absent(format!("no eventfd: {errno}")))
}

/// A request that was not granted.
#[derive(Debug)]
pub(super) struct Refused {
    /// The error number of the server's reply; none where there was none.
    pub(super) errno: Option<i32>,
    why: String,
}

impl Refused {
    pub(super) fn absent(why: String) -> Self {
        Self { errno: None, why }
    }
}

impl From<ClientError> for Refused {
    fn from(error: ClientError) -> Self {
        let errno = match &error {
            ClientError::Refused { errno, .. } => i32::try_from(errno.0).ok(),
            _ => None,
        };
        Self {
            errno,
            why: error.to_string(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => f.write_str(&errno_name(errno)),
            None => f.write_str(&self.why),
        }
    }
}

/// The usual name of an error number, where it is one that the server sends.
pub(super) fn errno_name(errno: i32) -> String {
    use rustix::io::Errno;
    let names = [
        (Errno::INVAL, "EINVAL"),
        (Errno::EXIST, "EEXIST"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::NOENT, "ENOENT"),
        (Errno::BADF, "EBADF"),
        (Errno::BUSY, "EBUSY"),
        (Errno::TOOBIG, "E2BIG"),
        (Errno::PERM, "EPERM"),
        (Errno::ACCESS, "EACCES"),
        (Errno::RANGE, "ERANGE"),
    ];
    names
        .iter()
        .find(|(known, _)| known.raw_os_error() == errno)
        .map_or_else(
            || io::Error::from_raw_os_error(errno).to_string(),
            |(_, name)| (*name).to_owned(),
        )
}
