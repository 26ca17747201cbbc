//! What kind of program a file is.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

// ELF (System V ABI, chapters 4 and 5), of 64 bits and little-endian.
const MAGIC: &[u8] = b"\x7fELF\x02\x01";
const PROGRAM_HEADERS: u64 = 32;
const HEADER_BYTES: u64 = 54;
const HEADER_COUNT: u64 = 56;
/// The type of the header that says where there is what the loader wants to know.
const DYNAMIC: u32 = 2;
/// The type of the header that names the loader of shared libraries.
const INTERPRETER: u32 = 3;
/// In a program header: where in the file, and how many bytes.
const OFFSET: u64 = 8;
const BYTES: u64 = 32;
/// An entry for the loader: its tag, and a value.
const ENTRY: u64 = 16;
/// The tag of a shared library's own name.
const SONAME: u64 = 14;
/// More entries no file has.
const MOST_ENTRIES: u64 = 4096;

/// Whether a program, looked for in PATH, takes no shared libraries, so that none can be preloaded to it. What is no such
/// file (a script, a file that can't be read) is taken to have some, and so is the loader itself (`ld.so PROGRAM`), which
/// names no other.
#[must_use]
pub fn is_static(program: &OsStr) -> bool {
    find(program)
        .and_then(|path| File::open(path).ok())
        .is_some_and(|file| has_no_loader(&file) == Some(true))
}

fn find(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 || path.is_absolute() {
        return Some(path.to_owned());
    }
    let is_program = |path: &PathBuf| {
        path.metadata()
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(is_program)
}

/// None for what is no ELF file.
fn has_no_loader(file: &File) -> Option<bool> {
    let read = |at, bytes: &mut [u8]| file.read_exact_at(bytes, at).ok();
    let mut magic = [0; MAGIC.len()];
    read(0, &mut magic)?;
    let (mut start, mut bytes, mut count) = ([0; 8], [0; 2], [0; 2]);
    read(PROGRAM_HEADERS, &mut start)?;
    read(HEADER_BYTES, &mut bytes)?;
    read(HEADER_COUNT, &mut count)?;
    if magic != MAGIC {
        return None;
    }
    for number in 0..u64::from(u16::from_le_bytes(count)) {
        let mut kind = [0; 4];
        let at = number * u64::from(u16::from_le_bytes(bytes));
        let header = u64::from_le_bytes(start).checked_add(at)?;
        read(header, &mut kind)?;
        match u32::from_le_bytes(kind) {
            INTERPRETER => return Some(false),
            DYNAMIC if is_library(&read, header)? => return Some(false),
            _ => {}
        }
    }
    Some(true)
}

/// Whether what is for the loader has a library's name in it: a program without a loader that has one is the loader.
fn is_library(read: &impl Fn(u64, &mut [u8]) -> Option<()>, header: u64) -> Option<bool> {
    let word = |at| {
        let mut word = [0; 8];
        read(at, &mut word).map(|()| u64::from_le_bytes(word))
    };
    let start = word(header.checked_add(OFFSET)?)?;
    let entries = word(header.checked_add(BYTES)?)? / ENTRY;
    for number in 0..entries.min(MOST_ENTRIES) {
        match word(start.checked_add(number * ENTRY)?)? {
            SONAME => return Some(true),
            // The last.
            0 => break,
            _ => {}
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_program_with_shared_libraries_is_told_from_others() {
        let own = env::current_exe().unwrap();
        assert!(!is_static(own.as_os_str()), "a test is linked with libc");
        assert!(!is_static(OsStr::new("sh")), "sh is linked with libc");
        assert!(!is_static(OsStr::new("/nonexistent")));
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let loader = maps
            .split_whitespace()
            .find(|word| word.contains("/ld-"))
            .expect("this test has a loader");
        assert!(
            !is_static(OsStr::new(loader)),
            "{loader} brings libraries to what it loads"
        );
    }

    #[test]
    fn a_static_program_is_static_wherever_it_may_be_loaded() {
        let scratch = tempfile::tempdir().unwrap();
        let source = scratch.path().join("program.c");
        std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
        for option in ["-static", "-static-pie"] {
            let program = scratch.path().join(option);
            let made = std::process::Command::new("cc")
                .arg(option)
                .arg("-o")
                .args([&program, &source])
                .status()
                .unwrap();
            assert!(made.success(), "cc {option}");
            assert!(is_static(program.as_os_str()), "{option}");
        }
    }

    #[test]
    fn what_is_no_whole_program_is_not_static() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("program");
        for bytes in [&b""[..], b"#!/bin/sh\n", MAGIC, &[MAGIC, &[0xff; 60]].concat()] {
            std::fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            assert_ne!(has_no_loader(&file), Some(true), "{bytes:?} {:?}", file.as_fd());
        }
    }
}
