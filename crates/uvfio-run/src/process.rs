//! A process of the program's: its memory and its descriptors.
#![allow(unsafe_code)] // process_vm_readv and process_vm_writev, which take addresses.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use uvfio_uapi::{Caller, Given, ProcessMemory};

use crate::files::Files;

/// A process that has called.
#[derive(Debug)]
pub(crate) struct Process {
    number: Pid,
    /// Keeps another process from being taken for it
    descriptor: OwnedFd,
}

/// All that have called and live.
#[derive(Default)]
pub(crate) struct Processes(Mutex<HashMap<Pid, Arc<Process>>>);

impl Processes {
    pub(crate) fn get(&self, number: Pid) -> Result<Arc<Process>, Errno> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = known.get(&number).filter(|process| process.lives()) {
            return Ok(process.clone());
        }
        known.retain(|_, process| process.lives());
        let process = Arc::new(Process {
            number,
            descriptor: pidfd_open(number, PidfdFlags::empty())?,
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
        let status = std::fs::read_to_string(self.folder() + "/status").map_err(|_| Errno::SRCH)?;
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

    fn can_trap(&self) -> bool {
        self.traps
    }
}
