//! What a device, real or software, does for the virtual device above it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use uvfio_pci::{Blueprint, ByteEnables, InterruptMode, PowerState, ResetKind};

use crate::{Doorbell, Host, Iommu, Routes};

/// The width of one register access; accesses are naturally aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// One byte.
    B1 = 1,
    /// Two bytes.
    B2 = 2,
    /// Four bytes.
    B4 = 4,
    /// Eight bytes.
    B8 = 8,
}

/// A part of a BAR that the user may map into its own memory.
#[derive(Clone, Debug)]
pub struct Mappable {
    /// Byte offset in the BAR, a multiple of 4096.
    pub offset: u64,
    /// Length in bytes, a multiple of 4096.
    pub bytes: u64,
    /// What it is mapped from; the same file for all parts of a BAR.
    pub file: Arc<OwnedFd>,
    /// Where the BAR begins in that file, in bytes: a multiple of 4096.
    pub bar_at: u64,
    /// What an access to it reaches.
    pub kind: Mapped,
}

/// What an access to a mapped part of a BAR reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapped {
    /// Memory that stands for registers: a sealed memfd, another one for each user (as
    /// [`BarMemory`](crate::BarMemory) makes it). When the device is gone it is filled with ones.
    Memory,
    /// The registers themselves, by a file of the kernel's. It is never written by that file, and not handed out any
    /// more when the device is gone; what the user has mapped by then is the device's business
    /// ([`Device::memory_changed`]).
    Registers,
}

/// Why a device could not do what it was told.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{device}: {what}")]
pub struct DeviceError {
    /// The device's name.
    pub device: &'static str,
    /// What failed, and what to do.
    pub what: String,
}

/// A PCI device below the model.
///
/// Calls come from the front end's thread, which answers the user's messages, except [`reset`](Device::reset),
/// [`power`](Device::power) and [`detach`](Device::detach), which come from a thread of their own, and
/// [`interrupts_changed`](Device::interrupts_changed), [`routes_changed`](Device::routes_changed),
/// [`bus_master_changed`](Device::bus_master_changed) and [`memory_changed`](Device::memory_changed), which come from
/// either. Every method but those three returns without waiting: not for the disk, and never for the user
/// (DMA may go by message, and the user answers only once it has its reply). So **DMA is done by the device's own
/// threads, never in `read` or `write`**; by message it is refused there.
pub trait Device: Send + Sync {
    /// The device's name, as on the command line.
    fn name(&self) -> &'static str;

    /// What it declares to be. Must not change while the device lives.
    fn blueprint(&self) -> Blueprint<'_>;

    /// A user has come; `host` is the way to its memory and its interrupts, until [`detach`](Device::detach).
    fn attach(&self, host: Host);

    /// The user has gone: forget the host and everything of the user's, as after a conventional reset. What the
    /// device stores for ever (a disk) stays.
    fn detach(&self);

    /// Configuration space of a function that exists, as it was when it was quiet: 256 or 4096 bytes. Where there are
    /// some, the views `filtered` and `raw` show the function's own registers ([`uvfio_pci::Layout::over`]) and not the
    /// blueprint's. Must not change while the device lives.
    fn config_page(&self) -> Option<&[u8]> {
        None
    }

    /// Reads bytes of dword `register` of the hardware's configuration space; those in lanes that are not enabled don't
    /// count. All ones where it does not answer. While a reset of the user's is under way no read begins; one that had
    /// begun before may still be at it.
    fn config_read(&self, register: u16, enables: ByteEnables) -> u32 {
        let _ = (register, enables);
        u32::MAX
    }

    /// Writes bytes of dword `register` of the hardware's configuration space, each access as wide as it can be
    /// ([`ByteEnables::natural`]); bits of `keep`, where `value` is 0, as they read. May come from either thread: from
    /// that of effects at the end of a reset.
    fn config_write(&self, register: u16, enables: ByteEnables, value: u32, keep: u32) {
        let _ = (register, enables, value, keep);
    }

    /// Reads a register of BAR `bar`. `offset` is aligned to `width` and within the BAR. A register that isn't
    /// there reads as the device's specification says, else 0.
    fn read(&self, bar: u8, offset: u64, width: Width) -> u64;

