//! Descriptors read ahead: drivers keep them in rings, one behind the other, and ring for many at once.
//!
//! As in Intel's engine a descriptor may be read as soon as DMACOUNT has rung for it, so what changes it later is not
//! seen. After what lets a driver change it (a reset, a new CHAINADDR, bus mastering off) it is read again. Each is
//! used once, and only in a row: what lies behind one that leads elsewhere may not be rung for, and one that has been
//! worked off may be another one the next time.

use std::ops::Range;

use uvfio_core::{DmaError, DmaSpace};

use super::channel::Job;
use super::descriptor::DESCRIPTOR_BYTES;

/// The most that are read at once.
const MOST: usize = 32;
const PAGE: u64 = 4096;

/// Descriptors of one channel.
#[derive(Debug)]
pub(super) struct Ahead {
    raw: [u8; MOST * DESCRIPTOR_BYTES],
    /// Which of these bytes have not been used, and the address that they were read from.
    unused: Range<usize>,
    address: u64,
    /// The job that they were read for, and how often bus mastering had been switched on.
    job: Option<(Job, u64)>,
}

impl Ahead {
    pub(super) fn new() -> Self {
        Self {
            raw: [0; MOST * DESCRIPTOR_BYTES],
            unused: 0..0,
            address: 0,
            job: None,
        }
    }

    /// Those that are there are not to be used any more.
    pub(super) fn forget(&mut self) {
        self.unused = 0..0;
    }

    /// A job's descriptor, at an address that is a multiple of its size. `bus_master_on`: how often bus mastering had
    /// been switched on when the job began.
    ///
    /// # Errors
    /// Where it can't be read.
    pub(super) fn descriptor(
        &mut self,
        job: &Job,
        bus_master_on: u64,
        memory: &DmaSpace,
    ) -> Result<[u8; DESCRIPTOR_BYTES], DmaError> {
        let valid = self
            .job
            .is_some_and(|(former, on)| job.follows(&former) && on == bus_master_on && memory.enabled());
        if !(valid && self.address == job.address && !self.unused.is_empty()) {
            self.forget();
            self.job = Some((*job, bus_master_on));
            self.address = job.address;
            self.unused = 0..self.fill(job, memory)?;
        }
        let raw = self.raw.get(self.unused.clone()).unwrap_or_default();
        let descriptor = raw.first_chunk().copied().unwrap_or([0; DESCRIPTOR_BYTES]);
        self.unused.start += DESCRIPTOR_BYTES;
        self.address = self.address.wrapping_add(DESCRIPTOR_BYTES as u64);
        Ok(descriptor)
    }

    /// Reads the job's, and more if it can be: how many bytes.
    fn fill(&mut self, job: &Job, memory: &DmaSpace) -> Result<usize, DmaError> {
        // Beyond the page there may be other memory, or none.
        let in_page = (PAGE - job.address % PAGE) as usize / DESCRIPTOR_BYTES;
        let count = usize::from(job.rung).min(in_page).clamp(1, MOST);
        let many = self.raw.get_mut(..count * DESCRIPTOR_BYTES).unwrap_or_default();
        if count > 1 && memory.read(job.address, many).is_ok() {
            return Ok(many.len());
        }
        // It alone may be there.
        let one = many.get_mut(..DESCRIPTOR_BYTES).unwrap_or_default();
        memory.read(job.address, one)?;
        Ok(one.len())
    }
}
