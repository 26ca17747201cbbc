//! Address spaces of `/dev/iommu`, and their rules of mapping.

use std::mem::offset_of;
use std::sync::Arc;

use iommufd_bindings::iommufd as sys;
use rustix::io::Errno;
use uvfio_core::DmaAccess;

use super::{Inner, Object, unsupported};
use crate::argument::Argument;
use crate::container::take;
use crate::locked::Locked;
use crate::refusal::{Outcome, Refusal};
use crate::space::{Mapped, PAGE, Ranges, Space, USABLE, bytes_of, cut, first_within, is_usable};
use crate::{CountedBy, ProcessMemory};

/// Most mappings of an address space.
const MAX_MAPPINGS: usize = 1 << 20;

/// The most ranges that IOAS_ALLOW_IOVAS takes.
const MAX_ALLOWED: u32 = 4096;

/// An address space.
#[derive(Debug)]
pub(super) struct Ioas {
    pub(super) space: Arc<Space>,
    /// Off: a mapping may be cut.
    pub(super) large_pages: bool,
    /// Where addresses that nobody asked for are taken from, if that was said: (first, last).
    allowed: Vec<(u64, u64)>,
}

impl Default for Ioas {
    fn default() -> Self {
        Self {
            space: Arc::default(),
            large_pages: true,
            allowed: Vec::new(),
        }
    }
}

/// A range to map.
pub(super) struct Map {
    /// None: somewhere.
    pub(super) iova: Option<u64>,
    pub(super) bytes: u64,
    pub(super) address: u64,
    pub(super) access: DmaAccess,
    pub(super) memory: Arc<dyn ProcessMemory>,
}

impl Ioas {
    /// Maps, and says where.
    pub(super) fn map(&self, map: Map) -> Outcome<u64> {
        let Map {
            iova,
            bytes,
            address,
            access,
            memory,
        } = map;
        if access.is_empty() {
            return Err(Refusal::invalid("it needs READABLE or WRITEABLE or both"));
        }
        if bytes == 0 {
            return Err(Refusal::invalid("the length is 0"));
        }
        address
            .checked_add(bytes)
            .ok_or_else(|| overflow(address, bytes))?;
        check_aligned(address, bytes, iova.unwrap_or(0))?;
        let mut ranges = self.space.change();
        let iova = match iova {
            Some(iova) => iova,
            None => self.free(&ranges, bytes)?,
        };
        let last = check_free(&ranges, iova, bytes)?;
        let (memory, locked) = take(&memory, address, bytes, access, CountedBy::User)?;
        let range = Mapped {
            last,
            access,
            address: Some(address),
            memory,
            writable: access.contains(DmaAccess::WRITE),
            locked,
        };
        ranges.insert(iova, range);
        drop(ranges);
        self.space.mapped(iova, last)?;
        Ok(iova)
    }

    /// Maps memory that is mapped elsewhere, `bytes` in all, and says where: `iova`, or somewhere. All of it or nothing.
    fn map_copies(
        &self,
        iova: Option<u64>,
        bytes: u64,
        access: DmaAccess,
        copies: Vec<Piece>,
    ) -> Outcome<u64> {
        let mut ranges = self.space.change();
        let iova = match iova {
            Some(iova) => iova,
            None => self.free(&ranges, bytes)?,
        };
        check_aligned(0, bytes, iova)?;
        let last = check_free(&ranges, iova, bytes)?;
        if access.contains(DmaAccess::WRITE) && copies.iter().any(|piece| !piece.writable) {
            return Err(Refusal::new(
                Errno::PERM,
                "what was mapped to be read only can't be copied to be written",
            ));
        }
        let mut at = iova;
        for piece in copies {
            check_aligned(piece.address, piece.bytes, at)?;
            let range = Mapped {
                // Their sum is `bytes`, which fits.
                last: at.saturating_add(piece.bytes - 1),
                access,
                address: Some(piece.address),
                memory: piece.memory,
                writable: piece.writable,
                locked: piece.locked,
            };
            ranges.insert(at, range);
            at = at.saturating_add(piece.bytes);
        }
        drop(ranges);
        self.space.mapped(iova, last)?;
        Ok(iova)
    }

