//! DPDK as it is installed on this machine, and programs of ours that use it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::paths;

/// What pkg-config says of DPDK, asked by one option.
///
/// # Errors
/// Where it is not installed, or pkg-config is not.
pub(crate) fn configured(option: &str) -> Result<String> {
    let text = text_of(Command::new("pkg-config").args([option, "libdpdk"])).context(
        "DPDK's headers are not to be found; Debian's packages pkgconf and dpdk-dev have what is needed",
    )?;
    Ok(text.trim().to_owned())
}

/// Compiles a program of one file, which is named from the workspace on and uses the EAL and dmadev.
///
/// # Errors
/// Where DPDK is not installed, or the compiler is not content.
pub(crate) fn compile(source: &str, to: &Path) -> Result<()> {
    let flags = configured("--cflags")?;
    let mut command = Command::new("cc");
    command
        .args(["-std=gnu11", "-O2", "-Wall", "-Werror"])
        // dmadev was new in DPDK 21.11, and for some releases not promised to stay as it is.
        .arg("-DALLOW_EXPERIMENTAL_API")
        .args(flags.split_whitespace())
        .arg("-o")
        .arg(to)
        .arg(paths::workspace().join(source))
        // The drivers are libraries that the EAL finds by itself.
        .args(["-lrte_dmadev", "-lrte_eal"]);
    text_of(&mut command)?;
    Ok(())
}

/// What a command prints.
///
/// # Errors
/// Where it can't be started or does not end well; with what it says on stderr, unless that goes elsewhere.
pub(crate) fn text_of(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
