//! What the files under /proc, /sys, /dev, /boot and /lib/modules tell an ordinary user.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::thread::CapabilitySet;
use uvfio_linux::sysfs::{Host, Remapping};

use super::findings::{Devmem, HugePages, Iommu, Known, Lockdown, Module, Node, Vfio};

/// The folder that all paths are under; `/` but in tests.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
    release: String,
    /// The kernel's configuration, and where it was found; or why it was not.
    config: Result<(String, String), String>,
    command_line: String,
}

impl Files {
    pub(super) fn under(root: &Path) -> Self {
        let mut files = Self {
            root: root.to_path_buf(),
            release: String::new(),
            config: Err("the kernel's configuration can't be read".into()),
            command_line: String::new(),
        };
        files.release = files
            .word("proc/sys/kernel/osrelease")
            .unwrap_or_else(|| "unknown".into());
        files.command_line = files.text("proc/cmdline").unwrap_or_default();
        files.config = files.find_config();
        files
    }

    pub(super) fn release(&self) -> &str {
        &self.release
    }

    pub(super) fn io_uring(&self) -> Known {
        match self.word("proc/sys/kernel/io_uring_disabled").as_deref() {
            Some("0") => Known::Yes,
            Some("2") => Known::No,
            // For some users, or by a kernel that has no such switch.
            Some(_) => Known::CantTell,
            None => self.configured("CONFIG_IO_URING"),
        }
    }

    pub(super) fn seccomp_notification(&self) -> Known {
        match self.text("proc/sys/kernel/seccomp/actions_avail") {
            Some(actions) if actions.split_whitespace().any(|action| action == "user_notif") => Known::Yes,
            Some(_) => Known::No,
            None => Known::CantTell,
        }
    }

    pub(super) fn huge_pages(&self) -> HugePages {
        let text = self.text("proc/meminfo").unwrap_or_default();
        let figure = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
                .unwrap_or_default()
        };
        HugePages {
            bytes: figure("Hugepagesize:").saturating_mul(1024),
            total: figure("HugePages_Total:"),
            free: figure("HugePages_Free:"),
        }
    }

    /// Whether this process may lock as much memory as it likes.
    pub(super) fn may_lock_all(&self) -> bool {
        let text = self.text("proc/self/status").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
        line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .is_some_and(|bits| bits & CapabilitySet::IPC_LOCK.bits() != 0)
    }

    pub(super) fn iommu(&self) -> Iommu {
        Iommu {
            names: self.names("sys/class/iommu"),
            groups: self.names("sys/kernel/iommu_groups").len(),
        }
    }

    pub(super) fn remapping(&self) -> Remapping {
        Host::at(&self.root).remapping()
    }

    pub(super) fn vfio(&self) -> Vfio {
        let node = |name: &str| Node {
            name: name.to_owned(),
            accessible: self.may_open(&format!("dev/vfio/{name}")),
        };
        let names = self.names("dev/vfio");
        let is_group = |name: &&String| name.bytes().all(|byte| byte.is_ascii_digit());
        Vfio {
            core: self.module("vfio", "CONFIG_VFIO"),
            pci: self.module("vfio-pci", "CONFIG_VFIO_PCI"),
            type1: self.module("vfio_iommu_type1", "CONFIG_VFIO_IOMMU_TYPE1"),
            container: names.iter().any(|name| name == "vfio").then(|| node("vfio")),
            groups: names.iter().filter(is_group).map(|name| node(name)).collect(),
        }
    }

    /// Where a module is: `name` as its file has it.
    fn module(&self, name: &str, option: &str) -> Module {
        let folder = format!("lib/modules/{}", self.release);
        let file = format!("/{name}.ko");
        // A file's name may go on with how it is compressed, and in modules.dep with a colon.
        let has = |list: &Option<String>| {
            list.as_ref().is_some_and(|text| {
                let mut paths = text.lines().filter_map(|line| line.split([':', ' ']).next());
                paths.any(|path| {
                    path.rsplit_once(&file)
                        .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('.'))
                })
            })
        };
        let on_disk = self.text(&format!("{folder}/modules.dep"));
        if self
            .path(&format!("sys/module/{}", name.replace('-', "_")))
            .exists()
            || has(&self.text(&format!("{folder}/modules.builtin")))
        {
            Module::There
        } else if has(&on_disk) {
            Module::Available
        } else if on_disk.is_some() {
            Module::Missing
        } else {
            // As in a container: modules may lie where this process can't see them.
            match self.setting(option) {
                Some("y") => Module::There,
                Some(_) => Module::CantTell,
                None if self.config.is_ok() => Module::Missing,
                None => Module::CantTell,
            }
        }
    }

    pub(super) fn lockdown(&self) -> Lockdown {
        let text = self.text("sys/kernel/security/lockdown").unwrap_or_default();
        let chosen = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        match chosen {
            Some("none") => Lockdown::None,
            Some("integrity") => Lockdown::Integrity,
            Some("confidentiality") => Lockdown::Confidentiality,
            _ => Lockdown::CantTell,
        }
    }

    pub(super) fn devmem(&self) -> Devmem {
        const OPTION: &str = "CONFIG_IO_STRICT_DEVMEM";
        let (io_strict, because) = match &self.config {
            _ if self.booted_with("iomem=relaxed") => (Known::No, "booted with iomem=relaxed".into()),
            Ok((_, place)) => match self.configured(OPTION) {
                Known::Yes => (Known::Yes, format!("{OPTION} in {place}")),
                _ => (Known::No, format!("no {OPTION} in {place}")),
            },
            Err(why) => (Known::CantTell, why.clone()),
        };
        Devmem { io_strict, because }
    }

    /// Whether an option of the kernel's is on.
    fn configured(&self, option: &str) -> Known {
        match (&self.config, self.setting(option)) {
            (Err(_), _) => Known::CantTell,
            (Ok(_), Some("y" | "m")) => Known::Yes,
            (Ok(_), _) => Known::No,
        }
    }

    /// What an option is set to.
    fn setting(&self, option: &str) -> Option<&str> {
        let (text, _) = self.config.as_ref().ok()?;
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(option)?.strip_prefix('='))
    }

    fn find_config(&self) -> Result<(String, String), String> {
        let boot = format!("boot/config-{}", self.release);
        if let Some(text) = self.text(&boot) {
            return Ok((text, format!("/{boot}")));
        }
        let packed = self.path("proc/config.gz");
        if !packed.exists() {
            return Err(format!("neither /proc/config.gz nor /{boot} can be read"));
        }
        let unpacked = Command::new("gzip")
            .arg("-dc")
            .arg(&packed)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        match unpacked {
            Ok(output) if output.status.success() => Ok((
                String::from_utf8_lossy(&output.stdout).into_owned(),
                "/proc/config.gz".into(),
            )),
            Ok(_) => Err("/proc/config.gz can't be unpacked".into()),
            Err(error) => Err(format!("/proc/config.gz can't be unpacked: gzip: {error}")),
        }
    }

    fn booted_with(&self, option: &str) -> bool {
        self.command_line.split_whitespace().any(|word| word == option)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn text(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn word(&self, path: &str) -> Option<String> {
        self.text(path).map(|text| text.trim().to_owned())
    }

    /// What is in a folder, in order; nothing where it can't be read.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // Numbers by their value.
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }

    fn may_open(&self, path: &str) -> bool {
        let wanted = Access::READ_OK | Access::WRITE_OK;
        accessat(CWD, self.path(path), wanted, AtFlags::EACCESS).is_ok()
    }
}
