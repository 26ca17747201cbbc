//! What the command says, and its exit status, when it can't do what it was asked for.

#![allow(clippy::expect_used)] // A test that can't start the command has failed.

use std::process::{Command, Output};

fn uvfio(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvfio"))
        .args(args)
        .output()
        .expect("the command starts")
}

#[track_caller]
fn refused(args: &[&str], sentence: &str) {
    let output = uvfio(args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(2),
        "exit status of uvfio {args:?}, which said: {said}"
    );
    assert!(
        said.contains(sentence),
        "uvfio {args:?} should say {sentence:?}, but said: {said}"
    );
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_bad_command_line_ends_with_status_2_and_one_sentence() {
    refused(
        &["serve", "floppy", "--socket", "s"],
        r#"there is no device "floppy"; the devices are: edu, ioat, nvme, notify"#,
    );
    refused(
        &["serve", "edu,colour=red", "--socket", "s"],
        r#"edu has no option "colour""#,
    );
    refused(&["serve", "nvme", "--socket", "s"], "needs storage");
    refused(&["serve", "edu"], "--socket");
    refused(
        &["serve", "edu", "--socket", "s", "--fd", "0"],
        "cannot be used with",
    );
    refused(
        &["serve", "edu", "--fd", "999"],
        "--fd 999 is not an open descriptor",
    );
    refused(
        &["serve", "edu", "--fd", "1"],
        "--fd 1 is not a UNIX stream socket",
    );
    refused(&["serve", "edu", "--socket", "s", "--view", "naked"], "naked");
    refused(
        &["serve", "edu", "--socket", "s", "--bars", "device-fd"],
        "--bars is for PCI functions of this machine",
    );
    refused(
        &["serve", "edu", "--socket", "s", "--between-users", "never"],
        "--between-users is for PCI functions of this machine",
    );
    refused(
        &["serve", "edu", "--socket", "s", "--unsafe-interrupts"],
        "--unsafe-interrupts is for PCI functions of this machine",
    );
    refused(
        &["serve", "edu", "nvme,mem=1M", "--socket", "s", "--socket", "t"],
        "edu is no PCI function of this machine; only functions of one IOMMU group are served together",
    );
    refused(
        &["serve", "edu", "--socket", "s", "--socket", "t"],
        "2 of --socket for 1 of edu: give one for each",
    );
    refused(
        &["serve", "02:01.0", "02:02.0", "--socket", "s"],
        "1 of --socket for 2 of 0000:02:01.0 0000:02:02.0: give one for each, or for several functions one folder",
    );
    // Before the functions are looked at.
    refused(
        &[
            "serve",
            "02:01.0",
            "02:02.0",
            "--between-users",
            "format",
            "--socket",
            "s",
        ],
        "1 of --socket for 2 of 0000:02:01.0 0000:02:02.0: give one for each, or for several functions one folder",
    );
    refused(
        &["serve", "edu", "--socket", "s", "--release-within", "3"],
        "--release-within is for PCI functions of this machine, and edu is a device in software",
    );
    refused(
        &["serve", "02:01.0", "02:02.0", "--fd", "0"],
        "a descriptor (--fd) is for one",
    );
    refused(&["serve", "edu", "--socket", "s", "--log", "=="], "--log");
    refused(&["fly"], "fly");
    refused(&[], "Usage");
}

#[test]
fn what_the_command_line_lacks_or_has_too_much_is_said_in_one_line() {
    for (args, line) in [
        (
            &["serve", "edu"][..],
            "uvfio serve: the following required arguments were not provided: --socket <PATH>; see `uvfio serve --help`",
        ),
        (
            &["serve", "edu", "--socket", "s", "--view", "naked"],
            "uvfio serve: invalid value 'naked' for '--view <VIEW>' [possible values: virtual, filtered, raw]; \
             see `uvfio serve --help`",
        ),
        (
            &["fly"],
            "uvfio: unrecognized subcommand 'fly'; see `uvfio --help`",
        ),
    ] {
        let output = uvfio(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            format!("{line}\n"),
            "{args:?}"
        );
    }
    for help in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let output = uvfio(help);
        assert!(output.status.success() && !output.stdout.is_empty(), "{help:?}");
    }
}

#[test]
fn an_image_that_can_not_be_used_ends_with_status_2_and_one_sentence() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let socket = socket.to_str().expect("a plain path");
    let missing = format!("nvme,file={}", dir.path().join("no.img").display());
    refused(
        &["serve", &missing, "--socket", socket],
        "does not exist; give size=SIZE to have it made",
    );
    let folder = format!("nvme,file={},ro", dir.path().display());
    refused(
        &["serve", &folder, "--socket", socket],
        "neither a regular file nor a block device",
    );
    assert!(!dir.path().join("s").exists(), "a socket was left behind");
}

#[test]
fn a_socket_path_that_is_taken_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("precious");
    std::fs::write(&path, "data").expect("written");
    refused(
        &["serve", "edu", "--socket", path.to_str().expect("a plain path")],
        "is not a socket",
    );
    assert_eq!(std::fs::read(&path).expect("still there"), b"data");
    let long = dir.path().join("x".repeat(120));
    refused(
        &["serve", "edu", "--socket", long.to_str().expect("a plain path")],
        "too long for a socket",
    );
}
