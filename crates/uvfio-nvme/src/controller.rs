//! The controller's registers: configuration, status and admin queue addresses (section 3.1, 7.6).
//!
//! Pure: a write gives back what must be done, and whoever does it reports when it is done. So a register write
//! never waits, and CSTS tells the host how far things are.

use crate::spec::registers::{self as r, Cc, Csts};

/// The values of the registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    cc: Cc,
    csts: Csts,
    interrupt_mask: u32,
    aqa: u32,
    asq: u64,
    acq: u64,
    /// CC.EN went from 1 to 0 and the queues are still there.
    disabling: bool,
    /// CC.SHN asked for a shutdown that is not begun.
    shutting: bool,
}

/// What a register write asks of the rest of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Nothing.
    None,
    /// Something that takes time: call [`Registers::next`] on a thread that may wait.
    Work,
    /// As [`Demand::Work`], and every command under way is void from now on.
    Void,
    /// INTMS or INTMC changed: vectors 0..32 that were unmasked.
    Unmasked(u32),
}

/// What has to be done next; report it with the method named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Forget the queues; then [`Registers::disabled`].
    Disable,
    /// Set up the admin queues; then [`Registers::enabled`].
    Enable(AdminQueues),
    /// Make everything durable; then [`Registers::shut_down`].
    ShutDown,
}

/// The admin queues as AQA, ASQ and ACQ tell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdminQueues {
    pub(crate) sq_base: u64,
    pub(crate) sq_entries: u32,
    pub(crate) cq_base: u64,
    pub(crate) cq_entries: u32,
}

