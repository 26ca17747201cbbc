//! The "kernel" of one run: its files.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use uvfio_core::VirtualDevice;
use vfio_bindings::bindings::vfio as sys;

use crate::refusal::Refusal;
use crate::{Answer, Caller, FileId, Node, Part, requests};

/// A PCI function that can be had by this interface.
pub struct Function {
    /// Its address, as `0000:01:00.0`: what VFIO_GROUP_GET_DEVICE_FD names it by.
    pub address: String,
    /// Its IOMMU group.
    pub group: u32,
    /// The device. Nobody else may attach to it.
    pub device: Arc<VirtualDevice>,
}

/// The kernel's VFIO, made of the functions of one run.
///
/// Calls may come from any number of threads at a time. One that resets a device or ends its use may take as long as
/// the device takes (half a minute at most); others go on meanwhile.
pub struct Uapi {
    functions: Vec<Function>,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    next: u64,
    open: HashMap<FileId, File>,
}

#[derive(Clone)]
enum File {
    Container,
}

impl Uapi {
    /// A kernel with these functions.
    #[must_use]
    pub fn new(functions: Vec<Function>) -> Arc<Self> {
        Arc::new(Self {
            functions,
            files: Mutex::default(),
        })
    }

    /// Opens a node.
    ///
    /// # Errors
    /// ENOENT for a group or device that is not there, EBUSY for one that is open (a group opens once).
    pub fn open(&self, node: Node) -> Result<FileId, Errno> {
        match node {
            Node::Container => Ok(self.add(File::Container)),
            Node::Group(_) | Node::Device(_) | Node::Iommu => Err(Errno::NOENT),
        }
    }

    /// The last descriptor and the last mapping of an open file are gone. Closing a device's last file resets it.
    /// Nothing happens for a file that is not open.
    pub fn close(&self, file: FileId) {
        self.files().open.remove(&file);
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
        let _ = (argument, caller);
        let result = match (self.file(file)?, request) {
            (File::Container, requests::GET_API_VERSION) => Ok(Answer::Value(sys::VFIO_API_VERSION as i32)),
            (File::Container, _) => Err(Refusal {
                errno: Errno::INVAL,
                request: "a container's ioctl",
                why: format!("request {request:#x} needs an IOMMU (VFIO_SET_IOMMU) first"),
            }),
        };
        result.map_err(|refusal| {
            tracing::info!(target: "uapi", %refusal, "refused");
            refusal.errno
        })
    }

    /// `pread(file, data, offset)`: bytes read, at most `data.len()`.
    ///
    /// # Errors
    /// The kernel's; EINVAL for a file that can't be read.
    pub fn read(&self, file: FileId, offset: u64, data: &mut [u8]) -> Result<usize, Errno> {
        let _ = (self.file(file)?, offset, data, &self.functions);
        Err(Errno::INVAL)
    }

    /// `pwrite(file, data, offset)`; as [`read`](Self::read).
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, file: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let _ = (self.file(file)?, offset, data);
        Err(Errno::INVAL)
    }

    /// A load from a mapping of `file`, of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// Where the kernel would raise SIGBUS: memory decoding is off, or nothing is mapped there.
    pub fn load(&self, file: FileId, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        let _ = (self.file(file)?, offset, data);
        Err(Errno::INVAL)
    }

    /// A store to a mapping of `file`; as [`load`](Self::load).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn store(&self, file: FileId, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let _ = (self.file(file)?, offset, data);
        Err(Errno::INVAL)
    }

    /// What `mmap(MAP_SHARED)` of `bytes` bytes of `file` at `offset` shows: parts that cover them in order.
    ///
    /// # Errors
    /// EINVAL where the kernel maps nothing there (also: not MAP_SHARED, which is for the caller to check).
    pub fn mappings(&self, file: FileId, offset: u64, bytes: u64) -> Result<Vec<Part>, Errno> {
        let _ = (self.file(file)?, offset, bytes);
        Err(Errno::INVAL)
    }

    fn add(&self, file: File) -> FileId {
        let mut files = self.files();
        files.next += 1;
        let id = FileId(files.next);
        files.open.insert(id, file);
        id
    }

    fn file(&self, id: FileId) -> Result<File, Errno> {
        self.files().open.get(&id).cloned().ok_or(Errno::BADF)
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
