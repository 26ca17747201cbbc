//! A folder such as `/sys`, read with care: it may be made up, half gone, or somebody's joke.
//!
//! Nothing is read without bound, nothing that could block is opened, and no link is followed out of the tree.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Error;

/// The most that is read of an attribute, in bytes. The kernel's are at most one page.
const ATTRIBUTE: u64 = 64 << 10;
/// The most that is read of a list of the kernel's such as mountinfo, in bytes.
const LIST: u64 = 16 << 20;
/// The most entries that are taken of one folder.
const ENTRIES: usize = 1 << 16;
/// The most of a text that is repeated in an error, in characters.
const REPEATED: usize = 80;

/// The tree below one folder.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }

    /// Where a path leads when every link is followed; none where there is nothing. Never out of the tree.
    pub(super) fn resolve(&self, path: &Path) -> Result<Option<PathBuf>, Error> {
        let outside = || Error::Outside {
            path: path.to_owned(),
            root: self.root.clone(),
        };
        let root = match self.root.canonicalize() {
            Ok(root) => root,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => return Err(unreadable(&self.root, source)),
        };
        match path.canonicalize() {
            Ok(real) if real.starts_with(&root) => Ok(Some(real)),
            Ok(_) => Err(outside()),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                Err(outside())
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(path, source)),
        }
    }

    /// The last part of what a link says, such as the driver's name; none where there is no link.
    pub(super) fn link_name(&self, link: &Path) -> Result<Option<String>, Error> {
        match fs::read_link(link) {
            Ok(to) => Ok(to.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(link, source)),
        }
    }

    /// An attribute's text without the white space around it; none where it does not exist.
    pub(super) fn attribute(&self, path: &Path) -> Result<Option<String>, Error> {
        Ok(self.text(path, ATTRIBUTE)?.map(|text| text.trim().to_owned()))
    }

    /// A list of the kernel's, as it is; none where it does not exist.
    pub(super) fn list(&self, path: &Path) -> Result<Option<String>, Error> {
        self.text(path, LIST)
    }

    fn text(&self, path: &Path, most: u64) -> Result<Option<String>, Error> {
        let bytes = self.bytes(path, most)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The first `most` bytes of a file; none where it does not exist.
    pub(super) fn bytes(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.open(path, false)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        match file.take(most).read_to_end(&mut bytes) {
            Ok(_) => Ok(Some(bytes)),
            // The function has been removed since, or its driver was.
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(path, source)),
        }
    }

    /// Opens a file to read it, or to write it too; none where it does not exist.
    pub(super) fn open(&self, path: &Path, write: bool) -> Result<Option<File>, Error> {
        let Some(path) = self.resolve(path)? else {
            return Ok(None);
        };
        // Opening what is not a plain file could wait for somebody at its other end.
        let opened = OpenOptions::new()
            .read(true)
            .write(write)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path);
        match opened.and_then(only_plain) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(unreadable(&path, source)),
        }
    }

    /// The names in a folder, sorted; none where there is no folder.
    pub(super) fn names(&self, folder: &Path) -> Result<Option<Vec<String>>, Error> {
        let Some(folder) = self.resolve(folder)? else {
            return Ok(None);
        };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(source) => return Err(unreadable(&folder, source)),
        };
        let mut names: Vec<String> = entries
            .take(ENTRIES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(Some(names))
    }

    /// Writes a value to an attribute that exists, in one call, as the kernel wants it.
    pub(super) fn write(&self, path: &Path, value: &str) -> Result<(), Error> {
        let failed = |source| Error::Write {
            path: path.to_owned(),
            value: value.to_owned(),
            source,
        };
        let Some(path) = self.resolve(path)? else {
            return Err(failed(io::ErrorKind::NotFound.into()));
        };
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        let mut file = opened.and_then(only_plain).map_err(failed)?;
        file.write_all(format!("{value}\n").as_bytes()).map_err(failed)
    }
}

/// A number as the kernel writes it: hexadecimal after `0x`, else decimal, perhaps negative.
pub(super) fn number(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (digits, radix) = match digits.strip_prefix("0x") {
        Some(hexadecimal) => (hexadecimal, 16),
        None => (digits, 10),
    };
    // `from_str_radix` would take a sign of its own.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    Some(if negative { -number } else { number })
}

