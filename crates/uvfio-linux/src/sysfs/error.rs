//! What can go wrong with `/sys`, as sentences that say what to do next.

use std::io;
use std::path::PathBuf;

use super::{Address, Holder, Use};

/// Why something about a PCI function could not be found out or done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("{} could not be read: {source}{}", path.display(), next(source))]
    Read {
        /// What was read
        path: PathBuf,
        /// Why not
        source: io::Error,
    },
    /// A file that should be there is not.
    #[error("{} is missing, {why}", path.display())]
    Missing {
        /// What was looked for
        path: PathBuf,
        /// Why it should be there, as the end of the sentence
        why: &'static str,
    },
    /// A file does not say what the kernel's do.
    #[error("{} says {text:?}, which is not {expected}", path.display())]
    Malformed {
        /// What was read
        path: PathBuf,
        /// What it says, shortened
        text: String,
        /// What would have been understood
        expected: &'static str,
    },
    /// A link leads out of the tree, or goes in circles.
    #[error("{} leads to no place in {}", path.display(), root.display())]
    Outside {
        /// The link
        path: PathBuf,
        /// The tree that it belongs to
        root: PathBuf,
    },
    /// A value could not be written.
    #[error("writing {value:?} to {} failed: {source}{}", path.display(), next(source))]
    Write {
        /// The attribute
        path: PathBuf,
        /// What was to be written
        value: String,
        /// Why not
        source: io::Error,
    },
    /// There is no such function.
    #[error("there is no PCI function {address}; `uvfio list --all` shows those that there are")]
    NoFunction {
        /// The address asked for
        address: Address,
    },
    /// The function is a bridge, which has no type 0 header; vfio-pci takes none.
    #[error(
        "{address} is a bridge, and vfio-pci takes only functions with a type 0 header; bind what lies behind it"
    )]
    Bridge {
        /// The bridge
        address: Address,
    },
    /// The function belongs to no IOMMU group.
    #[error(
        "{address} is in no IOMMU group, and without one nothing confines its DMA: switch the IOMMU on in the \
         firmware, and in the kernel by intel_iommu=on or amd_iommu=on on its command line"
    )]
    NoGroup {
        /// The function
        address: Address,
    },
    /// There is no such group.
    #[error("there is no IOMMU group {group}")]
    UnknownGroup {
        /// Its number
        group: u32,
    },
    /// The driver vfio-pci is not there.
    #[error("the driver vfio-pci is not loaded; load it with `modprobe vfio-pci` and try again")]
    NoVfioPci,
    /// Something that the system needs runs over the function.
    #[error("{address} is in use: {}; --force overrides that", sentence(uses))]
    InUse {
        /// The function
        address: Address,
        /// What for
        uses: Vec<Use>,
    },
    /// The function has virtual functions, which would vanish with its driver.
    #[error(
        "{address} has {count} virtual functions, which go when its driver goes; remove them by writing 0 to its \
         sriov_numvfs, or use --force"
    )]
    VirtualFunctions {
        /// The physical function
        address: Address,
        /// How many are enabled
        count: u32,
    },
    /// A process holds the function, or its group.
    #[error("{address} is held by {}; end that first{instead}", names(holders))]
    Held {
        /// The function
        address: Address,
        /// Who holds it
        holders: Vec<Holder>,
        /// What else can be done, as the end of the sentence
        instead: &'static str,
    },
    /// After all was done, another driver has the function, or none.
    #[error(
        "{address} was offered to {wanted}, but {}; the kernel's log says why (`dmesg`)",
        got.as_ref().map_or_else(|| "no driver has it now".to_owned(), |driver| format!("{driver} has it now"))
    )]
    NotTaken {
        /// The function
        address: Address,
        /// The driver that should have it
        wanted: String,
        /// The one that has
        got: Option<String>,
    },
    /// A driver of VFIO's took the function again, because it has been told of every function of its kind.
    #[error(
        "{address} went to {driver} again, which takes every function with its ids; write {ids:?} to \
         /sys/bus/pci/drivers/{driver}/remove_id and try again"
    )]
    Again {
        /// The function
        address: Address,
        /// The driver
        driver: String,
        /// The ids as `remove_id` takes them
        ids: String,
    },
    /// The function has no reset method.
    #[error("{address} has no reset method that the kernel knows or may use (its reset_method is empty)")]
    NoReset {
        /// The function
        address: Address,
    },
    /// A driver works with the function that is to be reset.
    #[error(
        "{address} is driven by {driver}, which a reset would surprise; `uvfio bind {address}` takes it from there, \
         and --force resets it all the same"
    )]
    Driven {
        /// The function
        address: Address,
        /// The driver
        driver: String,
    },
}

/// What to do about an input/output error, as the end of a sentence.
fn next(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; this needs root",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; /sys is mounted read-only here, as in most containers: do it on the host"
        }
        _ => "",
    }
}

fn sentence(uses: &[Use]) -> String {
    let words: Vec<String> = uses.iter().map(ToString::to_string).collect();
    words.join(", and ")
}

fn names(holders: &[Holder]) -> String {
    let words: Vec<String> = holders.iter().map(ToString::to_string).collect();
    words.join(" and ")
}
