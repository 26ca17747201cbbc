//! `/dev/vfio/N`: an IOMMU group. It opens once; its container and its open devices hang on that open file.
//!
//! ```text
//! group file -> container (SET_CONTAINER)      stays until UNSET_CONTAINER, or until the group's file and the last
//!            -> device files (GET_DEVICE_FD)   device file are closed, in whatever order
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use vfio_bindings::bindings::vfio as sys;

use crate::argument::{Argument, field};
use crate::container::Container;
use crate::device::{Device, Start, Tie};
use crate::iommufd::{Bound, Iommufd};
use crate::refusal::{Outcome, Refusal};
use crate::requests::group as request;
use crate::uapi::{File, Uapi};
use crate::{Answer, Caller, descriptor};

/// The longest name of a device that is read, in bytes, its final 0 included.
const NAME_BYTES: usize = 4096;

/// A group.
pub(crate) struct Group {
    pub(crate) number: u32,
    pub(crate) devices: Vec<Arc<Device>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Its file is open, or was closed while devices of it are open.
    open: bool,
    /// Its file has been closed.
    closed: bool,
    container: Option<Owner>,
    /// Files of its devices that are open by way of the group.
    users: usize,
    /// Devices of it that are bound by files of their own.
    bound: usize,
    /// The file of `/dev/iommu` that they are all bound to.
    bound_to: Option<Arc<Iommufd>>,
}

/// What a group may have for its container.
#[derive(Clone)]
enum Owner {
    Container(Arc<Container>),
    /// A file of `/dev/iommu`, which plays one.
    Iommufd(Arc<Iommufd>),
}

impl Group {
    pub(crate) fn new(number: u32, devices: Vec<Arc<Device>>) -> Self {
        Self {
            number,
            devices,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its file is opened.
    pub(crate) fn open(&self) -> Outcome<()> {
        let mut state = self.lock();
        if state.open || state.bound > 0 {
            return Err(Refusal::new(
                Errno::BUSY,
                format!(
                    "group {} is open, or a device of it bound by a file of its own; a group opens once",
                    self.number
                ),
            ));
        }
        state.open = true;
        state.closed = false;
        Ok(())
    }

    /// Its file is closed.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.release();
    }

    /// A file of a device is closed.
    pub(crate) fn close_device(&self, device: &Device) {
        let mut state = self.lock();
        device.close();
        state.users = state.users.saturating_sub(1);
        state.release();
    }

    /// Runs `bind`, which takes a device for a file of its own, unless the group is open. It is given the file of
    /// `/dev/iommu` that other devices of the group are bound to, and gives the one that this one is bound to.
    pub(crate) fn bind(
        &self,
        bind: impl FnOnce(Option<&Arc<Iommufd>>) -> Outcome<Arc<Iommufd>>,
    ) -> Outcome<()> {
        let mut state = self.lock();
        if state.open {
            return Err(Refusal::new(
                Errno::BUSY,
                format!(
                    "group {} is open; its devices can't be bound by files of their own",
                    self.number
                ),
            ));
        }
        state.bound_to = Some(bind(state.bound_to.as_ref())?);
        state.bound += 1;
        Ok(())
    }

    /// Undoes [`bind`](Self::bind): `device` is closed.
    pub(crate) fn unbind(&self, device: &Device) {
        let mut state = self.lock();
        device.close();
        state.bound = state.bound.saturating_sub(1);
        if state.bound == 0 {
            state.bound_to = None;
        }
    }

    /// An ioctl.
    pub(crate) fn ioctl(
        self: &Arc<Self>,
        uapi: &Uapi,
        number: u32,
        argument: u64,
        caller: &dyn Caller,
    ) -> Outcome<Answer> {
        match number {
            request::GROUP_GET_STATUS => self.status(argument, caller),
            request::GROUP_SET_CONTAINER => self.set_container(uapi, argument, caller),
            request::GROUP_UNSET_CONTAINER => self.unset_container(),
            request::GROUP_GET_DEVICE_FD => self.device_fd(uapi, argument, caller),
            _ => Err(Refusal::unknown(number)),
        }
    }

    fn status(&self, address: u64, caller: &dyn Caller) -> Outcome<Answer> {
        let bytes = size_of::<sys::vfio_group_status>();
        let mut argument = Argument::new(caller, address, bytes)?;
        let mut flags = sys::VFIO_GROUP_FLAGS_VIABLE;
        if self.lock().container.is_some() {
            flags |= sys::VFIO_GROUP_FLAGS_CONTAINER_SET;
        }
        argument.set_u32(field!(vfio_group_status.flags), flags);
        argument.answer(bytes)?;
        Ok(Answer::Value(0))
    }

    fn set_container(&self, uapi: &Uapi, address: u64, caller: &dyn Caller) -> Outcome<Answer> {
        let number = Argument::without_argsz(caller, address, size_of::<i32>())?.descriptor(0);
        // Before the lock, and so dropped after it: it may be this very group's, and closed with that.
        let given = uapi.given(descriptor::given(caller, number)?)?;
        let mut state = self.lock();
        if state.container.is_some() {
            return Err(Refusal::invalid(format!(
                "group {} has its container already; VFIO_GROUP_UNSET_CONTAINER takes it away",
                self.number
            )));
        }
        state.container = Some(match given.as_ref().map(|open| &open.file) {
            Some(File::Container(container)) => {
                container.attach_group();
                Owner::Container(Arc::clone(container))
            }
            Some(File::Iommu(iommufd)) => {
                iommufd.attach_group()?;
                Owner::Iommufd(Arc::clone(iommufd))
            }
            _ => {
                return Err(Refusal::new(
                    Errno::BADFD,
                    format!("descriptor {number} is one of neither /dev/vfio/vfio nor /dev/iommu"),
                ));
            }
        });
        Ok(Answer::Value(0))
    }

    fn unset_container(&self) -> Outcome<Answer> {
        let mut state = self.lock();
        if state.container.is_none() {
            return Err(Refusal::invalid(format!(
                "group {} has no container",
                self.number
            )));
        }
        if state.users > 0 {
            return Err(Refusal::new(
                Errno::BUSY,
                format!(
                    "{} files of devices of group {} are open",
                    state.users, self.number
                ),
            ));
        }
        state.leave_container();
        Ok(Answer::Value(0))
    }

    fn device_fd(self: &Arc<Self>, uapi: &Uapi, address: u64, caller: &dyn Caller) -> Outcome<Answer> {
        let name = string(caller, address)?;
        let device = self.find(&name)?;
        let mut state = self.lock();
        let owner = state.container.as_ref().ok_or_else(|| {
            Refusal::invalid(format!(
                "group {} has no container; send VFIO_GROUP_SET_CONTAINER first",
                self.number
            ))
        })?;
        device.open(|| owner.start(self.number))?;
        state.users += 1;
        Ok(Answer::Descriptor {
            file: uapi.add(File::Device(Arc::clone(self), Arc::clone(device))),
            close_on_exec: true,
        })
    }

    /// The device that a name names: its address, and a token after it if it is a virtual function.
    fn find(&self, name: &[u8]) -> Outcome<&Arc<Device>> {
        for device in &self.devices {
            let Some(rest) = name.strip_prefix(device.address.as_bytes()) else {
                continue;
            };
            match rest {
                [] => return Ok(device),
                [b' ', options @ ..] if options.iter().all(|byte| *byte == b' ') => return Ok(device),
                [b' ', ..] => {
                    return Err(Refusal::invalid(format!(
                        "{} is neither a virtual function nor has any, so it takes no vf_token",
                        device.address
                    )));
                }
                _ => {}
            }
        }
        Err(Refusal::new(
            Errno::NODEV,
            format!(
                "group {} has no device '{}'; it has {}",
                self.number,
                name.escape_ascii(),
                self.names()
            ),
        ))
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self
            .devices
            .iter()
            .map(|device| device.address.as_str())
            .collect();
        names.join(", ")
    }
}

impl State {
    /// Ends the group's use, if all of its files are closed.
    fn release(&mut self) {
        if self.closed && self.users == 0 {
            self.leave_container();
            self.open = false;
        }
    }

