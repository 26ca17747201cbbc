//! The client's requests.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Client, ClientError};
use crate::message::{
    Command, DeviceFlags, DeviceInfo, DmaMap, DmaMapFlags, DmaUnmap, DmaUnmapFlags, Feature, FeatureFlags,
    HeaderFlags, IovaRange, IrqFlags, IrqInfo, MultiWrite, RegionAccess, RegionFlags, RegionInfo, SetIrqs,
    SetIrqsFlags, SparseArea, SparseMmap, feature_number,
};

/// The longest region information asked for, bytes: more than 4000 mappable areas.
const MAX_REGION_INFO: u32 = 64 * 1024;

/// What DEVICE_GET_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceSummary {
    /// How many regions.
    pub regions: u32,
    /// How many interrupt indices.
    pub irqs: u32,
    /// Whether DEVICE_RESET works.
    pub resettable: bool,
}

/// What DEVICE_GET_REGION_INFO tells.
#[derive(Debug)]
pub struct RegionSummary {
    /// Size, bytes; 0 for no such region.
    pub bytes: u64,
    /// What can be done with it.
    pub flags: RegionFlags,
    /// Mappable areas; the whole region where it can be mapped and the server lists none.
    pub areas: Vec<SparseArea>,
    /// The file behind the areas.
    pub memory: Option<OwnedFd>,
    /// Where the region begins in that file, bytes.
    pub offset: u64,
}

/// What DEVICE_GET_IRQ_INFO tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IrqSummary {
    /// How many interrupts.
    pub count: u32,
    /// What can be done with them.
    pub flags: IrqFlags,
}

impl Client {
    /// What the device is.
    ///
    /// # Errors
    /// See [`ClientError`], as for every request.
    pub fn info(&mut self) -> Result<DeviceSummary, ClientError> {
        let asked = DeviceInfo {
            argsz: size_of::<DeviceInfo>() as u32,
            flags: 0,
            regions: 0,
            irqs: 0,
        };
        let info: DeviceInfo = self.ask_for(Command::GetInfo, &asked)?;
        let flags = DeviceFlags::from_bits_retain(info.flags);
        if !flags.contains(DeviceFlags::PCI) {
            return Err(ClientError::Protocol {
                command: Command::GetInfo,
                what: "it is not a PCI device",
            });
        }
        let resettable = flags.contains(DeviceFlags::RESET);
        Ok(DeviceSummary {
            regions: info.regions,
            irqs: info.irqs,
            resettable,
        })
    }

