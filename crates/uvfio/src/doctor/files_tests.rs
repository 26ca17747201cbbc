//! Machines as folders.
#![allow(clippy::expect_used)] // A test whose ground gives way has failed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::files::Files;
use super::findings::{HugePages, Iommu, Known, Lockdown, Module};

/// A root folder with files in it.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a folder"));
        machine.has("proc/sys/kernel/osrelease", "6.1.0-9-amd64\n")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn has(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
        self
    }

    fn has_folder(self, path: &str) -> Self {
        std::fs::create_dir_all(self.path(path)).expect("made");
        self
    }

    fn files(&self) -> Files {
        Files::under(self.0.path())
    }
}

#[test]
fn of_an_empty_folder_nothing_is_claimed() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = Files::under(folder.path());
    assert_eq!(files.release(), "unknown");
    assert_eq!(files.io_uring(), Known::CantTell);
    assert_eq!(files.seccomp_notification(), Known::CantTell);
    assert_eq!(files.huge_pages().bytes, 0);
    assert!(!files.may_lock_all());
    assert_eq!(files.iommu().groups, 0);
    assert_eq!(files.remapping().on, None);
    assert_eq!(files.vfio().pci, Module::CantTell);
    assert_eq!(files.vfio().container, None);
    assert_eq!(files.lockdown(), Lockdown::CantTell);
    assert_eq!(files.devmem().io_strict, Known::CantTell);
}

#[test]
fn figures_and_words_of_proc_and_sys_are_read() {
    let machine = Machine::new()
        .has(
            "proc/meminfo",
            "MemTotal: 9 kB\nHugePages_Total:  16\nHugePages_Free:   9\nHugepagesize:  2048 kB\n",
        )
        .has("proc/self/status", "Name:\tx\nCapEff:\t0000000000004000\n")
        .has("proc/sys/kernel/io_uring_disabled", "2\n")
        .has(
            "proc/sys/kernel/seccomp/actions_avail",
            "kill_process errno user_notif allow\n",
        )
        .has(
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        )
        .has_folder("sys/class/iommu/dmar1")
        .has_folder("sys/class/iommu/dmar0")
        .has_folder("sys/kernel/iommu_groups/0")
        .has_folder("sys/kernel/iommu_groups/1");
    let files = machine.files();
    let pages = HugePages {
        bytes: 2 << 20,
        total: 16,
        free: 9,
    };
    assert_eq!(files.release(), "6.1.0-9-amd64");
    assert_eq!(files.huge_pages(), pages);
    assert!(files.may_lock_all());
    assert_eq!(files.io_uring(), Known::No);
    assert_eq!(files.seccomp_notification(), Known::Yes);
    assert_eq!(files.lockdown(), Lockdown::Integrity);
    let iommu = Iommu {
        names: vec!["dmar0".into(), "dmar1".into()],
        groups: 2,
    };
    assert_eq!(files.iommu(), iommu);
    let machine = machine.has("proc/self/status", "CapEff:\t000001ffffffbfff\n");
    assert!(!machine.files().may_lock_all(), "all capabilities but one");
}

#[test]
fn a_module_is_in_the_kernel_on_disk_missing_or_out_of_sight() {
    const DISK: &str = "lib/modules/6.1.0-9-amd64/modules.dep";
    const LIST: &str = "kernel/drivers/vfio/vfio.ko.xz:\n\
        kernel/drivers/vfio/pci/vfio-pci.ko: kernel/drivers/vfio/vfio.ko.xz\n\
        kernel/drivers/net/other.ko: kernel/drivers/vfio/vfio_iommu_type1.ko\n";
    let all = |machine: &Machine| {
        let vfio = machine.files().vfio();
        (vfio.core, vfio.pci, vfio.type1)
    };
    let disk = Machine::new().has(DISK, LIST);
    assert_eq!(
        all(&disk),
        (Module::Available, Module::Available, Module::Missing)
    );
    let loaded = disk.has_folder("sys/module/vfio_pci").has(
        "lib/modules/6.1.0-9-amd64/modules.builtin",
        "kernel/drivers/vfio/vfio_iommu_type1.ko\n",
    );
    assert_eq!(all(&loaded), (Module::Available, Module::There, Module::There));

    let configured = Machine::new().has(
        "boot/config-6.1.0-9-amd64",
        "CONFIG_VFIO=y\nCONFIG_VFIO_PCI=m\n# CONFIG_VFIO_IOMMU_TYPE1 is not set\n",
    );
    assert_eq!(
        all(&configured),
        (Module::There, Module::CantTell, Module::Missing),
        "by the configuration, with no modules in sight"
    );
}

#[test]
fn groups_are_in_the_order_of_their_numbers_and_what_is_no_group_is_none() {
    let machine = Machine::new()
        .has("dev/vfio/vfio", "")
        .has("dev/vfio/12", "")
        .has("dev/vfio/7", "")
        .has("dev/vfio/noiommu-3", "")
        .has_folder("dev/vfio/devices");
    let vfio = machine.files().vfio();
    let groups: Vec<_> = vfio.groups.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(groups, ["7", "12"]);
    assert!(vfio.groups.iter().all(|node| node.accessible), "{vfio:?}");
    assert_eq!(vfio.container.map(|node| node.accessible), Some(true));

    let closed = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(machine.path("dev/vfio/7"), closed).expect("closed");
    // Root may all the same.
    let root = rustix::process::geteuid().is_root();
    let vfio = machine.files().vfio();
    let accessible: Vec<_> = vfio.groups.iter().map(|node| node.accessible).collect();
    assert_eq!(accessible, [root, true]);
}

#[test]
fn strict_devmem_is_by_the_configuration_and_the_command_line() {
    let devmem = |config: &str, booted: &str| {
        let machine = Machine::new()
            .has("boot/config-6.1.0-9-amd64", config)
            .has("proc/cmdline", booted);
        let found = machine.files().devmem();
        (found.io_strict, found.because)
    };
    const OPTION: &str = "CONFIG_IO_STRICT_DEVMEM";
    let place = "/boot/config-6.1.0-9-amd64";
    let on = format!("CONFIG_STRICT_DEVMEM=y\n{OPTION}=y\n");
    assert_eq!(devmem(&on, "quiet"), (Known::Yes, format!("{OPTION} in {place}")));
    let off = format!("CONFIG_STRICT_DEVMEM=y\n# {OPTION} is not set\n");
    assert_eq!(
        devmem(&off, "quiet"),
        (Known::No, format!("no {OPTION} in {place}"))
    );
    assert_eq!(
        devmem(&on, "ro iomem=relaxed"),
        (Known::No, "booted with iomem=relaxed".into())
    );
}

#[test]
fn a_packed_configuration_is_unpacked_and_a_broken_one_is_not_believed() {
    let machine = Machine::new().has("proc/config.gz", "not packed at all");
    assert_eq!(
        machine.files().devmem().because,
        "/proc/config.gz can't be unpacked"
    );
    assert_eq!(machine.files().io_uring(), Known::CantTell);

    let machine = Machine::new().has("proc/config", "CONFIG_IO_URING=y\n");
    let packed = std::process::Command::new("gzip")
        .arg(machine.path("proc/config"))
        .status();
    assert!(packed.expect("gzip runs").success());
    assert_eq!(machine.files().io_uring(), Known::Yes);
    assert_eq!(
        machine.files().devmem().because,
        "no CONFIG_IO_STRICT_DEVMEM in /proc/config.gz"
    );
}
