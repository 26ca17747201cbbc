//! Resets, power states, and the quiet between two users.
//!
//! While the hardware is being reset it belongs to the thread that does so: what the user switches meanwhile is noted, and
//! carried out at the end, so that nobody waits for the reset who has a user to answer.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use uvfio_core::DeviceError;
use uvfio_pci::{InterruptMode, PowerState, ResetKind};

use super::Hardware;
use crate::vfio::{Rule, VfioError};

/// How often a reset is tried that somebody else's work with the device keeps the kernel from, and how long after.
const TRIES: usize = 20;
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// What the user has switched on.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    memory: bool,
    bus_master: bool,
    mode: InterruptMode,
    /// Carried out later: a reset is under way.
    later: bool,
    /// Never carried out any more: the device did not come back.
    lost: bool,
}

impl Hardware {
    /// Bus mastering, as the user has it.
    pub(super) fn want_bus_master(&self, on: bool) {
        let mut wanted = self.wanted();
        wanted.bus_master = on;
        self.carry_out(&wanted);
    }

    /// Memory, as the user has it.
    pub(super) fn want_memory(&self, on: bool) {
        let mut wanted = self.wanted();
        wanted.memory = on;
        // What is not mapped is reached through the model, which knows.
        if !self.mappings.is_empty() {
            self.carry_out(&wanted);
        }
    }

    /// Interrupts, as the user has them.
    pub(super) fn want_interrupts(&self, mode: InterruptMode) {
        let mut wanted = self.wanted();
        wanted.mode = mode;
        self.carry_out(&wanted);
    }

    /// Has the hardware once more as the user wants it.
    pub(super) fn again(&self) {
        self.carry_out(&self.wanted());
    }

    /// Resets the function by the method that the kernel chooses, and has it as it was.
    pub(super) fn reset_hardware(&self, kind: ResetKind) -> Result<(), DeviceError> {
        self.wanted().later = true;
        let done = self.reset_quietly(kind);
        let mut wanted = self.wanted();
        wanted.later = false;
        wanted.lost = done.is_err();
        self.carry_out(&wanted);
        done
    }

    /// The user has gone: nothing of what it switched on stays on.
    pub(super) fn leave(&self) {
        let mut wanted = self.wanted();
        wanted.memory = false;
        wanted.bus_master = false;
        wanted.mode = InterruptMode::Intx;
        drop(wanted);
        self.interrupts.silence();
        self.set_command(false, self.mappings.is_empty());
    }

    /// Changes the power state, and waits for it.
    pub(super) fn change_power(&self, to: PowerState) -> Result<(), DeviceError> {
        match self.registers.set_power(to) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.failure(&format_args!(
                "its power state did not become {to:?}; it may not answer any more"
            ))),
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn reset_quietly(&self, kind: ResetKind) -> Result<(), DeviceError> {
        self.interrupts.silence();
        self.registers
            .set_command(false, true)
            .map_err(|error| self.failure(&error))?;
        self.change_power(PowerState::D0)?;
        match self.registers.wait_for_transactions() {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                device = self.name,
                "its transactions did not end; it is reset all the same"
            ),
            Err(error) => return Err(self.failure(&error)),
        }
        if self.resettable {
            self.reset_by_kernel().map_err(|error| self.failure(&error))?;
        } else if kind != ResetKind::D3hot {
            // Coming back from D3hot was the reset.
            return Err(self.failure(
                &"the kernel has no way to reset it, so what its user left in it can't be taken out; put it below a port of its own, whose bus can be reset",
            ));
        }
        // The kernel puts BARs back that a reset has cleared when memory is switched on.
        self.registers
            .set_command(false, true)
            .map_err(|error| self.failure(&error))?;
        match self.registers.same(&self.quiet) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(self.failure(&format_args!("it did not come back from its reset: {why}"))),
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn reset_by_kernel(&self) -> Result<(), VfioError> {
        let mut tries = 1;
        loop {
            match self.device.reset() {
                Err(error) if error.rule() == Some(&Rule::Contended) && tries < TRIES => {
                    tries += 1;
                    std::thread::sleep(TRY_AGAIN);
                }
                other => return other,
            }
        }
    }

    /// Has the hardware as the user wants it, unless it is being reset.
    fn carry_out(&self, wanted: &Wanted) {
        if wanted.later {
            return;
        }
        // The last thing on, and the first thing off: no interrupt before its vector is there.
        let bus_master = wanted.bus_master && !wanted.lost;
        let memory = self.mappings.is_empty() || wanted.memory && !wanted.lost;
        if !bus_master {
            self.set_command(false, memory);
        }
        self.interrupts.set(if wanted.lost {
            InterruptMode::Intx
        } else {
            wanted.mode
        });
        if bus_master {
            self.set_command(true, memory);
        }
    }

    fn set_command(&self, bus_master: bool, memory: bool) {
        if let Err(error) = self.registers.set_command(bus_master, memory) {
            tracing::error!(
                device = self.name, %error, bus_master, memory, "bus mastering and memory could not be switched"
            );
        }
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
