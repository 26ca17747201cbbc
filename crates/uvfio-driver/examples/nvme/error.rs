//! Why the driver did not do what it was asked.

use std::time::Duration;

use uvfio_driver::DriverError;

use crate::spec::Status;

/// The result of everything in this driver.
pub(crate) type Result<T> = std::result::Result<T, NvmeError>;

/// Why something failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NvmeError {
    /// The function under the controller.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// Not an NVMe controller, or one that this driver can't run.
    #[error("this driver can't run the controller: {0}")]
    Unfit(String),
    /// The controller has failed a command.
    #[error("{command}: {status}")]
    Command { command: &'static str, status: Status },
    /// The controller says or does what it must not.
    #[error("the controller breaks the specification: {0}; reset it")]
    Broken(String),
    /// No answer.
    #[error("{what}: nothing within {patience:?}; CSTS is {csts:#x}; reset the controller")]
    TimedOut {
        what: &'static str,
        patience: Duration,
        csts: u32,
    },
    /// A request that can't be right.
    #[error("{0}")]
    Request(String),
}
