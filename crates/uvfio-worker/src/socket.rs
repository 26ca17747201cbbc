//! The socket that users connect to.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, RenameFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Why a socket can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something else has that name.
    #[error("{path:?} exists and is not a socket; it stays as it is: choose another path")]
    NotASocket {
        /// Which.
        path: PathBuf,
    },
    /// Another server answers there.
    #[error("another server listens on {path:?}; end that, or choose another path")]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Longer than an address can be.
    #[error("the path {path:?} is too long for a socket (at most 107 bytes); choose a shorter one")]
    TooLong {
        /// Which.
        path: PathBuf,
    },
    /// The system refused.
    #[error("no socket could be made at {path:?} ({doing}): {why}")]
    System {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's reason.
        why: io::Error,
    },
}

/// A listening socket in the file system. The file has mode 0600 from its first moment, and goes when this does.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
    listener: UnixListener,
}

impl SocketFile {
    /// Listens at `path`. A socket there that nobody answers is removed; anything else there is left alone.
    ///
    /// # Errors
    /// Where the path is taken, or the system refuses.
    pub fn listen(path: &Path) -> Result<Self, SocketError> {
        let failed = |doing| {
            move |why: io::Error| SocketError::System {
                path: path.into(),
                doing,
                why,
            }
        };
        let errno = |doing| move |errno: rustix::io::Errno| failed(doing)(errno.into());
        let address = SocketAddrUnix::new(path).map_err(|_| SocketError::TooLong { path: path.into() })?;
        make_room(path)?;

        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )
        .map_err(errno("socket"))?;
        // Linux gives the file the mode of the socket's inode, so it is never open to others, whatever the umask.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(errno("fchmod"))?;
        // Under a name of its own until it listens, so that who sees the file can connect to it.
        let own = path.with_file_name(format!(
            ".uvfio{:08x}",
            RandomState::new().build_hasher().finish() as u32
        ));
        let own_address = SocketAddrUnix::new(&own).ok();
        let first = if own_address.is_some() {
            own.as_path()
        } else {
            path
        };
        rustix::net::bind(&socket, &own_address.unwrap_or(address)).map_err(errno("bind"))?;
        let metadata = std::fs::symlink_metadata(first).map_err(failed("stat"))?;
        let mut made = Self {
            path: first.into(),
            identity: (metadata.dev(), metadata.ino()),
            listener: UnixListener::from(socket),
        };
        rustix::net::listen(&made.listener, BACKLOG).map_err(errno("listen"))?;
        if first != path {
            rustix::fs::renameat_with(CWD, first, CWD, path, RenameFlags::NOREPLACE)
                .map_err(errno("rename"))?;
            made.path = path.into();
        }
        Ok(made)
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

/// One user at a time; another may wait in line.
const BACKLOG: i32 = 4;

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Only what we made: someone may have put another file there meanwhile.
        if let Ok(metadata) = std::fs::symlink_metadata(&self.path)
            && (metadata.dev(), metadata.ino()) == self.identity
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!("socket {:?} could not be removed: {error}", self.path);
        }
    }
}

fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |doing| {
        move |why| SocketError::System {
            path: path.into(),
            doing,
            why,
        }
    };
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.into() });
    }
    match connect_at_once(path) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(failed("removing the socket of a server that is gone"))
        }
        // The second: a server whose line of users is full.
        Ok(()) | Err(Errno::AGAIN) => Err(SocketError::InUse { path: path.into() }),
        Err(errno) => Err(failed("connecting to the socket that is there")(errno.into())),
    }
}

/// Connects to a socket without waiting for a place in its server's line, and leaves.
fn connect_at_once(path: &Path) -> rustix::io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_with_the_server() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let socket = SocketFile::listen(&path).expect("listens");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "mode {mode:o}");
        drop(socket);
        assert!(!path.exists(), "the socket file is still there");
    }

    #[test]
    fn nothing_but_the_socket_is_left_in_its_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let _socket = SocketFile::listen(&dir.path().join("s")).expect("listens");
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("read")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, ["s"]);
    }

    #[test]
    fn a_file_that_is_no_socket_is_not_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").expect("written");
        let error = SocketFile::listen(&path).expect_err("refused");
        assert!(matches!(error, SocketError::NotASocket { .. }), "{error}");
        assert_eq!(std::fs::read(&path).expect("still there"), b"data");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "a closed listener leaves its file");
        let _live = SocketFile::listen(&path).expect("replaces the stale one");
        let error = SocketFile::listen(&path).expect_err("refused");
        assert!(matches!(error, SocketError::InUse { .. }), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_took_the_sockets_place_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let socket = SocketFile::listen(&path).expect("listens");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "mine").expect("written");
        drop(socket);
        assert_eq!(std::fs::read(&path).expect("still there"), b"mine");
    }

    #[test]
    fn a_server_whose_line_is_full_is_still_there_and_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("s");
        let _server = SocketFile::listen(&path).expect("listens");
        let mut line = Vec::new();
        let address = SocketAddrUnix::new(&path).expect("an address");
        let full = loop {
            let client = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::NONBLOCK,
                None,
            )
            .expect("a socket");
            match rustix::net::connect(&client, &address) {
                Ok(()) => line.push(client),
                Err(errno) => break errno,
            }
            assert!(line.len() < 10_000, "the line has no end");
        };
        assert_eq!(full, Errno::AGAIN);
        let second = SocketFile::listen(&path);
        assert!(matches!(second, Err(SocketError::InUse { .. })), "{second:?}");
        assert!(path.exists(), "the first server's socket is gone");
    }
}
