//! Resets a function through `/sys`.

use super::{Address, Error, Host, ResetMethods};

impl Host {
    /// Resets a function by the first of its [reset methods](ResetMethods) that works, and returns the methods. The
    /// kernel saves and restores its configuration around it.
    ///
    /// With `force`, also one that a driver other than VFIO's works with, that the system [needs](Host::uses), or that
    /// a process holds.
    ///
    /// # Errors
    /// [`Error::NoFunction`], [`Error::NoReset`], [`Error::Driven`], [`Error::InUse`], [`Error::Held`],
    /// [`Error::Write`].
    pub fn reset(&self, address: Address, force: bool) -> Result<ResetMethods, Error> {
        let function = self.sysfs.function(address)?;
        match &function.reset {
            ResetMethods::None => return Err(Error::NoReset { address }),
            ResetMethods::Named(methods) if methods.is_empty() => return Err(Error::NoReset { address }),
            ResetMethods::Named(_) | ResetMethods::Unnamed => {}
        }
        if !force {
            let uses = self.uses()?.of(address);
            if !uses.is_empty() {
                return Err(Error::InUse { address, uses });
            }
            if let Some(driver) = function.driver.clone().filter(|_| !function.has_vfio_driver()) {
                return Err(Error::Driven { address, driver });
            }
            let holders = self.open_vfio()?.holders(&function);
            if !holders.is_empty() {
                return Err(Error::Held {
                    address,
                    holders,
                    instead: ", or use --force, which resets it under its user's hands",
                });
            }
        }
        self.write_function(address, "reset", "1")?;
        Ok(function.reset)
    }
}
