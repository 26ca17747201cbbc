//! An IOMMU group: what is owned, and given away, as a whole.

use std::ffi::CString;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use super::argument::{Argument, u32_at};
use super::container::Container;
use super::device::DeviceFile;
use super::error::{Asked, Result};
use super::request;
use super::rule::Rule;

/// What the kernel says about a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// No function of it is driven by a driver that would do DMA on its own account. Which one does, sysfs tells.
    pub viable: bool,
    /// It is in a container.
    pub in_container: bool,
}

/// `/dev/vfio/NUMBER`, opened. Only one process can open it at a time; a descriptor that is passed on stays the same
/// open file.
#[derive(Debug)]
pub struct Group {
    file: OwnedFd,
    name: String,
}

impl Group {
    /// Opens the group of this number, as the link `iommu_group` of a function in sysfs names it.
    ///
    /// [`Rule::Held`] also says when a former user's devices are free again: as long as a mapping of theirs lives, the
    /// group does not open.
    pub fn open(number: u32) -> Result<Self> {
        let path = format!("/dev/vfio/{number}");
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Self::from_descriptor(file, number),
            Err(errno) => {
                let rule = match errno {
                    Errno::BUSY => Rule::Held,
                    Errno::NOENT | Errno::NODEV | Errno::NXIO => Rule::NotBound,
                    Errno::ACCESS | Errno::PERM => Rule::NoPermission,
                    _ => Rule::Other,
                };
                Err(Asked::new("open", path).refused(rule, errno))
            }
        }
    }

    /// Takes a group that somebody else has opened. What is not one is refused; that it is the one of this number is
    /// taken on trust.
    pub fn from_descriptor(file: OwnedFd, number: u32) -> Result<Self> {
        let name = format!("IOMMU group {number}");
        let group = Self { file, name };
        group.status()?;
        Ok(group)
    }

    /// Whether it can be used, and is.
    pub fn status(&self) -> Result<GroupStatus> {
        let mut argument = Argument::of::<sys::vfio_group_status>();
        match request::by_argument(&self.file, request::GROUP_GET_STATUS, &mut argument) {
            Ok(_) => {
                let flags = u32_at(argument.bytes(), offset_of!(sys::vfio_group_status, flags));
                Ok(GroupStatus {
                    viable: flags & sys::VFIO_GROUP_FLAGS_VIABLE != 0,
                    in_container: flags & sys::VFIO_GROUP_FLAGS_CONTAINER_SET != 0,
                })
            }
            Err(errno) => {
                let rule = if errno == Errno::NODEV {
                    Rule::NotBound
                } else {
                    Rule::WrongKind
                };
                Err(Asked::new(request::GROUP_GET_STATUS.name, &self.name).refused(rule, errno))
            }
        }
    }

    /// Puts the group into a container. Where the container has its IOMMU already, the group joins that address
    /// space, with all that is mapped in it.
    pub fn set_container(&self, container: &Container) -> Result<()> {
        match request::set_container(&self.file, container.as_fd()) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let viable = self.status().is_ok_and(|status| status.viable);
                let rule = match errno {
                    Errno::PERM if !viable => Rule::NotViable,
                    Errno::PERM => Rule::NoInterruptRemapping,
                    Errno::INVAL if self.status().is_ok_and(|status| status.in_container) => {
                        Rule::ContainerOrder
                    }
                    Errno::INVAL | Errno::NODEV => Rule::Incompatible,
                    Errno::BUSY => Rule::Held,
                    Errno::BADFD => Rule::WrongKind,
                    _ => Rule::Other,
                };
                Err(Asked::new(request::GROUP_SET_CONTAINER.name, &self.name).refused(rule, errno))
            }
        }
    }

    /// Takes the group out of its container; its devices must be closed, and mappings of them undone.
    pub fn unset_container(&self) -> Result<()> {
        match request::by_value(&self.file, request::GROUP_UNSET_CONTAINER, 0) {
            Ok(_) => Ok(()),
            Err(errno) => {
                let rule = match errno {
                    Errno::BUSY => Rule::Held,
                    Errno::INVAL => Rule::ContainerOrder,
                    _ => Rule::Other,
                };
                Err(Asked::new(request::GROUP_UNSET_CONTAINER.name, &self.name).refused(rule, errno))
            }
        }
    }

    /// Opens a function of the group by its address, such as `0000:00:03.0`. The container must have its IOMMU.
    ///
    /// The kernel resets the function where it can, and clears bus master, unless somebody has it open already. The
    /// device keeps group and container alive.
    pub fn device(&self, address: &str) -> Result<DeviceFile> {
        self.device_named(address, address)
    }

    /// As [`device`](Self::device), for a virtual function whose physical one is a VFIO user's too, or the other way
    /// round: both must give the same `token`.
    pub fn device_with_token(&self, address: &str, token: [u8; 16]) -> Result<DeviceFile> {
        self.device_named(&name_with_token(address, token), address)
    }

    fn device_named(&self, name: &str, address: &str) -> Result<DeviceFile> {
        let asked = || {
            Asked::new(
                request::GROUP_GET_DEVICE_FD.name,
                format!("{address} of {}", self.name),
            )
        };
        let name = CString::new(name).map_err(|_| asked().invalid("the address has a NUL in it"))?;
        match request::device(&self.file, &name) {
            Ok(file) => DeviceFile::from_descriptor(file, address),
            Err(errno) => {
                let rule = match errno {
                    Errno::NODEV => Rule::NoSuchDevice,
                    Errno::INVAL => Rule::IommuOrder,
                    Errno::ACCESS => Rule::Token,
                    Errno::AGAIN => Rule::Contended,
                    Errno::BUSY => Rule::Held,
                    _ => Rule::Other,
                };
                Err(asked().refused(rule, errno))
            }
        }
    }

    /// `IOMMU group N`, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl From<Group> for OwnedFd {
    fn from(group: Group) -> Self {
        group.file
    }
}

/// The name of a device with the token that goes with it, which is written as a UUID.
fn name_with_token(address: &str, token: [u8; 16]) -> String {
    let mut name = format!("{address} vf_token=");
    for (index, byte) in token.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            name.push('-');
        }
        name.push_str(&format!("{byte:02x}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::vfio::VfioError;

    #[test]
    fn a_token_is_written_as_a_uuid_after_the_address() {
        let token = std::array::from_fn(|index| 0x10 * (index as u8 % 16) + 1);
        assert_eq!(
            name_with_token("0000:01:10.0", token),
            "0000:01:10.0 vf_token=01112131-4151-6171-8191-a1b1c1d1e1f1"
        );
    }

    #[test]
    fn a_group_that_does_not_exist_says_what_to_do() {
        let error = Group::open(u32::MAX).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOENT));
        assert_eq!(error.rule(), Some(&Rule::NotBound));
        let text = error.to_string();
        assert!(
            text.contains("/dev/vfio/4294967295") && text.contains("vfio-pci"),
            "{text}"
        );
    }

    #[test]
    fn descriptors_of_other_files_are_refused_as_group_container_and_device() {
        let other = || OwnedFd::from(File::open("/dev/null").unwrap());
        let refusals: [VfioError; 3] = [
            Group::from_descriptor(other(), 1).unwrap_err(),
            Container::from_descriptor(other()).unwrap_err(),
            DeviceFile::from_descriptor(other(), "0000:00:03.0").unwrap_err(),
        ];
        for error in refusals {
            assert_eq!(error.errno(), Some(Errno::NOTTY), "{error}");
            assert_eq!(error.rule(), Some(&Rule::WrongKind), "{error}");
        }
    }
}
