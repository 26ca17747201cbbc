//! A user of a function that is served, who listens: to the wish to have it back, to errors that it reports.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, memfd_create};
use vfio_bindings::bindings::vfio as sys;
use vfio_user::Client;

use crate::edu;
use crate::report::Report;
use crate::vfio::{COMMAND, COMMAND_MEMORY_AND_MASTER, CONFIG, TO_EVENTFDS};

const ERROR: u32 = sys::VFIO_PCI_ERR_IRQ_INDEX;
const REQUEST: u32 = sys::VFIO_PCI_REQ_IRQ_INDEX;
const PAGE: u64 = 4096;
const IOVA: u64 = 0x10_0000;
const AGAIN: Duration = Duration::from_millis(20);

struct User {
    client: Client,
    memory: File,
}

impl User {
    fn read(&mut self, region: u32, offset: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.client.region_read(region, offset, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Identity, COMMAND and the BARs.
    fn header(&mut self) -> Result<Vec<u32>> {
        let registers = [0_u64, 4, 0x10, 0x14, 0x18, 0x1c, 0x20, 0x24];
        // The upper half of COMMAND's register is STATUS, where errors are noted.
        let mask = |at| if at == COMMAND { 0xffff } else { u32::MAX };
        let mut read = |at| Ok(self.read(CONFIG, at)? & mask(at));
        registers.into_iter().map(&mut read).collect()
    }

    /// All that a user can ask a device for; one that is gone takes it.
    fn asks_for_all(&mut self, bar: u32) -> Result<()> {
        self.client.region_write(bar, 0, &[0; 4])?;
        self.client.dma_unmap(IOVA, PAGE)?;
        self.client.dma_map(0, IOVA, PAGE, self.memory.as_raw_fd())?;
        let eventfd = edu::eventfds(1)?.pop().context("an eventfd")?;
        self.client
            .set_irqs(REQUEST, TO_EVENTFDS, 0, 1, &[eventfd.as_raw_fd()])?;
        Ok(self.client.reset()?)
    }
}

/// Attaches, looks at a BAR, and notes what it hears. One who is `obliging` leaves when it is asked to; one who `resets` does so after an
/// error.
pub(crate) fn listen(
    socket: &Path,
    bar: u32,
    [obliging, resets]: [bool; 2],
    report: &mut Report,
) -> Result<()> {
    let client = Client::new(socket)?;
    let memory = File::from(memfd_create("user", MemfdFlags::CLOEXEC)?);
    memory.set_len(PAGE)?;
    let mut user = User { client, memory };
    user.client.dma_map(0, IOVA, PAGE, user.memory.as_raw_fd())?;
    user.client
        .region_write(CONFIG, COMMAND, &COMMAND_MEMORY_AND_MASTER.to_le_bytes())?;
    let mut eventfds = edu::eventfds(2)?;
    let (request, error) = (eventfds.pop(), eventfds.pop());
    let (request, error) = (request.context("an eventfd")?, error.context("an eventfd")?);
    for (index, eventfd) in [(ERROR, &error), (REQUEST, &request)] {
        user.client
            .set_irqs(index, TO_EVENTFDS, 0, 1, &[eventfd.as_raw_fd()])?;
    }
    let header = user.header()?;
    let first = user.read(bar, 0)?;
    report.note("listens")?;
    let (mut asked, mut errors, mut gone) = (0, 0, false);
    loop {
        if edu::wait(&request, AGAIN)? {
            rustix::io::read(&request, &mut [0; 8])?;
            asked += 1;
            report.note(&format!("REQ {asked}"))?;
            if obliging {
                return report.note("leaves");
            }
        }
        if edu::wait(&error, AGAIN)? {
            rustix::io::read(&error, &mut [0; 8])?;
            errors += 1;
            report.note(&format!("ERR {errors}"))?;
            if resets {
                user.client.reset()?;
                report.same(
                    "after the reset identity, COMMAND and BARs are as before",
                    &header,
                    &user.header()?,
                )?;
                report.same("and its first register", &first, &user.read(bar, 0)?)?;
                report.note(&format!("reset {errors}"))?;
            }
        }
        if !gone && user.read(CONFIG, 0)? == u32::MAX {
            gone = true;
            report.same("a BAR of a device that is gone", &u32::MAX, &user.read(bar, 0)?)?;
            report.note("gone")?;
            user.asks_for_all(bar)?;
            report.note("acknowledged")?;
        }
    }
}
