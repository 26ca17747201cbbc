//! What the device is: DEVICE_GET_INFO, DEVICE_GET_REGION_INFO, DEVICE_GET_IRQ_INFO.

use std::os::fd::AsFd;

use uvfio_proto::message::{
    Command, DeviceFlags, DeviceInfo, IrqInfo, RegionFlags, RegionInfo, SparseArea, SparseMmap,
};
use zerocopy::FromBytes;

use super::{WHOLE, refused, steps};
use crate::case::{Bench, Case, Rule, Step, fail, hold, not_applicable};
use crate::facts::CONFIG;
use crate::payload::{indexed, info, region_info};
use crate::session::{Reply, Session};

const INFO: Rule = Rule::Spec("VFIO_USER_DEVICE_GET_INFO");
const REGION: Rule = Rule::Spec("VFIO_USER_DEVICE_GET_REGION_INFO");
const CAPS: Rule = Rule::Spec("VFIO region capabilities");
const IRQ: Rule = Rule::Spec("VFIO_USER_DEVICE_GET_IRQ_INFO");
const ARGSZ: Rule =
    Rule::Ours("argsz is to be at least the fixed part (Message sizes); a reply must not be longer than it");

/// Regions and interrupt indices of a PCI device that VFIO knows.
const PCI_REGIONS: u32 = 9;

/// A reply without capabilities is no longer than this.
const FIXED: usize = size_of::<RegionInfo>();

