//! What an error number means for the request that it answers: the sentences.

use std::fmt;
use std::ops::RangeInclusive;

/// Which rule of the kernel's refused, as far as its error number and what can be asked afterwards tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The module that makes the file is not loaded (ENOENT, ENODEV).
    NoVfio,
    /// The group has no file: no function of it is bound to a VFIO driver (ENOENT).
    NotBound,
    /// The file's permissions (EACCES).
    NoPermission,
    /// Somebody has the group open, or still has something of it: a device, or a mapping of a BAR (EBUSY).
    Held,
    /// The descriptor is not what it was taken for (ENOTTY, EINVAL).
    WrongKind,
    /// A function of the group is driven by a driver of the kernel (EPERM). Which one, sysfs knows.
    NotViable,
    /// The machine does not remap interrupts, so a device could forge them (EPERM).
    NoInterruptRemapping,
    /// The IOMMU has been chosen already, or no group is in the container yet (EINVAL).
    IommuOrder,
    /// The group is in a container already, or holds a device that is open (EINVAL, EBUSY).
    ContainerOrder,
    /// The container's IOMMU and the group's are not alike, so it needs a container of its own (EINVAL, ENODEV).
    Incompatible,
    /// The group has no function of this name, or it is bound to no VFIO driver (ENODEV).
    NoSuchDevice,
    /// Physical and virtual function must be opened with one token (EACCES).
    Token,
    /// Another reset is under way, or somebody holds the locks that one needs (EAGAIN, EBUSY).
    Contended,
    /// The limit of locked memory (ENOMEM).
    LockedMemory {
        /// How many bytes the request wanted to lock.
        wanted: u64,
        /// RLIMIT_MEMLOCK of this process in bytes; `None`: there is none.
        limit: Option<u64>,
        /// How many bytes this process has locked, where the kernel tells.
        locked: Option<u64>,
    },
    /// The range is not wholly within what the IOMMU can translate (EINVAL).
    Reserved {
        /// What it can translate.
        usable: Vec<RangeInclusive<u64>>,
    },
    /// Addresses and sizes must be multiples of a page of the IOMMU's (EINVAL).
    Misaligned {
        /// The smallest page, in bytes.
        page: u64,
    },
    /// Something is mapped there already (EEXIST).
    Mapped,
    /// The container has as many mappings as it may have (ENOSPC).
    TooManyMappings,
    /// The range begins or ends within a mapping (EINVAL).
    CutsMapping,
    /// The memory is not there: its file is shorter than what is mapped of it (EFAULT).
    NoMemory,
    /// The function has no reset that VFIO can use (EINVAL, ENOTTY).
    NoReset,
    /// A reset of the bus needs every function on it, and their groups (EINVAL).
    NotAllHeld,
    /// No reset of bus or slot reaches the function (ENODEV).
    NoHotReset,
    /// There are fewer vectors (EINVAL).
    Vectors {
        /// How many the interrupt has.
        count: u32,
    },
    /// Vectors cannot be added while others are enabled (EINVAL).
    NoResize,
    /// Only one kind of interrupt can be enabled at a time, and only an enabled one changed (EINVAL).
    InterruptOrder,
    /// The function's memory is off, or it sleeps (EIO).
    MemoryOff,
    /// The device, its driver or the kernel does not have this (ENOTTY).
    Unsupported,
    /// Nothing more is known than the number.
    Other,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoVfio => "the kernel has no VFIO loaded; run `modprobe vfio-pci`",
            Self::NotBound => {
                "no function of the group is bound to a VFIO driver; bind each to vfio-pci, then its file appears"
            }
            Self::NoPermission => {
                "this user may not open it; a udev rule can give it away: \
                 SUBSYSTEM==\"vfio\", KERNEL==\"NUMBER\", OWNER=\"USER\""
            }
            Self::Held => {
                "somebody has it open, or has kept something of it, be it only a mapping of a BAR; \
                 it is free when that process has let go or ended"
            }
            Self::WrongKind => "the descriptor is of another kind of file",
            Self::NotViable => {
                "a function of the group is bound to another driver; all of a group are given away, or none: \
                 bind the others to vfio-pci too, or unbind them"
            }
            Self::NoInterruptRemapping => {
                "the machine does not remap interrupts, so that a device could forge any; \
                 turn interrupt remapping on in the firmware, or, if the users of all devices are trusted, \
                 load vfio_iommu_type1 with allow_unsafe_interrupts=1"
            }
            Self::IommuOrder => "the IOMMU is chosen once, after the first group is in the container",
            Self::ContainerOrder => "the group is in a container already",
            Self::Incompatible => "the container's IOMMU cannot serve this group; use a container of its own",
            Self::NoSuchDevice => "the group has no function of this name that is bound to a VFIO driver",
            Self::Token => "physical and virtual function must be opened with one token (vf_token=UUID)",
            Self::Contended => "somebody else is at the device just now; try again",
            Self::LockedMemory { wanted, limit, locked } => {
                return locked_memory(f, *wanted, *limit, *locked);
            }
            Self::Reserved { usable } => return reserved(f, usable),
            Self::Misaligned { page } => {
                return write!(f, "addresses and sizes must be multiples of {page:#x}");
            }
            Self::Mapped => "something is mapped there already; unmap it first",
            Self::TooManyMappings => {
                "the container has as many mappings as it may have; map larger pieces, \
                 or load vfio_iommu_type1 with a larger dma_entry_limit"
            }
            Self::CutsMapping => "the range begins or ends within a mapping; unmap whole mappings",
            Self::NoMemory => "the memory's file ends before the range does",
            Self::NoReset => "the function has no reset of its own; try a reset of its bus",
            Self::NotAllHeld => {
                "the reset would reach functions of groups that were not given, or that no VFIO driver holds"
            }
            Self::NoHotReset => "no bus or slot can be reset without resetting more than devices",
            Self::Vectors { count } => return write!(f, "the interrupt has {count} vectors"),
            Self::NoResize => {
                "the number of vectors cannot grow while some are enabled; disable them, then enable all at once"
            }
            Self::InterruptOrder => {
                "one of INTx, MSI and MSI-X can be enabled at a time, and only an enabled one masked, \
                 triggered or disabled"
            }
            Self::MemoryOff => "the function does not answer: its memory space is off in COMMAND, or it sleeps",
            Self::Unsupported => "this device, its driver or this kernel does not have it",
            Self::Other => "the kernel says no more than its error number",
        })
    }
}

