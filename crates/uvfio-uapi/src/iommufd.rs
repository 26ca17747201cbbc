//! `/dev/iommu`: address spaces by numbers, and the devices that are attached to them.
//!
//! ```text
//! ioas     rules of mapping, in address spaces by number
//! table    page tables, and what the IOMMU is
//! compat   VFIO's requests, to the one address space that VFIO_IOAS says or that a group made
//! ```

mod compat;
mod ioas;
mod table;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iommufd_bindings::iommufd as sys;
use rustix::io::Errno;

use self::ioas::Ioas;
use crate::argument::Argument;
use crate::refusal::{Outcome, Refusal};
use crate::requests::iommufd as request;
use crate::space::Space;
use crate::{Answer, Caller};

/// The most objects of one file.
const MAX_OBJECTS: usize = 65_536;

/// An open file of `/dev/iommu`.
#[derive(Debug, Default)]
pub(crate) struct Iommufd {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By number, from 1.
    objects: BTreeMap<u32, Object>,
    /// The address space that VFIO's own requests go to.
    compat: Option<u32>,
}

#[derive(Debug)]
enum Object {
    Ioas(Ioas),
    /// A page table, which devices attached to an address space share. One that nobody asked for is made with the first of
    /// them, and gone with the last.
    Table {
        ioas: u32,
        devices: usize,
        asked_for: bool,
    },
    /// A device that is bound.
    Device,
}

impl Inner {
    fn add(&mut self, object: Object) -> Outcome<u32> {
        if self.objects.len() >= MAX_OBJECTS {
            return Err(Refusal::new(
                Errno::NOMEM,
                format!("there are {MAX_OBJECTS} objects already, the most that there may be"),
            ));
        }
        // The lowest that is free, as with the kernel: the first that is not the one that its place would make it.
        let mut taken = (1..).zip(self.objects.keys());
        let free = taken.find_map(|(id, taken)| (id != *taken).then_some(id));
        let id = free.unwrap_or(self.objects.len() as u32 + 1);
        self.objects.insert(id, object);
        Ok(id)
    }

    /// The address space of a number.
    fn ioas(&mut self, id: u32) -> Outcome<&mut Ioas> {
        match self.objects.get_mut(&id) {
            Some(Object::Ioas(ioas)) => Ok(ioas),
            Some(_) => Err(Refusal::invalid(format!(
                "object {id} is no address space (IOAS)"
            ))),
            None => Err(missing(id)),
        }
    }

    fn compat(&mut self) -> Outcome<&mut Ioas> {
        let none = || {
            Refusal::new(
                Errno::NODEV,
                "there is no address space for VFIO's requests; put a group into the file by VFIO_GROUP_SET_CONTAINER, or \
                 name one by IOMMU_VFIO_IOAS",
            )
        };
        let id = self.compat.ok_or_else(none)?;
        self.ioas(id).map_err(|_| none())
    }

    fn destroy(&mut self, id: u32) -> Outcome<()> {
        let busy = |why: &str| Err(Refusal::new(Errno::BUSY, format!("object {id} is in use: {why}")));
        match self.objects.get(&id) {
            None => return Err(missing(id)),
            Some(Object::Device) => return busy("a device's file is bound to it"),
            Some(Object::Table {
                devices: 0,
                asked_for: true,
                ..
            })
            | Some(Object::Ioas(_)) => {}
            Some(Object::Table { .. }) => return busy("devices are attached to it"),
        }
        let of_it = |object: &Object| matches!(object, Object::Table { ioas, .. } if *ioas == id);
        if self.objects.values().any(of_it) {
            return busy("it has a page table, by which devices are attached to it or may be");
        }
        self.objects.remove(&id);
        if self.compat == Some(id) {
            self.compat = None;
        }
        Ok(())
    }
}

fn missing(id: u32) -> Refusal {
    Refusal::new(Errno::NOENT, format!("there is no object {id}"))
}

/// A field that must be 0, and flags that must be known.
fn unsupported(what: &str) -> Refusal {
    Refusal::new(Errno::OPNOTSUPP, format!("{what} is not supported"))
}

impl Iommufd {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An ioctl.
    pub(crate) fn ioctl(&self, number: u32, argument: u64, caller: &dyn Caller) -> Outcome<Answer> {
        let inner = &mut *self.lock();
        let read = |bytes| Argument::known(caller, argument, bytes, bytes);
        let read_least = |least, bytes| Argument::known(caller, argument, least, bytes);
        match number {
            request::DESTROY => {
                let command = read(size_of::<sys::iommu_destroy>())?;
                inner.destroy(command.u32(offset_of!(sys::iommu_destroy, id)))
            }
            request::IOAS_ALLOC => inner.alloc(read(size_of::<sys::iommu_ioas_alloc>())?),
            request::IOAS_ALLOW_IOVAS => inner.allow(&read(size_of::<sys::iommu_ioas_allow_iovas>())?),
            request::IOAS_COPY => inner.copy(read(size_of::<sys::iommu_ioas_copy>())?),
            request::IOAS_IOVA_RANGES => inner.ranges(read(size_of::<sys::iommu_ioas_iova_ranges>())?),
            request::IOAS_MAP => inner.map(read(size_of::<sys::iommu_ioas_map>())?),
            request::IOAS_UNMAP => inner.unmap(read(size_of::<sys::iommu_ioas_unmap>())?),
            request::OPTION => inner.option(read(size_of::<sys::iommu_option>())?),
            request::HWPT_ALLOC => inner.alloc_table(read_least(
                table::LEAST_OF_ALLOC,
                size_of::<sys::iommu_hwpt_alloc>(),
            )?),
            request::GET_HW_INFO => inner.hardware(read_least(
                table::LEAST_OF_HARDWARE,
                size_of::<sys::iommu_hw_info>(),
            )?),
            request::VFIO_IOAS => inner.vfio_ioas(read(size_of::<sys::iommu_vfio_ioas>())?),
            _ => return inner.compat_ioctl(number, argument, caller),
        }?;
        Ok(Answer::Value(0))
    }

