//! What was found out about a machine. Nothing is judged here.

use uvfio_linux::sysfs::Remapping;

/// Whether something is so, as far as this user can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Yes,
    No,
    /// This user is not allowed to see, or the system does not tell.
    CantTell,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Findings {
    /// The kernel's release, as `uname -r` prints it.
    pub(super) release: String,
    pub(super) kernel: Kernel,
    pub(super) confinement: Confinement,
    pub(super) namespaces: Namespaces,
    pub(super) huge_pages: HugePages,
    pub(super) locked_memory: LockedMemory,
    pub(super) iommu: Iommu,
    pub(super) remapping: Remapping,
    pub(super) vfio: Vfio,
    pub(super) lockdown: Lockdown,
    pub(super) devmem: Devmem,
}

/// Features of the kernel, each tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Why no sealed memfd can be made, where none can.
    pub(super) memfd_seals: Result<(), String>,
    pub(super) pidfd: bool,
    /// By `/proc/sys/kernel/io_uring_disabled`.
    pub(super) io_uring: Known,
}

/// What a worker is confined by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confinement {
    /// What came of starting a worker and confining it.
    pub(super) trial: Result<(), String>,
    /// The version of Landlock's interface; none: the kernel hasn't it, or has it switched off.
    pub(super) landlock: Option<u32>,
    pub(super) seccomp_notification: Known,
}

/// Whether an ordinary user can make a user namespace and be root in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Namespaces {
    Work,
    /// None can be made.
    Refused(String),
    /// One can be made, but it gives no rights in it.
    Powerless(String),
    CantTell(String),
}

/// Huge pages of the usual size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HugePages {
    /// Bytes of a page; 0: the kernel has none.
    pub(super) bytes: u64,
    /// How many are set aside.
    pub(super) total: u64,
    pub(super) free: u64,
}

/// How much memory this user may lock, as a real device's DMA memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LockedMemory {
    /// Bytes; none: no limit.
    pub(super) limit: Option<u64>,
    /// Whether this process has CAP_IPC_LOCK, and so need not keep to it.
    pub(super) exempt: bool,
}

/// IOMMUs, by sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Iommu {
    /// `/sys/class/iommu`.
    pub(super) names: Vec<String>,
    /// How many groups are in `/sys/kernel/iommu_groups`.
    pub(super) groups: usize,
}

/// Where a module of the kernel's is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Module {
    /// In the kernel, loaded or built in.
    There,
    /// On disk.
    Available,
    /// Nowhere.
    Missing,
    CantTell,
}

/// A file under `/dev/vfio`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Its name there.
    pub(super) name: String,
    /// Whether this user may open it for reading and writing.
    pub(super) accessible: bool,
}

/// The kernel's VFIO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Vfio {
    pub(super) core: Module,
    pub(super) pci: Module,
    pub(super) type1: Module,
    /// `/dev/vfio/vfio`.
    pub(super) container: Option<Node>,
    /// `/dev/vfio/N`: groups of which every device is bound to VFIO or to nothing.
    pub(super) groups: Vec<Node>,
}

/// `/sys/kernel/security/lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lockdown {
    None,
    Integrity,
    Confidentiality,
    /// The file isn't there: the kernel hasn't it, or securityfs is not mounted.
    CantTell,
}

/// Whether root can reach a device's memory behind the back of whoever has the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Devmem {
    /// `CONFIG_IO_STRICT_DEVMEM`, and no `iomem=relaxed` on the kernel's command line.
    pub(super) io_strict: Known,
    /// Where that is known from, or why it isn't.
    pub(super) because: String,
}
