//! The "kernel" of one run: its files.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::backend::Backend;
use crate::cdev::{Cdev, refuse_binding};
use crate::container::Container;
use crate::device::{Device, place};
use crate::group::Group;
use crate::iommufd::Iommufd;
use crate::refusal::{Outcome, Refusal};
use crate::{Answer, Asked, Caller, FileId, Given, Node, Part, requests};

/// A PCI function that can be had by this interface.
pub struct Function {
    /// Its address, as `0000:01:00.0`: what VFIO_GROUP_GET_DEVICE_FD names it by.
    pub address: String,
    /// Its IOMMU group.
    pub group: u32,
    /// The device. Nobody else may attach to it.
    pub device: Arc<dyn Backend>,
}

/// The kernel's VFIO, made of the functions of one run.
///
/// Calls may come from any number of threads at a time. One that resets a device or ends its use may take as long as
/// the device takes (half a minute at most); others go on meanwhile.
pub struct Uapi {
    devices: Vec<Arc<Device>>,
    groups: BTreeMap<u32, Arc<Group>>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    next: u64,
    open: HashMap<FileId, Arc<Open>>,
}

/// An open file. It is closed when it has been taken from the table and no call on it, or that names it, is under way.
pub(crate) struct Open {
    pub(crate) file: File,
    /// Where `read` and `write`, which name no offset, go on.
    position: AtomicU64,
}

impl Drop for Open {
    fn drop(&mut self) {
        match &self.file {
            File::Group(group) => group.close(),
            File::Device(group, device) => group.close_device(device),
            File::Cdev(cdev) => cdev.close(),
            File::Container(_) | File::Iommu(_) => {}
        }
    }
}

/// What kind of file it is, and of what.
pub(crate) enum File {
    Container(Arc<Container>),
    Group(Arc<Group>),
    /// Of a device, by way of its group.
    Device(Arc<Group>, Arc<Device>),
    /// Of a device, by itself.
    Cdev(Arc<Cdev>),
    /// Of `/dev/iommu`.
    Iommu(Arc<Iommufd>),
}

impl Uapi {
    /// A kernel with these functions.
    #[must_use]
    pub fn new(functions: Vec<Function>) -> Arc<Self> {
        let placements = place(functions.iter().map(|function| function.device.layout()));
        let devices: Vec<Arc<Device>> = functions
            .into_iter()
            .zip(placements)
            .map(|(function, placement)| {
                Arc::new(Device::new(
                    function.address,
                    function.group,
                    function.device,
                    placement,
                ))
            })
            .collect();
        let mut members: BTreeMap<u32, Vec<Arc<Device>>> = BTreeMap::new();
        for device in &devices {
            members.entry(device.group).or_default().push(Arc::clone(device));
        }
        let groups = members
            .into_iter()
            .map(|(number, devices)| (number, Arc::new(Group::new(number, devices))))
            .collect();
        Arc::new(Self {
            devices,
            groups,
            files: Mutex::default(),
        })
    }

    /// Where function `n` of the list given to [`new`](Self::new) has its BARs 0 to 5 and its ROM while it is open, as
    /// its configuration space says; 0 for what it has not. For a `resource` file like sysfs'.
    #[must_use]
    pub fn bar_addresses(&self, n: u32) -> [u64; 7] {
        let device = self.devices.get(n as usize);
        device.map_or([0; 7], |device| device.placement().addresses)
    }

    /// Opens a node.
    ///
    /// # Errors
    /// ENOENT for a group or device that is not there; EBUSY for a group that is open, or a device of which is bound by
    /// a file of its own; ENODEV for a device that is [withdrawn](Self::withdraw).
    pub fn open(&self, node: Node) -> Result<FileId, Errno> {
        let result = match node {
            Node::Container => Ok(File::Container(Arc::default())),
            Node::Group(number) => self.open_group(number),
            Node::Device(number) => self.open_device(number),
            Node::Iommu => Ok(File::Iommu(Arc::default())),
        };
        result
            .map(|file| self.add(file))
            .map_err(|refusal| log("open", &refusal))
    }

