//! A process of the program's: its memory and its descriptors.
#![allow(unsafe_code)] // process_vm_readv and process_vm_writev, which take addresses.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, fstatfs, makedev};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use uvfio_uapi::{Account, Caller, CountedBy, Given, ProcessMemory};

use crate::LockedMemory;
use crate::files::Files;

/// A process that has called.
#[derive(Debug)]
pub(crate) struct Process {
    number: Pid,
    /// Keeps another process from being taken for it
    descriptor: OwnedFd,
    /// Files that are memory of its, by device and inode numbers and whether they can be written
    files: Mutex<HashMap<(u64, u64, bool), Weak<OwnedFd>>>,
    /// Bytes of it that are mapped for DMA by containers
    locked: Arc<AtomicU64>,
    limits: Arc<Limits>,
}

/// What may be mapped for DMA, and is by `/dev/iommu`, by all processes: they have one user.
#[derive(Debug, Default)]
struct Limits {
    memory: LockedMemory,
    locked: Arc<AtomicU64>,
}

/// All that have called and live.
pub(crate) struct Processes {
    known: Mutex<HashMap<Pid, Arc<Process>>>,
    limits: Arc<Limits>,
}

impl Processes {
    pub(crate) fn new(memory: LockedMemory) -> Self {
        let limits = Limits {
            memory,
            ..Limits::default()
        };
        Self {
            known: Mutex::default(),
            limits: Arc::new(limits),
        }
    }

    pub(crate) fn get(&self, number: Pid) -> Result<Arc<Process>, Errno> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = known.get(&number).filter(|process| process.lives()) {
            return Ok(process.clone());
        }
        known.retain(|_, process| process.lives());
        let process = Arc::new(Process {
            number,
            descriptor: pidfd_open(number, PidfdFlags::empty())?,
            files: Mutex::default(),
            locked: Arc::default(),
            limits: self.limits.clone(),
        });
        known.insert(number, process.clone());
        Ok(process)
    }
}

impl Process {
    fn lives(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // Readable once it has ended.
        poll(&mut [PollFd::new(&self.descriptor, PollFlags::IN)], Some(&now)) == Ok(0)
    }

    /// What it has mapped where, in ascending order.
    fn maps(&self) -> Result<String, Errno> {
        text(format!("/proc/{}/maps", self.number.as_raw_pid()))
    }

    /// A file of which the process has a descriptor by which it can be read, and written where `write` says so, by device
    /// and inode number.
    fn file(&self, device: u64, inode: u64, write: bool) -> Option<Arc<OwnedFd>> {
        let mut known = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = known.get(&(device, inode, write)).and_then(Weak::upgrade) {
            return Some(file);
        }
        let folder = format!("/proc/{}/fd", self.number.as_raw_pid());
        let file = fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
            let file = entry.path().metadata().ok()?;
            let same = file.dev() == device && file.ino() == inode;
            let number = same.then(|| entry.file_name().to_str()?.parse().ok()).flatten()?;
            let file = self.descriptor(number).ok()?;
            (is_memory(&file) && can_be_used(&file, write)).then_some(file)
        })?;
        let file = Arc::new(file);
        known.retain(|_, file| file.strong_count() > 0);
        known.insert((device, inode, write), Arc::downgrade(&file));
        Some(file)
    }

    pub(crate) fn descriptor(&self, number: i32) -> Result<OwnedFd, Errno> {
        pidfd_getfd(self.descriptor.as_fd(), number, PidfdGetfdFlags::empty())
    }
}

type Copy = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> isize;

/// One of the two calls, over all of `data`.
fn copy(process: Pid, copy: Copy, address: u64, data: *mut u8, bytes: usize) -> Result<(), Errno> {
    if bytes == 0 {
        return Ok(());
    }
    let local = libc::iovec {
        iov_base: data.cast(),
        iov_len: bytes,
    };
    let at = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(at),
        iov_len: bytes,
    };
    // SAFETY: `local` is memory of the caller's of this method, valid for reads or writes as the call needs; `remote` is
    // an address of another process's, which the kernel checks.
    let copied = unsafe { copy(process.as_raw_pid(), &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(copied) {
        Ok(copied) if copied == bytes => Ok(()),
        Ok(_) => Err(Errno::FAULT),
        Err(_) => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::FAULT)),
    }
}

