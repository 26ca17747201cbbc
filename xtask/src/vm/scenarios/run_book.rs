//! The book's example with QEMU under `uvfio run`, word for word; the others are run by the tests of the command.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Context, Scenario};
use crate::paths;
use crate::vm::checks::Checks;

#[path = "../../../../crates/uvfio/tests/common/page.rs"]
mod page;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "run-book",
    about: "the book's commands that give a device to QEMU's vfio-pci under `uvfio run` print what the book says",
    run,
};

const PAGE: &str = "docs/src/run.md";
const HEADING: &str = "QEMU";

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let page = fs::read_to_string(paths::workspace().join(PAGE))?;
    let path = path(context, uvfio)?;
    let mut said = None;
    for (kind, block) in page::blocks(page::part(&page, HEADING)) {
        if kind == "sh" {
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", &block]).current_dir(context.scratch);
            let output = shell.env("PATH", &path).output()?;
            if output.status.success() {
                checks.ok("the book's commands end with success");
            } else {
                let errors = String::from_utf8_lossy(&output.stderr);
                checks.fail(&format!(
                    "the book's commands end with {}: {errors}",
                    output.status
                ));
            }
            said = Some(String::from_utf8_lossy(&output.stdout).replace('\r', ""));
        } else {
            let said = said
                .take()
                .context("the page says what is printed before it says by what")?;
            for line in block.lines() {
                match said.contains(line) {
                    true => checks.ok(&format!("they print {line:?}")),
                    false => checks.fail(&format!("they print: expected {line:?} got {said:?}")),
                }
            }
        }
    }
    checks.same("the page has commands, and what they print", &None, &said);
    Ok(())
}

/// A search path that begins with the command and the testbed's QEMU.
fn path(context: &Context<'_>, uvfio: &Path) -> Result<String> {
    let bin = context.scratch.join("bin");
    fs::create_dir(&bin)?;
    let qemu = context.testbed.qemu();
    let script = bin.join("qemu-system-x86_64");
    let mut text = "#!/bin/sh\n".to_owned();
    for (name, value) in qemu.get_envs() {
        text += &format!(
            "export {}='{}'\n",
            name.display(),
            value.unwrap_or_default().display()
        );
    }
    text += "exec";
    for word in std::iter::once(qemu.get_program()).chain(qemu.get_args()) {
        text += &format!(" '{}'", word.display());
    }
    fs::write(&script, text + " \"$@\"\n")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let folder = uvfio.parent().context("the command is in a folder")?;
    let rest = env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{}:{rest}", bin.display(), folder.display()))
}
