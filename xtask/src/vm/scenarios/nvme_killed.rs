//! A guest that ends in the middle of writing.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Context, RECORDS, STEP, Scenario, flushed_records};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "nvme-killed",
    about: "when a guest is killed in mid-write, everything that it flushed is in the image",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.image()?;
    let nvme = context.nvme(&image, &[])?;
    let mut guest = context.guest().attach(&nvme).start()?;
    guest.tell("nvme_write_records")?;
    let flushed = flushed_records(&mut guest, RECORDS, checks)?;
    guest.kill()?;
    checks.same(
        "flushed records that the image lacks",
        &Vec::new(),
        &missing(&image, flushed)?,
    );
    let mut guest = context.guest().attach(&nvme).start()?;
    let last = flushed - 1;
    let read = format!(
        "modprobe nvme; eventually 60 test -b /dev/nvme0n1; text dd if=/dev/nvme0n1 bs=16 count=1 skip={} iflag=skip_bytes status=none",
        last * 4096
    );
    let text = guest.text(&read, STEP)?;
    checks.same(
        "the next guest reads the last record",
        &vec![format!("record {last:08}")],
        &text,
    );
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// The records below `count` that are not where the guest wrote them.
fn missing(image: &Path, count: usize) -> Result<Vec<usize>> {
    let bytes = fs::read(image)?;
    let whole = |number: &usize| {
        let at = number * 4096;
        let text = format!("record {number:08}\n");
        bytes.get(at..at + 4096).is_some_and(|block| {
            block.starts_with(text.as_bytes()) && block[text.len()..].iter().all(|byte| *byte == b' ')
        })
    };
    Ok((0..count).filter(|number| !whole(number)).collect())
}
