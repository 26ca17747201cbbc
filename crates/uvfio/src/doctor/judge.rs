//! What follows from findings: for each a status, what works or doesn't, and what to do.

use uvfio_linux::sysfs::Remapping;
use uvfio_worker::LANDLOCK_KNOWN;

use super::findings::{
    Confinement, Devmem, Findings, HugePages, Iommu, Kernel, Known, Lockdown, LockedMemory, Module,
    Namespaces, Vfio,
};
use super::report::{Line, Report, Status, Verdict};
use crate::names::about;

pub(super) fn judge(findings: &Findings) -> Report {
    Report {
        findings: vec![
            kernel(&findings.release, &findings.kernel),
            confinement(&findings.confinement),
            namespaces(&findings.namespaces),
            huge_pages(findings.huge_pages),
            locked_memory(findings.locked_memory),
            iommu(&findings.iommu),
            remapping(&findings.remapping),
            modules(&findings.vfio),
            nodes(&findings.vfio),
            lockdown(findings.lockdown),
            devmem(&findings.devmem),
        ],
        software_devices: software(findings),
        real_devices: real(findings),
    }
}

/// A finding without a fix.
fn line(status: Status, subject: &'static str, found: impl Into<String>, means: impl Into<String>) -> Line {
    Line {
        status,
        subject,
        found: found.into(),
        means: means.into(),
        fix: None,
    }
}

