//! Image files: opened, created, checked.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, flock, ftruncate, memfd_create};

/// Why an image can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// It isn't there, and no size was given to make it with.
    #[error("image {path:?} does not exist; give size=SIZE to have it made")]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// It is neither a file nor a block device.
    #[error("image {path:?} is neither a regular file nor a block device")]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// It has another size than was asked for.
    #[error(
        "image {path:?} has {have} bytes, but size={wanted} was asked for; leave size away to take it as it is"
    )]
    Size {
        /// Which.
        path: PathBuf,
        /// Its size in bytes.
        have: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// It has no block of data, or a part of one.
    #[error(
        "image {path:?} has {have} bytes, which is not a whole number of blocks of {block}; change its size or block="
    )]
    Blocks {
        /// Which.
        path: PathBuf,
        /// Its size in bytes.
        have: u64,
        /// The block size in bytes.
        block: u32,
    },
    /// Another process has it.
    #[error("image {path:?} is in use by another process; end that, or add ro to both to share it")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The system refused.
    #[error("image {path:?} could not be {doing}: {why}")]
    System {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        why: io::Error,
    },
}

/// How long an image may still be locked by a process that is ending.
const LOCK_PATIENCE: Duration = Duration::from_millis(250);

/// An image that is open, and locked for as long as it is.
#[derive(Debug)]
pub struct Image {
    /// The file or block device.
    pub file: File,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Image {
    /// Memory of the same size, for a device that nobody will read: never written, it takes none.
    ///
    /// # Errors
    /// The system's.
    pub fn stand_in(&self) -> io::Result<Self> {
        let memory = memfd_create(c"stand-in", MemfdFlags::CLOEXEC)?;
        ftruncate(&memory, self.bytes)?;
        Ok(Self {
            file: File::from(memory),
            bytes: self.bytes,
        })
    }
}

/// Opens an image. An image that isn't there is made if `size` is given (sparse,
/// mode 0600). The file is locked, shared where `read_only`, for as long as it is open.
pub(crate) fn open(path: &Path, size: Option<u64>, block: u32, read_only: bool) -> Result<Image, ImageError> {
    let failed = |doing| {
        move |why| ImageError::System {
            path: path.into(),
            doing,
            why,
        }
    };
    let file = match OpenOptions::new().read(true).write(!read_only).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => match size {
            Some(size) if !read_only => create(path, size).map_err(failed("made"))?,
            _ => return Err(ImageError::Missing { path: path.into() }),
        },
        Err(error) => return Err(failed("opened")(error)),
    };
    let lock = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    // A server that was killed holds it until its last process is gone.
    let late = Instant::now() + LOCK_PATIENCE;
    let mut locked = flock(&file, lock);
    while locked == Err(rustix::io::Errno::WOULDBLOCK) && Instant::now() < late {
        std::thread::sleep(Duration::from_millis(5));
        locked = flock(&file, lock);
    }
    match locked {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(ImageError::InUse { path: path.into() }),
        Err(errno) => return Err(failed("locked")(errno.into())),
    }
    let have = bytes_of(&file, path)?;
    match size {
        Some(wanted) if wanted != have => Err(ImageError::Size {
            path: path.into(),
            have,
            wanted,
        }),
        _ if have == 0 || !have.is_multiple_of(u64::from(block)) => Err(ImageError::Blocks {
            path: path.into(),
            have,
            block,
        }),
        _ => Ok(Image { file, bytes: have }),
    }
}

fn create(path: &Path, size: u64) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    if let Err(why) = file.set_len(size) {
        // An image of another size than was asked for would only be in the way of the next attempt.
        let _ = std::fs::remove_file(path);
        return Err(why);
    }
    // A host's flush covers its data; that the file is there at all after a crash is ours to see to.
    file.sync_all()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(file)
}

fn bytes_of(file: &File, path: &Path) -> Result<u64, ImageError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |why| ImageError::System {
        path: path.into(),
        doing: "measured",
        why,
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() {
        Ok(metadata.len())
    } else if metadata.file_type().is_block_device() {
        // A block device's length is where its end lies.
        rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(|errno| failed(errno.into()))
    } else {
        Err(ImageError::NotAFile { path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_image_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk.img");
        let sentence = |size, block, ro| open(&path, size, block, ro).expect_err("refused").to_string();

        assert!(
            sentence(None, 512, false).contains("does not exist; give size=SIZE"),
            "{}",
            sentence(None, 512, false)
        );
        drop(open(&path, Some(1 << 20), 512, false).expect("made with the size given"));
        assert!(sentence(Some(1 << 19), 512, false).contains("has 1048576 bytes, but size=524288"));

        let Image { file: held, bytes } = open(&path, None, 512, false).expect("taken as it is");
        assert_eq!(bytes, 1 << 20);
        assert!(sentence(None, 512, true).contains("in use by another process"));
        held.set_len(1000).expect("cut");
        drop(held);
        assert!(sentence(None, 512, false).contains("not a whole number of blocks of 512"));
        let folder = open(dir.path(), None, 512, true)
            .expect_err("a folder")
            .to_string();
        assert!(
            folder.contains("neither a regular file nor a block device"),
            "{folder}"
        );
    }

    #[test]
    fn an_image_that_cannot_be_made_as_large_as_asked_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk.img");
        let error = open(&path, Some(u64::MAX - 511), 512, false).expect_err("too large for any file");
        assert!(error.to_string().contains("could not be made"), "{error}");
        assert!(!path.exists(), "{path:?} was left behind");
    }

    #[test]
    fn readers_share_an_image() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("disk.img");
        drop(open(&path, Some(4096), 4096, false).expect("made"));
        let _one = open(&path, None, 4096, true).expect("first reader");
        let _two = open(&path, None, 4096, true).expect("second reader");
    }
}