/// A number that must be hexadecimal, after `0x`.
pub(super) fn hexadecimal(text: &str) -> Option<u64> {
    text.strip_prefix("0x")?;
    u64::try_from(number(text)?).ok()
}

pub(super) fn malformed(path: &Path, text: &str, expected: &'static str) -> Error {
    Error::Malformed {
        path: path.to_owned(),
        text: printable(text),
        expected,
    }
}

pub(super) fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::Read {
        path: path.to_owned(),
        source,
    }
}

/// Whether an error means that the thing is not there (any more). Reading an attribute of a function that has just
/// been removed gives ENODEV.
pub(super) fn is_absent(error: &io::Error) -> bool {
    let gone = rustix::io::Errno::NODEV.raw_os_error();
    let no_process = rustix::io::Errno::SRCH.raw_os_error();
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || error
        .raw_os_error()
        .is_some_and(|number| number == gone || number == no_process)
}

/// A name that somebody else chose, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    let fit = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(REPEATED).map(fit).collect()
}

fn only_plain(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no plain file"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_writes_them() {
        for (text, value) in [
            ("0x8086", Some(0x8086)),
            ("7", Some(7)),
            ("-1", Some(-1)),
            ("0xffffffffffffffff", Some(i128::from(u64::MAX))),
            ("0x10000000000000000", None),
            ("", None),
            ("0x", None),
            ("-", None),
            ("+1", None),
            ("0x+1", None),
            ("--1", None),
            ("1f", None),
            ("1 ", None),
        ] {
            assert_eq!(number(text), value, "{text:?}");
        }
    }

    #[test]
    fn no_link_leads_out_of_the_tree_or_round_in_circles() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("sys");
        fs::create_dir(&root).expect("made");
        fs::write(folder.path().join("secret"), "secret").expect("written");
        symlink("../secret", root.join("out")).expect("linked");
        symlink("round", root.join("round")).expect("linked");
        symlink("nowhere", root.join("dangling")).expect("linked");
        let tree = Tree::at(&root);
        for name in ["out", "round"] {
            let path = root.join(name);
            assert!(
                matches!(tree.attribute(&path), Err(Error::Outside { .. })),
                "{name} was read"
            );
            assert!(
                matches!(tree.write(&path, "x"), Err(Error::Outside { .. })),
                "{name} was written"
            );
        }
        assert_eq!(tree.attribute(&root.join("dangling")).expect("no error"), None);
        assert!(matches!(
            tree.write(&root.join("dangling"), "x"),
            Err(Error::Write { .. })
        ));
        assert_eq!(
            fs::read_to_string(folder.path().join("secret")).expect("read"),
            "secret"
        );
        assert!(!root.join("nowhere").exists(), "writing an attribute made a file");
    }

    #[test]
    fn what_would_block_or_never_end_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).expect("made");
        let tree = Tree::at(folder.path());
        let refused = tree
            .attribute(&fifo)
            .expect_err("a FIFO is no attribute")
            .to_string();
        assert!(refused.contains("no plain file"), "{refused}");
        let long = folder.path().join("long");
        fs::write(&long, vec![b'x'; 1 << 20]).expect("written");
        let text = tree.attribute(&long).expect("no error").expect("it is there");
        assert_eq!(text.len() as u64, ATTRIBUTE);
        assert!(
            tree.attribute(folder.path()).is_err(),
            "a folder was read as an attribute"
        );
    }

    proptest! {
        #[test]
        fn every_number_is_read_back(value: u64, negative: bool) {
            prop_assert_eq!(number(&format!("{value:#x}")), Some(i128::from(value)));
            let signed = if negative { -i128::from(value) } else { i128::from(value) };
            if !(negative && value == 0) {
                prop_assert_eq!(number(&signed.to_string()), Some(signed));
            }
        }

        #[test]
        fn no_text_makes_the_parser_fall_over(text in "\\PC{0,40}") {
            let _ = number(&text);
        }
    }
}
