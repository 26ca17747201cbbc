//! A driver for NVMe controllers: identify, queues, read, write, flush; polled or by interrupt, with mapped doorbells,
//! shadow doorbells or neither; it survives a reset.
//!
//!     uvfio serve nvme,mem=64M --socket /tmp/nvme.sock
//!     cargo run --release --example nvme -- /tmp/nvme.sock [--overwrite]
//!
//! Without `--overwrite` nothing is written.
//!
//! ```text
//! disk          a namespace: requests, one at a time or many
//! controller    enable, identify, create queues, reset; waiting
//! queue         a pair of queues, their doorbells and shadow doorbells
//! spec          every number
//! ```

mod controller;
mod disk;
mod error;
mod queue;
mod spec;
#[cfg(test)]
mod tests;

use std::time::Instant;

use controller::{Options, Waiting};
use disk::{Disk, Request};
use error::{NvmeError, Result};
use uvfio_driver::Function;

/// Requests of one measurement.
const REQUESTS: u64 = 20_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let socket = arguments
        .next()
        .ok_or_else(|| NvmeError::Request("give the path of the controller's socket".into()))?;
    let overwrite = arguments.next().is_some_and(|argument| argument == "--overwrite");
    for (waiting, depth) in [
        (Waiting::Interrupt, 1),
        (Waiting::Interrupt, 32),
        (Waiting::Polled, 1),
        (Waiting::Polled, 32),
    ] {
        let options = Options {
            waiting,
            depth,
            ..Options::default()
        };
        let mut disk = Disk::open(Function::connect(&socket)?, options)?;
        if (waiting, depth) == (Waiting::Interrupt, 1) {
            introduce(&disk)?;
            if overwrite {
                check(&mut disk)?;
            }
        }
        measure(&mut disk)?;
    }
    Ok(())
}

fn introduce(disk: &Disk) -> Result<()> {
    let identity = &disk.controller.identity;
    let doorbells = if disk.controller.has_mapped_doorbells() {
        "mapped doorbells"
    } else if disk.controller.has_shadow() {
        "shadow doorbells"
    } else {
        "doorbells by message"
    };
    println!(
        "{}, serial {}, firmware {}",
        identity.model, identity.serial, identity.firmware
    );
    println!("NVMe {}, {doorbells}", disk.controller.version()?);
    println!("{} blocks of {} bytes", disk.blocks(), disk.block_bytes());
    Ok(())
}

/// Writes the disk's first mebibyte, reads it back, resets the controller, and reads it again.
fn check(disk: &mut Disk) -> Result<()> {
    let written: Vec<u8> = (0..1_u32 << 20)
        .map(|n| (n.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    disk.write(0, &written)?;
    disk.flush()?;
    let mut read = vec![0; written.len()];
    disk.read(0, &mut read)?;
    println!("written and read back, the same: {}", read == written);
    disk.reset()?;
    read.fill(0);
    disk.read(0, &mut read)?;
    println!("after a reset, the same: {}", read == written);
    Ok(())
}

/// Reads of 4 KiB at random, as many at once as the depth says.
fn measure(disk: &mut Disk) -> Result<()> {
    const BYTES: usize = 4096;
    let per_read = BYTES as u64 / disk.block_bytes();
    let places = disk.blocks() / per_read;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let start = Instant::now();
    let (mut started, mut finished) = (0, 0);
    while finished < REQUESTS {
        while started < REQUESTS && disk.has_room() {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let block = (random >> 33) % places.max(1) * per_read;
            disk.start(Request::Read { block, bytes: BYTES }, started)?;
            started += 1;
        }
        disk.submit()?;
        let done = disk.finish()?;
        done.result()?;
        disk.release(done);
        finished += 1;
    }
    let rate = REQUESTS as f64 / start.elapsed().as_secs_f64();
    let options = disk.controller.options;
    println!(
        "{:?}, depth {:2}: {rate:8.0} reads of 4 KiB a second",
        options.waiting, options.depth
    );
    Ok(())
}
