//! An open device: what it has, and its reset.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::answer::complete;
use super::argument::Argument;
use super::error::{Asked, Result};
use super::group::Group;
use super::info::{DeviceInfo, HotResetInfo, RegionInfo};
use super::region::Region;
use super::request::{self, Request};
use super::rule::Rule;

/// How often a reset is tried that somebody else's work with the device keeps the kernel from, and how long after.
const TRIES: usize = 20;
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A function that this process has open through VFIO.
///
/// It belongs to whoever has the descriptor: interrupts, reset and registers. When the last descriptor is closed and
/// the last mapping undone, the kernel turns off interrupts and bus master, resets the function and gives it back.
#[derive(Clone, Debug)]
pub struct DeviceFile {
    file: Arc<OwnedFd>,
    name: Arc<str>,
}

impl DeviceFile {
    /// Takes a device that somebody else has opened; `name` is for messages. What is not one is refused.
    pub fn from_descriptor(file: OwnedFd, name: &str) -> Result<Self> {
        let device = Self {
            file: Arc::new(file),
            name: name.into(),
        };
        device.info()?;
        Ok(device)
    }

    /// What the device is, and how many regions and interrupts it has.
    pub fn info(&self) -> Result<DeviceInfo> {
        let asked = || self.asked(request::DEVICE_GET_INFO);
        let first = Argument::of::<sys::vfio_device_info>();
        let answer = complete(&first, |argument| self.send(request::DEVICE_GET_INFO, argument));
        let answer = answer.map_err(|error| {
            error.of(asked(), |errno| match errno {
                Errno::NOTTY | Errno::INVAL => Rule::WrongKind,
                _ => Rule::Other,
            })
        })?;
        DeviceInfo::parse(answer.bytes()).map_err(|source| asked().malformed(source))
    }

    /// A region, by its number in vfio.h: a BAR (0 to 5), the ROM (6), configuration space
    /// ([`Region::CONFIG`]), or one of the device's own. One of size 0 is not there.
    pub fn region(&self, index: u32) -> Result<Region> {
        let asked = || {
            Asked::new(
                request::DEVICE_GET_REGION_INFO.name,
                format!("region {index} of {}", self.name),
            )
        };
        let first =
            Argument::of::<sys::vfio_region_info>().set_u32(offset_of!(sys::vfio_region_info, index), index);
        let answer = complete(&first, |argument| {
            self.send(request::DEVICE_GET_REGION_INFO, argument)
        });
        let answer = answer.map_err(|error| {
            error.of(asked(), |errno| match errno {
                Errno::INVAL => Rule::Unsupported,
                _ => Rule::Other,
            })
        })?;
        let info = RegionInfo::parse(answer.bytes()).map_err(|source| asked().malformed(source))?;
        Ok(Region::new(Arc::clone(&self.file), Arc::clone(&self.name), info))
    }

    /// Configuration space.
    pub fn config(&self) -> Result<Region> {
        self.region(Region::CONFIG)
    }

