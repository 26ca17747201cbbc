//! Regions: what they are, reads and writes.

use std::sync::Arc;

use uvfio_core::{AccessError, VirtualDevice};
use zerocopy::FromBytes;

use super::reply::Reply;
use super::{Limits, Request};
use crate::error::Refusal;
use crate::message::{
    Command, IoEventFdFlags, MultiWrite, RegionAccess, RegionFlags, RegionInfo, RegionIoFds, SparseArea,
    SparseMmap, SubRegionIoFd,
};

impl Request<'_> {
    #[inline(never)]
    pub(super) fn get_region_info(&mut self) -> Result<(), Refusal> {
        let (asked, _) = self.read::<RegionInfo>("it must have at least 32: a vfio_region_info")?;
        self.check_argsz(
            asked.argsz,
            size_of::<RegionInfo>(),
            "the reply has at least 32 bytes",
        )?;
        let info = self.device.region_info(asked.index)?;
        let mut flags = RegionFlags::empty();
        flags.set(RegionFlags::READ, info.read);
        flags.set(RegionFlags::WRITE, info.write);
        // Some clients take a descriptor for granted where the flag is set.
        let memory = info
            .memory
            .filter(|_| self.session.most_fds > 0 && !info.mappable.is_empty());
        flags.set(RegionFlags::MMAP, memory.is_some());

        let mut areas = info.mappable.as_slice();
        let largest = areas.iter().copied().max_by_key(|&(_, bytes)| bytes);
        let largest = [largest.unwrap_or_default()];
        let at = memory.as_ref().map_or(0, |_| info.memory_at);
        if self.session.one_area {
            areas = &largest;
        }
        // A region that can be mapped whole needs no list.
        let listed = memory.is_some() && areas != [(0, info.bytes)];
        let mut argsz = size_of::<RegionInfo>();
        if listed {
            flags |= RegionFlags::CAPS;
            argsz += size_of::<SparseMmap>() + size_of_val(areas);
        }
        self.reply.put(&RegionInfo {
            argsz: argsz as u32,
            flags: flags.bits(),
            index: asked.index,
            // Told even where the capability does not fit: QEMU checks it on both.
            cap_offset: if listed { size_of::<RegionInfo>() as u32 } else { 0 },
            bytes: info.bytes,
            offset: at,
        });
        if listed && argsz <= asked.argsz as usize {
            self.reply.put(&SparseMmap {
                id: SparseMmap::ID,
                version: 1,
                next: 0,
                areas: areas.len() as u32,
                reserved: 0,
            });
            for &(offset, bytes) in areas {
                self.reply.put(&SparseArea { offset, bytes });
            }
        }
        if let Some(memory) = memory {
            self.reply.put_fd(Arc::new(memory));
        }
        Ok(())
    }

    /// A region's doorbells, as many as the client can take descriptors; none is an answer.
    #[inline(never)]
    pub(super) fn get_region_io_fds(&mut self) -> Result<(), Refusal> {
        let (asked, _) = self.read::<RegionIoFds>("it must have 16: argsz, flags, index, count")?;
        self.check_argsz(
            asked.argsz,
            size_of::<RegionIoFds>(),
            "the reply has at least 16 bytes",
        )?;
        if asked.flags != 0 {
            return Err(self.field("flags", asked.flags, "it must be 0"));
        }
        if asked.count != 0 {
            return Err(self.field("count", asked.count, "it must be 0 in the request"));
        }
        let mut doorbells = self.device.doorbells(asked.index)?;
        doorbells.truncate(self.session.most_fds);
        let argsz = size_of::<RegionIoFds>() + doorbells.len() * size_of::<SubRegionIoFd>();
        self.reply.put(&RegionIoFds {
            argsz: argsz as u32,
            flags: 0,
            index: asked.index,
            count: doorbells.len() as u32,
        });
        if argsz > asked.argsz as usize {
            return Ok(());
        }
        for (index, doorbell) in doorbells.into_iter().enumerate() {
            let mut flags = IoEventFdFlags::empty();
            flags.set(IoEventFdFlags::DATAMATCH, doorbell.value.is_some());
            self.reply.put(&SubRegionIoFd {
                offset: doorbell.offset,
                bytes: doorbell.width.map_or(0, |width| width as u64),
                fd_index: index as u32,
                kind: SubRegionIoFd::IOEVENTFD,
                flags: flags.bits(),
                padding: 0,
                datamatch: doorbell.value.unwrap_or(0),
            });
            self.reply.put_fd(doorbell.eventfd);
        }
        Ok(())
    }

    /// The writes are done in their order, up to the first that is refused; the reply says how many were done.
    /// Only where that is none is the reply an error.
    #[inline(never)]
    pub(super) fn region_write_multi(&mut self) -> Result<(), Refusal> {
        let (count, writes) = self.read::<u64>("it must have 8 and 24 for each write")?;
        let needed = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(size_of::<MultiWrite>()));
        if needed != Some(writes.len()) {
            return Err(self.field("wr_cnt", count, "24 bytes must follow for each write"));
        }
        let each = || {
            writes
                .chunks_exact(size_of::<MultiWrite>())
                .filter_map(|one| MultiWrite::read_from_bytes(one).ok())
        };
        if let Some(long) = each().find(|one| one.count as usize > one.data.len()) {
            return Err(self.field("count", long.count, "one write of several has at most 8 bytes"));
        }
        let mut done = 0_u64;
        for one in each() {
            let data = one.data.get(..one.count as usize).unwrap_or_default();
            if let Err(refusal) = self.device.write(one.region, one.offset, data) {
                self.stop_multi(done, refusal)?;
                break;
            }
            done += 1;
        }
        self.reply.put(&done);
        Ok(())
    }

    fn stop_multi(&self, done: u64, refusal: AccessError) -> Result<(), Refusal> {
        if done == 0 {
            return Err(refusal.into());
        }
        tracing::warn!(
            target: "audit",
            device = self.device.name(),
            "REGION_WRITE_MULTI stopped after {done} writes: {refusal}"
        );
        Ok(())
    }
}

