//! The views that show a function's own registers, `filtered` and `raw`, and a virtual function, whose hardware does not
//! tell who it is.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use uvfio_linux::sysfs::Sysfs;
use uvfio_pci::View;

use crate::adversary::Outside;
use crate::owned::{Function, PATIENCE};
use crate::report::Report;
use crate::virtual_igb;
use crate::virtual_view::{COMMAND, MEMORY, User};

const BAR0: u64 = 0x10;
const BARS: usize = 24;
/// COMMAND's upper byte, with INTx disable (bit 10).
const INTX_DISABLE: (usize, u8) = (5, 0x04);

/// A user, as soon as the last one has let go: its threads end in their own time.
fn attach(address: &str, view: View) -> Result<User> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match User::seeing(address, view) {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
            tried => return tried,
        }
    }
}

/// Where the header says which line INTx is; there is none in these views.
const INTERRUPT_PIN: usize = 0x3d;

/// Every byte reads as the hardware has it, in both views, but for the interrupt pin.
pub(crate) fn reads(address: &str, report: &mut Report) -> Result<()> {
    for view in [View::Filtered, View::Raw] {
        let user = attach(address, view)?;
        let mut hardware = Outside::open(&Function::new(address))?.read()?;
        let mut page = user.configuration()?;
        hardware[INTERRUPT_PIN] = 0;
        if view == View::Filtered {
            for page in [&mut hardware, &mut page] {
                page[INTX_DISABLE.0] &= !INTX_DISABLE.1;
            }
        }
        let name = view.name();
        let bytes = page.len();
        let differ: Vec<usize> = (0..bytes).filter(|at| hardware[*at] != page[*at]).collect();
        report.same(
            &format!("{name}: bytes of {bytes} that read other than the hardware's"),
            &Vec::new(),
            &differ,
        )?;
        user.set_config(COMMAND, MEMORY)?;
        let command = Outside::open(&Function::new(address))?.read()?[4];
        report.same(
            &format!("{name}: COMMAND's memory space is the hardware's"),
            &(MEMORY as u8),
            &(command & MEMORY as u8),
        )?;
    }
    Ok(())
}

/// A user of `raw` moves a BAR; a user of `filtered` does not. When the user has gone it is where it was.
pub(crate) fn moves(address: &str, report: &mut Report) -> Result<()> {
    let outside = Outside::open(&Function::new(address))?;
    for view in [View::Filtered, View::Raw] {
        let user = attach(address, view)?;
        let raw = view == View::Raw;
        let name = view.name();
        let before = outside.read()?;
        let bars = |page: &[u8]| page[BAR0 as usize..][..BARS].to_vec();
        user.set_config(BAR0, 0xdead_0000_u32)?;
        let moved = outside.read()?;
        report.same(
            &format!("{name}: whether a BAR has moved"),
            &raw,
            &(bars(&before) != bars(&moved)),
        )?;
        drop(user);
        // The worker's end of the group is closed with the user; the next owner finds it as it was.
        let next = attach(address, View::Virtual)?;
        report.same(
            &format!("{name}: when its user has gone the BARs are where they were"),
            &bars(&before),
            &bars(&outside.read()?),
        )?;
        next.virt.detach()?;
    }
    Ok(())
}

/// Interrupts of igb in both views, and after a reset in `filtered`, whose user has what it had.
pub(crate) fn interrupts(address: &str, report: &mut Report) -> Result<()> {
    for view in [View::Filtered, View::Raw] {
        let user = attach(address, view)?;
        virtual_igb::vectors(&user, view == View::Filtered, report)?;
    }
    Ok(())
}

/// A virtual function in the virtual view and in `filtered`: the identity is the kernel's, since the hardware reads ones.
pub(crate) fn virtual_function(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::new(address);
    let outside = Outside::open(&function)?;
    report.same(
        "the hardware of a virtual function does not tell who it is",
        &[0xff; 4].as_slice(),
        &&outside.read()?[..4],
    )?;
    let known = Sysfs::default().function(address.parse()?)?;
    let known = u32::from(known.device) << 16 | u32::from(known.vendor);
    for view in [View::Virtual, View::Filtered] {
        let user = attach(address, view)?;
        report.same(
            &format!("{}: vendor and device are what the kernel knows", view.name()),
            &known,
            &user.config::<u32>(0)?,
        )?;
        if view == View::Virtual {
            user.bars(report)?;
            let kernel = user.device.config()?;
            let mut bars = [0; BARS];
            kernel.read(BAR0, &mut bars)?;
            let flags = |bars: &[u8]| bars.chunks(4).map(|bar| bar[0] & 0xf).collect::<Vec<_>>();
            let page = user.configuration()?;
            report.same(
                "the kinds of its BARs are those of the kernel's",
                &flags(&bars),
                &flags(
                    page.get(BAR0 as usize..)
                        .context("BARs")?
                        .get(..BARS)
                        .context("BARs")?,
                ),
            )?;
        }
        user.set_config(COMMAND, MEMORY)?;
        report.same(
            &format!("{}: its first BAR answers", view.name()),
            &false,
            &(user.read::<u32>(0, 0)? == u32::MAX),
        )?;
    }
    Ok(())
}