impl Registers {
    /// Reads the dword at `offset`; what isn't there reads 0.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        let high = |register: u64| (register >> 32) as u32;
        match offset {
            r::CAP => r::CAP_VALUE as u32,
            r::CAP_HIGH => high(r::CAP_VALUE),
            r::VS => r::VERSION_1_4,
            r::INTMS | r::INTMC => self.interrupt_mask,
            r::CC => self.cc.0,
            r::CSTS => self.csts.bits(),
            r::AQA => self.aqa,
            r::ASQ => self.asq as u32,
            r::ASQ_HIGH => high(self.asq),
            r::ACQ => self.acq as u32,
            r::ACQ_HIGH => high(self.acq),
            _ => 0,
        }
    }

    /// Writes the dword at `offset`.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> Demand {
        match offset {
            r::INTMS => {
                self.interrupt_mask |= value;
                Demand::Unmasked(0)
            }
            r::INTMC => {
                let unmasked = self.interrupt_mask & value;
                self.interrupt_mask &= !value;
                Demand::Unmasked(unmasked)
            }
            r::CC => self.write_cc(Cc(value & Cc::WRITABLE)),
            // Only while the controller is disabled: changing them later is undefined, so it does nothing (7.6.1).
            _ if self.cc.enable() => Demand::None,
            r::AQA => {
                self.aqa = value & r::AQA_WRITABLE;
                Demand::None
            }
            r::ASQ => set_low(&mut self.asq, value),
            r::ASQ_HIGH => set_high(&mut self.asq, value),
            r::ACQ => set_low(&mut self.acq, value),
            r::ACQ_HIGH => set_high(&mut self.acq, value),
            _ => Demand::None,
        }
    }

    fn write_cc(&mut self, new: Cc) -> Demand {
        let old = core::mem::replace(&mut self.cc, new);
        let shutdown = new.shutdown() != 0 && new.shutdown() != old.shutdown();
        if shutdown {
            self.shutting = true;
            self.csts = (self.csts - Csts::SHUT_DOWN) | Csts::SHUTTING_DOWN;
        }
        if old.enable() && !new.enable() {
            self.disabling = true;
            // A controller reset ends a shutdown that was asked for before it.
            self.shutting = shutdown;
            return Demand::Void;
        }
        if shutdown || old.enable() != new.enable() {
            Demand::Work
        } else {
            Demand::None
        }
    }

    /// What has to be done next, if anything. A setting of CC or of the admin queues that can't be sets CSTS.CFS.
    pub(crate) fn next(&mut self) -> Option<Step> {
        if self.disabling {
            return Some(Step::Disable);
        }
        if self.cc.enable() && !self.csts.intersects(Csts::RDY | Csts::CFS) {
            return match self.admin_queues() {
                Ok(queues) => Some(Step::Enable(queues)),
                Err(rule) => {
                    tracing::warn!(
                        cc = self.cc.0,
                        aqa = self.aqa,
                        "the controller can't be enabled: {rule}"
                    );
                    self.fatal();
                    None
                }
            };
        }
        self.shutting.then_some(Step::ShutDown)
    }

    fn admin_queues(&self) -> Result<AdminQueues, &'static str> {
        let sq_entries = (self.aqa & 0xfff) + 1;
        let cq_entries = (self.aqa >> 16 & 0xfff) + 1;
        if self.cc.command_set() != 0 {
            return Err("CC.CSS must be 0, the NVM command set (3.1.5)");
        }
        if self.cc.page_size() != 0 {
            return Err("CC.MPS must be 0, pages of 4 KiB, as CAP.MPSMIN and CAP.MPSMAX say (3.1.5)");
        }
        if self.cc.arbitration() != 0 {
            return Err("CC.AMS must be 0, round robin, as CAP.AMS says (3.1.5)");
        }
        if sq_entries < r::MIN_QUEUE_ENTRIES || cq_entries < r::MIN_QUEUE_ENTRIES {
            return Err("AQA.ASQS and AQA.ACQS must be at least 1, for two entries (3.1.8)");
        }
        Ok(AdminQueues {
            sq_base: self.asq,
            sq_entries,
            cq_base: self.acq,
            cq_entries,
        })
    }

    /// The admin queues are there: CSTS.RDY becomes 1.
    pub(crate) fn enabled(&mut self) {
        self.csts |= Csts::RDY;
    }

    /// The queues are gone: CSTS.RDY becomes 0. AQA, ASQ and ACQ stay (7.3.2).
    pub(crate) fn disabled(&mut self) {
        self.disabling = false;
        self.csts = if self.shutting {
            Csts::SHUTTING_DOWN
        } else {
            Csts::empty()
        };
        self.interrupt_mask = 0;
    }

    /// Whether the host waits for a shutdown of a controller that goes on otherwise.
    pub(crate) fn shutting_down(&self) -> bool {
        self.shutting && !self.disabling
    }

    /// Everything is durable: CSTS.SHST becomes 10b, unless the host changed its mind meanwhile.
    pub(crate) fn shut_down(&mut self) {
        if self.shutting {
            self.shutting = false;
            self.csts = (self.csts - Csts::SHUTTING_DOWN) | Csts::SHUT_DOWN;
        }
    }

    /// Something went wrong that no completion can tell of: CSTS.CFS becomes 1.
    pub(crate) fn fatal(&mut self) {
        self.csts |= Csts::CFS;
    }

    /// Every register as at power-on.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }

    /// CSTS.RDY, and CC.EN with it.
    pub(crate) fn ready(&self) -> bool {
        self.csts.contains(Csts::RDY) && !self.disabling
    }

    /// CC.EN is 0, and CSTS.RDY not yet.
    pub(crate) fn disabling(&self) -> bool {
        self.disabling
    }

    /// CC.
    pub(crate) fn cc(&self) -> Cc {
        self.cc
    }

    /// INTMS: vectors 0..32 that are masked while MSI-X is not in use.
    pub(crate) fn interrupt_mask(&self) -> u32 {
        self.interrupt_mask
    }
}

fn set_low(base: &mut u64, value: u32) -> Demand {
    *base = (*base & !u64::from(u32::MAX) | u64::from(value)) & r::QUEUE_BASE_WRITABLE;
    Demand::None
}

fn set_high(base: &mut u64, value: u32) -> Demand {
    *base = *base & u64::from(u32::MAX) | u64::from(value) << 32;
    Demand::None
}