impl ProcessMemory for Process {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        if !self.lives() {
            return Err(Errno::SRCH);
        }
        copy(
            self.number,
            libc::process_vm_readv,
            address,
            data.as_mut_ptr(),
            data.len(),
        )
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        if !self.lives() {
            return Err(Errno::SRCH);
        }
        // Read only, by this call.
        copy(
            self.number,
            libc::process_vm_writev,
            address,
            data.as_ptr().cast_mut(),
            data.len(),
        )
    }

    fn check(&self, address: u64, bytes: u64, write: bool) -> Result<(), Errno> {
        let end = address.checked_add(bytes).ok_or(Errno::FAULT)?;
        let mut next = address;
        for mapping in self.maps()?.lines().filter_map(Mapping::parse) {
            if mapping.range.contains(&next) && mapping.readable && (mapping.writable || !write) {
                next = mapping.range.end;
            }
        }
        if next < end { Err(Errno::FAULT) } else { Ok(()) }
    }

    fn kept(&self, address: u64, bytes: u64) -> Option<Arc<dyn ProcessMemory>> {
        let maps = self.maps().ok()?;
        let mapping = maps
            .lines()
            .filter_map(Mapping::parse)
            .find(|mapping| mapping.range.contains(&address))?;
        let end = address.checked_add(bytes)?;
        if !mapping.shared || end > mapping.range.end || mapping.inode == 0 {
            return None;
        }
        Some(Arc::new(FileMemory {
            file: self.file(mapping.device, mapping.inode, mapping.writable)?,
            address: mapping.range.start,
            offset: mapping.offset,
        }))
    }

    fn account(&self, counted: CountedBy) -> Option<Account> {
        let of_proc = |name| text(format!("/proc/{}/{name}", self.number.as_raw_pid())).ok();
        let (locked, mlocked) = match counted {
            CountedBy::Process => (&self.locked, true),
            CountedBy::User => (&self.limits.locked, false),
        };
        let memory = self.limits.memory;
        memory.account(locked, mlocked, || of_proc("limits"), || of_proc("status"))
    }
}