    /// A free address with room for `bytes` bytes: the first that there is, but not 0, which drivers take for none.
    fn free(&self, ranges: &Ranges, bytes: u64) -> Outcome<u64> {
        let allowed = if self.allowed.is_empty() {
            &USABLE[..]
        } else {
            &self.allowed
        };
        for &(first, end) in allowed {
            for &(start, usable) in &USABLE {
                let end = end.min(usable);
                // A range may begin within the last page that there is.
                let mut next = first.max(start).max(PAGE).checked_next_multiple_of(PAGE);
                while let Some(at) = next
                    && let Some(last) = at.checked_add(bytes - 1).filter(|last| *last <= end)
                {
                    let Some((_, taken)) = first_within(ranges, at, last) else {
                        return Ok(at);
                    };
                    next = taken.last.saturating_add(1).checked_next_multiple_of(PAGE);
                }
            }
        }
        Err(Refusal::new(
            Errno::NOSPC,
            format!("no IOVA is free for {bytes:#x} bytes"),
        ))
    }

    /// Unmaps all that lies in a range; with large pages off, also parts. How many bytes.
    pub(super) fn unmap(&self, iova: u64, bytes: u64) -> Outcome<u64> {
        let none = || Refusal::new(Errno::NOENT, format!("nothing is mapped from IOVA {iova:#x} on"));
        if bytes == 0 {
            return Err(Refusal::invalid("the length is 0"));
        }
        let last = iova.checked_add(bytes - 1).ok_or_else(|| {
            Refusal::new(
                Errno::OVERFLOW,
                format!("{bytes:#x} bytes from IOVA {iova:#x} on run past 2^64"),
            )
        })?;
        let mut ranges = self.space.change();
        if let Some(other) = cut(&ranges, iova, last) {
            if self.large_pages {
                return Err(Refusal::new(
                    Errno::NOENT,
                    format!("IOVA {iova:#x}..={last:#x} would cut the mapping at {other:#x}"),
                ));
            }
            if !(iova | bytes).is_multiple_of(PAGE) {
                return Err(Refusal::invalid("mappings are cut between pages only"));
            }
            split(&mut ranges, iova);
            if let Some(next) = last.checked_add(1) {
                split(&mut ranges, next);
            }
        }
        let taken: Vec<u64> = ranges.range(iova..=last).map(|(first, _)| *first).collect();
        if taken.is_empty() {
            return Err(none());
        }
        let bytes = taken
            .into_iter()
            .map(|first| ranges.remove(first))
            .fold(0, u64::saturating_add);
        drop(ranges);
        self.space.unmapped(iova, last);
        Ok(bytes)
    }

    /// Unmaps everything. How many bytes.
    pub(super) fn unmap_all(&self) -> u64 {
        let mut ranges = self.space.change();
        let bytes = ranges.bytes();
        ranges.clear();
        drop(ranges);
        self.space.unmapped(0, u64::MAX);
        bytes
    }
}

fn overflow(start: u64, bytes: u64) -> Refusal {
    Refusal::new(
        Errno::OVERFLOW,
        format!("{bytes:#x} bytes from {start:#x} on run past 2^64"),
    )
}

fn check_aligned(address: u64, bytes: u64, iova: u64) -> Outcome<()> {
    if (address | bytes | iova).is_multiple_of(PAGE) {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "address {address:#x}, length {bytes:#x} and IOVA {iova:#x} must be multiples of {PAGE}"
    )))
}

/// Whether `bytes` bytes may be mapped at `iova`: the last address.
fn check_free(ranges: &Ranges, iova: u64, bytes: u64) -> Outcome<u64> {
    let last = iova.checked_add(bytes - 1).ok_or_else(|| overflow(iova, bytes))?;
    if !is_usable(iova, last) {
        return Err(Refusal::invalid(format!(
            "IOVA {iova:#x}..={last:#x} is not within the ranges that IOMMU_IOAS_IOVA_RANGES tells"
        )));
    }
    if let Some((other, _)) = first_within(ranges, iova, last) {
        return Err(Refusal::new(
            Errno::EXIST,
            format!("IOVA {iova:#x}..={last:#x} overlaps the mapping at {other:#x}; unmap that first"),
        ));
    }
    if ranges.len() >= MAX_MAPPINGS {
        return Err(Refusal::new(
            Errno::NOMEM,
            format!("there are {MAX_MAPPINGS} mappings, the most that there may be"),
        ));
    }
    Ok(last)
}