    fn open_group(&self, number: u32) -> Outcome<File> {
        let group = self
            .groups
            .get(&number)
            .ok_or_else(|| Refusal::new(Errno::NOENT, format!("there is no group {number}")))?;
        group.open()?;
        Ok(File::Group(Arc::clone(group)))
    }

    fn open_device(&self, number: u32) -> Outcome<File> {
        let found = self.devices.get(number as usize);
        let found = found.and_then(|device| Some((device, self.groups.get(&device.group)?)));
        let (device, group) =
            found.ok_or_else(|| Refusal::new(Errno::NOENT, format!("there is no device vfio{number}")))?;
        device.check_not_withdrawn()?;
        Ok(File::Cdev(Arc::new(Cdev::new(
            Arc::clone(group),
            Arc::clone(device),
        ))))
    }

    /// The last descriptor and the last mapping of an open file are gone. Closing a device's last file resets it.
    /// While calls on the file are under way it stays open, as with the kernel: the last of them closes it.
    /// Nothing happens for a file that is not open.
    pub fn close(&self, file: FileId) {
        let closed = self.files().open.remove(&file);
        // Not while the table is locked.
        drop(closed);
    }

    /// `ioctl(file, request, argument)`. `argument` is the whole third argument, an address or a number.
    ///
    /// # Errors
    /// The kernel's; EBADF for a file that is not open.
    pub fn ioctl(
        &self,
        file: FileId,
        request: u32,
        argument: u64,
        caller: &dyn Caller,
    ) -> Result<Answer, Errno> {
        let open = self.file(file)?;
        let (name, result) = match &open.file {
            File::Container(container) => (
                requests::container::name(request),
                container.ioctl(request, argument, caller),
            ),
            File::Group(group) => (
                requests::group::name(request),
                group.ioctl(self, request, argument, caller),
            ),
            File::Device(_, device) => (
                requests::device::name(request),
                if request == requests::device::DEVICE_BIND_IOMMUFD {
                    refuse_binding(argument, caller)
                } else {
                    device.ioctl(self, request, argument, caller)
                },
            ),
            File::Cdev(cdev) => (
                requests::device::name(request),
                cdev.ioctl(self, request, argument, caller),
            ),
            File::Iommu(iommufd) => (
                requests::iommufd::name(request),
                iommufd.ioctl(request, argument, caller),
            ),
        };
        result.map_err(|refusal| log(name, &refusal))
    }

    /// `pread(file, data, offset)`: bytes read, at most `data.len()`.
    ///
    /// # Errors
    /// The kernel's; EINVAL for a file that can't be read.
    pub fn read(&self, file: FileId, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        self.with_device(file, "read", |device| device.read(offset, data))
    }

