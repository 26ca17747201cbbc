//! Erases what a controller stores.

use crate::Function;

use super::controller::{Controller, Options};
use super::error::{NvmeError, Result};

/// Whether the controller that this function is can be erased by [`erase`]. This takes it into use.
///
/// # Errors
/// Where it can't, or where the function is no controller that this driver can run.
pub fn check_erasable(function: Function) -> Result<()> {
    erasable(function).map(|_| ())
}

/// Erases the user data of all active namespaces, by Format NVM; gives how many there are. What is read afterwards is up to
/// the controller; it is nothing that was written before.
///
/// This takes as long as the controller takes, a quarter of an hour for each namespace at most.
///
/// # Errors
/// As [`check_erasable`], and where the controller fails the command; part of the data may be erased then.
pub fn erase(function: Function) -> Result<usize> {
    let mut controller = erasable(function)?;
    let namespaces = controller.namespaces()?;
    for namespace in &namespaces {
        controller.erase(*namespace)?;
    }
    Ok(namespaces.len())
}

fn erasable(function: Function) -> Result<Controller> {
    let controller = Controller::open(function, Options::default())?;
    if !controller.identity().format {
        return Err(NvmeError::Unfit(
            "it does not offer Format NVM (OACS bit 1), so it can't be erased".into(),
        ));
    }
    Ok(controller)
}
