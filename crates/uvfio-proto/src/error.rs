//! Every refusal of the server's, and the one table of their error numbers.

use uvfio_core::{AccessError, DeviceError, IrqError, MapError, UnmapError};

use crate::message::Command;

/// An error number as it stands in a reply: Linux's, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub u32);

impl Errno {
    /// An I/O error.
    pub const IO: Self = Self::of(rustix::io::Errno::IO);
    /// It exists already.
    pub const EXIST: Self = Self::of(rustix::io::Errno::EXIST);
    /// No such device.
    pub const NODEV: Self = Self::of(rustix::io::Errno::NODEV);
    /// Invalid argument.
    pub const INVAL: Self = Self::of(rustix::io::Errno::INVAL);
    /// The object has no such request.
    pub const NOTTY: Self = Self::of(rustix::io::Errno::NOTTY);
    /// No space left.
    pub const NOSPC: Self = Self::of(rustix::io::Errno::NOSPC);
    /// There is no such command.
    pub const NOSYS: Self = Self::of(rustix::io::Errno::NOSYS);
    /// Not supported.
    pub const OPNOTSUPP: Self = Self::of(rustix::io::Errno::OPNOTSUPP);
    /// Too big.
    pub const TOO_BIG: Self = Self::of(rustix::io::Errno::TOOBIG);
    /// Memory can't be reached.
    pub const FAULT: Self = Self::of(rustix::io::Errno::FAULT);

    const fn of(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error().unsigned_abs())
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match i32::try_from(self.0) {
            Ok(number) if number != 0 => write!(f, "{}", std::io::Error::from_raw_os_error(number)),
            _ => write!(f, "error number {}", self.0),
        }
    }
}

/// Why a command was refused. The stream is in step after it, and the next command is served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The payload is shorter or longer than the command's.
    #[error("{}: the payload has {have} bytes; {rule}", command.name())]
    Payload {
        /// Of which command.
        command: Command,
        /// Bytes of payload.
        have: usize,
        /// The rule.
        rule: &'static str,
    },
    /// A field holds what it must not.
    #[error("{}: {field} is {value:#x}; {rule}", command.name())]
    Field {
        /// Of which command.
        command: Command,
        /// Which field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// The rule.
        rule: &'static str,
    },
    /// VERSION's data.
    #[error("VERSION: {0}")]
    Version(#[from] crate::version::VersionError),
    /// VERSION comes once.
    #[error("VERSION: the version is agreed already; it is asked once, by the first message")]
    VersionAgain,
    /// Before VERSION there is nothing else.
    #[error("command {0} came before VERSION, which must be the first")]
    BeforeVersion(u16),
    /// More descriptors than the command takes.
    #[error("{}: {have} descriptors came; it takes at most {most}", command.name())]
    Descriptors {
        /// Of which command.
        command: Command,
        /// How many came.
        have: usize,
        /// How many it takes.
        most: u64,
    },
    /// Descriptors were lost on the way.
    #[error(
        "command {0}: more descriptors were sent than one message may carry, or this process can have no more; \
         all that came were closed"
    )]
    DescriptorsLost(u16),
    /// Goes the other way.
    #[error("{}: goes from server to client only", .0.name())]
    WrongWay(Command),
    /// Not a command.
    #[error("command {0}: there is no such command")]
    NoSuchCommand(u16),
    /// A command without a device behind it.
    #[error("{}: this device does not migrate", .0.name())]
    NoMigration(Command),
    /// A feature that isn't there.
    #[error("DEVICE_FEATURE: this device has no feature {0}")]
    NoSuchFeature(u16),
    /// DEVICE_RESET on a device that has none.
    #[error("DEVICE_RESET: this device can't be reset by request")]
    NotResettable,
    /// The device did not come back.
    #[error("DEVICE_RESET: {0}")]
    Reset(#[from] DeviceError),
    /// A region access.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A mapping.
    #[error(transparent)]
    Map(#[from] MapError),
    /// An unmapping.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
    /// Interrupts.
    #[error(transparent)]
    Irq(#[from] IrqError),
}

impl Refusal {
    /// A payload that is shorter or longer than its command's.
    #[cold]
    pub(crate) fn length(command: Command, payload: &[u8], rule: &'static str) -> Self {
        let have = payload.len();
        Self::Payload { command, have, rule }
    }

    /// A field that holds what it must not.
    #[cold]
    pub(crate) fn field(
        command: Command,
        field: &'static str,
        value: impl Into<u64>,
        rule: &'static str,
    ) -> Self {
        let value = value.into();
        Self::Field {
            command,
            field,
            value,
            rule,
        }
    }

    /// The error number of the reply: Linux's VFIO gives the same where it knows the request.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Payload { .. }
            | Self::Field { .. }
            | Self::Version(_)
            | Self::VersionAgain
            | Self::BeforeVersion(_)
            | Self::Descriptors { .. }
            | Self::DescriptorsLost(_)
            | Self::WrongWay(_)
            | Self::NotResettable
            | Self::Access(AccessError::OutOfRange { .. } | AccessError::NoSuchRegion(_))
            | Self::Map(MapError::Invalid { .. })
            | Self::Unmap(UnmapError::Cuts { .. } | UnmapError::Invalid { .. }) => Errno::INVAL,
            Self::Irq(IrqError::NotMaskable(_)) | Self::NoSuchFeature(_) => Errno::NOTTY,
            Self::Irq(_) => Errno::INVAL,
            Self::NoSuchCommand(_) => Errno::NOSYS,
            Self::NoMigration(_) => Errno::OPNOTSUPP,
            Self::Reset(_) => Errno::IO,
            Self::Map(MapError::Exists { .. }) => Errno::EXIST,
            Self::Map(MapError::Quota { .. }) => Errno::NOSPC,
            Self::Map(MapError::Kernel { errno, .. } | MapError::Iommu { errno, .. }) => {
                match u32::try_from(*errno) {
                    Ok(number) if number != 0 => Errno(number),
                    _ => Errno::IO,
                }
            }
        }
    }
}

/// The system's error number for what a peer said; 0 (which the specification allows) becomes EIO.
impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        match i32::try_from(errno.0) {
            Ok(number) if number != 0 => Self::from_raw_os_error(number),
            _ => Self::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()),
        }
    }
}
