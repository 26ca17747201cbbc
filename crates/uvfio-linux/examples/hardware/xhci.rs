//! QEMU's nec-usb-xhci, which has 16 MSI messages. They are raised by the kernel's loopback (`trigger`), not by the
//! device: this shows that each message has its own eventfd, not that the device's messages arrive.

use anyhow::Result;
use rustix::io::Errno;
use uvfio_linux::vfio::{Irq, Rule, VfioError};

use crate::owned::{Eventfds, Owned, signal};
use crate::report::Report;

const MESSAGES: usize = 16;

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let device = &owned.device;
    report.same(
        "xhci has 16 MSI messages",
        &(MESSAGES as u32),
        &device.irq(Irq::Msi)?.count,
    )?;
    let eventfds = Eventfds::new(MESSAGES)?;
    signal(device, Irq::Msi, &eventfds)?;
    report.same("16 messages are enabled", &MESSAGES, &owned.function.vectors())?;
    eventfds.quiet()?;
    for message in 0..MESSAGES {
        let number = message as u32;
        device.trigger(Irq::Msi, number..number + 1)?;
        let what = format!("loopback: message {message} signals its eventfd alone");
        report.same(&what, &vec![(message, 1)], &eventfds.after(message)?)?;
    }
    let chosen: Vec<bool> = (0..MESSAGES).map(|message| message % 5 == 0).collect();
    device.trigger_chosen(Irq::Msi, 0, &chosen)?;
    let expected: Vec<_> = (0..MESSAGES).step_by(5).map(|message| (message, 1)).collect();
    report.same(
        "loopback: chosen messages signal their eventfds",
        &expected,
        &eventfds.quiet()?,
    )?;
    device.disable(Irq::Msi)?;
    let few = Eventfds::new(4)?;
    signal(device, Irq::Msi, &few)?;
    device.trigger(Irq::Msi, 0..4)?;
    let expected: Vec<_> = (0..4).map(|message| (message, 1)).collect();
    report.same(
        "loopback: 4 of 16 messages can be enabled",
        &expected,
        &few.quiet()?,
    )?;
    let rule = |rule: &Rule| *rule == Rule::NoResize;
    let more = device.set_eventfds(Irq::Msi, 4, &few.all());
    report.refused(
        "4 more, while these are enabled",
        more,
        (Errno::INVAL, &rule),
        &["disable them"],
    )
}

/// Without interrupt remapping the kernel has one message for a function, however many it could send.
pub(crate) fn one_message(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::enabled(address)?;
    let device = &owned.device;
    let eventfds = Eventfds::new(MESSAGES)?;
    let granted = match device.set_eventfds(Irq::Msi, 0, &eventfds.all()) {
        Err(VfioError::FewerVectors {
            wanted, available, ..
        }) => Some((wanted, available)),
        _ => None,
    };
    report.same(
        "16 messages are refused, with how many there are",
        &Some((16, 1)),
        &granted,
    )?;
    report.same("and none is enabled", &0, &owned.function.vectors())?;
    let one = Eventfds::new(1)?;
    signal(device, Irq::Msi, &one)?;
    device.trigger(Irq::Msi, 0..1)?;
    report.same("loopback: the one works", &vec![(0, 1)], &one.after(0)?)
}
