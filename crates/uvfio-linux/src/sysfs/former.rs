//! Notes of which driver had a function before vfio-pci: one small file each in `/run/uvfio/bound`.
//!
//! A note only helps: without it, or with one that makes no sense, the kernel chooses the driver, as it does when a
//! device appears.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::tree::Tree;
use super::{Address, Error, Host};

/// The first line of a note.
const HEAD: &str = "uvfio 1";

/// What a function was like before vfio-pci had it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Former {
    pub(super) driver: Option<String>,
    pub(super) driver_override: Option<String>,
}

impl Former {
    fn text(&self) -> String {
        let mut text = format!("{HEAD}\n");
        for (key, value) in [("driver", &self.driver), ("override", &self.driver_override)] {
            if let Some(value) = value {
                text += &format!("{key} {value}\n");
            }
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(HEAD) {
            return None;
        }
        let mut former = Self::default();
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            let field = match key {
                "driver" => &mut former.driver,
                "override" => &mut former.driver_override,
                _ => return None,
            };
            if !is_driver_name(value) || field.replace(value.to_owned()).is_some() {
                return None;
            }
        }
        Some(former)
    }
}

/// Whether a text may be the name of a folder in `/sys/bus/pci/drivers`. Some drivers' names have spaces.
fn is_driver_name(name: &str) -> bool {
    let printable = name.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    !name.is_empty() && name.len() < 256 && printable && !name.contains('/') && !name.starts_with('.')
}

impl Host {
    fn note(&self, address: Address) -> PathBuf {
        self.notes.join(address.to_string())
    }

    /// What is noted of a function; none where nothing is, or nothing that makes sense.
    pub(super) fn former(&self, address: Address) -> Option<Former> {
        let notes = Tree::at(&self.root);
        Former::parse(&notes.attribute(&self.note(address)).ok()??)
    }

    /// Notes what a function is like. The note is there as a whole or not at all.
    pub(super) fn note_former(&self, address: Address, former: &Former) -> Result<(), Error> {
        let path = self.note(address);
        let failed = |source| Error::Write {
            path: path.clone(),
            value: format!("the former driver of {address}"),
            source,
        };
        self.make_notes().map_err(failed)?;
        let unfinished = self.notes.join(format!(".{address}.{}", std::process::id()));
        // Left by a process that had our number and was killed.
        let _ = fs::remove_file(&unfinished);
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&unfinished)
            .and_then(|mut file| file.write_all(former.text().as_bytes()))
            .and_then(|()| fs::rename(&unfinished, &path));
        written.map_err(|error| {
            let _ = fs::remove_file(&unfinished);
            failed(error)
        })
    }

    /// Removes the note of a function, if there is one.
    pub(super) fn forget_former(&self, address: Address) -> Result<(), Error> {
        let path = self.note(address);
        if Tree::at(&self.root).resolve(&self.notes)?.is_none() {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Write {
                path,
                value: "its removal".to_owned(),
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Makes the folder of the notes, one level after the other, so that no link leads out of the root.
    fn make_notes(&self) -> io::Result<()> {
        let root = self.root.canonicalize()?;
        let inside = self.notes.strip_prefix(&self.root).unwrap_or(Path::new(""));
        let mut folder = self.root.clone();
        for level in inside {
            folder.push(level);
            match fs::DirBuilder::new().mode(0o755).create(&folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            if !folder.canonicalize()?.starts_with(&root) {
                return Err(io::Error::other("it lies outside of the root"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn notes_that_make_no_sense_are_as_none() {
        for text in [
            "",
            "uvfio 2\n",
            "driver nvme\n",
            "uvfio 1\ndriver\n",
            "uvfio 1\ndriver ../../x\n",
            "uvfio 1\ndriver a/b\n",
            "uvfio 1\ndriver a\ndriver b\n",
            "uvfio 1\ncolour red\n",
        ] {
            assert_eq!(Former::parse(text), None, "{text:?}");
        }
        assert_eq!(Former::parse("uvfio 1\n"), Some(Former::default()));
    }

    #[test]
    fn notes_are_not_written_through_a_link_out_of_the_root() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, elsewhere) = (folder.path().join("root"), folder.path().join("elsewhere"));
        fs::create_dir(&root).expect("made");
        fs::create_dir(&elsewhere).expect("made");
        std::os::unix::fs::symlink(&elsewhere, root.join("run")).expect("linked");
        let address = "00:03.0".parse().expect("an address");
        let refused = Host::at(&root).note_former(address, &Former::default());
        assert!(matches!(refused, Err(Error::Write { .. })), "{refused:?}");
        assert_eq!(fs::read_dir(&elsewhere).expect("read").count(), 0);
        let note = elsewhere.join(format!("uvfio/bound/{address}"));
        fs::create_dir_all(elsewhere.join("uvfio/bound")).expect("made");
        fs::write(&note, "theirs").expect("written");
        let refused = Host::at(&root).forget_former(address);
        assert!(matches!(refused, Err(Error::Outside { .. })), "{refused:?}");
        assert!(note.exists(), "a note was removed through a link");
    }

    proptest! {
        #[test]
        fn every_note_is_read_as_it_was_written(
            driver in proptest::option::of("[a-zA-Z0-9_-][ a-zA-Z0-9_.-]{0,20}"),
            driver_override in proptest::option::of("[a-z_-]{1,20}"),
        ) {
            // A name does not end with white space; the kernel's attributes are read without it.
            let driver = driver.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
            let former = Former { driver, driver_override };
            prop_assert_eq!(Former::parse(&former.text()), Some(former));
        }

        #[test]
        fn no_text_makes_the_parser_fall_over(text in "\\PC*|(uvfio 1\n)?[a-z ./\n]{0,60}") {
            let _ = Former::parse(&text);
        }
    }
}
