//! What a user must not do: each is tried, and the server's own reason is shown.

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;
use uvfio_core::region_index::{CONFIG, COUNT};
use uvfio_core::{Device, IrqIndex};
use uvfio_soft::edu::{BAR_BYTES, BUFFER_AT, BUFFER_BYTES, COMMAND_FROM_DEVICE, Reg};

use super::dma::{pattern, transfer};
use super::register;
use crate::demo::function::{
    COMMAND_BUS_MASTER, COMMAND_MEMORY, capabilities, command, config_u32, set_config_u32,
};
use crate::demo::link::{Link, Refused, errno_name};
use crate::demo::page::Section;
use crate::demo::user::{MEMORY_BYTES, MEMORY_IOVA, User};

pub(in crate::demo) fn refused(
    user: &mut User,
    _edu: &dyn Device,
    page: &mut Section,
) -> Result<(), Refused> {
    let half = MEMORY_BYTES / 2;
    request(
        user,
        page,
        "reading past the end of BAR 0",
        Errno::INVAL,
        |user| user.link.read(0, u64::from(BAR_BYTES), &mut [0; 4]),
    );
    request(
        user,
        page,
        "reading a region that is not there",
        Errno::INVAL,
        |user| user.link.read(COUNT, 0, &mut [0; 4]),
    );
    request(
        user,
        page,
        "mapping memory over a mapping",
        Errno::EXIST,
        |user| user.link.map(&user.memory, MEMORY_IOVA + half, MEMORY_BYTES),
    );
    request(user, page, "unmapping half a mapping", Errno::INVAL, |user| {
        user.link.unmap(MEMORY_IOVA, half)
    });
    request(
        user,
        page,
        "an eventfd for message 8 of 8",
        Errno::INVAL,
        |user| {
            let eventfd = crate::demo::link::counter()?;
            user.link.set_eventfds(IrqIndex::Msi, 8, &[eventfd.as_fd()])
        },
    );
    request(
        user,
        page,
        "memory in place of an eventfd",
        Errno::INVAL,
        |user| user.link.set_eventfds(IrqIndex::Msi, 0, &[user.memory.as_fd()]),
    );

    dma(
        user,
        page,
        "DMA to an address not mapped",
        MEMORY_IOVA + MEMORY_BYTES,
        BUFFER_AT,
    )?;
    dma(
        user,
        page,
        "DMA past the end of its own buffer",
        MEMORY_IOVA,
        BUFFER_AT + 1,
    )?;
    command(&mut user.link, COMMAND_BUS_MASTER, false)?;
    dma(user, page, "DMA with bus master off", MEMORY_IOVA, BUFFER_AT)?;
    command(&mut user.link, COMMAND_BUS_MASTER, true)?;

    let link = &mut user.link;
    command(link, COMMAND_MEMORY, false)?;
    let off = register(link, Reg::Identification)?;
    command(link, COMMAND_MEMORY, true)?;
    page.check(
        "a BAR while memory decoding is off",
        format!("reads {off:#x}"),
        off == u32::MAX,
        "all ones",
    )
    .number("reads", off);

    read_only(link, page)?;

    let identification = register(link, Reg::Identification)?;
    page.check(
        "after all this the device answers",
        format!("identification {identification:#010x}"),
        identification & 0xff == 0xed,
        "0xRRrr00ed",
    )
    .number("identification", identification);
    Ok(())
}

/// A request that must be answered with `errno`, and for which the server logs a reason.
fn request(
    user: &mut User,
    page: &mut Section,
    what: &str,
    errno: Errno,
    ask: impl FnOnce(&mut User) -> Result<(), Refused>,
) {
    user.skip_log();
    let expected = format!(
        "refused with {}, and the reason logged",
        errno_name(errno.raw_os_error())
    );
    match ask(user) {
        Ok(()) => {
            page.check(what, "granted", false, expected);
        }
        Err(refused) => {
            let reason = user.reason();
            let ok = refused.errno == Some(errno.raw_os_error()) && reason.is_some();
            page.check(
                what,
                format!("{refused}: {}", reason.unwrap_or_default()),
                ok,
                expected,
            )
            .number("errno", refused.errno);
        }
    }
}

/// A transfer from the device's buffer that must write nothing: the memory and what lies behind it stay.
fn dma(user: &mut User, page: &mut Section, what: &str, iova: u64, device: u64) -> Result<(), Refused> {
    let unreadable = |e: std::io::Error| Refused::absent(e.to_string());
    let marker = pattern().iter().map(|byte| !byte).collect::<Vec<_>>();
    user.memory.write_all_at(&marker, 0).map_err(unreadable)?;
    user.skip_log();
    let ended = transfer(user, device, iova, COMMAND_FROM_DEVICE)?.ended;
    let reason = user.reason();
    let mut after = vec![0; BUFFER_BYTES];
    user.memory.read_exact_at(&mut after, 0).map_err(unreadable)?;
    let untouched = after == marker;
    let seen = reason.clone().unwrap_or_else(|| "no reason logged".into());
    page.check(
        what,
        seen,
        ended && untouched && reason.is_some(),
        "ended, nothing written, the reason logged",
    );
    Ok(())
}

/// Vendor and device ID stay, and every byte of configuration space that no capability and no header covers reads 0 and
/// keeps nothing.
fn read_only(link: &mut Link, page: &mut Section) -> Result<(), Refused> {
    let identity = config_u32(link, 0)?;
    set_config_u32(link, 0, !identity)?;
    let now = config_u32(link, 0)?;
    // Beyond the last capability, whose length is at most 60 bytes (PCI Express).
    let last = capabilities(link)?
        .iter()
        .map(|(at, _)| *at)
        .max()
        .unwrap_or(0x40)
        + 60;
    let first = last.next_multiple_of(4);
    let bytes = link.region_bytes(CONFIG)?;
    let length = bytes.saturating_sub(first) as usize;
    link.write(CONFIG, first, &vec![0xff; length])?;
    let mut after = vec![0xff; length];
    link.read(CONFIG, first, &mut after)?;
    let set = after.iter().filter(|byte| **byte != 0).count();
    page.check(
        "writing its ID, and undeclared bytes",
        format!("{now:#010x} stays; {set} of {length} bytes from {first:#x} on read other than 0"),
        now == identity && set == 0 && length > 0,
        format!("{identity:#010x}; none"),
    )
    .number("id", now)
    .number("set_bytes", set)
    .number("undeclared_bytes", length);
    Ok(())
}