/// Makes two mappings of one, at `at`.
fn split(ranges: &mut Ranges, at: u64) {
    let Some((first, range)) = crate::space::find(ranges, at).map(|(first, range)| (first, range.clone()))
    else {
        return;
    };
    if first == at {
        return;
    }
    ranges.remove(first);
    let behind = Mapped {
        address: range.address.map(|address| address.wrapping_add(at - first)),
        ..range.clone()
    };
    ranges.insert(
        first,
        Mapped {
            last: at - 1,
            ..range
        },
    );
    ranges.insert(at, behind);
}

const FIXED: u32 = sys::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA;
const WRITEABLE: u32 = sys::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE;
const READABLE: u32 = sys::iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE;

/// What flags allow; EOPNOTSUPP for others, EINVAL for none.
fn access_of(flags: u32, numbers: &[u64]) -> Outcome<DmaAccess> {
    if flags & !(FIXED | WRITEABLE | READABLE) != 0 {
        return Err(unsupported(&format!("one of the flags {flags:#x}")));
    }
    if numbers.contains(&u64::MAX) {
        return Err(Refusal::new(Errno::OVERFLOW, "an IOVA or a length is 2^64 - 1"));
    }
    let mut access = DmaAccess::empty();
    access.set(DmaAccess::READ, flags & READABLE != 0);
    access.set(DmaAccess::WRITE, flags & WRITEABLE != 0);
    if access.is_empty() {
        return Err(Refusal::invalid("it needs READABLE or WRITEABLE or both"));
    }
    Ok(access)
}

impl Inner {
    pub(super) fn alloc(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        if command.u32(offset_of!(sys::iommu_ioas_alloc, flags)) != 0 {
            return Err(unsupported("flags"));
        }
        let id = self.add(Object::Ioas(Ioas::default()))?;
        command.set_u32(offset_of!(sys::iommu_ioas_alloc, out_ioas_id), id);
        let answered = command.answer(size_of::<sys::iommu_ioas_alloc>());
        if answered.is_err() {
            self.objects.remove(&id);
        }
        answered
    }

    pub(super) fn allow(&mut self, command: &Argument<'_>) -> Outcome<()> {
        if command.u32(offset_of!(sys::iommu_ioas_allow_iovas, __reserved)) != 0 {
            return Err(unsupported("a reserved field"));
        }
        let ioas = self.ioas(command.u32(offset_of!(sys::iommu_ioas_allow_iovas, ioas_id)))?;
        let count = command.u32(offset_of!(sys::iommu_ioas_allow_iovas, num_iovas));
        let at = command.u64(offset_of!(sys::iommu_ioas_allow_iovas, allowed_iovas));
        if count > MAX_ALLOWED {
            return Err(Refusal::new(
                Errno::NOMEM,
                format!("more than {MAX_ALLOWED} ranges are not taken"),
            ));
        }
        let list = Argument::without_argsz(
            command.caller(),
            at,
            count as usize * size_of::<sys::iommu_iova_range>(),
        )?;
        let mut allowed: Vec<(u64, u64)> = Vec::new();
        for n in 0..count as usize {
            let at = n * size_of::<sys::iommu_iova_range>();
            let first = list.u64(at + offset_of!(sys::iommu_iova_range, start));
            let last = list.u64(at + offset_of!(sys::iommu_iova_range, last));
            let overlaps = allowed.iter().any(|(start, end)| first <= *end && last >= *start);
            if first >= last || overlaps {
                return Err(Refusal::invalid(format!(
                    "range {n}, {first:#x}..={last:#x}, is empty or overlaps another"
                )));
            }
            allowed.push((first, last));
        }
        allowed.sort_unstable();
        ioas.allowed = allowed;
        Ok(())
    }