impl Line {
    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

fn kernel(release: &str, kernel: &Kernel) -> Line {
    const SUBJECT: &str = "kernel";
    let have = |name: &str, known| match known {
        Known::Yes => name.to_owned(),
        Known::No => format!("no {name}"),
        Known::CantTell => format!("{name}: can't tell"),
    };
    let pidfd = have("pidfd", if kernel.pidfd { Known::Yes } else { Known::No });
    let rest = format!("{pidfd}, {}", have("io_uring", kernel.io_uring));
    match &kernel.memfd_seals {
        Ok(()) => line(
            Status::Ok,
            SUBJECT,
            format!("Linux {release}, with sealed memfds, {rest}"),
            "software devices have the memory that they need; pidfd and io_uring are not needed",
        ),
        Err(why) => line(
            Status::No,
            SUBJECT,
            format!("Linux {release}, without sealed memfds ({why}), {rest}"),
            "software devices won't work, whose memory is made of them",
        )
        .fix("use a kernel with CONFIG_MEMFD_CREATE, and a container that allows memfd_create"),
    }
}

fn confinement(confinement: &Confinement) -> Line {
    const SUBJECT: &str = "confinement";
    let notification = match confinement.seccomp_notification {
        Known::Yes => "with notification",
        Known::No => "without notification, which is not needed",
        Known::CantTell => "notification: can't tell, and not needed",
    };
    let landlock = confinement.landlock.map_or_else(
        || "no Landlock".to_owned(),
        |version| format!("Landlock {version}"),
    );
    let found = format!("a worker was confined: seccomp ({notification}), {landlock}");
    match (&confinement.trial, confinement.landlock) {
        (Err(why), _) => line(
            Status::No,
            SUBJECT,
            format!("a worker could not be started and confined ({why}); {landlock}"),
            "software devices won't work",
        )
        .fix("use Linux 5.9 or later with CONFIG_SECCOMP_FILTER, and /proc, in a container that allows seccomp"),
        (Ok(()), None) => line(
            Status::Note,
            SUBJECT,
            found,
            "only seccomp keeps it from files",
        )
        .fix("use a kernel with CONFIG_SECURITY_LANDLOCK, with landlock in its lsm= list"),
        (Ok(()), Some(version)) if version < LANDLOCK_KNOWN => line(
            Status::Note,
            SUBJECT,
            found,
            "seccomp does the rest",
        ),
        (Ok(()), Some(_)) => line(
            Status::Ok,
            SUBJECT,
            found,
            "whoever breaks into a worker reaches no file, no network and no other process",
        ),
    }
}

fn namespaces(namespaces: &Namespaces) -> Line {
    const SUBJECT: &str = "user namespaces";
    const WITHOUT: &str = "`uvfio run` needs one; `uvfio demo` does without";
    match namespaces {
        Namespaces::Work => line(
            Status::Ok,
            SUBJECT,
            "an ordinary user can make one and has rights in it",
            "`uvfio run` works, and `uvfio demo` gives its user one of its own",
        ),
        Namespaces::Refused(why) => line(
            Status::Note,
            SUBJECT,
            format!("an ordinary user can make none ({why})"),
            WITHOUT,
        )
        .fix("as root, `sysctl user.max_user_namespaces=10000`, on Debian also kernel.unprivileged_userns_clone=1"),
        Namespaces::Powerless(why) => line(
            Status::Note,
            SUBJECT,
            format!("an ordinary user can make one, but has no rights in it ({why})"),
            "`uvfio run` needs them",
        )
        .fix("as root, `sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or an AppArmor profile with userns"),
        Namespaces::CantTell(why) => line(Status::Note, SUBJECT, format!("can't tell ({why})"), WITHOUT),
    }
}

fn huge_pages(pages: HugePages) -> Line {
    const SUBJECT: &str = "huge pages";
    let size = about(pages.bytes);
    match pages {
        HugePages { bytes: 0, .. } => line(
            Status::Note,
            SUBJECT,
            "this kernel has none",
            "a real device's DMA memory takes longer to map",
        ),
        HugePages { total: 0, .. } => line(
            Status::Note,
            SUBJECT,
            format!("none of {size} is set aside"),
            "a real device's DMA memory takes longer to map",
        )
        .fix("where that matters, as root, `sysctl vm.nr_hugepages=N`"),
        HugePages { total, free, .. } => line(
            Status::Ok,
            SUBJECT,
            format!("{total} of {size}, {free} of them free"),
            "DMA memory may be of hugetlbfs",
        ),
    }
}

fn locked_memory(memory: LockedMemory) -> Line {
    const SUBJECT: &str = "locked memory";
    const ENOUGH: &str =
        "a real device can be given as much DMA memory as there is; software devices lock none";
    match memory {
        LockedMemory { limit: None, .. } => line(Status::Ok, SUBJECT, "no limit", ENOUGH),
        LockedMemory {
            limit: Some(bytes),
            exempt: true,
        } => line(
            Status::Ok,
            SUBJECT,
            format!(
                "at most {}, which does not bind this user (CAP_IPC_LOCK)",
                about(bytes)
            ),
            ENOUGH,
        ),
        LockedMemory {
            limit: Some(bytes),
            exempt: false,
        } => line(
            Status::Note,
            SUBJECT,
            format!("at most {}", about(bytes)),
            "a real device's user, such as a virtual machine, can have no more DMA memory",
        )
        .fix(
            "raise it to their memory: LimitMEMLOCK= of the service, or memlock in /etc/security/limits.conf",
        ),
    }
}

fn iommu(iommu: &Iommu) -> Line {
    const SUBJECT: &str = "IOMMU";
    const WITHOUT: &str = "real devices won't work";
    match (iommu.groups, iommu.names.is_empty()) {
        (0, true) => line(Status::No, SUBJECT, "none", WITHOUT).fix(
            "switch on VT-d, AMD-Vi or the SMMU in the firmware, and boot with intel_iommu=on where it is Intel's",
        ),
        (0, false) => line(
            Status::No,
            SUBJECT,
            format!("{}, but no device is behind it", iommu.names.join(", ")),
            WITHOUT,
        )
        .fix("boot with intel_iommu=on, and without iommu=off or amd_iommu=off"),
        (groups, _) => line(
            Status::Ok,
            SUBJECT,
            format!(
                "{}, with {groups} {}",
                if iommu.names.is_empty() {
                    "there".to_owned()
                } else {
                    iommu.names.join(", ")
                },
                if groups == 1 { "group" } else { "groups" }
            ),
            "a real device's DMA is kept to the memory of its user",
        ),
    }
}

fn remapping(remapping: &Remapping) -> Line {
    const SUBJECT: &str = "interrupt remapping";
    let allowed = remapping.unsafe_allowed.join(" and ");
    let because = &remapping.because;
    match (remapping.on, allowed.is_empty()) {
        (Some(true), _) => line(
            Status::Ok,
            SUBJECT,
            format!("on ({because})"),
            "a real device can raise its own interrupts only",
        ),
        (Some(false), true) => line(
            Status::No,
            SUBJECT,
            format!("off ({because})"),
            "real devices won't work",
        )
        .fix("switch it on with the IOMMU in the firmware, and boot without nointremap or intremap=off"),
        (Some(false), false) => line(
            Status::Note,
            SUBJECT,
            format!("off ({because}); {allowed} may do without"),
            "users of real devices must be trusted",
        )
        .fix("switch it on with the IOMMU in the firmware, and take allow_unsafe_interrupts away"),
        (None, true) => line(
            Status::Note,
            SUBJECT,
            format!("can't tell ({because})"),
            "where it is off, real devices won't work",
        )
        .fix("as root, look for `remapping` in what dmesg prints"),
        (None, false) => line(
            Status::Note,
            SUBJECT,
            format!("can't tell ({because}); {allowed} may do without"),
            "serve them with --unsafe-interrupts",
        )
        .fix("as root, look for `remapping` in what dmesg prints"),
    }
}

fn modules(vfio: &Vfio) -> Line {
    const SUBJECT: &str = "VFIO modules";
    let all = [
        ("vfio", vfio.core),
        ("vfio-pci", vfio.pci),
        ("vfio_iommu_type1", vfio.type1),
    ];
    let named = |wanted| {
        let names = all
            .iter()
            .filter(|(_, module)| *module == wanted)
            .map(|(name, _)| *name);
        names.collect::<Vec<_>>().join(", ")
    };
    let parts = [
        (Module::There, "in the kernel"),
        (Module::Available, "to be loaded"),
        (Module::Missing, "missing"),
        (Module::CantTell, "perhaps there, can't tell"),
    ];
    let found: Vec<String> = parts
        .into_iter()
        .filter(|(module, _)| all.iter().any(|(_, has)| has == module))
        .map(|(module, said)| format!("{} {said}", named(module)))
        .collect();
    let found = found.join("; ");
    match weakest(vfio) {
        Module::There => line(
            Status::Ok,
            SUBJECT,
            found,
            "real devices can be bound to vfio-pci",
        ),
        Module::Available => {
            line(Status::Note, SUBJECT, found, "real devices need it").fix("as root, `modprobe vfio-pci`")
        }
        Module::CantTell => {
            line(Status::Note, SUBJECT, found, "real devices need it").fix("as root, try `modprobe vfio-pci`")
        }
        Module::Missing => line(Status::No, SUBJECT, found, "real devices won't work")
            .fix("use a kernel with CONFIG_VFIO_PCI and CONFIG_VFIO_IOMMU_TYPE1, and its modules"),
    }
}

/// The worst that is true of one of the modules.
fn weakest(vfio: &Vfio) -> Module {
    let all = [vfio.core, vfio.pci, vfio.type1];
    let order = [Module::Missing, Module::CantTell, Module::Available];
    order
        .into_iter()
        .find(|worst| all.contains(worst))
        .unwrap_or(Module::There)
}

fn nodes(vfio: &Vfio) -> Line {
    const SUBJECT: &str = "/dev/vfio";
    const RULE: &str = "as root, a udev rule such as SUBSYSTEM==\"vfio\", OWNER=\"NAME\"";
    let names = |accessible| {
        let nodes = vfio.groups.iter().filter(|node| node.accessible == accessible);
        nodes
            .map(|node| node.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (ours, others) = (names(true), names(false));
    match &vfio.container {
        _ if vfio.groups.is_empty() => line(
            Status::Note,
            SUBJECT,
            "no group",
            "no device is bound to vfio-pci",
        )
        .fix("as root, bind one to vfio-pci: `uvfio list`, then `uvfio bind ADDRESS`"),
        Some(node) if !node.accessible => line(
            Status::No,
            SUBJECT,
            "this user may not open /dev/vfio/vfio",
            "it can be given no real device",
        )
        .fix("as root, `chmod 0666 /dev/vfio/vfio`, which is how the kernel makes it"),
        None => line(
            Status::No,
            SUBJECT,
            "groups, but no /dev/vfio/vfio",
            "real devices won't work",
        )
        .fix("in a container, pass /dev/vfio/vfio on as well"),
        Some(_) if ours.is_empty() => line(
            Status::No,
            SUBJECT,
            format!("groups {others}, of which this user may open none"),
            "it can be given no real device",
        )
        .fix(RULE),
        Some(_) if !others.is_empty() => line(
            Status::Ok,
            SUBJECT,
            format!("this user may open groups {ours}, not {others}"),
            "the devices of the former can be given to this user",
        ),
        Some(_) => line(
            Status::Ok,
            SUBJECT,
            format!("this user may open groups {ours}"),
            "their devices can be given to this user",
        ),
    }
}

fn lockdown(lockdown: Lockdown) -> Line {
    const SUBJECT: &str = "lockdown";
    const HELD: &str = "setpci, `serve --view raw` and unsigned modules won't work, for root neither";
    match lockdown {
        Lockdown::None => line(
            Status::Ok,
            SUBJECT,
            "off",
            "the kernel keeps nothing from root for its sake",
        ),
        Lockdown::Integrity => line(Status::Note, SUBJECT, "integrity", HELD),
        Lockdown::Confidentiality => line(Status::Note, SUBJECT, "confidentiality", HELD),
        Lockdown::CantTell => line(
            Status::Note,
            SUBJECT,
            "can't tell (no /sys/kernel/security/lockdown)",
            "where it is on, setpci and `serve --view raw` don't work",
        ),
    }
}

fn devmem(devmem: &Devmem) -> Line {
    const SUBJECT: &str = "strict devmem";
    let because = &devmem.because;
    const OFF: &str = "root can map a BAR while a user has the device";
    match devmem.io_strict {
        Known::Yes => line(
            Status::Ok,
            SUBJECT,
            format!("on for devices ({because})"),
            "nobody maps a BAR behind the back of the device's user, not even root",
        ),
        Known::No => line(Status::Note, SUBJECT, format!("off for devices ({because})"), OFF)
            .fix("use a kernel with CONFIG_IO_STRICT_DEVMEM, without iomem=relaxed"),
        Known::CantTell => line(
            Status::Note,
            SUBJECT,
            format!("can't tell ({because})"),
            format!("where it is off, {OFF}"),
        ),
    }
}

fn software(findings: &Findings) -> Verdict {
    let mut because = Vec::new();
    if let Err(why) = &findings.kernel.memfd_seals {
        because.push(format!("no sealed memfds ({why})"));
    }
    if let Err(why) = &findings.confinement.trial {
        because.push(format!("no confined worker ({why})"));
    }
    Verdict {
        work: because.is_empty(),
        because,
    }
}

fn real(findings: &Findings) -> Verdict {
    let Findings {
        iommu,
        remapping,
        vfio,
        locked_memory,
        ..
    } = findings;
    let mut lack = Vec::new();
    if iommu.groups == 0 {
        lack.push("no IOMMU");
    }
    if remapping.on == Some(false) && remapping.unsafe_allowed.is_empty() {
        lack.push("no interrupt remapping");
    }
    match weakest(vfio) {
        Module::Missing => lack.push("no VFIO in this kernel"),
        Module::Available => lack.push("vfio-pci is not loaded"),
        _ if vfio.groups.is_empty() => lack.push("no device is bound to vfio-pci"),
        _ if vfio.container.as_ref().is_none_or(|node| !node.accessible) => {
            lack.push("this user may not open /dev/vfio/vfio");
        }
        _ if !vfio.groups.iter().any(|node| node.accessible) => lack.push("this user may open no group"),
        _ => {}
    }
    let mut because: Vec<String> = lack.into_iter().map(str::to_owned).collect();
    let work = because.is_empty();
    if work && remapping.on.is_none() && remapping.unsafe_allowed.is_empty() {
        because.push("unless interrupt remapping is off, which can't be told".into());
    }
    if work
        && let LockedMemory {
            limit: Some(bytes),
            exempt: false,
        } = locked_memory
    {
        because.push(format!("with at most {} of DMA memory", about(*bytes)));
    }
    Verdict { work, because }
}
