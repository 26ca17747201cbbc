//! Registers that are reached by a descriptor: DEVICE_GET_REGION_IO_FDS.

use std::os::fd::{AsRawFd, OwnedFd};

use uvfio_proto::message::{Command, IoEventFdFlags, RegionIoFds, SubRegionIoFd};
use zerocopy::FromBytes;

use super::info::read;
use super::{WHOLE, refused, steps};
use crate::case::{Bench, Case, Rule, Step, fail, hold, not_applicable};
use crate::payload::indexed;
use crate::session::{Reply, Session};

const IO_FDS: Rule = Rule::Spec("VFIO_USER_DEVICE_GET_REGION_IO_FDS");

pub(super) const CASES: &[Case] = &[
    steps(
        "io_fds.every",
        "each region",
        IO_FDS,
        "an error, or argsz, index and count that fit what came",
        io_fds,
    ),
    steps(
        "io_fds.entries",
        "each region that has sub-regions",
        IO_FDS,
        "each lies in its region and names a descriptor that came: an ioeventfd's is an eventfd",
        io_fds_entries,
    ),
    steps(
        "io_fds.cut",
        "each region that has sub-regions, with argsz 16",
        IO_FDS,
        "16 bytes, with the argsz that all of it has, and no descriptor",
        io_fds_cut,
    ),
    refused(
        "io_fds.flags",
        "flags that are not 0",
        IO_FDS,
        Command::GetRegionIoFds,
        |_| Some(indexed(16, 1, 0, 0)),
    ),
    refused(
        "io_fds.past_end",
        "the region after the last",
        IO_FDS,
        Command::GetRegionIoFds,
        |facts| Some(indexed(16, 0, facts.region_count, 0)),
    ),
    refused(
        "io_fds.short",
        "15 bytes of payload",
        WHOLE,
        Command::GetRegionIoFds,
        |_| Some(vec![0; 15]),
    ),
];

fn io_fds(bench: &Bench<'_>) -> Step {
    let facts = bench.facts()?;
    let mut session = bench.session()?;
    let mut answered = false;
    for index in 0..facts.regions.len() as u32 {
        let reply = session.ask(Command::GetRegionIoFds, &indexed(4096, 0, index, 0))?;
        if reply.errno.is_some() {
            continue;
        }
        answered = true;
        let got = read::<RegionIoFds>(&reply)?;
        hold(got.index == index && got.flags == 0, || {
            format!("region {index}: {got:?}")
        })?;
        let fits = got.argsz as usize == reply.payload.len() || got.argsz > 4096;
        hold(fits, || {
            format!(
                "region {index}: argsz {} with {} bytes",
                got.argsz,
                reply.payload.len()
            )
        })?;
        hold(got.count == 0 || !reply.fds.is_empty(), || {
            format!("region {index}: {} sub-regions and no descriptor", got.count)
        })?;
        hold(
            got.count > 0 || reply.payload.len() == size_of::<RegionIoFds>(),
            || format!("region {index}: no sub-region and {} bytes", reply.payload.len()),
        )?;
    }
    session.check_alive()?;
    if answered {
        Ok(())
    } else {
        not_applicable("the server has none for any region, and says so by an error")
    }
}

/// The replies for regions that have sub-regions, each with its region's number.
fn with_sub_regions(bench: &Bench<'_>, session: &mut Session) -> Step<Vec<(usize, RegionIoFds, Reply)>> {
    let mut found = Vec::new();
    for index in 0..bench.facts()?.regions.len() {
        let reply = session.ask(Command::GetRegionIoFds, &indexed(4096, 0, index as u32, 0))?;
        if reply.errno.is_some() {
            continue;
        }
        let got = read::<RegionIoFds>(&reply)?;
        if got.count > 0 {
            found.push((index, got, reply));
        }
    }
    if found.is_empty() {
        return not_applicable("no region has sub-regions with descriptors");
    }
    Ok(found)
}

fn io_fds_entries(bench: &Bench<'_>) -> Step {
    let facts = bench.facts()?;
    let mut session = bench.session()?;
    for (index, got, reply) in with_sub_regions(bench, &mut session)? {
        let region_bytes = facts.regions.get(index).map_or(0, |info| info.bytes);
        let entries = reply.payload.get(size_of::<RegionIoFds>()..).unwrap_or_default();
        // Entries may be longer than we know them; the specification has their length follow from these two.
        let entry_bytes = entries.len() / got.count as usize;
        hold(entry_bytes >= size_of::<SubRegionIoFd>(), || {
            format!(
                "region {index}: {} sub-regions in {} bytes",
                got.count,
                entries.len()
            )
        })?;
        for entry in entries.chunks_exact(entry_bytes).take(got.count as usize) {
            let Ok((entry, _)) = SubRegionIoFd::read_from_prefix(entry) else {
                return fail(format!("region {index}: a sub-region is cut off"));
            };
            let last = entry.offset.checked_add(entry.bytes.max(1));
            hold(last.is_some_and(|last| last <= region_bytes), || {
                format!("region {index} of {region_bytes} bytes: {entry:?}")
            })?;
            let Some(fd) = reply.fds.get(entry.fd_index as usize) else {
                return fail(format!(
                    "region {index}: {entry:?} with {} descriptors",
                    reply.fds.len()
                ));
            };
            if entry.kind == SubRegionIoFd::IOEVENTFD {
                // KVM takes a value only with a width.
                let matches = entry.flags & IoEventFdFlags::DATAMATCH.bits() != 0;
                hold(matches <= matches!(entry.bytes, 1 | 2 | 4 | 8), || {
                    format!("region {index}: {entry:?} has a value without a width")
                })?;
                hold(is_eventfd(fd)?, || {
                    format!("region {index}: {entry:?} names a descriptor that is no eventfd")
                })?;
            }
        }
    }
    session.check_alive()
}

fn io_fds_cut(bench: &Bench<'_>) -> Step {
    let mut session = bench.session()?;
    for (index, whole, _) in with_sub_regions(bench, &mut session)? {
        let reply = session.done_with(
            Command::GetRegionIoFds,
            &indexed(16, 0, index as u32, 0),
            &[],
            size_of::<RegionIoFds>(),
        )?;
        let got = read::<RegionIoFds>(&reply)?;
        hold(got == whole && reply.fds.is_empty(), || {
            format!(
                "region {index}: {got:?} with {} descriptors, where all of it is {whole:?}",
                reply.fds.len()
            )
        })?;
    }
    session.check_alive()
}

/// Whether a descriptor is an eventfd, by the name that the kernel gives it.
fn is_eventfd(fd: &OwnedFd) -> Step<bool> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(link.as_os_str() == "anon_inode:[eventfd]")
}
