//! A virtual machine: how it is put together, started, told what to do, and ended.
//!
//! The guest's init takes commands from its second serial port and answers there, so a scenario
//! decides on the host what happens next:
//!
//! | guest says | meaning |
//! |---|---|
//! | `UVFIO ready` | booted; waits for a command |
//! | `UVFIO ok WHAT` | a check passed |
//! | `UVFIO fail WHAT: expected X got Y` | a check failed |
//! | `UVFIO text TEXT` | a line of output that the scenario asked for |
//! | `UVFIO note TEXT` | something that a scenario waits for |
//! | `UVFIO end STATUS` | the command has ended, with this exit status |
//!
//! A command is a line of shell; `xtask/guest/*.sh` hold the functions that it may use. The first
//! serial port is the console, kept in `console.log`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::checks::Checks;
use super::device::Device;
use super::initramfs;
use super::qmp::Qmp;
use super::testbed::Testbed;
use crate::paths::as_option;

/// How long QEMU may take for a command of QMP or to connect to us. All waits in this file are
/// several times what an idle machine needs.
const QEMU_PATIENCE: Duration = Duration::from_secs(40);
/// How long a guest may take from power-on to its first command (5 s where nothing else runs).
const BOOT_PATIENCE: Duration = Duration::from_secs(90);