/// A file of `/proc`. Names of files and threads in it are any bytes; nobody looks at them.
fn text(path: String) -> Result<String, Errno> {
    let bytes = fs::read(path).map_err(|_| Errno::SRCH)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A thread that the kernel has stopped at a system call.
pub(crate) struct Thread(Pid);

impl Thread {
    pub(crate) fn new(number: Pid) -> Self {
        Self(number)
    }

    /// Its folder in `/proc`.
    pub(crate) fn folder(&self) -> String {
        format!("/proc/{}", self.0.as_raw_pid())
    }

    /// The process that it is of.
    pub(crate) fn process(&self) -> Result<Pid, Errno> {
        let status = text(self.folder() + "/status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
        let number = line
            .and_then(|number| number.trim().parse().ok())
            .and_then(Pid::from_raw);
        number.ok_or(Errno::SRCH)
    }

    /// The string at an address in its memory, if it has at most `most` bytes with its end.
    pub(crate) fn string(&self, address: u64, most: usize) -> Option<Vec<u8>> {
        const PIECE: usize = 256;
        let mut string = Vec::new();
        while string.len() < most {
            // To the end of a page at most: the next one may not be there.
            let at = address.checked_add(string.len() as u64)?;
            let mut piece = [0; PIECE];
            let piece = piece.get_mut(..PIECE - at as usize % PIECE)?;
            copy(
                self.0,
                libc::process_vm_readv,
                at,
                piece.as_mut_ptr(),
                piece.len(),
            )
            .ok()?;
            let end = piece.iter().position(|byte| *byte == 0);
            string.extend_from_slice(piece.get(..end.unwrap_or(piece.len()))?);
            if end.is_some() {
                return Some(string);
            }
        }
        None
    }
}

/// A line of a process's `maps`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    range: Range<u64>,
    readable: bool,
    writable: bool,
    shared: bool,
    offset: u64,
    device: u64,
    inode: u64,
}

impl Mapping {
    fn parse(line: &str) -> Option<Self> {
        let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let allowed = words.next()?;
        let offset = hexadecimal(words.next()?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        Some(Self {
            range: hexadecimal(start)?..hexadecimal(end)?,
            readable: allowed.starts_with('r'),
            writable: allowed.contains('w'),
            shared: allowed.ends_with('s'),
            offset,
            device: makedev(number(major)?, number(minor)?),
            inode: words.next()?.parse().ok()?,
        })
    }
}

/// Memory of a process's that is a file, for a range of addresses at which the process had it mapped: it is reached by the
/// file, so it stays when the process maps something else there.
#[derive(Debug)]
struct FileMemory {
    file: Arc<OwnedFd>,
    /// Where the range begins: its address, and its offset in the file
    address: u64,
    offset: u64,
}

impl FileMemory {
    fn go(
        &self,
        address: u64,
        bytes: usize,
        mut copy: impl FnMut(usize, u64) -> rustix::io::Result<usize>,
    ) -> Result<(), Errno> {
        let offset = address
            .checked_sub(self.address)
            .and_then(|at| at.checked_add(self.offset));
        let offset = offset.ok_or(Errno::FAULT)?;
        let mut done = 0;
        while done < bytes {
            match copy(done, offset + done as u64) {
                // Cut short since, as if the process had lost it.
                Ok(0) => return Err(Errno::FAULT),
                Ok(copied) => done += copied,
                Err(Errno::INTR) => {}
                Err(_) => return Err(Errno::FAULT),
            }
        }
        Ok(())
    }
}

impl ProcessMemory for FileMemory {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.go(address, data.len(), |done, offset| {
            rustix::io::pread(&self.file, data.get_mut(done..).unwrap_or_default(), offset)
        })
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        self.go(address, data.len(), |done, offset| {
            rustix::io::pwrite(&self.file, data.get(done..).unwrap_or_default(), offset)
        })
    }

    /// Of memory alone: a file of a disk may hold more than is mapped.
    fn file(&self, address: u64, bytes: u64) -> Option<(BorrowedFd<'_>, u64)> {
        const TMPFS: i128 = 0x0102_1994;
        let offset = address.checked_sub(self.address)?.checked_add(self.offset)?;
        let end = offset.checked_add(bytes)?;
        let there =
            fstat(&self.file).is_ok_and(|file| u64::try_from(file.st_size).is_ok_and(|size| end <= size));
        let memory = fstatfs(&self.file).is_ok_and(|system| i128::from(system.f_type) == TMPFS);
        (there && memory).then_some((self.file.as_fd(), offset))
    }
}

/// A file that can be read and written at offsets as memory is.
fn is_memory(file: &OwnedFd) -> bool {
    // Those of hugetlbfs can't be written.
    const HUGETLBFS: i128 = 0x9584_58f6;
    let regular =
        fstat(file).is_ok_and(|file| FileType::from_raw_mode(file.st_mode) == FileType::RegularFile);
    regular && fstatfs(file).is_ok_and(|system| i128::from(system.f_type) != HUGETLBFS)
}

/// Whether a descriptor can be read at offsets, and written there where `write` says so.
fn can_be_used(file: &OwnedFd, write: bool) -> bool {
    // What is written by such goes to the end, or is not of any length.
    let elsewhere = OFlags::PATH | OFlags::APPEND | OFlags::DIRECT;
    fcntl_getfl(file).is_ok_and(|flags| {
        let access = flags & OFlags::RWMODE;
        !flags.intersects(elsewhere) && (access == OFlags::RDWR || !write && access == OFlags::RDONLY)
    })
}

/// Who makes a call, while it is made.
pub(crate) struct Calling<'a> {
    pub(crate) process: Arc<Process>,
    pub(crate) files: &'a Files,
    /// Whether its loads and stores of registers can be caught
    pub(crate) traps: bool,
}

impl Caller for Calling<'_> {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        ProcessMemory::read(&*self.process, address, data).map_err(|_| Errno::FAULT)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        ProcessMemory::write(&*self.process, address, data).map_err(|_| Errno::FAULT)
    }

    fn descriptor(&self, number: i32) -> Result<Given, Errno> {
        let descriptor = self.process.descriptor(number).map_err(|_| Errno::BADF)?;
        Ok(match self.files.of(descriptor.as_fd()) {
            Some(file) => Given::Ours(file),
            None => Given::Other(descriptor),
        })
    }

    fn memory(&self) -> Arc<dyn ProcessMemory> {
        self.process.clone()
    }

    /// Who sees loads and stores has seen the call of mmap, and nobody else has.
    fn can_map(&self) -> bool {
        self.traps
    }

    fn can_trap(&self) -> bool {
        self.traps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_mapping_of_a_file_is_told_from_others() {
        let memory =
            Mapping::parse("7f02d000-7f02f000 rw-s 00001000 00:01 1027    /memfd:x (deleted)").unwrap();
        let expected = Mapping {
            range: 0x7f02_d000..0x7f02_f000,
            readable: true,
            writable: true,
            shared: true,
            offset: 0x1000,
            device: makedev(0, 1),
            inode: 1027,
        };
        assert_eq!(memory, expected);
        let stack = Mapping::parse("7ffc50000000-7ffc50021000 rw-p 00000000 00:00 0       [stack]").unwrap();
        assert!(!stack.shared && stack.inode == 0);
        assert_eq!(Mapping::parse("nonsense"), None);
    }
}