    /// What region `index` is, and the memory behind its mappable areas.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn region_info(&mut self, index: u32) -> Result<RegionSummary, ClientError> {
        let command = Command::GetRegionInfo;
        let mut argsz = size_of::<RegionInfo>() as u32;
        loop {
            let asked = RegionInfo {
                argsz,
                flags: 0,
                index,
                cap_offset: 0,
                bytes: 0,
                offset: 0,
            };
            let mut reply = self.ask(command, asked.as_bytes(), &[], &[])?;
            let fd = (reply.fds.len() <= 1).then(|| reply.fds.pop());
            let payload = self.incoming.payload(&reply);
            let protocol = |what| ClientError::Protocol { command, what };
            let (info, _) = RegionInfo::read_from_prefix(payload)
                .map_err(|_| protocol("it is shorter than its fixed part"))?;
            let flags = RegionFlags::from_bits_retain(info.flags);
            if info.argsz > argsz && info.argsz <= MAX_REGION_INFO {
                argsz = info.argsz;
                continue;
            }
            let memory = fd.ok_or_else(|| protocol("it came with more than one descriptor"))?;
            let mut areas = Vec::new();
            if flags.contains(RegionFlags::CAPS) {
                areas = read_areas(payload, info.cap_offset).map_err(protocol)?;
            }
            if areas.is_empty() && flags.contains(RegionFlags::MMAP) {
                areas.push(SparseArea {
                    offset: 0,
                    bytes: info.bytes,
                });
            }
            if areas.iter().any(|area| {
                area.offset
                    .checked_add(area.bytes)
                    .is_none_or(|end| end > info.bytes)
            }) {
                return Err(protocol("a mappable area lies outside the region"));
            }
            return Ok(RegionSummary {
                bytes: info.bytes,
                flags,
                areas,
                memory,
                offset: info.offset,
            });
        }
    }

    /// What interrupt index `index` is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn irq_info(&mut self, index: u32) -> Result<IrqSummary, ClientError> {
        let asked = IrqInfo {
            argsz: size_of::<IrqInfo>() as u32,
            flags: 0,
            index,
            count: 0,
        };
        let info: IrqInfo = self.ask_for(Command::GetIrqInfo, &asked)?;
        Ok(IrqSummary {
            count: info.count,
            flags: IrqFlags::from_bits_retain(info.flags),
        })
    }

    /// SET_IRQS without descriptors; `bytes` are those of [`SetIrqsFlags::BOOL`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_irqs(
        &mut self,
        index: u32,
        flags: SetIrqsFlags,
        start: u32,
        count: u32,
        bytes: &[u8],
    ) -> Result<(), ClientError> {
        let argsz = (size_of::<SetIrqs>() + bytes.len()) as u32;
        let asked = SetIrqs {
            argsz,
            flags: flags.bits(),
            index,
            start,
            count,
        };
        self.ask(Command::SetIrqs, asked.as_bytes(), bytes, &[])?;
        Ok(())
    }

    /// Attaches eventfds to vectors from `start` on, for `action`; in several messages where the server takes fewer
    /// descriptors in one.
    ///
    /// # Errors
    /// See [`ClientError`]; those of earlier messages stay attached.
    pub fn set_eventfds(
        &mut self,
        index: u32,
        action: SetIrqsFlags,
        start: u32,
        eventfds: &[BorrowedFd<'_>],
    ) -> Result<(), ClientError> {
        let command = Command::SetIrqs;
        let most = self.server.msg_fds().clamp(1, crate::transport::MAX_FDS);
        let mut start = start;
        for some in eventfds.chunks(most) {
            let asked = SetIrqs {
                argsz: size_of::<SetIrqs>() as u32,
                flags: (SetIrqsFlags::EVENTFD | action).bits(),
                index,
                start,
                count: some.len() as u32,
            };
            self.ask(command, asked.as_bytes(), &[], some)?;
            start = start.checked_add(some.len() as u32).ok_or(ClientError::Caller {
                command,
                what: "there are not so many vectors",
            })?;
        }
        Ok(())
    }

    /// Reads a region; in several messages where it is longer than the server takes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), ClientError> {
        let mut rest = Pieces { region, offset };
        for piece in data.chunks_mut(self.most_data()) {
            let access = rest.next(piece.len());
            let bytes = self.ask_access(Command::RegionRead, &access, &[])?;
            if bytes.len() != piece.len() {
                return Err(ClientError::Protocol {
                    command: Command::RegionRead,
                    what: "it has not the bytes asked for",
                });
            }
            piece.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Writes a region and waits until it is done; in several messages where it is longer than the server takes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let mut rest = Pieces { region, offset };
        for piece in data.chunks(self.most_data()) {
            self.ask_access(Command::RegionWrite, &rest.next(piece.len()), piece)?;
        }
        Ok(())
    }

    /// Writes a region without waiting: the server answers nothing, not even a refusal.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn write_posted(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        let mut rest = Pieces { region, offset };
        for piece in data.chunks(self.most_data()) {
            let access = rest.next(piece.len());
            let until = Instant::now() + self.patience;
            let flags = HeaderFlags::NO_REPLY;
            self.send(Command::RegionWrite, access.as_bytes(), piece, &[], flags, until)?;
        }
        Ok(())
    }

    /// Does several writes of at most 8 bytes each, and says how many were done.
    ///
    /// # Errors
    /// See [`ClientError`]; also where the server did not say that it knows this.
    pub fn write_multi(&mut self, writes: &[MultiWrite]) -> Result<u64, ClientError> {
        let command = Command::RegionWriteMulti;
        if self.server.write_multiple != Some(true) {
            return Err(ClientError::Caller {
                command,
                what: "the server does not know it",
            });
        }
        let count = writes.len() as u64;
        let reply = self.ask(command, count.as_bytes(), writes.as_bytes(), &[])?;
        match u64::read_from_prefix(self.incoming.payload(&reply)) {
            Ok((done, _)) if done <= count => Ok(done),
            _ => Err(ClientError::Protocol {
                command,
                what: "more writes were done than asked",
            }),
        }
    }

    /// Maps memory for the device: `bytes` at `iova`, from `file` at byte `offset` where there is one, else by
    /// message.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dma_map(
        &mut self,
        iova: u64,
        bytes: u64,
        flags: DmaMapFlags,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<(), ClientError> {
        let argsz = size_of::<DmaMap>() as u32;
        let offset = file.map_or(0, |(_, offset)| offset);
        let asked = DmaMap {
            argsz,
            flags: flags.bits(),
            offset,
            iova,
            bytes,
        };
        match file {
            Some((file, _)) => self.ask(Command::DmaMap, asked.as_bytes(), &[], &[file])?,
            None => self.ask(Command::DmaMap, asked.as_bytes(), &[], &[])?,
        };
        Ok(())
    }

    /// Unmaps; when it returns the device touches the range no more.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dma_unmap(&mut self, iova: u64, bytes: u64) -> Result<(), ClientError> {
        self.unmap(DmaUnmap {
            argsz: size_of::<DmaUnmap>() as u32,
            flags: 0,
            iova,
            bytes,
        })
    }

    /// Unmaps everything; only servers that know libvfio-user's flag do.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn dma_unmap_all(&mut self) -> Result<(), ClientError> {
        let argsz = size_of::<DmaUnmap>() as u32;
        self.unmap(DmaUnmap {
            argsz,
            flags: DmaUnmapFlags::ALL.bits(),
            iova: 0,
            bytes: 0,
        })
    }

    fn unmap(&mut self, asked: DmaUnmap) -> Result<(), ClientError> {
        let _: DmaUnmap = self.ask_for(Command::DmaUnmap, &asked)?;
        Ok(())
    }

    /// Resets the device.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn reset(&mut self) -> Result<(), ClientError> {
        self.ask(Command::Reset, &[], &[], &[])?;
        Ok(())
    }

    /// DEVICE_FEATURE: gets, sets or probes feature `number`; gives the data of the reply.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn feature(&mut self, number: u16, flags: FeatureFlags, data: &[u8]) -> Result<Vec<u8>, ClientError> {
        let asked = Feature {
            argsz: (size_of::<Feature>() + data.len()).max(4096) as u32,
            flags: flags.bits() | u32::from(number),
        };
        let reply = self.ask(Command::Feature, asked.as_bytes(), data, &[])?;
        match Feature::read_from_prefix(self.incoming.payload(&reply)) {
            Ok((_, data)) => Ok(data.to_vec()),
            Err(_) => Err(ClientError::Protocol {
                command: Command::Feature,
                what: "it is shorter than its fixed part",
            }),
        }
    }

    /// Where memory may be mapped for the device, in ascending order; none where the server does not tell
    /// ([`feature_number::IOVA_RANGES`] is a feature of this project's servers). It is asked only where the server has
    /// said so: that of the crate `vfio_user` loses its stream's step at any DEVICE_FEATURE.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn iova_ranges(&mut self) -> Result<Option<Vec<IovaRange>>, ClientError> {
        let command = Command::Feature;
        let number = feature_number::IOVA_RANGES;
        if self.server.iova_ranges != Some(true) {
            return Ok(None);
        }
        let data = self.feature(number, FeatureFlags::GET, &[])?;
        let protocol = |what| ClientError::Protocol { command, what };
        let ranges = data
            .chunks(size_of::<IovaRange>())
            .map(IovaRange::read_from_bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| protocol("a range of IOVAs is cut short"))?;
        let disordered = ranges.windows(2).any(|pair| match pair {
            [a, b] => a.last >= b.first,
            _ => false,
        });
        if ranges.is_empty() || disordered || ranges.iter().any(|range| range.first > range.last) {
            return Err(protocol("its ranges of IOVAs are not in order"));
        }
        Ok(Some(ranges))
    }

    /// An access to a region; gives what the reply has behind what it repeats.
    fn ask_access(
        &mut self,
        command: Command,
        access: &RegionAccess,
        data: &[u8],
    ) -> Result<&[u8], ClientError> {
        let reply = self.ask(command, access.as_bytes(), data, &[])?;
        match RegionAccess::read_from_prefix(self.incoming.payload(&reply)) {
            Ok((got, rest)) if got == *access => Ok(rest),
            _ => Err(ClientError::Protocol {
                command,
                what: "it is to another access",
            }),
        }
    }

    /// A request of one structure, answered by one.
    fn ask_for<Q: IntoBytes + Immutable, A: FromBytes>(
        &mut self,
        command: Command,
        asked: &Q,
    ) -> Result<A, ClientError> {
        let reply = self.ask(command, asked.as_bytes(), &[], &[])?;
        A::read_from_prefix(self.incoming.payload(&reply))
            .map(|(answer, _)| answer)
            .map_err(|_| ClientError::Protocol {
                command,
                what: "it is shorter than its fixed part",
            })
    }

    /// Most data in one message: what the server takes, and our own buffer.
    fn most_data(&self) -> usize {
        self.server
            .data_bytes()
            .clamp(1, crate::message::DEFAULT_DATA_BYTES) as usize
    }
}

