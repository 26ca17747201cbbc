//! The testbed: a folder with QEMU, a Linux kernel and a guest's programs, unpacked from Debian's
//! packages.
//!
//! Nothing in it is installed and nothing needs root: programs run through the folder's own
//! dynamic loader with the folder's own libraries, so the release that they come from may be newer
//! than the machine's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

use super::apt::{self, Apt};
use super::sources::Mirror;

/// What is unpacked, with all that it depends on.
const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "linux-image-amd64",
    "busybox-static",
    "pciutils",
    "e2fsprogs",
    "fio",
    "xz-utils",
];

/// Changes when a folder made by earlier code can no longer be used.
const LAYOUT: u32 = 1;

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// A testbed that is ready for use.
#[derive(Debug)]
pub(super) struct Testbed {
    dir: PathBuf,
    release: String,
}

impl Testbed {
    /// Opens the testbed in `dir`, and makes it first where it is not there (200 MB to download,
    /// 400 MB on disk). `mirror` is asked only then. `say` is told what takes time.
    pub(super) fn prepare(
        dir: &Path,
        mirror: impl FnOnce() -> Result<Mirror>,
        say: &dyn Fn(&str),
    ) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        // Two runs may share a folder: the second waits until the first has made it.
        let lock = File::create(dir.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive).context("locking the testbed's folder")?;
        let stamp = format!("layout {LAYOUT}: {}\n", PACKAGES.join(" "));
        if fs::read_to_string(dir.join("stamp")).ok().as_ref() != Some(&stamp) {
            make(&dir, &mirror()?, say)?;
            fs::write(dir.join("stamp"), stamp)?;
        }
        let release = kernel_release(&dir.join("root/usr/lib/modules"))?;
        Ok(Self { dir, release })
    }

    /// The testbed's folder, for what is made from it.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file of the testbed, by its path without the first slash.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.dir.join("root").join(path)
    }

    /// The kernel's version, as its modules' folder is called.
    pub(super) fn release(&self) -> &str {
        &self.release
    }

    pub(super) fn module_dir(&self) -> PathBuf {
        self.path("usr/lib/modules").join(&self.release)
    }

    pub(super) fn kernel(&self) -> PathBuf {
        self.module_dir().join("vmlinuz")
    }

    /// A dynamically linked program of the testbed, ready for its arguments.
    pub(super) fn program(&self, path: &str) -> Command {
        let mut command = self.loader();
        command.arg(self.path(path));
        command
    }

    /// QEMU for x86-64, with its firmware, ready for more options.
    pub(super) fn qemu(&self) -> Command {
        let mut command = self.program("usr/bin/qemu-system-x86_64");
        // Its modules (displays, sound) lie where its package would install them.
        command.env("QEMU_MODULE_DIR", self.path(LIBRARIES).join("qemu"));
        for firmware in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            command.arg("-L").arg(self.path(firmware));
        }
        command
    }

    /// The testbed's libraries that a dynamically linked program loads, by their paths without the
    /// first slash.
    pub(super) fn libraries(&self, program: &Path) -> Result<Vec<String>> {
        let output = self.loader().arg("--list").arg(program).output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("listing the libraries of {}: {}", program.display(), why.trim());
        }
        let root = self.dir.join("root");
        let text = String::from_utf8_lossy(&output.stdout);
        // Each line: name => path (address)
        let paths = text
            .lines()
            .filter_map(|line| line.split("=> ").nth(1)?.split(" (").next());
        let inside = paths.filter_map(|path| Path::new(path).strip_prefix(&root).ok()?.to_str());
        Ok(inside.map(str::to_owned).filter(|path| path != LOADER).collect())
    }

    /// The path of a library, without the first slash.
    pub(super) fn library_path(name: &str) -> String {
        format!("{LIBRARIES}/{name}")
    }

    /// The dynamic loader's path, without the first slash.
    pub(super) fn loader_path() -> &'static str {
        LOADER
    }

    fn loader(&self) -> Command {
        let libraries = self.path(LIBRARIES);
        let search = format!("{0}:{0}/ceph", libraries.display());
        let mut command = Command::new(self.path(LOADER));
        command.arg("--library-path").arg(search).stdin(Stdio::null());
        command
    }
}

fn make(dir: &Path, mirror: &Mirror, say: &dyn Fn(&str)) -> Result<()> {
    say("reading the package lists");
    let apt = Apt::open(&dir.join("apt"), mirror)?;
    let (count, bytes) = apt.size_of(PACKAGES)?;
    say(&format!(
        "downloading {count} packages ({} MB)",
        bytes / 1_000_000
    ));
    let files = apt.download(PACKAGES)?;
    say(&format!("unpacking {} packages", files.len()));
    let (root, unfinished) = (dir.join("root"), dir.join("root.unfinished"));
    for old in [&root, &unfinished] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    fs::create_dir(&unfinished)?;
    for file in &files {
        apt::unpack(file, &unfinished)?;
    }
    fs::rename(&unfinished, &root)?;
    // What was made from the former root is out of date, and the downloads have served.
    for old in ["initramfs", "apt"] {
        let old = dir.join(old);
        if old.exists() {
            fs::remove_dir_all(&old)?;
        }
    }
    Ok(())
}

fn kernel_release(modules: &Path) -> Result<String> {
    let entries = fs::read_dir(modules).with_context(|| format!("reading {}", modules.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.path().join("vmlinuz").exists() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    match names.as_slice() {
        [name] => Ok(name.clone()),
        _ => bail!(
            "{} should hold one kernel with its image, and holds {names:?}",
            modules.display()
        ),
    }
}
