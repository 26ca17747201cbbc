//! Judgements of machines that are made up.
#![allow(clippy::expect_used)] // A test that finds no line has failed.

use uvfio_linux::sysfs::Remapping;

use super::findings::{
    Confinement, Devmem, Findings, HugePages, Iommu, Kernel, Known, Lockdown, LockedMemory, Module,
    Namespaces, Node, Vfio,
};
use super::judge::judge;
use super::report::{Line, Report, Status};

/// Columns of a terminal that most have; reasons of a machine's own may take more.
const WIDTH: usize = 120;

fn node(name: &str, accessible: bool) -> Node {
    Node {
        name: name.into(),
        accessible,
    }
}

/// A machine on which everything works.
fn good() -> Findings {
    Findings {
        release: "6.12.1".into(),
        kernel: Kernel {
            memfd_seals: Ok(()),
            pidfd: true,
            io_uring: Known::Yes,
        },
        confinement: Confinement {
            trial: Ok(()),
            landlock: Some(7),
            seccomp_notification: Known::Yes,
        },
        namespaces: Namespaces::Work,
        huge_pages: HugePages {
            bytes: 2 << 20,
            total: 512,
            free: 500,
        },
        locked_memory: LockedMemory {
            limit: None,
            exempt: false,
        },
        iommu: Iommu {
            names: vec!["dmar0".into(), "dmar1".into()],
            groups: 23,
        },
        remapping: Remapping {
            on: Some(true),
            because: "seen".into(),
            unsafe_allowed: vec![],
        },
        vfio: Vfio {
            core: Module::There,
            pci: Module::There,
            type1: Module::There,
            container: Some(node("vfio", true)),
            groups: vec![node("7", true)],
        },
        lockdown: Lockdown::None,
        devmem: Devmem {
            io_strict: Known::Yes,
            because: "seen".into(),
        },
    }
}

/// The judgement of the good machine with something changed.
fn with(change: impl FnOnce(&mut Findings)) -> Report {
    let mut findings = good();
    change(&mut findings);
    judge(&findings)
}

#[track_caller]
fn line(report: &Report, subject: &str) -> Line {
    let found = report.findings.iter().find(|line| line.subject == subject);
    found.expect("a line of that subject").clone()
}

/// What one change makes of one line: its status, what it says, and what the verdict on real devices gives as reason.
#[track_caller]
fn changed(
    subject: &str,
    change: impl FnOnce(&mut Findings),
    status: Status,
    says: &str,
    lacks: Option<&str>,
) -> Line {
    let report = with(change);
    let line = line(&report, subject);
    assert_eq!(line.status, status, "{line:?}");
    let all = format!(
        "{}. {}. {}",
        line.found,
        line.means,
        line.fix.clone().unwrap_or_default()
    );
    assert!(all.contains(says), "{says:?} is not in: {all}");
    for printed in report.text().lines() {
        assert!(printed.chars().count() <= WIDTH, "too long for a line: {printed}");
    }
    let others = report
        .findings
        .iter()
        .filter(|other| other.subject != subject && other.status != Status::Ok);
    assert_eq!(others.count(), 0, "other lines changed: {report:?}");
    assert_eq!(
        report.real_devices.because,
        lacks.into_iter().collect::<Vec<_>>(),
        "the verdict on real devices"
    );
    assert!(report.software_devices.work, "{report:?}");
    line
}

#[test]
fn a_good_machine_is_ok_throughout_and_has_nothing_to_fix() {
    let report = judge(&good());
    assert_eq!(report.findings.len(), 11);
    for line in &report.findings {
        assert_eq!(line.status, Status::Ok, "{line:?}");
        assert_eq!(line.fix, None, "{line:?}");
    }
    assert!(report.software_devices.work && report.software_devices.because.is_empty());
    assert!(report.real_devices.work && report.real_devices.because.is_empty());
}

#[test]
fn software_devices_work_without_anything_of_real_ones() {
    let report = with(|findings| {
        findings.iommu = Iommu {
            names: vec![],
            groups: 0,
        };
        findings.remapping.on = Some(false);
        findings.vfio = Vfio {
            core: Module::Missing,
            pci: Module::Missing,
            type1: Module::Missing,
            container: None,
            groups: vec![],
        };
    });
    assert!(report.software_devices.work, "{report:?}");
    assert!(!report.real_devices.work, "{report:?}");
    assert_eq!(
        report.real_devices.because,
        ["no IOMMU", "no interrupt remapping", "no VFIO in this kernel"]
    );
}

