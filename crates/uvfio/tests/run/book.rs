//! The book's examples, word for word: each page's commands, in an empty folder, by a shell that finds `uvfio` on its path.
//! The one with QEMU is a scenario of `cargo xtask vm`.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use page::{blocks, included, part};

use crate::{build_preload, ordinary_uvfio, text_of};

#[path = "../common/page.rs"]
mod page;

/// Where the book lies.
fn book() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src")
}

/// A reader, with a folder of its own.
struct Reader {
    folder: tempfile::TempDir,
    /// Where the reader is, in it.
    place: PathBuf,
    path: OsString,
}

impl Reader {
    fn new() -> Self {
        build_preload();
        let folder = tempfile::tempdir().unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path(), open.clone()).unwrap();
        // The reader is an ordinary user as far as `uvfio` is concerned, whoever runs the tests.
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let uvfio = ordinary_uvfio();
        let words = std::iter::once(uvfio.get_program()).chain(uvfio.get_args());
        let words: Vec<String> = words.map(|word| format!("'{}'", word.display())).collect();
        let script = bin.join("uvfio");
        fs::write(&script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "))).unwrap();
        fs::set_permissions(&script, open).unwrap();
        let mut path = OsString::from(&bin);
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let place = folder.path().join("work");
        fs::create_dir(&place).unwrap();
        Self { folder, place, path }
    }

    /// What commands of the page print, which must all succeed. Cargo asks no network, and finds what it has built before.
    fn does(&mut self, commands: &str) -> String {
        let target = self.place.join("target");
        if self.place.join("Cargo.toml").exists() && !target.exists() {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("book");
            fs::create_dir_all(&kept).unwrap();
            std::os::unix::fs::symlink(kept, target).unwrap();
        }
        let mut shell = Command::new("sh");
        shell
            .args(["-e", "-c", commands])
            .current_dir(&self.place)
            .env("PATH", &self.path)
            .env("CARGO_NET_OFFLINE", "true")
            .env_remove("CARGO_TARGET_DIR")
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .stdin(Stdio::null());
        let said = text_of(&mut shell);
        for line in commands.lines() {
            if let Some(folder) = line.strip_prefix("cd ") {
                self.place.push(folder);
            }
        }
        said
    }
}

/// Follows one part of the page on `uvfio run`: its code goes to `file`, its commands are given, and what they print is what
/// the page says. Gives what they print.
fn follow(heading: &str, file: &str) -> String {
    let page = fs::read_to_string(book().join("run.md")).unwrap();
    let mut reader = Reader::new();
    let mut said = String::new();
    for (kind, block) in blocks(part(&page, heading)) {
        match (kind.as_str(), included(&block)) {
            ("sh", _) => said += &reader.does(&block),
            ("text", _) => assert_eq!(said, block, "what the page says that it prints, in {heading:?}"),
            (_, Some(source)) => {
                fs::copy(book().join(source), reader.place.join(file)).unwrap();
            }
            _ => panic!("code on the page that no test runs, in {heading:?}:\n{block}"),
        }
    }
    said
}

#[test]
fn the_program_in_c_reaches_configuration_registers_memory_and_interrupts() {
    let said = follow("In C", "edu.c");
    assert!(said.ends_with("interrupts: 1\n"), "{said}");
}

#[test]
fn the_package_in_rust_drives_edu() {
    let said = follow("In Rust", "src/main.rs");
    assert!(said.ends_with("interrupts: 1\n"), "{said}");
}

#[test]
fn dpdk_ends_with_test_ok() {
    let said = follow("DPDK", "");
    assert!(
        said.contains("\nTest OK\n") && said.contains("[0000:01:00.0]"),
        "{said}"
    );
}
