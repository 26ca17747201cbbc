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
/// The type of the header that names the loader of shared libraries.
const INTERPRETER: u32 = 3;

/// Whether a program, looked for in PATH, takes no shared libraries, so that none can be preloaded to it. What is no such
/// file (a script, a file that can't be read) is taken to have some.
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
        read(u64::from_le_bytes(start).checked_add(at)?, &mut kind)?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Some(false);
        }
    }
    Some(true)
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