#[test]
fn without_sealed_memfds_or_a_confined_worker_software_devices_do_not_work() {
    let report = with(|findings| findings.kernel.memfd_seals = Err("ENOSYS".into()));
    assert_eq!(line(&report, "kernel").status, Status::No);
    assert!(!report.software_devices.work);
    assert_eq!(report.software_devices.because, ["no sealed memfds (ENOSYS)"]);

    let report = with(|findings| findings.confinement.trial = Err("no seccomp".into()));
    let confinement = line(&report, "confinement");
    assert_eq!(confinement.status, Status::No);
    assert!(confinement.found.contains("no seccomp"), "{confinement:?}");
    assert!(confinement.fix.is_some());
    assert!(!report.software_devices.work);
    assert_eq!(
        report.software_devices.because,
        ["no confined worker (no seccomp)"]
    );
}

#[test]
fn what_is_not_needed_is_a_note_at_most() {
    let report = with(|findings| {
        findings.kernel.pidfd = false;
        findings.kernel.io_uring = Known::No;
        findings.confinement.seccomp_notification = Known::No;
    });
    assert_eq!(line(&report, "kernel").status, Status::Ok);
    assert_eq!(line(&report, "confinement").status, Status::Ok);
    assert!(report.software_devices.work && report.real_devices.work);

    let old = |version| move |findings: &mut Findings| findings.confinement.landlock = version;
    changed("confinement", old(None), Status::Note, "no Landlock", None);
    changed("confinement", old(Some(3)), Status::Note, "Landlock 3", None);
    let refused = |findings: &mut Findings| findings.namespaces = Namespaces::Refused("EPERM".into());
    changed("user namespaces", refused, Status::Note, "(EPERM)", None);
    let powerless = |findings: &mut Findings| findings.namespaces = Namespaces::Powerless("EPERM".into());
    changed("user namespaces", powerless, Status::Note, "apparmor", None);
    let unknown = |findings: &mut Findings| findings.namespaces = Namespaces::CantTell("why".into());
    changed("user namespaces", unknown, Status::Note, "can't tell (why)", None);
    let none = |findings: &mut Findings| findings.huge_pages.total = 0;
    changed("huge pages", none, Status::Note, "none of 2 MiB", None);
    let never = |findings: &mut Findings| findings.huge_pages.bytes = 0;
    changed("huge pages", never, Status::Note, "this kernel has none", None);
    for lockdown in [Lockdown::Integrity, Lockdown::Confidentiality, Lockdown::CantTell] {
        let set = |findings: &mut Findings| findings.lockdown = lockdown;
        changed("lockdown", set, Status::Note, "setpci", None);
    }
    for known in [Known::No, Known::CantTell] {
        let set = |findings: &mut Findings| findings.devmem.io_strict = known;
        changed("strict devmem", set, Status::Note, "root can map a BAR", None);
    }
}

#[test]
fn locked_memory_bounds_whom_it_binds() {
    let limit = |bytes, exempt| {
        move |findings: &mut Findings| {
            findings.locked_memory = LockedMemory {
                limit: Some(bytes),
                exempt,
            };
        }
    };
    let bound = "with at most 8 MiB of DMA memory";
    let line = changed(
        "locked memory",
        limit(8 << 20, false),
        Status::Note,
        "8 MiB",
        Some(bound),
    );
    assert!(line.fix.is_some_and(|fix| fix.contains("limits.conf")));
    changed(
        "locked memory",
        limit(8 << 20, true),
        Status::Ok,
        "CAP_IPC_LOCK",
        None,
    );
    changed(
        "locked memory",
        limit(0, false),
        Status::Note,
        "at most 0 bytes",
        Some("with at most 0 bytes of DMA memory"),
    );
    let odd = (3 << 29) + 1;
    changed(
        "locked memory",
        limit(odd, false),
        Status::Note,
        "at most 1.5 GiB",
        Some("with at most 1.5 GiB of DMA memory"),
    );
}

