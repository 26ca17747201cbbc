//! A virtual machine, put together and started.

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Guest, Process, QEMU_PATIENCE, read_lines};
use crate::paths::as_option;
use crate::vm::device::Device;
use crate::vm::initramfs;
use crate::vm::qmp::Qmp;
use crate::vm::testbed::Testbed;

/// A virtual machine in the making.
#[derive(Debug)]
pub(in crate::vm) struct Builder<'a> {
    testbed: &'a Testbed,
    dir: PathBuf,
    sockets: PathBuf,
    memory_mib: u32,
    memory_shared: bool,
    iommu: bool,
    interrupt_remapping: bool,
    root_ports: u32,
    objects: Vec<Value>,
    devices: Vec<Value>,
    drives: Vec<PathBuf>,
    contents: initramfs::Contents,
    may_reboot: bool,
    processor: &'static str,
    /// More words on the kernel's command line
    kernel_words: &'static str,
    processors: u32,
    /// Time is what the processors have executed
    own_clock: bool,
    /// A command that starts the program that follows it
    launcher: Option<Command>,
}

impl<'a> Builder<'a> {
    /// A machine with 512 MiB of shared memory and no devices but its serial ports; logs go to
    /// `dir`, sockets into the folder `sockets`, whose path should be short.
    pub(in crate::vm) fn new(testbed: &'a Testbed, dir: &Path, sockets: &Path) -> Self {
        Self {
            testbed,
            dir: dir.to_owned(),
            sockets: sockets.to_owned(),
            memory_mib: 512,
            memory_shared: true,
            iommu: false,
            interrupt_remapping: true,
            root_ports: 0,
            objects: Vec::new(),
            devices: Vec::new(),
            drives: Vec::new(),
            contents: initramfs::Contents::default(),
            may_reboot: false,
            // Without RDRAND the guest's first use of randomness waits for seconds.
            processor: "qemu64,+rdrand",
            kernel_words: "",
            processors: 1,
            own_clock: false,
            launcher: None,
        }
    }

    /// Gives the machine this much memory, in MiB.
    pub(in crate::vm) fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Whether a vfio-user server gets descriptors of the guest's memory; without, it has to reach
    /// memory by messages.
    pub(in crate::vm) fn memory_shared(mut self, shared: bool) -> Self {
        self.memory_shared = shared;
        self
    }

    /// Gives the machine an emulated VT-d IOMMU with interrupt remapping, which the guest uses.
    /// (QEMU ends itself where a vfio-user device meets an IOMMU without caching mode, so that is
    /// on.)
    pub(in crate::vm) fn iommu(mut self) -> Self {
        self.iommu = true;
        self
    }

    /// As [`Builder::iommu`], with an IOMMU that does not remap interrupts.
    pub(in crate::vm) fn iommu_without_interrupts(mut self) -> Self {
        self.iommu = true;
        self.interrupt_remapping = false;
        self
    }

    /// Adds PCI Express root ports with native hotplug; the first of a machine is `rp1`, the next `rp2`.
    pub(in crate::vm) fn root_ports(mut self, count: u32) -> Self {
        self.root_ports += count;
        self
    }

    /// Adds an object that devices refer to, as QEMU's `-object` takes it in JSON.
    pub(in crate::vm) fn object(mut self, object: Value) -> Self {
        self.objects.push(object);
        self
    }

    /// Adds a device, as QEMU's `-device` takes it in JSON.
    pub(in crate::vm) fn device(mut self, device: Value) -> Self {
        self.devices.push(device);
        self
    }

    /// Gives the machine a device from its start.
    pub(in crate::vm) fn attach(self, device: &Device) -> Self {
        self.drive_of(device).device(device.description.clone())
    }

    /// Lets the machine have a device later, by [`Guest::plug`].
    pub(in crate::vm) fn drive_of(mut self, device: &Device) -> Self {
        self.drives.extend(device.drive.clone());
        self
    }

