//! Not a scenario but a measurement in the same surroundings: NVMe reads in a guest, ours beside QEMU's own.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::{Context, Device, STEP};
use crate::vm::guest::Guest;
use crate::vm::tap::Tap;

/// Size of each disk, in bytes.
const DISK: usize = 64 << 20;

/// What was measured at one queue depth.
#[derive(Clone, Debug)]
pub(crate) struct Rates {
    /// Requests under way at a time.
    pub(crate) depth: u32,
    /// Microseconds a request of ours, one a run.
    pub(crate) ours: Vec<f64>,
    /// The same of QEMU's own controller.
    pub(crate) qemus: Vec<f64>,
    /// Doorbell messages that reach our server for each request.
    pub(crate) doorbells: f64,
}

/// Measures at each of `depths`: `runs` runs of `seconds` each, ours and QEMU's in turn.
pub(in crate::vm) fn measure(
    context: &Context<'_>,
    depths: &[u32],
    runs: usize,
    seconds: u32,
) -> Result<Vec<Rates>> {
    let (ours, qemus) = (
        context.scratch.join("ours.img"),
        context.scratch.join("qemus.img"),
    );
    for image in [&ours, &qemus] {
        // No holes: both read what is in the page cache.
        fs::write(image, vec![0x5a; DISK]).with_context(|| format!("writing {}", image.display()))?;
    }
    let device = context.nvme(&ours, &[])?;
    let peer = Device::qemu_nvme("qemus", &qemus);
    let builder = context
        .guest()
        .attach(&device)
        .attach(&peer)
        .programs(&["usr/bin/fio"]);
    let mut guest = builder.start()?;
    let (our_name, peer_name) = names(&mut guest)?;
    let mut all = Vec::new();
    for depth in depths {
        let mut rates = Rates {
            depth: *depth,
            ours: Vec::new(),
            qemus: Vec::new(),
            doorbells: 0.0,
        };
        for _ in 0..runs {
            rates
                .qemus
                .push(1e6 / reads(&mut guest, &peer_name, *depth, seconds)?.a_second);
            rates
                .ours
                .push(1e6 / reads(&mut guest, &our_name, *depth, seconds)?.a_second);
        }
        all.push(rates);
    }
    guest.quit()?;
    drop(device);
    count_doorbells(context, &mut all, seconds)?;
    Ok(all)
}

/// The names of our disk and of QEMU's in the guest.
fn names(guest: &mut Guest) -> Result<(String, String)> {
    let look = "modprobe nvme; eventually 60 test -b /dev/nvme1n1; \
                for disk in /sys/block/nvme*; do text echo ${disk##*/} $(cat $disk/device/model); done";
    let disks = guest.text(look, STEP)?;
    let named = |qemus: bool| {
        let line = disks.iter().find(|line| line.contains("QEMU") == qemus);
        line.and_then(|line| line.split(' ').next()).map(str::to_owned)
    };
    match (named(false), named(true)) {
        (Some(ours), Some(qemus)) => Ok((ours, qemus)),
        _ => bail!("the guest has not both disks: {disks:?}"),
    }
}

/// What fio says of a run.
struct Reads {
    a_second: f64,
    all: f64,
}

/// 4 KiB reads at random places of a disk.
fn reads(guest: &mut Guest, disk: &str, depth: u32, seconds: u32) -> Result<Reads> {
    let fio = format!(
        "text fio --name=reads --filename=/dev/{disk} --direct=1 --ioengine=libaio --rw=randread --bs=4k \
         --iodepth={depth} --time_based --runtime={seconds} --norandommap --randrepeat=1 --minimal"
    );
    let said = guest.text(&fio, STEP + Duration::from_secs(seconds.into()))?;
    // Fields of fio's terse output, version 3: 6 is KiB read, 8 is reads a second.
    let line = said
        .iter()
        .find(|line| line.starts_with("3;"))
        .with_context(|| format!("fio said {said:?}"))?;
    let field = |number: usize| {
        line.split(';')
            .nth(number - 1)
            .and_then(|text| text.parse::<f64>().ok())
    };
    match (field(6), field(8)) {
        (Some(kib), Some(a_second)) if a_second > 0.0 => Ok(Reads {
            a_second,
            all: kib / 4.0,
        }),
        _ => bail!("fio said {line:?}"),
    }
}

/// Counts doorbell messages in a guest of its own, whose disk is behind a relay.
fn count_doorbells(context: &Context<'_>, all: &mut [Rates], seconds: u32) -> Result<()> {
    let mut device = context.nvme(&context.scratch.join("ours.img"), &[])?;
    let socket = device
        .server
        .as_ref()
        .context("our server is needed to count its messages")?
        .socket()
        .to_owned();
    let between = context.scratch.join("tap.sock");
    let tap = Tap::start(&between, &socket)?;
    device.description["socket"]["path"] = between.display().to_string().into();
    let mut guest = context
        .guest()
        .attach(&device)
        .programs(&["usr/bin/fio"])
        .start()?;
    guest.text("modprobe nvme; eventually 60 test -b /dev/nvme0n1", STEP)?;
    for rates in all {
        let before = tap.doorbells();
        let done = reads(&mut guest, "nvme0n1", rates.depth, seconds)?.all;
        rates.doorbells = (tap.doorbells() - before) as f64 / done;
    }
    guest.quit()?;
    Ok(())
}