    fn leave_container(&mut self) {
        if let Some(Owner::Container(container)) = self.container.take() {
            container.detach_group();
        }
    }
}

impl Owner {
    /// What a device of group `number` begins with.
    fn start(&self, number: u32) -> Outcome<Start> {
        match self {
            Self::Container(container) => {
                let space = container.space().ok_or_else(|| {
                    Refusal::invalid(format!(
                        "the container of group {number} has no IOMMU; send it VFIO_SET_IOMMU first"
                    ))
                })?;
                Ok(Start {
                    space: Some(space),
                    tie: None,
                })
            }
            Self::Iommufd(iommufd) => {
                let mut bound = Bound::new(iommufd)?;
                let space = bound.attach_compat()?;
                Ok(Start {
                    space: Some(space),
                    tie: Some(Tie {
                        bound,
                        by_file: false,
                    }),
                })
            }
        }
    }
}

/// A string of the caller's, without its final 0.
fn string(caller: &dyn Caller, address: u64) -> Outcome<Vec<u8>> {
    let page = rustix::param::page_size();
    let mut name = Vec::new();
    while name.len() < NAME_BYTES {
        let at = address.wrapping_add(name.len() as u64);
        // Not beyond a page before what stands in it has been looked at: the next may not be there.
        let room = page - at as usize % page;
        let mut piece = vec![0; room.min(NAME_BYTES - name.len())];
        caller
            .read(at, &mut piece)
            .map_err(|errno| Refusal::new(errno, format!("the name at {address:#x} can't be read")))?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            piece.truncate(end);
            name.extend(piece);
            return Ok(name);
        }
        name.extend(piece);
    }
    Err(Refusal::invalid(format!(
        "the name at {address:#x} has no end within {NAME_BYTES} bytes"
    )))
}
