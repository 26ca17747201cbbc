//! Why a device that exists cannot be given to a user.

use uvfio_pci::BlueprintError;
use uvfio_pci::chain::Finding;

use super::grant::BarGrant;
use crate::vfio::VfioError;

/// Why there is no [`Hardware`](super::Hardware) for a device. `device` is its name in every case.
#[derive(Debug, thiserror::Error)]
pub enum HardwareError {
    /// The kernel refused something.
    #[error("{device}: {source}")]
    Vfio {
        /// Whose.
        device: String,
        /// The request and the rule.
        source: VfioError,
    },
    /// What the device says of itself cannot be true.
    #[error("{device}: {lie}; it is not given to a user")]
    Lie {
        /// Whose.
        device: String,
        /// The register, what it holds, and the rule.
        lie: Lie,
    },
    /// The descriptor of its configuration space in `/sys` is not its own.
    #[error("{device}: its configuration space in /sys is not that of the device which VFIO opened: {why}")]
    OtherFunction {
        /// Whose.
        device: String,
        /// What differs, or could not be read.
        why: String,
    },
    /// The `raw` view was asked for.
    #[error(
        "{device}: its configuration space in /sys is not open to be written, and without that there is no raw view; \
         filtered and virtual need no more than its group"
    )]
    NotWritable {
        /// Whose.
        device: String,
    },
    /// The first reset did not leave the device as it was.
    #[error("{device}: {why}")]
    Reset {
        /// Whose.
        device: String,
        /// What differs.
        why: String,
    },
    /// The user was to map its BARs, and there is nothing that can be.
    #[error(
        "{device}: --bars {} has its user map its BARs, and none of them has a page that the kernel lets be mapped and \
         that the MSI-X table and its pending bits leave free; serve it with --bars trapped", grant.name()
    )]
    NothingToMap {
        /// Whose.
        device: String,
        /// How its user was to reach them.
        grant: BarGrant,
    },
    /// The user was to map its BARs by dma-bufs, and the kernel can't.
    #[error(
        "{device}: this kernel {what} (BAR {bar}: {why}), which --bars dmabuf needs; serve it with --bars trapped, or \
         with --bars device-fd to a user that is trusted with all of the function"
    )]
    NoDmaBuf {
        /// Whose.
        device: String,
        /// Which, 0 to 5.
        bar: u8,
        /// What the kernel lacks.
        what: &'static str,
        /// Its answer.
        why: String,
    },
    /// The system refused an eventfd or a thread.
    #[error("{device}: {what} could not be made: {why}")]
    System {
        /// Whose.
        device: String,
        /// What was wanted.
        what: &'static str,
        /// The system's reason.
        why: String,
    },
}

/// What configuration space says, and cannot be true.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lie {
    /// The kernel gave fewer bytes than a configuration space has.
    #[error("configuration space has {bytes} bytes, and at least 256 are the rule")]
    Short {
        /// How many there are.
        bytes: u64,
    },
    /// It is no function of the kind that has a user.
    #[error("the header layout (register 0x0e) is {layout}, and 0 is what a function that is no bridge has")]
    Header {
        /// The header layout.
        layout: u8,
    },
    /// The capability chain breaks a rule.
    #[error("the capability chain: {0}")]
    Chain(Finding),
    /// A structure that a user would be shown does not hold what its ID says.
    #[error("{what} at {at:#04x} is cut off by another structure or the end of its part of the page")]
    Cut {
        /// The structure.
        what: &'static str,
        /// Where it is, as a byte offset in configuration space.
        at: u16,
    },
    /// A base address register breaks a rule.
    #[error("BAR {bar} (register {register:#04x}): {rule}")]
    Bar {
        /// Which, 0 to 5.
        bar: u8,
        /// Byte offset in configuration space.
        register: u16,
        /// Which rule.
        rule: BarRule,
    },
    /// The whole breaks a rule of the model.
    #[error("{0}")]
    Blueprint(BlueprintError),
}

/// The rule that a base address register breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BarRule {
    /// Sizes are powers of two.
    #[error("it has {bytes:#x} bytes, which is no power of two")]
    NoPowerOfTwo {
        /// How many it has.
        bytes: u64,
    },
    /// A size that this kind cannot have.
    #[error("it has {bytes:#x} bytes; {kind} has {least:#x} to {most:#x}")]
    Size {
        /// How many it has.
        bytes: u64,
        /// What it says that it is.
        kind: &'static str,
        /// Least bytes of that kind.
        least: u64,
        /// Most bytes of that kind.
        most: u64,
    },
    /// Type 3 does not exist.
    #[error("its type is {kind}, which is reserved")]
    Reserved {
        /// The type's two bits.
        kind: u32,
    },
    /// There is no register for the upper half.
    #[error("it says that it has 64 bits, and no register follows for the upper half")]
    NoUpperHalf,
    /// The upper half is a region of its own.
    #[error("it is the upper half of the one before it, and has {bytes:#x} bytes of its own")]
    UpperHalf {
        /// How many.
        bytes: u64,
    },
}