    pub(super) fn ranges(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        if command.u32(offset_of!(sys::iommu_ioas_iova_ranges, __reserved)) != 0 {
            return Err(unsupported("a reserved field"));
        }
        self.ioas(command.u32(offset_of!(sys::iommu_ioas_iova_ranges, ioas_id)))?;
        let room = command.u32(offset_of!(sys::iommu_ioas_iova_ranges, num_iovas)) as usize;
        let at = command.u64(offset_of!(sys::iommu_ioas_iova_ranges, allowed_iovas));
        let list: Vec<u8> = USABLE
            .iter()
            .take(room)
            .flat_map(|(first, last)| [first.to_ne_bytes(), last.to_ne_bytes()])
            .flatten()
            .collect();
        command
            .caller()
            .write(at, &list)
            .map_err(|errno| Refusal::new(errno, format!("the list at {at:#x} can't be written")))?;
        command.set_u32(
            offset_of!(sys::iommu_ioas_iova_ranges, num_iovas),
            USABLE.len() as u32,
        );
        command.set_u64(offset_of!(sys::iommu_ioas_iova_ranges, out_iova_alignment), PAGE);
        command.answer(size_of::<sys::iommu_ioas_iova_ranges>())?;
        if room < USABLE.len() {
            return Err(Refusal::new(
                Errno::MSGSIZE,
                format!("the list has room for {room} of {} ranges", USABLE.len()),
            ));
        }
        Ok(())
    }

    pub(super) fn map(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        let flags = command.u32(offset_of!(sys::iommu_ioas_map, flags));
        let iova = command.u64(offset_of!(sys::iommu_ioas_map, iova));
        let bytes = command.u64(offset_of!(sys::iommu_ioas_map, length));
        if command.u32(offset_of!(sys::iommu_ioas_map, __reserved)) != 0 {
            return Err(unsupported("a reserved field"));
        }
        let access = access_of(flags, &[iova, bytes])?;
        let ioas = self.ioas(command.u32(offset_of!(sys::iommu_ioas_map, ioas_id)))?;
        let mapped = ioas.map(Map {
            iova: (flags & FIXED != 0).then_some(iova),
            bytes,
            address: command.u64(offset_of!(sys::iommu_ioas_map, user_va)),
            access,
            memory: command.caller().memory(),
        })?;
        command.set_u64(offset_of!(sys::iommu_ioas_map, iova), mapped);
        command.answer(size_of::<sys::iommu_ioas_map>())
    }

    pub(super) fn copy(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        let flags = command.u32(offset_of!(sys::iommu_ioas_copy, flags));
        let bytes = command.u64(offset_of!(sys::iommu_ioas_copy, length));
        let from = command.u64(offset_of!(sys::iommu_ioas_copy, src_iova));
        let to = command.u64(offset_of!(sys::iommu_ioas_copy, dst_iova));
        let access = access_of(flags, &[bytes, from, to])?;
        let source = self.ioas(command.u32(offset_of!(sys::iommu_ioas_copy, src_ioas_id)))?;
        let pieces = pieces(&source.space.ranges(), from, bytes)?;
        let destination = self.ioas(command.u32(offset_of!(sys::iommu_ioas_copy, dst_ioas_id)))?;
        let start = destination.map_copies((flags & FIXED != 0).then_some(to), bytes, access, pieces)?;
        command.set_u64(offset_of!(sys::iommu_ioas_copy, dst_iova), start);
        command.answer(size_of::<sys::iommu_ioas_copy>())
    }

    pub(super) fn unmap(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        let ioas = self.ioas(command.u32(offset_of!(sys::iommu_ioas_unmap, ioas_id)))?;
        let iova = command.u64(offset_of!(sys::iommu_ioas_unmap, iova));
        let bytes = command.u64(offset_of!(sys::iommu_ioas_unmap, length));
        let unmapped = match (iova, bytes) {
            (0, u64::MAX) => ioas.unmap_all(),
            (u64::MAX, _) | (_, u64::MAX) => {
                return Err(Refusal::new(
                    Errno::OVERFLOW,
                    "with a length of 2^64 - 1, the IOVA must be 0: everything",
                ));
            }
            _ => ioas.unmap(iova, bytes)?,
        };
        command.set_u64(offset_of!(sys::iommu_ioas_unmap, length), unmapped);
        command.answer(size_of::<sys::iommu_ioas_unmap>())
    }