/// A virtual machine in the making.
#[derive(Debug)]
pub(super) struct Builder<'a> {
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
    pub(super) fn new(testbed: &'a Testbed, dir: &Path, sockets: &Path) -> Self {
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
    pub(super) fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Whether a vfio-user server gets descriptors of the guest's memory; without, it has to reach
    /// memory by messages.
    pub(super) fn memory_shared(mut self, shared: bool) -> Self {
        self.memory_shared = shared;
        self
    }

    /// Gives the machine an emulated VT-d IOMMU with interrupt remapping, which the guest uses.
    /// (QEMU ends itself where a vfio-user device meets an IOMMU without caching mode, so that is
    /// on.)
    pub(super) fn iommu(mut self) -> Self {
        self.iommu = true;
        self
    }

    /// As [`Builder::iommu`], with an IOMMU that does not remap interrupts.
    pub(super) fn iommu_without_interrupts(mut self) -> Self {
        self.iommu = true;
        self.interrupt_remapping = false;
        self
    }

    /// Adds PCI Express root ports with native hotplug; the first of a machine is `rp1`, the next `rp2`.
    pub(super) fn root_ports(mut self, count: u32) -> Self {
        self.root_ports += count;
        self
    }

    /// Adds an object that devices refer to, as QEMU's `-object` takes it in JSON.
    pub(super) fn object(mut self, object: Value) -> Self {
        self.objects.push(object);
        self
    }

    /// Adds a device, as QEMU's `-device` takes it in JSON.
    pub(super) fn device(mut self, device: Value) -> Self {
        self.devices.push(device);
        self
    }

    /// Gives the machine a device from its start.
    pub(super) fn attach(self, device: &Device) -> Self {
        self.drive_of(device).device(device.description.clone())
    }

    /// Lets the machine have a device later, by [`Guest::plug`].
    pub(super) fn drive_of(mut self, device: &Device) -> Self {
        self.drives.extend(device.drive.clone());
        self
    }

    /// Adds programs of the testbed to the guest, by their paths without the first slash.
    pub(super) fn programs(mut self, programs: &[&'static str]) -> Self {
        self.contents.programs.extend(programs);
        self
    }

    /// Adds kernel modules, and what they need.
    pub(super) fn modules(mut self, modules: &[&'static str]) -> Self {
        self.contents.modules.extend(modules);
        self
    }

    /// Adds a statically linked program built here to the guest's `/bin`.
    pub(super) fn tool(mut self, tool: &Path) -> Self {
        self.contents.tools.push(tool.to_owned());
        self
    }

    /// Adds a program built here, and the testbed's libraries for it.
    pub(super) fn dynamic_tool(mut self, tool: &Path) -> Self {
        self.contents.dynamic_tools.push(tool.to_owned());
        self
    }

    /// Adds a program or plug-in by this machine's libraries, and these; `place` is where, without the first slash.
    pub(super) fn installed(mut self, file: &Path, place: &str) -> Self {
        self.contents.installed.push((file.to_owned(), place.to_owned()));
        self
    }

    /// Gives the machine two processors with SSE 4.2, for which Debian compiles DPDK, in place of one; and a clock that goes
    /// by what they execute: DPDK's tests wait for a device for a second, which a busy host may keep from the guest.
    pub(super) fn for_dpdk(mut self) -> Self {
        self.processor = "Nehalem,+rdrand";
        self.processors = 2;
        self.own_clock = true;
        self
    }

    /// Lets a reboot restart the machine, instead of ending QEMU.
    pub(super) fn may_reboot(mut self) -> Self {
        self.may_reboot = true;
        self
    }

    /// Gives the machine a processor that can run virtual machines, AMD's way.
    pub(super) fn virtualization(mut self) -> Self {
        self.processor = "max";
        self
    }

    /// Adds words to the kernel's command line.
    pub(super) fn kernel_words(mut self, words: &'static str) -> Self {
        self.kernel_words = words;
        self
    }

    /// Has QEMU started by a command, which takes a program and its arguments as its last ones, and ends with it.
    pub(super) fn launcher(mut self, launcher: Command) -> Self {
        self.launcher = Some(launcher);
        self
    }

    /// Starts the machine and waits until its init takes commands.
    pub(super) fn start(mut self) -> Result<Guest> {
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

/// A running virtual machine. Dropping it ends QEMU at once.
#[derive(Debug)]
pub(super) struct Guest {
    process: Process,
    qmp: Qmp,
    control: UnixStream,
    lines: Receiver<String>,
}

impl Guest {
    /// Runs a line of shell in the guest, counts the checks that it reports, and one more: that it
    /// ends with status 0 within `patience`. An error means that the guest is gone or hangs.
    pub(super) fn run(&mut self, command: &str, patience: Duration, checks: &mut Checks) -> Result<()> {
        self.tell(command)?;
        self.finish(command, patience, checks)
    }

    /// Waits for the end of a command that [`Guest::tell`] has started, as [`Guest::run`] does.
    pub(super) fn finish(&mut self, command: &str, patience: Duration, checks: &mut Checks) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self
                .line(deadline)
                .with_context(|| format!("during {command:?}"))?;
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("ok", what) => checks.ok(what),
                ("fail", what) => checks.fail(what),
                ("end", "0") => return Ok(()),
                ("end", status) => {
                    checks.fail(&format!(
                        "{command:?} in the guest: expected status 0 got {status}"
                    ));
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// Starts a line of shell in the guest, without waiting for its end.
    pub(super) fn tell(&mut self, command: &str) -> Result<()> {
        writeln!(self.control, "{command}").map_err(|e| self.process.explain(&e.into()))
    }

    /// Waits for `UVFIO note ...` and returns the text. Checks that come before it are counted.
    pub(super) fn note(&mut self, patience: Duration, checks: &mut Checks) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line(deadline).context("waiting for a note of the guest's")?;
            match line.split_once(' ') {
                Some(("note", text)) => return Ok(text.to_owned()),
                Some(("ok", what)) => checks.ok(what),
                Some(("fail", what)) => checks.fail(what),
                Some(("end", status)) => bail!("the guest's command ended with {status} and left no note"),
                _ => {}
            }
        }
    }

    /// Runs a line of shell in the guest and returns the text that it sends by `text`. Status other
    /// than 0 is an error.
    pub(super) fn text(&mut self, command: &str, patience: Duration) -> Result<Vec<String>> {
        self.tell(command)?;
        let deadline = Instant::now() + patience;
        let mut text = Vec::new();
        loop {
            let line = self
                .line(deadline)
                .with_context(|| format!("during {command:?}"))?;
            match line.split_once(' ').unwrap_or((&line, "")) {
                ("text", words) => text.push(words.to_owned()),
                ("end", "0") => return Ok(text),
                ("end", status) => bail!("{command:?} in the guest ended with status {status}: {text:?}"),
                _ => {}
            }
        }
    }

    /// Waits until the guest has booted (again).
    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        while self.line(deadline).context("waiting for the guest's boot")? != "ready" {}
        Ok(())
    }

    /// Resets the whole machine, as its reset button would, and waits until it has booted again.
    pub(super) fn reboot(&mut self) -> Result<()> {
        self.execute("system_reset", &json!({}))?;
        self.wait_ready()
    }

    /// Runs a command of QMP; `arguments` is a JSON object.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let result = self.qmp.execute(command, arguments, QEMU_PATIENCE);
        result.map_err(|e| self.process.explain(&e))
    }

    /// Adds a device to the running machine.
    pub(super) fn plug(&mut self, device: &Device) -> Result<()> {
        self.execute("device_add", &device.description)?;
        Ok(())
    }

    /// Asks the guest to give a device back, and waits until it is gone; `false`: it has not gone
    /// within `patience`.
    pub(super) fn unplug(&mut self, device: &Device, patience: Duration) -> Result<bool> {
        self.execute("device_del", &json!({ "id": device.description["id"] }))?;
        self.wait_unplugged(device, patience)
    }

    /// Waits until a device is gone, whoever asked the guest to give it back; `false`: it has not gone within `patience`.
    pub(super) fn wait_unplugged(&mut self, device: &Device, patience: Duration) -> Result<bool> {
        let id = &device.description["id"];
        let event = self
            .qmp
            .event("DEVICE_DELETED", patience, |data| data["device"] == *id);
        Ok(event.map_err(|e| self.process.explain(&e))?.is_some())
    }

    /// Tells `uvfio run`, where QEMU was launched by it, to take the devices back.
    pub(super) fn take_devices_back(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.process.child), Signal::USR1)
            .context("sending SIGUSR1 to `uvfio run`")
    }

    /// Waits until the guest sleeps; `false`: it does not within `patience`.
    pub(super) fn wait_asleep(&mut self, patience: Duration) -> Result<bool> {
        let event = self.qmp.event("SUSPEND", patience, |_| true);
        Ok(event.map_err(|e| self.process.explain(&e))?.is_some())
    }

    /// Wakes a guest that sleeps.
    pub(super) fn wake(&mut self) -> Result<()> {
        self.execute("system_wakeup", &json!({}))?;
        Ok(())
    }

    /// Ends QEMU by SIGKILL, as a crash of the host would.
    pub(super) fn kill(mut self) -> Result<ExitStatus> {
        self.process.child.kill()?;
        Ok(self.process.child.wait()?)
    }

    /// Ends QEMU by SIGKILL, and returns what notes it had still sent.
    pub(super) fn kill_for_notes(mut self) -> Result<Vec<String>> {
        self.process.child.kill()?;
        self.process.child.wait()?;
        let mut notes = Vec::new();
        while let Ok(line) = self.line(Instant::now() + Duration::from_secs(1)) {
            notes.extend(line.strip_prefix("note ").map(str::to_owned));
        }
        Ok(notes)
    }

    /// Asks QEMU to end, and waits until it has.
    pub(super) fn quit(mut self) -> Result<ExitStatus> {
        // QEMU may close the connection before it has sent its answer.
        let _ = self.qmp.execute("quit", &json!({}), QEMU_PATIENCE);
        let deadline = Instant::now() + QEMU_PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(self
            .process
            .explain(&anyhow!("QEMU did not end when told to quit")))
    }

    /// The next of the guest's words to us, without `UVFIO`.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, words)) = line.split_once("UVFIO ") {
                        return Ok(words.trim_end().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.process.explain(&anyhow!("the guest said nothing in time")));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(self.process.explain(&anyhow!("the guest's machine is gone")));
                }
            }
        }
    }
}