    /// Writes a register of BAR `bar`; as [`read`](Device::read). Only the low bytes of `value` count.
    fn write(&self, bar: u8, offset: u64, width: Width, value: u64);

    /// The parts of BAR `bar` that the user may map, the same from [`attach`](Device::attach) to
    /// [`detach`](Device::detach). Most devices have none: a store into mapped memory wakes nobody.
    fn mappable(&self, bar: u8) -> Vec<Mappable> {
        let _ = bar;
        Vec::new()
    }

    /// The registers of BAR `bar` whose stores may come by eventfd, the same from [`attach`](Device::attach) to
    /// [`detach`](Device::detach). Asked for once, if at all; a user that doesn't ask stores by
    /// [`write`](Device::write), and so may one that does. A register whose stored value matters, to whomever and
    /// whenever, is none: on that way it is lost.
    fn doorbells(&self, bar: u8) -> Vec<Doorbell> {
        let _ = bar;
        Vec::new()
    }

    /// The expansion ROM's content, at most the blueprint's `rom_bytes`.
    fn rom(&self) -> &[u8] {
        &[]
    }

    /// Whether it can be reset at all. Where it can't, its user is refused one by request, and [`reset`](Device::reset)
    /// fails, so that it goes `Gone` with its first user. Must not change while the device lives.
    fn resettable(&self) -> bool {
        true
    }

    /// Resets the device. On return no DMA of before the reset is under way and none of its interrupts will
    /// still come. May take its time: accesses are answered without the device meanwhile.
    ///
    /// # Errors
    /// Where the device did not come back; it then goes `Gone`.
    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError>;

    /// Changes the power state. As [`reset`](Device::reset) as to waiting.
    ///
    /// # Errors
    /// Where the device refused; the model then keeps what was written all the same.
    fn power(&self, from: PowerState, to: PowerState) -> Result<(), DeviceError> {
        let _ = (from, to);
        Ok(())
    }

    /// Memory was switched on or off in COMMAND, by the user or since its time is over: for devices whose registers a
    /// user reaches past this trait ([`Mapped::Registers`]). Off at first.
    fn memory_changed(&self, on: bool) {
        let _ = on;
    }

    /// Another kind or number of interrupts is enabled.
    fn interrupts_changed(&self, mode: InterruptMode) {
        let _ = mode;
    }

    /// Whether it takes its interrupts to the user itself: a device that exists has the kernel signal the user's
    /// eventfds. It is then told where they go, and calls [`Host::signal`] only for what came while a vector was not
    /// open; [`Host::set_intx`] not at all. Asked once.
    fn direct_interrupts(&self) -> bool {
        false
    }

    /// The interrupts of a device that takes them to the user itself go elsewhere. On return none that is sent from now
    /// on goes where it went before, and of the eventfds of before only those are held that are named again.
    fn routes_changed(&self, routes: &Routes) {
        let _ = routes;
    }

    /// The user has masked or unmasked INTx by request. A device that takes its interrupts to the user itself masks the
    /// line whenever it signals it, and at an unmask signals again if the line is still asserted.
    fn intx_masked(&self, masked: bool) {
        let _ = masked;
    }

    /// The IOMMU in front of a device that exists: it is kept in step with the user's mappings. Asked once.
    fn iommu(&self) -> Option<Arc<dyn Iommu>> {
        None
    }

    /// Bus mastering was switched by the user, or is held back (see [`crate::DmaSpace`]) or no longer. While it is off,
    /// [`Host::dma`] refuses every access.
    fn bus_master_changed(&self, on: bool) {
        let _ = on;
    }

    /// Vital product data, for devices that declare [`uvfio_pci::Capability::Vpd`].
    fn vpd(&self) -> &[u8] {
        &[]
    }

    /// Writes four bytes of vital product data at `address`, a multiple of 4, for devices that declare it
    /// writable. Says whether it was done; without waiting, as [`write`](Device::write).
    fn write_vpd(&self, address: u16, value: u32) -> bool {
        let _ = (address, value);
        false
    }
}
