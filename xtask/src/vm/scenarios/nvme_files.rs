//! The stock nvme driver with a file system, through resets of every kind.

use anyhow::Result;

use super::{Context, Reach, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SHARED_MEMORY: Scenario = Scenario {
    name: "nvme-files",
    about: "files on our NVMe survive function resets under load, removal and a reboot of the guest",
    run: |context, checks| run(Reach::Shared, &[], context, checks),
};

pub(super) const BY_MESSAGE: Scenario = Scenario {
    name: "nvme-files-msg",
    about: "the same where guest memory is reached by message",
    run: |context, checks| run(Reach::Messages, &[], context, checks),
};

pub(super) const IOMMU: Scenario = Scenario {
    name: "nvme-files-iommu",
    about: "the same behind an IOMMU of the guest's",
    run: |context, checks| run(Reach::Iommu, &[], context, checks),
};

pub(super) const MAPPED_DOORBELLS: Scenario = Scenario {
    name: "nvme-files-mapped",
    about: "the same where QEMU maps the doorbells, which are always polled",
    run: |context, checks| run(Reach::Shared, &["poll=always"], context, checks),
};

fn run(reach: Reach, options: &[&str], context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let image = context.image()?;
    let nvme = context.nvme(&image, options)?;
    let mut guest = context
        .guest_reached_by(reach)
        .attach(&nvme)
        .may_reboot()
        .start()?;
    guest.run("nvme_make_files", STEP, checks)?;
    guest.run("nvme_reset_under_load", 2 * STEP, checks)?;
    guest.run("nvme_remove_and_rescan", STEP, checks)?;
    guest.run("nvme_find_files", STEP, checks)?;
    guest.reboot()?;
    checks.ok("the guest reboots");
    guest.run("nvme_find_files", STEP, checks)?;
    // A reset of the machine while writes are under way: the file system's journal has to do.
    guest.tell("nvme_mount; while :; do dd if=/dev/zero of=/mnt/more bs=64k count=64; note written; done")?;
    guest.note(STEP, checks)?;
    guest.reboot()?;
    guest.run(
        "nvme_appears; nvme_mount; check 'the files are as written' nvme_verify; nvme_unmount",
        STEP,
        checks,
    )?;
    guest.run("nvme_find_files", STEP, checks)?;
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    context.image_is_clean(&image, checks)
}