/// QEMU's process, ended when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    errors: PathBuf,
    console: PathBuf,
}

impl Process {
    /// Waits for QEMU to connect.
    fn accept(&mut self, listener: &UnixListener) -> Result<UnixStream> {
        listener.set_nonblocking(true)?;
        let deadline = Instant::now() + QEMU_PATIENCE;
        while Instant::now() < deadline && self.child.try_wait()?.is_none() {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(stream);
                }
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(self.explain(&anyhow!("QEMU did not connect to its sockets")))
    }

    /// Adds to an error what QEMU and the guest's console said last.
    fn explain(&mut self, error: &anyhow::Error) -> anyhow::Error {
        // A process that is just ending gets the time to say why.
        thread::sleep(Duration::from_millis(200));
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("QEMU ended with {status}"),
            _ => "QEMU runs".to_owned(),
        };
        let (errors, console) = (tail(&self.errors), tail(&self.console));
        anyhow!(
            "{error:#}; {state}\n    QEMU's last words:\n{errors}    the console's last lines:\n{console}"
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..]
        .iter()
        .map(|line| format!("      {line}\n"))
        .collect()
}

fn read_lines(stream: UnixStream) -> Receiver<String> {
    let (to, from) = mpsc::channel();
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        // A machine that is reset in mid-line may leave bytes that are no text.
        while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if to.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });
    from
}
