//! Resets, power states, and the quiet between two users.
//!
//! While the hardware is being reset it belongs to the thread that does so: what the user switches meanwhile is noted,
//! and carried out at the end, so that nobody waits for the reset who has a user to answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uvfio_core::{DeviceError, Routes};
use uvfio_pci::{PowerState, ResetKind, View};

use super::Hardware;
use super::registers::Switches;
use crate::vfio::VfioError;

/// What the user has switched on.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    memory: bool,
    bus_master: bool,
    routes: Routes,
    /// Carried out later: a reset is under way.
    later: bool,
    /// Not carried out until a reset succeeds: the device did not come back.
    lost: bool,
}

impl Wanted {
    /// Whether the user's accesses stay away from the hardware.
    pub(super) fn is_quiet(&self) -> bool {
        self.later || self.lost
    }
}

/// How often accesses of BARs look whether the BARs are where they were. One that reads all ones always does; but not
/// every machine answers so where there is nothing, and a write tells nothing at all.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When was looked.
#[derive(Debug)]
pub(super) struct Looks {
    start: Instant,
    /// Milliseconds after it.
    last: AtomicU64,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Whether it is time to look again.
    fn due(&self) -> bool {
        let now = self.start.elapsed().as_millis() as u64;
        let due = now.saturating_sub(self.last.load(Ordering::Relaxed)) >= LOOK_EVERY.as_millis() as u64;
        if due {
            self.last.store(now, Ordering::Relaxed);
        }
        due
    }
}

impl Hardware {
    /// [Heals](Self::heal) where that has not been looked at for some time.
    pub(super) fn look_at_times(&self) {
        if self.looks.due() {
            self.heal();
        }
    }

    /// Bus mastering, as the user has it.
    pub(super) fn want_bus_master(&self, on: bool) {
        self.wanted().bus_master = on;
        // COMMAND is written by that: the kernel puts lost BARs back, which must not go by unseen.
        if !self.heal() {
            self.again();
        }
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
    pub(super) fn want_interrupts(&self, routes: &Routes) {
        let mut wanted = self.wanted();
        wanted.routes = routes.clone();
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
        wanted.routes = Routes::default();
        drop(wanted);
        self.interrupts.silence();
        let off = Switches {
            memory: self.mappings.is_empty(),
            ..Switches::QUIET
        };
        if let Err(error) = self.registers.set_command(off) {
            tracing::error!(device = self.name, %error, "bus mastering could not be switched off");
        }
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
        let failed = |error: VfioError| self.failure(&error);
        self.interrupts.silence();
        // Asked first: writing COMMAND puts BARs back.
        let intact = self.is_intact().map_err(failed)?;
        self.registers.set_command(Switches::QUIET).map_err(failed)?;
        self.change_power(PowerState::D0)?;
        // By a function level reset the user keeps what it has set.
        let expected = match kind {
            ResetKind::FunctionLevel if intact => self
                .quiet
                .with_settings_of(&self.registers.held().map_err(failed)?),
            _ => self.quiet.clone(),
        };
        match self.registers.wait_for_transactions() {
            Ok(true) => {}
            Ok(false) => tracing::warn!(
                device = self.name,
                "its transactions did not end; it is reset all the same"
            ),
            Err(error) => return Err(failed(error)),
        }
        if self.resettable {
            self.device.reset_once_free().map_err(failed)?;
        } else if kind != ResetKind::D3hot {
            // Coming back from D3hot was the reset.
            return Err(self.failure(
                &"the kernel has no way to reset it, so what its user left in it can't be taken out; put it below a port of its own, whose bus can be reset",
            ));
        }
        match self.registers.put_back(&expected).map_err(failed)? {
            Ok(()) => Ok(()),
            Err(why) => Err(self.failure(&format_args!("it did not come back from its reset: {why}"))),
        }
    }

    /// Whether it answers and has its BARs, and with them what was set.
    fn is_intact(&self) -> Result<bool, VfioError> {
        Ok(self.registers.answers()? && self.registers.has_bars_of(&self.quiet)?)
    }

    /// Has a device as it was whose BARs were lost behind our back: reset by somebody else, or written to. True where
    /// that was so and they are back. Where they can't be put back it stays quiet until a reset. Waits for nobody.
    pub(super) fn heal(&self) -> bool {
        // A user of `raw` may move them.
        if self.view == View::Raw {
            return false;
        }
        let mut wanted = self.wanted();
        let lost =
            || Ok::<_, VfioError>(self.registers.answers()? && !self.registers.has_bars_of(&self.quiet)?);
        // Nothing to be put back where nothing can be asked.
        if wanted.later || wanted.lost || !lost().unwrap_or(false) {
            return false;
        }
        // The kernel programs the messages anew, which the hardware may have lost too.
        self.interrupts.set(&Routes::default(), false);
        let back = self.registers.put_back(&self.quiet);
        let back = back.unwrap_or_else(|error| Err(error.to_string()));
        wanted.lost = back.is_err();
        match &back {
            Ok(()) => tracing::warn!(
                target: "audit", device = self.name,
                "its BARs were lost behind our back, and are put back; if it was reset, its driver must start it again"
            ),
            Err(why) => tracing::error!(
                target: "audit", device = self.name, why,
                "its BARs were lost behind our back, and it can't be put back; it stays quiet until it is reset"
            ),
        }
        self.carry_out(&wanted);
        !wanted.lost
    }

    /// Has the hardware as the user wants it, unless it is being reset.
    fn carry_out(&self, wanted: &Wanted) {
        if wanted.later {
            return;
        }
        // The last thing on, and the first thing off: no interrupt before its vector is there.
        let nothing = Routes::default();
        let unmapped = self.mappings.is_empty();
        let (memory, bus_master, routes) = if wanted.lost {
            (unmapped, false, &nothing)
        } else {
            (unmapped || wanted.memory, wanted.bus_master, &wanted.routes)
        };
        let switches = Switches {
            memory,
            bus_master,
            line: routes.intx.is_some(),
        };
        if !bus_master {
            self.set_command(switches);
        }
        self.interrupts.set(routes, self.registers.bus_master());
        if bus_master {
            self.set_command(switches);
        }
    }

    fn set_command(&self, to: Switches) {
        let done = match self.view {
            View::Virtual => self.registers.set_command(to),
            view => self.registers.switch(view, to),
        };
        if let Err(error) = done {
            tracing::error!(device = self.name, %error, ?to, "COMMAND could not be changed");
        }
    }

    pub(super) fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
