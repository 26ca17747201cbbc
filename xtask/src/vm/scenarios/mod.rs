//! The scenarios: one file each, one row of [`ALL`] each; `functions` is what several share.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::checks::Checks;
use super::device::{self, Device};
use super::guest::{Builder, Guest};
use super::server::Server;
use super::testbed::Testbed;
use crate::paths::as_option;

mod abuse;
pub(in crate::vm) mod disk_rates;
mod doctor;
mod driver_vfio;
mod edu_msi;
mod functions;
mod gone;
mod hardware;
mod hardware_events;
pub(in crate::vm) mod hardware_rates;
mod hardware_virtual;
mod ioat;
mod kvm;
mod list_bind;
mod locked_down;
mod lspci;
mod machine_killed;
mod nvme_files;
mod nvme_hotplug;
mod nvme_killed;
mod nvme_sleep;
mod nvme_verify;
mod parity;
mod run_book;
mod run_dpdk;
mod run_qemu;
mod run_socket;
mod self_check;
mod serve_hardware;
mod serve_liar;
mod serve_several;
mod worker_killed;

/// Something that must hold in a virtual machine.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// What it shows, as `--list` prints it
    pub(super) about: &'static str,
    /// An error means that it could not be carried to its end, and counts as a failed check.
    pub(super) run: fn(&Context<'_>, &mut Checks) -> Result<()>,
}

/// Every scenario but the [slow](SLOW) ones, in the order in which they run.
pub(super) const ALL: &[Scenario] = &[
    self_check::SCENARIO,
    doctor::SCENARIO,
    lspci::SCENARIO,
    edu_msi::SCENARIO,
    nvme_files::SHARED_MEMORY,
    nvme_files::BY_MESSAGE,
    nvme_files::IOMMU,
    nvme_files::MAPPED_DOORBELLS,
    nvme_verify::SCENARIO,
    nvme_hotplug::SCENARIO,
    nvme_sleep::SCENARIO,
    nvme_killed::SCENARIO,
    machine_killed::SCENARIO,
    gone::SCENARIO,
    worker_killed::SCENARIO,
    abuse::SCENARIO,
    ioat::SCENARIO,
    run_book::SCENARIO,
    run_qemu::SCENARIO,
    run_socket::SCENARIO,
    run_dpdk::SCENARIO,
    hardware::SCENARIO,
    hardware_virtual::SCENARIO,
    driver_vfio::SCENARIO,
    list_bind::SCENARIO,
    serve_hardware::SCENARIO,
    serve_several::SCENARIO,
    serve_liar::SCENARIO,
    locked_down::SCENARIO,
    hardware_events::SCENARIO,
    kvm::SCENARIO,
];

/// Those that take minutes by their nature: they run where they are named, and with `--all`.
pub(super) const SLOW: &[Scenario] = &[hardware_events::STUCK];

/// How long a guest may take for a step that takes a few seconds where nothing else runs.
const STEP: Duration = Duration::from_secs(120);

/// How many blocks a guest flushes before it is killed.
const RECORDS: usize = 40;

/// Waits until the guest has said of `count` records that they are flushed; returns how many it
/// says are.
fn flushed_records(guest: &mut Guest, count: usize, checks: &mut Checks) -> Result<usize> {
    let mut flushed = 0;
    while flushed < count {
        flushed = flushed_so_far(&guest.note(STEP, checks)?)?;
    }
    Ok(flushed)
}

/// How many records a note says are flushed.
fn flushed_so_far(note: &str) -> Result<usize> {
    let number = note
        .strip_prefix("flushed ")
        .context("the guest's note is not of a record")?;
    Ok(number.parse::<usize>()? + 1)
}

/// Our NVMe controller on an image, as `--device` and `uvfio serve` take it.
fn nvme_of(image: &Path) -> String {
    format!("nvme,file={}", as_option(image))
}

/// `uvfio run` with these options, for a QEMU of the testbed.
fn uvfio_run(uvfio: &Path, options: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new(uvfio);
    // The testbed's QEMU is started by its loader, which itself is no program with shared libraries.
    command.args(["run", "--log", "info", "--via", "preload"]);
    command.args(options).arg("--");
    command
}

