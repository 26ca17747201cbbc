//! Builds the guest's initial RAM file system, which is its whole system.
//!
//! Two archives follow one another: one with the testbed's programs, libraries and kernel modules,
//! kept for the next run, and one with our own files (init, scripts, tools), made for each run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use super::modules::Modules;
use super::testbed::Testbed;

/// Programs of every guest.
const PROGRAMS: &[&str] = &[
    "usr/bin/busybox",
    "usr/bin/lspci",
    "usr/sbin/mke2fs",
    "usr/sbin/e2fsck",
];

/// Modules of every guest.
const MODULES: &[&str] = &["nvme", "ext4", "virtio-blk", "vfio-pci", "vfio_iommu_type1"];

/// Our own files, by their place in the guest.
const OWN: &[(&str, &str)] = &[
    ("init", include_str!("../../guest/init")),
    ("lib/uvfio/lib.sh", include_str!("../../guest/lib.sh")),
    ("lib/uvfio/pci.sh", include_str!("../../guest/pci.sh")),
    ("lib/uvfio/nvme.sh", include_str!("../../guest/nvme.sh")),
    ("lib/uvfio/ioat.sh", include_str!("../../guest/ioat.sh")),
    ("lib/uvfio/server.sh", include_str!("../../guest/server.sh")),
    ("lib/uvfio/list.sh", include_str!("../../guest/list.sh")),
    ("lib/uvfio/driver.sh", include_str!("../../guest/driver.sh")),
    ("lib/uvfio/serve.sh", include_str!("../../guest/serve.sh")),
    ("lib/uvfio/group.sh", include_str!("../../guest/group.sh")),
    ("lib/uvfio/qemu.sh", include_str!("../../guest/qemu.sh")),
    ("lib/uvfio/events.sh", include_str!("../../guest/events.sh")),
    ("lib/uvfio/rates.sh", include_str!("../../guest/rates.sh")),
    ("lib/uvfio/kvm.sh", include_str!("../../guest/kvm.sh")),
    ("lib/uvfio/dpdk.sh", include_str!("../../guest/dpdk.sh")),
];

/// What a guest has besides the usual programs and our own files.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Programs of the testbed, by their paths without the first slash
    pub(super) programs: Vec<&'static str>,
    /// Kernel modules, by their names
    pub(super) modules: Vec<&'static str>,
    /// Programs built here that need no libraries; they go to `/bin`
    pub(super) tools: Vec<PathBuf>,
    /// Programs built here that need the testbed's libraries; they go to `/bin`
    pub(super) dynamic_tools: Vec<PathBuf>,
    /// Programs and plug-ins by this machine's libraries, each with its place in the guest, without the first slash; the
    /// libraries go to [`INSTALLED`]
    pub(super) installed: Vec<(PathBuf, String)>,
}

/// Where this machine's libraries lie in a guest, beside the testbed's: for LD_LIBRARY_PATH.
const INSTALLED: &str = "lib/installed";

/// What belongs to the loader, and has to be the testbed's as that is.
const LIBC: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
];

/// Writes the initial RAM file system for one run to `to`.
pub(super) fn write(testbed: &Testbed, contents: &Contents, to: &Path) -> Result<()> {
    let base = base(testbed, contents)?;
    fs::copy(&base, to).with_context(|| format!("copying {}", base.display()))?;
    let mut archive = Archive::new(BufWriter::new(File::options().append(true).open(to)?));
    let mut made = BTreeSet::new();
    for (name, text) in OWN {
        parents(&mut archive, name, &mut made)?;
        archive.file(name, 0o755, text.as_bytes())?;
    }
    let mut libraries = BTreeSet::new();
    for tool in &contents.dynamic_tools {
        libraries.extend(testbed.libraries(tool)?);
    }
    for name in &libraries {
        parents(&mut archive, name, &mut made)?;
        archive.file(name, 0o755, &fs::read(testbed.path(name))?)?;
    }
    for tool in contents.tools.iter().chain(&contents.dynamic_tools) {
        let name = tool.file_name().unwrap_or_default().to_string_lossy();
        let content = fs::read(tool).with_context(|| format!("reading {}", tool.display()))?;
        archive.file(&format!("bin/{name}"), 0o755, &content)?;
    }
    installed(testbed, contents, &mut archive, &mut made)?;
    archive.finish()?.flush()?;
    Ok(())
}

