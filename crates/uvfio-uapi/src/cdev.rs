//! `/dev/vfio/devices/vfioN`: a device by a file of its own, without group and container. Nothing goes before it is bound to
//! a file of `/dev/iommu`; one file of a device can be bound at a time, and none while its group is open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use crate::argument::{Argument, field};
use crate::device::{Device, Start, Tie};
use crate::group::Group;
use crate::iommufd::Bound;
use crate::refusal::{Outcome, Refusal};
use crate::requests::device as request;
use crate::uapi::{File, Uapi};
use crate::{Answer, Caller, descriptor};

/// An open file.
pub(crate) struct Cdev {
    group: Arc<Group>,
    device: Arc<Device>,
    bound: Mutex<bool>,
}

/// VFIO_DEVICE_BIND_IOMMUFD's argument, and the descriptor in it.
fn binding<'a>(address: u64, caller: &'a dyn Caller) -> Outcome<(Argument<'a>, i32)> {
    let least = field!(vfio_device_bind_iommufd.token_uuid_ptr);
    let argument = Argument::new(caller, address, least)?;
    let flags = argument.u32(field!(vfio_device_bind_iommufd.flags));
    let number = argument.descriptor(field!(vfio_device_bind_iommufd.iommufd));
    if flags & !sys::VFIO_DEVICE_BIND_FLAG_TOKEN != 0 || number < 0 {
        return Err(Refusal::invalid(format!(
            "flags {flags:#x} are not TOKEN alone, or descriptor {number} is none"
        )));
    }
    Ok((argument, number))
}

/// VFIO_DEVICE_BIND_IOMMUFD to a file that came from a group.
pub(crate) fn refuse_binding(address: u64, caller: &dyn Caller) -> Outcome<Answer> {
    binding(address, caller)?;
    Err(Refusal::invalid(
        "the device's file came from its group; only one of /dev/vfio/devices can be bound",
    ))
}

impl Cdev {
    pub(crate) fn new(group: Arc<Group>, device: Arc<Device>) -> Self {
        Self {
            group,
            device,
            bound: Mutex::new(false),
        }
    }

    fn bound(&self) -> MutexGuard<'_, bool> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is closed.
    pub(crate) fn close(&self) {
        if std::mem::take(&mut *self.bound()) {
            self.group.unbind(&self.device);
        }
    }

    /// The device, once it is bound.
    pub(crate) fn device(&self) -> Outcome<&Arc<Device>> {
        if *self.bound() {
            return Ok(&self.device);
        }
        Err(Refusal::invalid(format!(
            "{} is not bound; send VFIO_DEVICE_BIND_IOMMUFD first",
            self.device.address
        )))
    }

    /// An ioctl.
    pub(crate) fn ioctl(
        &self,
        uapi: &Uapi,
        number: u32,
        argument: u64,
        caller: &dyn Caller,
    ) -> Outcome<Answer> {
        match number {
            request::DEVICE_BIND_IOMMUFD => self.bind(uapi, argument, caller)?,
            request::DEVICE_ATTACH_IOMMUFD_PT => self.attach(argument, caller)?,
            request::DEVICE_DETACH_IOMMUFD_PT => self.detach(argument, caller)?,
            _ => return self.device()?.ioctl(uapi, number, argument, caller),
        }
        Ok(Answer::Value(0))
    }

    fn bind(&self, uapi: &Uapi, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let (mut argument, number) = binding(address, caller)?;
        if argument.u32(field!(vfio_device_bind_iommufd.flags)) & sys::VFIO_DEVICE_BIND_FLAG_TOKEN != 0 {
            return Err(Refusal::invalid(format!(
                "{} is neither a virtual function nor has any, so it takes no token",
                self.device.address
            )));
        }
        // Before the locks, and so dropped after them: it may be a file of the same group, and closed with that.
        let given = descriptor::given(caller, number).and_then(|given| uapi.given(given));
        let mut bound = self.bound();
        self.group.bind(|others| {
            if *bound {
                return Err(Refusal::invalid("this file is bound already"));
            }
            let given = given.as_ref().map_err(Clone::clone)?;
            let Some(File::Iommu(iommufd)) = given.as_ref().map(|open| &open.file) else {
                return Err(Refusal::new(
                    Errno::BADFD,
                    format!("descriptor {number} is not one of /dev/iommu"),
                ));
            };
            self.device.open_alone(|| {
                if others.is_some_and(|others| !Arc::ptr_eq(others, iommufd)) {
                    return Err(Refusal::new(
                        Errno::PERM,
                        format!(
                            "another device of group {} is bound to another file of /dev/iommu; a group is one user's",
                            self.group.number
                        ),
                    ));
                }
                let tie = Bound::new(iommufd)?;
                argument.set_u32(field!(vfio_device_bind_iommufd.out_devid), tie.id());
                Ok(Start {
                    space: None,
                    tie: Some(Tie {
                        bound: tie,
                        by_file: true,
                    }),
                })
            })?;
            argument
                .answer(field!(vfio_device_bind_iommufd.token_uuid_ptr))
                .inspect_err(|_| self.device.close())?;
            Ok(Arc::clone(iommufd))
        })?;
        *bound = true;
        Ok(())
    }

    fn attach(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let device = self.device()?;
        let least = field!(vfio_device_attach_iommufd_pt.pasid);
        let mut argument = Argument::new(caller, address, least)?;
        check_pasid(argument.u32(field!(vfio_device_attach_iommufd_pt.flags)))?;
        let at = field!(vfio_device_attach_iommufd_pt.pt_id);
        let attached = device.attach_to(argument.u32(at))?;
        argument.set_u32(at, attached);
        argument.answer(least)
    }

    fn detach(&self, address: u64, caller: &dyn Caller) -> Outcome<()> {
        let device = self.device()?;
        let argument = Argument::new(caller, address, field!(vfio_device_detach_iommufd_pt.pasid))?;
        check_pasid(argument.u32(field!(vfio_device_detach_iommufd_pt.flags)))?;
        device.detach_from()
    }
}

/// PASID is the only flag, of attaching as of detaching, and no device here has any.
fn check_pasid(flags: u32) -> Outcome<()> {
    match flags {
        0 => Ok(()),
        sys::VFIO_DEVICE_ATTACH_PASID => Err(Refusal::new(
            Errno::OPNOTSUPP,
            "the device has no process address spaces (PASID)",
        )),
        _ => Err(Refusal::invalid(format!("flags {flags:#x} are not PASID alone"))),
    }
}