fn locked_memory(
    f: &mut fmt::Formatter<'_>,
    wanted: u64,
    limit: Option<u64>,
    locked: Option<u64>,
) -> fmt::Result {
    let Some(limit) = limit else {
        return write!(f, "no memory to lock {wanted} bytes");
    };
    write!(f, "{wanted} bytes would be locked, where the limit is {limit}")?;
    if let Some(locked) = locked {
        write!(f, " and {locked} are locked already")?;
    }
    f.write_str("; raise it by `ulimit -l`, LimitMEMLOCK= or /etc/security/limits.conf")
}

fn reserved(f: &mut fmt::Formatter<'_>, usable: &[RangeInclusive<u64>]) -> fmt::Result {
    f.write_str("the range is not within what the IOMMU translates:")?;
    for range in usable {
        write!(f, " {:#x}..={:#x}", range.start(), range.end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_locked_memory_says_what_is_wanted_allowed_and_used() {
        let rule = |limit, locked| {
            Rule::LockedMemory {
                wanted: 8192,
                limit,
                locked,
            }
            .to_string()
        };
        let text = rule(Some(65536), Some(61440));
        for number in ["8192", "65536", "61440", "ulimit -l"] {
            assert!(text.contains(number), "{number} in {text:?}");
        }
        assert!(!rule(Some(65536), None).contains("already"));
        assert!(!rule(None, Some(1)).contains("ulimit"));
    }

    #[test]
    fn a_refusal_for_an_address_names_the_usable_ranges() {
        let usable = vec![0..=0xfedf_ffff, 0xfef0_0000..=0x7f_ffff_ffff];
        let text = Rule::Reserved { usable }.to_string();
        assert!(
            text.ends_with("0x0..=0xfedfffff 0xfef00000..=0x7fffffffff"),
            "{text:?}"
        );
    }
}