    pub(super) fn option(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        const SET: u32 = sys::iommufd_option_ops_IOMMU_OPTION_OP_SET;
        const GET: u32 = sys::iommufd_option_ops_IOMMU_OPTION_OP_GET;
        let option = command.u32(offset_of!(sys::iommu_option, option_id));
        let op = u32::from(command.u16(offset_of!(sys::iommu_option, op)));
        let object = command.u32(offset_of!(sys::iommu_option, object_id));
        let value = command.u64(offset_of!(sys::iommu_option, val64));
        if command.u16(offset_of!(sys::iommu_option, __reserved)) != 0 {
            return Err(unsupported("a reserved field"));
        }
        let shown = match (option, op) {
            (sys::iommufd_option_IOMMU_OPTION_RLIMIT_MODE, _) if object != 0 => {
                return Err(unsupported("an object, for the way that memory is accounted,"));
            }
            // By user, as at the beginning.
            (sys::iommufd_option_IOMMU_OPTION_RLIMIT_MODE, GET) => 0,
            (sys::iommufd_option_IOMMU_OPTION_RLIMIT_MODE, SET) => {
                return Err(Refusal::new(
                    Errno::PERM,
                    "how memory is accounted is for a privileged process to say",
                ));
            }
            (sys::iommufd_option_IOMMU_OPTION_HUGE_PAGES, GET) => self.ioas(object)?.large_pages.into(),
            (sys::iommufd_option_IOMMU_OPTION_HUGE_PAGES, SET) => {
                self.ioas(object)?.large_pages = match value {
                    0 => false,
                    1 => true,
                    _ => return Err(Refusal::invalid("large pages are 0 (off) or 1 (on)")),
                };
                value
            }
            _ => return Err(unsupported("that option or operation")),
        };
        command.set_u64(offset_of!(sys::iommu_option, val64), shown);
        command.answer(size_of::<sys::iommu_option>())
    }

    pub(super) fn vfio_ioas(&mut self, mut command: Argument<'_>) -> Outcome<()> {
        if command.u16(offset_of!(sys::iommu_vfio_ioas, __reserved)) != 0 {
            return Err(unsupported("a reserved field"));
        }
        match u32::from(command.u16(offset_of!(sys::iommu_vfio_ioas, op))) {
            sys::iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_GET => {
                self.compat()?;
                let id = self.compat.unwrap_or_default();
                command.set_u32(offset_of!(sys::iommu_vfio_ioas, ioas_id), id);
                command.answer(size_of::<sys::iommu_vfio_ioas>())
            }
            sys::iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_SET => {
                let id = command.u32(offset_of!(sys::iommu_vfio_ioas, ioas_id));
                self.ioas(id)?;
                self.compat = Some(id);
                Ok(())
            }
            sys::iommufd_vfio_ioas_op_IOMMU_VFIO_IOAS_CLEAR => {
                self.compat = None;
                Ok(())
            }
            _ => Err(unsupported("that operation")),
        }
    }
}

/// Memory behind a part of a mapping.
struct Piece {
    address: u64,
    bytes: u64,
    memory: Arc<dyn ProcessMemory>,
    writable: bool,
    locked: Option<Arc<Locked>>,
}

/// The memory behind a range, run by run; ENOENT where not all of it is mapped.
fn pieces(ranges: &Ranges, iova: u64, bytes: u64) -> Outcome<Vec<Piece>> {
    let none = |at: u64| Refusal::new(Errno::NOENT, format!("nothing is mapped at IOVA {at:#x}"));
    if bytes == 0 {
        return Err(Refusal::invalid("the length is 0"));
    }
    let last = iova.checked_add(bytes - 1).ok_or_else(|| overflow(iova, bytes))?;
    let mut found = Vec::new();
    let mut at = iova;
    loop {
        let (first, range) = crate::space::find(ranges, at).ok_or_else(|| none(at))?;
        let end = range.last.min(last);
        found.push(Piece {
            address: range.address.ok_or_else(|| none(at))?.wrapping_add(at - first),
            bytes: bytes_of(at, end),
            memory: Arc::clone(&range.memory),
            writable: range.writable,
            locked: range.locked.clone(),
        });
        if end == last {
            return Ok(found);
        }
        at = end + 1;
    }
}