    /// A group takes this file for its container: VFIO's requests need an address space from now on.
    pub(crate) fn attach_group(&self) -> Outcome<()> {
        let mut inner = self.lock();
        if inner.compat.is_none() {
            inner.compat = Some(inner.add(Object::Ioas(Ioas::default()))?);
        }
        Ok(())
    }
}

/// A device's tie to a file of `/dev/iommu`; undone when dropped.
#[derive(Debug)]
pub(crate) struct Bound {
    file: Arc<Iommufd>,
    id: u32,
    /// What it is attached to.
    attached: Option<u32>,
}

impl Bound {
    /// Binds a device.
    pub(crate) fn new(file: &Arc<Iommufd>) -> Outcome<Self> {
        let id = file.lock().add(Object::Device)?;
        Ok(Self {
            file: Arc::clone(file),
            id,
            attached: None,
        })
    }

    /// The device's number.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The file.
    pub(crate) fn file(&self) -> Arc<Iommufd> {
        Arc::clone(&self.file)
    }

    /// Whether it is bound to `file`.
    pub(crate) fn is_of(&self, file: &Arc<Iommufd>) -> bool {
        Arc::ptr_eq(&self.file, file)
    }

    /// Attaches to an address space, or to what others attached to one share, instead of what it is attached to: the
    /// number of what it is attached to then, and the memory.
    pub(crate) fn attach(&mut self, id: u32) -> Outcome<(u32, Arc<Space>)> {
        let (attached, space, before) = self.attach_keeping(id)?;
        self.let_go(before);
        Ok((attached, space))
    }

    /// As [`attach`](Self::attach), and what it was attached to before, which is kept until [`let_go`](Self::let_go) or
    /// [`go_back`](Self::go_back).
    pub(crate) fn attach_keeping(&mut self, id: u32) -> Outcome<(u32, Arc<Space>, Option<u32>)> {
        let file = Arc::clone(&self.file);
        let mut inner = file.lock();
        let (ioas, table) = match inner.objects.get(&id) {
            Some(Object::Ioas(_)) => (id, inner.table_of(id)),
            Some(Object::Table { ioas, .. }) => (*ioas, Some(id)),
            Some(Object::Device) => {
                return Err(Refusal::invalid(format!(
                    "object {id} is a device, not an address space"
                )));
            }
            None => return Err(missing(id)),
        };
        let space = Arc::clone(&inner.ioas(ioas)?.space);
        let table = match table {
            Some(table) => table,
            None => inner.add(Object::Table {
                ioas,
                devices: 0,
                asked_for: false,
            })?,
        };
        if let Some(Object::Table { devices, .. }) = inner.objects.get_mut(&table) {
            *devices += 1;
        }
        Ok((table, space, self.attached.replace(table)))
    }

    /// What it was attached to before is not wanted any more.
    pub(crate) fn let_go(&self, before: Option<u32>) {
        self.file.lock().release(before);
    }

    /// It is attached to what it was attached to before.
    pub(crate) fn go_back(&mut self, before: Option<u32>) {
        let refused = std::mem::replace(&mut self.attached, before);
        self.let_go(refused);
    }

    /// Attaches to the address space of VFIO's own requests.
    pub(crate) fn attach_compat(&mut self) -> Outcome<Arc<Space>> {
        let compat = {
            let mut inner = self.file.lock();
            inner.compat()?;
            inner.compat.unwrap_or_default()
        };
        self.attach(compat).map(|(_, space)| space)
    }

    /// Detaches, if it is attached.
    pub(crate) fn detach(&mut self) {
        let before = self.attached.take();
        self.file.lock().release(before);
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.detach();
        self.file.lock().objects.remove(&self.id);
    }
}

impl Inner {
    /// The page table of an address space that nobody asked for, where there is one.
    fn table_of(&self, ioas: u32) -> Option<u32> {
        self.objects.iter().find_map(|(number, object)| match object {
            Object::Table {
                ioas: of,
                asked_for: false,
                ..
            } if *of == ioas => Some(*number),
            _ => None,
        })
    }

    /// One device less is attached to a page table.
    fn release(&mut self, table: Option<u32>) {
        let Some(table) = table else { return };
        if let Some(Object::Table {
            devices, asked_for, ..
        }) = self.objects.get_mut(&table)
        {
            *devices -= 1;
            if *devices == 0 && !*asked_for {
                self.objects.remove(&table);
            }
        }
    }
}
