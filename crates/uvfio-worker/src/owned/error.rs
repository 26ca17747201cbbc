//! Why a function that exists can't be owned.

use std::io;

use uvfio_linux::device::HardwareError;
use uvfio_linux::sysfs::{self, Address};
use uvfio_linux::vfio::VfioError;

/// Why a function can't be owned.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// `/sys` knows no such function, or does not say what it must.
    #[error(transparent)]
    Sysfs(#[from] sysfs::Error),
    /// Another driver has it, or none.
    #[error("{address} {}; give it to vfio-pci first, as root: uvfio bind {address}", with(driver.as_deref()))]
    NotBound {
        /// The function.
        address: Address,
        /// Its driver.
        driver: Option<String>,
    },
    /// Others of its group are in the way.
    #[error(
        "{address} can't be owned, since its IOMMU group {group} is given away as a whole or not at all: {blockers}"
    )]
    NotViable {
        /// The function.
        address: Address,
        /// The group's number.
        group: u32,
        /// Each that is in the way, and what takes it from there.
        blockers: String,
    },
    /// There is no IOMMU behind its group.
    #[error(
        "{address} can't be owned: there is no IOMMU behind its group {group}, so nothing confines its DMA"
    )]
    NotIsolated {
        /// The function.
        address: Address,
        /// The group's number.
        group: u32,
    },
    /// It could raise interrupts that are not its own, and nobody has allowed that.
    #[error(
        "{address} can't be owned: the kernel would give it away though this machine is not known to remap interrupts \
         ({because}; {modules} may do without), and its user could raise any interrupt of the machine; switch remapping \
         on in the firmware, or, where the user is trusted with that, serve it with --unsafe-interrupts"
    )]
    UnsafeInterrupts {
        /// The function.
        address: Address,
        /// What is known of the machine's interrupt remapping.
        because: String,
        /// The kernel's modules that were told to do without.
        modules: String,
    },
    /// Somebody has its group open, or something of it.
    #[error("{address} is in use: {}", held_by(*group, holders))]
    InUse {
        /// The function.
        address: Address,
        /// The group's number.
        group: u32,
        /// Who holds it, as far as this user may see.
        holders: String,
    },
    /// The permissions of the group's file.
    #[error(
        "this user (uid {uid}) may not open /dev/vfio/{group}, the IOMMU group of {address}; as root: \
         chown {uid} /dev/vfio/{group}, or for good by a udev rule: SUBSYSTEM==\"vfio\", KERNEL==\"{group}\", \
         OWNER=\"{uid}\""
    )]
    NotAllowed {
        /// The function.
        address: Address,
        /// The group's number.
        group: u32,
        /// Who asked.
        uid: u32,
    },
    /// It is in another group than the first one that is asked for.
    #[error(
        "{address} is in IOMMU group {group}, and {first} is not: functions that are served together are of one group; \
         serve each group by itself"
    )]
    OtherGroup {
        /// The function.
        address: Address,
        /// The number of its group.
        group: u32,
        /// The first function.
        first: Address,
    },
    /// The process has as many descriptors as it may have.
    #[error("{address} can't be owned: no descriptor is left for it ({why})")]
    NoDescriptor {
        /// The function.
        address: Address,
        /// What the system says.
        why: io::Error,
    },
    /// Another function is there now.
    #[error("{address} is no longer the function that it was ({was:#010x}, now {is:#010x}); start it again")]
    Exchanged {
        /// The address.
        address: Address,
        /// Device and vendor ID before.
        was: u32,
        /// Device and vendor ID now.
        is: u32,
    },
    /// The raw view needs configuration space to be writable, past the kernel's VFIO.
    #[error(
        "{address} has no raw view for its user: config in its folder in /sys can't be written, for which root and a \
         kernel that is not locked down are needed ({why}); --view filtered needs neither"
    )]
    NoRaw {
        /// The function.
        address: Address,
        /// What the system says.
        why: String,
    },
    /// What the kernel says of it could not be listened to.
    #[error("{address}: nobody would hear that the kernel wants it back: no descriptor or no thread ({why})")]
    NotHeard {
        /// The function.
        address: Address,
        /// What the system says.
        why: String,
    },
    /// The kernel refused something else.
    #[error(transparent)]
    Vfio(#[from] VfioError),
}

/// Why a function is not fit for another user.
#[derive(Debug, thiserror::Error)]
pub enum NotBack {
    /// It did not stop, or could not be reset.
    #[error(transparent)]
    Stopped(#[from] VfioError),
    /// It is not what it was at first.
    #[error(transparent)]
    Changed(#[from] HardwareError),
}

fn with(driver: Option<&str>) -> String {
    driver.map_or_else(
        || "has no driver".into(),
        |driver| format!("is with the driver {driver}"),
    )
}

fn held_by(group: u32, holders: &str) -> String {
    let who = match holders {
        "" => "a process that this user can't see",
        _ => holders,
    };
    format!(
        "{who} has its IOMMU group {group} open, or something of it; it is free when that has let go or ended"
    )
}
