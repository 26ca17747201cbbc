//! A disk, driven: what it is, what it keeps, and how fast it reads, polled and by interrupt.
//!
//!     uvfio serve nvme,mem=64M --socket /tmp/nvme.sock
//!     cargo run --release --example nvme -- /tmp/nvme.sock [--overwrite] [--reads=N]
//!
//! With a PCI address in the socket's place it drives a function of this machine's that is bound to vfio-pci. Without
//! `--overwrite` nothing is written. Each measurement has 20000 reads, or N. The driver itself is `uvfio_driver::drivers::nvme`.

mod check;

use std::time::Instant;

use check::Checks;
use uvfio_driver::Function;
use uvfio_driver::drivers::nvme::{Disk, NvmeError, Options, Request, Result, Waiting};

/// What the command line says.
struct Arguments {
    target: String,
    overwrite: bool,
    /// Reads of one measurement.
    reads: u64,
}

fn arguments() -> Result<Arguments> {
    let mut words = std::env::args().skip(1);
    let missing = "give the path of the controller's socket, or a PCI address";
    let mut arguments = Arguments {
        target: words.next().ok_or_else(|| NvmeError::Request(missing.into()))?,
        overwrite: false,
        reads: 20_000,
    };
    for word in words {
        match word.strip_prefix("--reads=").map(str::parse) {
            Some(Ok(reads)) => arguments.reads = reads,
            None if word == "--overwrite" => arguments.overwrite = true,
            _ => {
                let what = format!("{word:?} is neither --overwrite nor --reads=NUMBER");
                return Err(NvmeError::Request(what));
            }
        }
    }
    Ok(arguments)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let mut checks = Checks::default();
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
        let mut disk = Disk::open(Function::open_target(&arguments.target)?, options)?;
        if (waiting, depth) == (Waiting::Interrupt, 1) {
            introduce(&disk)?;
        }
        if arguments.overwrite && depth > 1 {
            checks.check(&mut disk)?;
        }
        measure(&mut disk, arguments.reads)?;
    }
    Ok(())
}

fn introduce(disk: &Disk) -> Result<()> {
    let identity = disk.controller().identity();
    let doorbells = if disk.controller().has_mapped_doorbells() {
        "mapped doorbells"
    } else if disk.controller().has_shadow() {
        "shadow doorbells"
    } else {
        "doorbells by message"
    };
    println!(
        "{}, serial {}, firmware {}",
        identity.model, identity.serial, identity.firmware
    );
    println!("NVMe {}, {doorbells}", disk.controller().version()?);
    println!("{} blocks of {} bytes", disk.blocks(), disk.block_bytes());
    Ok(())
}

/// Reads of 4 KiB at random, as many at once as the depth says.
fn measure(disk: &mut Disk, reads: u64) -> Result<()> {
    const BYTES: usize = 4096;
    let per_read = BYTES as u64 / disk.block_bytes();
    let places = disk.blocks() / per_read;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let start = Instant::now();
    let (mut started, mut finished) = (0, 0);
    while finished < reads {
        while started < reads && disk.has_room() {
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
    let rate = reads as f64 / start.elapsed().as_secs_f64();
    let options = disk.controller().options();
    println!(
        "{:?}, depth {:2}: {rate:8.0} reads of 4 KiB a second",
        options.waiting, options.depth
    );
    Ok(())
}
