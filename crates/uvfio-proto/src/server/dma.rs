//! DMA_MAP and DMA_UNMAP.

use uvfio_core::{Backing, DmaAccess, DmaMap, close_elsewhere};

use super::Request;
use crate::error::Refusal;
use crate::message::{self, DmaMapFlags, DmaUnmap, DmaUnmapFlags};

impl Request<'_> {
    #[inline(never)]
    pub(super) fn dma_map(&mut self) -> Result<(), Refusal> {
        let (asked, rest) =
            self.read::<message::DmaMap>("it must have 32: argsz, flags, offset, address, size")?;
        if !rest.is_empty() {
            return Err(self.wrong_length("it must have 32: argsz, flags, offset, address, size"));
        }
        self.check_argsz(
            asked.argsz,
            size_of::<message::DmaMap>(),
            "the structure has 32 bytes",
        )?;
        let Some(flags) = DmaMapFlags::from_bits(asked.flags) else {
            return Err(self.field("flags", asked.flags, "only bits 0 to 3 have a meaning"));
        };
        if self.fds.len() > 1 {
            return Err(Refusal::Descriptors {
                command: self.command,
                have: self.fds.len(),
                most: 1,
            });
        }
        let mut access = DmaAccess::empty();
        access.set(DmaAccess::READ, flags.contains(DmaMapFlags::READ));
        access.set(DmaAccess::WRITE, flags.contains(DmaMapFlags::WRITE));
        let backing = match self.fds.pop() {
            None => None,
            // File offsets are signed.
            Some(file)
                if asked
                    .offset
                    .checked_add(asked.bytes)
                    .is_none_or(|end| i64::try_from(end).is_err()) =>
            {
                close_elsewhere(file);
                return Err(self.field(
                    "offset",
                    asked.offset,
                    "offset and size go past the end of any file",
                ));
            }
            Some(file) => Some(Backing {
                file,
                offset: asked.offset,
            }),
        };
        self.device.dma_map(DmaMap {
            iova: asked.iova,
            bytes: asked.bytes,
            access,
            backing,
        })?;
        Ok(())
    }

    #[inline(never)]
    pub(super) fn dma_unmap(&mut self) -> Result<(), Refusal> {
        let (asked, _) = self.read::<DmaUnmap>("it must have 24: argsz, flags, address, size")?;
        self.check_argsz(asked.argsz, size_of::<DmaUnmap>(), "the reply has 24 bytes")?;
        let Some(flags) = DmaUnmapFlags::from_bits(asked.flags) else {
            return Err(self.field("flags", asked.flags, "only bits 0 and 1 have a meaning"));
        };
        if flags.contains(DmaUnmapFlags::DIRTY_BITMAP) {
            return Err(self.field(
                "flags",
                asked.flags,
                "this device keeps no bitmap of pages written",
            ));
        }
        let all = flags.contains(DmaUnmapFlags::ALL);
        if all && (asked.iova, asked.bytes) != (0, 0) {
            return Err(self.field("flags", asked.flags, "to unmap all, address and size must be 0"));
        }
        if !all && asked.bytes == 0 {
            return Err(self.field("size", asked.bytes, "there is nothing to unmap"));
        }
        self.device.dma_unmap(asked.iova, asked.bytes)?;
        self.reply.put(&asked);
        Ok(())
    }
}
