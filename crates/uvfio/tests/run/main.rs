//! `uvfio run`: programs that know only the kernel's VFIO.
//!
//! Where this system refuses user namespaces, these tests fail: `uvfio doctor` says what to do.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)] // A test whose ground gives way has failed.

#[path = "../common/mod.rs"]
mod common;

mod book;
mod dpdk;
mod ends;
mod machine;
mod parity;
mod programs;
mod removal;
mod socket;
#[path = "../../../uvfio-driver/tests/theirs/mod.rs"]
mod theirs;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;

/// Has the library that catches calls lie beside the command, where a release has it. Cargo builds no `cdylib` for the
/// tests of another package.
fn build_preload() {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_uvfio")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "build",
            "--quiet",
            "--offline",
            "--package",
            "uvfio-preload",
            "--target-dir",
        ]);
        cargo.arg(folder.parent().unwrap());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        text_of(&mut cargo);
        assert!(
            folder.join("libuvfio_preload.so").is_file(),
            "not in {}",
            folder.display()
        );
    });
}

/// `uvfio run` as an ordinary user, without capabilities, whoever runs the tests.
fn uvfio_run(devices: &[&str]) -> Command {
    uvfio_run_with(devices, &[])
}

/// The same, catching calls in a way that is chosen.
fn uvfio_run_by(way: &str, devices: &[&str]) -> Command {
    uvfio_run_with(devices, &["--via", way])
}

/// The same, with more options.
fn uvfio_run_with(devices: &[&str], options: &[&str]) -> Command {
    let mut command = uvfio_run_verb(devices);
    command.args(options).arg("--");
    command
}

fn uvfio_run_verb(devices: &[&str]) -> Command {
    let mut command = bare_run_verb();
    for device in devices {
        command.args(["--device", device]);
    }
    command
}

/// With no device.
fn bare_run_verb() -> Command {
    build_preload();
    let mut command = ordinary_uvfio();
    command.arg("run");
    command
}

/// The command, of an ordinary user without capabilities, whoever runs the tests.
fn ordinary_uvfio() -> Command {
    let uvfio = env!("CARGO_BIN_EXE_uvfio");
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all",
        ]);
        command.args(["--no-new-privs", uvfio]);
        command
    } else {
        Command::new(uvfio)
    }
}

/// What a shell prints under `uvfio run`, which must end with status 0.
fn shell(devices: &[&str], script: &str) -> String {
    text_of(uvfio_run(devices).args(["sh", "-c", script]))
}

/// What a command prints that must end with status 0.
fn text_of(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn told(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}
