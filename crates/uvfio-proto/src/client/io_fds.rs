//! DEVICE_GET_REGION_IO_FDS: registers that are reached by a descriptor.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use zerocopy::{FromBytes, IntoBytes};

use super::{Client, ClientError};
use crate::message::{Command, IoEventFdFlags, RegionIoFds, SubRegionIoFd};

/// The longest list of [`IoEventFd`]s taken, bytes: more than there can be descriptors in a message.
const MAX_REGION_IO_FDS: u32 = 16 * 1024;

/// One register of what DEVICE_GET_REGION_IO_FDS tells: a store to it may be a write of an eventfd instead, as KVM's
/// ioeventfds make one.
#[derive(Debug)]
pub struct IoEventFd {
    /// Offset in the region, bytes.
    pub offset: u64,
    /// Width of the stores that are meant, bytes; 0 for any.
    pub bytes: u64,
    /// The value of those stores; `None` for any.
    pub value: Option<u64>,
    /// What is to be written. Not checked to be an eventfd; KVM takes nothing else.
    pub eventfd: Arc<OwnedFd>,
}

impl Client {
    /// The registers of region `index` whose stores may come by eventfd. What a server offers for other ways of access
    /// is left out, and its descriptors are closed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_io_fds(&mut self, index: u32) -> Result<Vec<IoEventFd>, ClientError> {
        let command = Command::GetRegionIoFds;
        let region_bytes = self.region_info(index)?.bytes;
        let asked = RegionIoFds {
            argsz: MAX_REGION_IO_FDS,
            flags: 0,
            index,
            count: 0,
        };
        let mut reply = self.ask(command, asked.as_bytes(), &[], &[])?;
        let fds: Vec<_> = reply.fds.drain(..).map(Arc::new).collect();
        read_io_fds(self.incoming.payload(&reply), region_bytes, &fds)
            .map_err(|what| ClientError::Protocol { command, what })
    }
}

/// Reads DEVICE_GET_REGION_IO_FDS's reply about a region of `region_bytes` bytes.
fn read_io_fds(
    payload: &[u8],
    region_bytes: u64,
    fds: &[Arc<OwnedFd>],
) -> Result<Vec<IoEventFd>, &'static str> {
    let (info, entries) =
        RegionIoFds::read_from_prefix(payload).map_err(|_| "it is shorter than its fixed part")?;
    if info.count == 0 {
        return Ok(Vec::new());
    }
    // Entries may be longer than we know them.
    let entry_bytes = entries.len() / info.count as usize;
    if entry_bytes < size_of::<SubRegionIoFd>() {
        return Err("it has fewer sub-regions than it says");
    }
    let mut found = Vec::new();
    for entry in entries.chunks_exact(entry_bytes).take(info.count as usize) {
        let (entry, _) = SubRegionIoFd::read_from_prefix(entry).map_err(|_| "a sub-region is cut off")?;
        if entry.kind != SubRegionIoFd::IOEVENTFD {
            continue;
        }
        let end = entry.offset.checked_add(entry.bytes.max(1));
        if end.is_none_or(|end| end > region_bytes) {
            return Err("a sub-region lies outside the region");
        }
        let eventfd = fds
            .get(entry.fd_index as usize)
            .ok_or("a sub-region names a descriptor that did not come")?;
        let flags = IoEventFdFlags::from_bits_retain(entry.flags);
        found.push(IoEventFd {
            offset: entry.offset,
            bytes: entry.bytes,
            value: flags
                .contains(IoEventFdFlags::DATAMATCH)
                .then_some(entry.datamatch),
            eventfd: Arc::clone(eventfd),
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fds(count: usize) -> Vec<Arc<OwnedFd>> {
        let fd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        (0..count).map(|_| Arc::new(fd())).collect()
    }

    fn reply(count: u32, entries: &[SubRegionIoFd]) -> Vec<u8> {
        let fixed = RegionIoFds {
            argsz: 0,
            flags: 0,
            index: 0,
            count,
        };
        [fixed.as_bytes(), entries.as_bytes()].concat()
    }

    const ENTRY: SubRegionIoFd = SubRegionIoFd {
        offset: 0x10,
        bytes: 4,
        fd_index: 0,
        kind: SubRegionIoFd::IOEVENTFD,
        flags: 0,
        padding: 0,
        datamatch: 7,
    };

    #[test]
    fn a_value_counts_only_where_the_flag_says_so() {
        let matching = SubRegionIoFd {
            flags: IoEventFdFlags::DATAMATCH.bits(),
            ..ENTRY
        };
        let found = read_io_fds(&reply(2, &[ENTRY, matching]), 0x1000, &fds(1)).unwrap();
        let values: Vec<_> = found.iter().map(|one| one.value).collect();
        assert_eq!(values, [None, Some(7)], "two registers may share a descriptor");
    }

    #[test]
    fn other_ways_of_access_are_left_out() {
        let other = SubRegionIoFd {
            kind: SubRegionIoFd::IOREGIONFD,
            fd_index: 9,
            ..ENTRY
        };
        let found = read_io_fds(&reply(2, &[other, ENTRY]), 0x1000, &fds(1)).unwrap();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let outside = SubRegionIoFd {
            offset: 0xffe,
            ..ENTRY
        };
        let beyond = SubRegionIoFd {
            offset: u64::MAX,
            bytes: 0,
            ..ENTRY
        };
        let no_such_fd = SubRegionIoFd { fd_index: 1, ..ENTRY };
        for entry in [outside, beyond, no_such_fd] {
            assert!(
                read_io_fds(&reply(1, &[entry]), 0x1000, &fds(1)).is_err(),
                "{entry:?}"
            );
        }
        assert!(
            read_io_fds(&reply(2, &[ENTRY]), 0x1000, &fds(1)).is_err(),
            "one is missing"
        );
        assert!(read_io_fds(&reply(u32::MAX, &[ENTRY]), 0x1000, &fds(1)).is_err());
        assert!(read_io_fds(&[0; 15], 0x1000, &fds(1)).is_err());
    }
}
