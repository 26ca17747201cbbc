//! The client's memory, as far as the server reaches it by message.

use std::io::ErrorKind;
use std::time::Instant;

use zerocopy::{FromBytes, IntoBytes};

use super::{Client, ClientError};
use crate::error::Errno;
use crate::message::{Command, DEFAULT_DATA_BYTES, DmaAccess, HEADER_BYTES, Header, HeaderFlags, Kind};
use crate::transport::{Blocked, Message, SendError};

/// Memory that the server reads and writes by message.
pub trait ClientMemory: Send {
    /// Reads `data.len()` bytes at `iova`.
    ///
    /// # Errors
    /// What the server is told.
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes `data` at `iova`.
    ///
    /// # Errors
    /// What the server is told.
    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno>;
}

impl Client {
    /// Carries out a command of the server's and answers it.
    pub(super) fn serve_command(&mut self, message: &Message) -> Result<(), ClientError> {
        let request = message.header;
        let result = self.carry_out(message);
        if request.no_reply() {
            return Ok(());
        }
        let mut reply = Header {
            id: request.id,
            command: request.command,
            bytes: HEADER_BYTES as u32,
            flags: Kind::REPLY,
            errno: 0,
        };
        let payload = match result {
            Ok(payload) => {
                reply.bytes += payload.len() as u32;
                payload
            }
            Err(errno) => {
                reply.flags |= HeaderFlags::ERROR.bits();
                reply.errno = errno.0;
                Vec::new()
            }
        };
        let until = Instant::now() + self.patience;
        let incoming = &mut self.incoming;
        let mut blocked = || {
            incoming.take_in();
            if Instant::now() >= until {
                Blocked::GiveUp
            } else {
                Blocked::Wait
            }
        };
        match self.out.send(&[reply.as_bytes(), &payload], &[], &mut blocked) {
            Ok(()) => Ok(()),
            Err(SendError::Io(error)) => Err(error.into()),
            Err(SendError::GivenUp | SendError::Delayed) => {
                Err(std::io::Error::from(ErrorKind::TimedOut).into())
            }
        }
    }

    /// The reply's payload.
    fn carry_out(&mut self, message: &Message) -> Result<Vec<u8>, Errno> {
        let payload = self.incoming.payload(message);
        let command = Command::from_number(message.header.command);
        if !matches!(command, Some(Command::DmaRead | Command::DmaWrite)) {
            return Err(Errno::NOSYS);
        }
        if message.fds_lost || !message.fds.is_empty() {
            return Err(Errno::INVAL);
        }
        let (access, data) = DmaAccess::read_from_prefix(payload).map_err(|_| Errno::INVAL)?;
        if access.count > u64::from(DEFAULT_DATA_BYTES) {
            return Err(Errno::TOO_BIG);
        }
        let memory = self.memory.as_mut().ok_or(Errno::NODEV)?;
        let mut reply = access.as_bytes().to_vec();
        if command == Some(Command::DmaRead) {
            let from = reply.len();
            reply.resize(from + access.count as usize, 0);
            memory.read(access.iova, reply.get_mut(from..).unwrap_or_default())?;
        } else {
            if data.len() as u64 != access.count {
                return Err(Errno::INVAL);
            }
            memory.write(access.iova, data)?;
        }
        Ok(reply)
    }
}
