//! One user of two functions of one IOMMU group, each by a socket of its own: QEMU's edus.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::edu::{BUFFER, DMA_TO_MEMORY};
use crate::report::Report;
use crate::served::{Edu, FIRST, OWN, PAGE, SECOND, SECRET};
use crate::vfio::CONFIG;

/// Where both functions have the same memory, mapped by both sockets.
const COMMON: u64 = 0x30_0000;

/// Where the memory of somebody who does nothing with it lies, out of the way of whoever has another function of the group.
const FAR: u64 = 0x70_0000_0000;

/// Maps memory by the one socket and by the other, and has each function look for it; then keeps both busy until they are
/// gone, and stays.
pub(crate) fn try_them(sockets: [&Path; 2], report: &mut Report) -> Result<()> {
    let mut first = Edu::open(sockets[0], FIRST, SECRET)?;
    let mut second = Edu::open(sockets[1], SECOND, OWN)?;
    let found = finds(&mut second, FIRST)?;
    report.same(
        "bytes that one function reads of what was mapped by the other one's socket",
        &PAGE,
        &found,
    )?;

    // As a virtual machine does with its memory.
    let common = first.memory.as_raw_fd();
    first.client.dma_map(0, COMMON, PAGE, common)?;
    second.client.dma_map(0, COMMON, PAGE, common)?;
    first.client.dma_unmap(COMMON, PAGE)?;
    let found = finds(&mut second, COMMON)?;
    report.same(
        "bytes that it reads of what both have mapped, and one has unmapped",
        &PAGE,
        &found,
    )?;
    second.client.dma_unmap(COMMON, PAGE)?;
    let found = finds(&mut second, COMMON)?;
    report.same("bytes that it reads when both have unmapped it", &0, &found)?;

    // Other memory where the first function has its own: refused, and the function that asked is held back.
    let other = second.memory.as_raw_fd();
    second.client.dma_map(0, FIRST, PAGE, other)?;
    second.memory.write_all_at(&[OWN; PAGE as usize], 0)?;
    let found = finds(&mut first, FIRST)?;
    report.same(
        "bytes that the first function reads of its own memory",
        &PAGE,
        &found,
    )?;
    second.client.dma_unmap(FIRST, PAGE)?;
    let found = finds(&mut second, FIRST)?;
    report.same(
        "bytes that the second one reads of it when its own mapping there is unmapped",
        &PAGE,
        &found,
    )?;

    report.note("busy")?;
    let mut ended = 0;
    for (edu, iova) in [(&mut first, FIRST), (&mut second, SECOND)] {
        loop {
            if let Err(error) = edu.copy(iova, BUFFER, 0) {
                report.note(&format!("stopped: {error:#}"))?;
                edu.client.dma_unmap(iova, PAGE)?;
                ended += 1;
                break;
            }
        }
    }
    report.note(&format!("unmapped {ended}"))?;
    park()
}

/// How many bytes of [`SECRET`] a function reads at an address. Its own memory is its first one.
fn finds(edu: &mut Edu, iova: u64) -> Result<u64> {
    let own = edu.iova;
    edu.memory.write_all_at(&[OWN; PAGE as usize], 0)?;
    // Whatever is left in its buffer.
    edu.copy(own, BUFFER, 0)?;
    if iova == own {
        edu.memory.write_all_at(&[SECRET; PAGE as usize], 0)?;
    }
    edu.copy(iova, BUFFER, 0)?;
    edu.memory.write_all_at(&[0; PAGE as usize], 0)?;
    edu.copy(BUFFER, own, DMA_TO_MEMORY)?;
    let found = edu.memory()?.iter().filter(|byte| **byte == SECRET).count();
    Ok(found as u64)
}

/// Has any function, until it is killed; says when the function is gone.
pub(crate) fn stay(socket: &Path, report: &mut Report) -> Result<()> {
    let mut function = Edu::open(socket, FAR, SECRET)?;
    report.note("attached")?;
    let mut identity = [0; 4];
    while identity != [0xff; 4] {
        thread::sleep(Duration::from_millis(20));
        function.client.region_read(CONFIG, 0, &mut identity)?;
    }
    report.note("stopped: the device reads all ones")?;
    function.client.dma_unmap(FAR, PAGE)?;
    report.note("unmapped")?;
    park()
}

fn park() -> ! {
    loop {
        thread::park();
    }
}