    /// Adds programs of the testbed to the guest, by their paths without the first slash.
    pub(in crate::vm) fn programs(mut self, programs: &[&'static str]) -> Self {
        self.contents.programs.extend(programs);
        self
    }

    /// Adds kernel modules, and what they need.
    pub(in crate::vm) fn modules(mut self, modules: &[&'static str]) -> Self {
        self.contents.modules.extend(modules);
        self
    }

    /// Adds a statically linked program built here to the guest's `/bin`.
    pub(in crate::vm) fn tool(mut self, tool: &Path) -> Self {
        self.contents.tools.push(tool.to_owned());
        self
    }

    /// Adds a program built here, and the testbed's libraries for it.
    pub(in crate::vm) fn dynamic_tool(mut self, tool: &Path) -> Self {
        self.contents.dynamic_tools.push(tool.to_owned());
        self
    }

    /// Adds a program or plug-in by this machine's libraries, and these; `place` is where, without the first slash.
    pub(in crate::vm) fn installed(mut self, file: &Path, place: &str) -> Self {
        self.contents.installed.push((file.to_owned(), place.to_owned()));
        self
    }

    /// Gives the machine two processors with SSE 4.2, for which Debian compiles DPDK, in place of one; and a clock that goes
    /// by what they execute: DPDK's tests wait for a device for a second, which a busy host may keep from the guest.
    pub(in crate::vm) fn for_dpdk(mut self) -> Self {
        self.processor = "Nehalem,+rdrand";
        self.processors = 2;
        self.own_clock = true;
        self
    }

    /// Lets a reboot restart the machine, instead of ending QEMU.
    pub(in crate::vm) fn may_reboot(mut self) -> Self {
        self.may_reboot = true;
        self
    }

    /// Gives the machine a processor that can run virtual machines, AMD's way.
    pub(in crate::vm) fn virtualization(mut self) -> Self {
        self.processor = "max";
        self
    }

    /// Adds words to the kernel's command line.
    pub(in crate::vm) fn kernel_words(mut self, words: &'static str) -> Self {
        self.kernel_words = words;
        self
    }

    /// Has QEMU started by a command, which takes a program and its arguments as its last ones, and ends with it.
    pub(in crate::vm) fn launcher(mut self, launcher: Command) -> Self {
        self.launcher = Some(launcher);
        self
    }

    /// Starts the machine and waits until its init takes commands.
    pub(in crate::vm) fn start(mut self) -> Result<Guest> {
        fs::create_dir_all(&self.dir)?;
        let initrd = self.sockets.join("initrd");
        initramfs::write(self.testbed, &self.contents, &initrd)?;
        // QEMU connects to us, so nothing has to wait for a socket to appear. Names differ from
        // guest to guest of a scenario.
        let unique = tempfile::Builder::new()
            .prefix("vm")
            .tempdir_in(&self.sockets)?
            .keep();
        let control = UnixListener::bind(unique.join("ctl"))?;
        let monitor = UnixListener::bind(unique.join("qmp"))?;
        let errors = self.dir.join("qemu.log");
        let mut command = self.testbed.qemu();
        self.options(&unique, &initrd, &mut command);
        if let Some(mut launcher) = self.launcher.take() {
            launcher.arg(command.get_program()).args(command.get_args());
            launcher.stdin(Stdio::null());
            for (name, value) in command.get_envs() {
                launcher.env(name, value.unwrap_or_default());
            }
            command = launcher;
        }
        fs::write(self.dir.join("qemu.cmd"), format!("{command:?}\n"))?;
        command
            .stdout(Stdio::null())
            .stderr(File::options().append(true).create(true).open(&errors)?);
        let child = command.spawn().context("QEMU could not be started")?;
        let mut process = Process {
            child,
            errors,
            console: self.dir.join("console.log"),
        };
        let monitor = process.accept(&monitor)?;
        let control = process.accept(&control)?;
        let qmp = Qmp::connect(monitor, QEMU_PATIENCE).map_err(|e| process.explain(&e))?;
        let lines = read_lines(control.try_clone()?);
        let mut guest = Guest {
            process,
            qmp,
            control,
            lines,
        };
        guest.wait_ready()?;
        Ok(guest)
    }

    fn options(&self, sockets: &Path, initrd: &Path, command: &mut Command) {
        let mut machine = "q35,kernel-irqchip=split".to_owned();
        let memory = format!("{}M", self.memory_mib);
        if self.memory_shared {
            machine.push_str(",memory-backend=mem");
            command
                .arg("-object")
                .arg(format!("memory-backend-memfd,id=mem,size={memory},share=on"));
        }
        command.args([
            "-accel",
            "tcg",
            "-cpu",
            self.processor,
            "-smp",
            &self.processors.to_string(),
            "-m",
            &memory,
        ]);
        command.args([
            "-machine",
            &machine,
            "-nodefaults",
            "-display",
            "none",
            "-nic",
            "none",
        ]);
        // Nothing is left over when we are killed.
        command.args(["-run-with", "exit-with-parent=on"]);
        if !self.may_reboot {
            command.arg("-no-reboot");
        }
        if self.own_clock {
            // An instruction takes 4 ns.
            command.args(["-icount", "shift=2"]);
        }
        if self.iommu {
            let remapping = if self.interrupt_remapping { "on" } else { "off" };
            let iommu = format!("intel-iommu,intremap={remapping},caching-mode=on");
            command.args(["-device", &iommu]);
        }
        if self.root_ports > 0 {
            // The default, hotplug by ACPI, leaves a root port without link and presence states.
            command.args(["-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]);
        }
        for number in 1..=self.root_ports {
            let port = format!("pcie-root-port,id=rp{number},chassis={number},slot={number}");
            command.args(["-device", &port]);
        }
        for (index, image) in self.drives.iter().enumerate() {
            let drive = format!("file={},format=raw,if=none,id=disk{index}", as_option(image));
            command.arg("-drive").arg(drive);
        }
        for object in &self.objects {
            command.arg("-object").arg(object.to_string());
        }
        for device in &self.devices {
            command.arg("-device").arg(device.to_string());
        }
        let console = self.dir.join("console.log");
        command
            .arg("-chardev")
            .arg(format!("file,id=console,append=on,path={}", as_option(&console)));
        command.arg("-serial").arg("chardev:console");
        command
            .arg("-chardev")
            .arg(format!("socket,id=ctl,path={}", as_option(&sockets.join("ctl"))));
        command.arg("-serial").arg("chardev:ctl");
        command
            .arg("-chardev")
            .arg(format!("socket,id=qmp,path={}", as_option(&sockets.join("qmp"))));
        command.args(["-object", "monitor-qmp,id=monitor,chardev=qmp"]);
        command
            .arg("-kernel")
            .arg(self.testbed.kernel())
            .arg("-initrd")
            .arg(initrd);
        let iommu = if self.iommu {
            "intel_iommu=on"
        } else {
            "intel_iommu=off"
        };
        // The kernel counts timer interrupts as it boots, and gives up where a busy host keeps QEMU from making them.
        command.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 no_timer_check {iommu} {}",
            self.kernel_words
        ));
    }
}