/// This machine's part.
fn installed<W: Write>(
    testbed: &Testbed,
    contents: &Contents,
    archive: &mut Archive<W>,
    made: &mut BTreeSet<String>,
) -> Result<()> {
    let mut files = BTreeMap::new();
    for (from, place) in &contents.installed {
        files.insert(place.clone(), from.clone());
        for library in libraries_here(from)? {
            let name = library.file_name().unwrap_or_default().to_string_lossy();
            if LIBC.contains(&&*name) {
                let place = Testbed::library_path(&name);
                files.insert(place.clone(), testbed.path(&place));
            } else {
                files.insert(format!("{INSTALLED}/{name}"), library);
            }
        }
    }
    for (place, from) in files {
        parents(archive, &place, made)?;
        let content = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        archive.file(&place, 0o755, &content)?;
    }
    Ok(())
}

/// The libraries that a program or plug-in loads on this machine.
fn libraries_here(file: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(file).stdin(Stdio::null()).output();
    let output = output.context("ldd could not be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.contains("not found") {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!(
            "listing the libraries of {}: {}",
            file.display(),
            [&why, &text].map(|said| said.trim()).concat()
        );
    }
    // Each line: name => path (address); the loader's has no arrow.
    let paths = text
        .lines()
        .filter_map(|line| line.split("=> ").nth(1)?.split(" (").next());
    Ok(paths.map(PathBuf::from).collect())
}

/// The testbed's part, from the former run where its contents are the same.
fn base(testbed: &Testbed, contents: &Contents) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    let modules: Vec<&str> = MODULES.iter().chain(&contents.modules).copied().collect();
    (PROGRAMS, &contents.programs, &modules, testbed.release()).hash(&mut hasher);
    let dir = testbed.dir().join("initramfs");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{:016x}.cpio", hasher.finish()));
    if !path.exists() {
        // Scenarios that run beside this one may be making the same.
        let unfinished = tempfile::Builder::new().prefix("unfinished").tempfile_in(&dir)?;
        write_base(testbed, &contents.programs, &modules, unfinished.as_file())?;
        unfinished.persist(&path)?;
    }
    Ok(path)
}

fn write_base(testbed: &Testbed, programs: &[&str], modules: &[&str], to: &File) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(to));
    let mut made = BTreeSet::new();
    for dir in [
        "bin",
        "dev",
        "proc",
        "sys",
        "tmp",
        "run",
        "mnt",
        "usr",
        "usr/lib",
        "usr/lib64",
    ] {
        archive.directory(dir)?;
        made.insert(dir.to_owned());
    }
    // Programs and libraries name their loader and each other by the short paths as well.
    archive.symlink("lib64", "usr/lib64")?;
    let mut files = BTreeSet::from([
        Testbed::loader_path().to_owned(),
        "usr/share/misc/pci.ids".to_owned(),
    ]);
    for program in PROGRAMS.iter().chain(programs) {
        files.insert((*program).to_owned());
        if *program != "usr/bin/busybox" {
            files.extend(testbed.libraries(&testbed.path(program))?);
        }
    }
    for name in &files {
        parents(&mut archive, name, &mut made)?;
        let path = testbed.path(name);
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        archive.file(name, 0o755, &content)?;
    }
    archive.symlink("bin/busybox", "../usr/bin/busybox")?;
    let modules = Modules::read(testbed, modules)?;
    let dir = format!("lib/modules/{}", testbed.release());
    for module in modules.0.values() {
        let name = format!("{dir}/{}", module.path);
        parents(&mut archive, &name, &mut made)?;
        archive.file(&name, 0o644, &module.content)?;
    }
    archive.file(
        &format!("{dir}/modules.dep"),
        0o644,
        modules.dependencies().as_bytes(),
    )?;
    archive.finish()?.flush()?;
    Ok(())
}

/// Adds the directories above `name` that are not there yet.
fn parents<W: Write>(archive: &mut Archive<W>, name: &str, made: &mut BTreeSet<String>) -> Result<()> {
    for (at, _) in name.match_indices('/') {
        let dir = &name[..at];
        if made.insert(dir.to_owned()) {
            archive.directory(dir)?;
        }
    }
    Ok(())
}
