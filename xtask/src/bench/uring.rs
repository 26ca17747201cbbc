//! The floor of reads: a file read by io_uring, by this process.
#![allow(unsafe_code)] // The kernel writes into buffers whose addresses it is given; see `Ring::push`.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use io_uring::{IoUring, opcode, types};
use rustix::io::Errno;

/// Reads of one length, several at once.
pub(super) struct Ring {
    ring: IoUring,
    file: File,
    bytes: usize,
    /// A place for each read that may be under way. They never move and never change their length.
    buffers: Vec<Box<[u8]>>,
    free: Vec<usize>,
}

impl Ring {
    /// A ring for `depth` reads at once of `bytes` each; none where the kernel has no io_uring for us, or whoever runs
    /// this has forbidden it, as containers often have.
    pub(super) fn new(file: File, depth: usize, bytes: usize) -> Result<Option<Self>> {
        let entries = u32::try_from(depth.next_power_of_two()).context("a depth of 32 bits")?;
        let absent = [Errno::NOSYS, Errno::PERM, Errno::ACCESS].map(|errno| Some(errno.raw_os_error()));
        let ring = match IoUring::new(entries) {
            Ok(ring) => ring,
            Err(error) if absent.contains(&error.raw_os_error()) => return Ok(None),
            Err(error) => return Err(error).context("making an io_uring"),
        };
        Ok(Some(Self {
            ring,
            file,
            bytes,
            buffers: vec![vec![0; bytes].into_boxed_slice(); depth],
            free: (0..depth).rev().collect(),
        }))
    }

    /// Whether another read can be started.
    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Puts a read at byte `offset` of the file into the queue; the kernel is told by [`submit`](Self::submit).
    pub(super) fn push(&mut self, offset: u64) -> Result<()> {
        let Some(slot) = self.free.last().copied() else {
            bail!("every place of the ring is taken");
        };
        let length = u32::try_from(self.bytes).context("reads of 32 bits' length")?;
        let read = opcode::Read::new(
            types::Fd(self.file.as_raw_fd()),
            self.buffers[slot].as_mut_ptr(),
            length,
        );
        let entry = read.offset(offset).build().user_data(slot as u64);
        // SAFETY: the file and the buffer live as long as `self`, and `drop` waits until no read is under way. Nobody
        // reads or writes the buffer until the completion has come: its slot is not in `free`, and `pop` gives it out
        // after that only. It is `bytes` long, which is the length asked for.
        unsafe { self.ring.submission().push(&entry) }.context("the ring is full")?;
        self.free.pop();
        Ok(())
    }

    /// Tells the kernel of every read that was pushed; waits until one is done where `wait`.
    pub(super) fn submit(&mut self, wait: bool) -> Result<()> {
        self.ring
            .submit_and_wait(usize::from(wait))
            .context("submitting to io_uring")?;
        Ok(())
    }

    /// The data of a read that is done, if one is: what began first is not always done first.
    pub(super) fn pop(&mut self) -> Result<Option<&[u8]>> {
        let Some(completion) = self.ring.completion().next() else {
            return Ok(None);
        };
        let slot = completion.user_data() as usize;
        self.free.push(slot);
        if usize::try_from(completion.result()) != Ok(self.bytes) {
            bail!(
                "io_uring: a read of {} bytes ended with {}",
                self.bytes,
                completion.result()
            );
        }
        Ok(self.buffers.get(slot).map(AsRef::as_ref))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.free.len() < self.buffers.len() {
            if self.submit(true).is_err() {
                // The kernel may still write to them: they are given up rather than used again.
                std::mem::forget(std::mem::take(&mut self.buffers));
                return;
            }
            let done = self.ring.completion().next();
            self.free.extend(done.map(|done| done.user_data() as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::Ring;

    #[test]
    fn reads_give_the_bytes_at_their_offsets_and_places_are_used_again() {
        let mut file = tempfile::tempfile().unwrap();
        let all: Vec<u8> = (0..64_u8).flat_map(|page| [page; 512]).collect();
        file.write_all(&all).unwrap();
        let Some(mut ring) = Ring::new(file, 4, 512).unwrap() else {
            // Not `eprintln!`, which is kept from the terminal where a test passes.
            let _ = writeln!(std::io::stderr(), "NOT TESTED: there is no io_uring here");
            return;
        };
        let mut seen = Vec::new();
        let mut next = 0;
        while seen.len() < 64 {
            while next < 64 && ring.has_room() {
                ring.push(next * 512).unwrap();
                next += 1;
            }
            ring.submit(true).unwrap();
            while let Some(data) = ring.pop().unwrap() {
                assert!(data.iter().all(|byte| *byte == data[0]), "{data:?}");
                seen.push(data[0]);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..64).collect::<Vec<_>>());
    }
}