    /// `pwrite(file, data, offset)`; as [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        self.with_device(file, "write", |device| device.write(offset, data))
    }

    /// Runs `access` at the file's position, and moves that on by the bytes that it comes to: `read(file, data)` and
    /// `write(file, data)`. The position is 0 when the file is opened, and nothing else moves it: there is no seeking.
    ///
    /// # Errors
    /// Those of `access`; EBADF for a file that is not open.
    pub fn at_position(
        &self,
        file: FileId,
        access: impl FnOnce(u64) -> Result<u64, Errno>,
    ) -> Result<u64, Errno> {
        let open = self.file(file)?;
        // Two at a time may begin at the same place: the kernel has no lock for that either.
        let position = open.position.load(Ordering::Relaxed);
        let bytes = access(position)?;
        open.position
            .store(position.wrapping_add(bytes), Ordering::Relaxed);
        Ok(bytes)
    }

    /// A load from a mapping of `file`, of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// Where the kernel would raise SIGBUS: memory decoding is off, or nothing is mapped there.
    pub fn load(&self, file: FileId, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.with_device(file, "a load", |device| device.load(offset, data))
    }

    /// A store to a mapping of `file`; as [`load`](Self::load).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn store(&self, file: FileId, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.with_device(file, "a store", |device| device.store(offset, data))
    }

    /// What `mmap(MAP_SHARED)` of `bytes` bytes of `file` at `offset` shows: parts that cover them in order.
    ///
    /// # Errors
    /// EINVAL where the kernel maps nothing there (also: not MAP_SHARED, which is for the caller to check); ENODEV for a
    /// file that can't be mapped at all.
    pub fn mappings(&self, file: FileId, offset: u64, bytes: u64) -> Result<Vec<Part>, Errno> {
        if !matches!(self.file(file)?.file, File::Device(..) | File::Cdev(_)) {
            return Err(Errno::NODEV);
        }
        self.with_device(file, "mmap", |device| device.mappings(offset, bytes))
    }

    /// What `call` gives for the device of a file, which stays open meanwhile; EINVAL for files of other kinds, which are
    /// neither read nor written.
    fn with_device<T>(
        &self,
        file: FileId,
        request: &str,
        call: impl FnOnce(&Device) -> Outcome<T>,
    ) -> Result<T, Errno> {
        let open = self.file(file)?;
        let device = match &open.file {
            File::Device(_, device) => Ok(device),
            File::Cdev(cdev) => cdev.device(),
            File::Container(_) | File::Group(_) | File::Iommu(_) => return Err(Errno::INVAL),
        };
        device
            .and_then(|device| call(device))
            .map_err(|refusal| log(request, &refusal))
    }

    /// Withdraws every device, as the kernel does when vfio-pci is unbound from it: it is not opened any more (ENODEV),
    /// while files that are open go on. There is no way back.
    pub fn withdraw(&self) {
        self.devices().for_each(Device::withdraw);
    }

    /// Asks whoever has a device open to give it back, by the REQ interrupt. The kernel does so at once, and then every
    /// ten seconds. With each device's address comes whether somebody has heard of it.
    pub fn ask_for_devices(&self) -> Vec<(&str, Asked)> {
        let asked = self
            .devices()
            .map(|device| (device.address.as_str(), device.ask_for()));
        asked.collect()
    }

    /// Waits until nobody has a device open that was withdrawn, for `patience` at most: whether that is so.
    #[must_use]
    pub fn wait_given_back(&self, patience: Duration) -> bool {
        let start = Instant::now();
        self.devices()
            .all(|device| device.wait_given_back(patience.saturating_sub(start.elapsed())))
    }

    /// Takes those devices from their users that were withdrawn and are still open, and gives their addresses: they
    /// read all ones, drop writes and reach no memory any more; requests are acknowledged without effect.
    pub fn take_devices(&self) -> Vec<&str> {
        let taken = self.devices.iter().filter(|device| device.take());
        taken.map(|device| device.address.as_str()).collect()
    }

    /// All devices, in the order of the run.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().map(|device| &**device)
    }

    /// The open file that a caller's descriptor stands for; none where it is another's. EBADF where it has been closed
    /// since it was looked up.
    ///
    /// It may be closed when what comes back is dropped, so that must not be under a lock of a group or a device.
    pub(crate) fn given(&self, given: Given) -> Outcome<Option<Arc<Open>>> {
        match given {
            Given::Ours(file) => self.file(file).map(Some).map_err(|errno| {
                Refusal::new(
                    errno,
                    "the descriptor that the request names was closed meanwhile",
                )
            }),
            Given::Other(other) => {
                uvfio_core::close_elsewhere(other);
                Ok(None)
            }
        }
    }

    pub(crate) fn add(&self, file: File) -> FileId {
        let mut files = self.files();
        files.next += 1;
        let id = FileId(files.next);
        let open = Open {
            file,
            position: AtomicU64::new(0),
        };
        files.open.insert(id, Arc::new(open));
        id
    }

    fn file(&self, id: FileId) -> Result<Arc<Open>, Errno> {
        self.files().open.get(&id).cloned().ok_or(Errno::BADF)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes down why, and gives the number.
fn log(request: &str, refusal: &Refusal) -> Errno {
    tracing::info!(target: "uapi", request, why = refusal.why, errno = %refusal.errno, "refused");
    refusal.errno
}