    /// Resets the function, by the method that the kernel chooses. Configuration space is then as the user had it;
    /// mappings of BARs stay. It may take seconds.
    pub fn reset(&self) -> Result<()> {
        match request::by_value(&self.file, request::DEVICE_RESET, 0) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let rule = match errno {
                    Errno::INVAL | Errno::NOTTY => Rule::NoReset,
                    Errno::AGAIN | Errno::BUSY => Rule::Contended,
                    _ => Rule::Other,
                };
                Err(self.asked(request::DEVICE_RESET).refused(rule, errno))
            }
        }
    }

    /// As [`reset`](Self::reset), and tried again for a second while somebody else's work with the function keeps the
    /// kernel from it.
    ///
    /// # Errors
    /// As [`reset`](Self::reset); [`Rule::Contended`] where that second was not enough.
    pub fn reset_once_free(&self) -> Result<()> {
        while_contended(|| self.reset(), TRY_AGAIN)
    }

    /// Which functions a reset of the bus or slot would reach.
    pub fn hot_reset_info(&self) -> Result<HotResetInfo> {
        let asked = || self.asked(request::GET_HOT_RESET_INFO);
        // Where there is no room for all, this request is refused, and says how many there are. Mostly it is one.
        let mut functions: u32 = 1;
        loop {
            let room = functions as usize * size_of::<sys::vfio_pci_dependent_device>();
            let mut argument = Argument::with_bytes(offset_of!(sys::vfio_pci_hot_reset_info, devices) + room);
            let sent = self.send(request::GET_HOT_RESET_INFO, &mut argument);
            let count = HotResetInfo::count(argument.bytes());
            match sent {
                Ok(_) => {
                    return HotResetInfo::parse(argument.bytes()).map_err(|source| asked().malformed(source));
                }
                // A bus has at most 256 functions, and a bridge may have more buses behind it; this only ends the loop.
                Err(Errno::NOSPC) if count > functions && count <= 0x1_0000 => functions = count,
                Err(errno) => {
                    let rule = match errno {
                        Errno::NODEV => Rule::NoHotReset,
                        Errno::NOTTY => Rule::Unsupported,
                        _ => Rule::Other,
                    };
                    return Err(asked().refused(rule, errno));
                }
            }
        }
    }

    /// Resets the bus or slot, with every function on it. `groups` must be those of all of them
    /// ([`hot_reset_info`](Self::hot_reset_info)), and a VFIO driver must hold each.
    pub fn hot_reset(&self, groups: &[&Group]) -> Result<()> {
        use std::os::fd::AsRawFd as _;
        let asked = || self.asked(request::HOT_RESET);
        let count = u32::try_from(groups.len()).map_err(|_| asked().invalid("too many groups"))?;
        let numbers: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.as_fd().as_raw_fd().to_ne_bytes())
            .collect();
        let mut argument = Argument::with_data::<sys::vfio_pci_hot_reset>(&numbers)
            .set_u32(offset_of!(sys::vfio_pci_hot_reset, count), count);
        match self.send(request::HOT_RESET, &mut argument) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let rule = match errno {
                    Errno::INVAL | Errno::BADF => Rule::NotAllHeld,
                    Errno::NODEV => Rule::NoHotReset,
                    Errno::BUSY | Errno::AGAIN => Rule::Contended,
                    Errno::NOTTY => Rule::NoReset,
                    _ => Rule::Other,
                };
                Err(asked().refused(rule, errno))
            }
        }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request of this device's, for messages.
    pub(super) fn asked(&self, request: Request) -> Asked {
        Asked::new(request.name, &*self.name)
    }

    pub(super) fn send(&self, request: Request, argument: &mut Argument) -> rustix::io::Result<i32> {
        request::by_argument(&*self.file, request, argument)
    }
}

impl AsFd for DeviceFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Asks until nobody else is at the device, at most [`TRIES`] times, with pauses.
fn while_contended(ask: impl Fn() -> Result<()>, pause: Duration) -> Result<()> {
    for _ in 1..TRIES {
        match ask() {
            Err(error) if error.rule() == Some(&Rule::Contended) => std::thread::sleep(pause),
            other => return other,
        }
    }
    ask()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Asks what refuses by `rule` so many times and then does it: how that ended, and how often it was asked.
    fn asked(refusals: usize, rule: &Rule) -> (Result<()>, usize) {
        let times = Cell::new(0);
        let ask = || {
            times.set(times.get() + 1);
            match times.get() <= refusals {
                true => Err(Asked::new("a reset", "a test").refused(rule.clone(), Errno::AGAIN)),
                false => Ok(()),
            }
        };
        (while_contended(ask, Duration::ZERO), times.get())
    }

    #[test]
    fn what_somebody_else_is_at_is_asked_for_again_some_times_and_nothing_else_is() {
        for (refusals, rule, done, times) in [
            (0, Rule::Contended, true, 1),
            (TRIES - 1, Rule::Contended, true, TRIES),
            (usize::MAX, Rule::Contended, false, TRIES),
            (1, Rule::NoReset, false, 1),
        ] {
            let (ended, asked) = asked(refusals, &rule);
            assert_eq!((ended.is_ok(), asked), (done, times), "{refusals} times {rule:?}");
        }
    }
}