/// REGION_READ. Nearly every message of a client's life is this or the next, so they are apart from the others.
#[inline]
pub(super) fn read(
    device: &VirtualDevice,
    limits: &Limits,
    payload: &[u8],
    reply: &mut Reply,
) -> Result<(), Refusal> {
    let command = Command::RegionRead;
    let Ok(access) = RegionAccess::read_from_bytes(payload) else {
        return Err(Refusal::length(
            command,
            payload,
            "a read has 16: offset, region, count",
        ));
    };
    let count = check_count(command, limits, &access)?;
    reply.put(&access);
    device.read(access.region, access.offset, reply.space(count))?;
    Ok(())
}

/// REGION_WRITE.
#[inline]
pub(super) fn write(
    device: &VirtualDevice,
    limits: &Limits,
    payload: &[u8],
    reply: &mut Reply,
) -> Result<(), Refusal> {
    let command = Command::RegionWrite;
    let Ok((access, data)) = RegionAccess::read_from_prefix(payload) else {
        return Err(Refusal::length(command, payload, "it must have 16 and the data"));
    };
    if check_count(command, limits, &access)? != data.len() {
        let rule = "it must be the number of bytes that follow";
        return Err(Refusal::field(command, "count", access.count, rule));
    }
    device.write(access.region, access.offset, data)?;
    reply.put(&access);
    Ok(())
}

/// An access's length, within the limit.
#[inline]
fn check_count(command: Command, limits: &Limits, access: &RegionAccess) -> Result<usize, Refusal> {
    if access.count > limits.max_data_bytes {
        let rule = "it is more than the max_data_xfer_size agreed";
        return Err(Refusal::field(command, "count", access.count, rule));
    }
    Ok(access.count as usize)
}