#[test]
fn an_iommu_counts_where_devices_are_behind_it() {
    let iommu = |names: &'static [&'static str], groups| {
        move |findings: &mut Findings| {
            findings.iommu = Iommu {
                names: names.iter().map(|&name| name.into()).collect(),
                groups,
            };
        }
    };
    let lacks = Some("no IOMMU");
    changed("IOMMU", iommu(&[], 0), Status::No, "firmware", lacks);
    changed(
        "IOMMU",
        iommu(&["dmar0"], 0),
        Status::No,
        "no device is behind it",
        lacks,
    );
    changed(
        "IOMMU",
        iommu(&["ivhd0"], 1),
        Status::Ok,
        "ivhd0, with 1 group",
        None,
    );
    changed("IOMMU", iommu(&[], 4), Status::Ok, "there, with 4 groups", None);
}

#[test]
fn interrupt_remapping_is_needed_unless_its_lack_is_allowed_and_may_be_unknown() {
    let remapping = |on, allowed: &'static [&'static str]| {
        move |findings: &mut Findings| {
            findings.remapping = Remapping {
                on,
                because: "a reason".into(),
                unsafe_allowed: allowed.iter().map(|&name| name.into()).collect(),
            };
        }
    };
    const SUBJECT: &str = "interrupt remapping";
    let allowed: &[&str] = &["vfio_iommu_type1"];
    let lacks = Some("no interrupt remapping");
    changed(
        SUBJECT,
        remapping(Some(false), &[]),
        Status::No,
        "off (a reason)",
        lacks,
    );
    changed(
        SUBJECT,
        remapping(Some(false), allowed),
        Status::Note,
        "must be trusted",
        None,
    );
    let unless = Some("unless interrupt remapping is off, which can't be told");
    changed(SUBJECT, remapping(None, &[]), Status::Note, "dmesg", unless);
    changed(
        SUBJECT,
        remapping(None, allowed),
        Status::Note,
        "may do without",
        None,
    );
    changed(
        SUBJECT,
        remapping(Some(true), allowed),
        Status::Ok,
        "on (a reason)",
        None,
    );
}

#[test]
fn the_weakest_module_decides() {
    const SUBJECT: &str = "VFIO modules";
    let pci = |module| move |findings: &mut Findings| findings.vfio.pci = module;
    let loaded = Some("vfio-pci is not loaded");
    changed(
        SUBJECT,
        pci(Module::Available),
        Status::Note,
        "modprobe vfio-pci",
        loaded,
    );
    let missing = Some("no VFIO in this kernel");
    changed(
        SUBJECT,
        pci(Module::Missing),
        Status::No,
        "vfio-pci missing",
        missing,
    );
    changed(
        SUBJECT,
        pci(Module::CantTell),
        Status::Note,
        "perhaps there, can't tell",
        None,
    );
    let mixed = |findings: &mut Findings| {
        findings.vfio.core = Module::Available;
        findings.vfio.pci = Module::Missing;
    };
    let line = changed(SUBJECT, mixed, Status::No, "CONFIG_VFIO_PCI", missing);
    assert_eq!(
        line.found,
        "vfio_iommu_type1 in the kernel; vfio to be loaded; vfio-pci missing"
    );
}

#[test]
fn a_group_must_be_there_and_this_user_be_allowed_to_open_it() {
    const SUBJECT: &str = "/dev/vfio";
    let nodes = |container: Option<Node>, groups: Vec<Node>| {
        move |findings: &mut Findings| {
            findings.vfio.container = container;
            findings.vfio.groups = groups;
        }
    };
    let container = |accessible| Some(node("vfio", accessible));
    let none = Some("no device is bound to vfio-pci");
    changed(
        SUBJECT,
        nodes(container(true), vec![]),
        Status::Note,
        "no group",
        none,
    );
    changed(SUBJECT, nodes(None, vec![]), Status::Note, "no group", none);
    let closed = Some("this user may open no group");
    let one = nodes(container(true), vec![node("7", false)]);
    changed(SUBJECT, one, Status::No, "udev rule", closed);
    let no_container = Some("this user may not open /dev/vfio/vfio");
    let one = nodes(container(false), vec![node("7", true)]);
    changed(SUBJECT, one, Status::No, "chmod 0666", no_container);
    let one = nodes(None, vec![node("7", true)]);
    changed(SUBJECT, one, Status::No, "no /dev/vfio/vfio", no_container);
    let two = nodes(container(true), vec![node("7", false), node("12", true)]);
    changed(SUBJECT, two, Status::Ok, "groups 12, not 7", None);
}
