//! What happens to a function while its user has it: somebody wants it back, it reports an error, it sleeps.

use std::fs;
use std::thread;

use anyhow::{Result, anyhow};
use rustix::io::Errno;
use uvfio_linux::vfio::{Feature, Group, Irq, Rule, VfioError};

use crate::owned::{Eventfds, Owned, signal};
use crate::report::Report;

/// Somebody unbinds the function: its user is asked to let go, and does.
pub(crate) fn release(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::open(address)?;
    let function = owned.function.clone();
    let number = function.group()?;
    let eventfds = Eventfds::new(1)?;
    signal(&owned.device, Irq::Request, &eventfds)?;
    let unbind = {
        let address = address.to_owned();
        thread::spawn(move || fs::write("/sys/bus/pci/drivers/vfio-pci/unbind", address))
    };
    let asked = eventfds.after(0)?;
    report.same("an unbind asks the user to let go", &vec![(0, 1)], &asked)?;
    report.same("and waits until it has", &false, &unbind.is_finished())?;
    drop(owned);
    unbind.join().map_err(|_| anyhow!("the thread that unbinds"))??;
    report.same(
        "then the function has no driver",
        &false,
        &function.path("driver").exists(),
    )?;
    let rule = |rule: &Rule| *rule == Rule::NotBound;
    report.refused(
        "a group of which nothing is bound",
        Group::open(number),
        (Errno::NOENT, &rule),
        &["vfio-pci"],
    )
}

/// The function reports an error, which the host injects when it is told to.
pub(crate) fn error(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let eventfds = Eventfds::new(1)?;
    signal(&owned.device, Irq::Error, &eventfds)?;
    // The host counts no checks until it has read this.
    report.note("inject")?;
    report.same(
        "an error that the function reports signals the eventfd",
        &vec![(0, 1)],
        &eventfds.after(0)?,
    )?;
    owned.device.trigger(Irq::Error, 0..1)?;
    report.same("loopback: so does a trigger", &vec![(0, 1)], &eventfds.after(0)?)?;
    owned.device.disable(Irq::Error)?;
    // With nothing to signal the kernel may call this an error or not.
    let _ = owned.device.trigger(Irq::Error, 0..1);
    report.same("disabled, it signals no more", &vec![], &eventfds.quiet()?)
}

/// Low power, and a BAR given away as dma-buf.
pub(crate) fn features(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let device = &owned.device;
    let bar = device.region(0)?;
    let before: u32 = bar.read_word(0)?;
    device.feature_set(Feature::LowPowerEntry, &[])?;
    let twice = device.feature_set(Feature::LowPowerEntry, &[]);
    report.same(
        "a function that may sleep cannot be told to twice",
        &Some(Errno::INVAL),
        &twice.err().as_ref().and_then(VfioError::errno),
    )?;
    report.same("an access wakes it", &before, &bar.read_word::<u32>(0)?)?;
    device.feature_set(Feature::LowPowerExit, &[])?;
    let eventfds = Eventfds::new(1)?;
    device.sleep_until(eventfds.get(0)?)?;
    device.feature_set(Feature::LowPowerExit, &[])?;
    report.same(
        "it can be told to sleep until it wakes by itself",
        &before,
        &bar.read_word::<u32>(0)?,
    )?;

    let buffer = device.export_dma_buf(0, 0, 0x1000)?;
    report.same(
        "a page of a BAR is a dma-buf of a page",
        &0x1000,
        &rustix::fs::seek(&buffer, rustix::fs::SeekFrom::End(0))?,
    )?;
    let size = bar.info().size;
    let beyond = device
        .export_dma_buf(0, size, 0x1000)
        .err()
        .as_ref()
        .and_then(VfioError::errno);
    report.same(
        "what lies beyond the BAR is not given away",
        &Some(Errno::INVAL),
        &beyond,
    )
}
