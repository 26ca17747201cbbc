//! Puts a [`Tree`] where the program finds it: in a mount namespace of its own, by mounts of `tmpfs`.
//!
//! A folder of the tree hides the machine's of that name. One that the machine hasn't needs a place: then the folder
//! above it is hidden, too, and everything in it mounted again, so that it looks as it did, with one folder more. All of it
//! can't be written in the end, as no sysfs can by an ordinary user.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};

use crate::tree::{Node, Tree, What};

/// What could not be put in its place.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {why}", path.display())]
pub(crate) struct PlaceError {
    what: &'static str,
    path: PathBuf,
    why: io::Error,
}

/// What came of a tree, once it is in its place.
#[derive(Debug, Default)]
pub(crate) struct Placed {
    /// Nodes, and the device and inode numbers of their files
    pub(crate) nodes: Vec<(Node, u64, u64)>,
    /// The sockets, which listen
    pub(crate) listeners: Vec<UnixListener>,
}

/// Places a tree. The process must be in a mount namespace of its own, with the right to mount.
pub(crate) fn place(tree: &Tree) -> Result<Placed, PlaceError> {
    // A folder that the program's file systems share with those outside is not to carry our mounts there.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(|errno| failed("could not keep mounts to itself below", "/")(errno.into()))?;
    let mut places = Places {
        entries: tree.entries.iter().map(|(path, _)| path.as_path()).collect(),
        hidden: Vec::new(),
        ours: BTreeSet::new(),
    };
    for root in &tree.roots {
        places.make(root)?;
        places.hide(root)?;
    }
    let mut placed = Placed::default();
    for (path, what) in &tree.entries {
        if let Some(folder) = path.parent() {
            places.make(folder)?;
            // Never in a folder of the machine's.
            if !places.ours.contains(folder) {
                places.hide_and_show_again(folder)?;
            }
        }
        put(path, what, &mut placed).map_err(failed("could not make", path))?;
    }
    places.seal()?;
    Ok(placed)
}

fn failed(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.into();
    move |why| PlaceError { what, path, why }
}

struct Places<'a> {
    /// What is to be put into them: nothing of the machine's is shown in its place
    entries: BTreeSet<&'a Path>,
    /// Where a `tmpfs` of ours is mounted
    hidden: Vec<PathBuf>,
    /// Folders in them
    ours: BTreeSet<PathBuf>,
}

impl Places<'_> {
    /// Makes a folder, where it isn't there yet, and room for it.
    fn make(&mut self, folder: &Path) -> Result<(), PlaceError> {
        if folder.is_dir() {
            return Ok(());
        }
        if let Some(above) = folder.parent() {
            self.make(above)?;
            if !self.ours.contains(above) {
                self.hide_and_show_again(above)?;
            }
        }
        DirBuilder::new()
            .mode(0o755)
            .create(folder)
            .map_err(failed("could not make the folder", folder))?;
        self.ours.insert(folder.to_owned());
        Ok(())
    }

    /// Mounts an empty folder over one that is there.
    fn hide(&mut self, folder: &Path) -> Result<(), PlaceError> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("uvfio", folder, "tmpfs", flags, c"mode=755")
            .map_err(|errno| failed("could not mount a tmpfs over", folder)(errno.into()))?;
        self.hidden.push(folder.to_owned());
        self.ours.insert(folder.to_owned());
        Ok(())
    }

    fn hide_and_show_again(&mut self, folder: &Path) -> Result<(), PlaceError> {
        // By this descriptor what is hidden can still be reached.
        let before = rustix::fs::open(
            folder,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| failed("could not open", folder)(errno.into()))?;
        self.hide(folder)?;
        let before = PathBuf::from(format!("/proc/self/fd/{}", before.as_raw_fd()));
        let names = fs::read_dir(&before).map_err(failed("could not list", folder))?;
        for name in names.flatten() {
            let (from, to) = (before.join(name.file_name()), folder.join(name.file_name()));
            if self.entries.contains(to.as_path()) {
                continue;
            }
            match show(&from, &to) {
                // It was removed meanwhile, as a module's folder can be.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !from.exists() => {}
                result => result.map_err(failed("could not show again", &to))?,
            }
        }
        Ok(())
    }

    /// Makes them as unwritable as what they stand for.
    fn seal(&self) -> Result<(), PlaceError> {
        let flags = MountFlags::BIND
            | MountFlags::RDONLY
            | MountFlags::NOSUID
            | MountFlags::NODEV
            | MountFlags::NOEXEC;
        for folder in &self.hidden {
            mount_remount(folder, flags, c"")
                .map_err(|errno| failed("could not write-protect", folder)(errno.into()))?;
        }
        Ok(())
    }
}

/// Has what lies at `from` appear at `to`.
fn show(from: &Path, to: &Path) -> io::Result<()> {
    let kind = from.symlink_metadata()?.file_type();
    if kind.is_symlink() {
        return symlink(from.read_link()?, to);
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
        return Ok(mount_bind_recursive(from, to)?);
    }
    File::create_new(to)?;
    Ok(mount_bind(from, to)?)
}

fn put(path: &Path, what: &What, placed: &mut Placed) -> io::Result<()> {
    match what {
        What::Folder => match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        },
        What::Link(to) => symlink(to, path)?,
        What::File { start, bytes, mode } => {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(*mode).open(path)?;
            file.write_all(start)?;
            file.set_len(*bytes.max(&(start.len() as u64)))?;
        }
        What::Node(node) => {
            // Number 0:0 is the one character device that anybody may make. Nothing is behind it: opened as it is, it
            // is refused, and that is how the opening is caught.
            let mode = Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, 0)?;
            fs::set_permissions(path, Permissions::from_mode(0o666))?;
            let made = rustix::fs::stat(path)?;
            placed.nodes.push((*node, made.st_dev, made.st_ino));
        }
        What::Socket => placed.listeners.push(UnixListener::bind(path)?),
    }
    Ok(())
}