/// What is left of an access that is made in several messages.
struct Pieces {
    region: u32,
    offset: u64,
}

impl Pieces {
    /// The next of them.
    fn next(&mut self, bytes: usize) -> RegionAccess {
        let access = RegionAccess {
            offset: self.offset,
            region: self.region,
            count: bytes as u32,
        };
        self.offset = self.offset.wrapping_add(bytes as u64);
        access
    }
}

/// The mappable areas in a region's list of capabilities. The list must lead forward, so that it ends.
fn read_areas(payload: &[u8], first: u32) -> Result<Vec<SparseArea>, &'static str> {
    let mut areas = Vec::new();
    let mut at = first as usize;
    let mut least = size_of::<RegionInfo>();
    while at != 0 {
        if at < least {
            return Err("its list of capabilities goes backwards");
        }
        let here = payload.get(at..).ok_or("a capability lies outside it")?;
        // Every capability begins with the same 8 bytes: id, version, next.
        let (id, next) = match <[u16; 4]>::read_from_prefix(here) {
            Ok(([id, _, low, high], _)) => (id, [low, high]),
            Err(_) => return Err("a capability is cut short"),
        };
        if id == SparseMmap::ID {
            let (cap, mut rest) =
                SparseMmap::read_from_prefix(here).map_err(|_| "a capability is cut short")?;
            for _ in 0..cap.areas {
                let (area, after) =
                    SparseArea::read_from_prefix(rest).map_err(|_| "its list of areas is cut short")?;
                areas.push(area);
                rest = after;
            }
        }
        least = at + 8;
        at = u32::read_from_bytes(next.as_bytes()).map_err(|_| "a capability is cut short")? as usize;
    }
    Ok(areas)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(areas: u32, next: u32, listed: &[SparseArea]) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<RegionInfo>()];
        let cap = SparseMmap {
            id: SparseMmap::ID,
            version: 1,
            next,
            areas,
            reserved: 0,
        };
        bytes.extend_from_slice(cap.as_bytes());
        bytes.extend_from_slice(listed.as_bytes());
        bytes
    }

    #[test]
    fn a_list_of_capabilities_that_does_not_lead_forward_is_refused() {
        let area = SparseArea {
            offset: 4096,
            bytes: 8192,
        };
        assert_eq!(read_areas(&list(1, 0, &[area]), 32), Ok(vec![area]));
        for (name, bytes, first) in [
            ("itself", list(1, 32, &[area]), 32),
            ("backwards", list(1, 8, &[area]), 32),
            ("into the fixed part", list(1, 0, &[area]), 16),
            ("past the end", list(1, 0, &[area]), 4096),
            ("too many areas", list(2, 0, &[area]), 32),
            ("very many areas", list(u32::MAX, 0, &[area]), 32),
        ] {
            assert!(read_areas(&bytes, first).is_err(), "{name}");
        }
    }
}