pub(super) const CASES: &[Case] = &[
    steps(
        "info.reply",
        "DEVICE_GET_INFO",
        INFO,
        "16 bytes with argsz 16 and the flag PCI, without descriptors",
        |bench| {
            let mut session = bench.session()?;
            let reply = session.done_with(Command::GetInfo, &info(16), &[], 16)?;
            let got = read::<DeviceInfo>(&reply)?;
            hold(got.argsz == 16, || format!("argsz is {}", got.argsz))?;
            hold(got.flags & DeviceFlags::PCI.bits() != 0, || {
                format!("flags are {:#x}", got.flags)
            })?;
            hold(reply.fds.is_empty(), || {
                format!("{} descriptors came", reply.fds.len())
            })
        },
    ),
    steps(
        "info.pci_regions",
        "DEVICE_GET_INFO",
        Rule::Spec("Device-Specific Regions"),
        "at least the 9 regions of a PCI device",
        |bench| {
            let got: DeviceInfo = bench.session()?.get(Command::GetInfo, &info(16))?;
            hold(got.regions >= PCI_REGIONS, || format!("{} regions", got.regions))
        },
    ),
    steps(
        "info.argsz_large",
        "argsz of 4096",
        Rule::Spec("Message sizes"),
        "argsz is the size needed, 16",
        |bench| {
            let mut session = bench.session()?;
            let reply = session.done_with(Command::GetInfo, &info(4096), &[], 16)?;
            let got = read::<DeviceInfo>(&reply)?;
            hold(got.argsz == 16, || format!("argsz is {}", got.argsz))
        },
    ),
    refused("info.argsz_small", "argsz of 15", ARGSZ, Command::GetInfo, |_| {
        Some(info(15))
    }),
    refused("info.empty", "no payload", WHOLE, Command::GetInfo, |_| {
        Some(vec![])
    }),
    refused(
        "info.short",
        "15 bytes of payload",
        WHOLE,
        Command::GetInfo,
        |_| Some(vec![0x10; 15]),
    ),
    steps(
        "info.stray_descriptor",
        "DEVICE_GET_INFO with the writing end of a pipe",
        Rule::Ours("descriptors that nobody asked for fill the server's table"),
        "the session goes on, and the descriptor is closed",
        |bench| stray(bench, 1),
    ),
    steps(
        "info.many_descriptors",
        "DEVICE_GET_INFO with 200 descriptors of a pipe",
        Rule::Ours("descriptors that nobody asked for fill the server's table"),
        "an answer or the end; the descriptors are closed and the next client is served",
        |bench| stray(bench, 200),
    ),
    steps(
        "region_info.every",
        "each region",
        REGION,
        "its index, argsz of 32 or more, 32 bytes where argsz was 32",
        |bench| {
            let facts = bench.facts()?;
            let mut session = bench.session()?;
            for index in 0..facts.regions.len() as u32 {
                let reply = session.done_with(Command::GetRegionInfo, &region_info(32, index), &[], FIXED)?;
                let got = read::<RegionInfo>(&reply)?;
                hold(got.index == index && got.argsz as usize >= FIXED, || {
                    format!("region {index}: {got:?}")
                })?;
            }
            Ok(())
        },
    ),
    steps(
        "region_info.config",
        "the region of configuration space",
        REGION,
        "256 bytes or more, to be read and written",
        |bench| {
            let both = (RegionFlags::READ | RegionFlags::WRITE).bits();
            let got: RegionInfo = bench
                .session()?
                .get(Command::GetRegionInfo, &region_info(32, CONFIG))?;
            hold(got.bytes >= 256 && got.flags & both == both, || {
                format!("{got:?}")
            })
        },
    ),
    steps(
        "region_info.descriptors",
        "each region",
        REGION,
        "a descriptor exactly where the flag MMAP is set, and its file long enough",
        descriptors,
    ),
    steps(
        "region_info.caps",
        "regions with capabilities, with an argsz that is large enough",
        CAPS,
        "a chain that stays within the reply and ends; its areas within the region, page by page",
        caps,
    ),
    steps(
        "region_info.caps_cut",
        "regions with capabilities, with an argsz of 32",
        Rule::Spec("Message sizes"),
        "the fixed part only, argsz as needed for all",
        |bench| {
            let mut session = bench.session()?;
            for index in regions_with_caps(bench)? {
                let reply = session.done_with(Command::GetRegionInfo, &region_info(32, index), &[], FIXED)?;
                let got = read::<RegionInfo>(&reply)?;
                let full = session.done(Command::GetRegionInfo, &region_info(got.argsz, index), &[])?;
                hold(full.payload.len() == got.argsz as usize, || {
                    format!(
                        "region {index}: argsz was {} and the reply to that has {} bytes",
                        got.argsz,
                        full.payload.len()
                    )
                })?;
            }
            Ok(())
        },
    ),
    refused(
        "region_info.past_end",
        "the region after the last",
        REGION,
        Command::GetRegionInfo,
        |facts| Some(region_info(32, facts.region_count)),
    ),
    refused(
        "region_info.index_max",
        "region 2^32 - 1",
        REGION,
        Command::GetRegionInfo,
        |_| Some(region_info(32, u32::MAX)),
    ),
    refused(
        "region_info.argsz_small",
        "argsz of 31",
        ARGSZ,
        Command::GetRegionInfo,
        |_| Some(region_info(31, 0)),
    ),
    refused(
        "region_info.empty",
        "no payload",
        WHOLE,
        Command::GetRegionInfo,
        |_| Some(vec![]),
    ),
    refused(
        "region_info.short",
        "31 bytes of payload",
        WHOLE,
        Command::GetRegionInfo,
        |_| Some(region_info(32, 0).into_iter().take(31).collect()),
    ),
    steps(
        "irq_info.every",
        "each interrupt index",
        IRQ,
        "16 bytes with argsz 16 and its index",
        |bench| {
            let facts = bench.facts()?;
            let mut session = bench.session()?;
            for index in 0..facts.irqs.len() as u32 {
                let reply = session.done_with(Command::GetIrqInfo, &indexed(16, 0, index, 0), &[], 16)?;
                let got = read::<IrqInfo>(&reply)?;
                hold(got.argsz == 16 && got.index == index, || {
                    format!("index {index}: {got:?}")
                })?;
            }
            Ok(())
        },
    ),
    steps(
        "irq_info.flags",
        "each interrupt index",
        IRQ,
        "flags of bits 0 to 3 only",
        |bench| {
            for info in &bench.facts()?.irqs {
                hold(info.flags & !0xf == 0, || format!("{info:?}"))?;
            }
            Ok(())
        },
    ),
    refused(
        "irq_info.past_end",
        "the index after the last",
        IRQ,
        Command::GetIrqInfo,
        |facts| Some(indexed(16, 0, facts.irq_count, 0)),
    ),
    refused(
        "irq_info.index_max",
        "index 2^32 - 1",
        IRQ,
        Command::GetIrqInfo,
        |_| Some(indexed(16, 0, u32::MAX, 0)),
    ),
    refused(
        "irq_info.argsz_small",
        "argsz of 15",
        ARGSZ,
        Command::GetIrqInfo,
        |_| Some(indexed(15, 0, 0, 0)),
    ),
    refused(
        "irq_info.short",
        "15 bytes of payload",
        WHOLE,
        Command::GetIrqInfo,
        |_| Some(vec![0; 15]),
    ),
];

pub(super) fn read<T: FromBytes>(reply: &Reply) -> Step<T> {
    match T::read_from_prefix(&reply.payload) {
        Ok((value, _)) => Ok(value),
        Err(_) => fail(format!("{} bytes of payload", reply.payload.len())),
    }
}

fn stray(bench: &Bench<'_>, count: usize) -> Step {
    let pipe = |error: rustix::io::Errno| std::io::Error::from(error);
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(pipe)?;
    let mut session = bench.session()?;
    let id = session.fresh_id();
    let message = crate::payload::message(id, Command::GetInfo as u16, 0, &info(16));
    session.link.send(&message, &vec![theirs.as_fd(); count])?;
    drop(theirs);
    let heard = session.link.receive()?;
    if let crate::wire::Heard::Message(_) = heard {
        session.check_alive()?;
    } else if count == 1 {
        return fail(heard.to_string());
    }
    // The reading end becomes readable, at its end, when the last writing end is closed.
    let closed = crate::wire::readable(&ours, bench.patience().reply)?;
    hold(closed, || "the descriptors are still open".into())?;
    drop(session);
    bench.survives()
}

