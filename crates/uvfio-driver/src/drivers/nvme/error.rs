//! Why the driver did not do what it was asked.

use std::time::Duration;

use crate::DriverError;

use super::spec::Status;

/// The result of everything in this driver.
pub type Result<T> = std::result::Result<T, NvmeError>;

/// Why something failed.
#[derive(Debug, thiserror::Error)]
pub enum NvmeError {
    /// The function under the controller.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Not an NVMe controller, or one that this driver can't run.
    #[error("this driver can't run the controller: {0}")]
    Unfit(String),
    /// The controller has failed a command.
    #[error("{command}: {status}")]
    Command {
        /// Which command, by the specification's name.
        command: &'static str,
        /// The status field of its completion.
        status: Status,
    },
    /// The controller says or does what it must not.
    #[error("the controller breaks the specification: {0}; reset it")]
    Broken(String),
    /// No answer.
    #[error("{what}: nothing within {patience:?}; CSTS is {csts:#x}; reset the controller")]
    TimedOut {
        /// What was waited for.
        what: &'static str,
        /// How long.
        patience: Duration,
        /// The controller's status register then (section 3.1.6).
        csts: u32,
    },
    /// A request that can't be right.
    #[error("{0}")]
    Request(String),
}
