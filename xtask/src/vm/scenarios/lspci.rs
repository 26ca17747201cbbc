//! What lspci, which knows PCI's structures by itself, reads of our devices in a guest.

use anyhow::Result;

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "lspci",
    about: "lspci -vvv in a guest shows our devices' capabilities and finds no fault in them",
    run,
};

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let (edu, messages) = context.edu()?;
    let nvme = context.nvme(&context.image()?, &[])?;
    let ioat = context.ioat(2)?;
    let guest = context.guest().attach(&edu).attach(&nvme);
    let mut guest = match &ioat {
        Some(ioat) => guest.attach(ioat).start()?,
        None => guest.start()?,
    };
    let text = guest.text("text lspci -vvv -nn -d 1234:11e8", STEP)?;
    let msi = format!("MSI: Enable- Count=1/{messages} ");
    shows(checks, "edu", &text, &["Region 0: Memory at", "[size=1M]", &msi]);
    let text = guest.text("text lspci -vvv -nn -d ::0108", STEP)?;
    let mut wanted = vec![
        "[0108]",
        "Region 0: Memory at",
        "MSI-X: Enable-",
        "Express",
        "FLReset+",
    ];
    if nvme.server.is_some() {
        wanted.push("Power Management");
    }
    shows(checks, "nvme", &text, &wanted);
    if ioat.is_some() {
        let text = guest.text("text lspci -vvv -nn -d 8086:2021", STEP)?;
        let wanted = [
            "CBDMA",
            "[size=16K]",
            "MSI-X: Enable- Count=2",
            "Vector table: BAR=0 offset=00002000",
            "FLReset+",
            "Advanced Error Reporting",
        ];
        shows(checks, "ioat", &text, &wanted);
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

fn shows(checks: &mut Checks, device: &str, text: &[String], wanted: &[&str]) {
    for words in wanted {
        match text.iter().any(|line| line.contains(words)) {
            true => checks.ok(&format!("{device}: {words:?} is shown")),
            false => checks.fail(&format!(
                "{device}: expected {words:?} in\n      {}",
                text.join("\n      ")
            )),
        }
    }
    // How lspci marks what it cannot make sense of.
    for words in [
        "!!!",
        "<unknown",
        "<chain",
        "<access denied>",
        "[virtual]",
        "Unknown",
    ] {
        let found: Vec<_> = text.iter().filter(|line| line.contains(words)).collect();
        checks.same(
            &format!("{device}: no line has {words:?}"),
            &Vec::<&String>::new(),
            &found,
        );
    }
}