fn regions_with_caps(bench: &Bench<'_>) -> Step<Vec<u32>> {
    let regions: Vec<u32> = bench
        .facts()?
        .regions
        .iter()
        .filter(|info| info.flags & RegionFlags::CAPS.bits() != 0 || info.argsz as usize > FIXED)
        .map(|info| info.index)
        .collect();
    if regions.is_empty() {
        return not_applicable("no region has capabilities");
    }
    Ok(regions)
}

/// The whole reply about a region.
fn whole(session: &mut Session, index: u32) -> Step<(RegionInfo, Reply)> {
    let short: RegionInfo = session.get(Command::GetRegionInfo, &region_info(32, index))?;
    hold(short.argsz <= 1 << 16, || {
        format!("region {index}: argsz is {}", short.argsz)
    })?;
    let reply = session.done(
        Command::GetRegionInfo,
        &region_info(short.argsz.max(32), index),
        &[],
    )?;
    Ok((read(&reply)?, reply))
}

fn descriptors(bench: &Bench<'_>) -> Step {
    let facts = bench.facts()?;
    let mut session = bench.session()?;
    for index in 0..facts.regions.len() as u32 {
        let (info, reply) = whole(&mut session, index)?;
        let mappable = info.flags & RegionFlags::MMAP.bits() != 0;
        hold(mappable != reply.fds.is_empty(), || {
            format!(
                "region {index}: flags {:#x} with {} descriptors",
                info.flags,
                reply.fds.len()
            )
        })?;
        let end = info.offset.checked_add(info.bytes);
        for fd in &reply.fds {
            let stat = rustix::fs::fstat(fd).map_err(std::io::Error::from)?;
            let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
            let long = end.is_some_and(|end| u64::try_from(stat.st_size).is_ok_and(|bytes| bytes >= end));
            // What only parts of can be mapped need not be there to its end.
            let parts = info.flags & RegionFlags::CAPS.bits() != 0;
            hold(!regular || long || parts, || {
                format!(
                    "region {index}: a file of {} bytes for offset {} and size {}",
                    stat.st_size, info.offset, info.bytes
                )
            })?;
        }
    }
    Ok(())
}

/// Walks each chain of capabilities.
fn caps(bench: &Bench<'_>) -> Step {
    let mut session = bench.session()?;
    for index in regions_with_caps(bench)? {
        let (info, reply) = whole(&mut session, index)?;
        let flagged = info.flags & RegionFlags::CAPS.bits() != 0;
        hold(flagged && info.cap_offset as usize >= FIXED, || {
            format!(
                "region {index}: flags {:#x}, cap_offset {}, argsz {}",
                info.flags, info.cap_offset, info.argsz
            )
        })?;
        let mut at = info.cap_offset as usize;
        // Each lies beyond the one before, so that the walk ends.
        while at != 0 {
            let Some((cap, rest)) = reply
                .payload
                .get(at..)
                .and_then(|rest| SparseHead::read_from_prefix(rest).ok())
            else {
                return fail(format!(
                    "region {index}: a capability at {at} of {} bytes",
                    reply.payload.len()
                ));
            };
            if cap.id == SparseMmap::ID {
                areas(&info, &cap, rest)?;
            }
            hold(cap.next == 0 || cap.next as usize > at, || {
                format!(
                    "region {index}: the capability at {at} names the next at {}",
                    cap.next
                )
            })?;
            at = cap.next as usize;
        }
    }
    Ok(())
}

/// What every capability begins with, and all that a short one has.
#[derive(Clone, Copy, Debug, FromBytes)]
#[repr(C)]
struct SparseHead {
    id: u16,
    version: u16,
    next: u32,
}

/// Checks the areas of a sparse-mmap capability; `rest` follows its head.
fn areas(info: &RegionInfo, cap: &SparseHead, rest: &[u8]) -> Step {
    let region = info.index;
    hold(cap.version == 1, || {
        format!("region {region}: the list of areas has version {}", cap.version)
    })?;
    let Ok(([count, _reserved], mut rest)) = <[u32; 2]>::read_from_prefix(rest) else {
        return fail(format!("region {region}: the list of areas is cut off"));
    };
    let mut end = 0;
    for nr in 0..count {
        let Ok((area, after)) = SparseArea::read_from_prefix(rest) else {
            return fail(format!(
                "region {region}: {count} areas, but area {nr} is not in the reply"
            ));
        };
        rest = after;
        let last = area.offset.checked_add(area.bytes);
        hold(
            last.is_some_and(|last| last <= info.bytes) && area.offset >= end,
            || format!("region {region} of {} bytes: {area:?} after {end:#x}", info.bytes),
        )?;
        hold((area.offset | area.bytes) & 0xfff == 0 && area.bytes != 0, || {
            format!("region {region}: {area:?} is not made of pages")
        })?;
        end = last.unwrap_or_default();
    }
    Ok(())
}
