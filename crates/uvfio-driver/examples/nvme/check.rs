//! Writes blocks at random places, and finds them again.
//!
//! What a block holds follows from where it lies, so that whoever looks at the disk from elsewhere can tell which blocks
//! were written, and that each lies in its place.

use std::collections::BTreeSet;

use uvfio_driver::drivers::nvme::{Disk, NvmeError, Request, Result};

/// Transfers of one check.
const TRANSFERS: usize = 100;
/// The longest transfer, in blocks.
const LONGEST: u64 = 32;

/// A transfer: the first block, and how many.
type Transfer = (u64, u64);

/// Checks of one disk: what was written is not written again, so that all of it can be looked at in the end.
#[derive(Default)]
pub(crate) struct Checks {
    written: BTreeSet<u64>,
    random: u64,
}

impl Checks {
    /// Writes, flushes, reads back; resets the controller, and reads again.
    pub(crate) fn check(&mut self, disk: &mut Disk) -> Result<()> {
        let waiting = disk.controller().options().waiting;
        let transfers = self.choose(disk.blocks());
        write(disk, &transfers)?;
        disk.flush()?;
        let blocks = blocks_of(&transfers);
        println!("{waiting:?}: {blocks} blocks written at random places and flushed");
        compare(disk, &transfers)?;
        println!("{waiting:?}: {blocks} blocks are as they were written");
        disk.reset()?;
        compare(disk, &transfers)?;
        println!("{waiting:?}: {blocks} blocks are as they were written, after a reset");
        self.reset_at_work(disk, &transfers)?;
        println!(
            "{waiting:?}: {blocks} blocks are as they were written, after a reset with writes under way"
        );
        Ok(())
    }

    /// Resets the controller while it writes elsewhere: what was flushed stays, and what was under way can be written once
    /// more.
    fn reset_at_work(&mut self, disk: &mut Disk, before: &[Transfer]) -> Result<()> {
        let transfers = self.choose(disk.blocks());
        for transfer in &transfers {
            if disk.has_room() {
                start_write(disk, *transfer)?;
            }
        }
        disk.submit()?;
        disk.reset()?;
        compare(disk, before)?;
        write(disk, &transfers)?;
        disk.flush()?;
        let blocks = blocks_of(&transfers);
        let waiting = disk.controller().options().waiting;
        println!("{waiting:?}: {blocks} blocks written at random places and flushed");
        compare(disk, &transfers)
    }

    /// Transfers at random places, of blocks that nothing was written to.
    fn choose(&mut self, blocks: u64) -> Vec<Transfer> {
        let mut chosen = Vec::new();
        // A small disk may have no room for all.
        for _ in 0..10 * TRANSFERS {
            let (first, count) = (self.random() % blocks.max(1), 1 + self.random() % LONGEST);
            let free = self.written.range(first..first + count).next().is_none();
            if free && first + count <= blocks && chosen.len() < TRANSFERS {
                self.written.extend(first..first + count);
                chosen.push((first, count));
            }
        }
        chosen
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(1);
        mix(self.random)
    }
}

fn blocks_of(transfers: &[Transfer]) -> u64 {
    transfers.iter().map(|(_, count)| count).sum()
}

/// A number that follows from another, and looks random: SplitMix64.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a transfer holds: each eight bytes follow from how many eights lie before them on the disk.
fn data(disk: &Disk, (first, count): Transfer) -> Vec<u8> {
    let eights = disk.block_bytes() / 8;
    (first * eights..(first + count) * eights)
        .flat_map(|eight| mix(eight + 1).to_le_bytes())
        .collect()
}

fn write(disk: &mut Disk, transfers: &[Transfer]) -> Result<()> {
    run(disk, transfers, start_write, |_, _, _| Ok(()))
}

fn start_write(disk: &mut Disk, transfer: Transfer) -> Result<()> {
    let data = data(disk, transfer);
    let block = transfer.0;
    disk.start(Request::Write { block, data: &data }, block)
}

fn compare(disk: &mut Disk, transfers: &[Transfer]) -> Result<()> {
    run(
        disk,
        transfers,
        |disk, transfer| {
            let (block, bytes) = (transfer.0, (transfer.1 * disk.block_bytes()) as usize);
            disk.start(Request::Read { block, bytes }, block)
        },
        |disk, (first, count), done| {
            let expected = data(disk, (first, count));
            let mut read = vec![0; expected.len()];
            disk.copy_out(done, &mut read)?;
            match read
                .iter()
                .zip(&expected)
                .position(|(read, expected)| read != expected)
            {
                None => Ok(()),
                Some(at) => {
                    let block = first + at as u64 / disk.block_bytes();
                    Err(NvmeError::Broken(format!(
                        "block {block} is not as it was written"
                    )))
                }
            }
        },
    )
}

/// Carries out transfers, as many at once as there is room.
fn run(
    disk: &mut Disk,
    transfers: &[Transfer],
    start: impl Fn(&mut Disk, Transfer) -> Result<()>,
    then: impl Fn(&Disk, Transfer, &uvfio_driver::drivers::nvme::Done) -> Result<()>,
) -> Result<()> {
    let mut left = transfers.iter();
    let (mut next, mut under_way) = (left.next(), Vec::new());
    while next.is_some() || !under_way.is_empty() {
        while let Some(transfer) = next.filter(|_| disk.has_room()) {
            start(disk, *transfer)?;
            under_way.push(*transfer);
            next = left.next();
        }
        disk.submit()?;
        let done = disk.finish()?;
        done.result()?;
        let of = under_way.iter().position(|transfer| transfer.0 == done.tag);
        let of = of.ok_or_else(|| NvmeError::Broken(format!("nothing is called {}", done.tag)))?;
        then(disk, under_way.swap_remove(of), &done)?;
        disk.release(done);
    }
    Ok(())
}