/// How a device reaches a guest's memory.
#[derive(Clone, Copy, Debug)]
enum Reach {
    /// By descriptors of all of it
    Shared,
    /// By messages
    Messages,
    /// By descriptors of what the guest's IOMMU lets it reach at the time
    Iommu,
}

/// What a scenario may use.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) testbed: &'a Testbed,
    /// Logs of this scenario, kept after the run
    pub(super) dir: PathBuf,
    /// A folder with a short path, removed after the run
    pub(super) scratch: &'a Path,
    pub(super) programs: &'a Programs,
}

/// What is built here for the scenarios.
#[derive(Debug)]
pub(super) struct Programs {
    /// The server; `None`: QEMU's own devices take our devices' places
    pub(super) uvfio: Option<PathBuf>,
    /// The guest's own tools
    pub(super) guest_tools: PathBuf,
    /// A user of our own layer over the kernel's VFIO
    pub(super) hardware: PathBuf,
    /// Drivers written with our library, for edu and for NVMe
    pub(super) driver_edu: PathBuf,
    pub(super) driver_nvme: PathBuf,
    /// A driver's work on several controllers in turn
    pub(super) driver_compare: PathBuf,
    /// Checks of our library for drivers
    pub(super) driver_promises: PathBuf,
}

impl<'a> Context<'a> {
    /// A virtual machine in the making.
    fn guest(&self) -> Builder<'a> {
        Builder::new(self.testbed, &self.dir, self.scratch)
    }

    /// The same, with a way to its memory.
    fn guest_reached_by(&self, reach: Reach) -> Builder<'a> {
        match reach {
            Reach::Shared => self.guest(),
            Reach::Messages => self.guest().memory_shared(false),
            Reach::Iommu => self.guest().iommu(),
        }
    }

    /// An empty disk image of 64 MiB.
    fn image(&self) -> Result<PathBuf> {
        let path = self.scratch.join("disk.img");
        device::make_image(&path, 64)?;
        Ok(path)
    }

    /// An NVMe controller on `image`, with more of our server's options such as `msix=off`.
    fn nvme(&self, image: &Path, options: &[&str]) -> Result<Device> {
        let Some(uvfio) = &self.programs.uvfio else {
            return Ok(Device::qemu_nvme("nvme", image));
        };
        let mut device = nvme_of(image);
        options.iter().for_each(|option| {
            device.push(',');
            device.push_str(option);
        });
        Ok(Device::served("nvme", self.serve(uvfio, "nvme", &device)?))
    }

    /// An edu device, and how many MSI messages it offers.
    fn edu(&self) -> Result<(Device, u32)> {
        let Some(uvfio) = &self.programs.uvfio else {
            return Ok((Device::qemu_edu("edu"), 1));
        };
        Ok((Device::served("edu", self.serve(uvfio, "edu", "edu")?), 8))
    }

    /// A DMA engine; QEMU has none of its own.
    fn ioat(&self, channels: u32) -> Result<Option<Device>> {
        let Some(uvfio) = &self.programs.uvfio else {
            return Ok(None);
        };
        let server = self.serve(uvfio, "ioat", &format!("ioat,channels={channels}"))?;
        Ok(Some(Device::served("ioat", server)))
    }

    /// Checks a file system in an image from outside, without changing it.
    fn image_is_clean(&self, image: &Path, checks: &mut Checks) -> Result<()> {
        let output = self
            .testbed
            .program("usr/sbin/e2fsck")
            .args(["-f", "-n"])
            .arg(image)
            .output()?;
        match output.status.code() {
            Some(0) => checks.ok("the file system in the image is clean"),
            code => checks.fail(&format!(
                "the file system in the image is clean: expected e2fsck to end with 0 got {code:?}: {}",
                String::from_utf8_lossy(&output.stdout)
            )),
        }
        Ok(())
    }

    fn serve(&self, uvfio: &Path, name: &str, device: &str) -> Result<Server> {
        let socket = self.scratch.join(format!("{name}.sock"));
        Server::start(uvfio, device, &socket, &self.dir.join(format!("{name}.log")))
    }
}
