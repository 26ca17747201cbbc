//! The structure that a request's argument points to, in the caller's memory.
//!
//! Its places are named by the fields of the structures in `vfio-bindings` (`offset_of!`), so no layout stands here.
//! The first word, `argsz`, says how much of it there is. Whoever asks says how much it must have at least; that much is
//! copied in, and no more without asking.

use std::ops::Range;

use rustix::io::Errno;

use crate::Caller;
use crate::refusal::{Outcome, Refusal};

/// The longest structure that is looked at, in bytes.
const LONGEST: usize = 4096;

/// Where a field begins.
macro_rules! field {
    ($structure:ident . $field:ident) => {
        std::mem::offset_of!(vfio_bindings::bindings::vfio::$structure, $field)
    };
}
pub(crate) use field;

/// A structure in the caller's memory, and a copy of its beginning.
pub(crate) struct Argument<'a> {
    caller: &'a dyn Caller,
    address: u64,
    bytes: Vec<u8>,
}

impl<'a> Argument<'a> {
    /// Copies in a structure of at least `least` bytes, `argsz` included.
    ///
    /// EFAULT where they can't be read, EINVAL where `argsz` says that there are fewer.
    pub(crate) fn new(caller: &'a dyn Caller, address: u64, least: usize) -> Outcome<Self> {
        let argument = Self::without_argsz(caller, address, least)?;
        let argsz = argument.argsz();
        if argsz < least {
            return Err(Refusal::invalid(format!(
                "argsz is {argsz}, and the structure has {least} bytes at least"
            )));
        }
        Ok(argument)
    }

    /// As [`new`](Self::new), by the rule of iommufd: of a structure longer than the `size` bytes that are known here, the
    /// rest must be 0 (E2BIG).
    pub(crate) fn known(caller: &'a dyn Caller, address: u64, least: usize, size: usize) -> Outcome<Self> {
        let mut argument = Self::without_argsz(caller, address, size_of::<u32>())?;
        let given = argument.argsz();
        if given < least {
            return Err(Refusal::invalid(format!(
                "size is {given}, and the structure has {least} bytes at least"
            )));
        }
        argument.extend(0, given.min(size))?;
        let too_long = || {
            Refusal::new(
                Errno::TOOBIG,
                format!("size is {given}, and what lies beyond {size} bytes means nothing here"),
            )
        };
        if given > size {
            if given > LONGEST {
                return Err(too_long());
            }
            if argument.copied(size, given - size)?.iter().any(|byte| *byte != 0) {
                return Err(too_long());
            }
        }
        Ok(argument)
    }

    /// Copies in `bytes` bytes, whatever `argsz` says.
    pub(crate) fn without_argsz(caller: &'a dyn Caller, address: u64, bytes: usize) -> Outcome<Self> {
        let mut argument = Self {
            caller,
            address,
            bytes: Vec::new(),
        };
        argument.bytes = argument.copied(0, bytes)?;
        Ok(argument)
    }

    /// What the caller says that there is, in bytes.
    pub(crate) fn argsz(&self) -> usize {
        self.u32(0) as usize
    }

    /// A 32-bit field.
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    /// A 16-bit field.
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.array(at))
    }

    /// A 64-bit field.
    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.array(at))
    }

    /// A signed 32-bit field: a descriptor.
    pub(crate) fn descriptor(&self, at: usize) -> i32 {
        i32::from_ne_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let found = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        found.copied().unwrap_or([0; N])
    }

    /// Copies in `bytes` bytes of what follows at `at`, into the same place of the copy. The caller of this bounds `bytes`.
    pub(crate) fn extend(&mut self, at: usize, bytes: usize) -> Outcome<()> {
        let more = self.copied(at, bytes)?;
        self.bytes.resize(at, 0);
        self.bytes.extend(more);
        Ok(())
    }

    /// Bytes of the copy.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    fn copied(&self, at: usize, bytes: usize) -> Outcome<Vec<u8>> {
        let mut copy = vec![0; bytes];
        let address = self.address.checked_add(at as u64);
        address
            .ok_or(Errno::FAULT)
            .and_then(|address| self.caller.read(address, &mut copy))
            .map_err(|errno| self.fault(errno, "read", at, bytes))?;
        Ok(copy)
    }

    /// Sets a 32-bit field of the copy.
    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_ne_bytes());
    }

    /// Sets a 64-bit field of the copy.
    pub(crate) fn set_u64(&mut self, at: usize, value: u64) {
        self.set(at, &value.to_ne_bytes());
    }

    fn set(&mut self, at: usize, value: &[u8]) {
        let end = at.saturating_add(value.len());
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(at..end) {
            place.copy_from_slice(value);
        }
    }

    /// Copies the first `bytes` bytes of the copy out to the caller; beyond its end they are 0.
    pub(crate) fn answer(&mut self, bytes: usize) -> Outcome<()> {
        self.bytes.resize(bytes.max(self.bytes.len()), 0);
        self.put(0, self.bytes(0..bytes))
    }

    /// Copies `data` out to `at` in the caller's structure.
    pub(crate) fn put(&self, at: usize, data: &[u8]) -> Outcome<()> {
        self.address
            .checked_add(at as u64)
            .ok_or(Errno::FAULT)
            .and_then(|address| self.caller.write(address, data))
            .map_err(|errno| self.fault(errno, "written", at, data.len()))
    }

    fn fault(&self, errno: Errno, how: &str, at: usize, bytes: usize) -> Refusal {
        Refusal::new(
            errno,
            format!(
                "{bytes} bytes at byte {at} of the argument at {:#x} can't be {how}",
                self.address
            ),
        )
    }

    /// Who called.
    pub(crate) fn caller(&self) -> &'a dyn Caller {
        self.caller
    }

    /// Answers with a structure of `size` bytes, of which callers know `least` at least, and a chain of capabilities after
    /// it: their place goes to the field at `cap_offset`. Where `argsz` leaves no room for them, it is set to what they
    /// need, and the place to 0.
    pub(crate) fn answer_with(
        &mut self,
        chain: &Chain,
        least: usize,
        size: usize,
        cap_offset: usize,
    ) -> Outcome<()> {
        let argsz = self.argsz();
        let needs = size + chain.bytes.len();
        // A place that the caller has to have stays as it is where there are none.
        if !chain.bytes.is_empty() || cap_offset >= least {
            self.set_u32(cap_offset, 0);
        }
        if chain.bytes.is_empty() {
        } else if argsz < needs {
            self.set_u32(0, needs as u32);
        } else {
            self.put(size, &chain.shifted(size))?;
            self.set_u32(cap_offset, size as u32);
        }
        self.answer(argsz.clamp(least, size))
    }
}

/// Capabilities behind a structure.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    bytes: Vec<u8>,
    /// Where each begins.
    starts: Vec<usize>,
}

impl Chain {
    /// Adds a capability: what follows its header is `body`.
    pub(crate) fn add(&mut self, id: u32, version: u16, body: &[u8]) {
        self.starts.push(self.bytes.len());
        self.bytes.extend((id as u16).to_ne_bytes());
        self.bytes.extend(version.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Their bytes, `from` bytes behind the structure's beginning.
    fn shifted(&self, from: usize) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for pair in self.starts.windows(2) {
            let &[start, next] = pair else { continue };
            let place = start + field!(vfio_info_cap_header.next);
            if let Some(place) = bytes.get_mut(place..place + 4) {
                place.copy_from_slice(&((from + next) as u32).to_ne_bytes());
            }
        }
        bytes
    }
}
