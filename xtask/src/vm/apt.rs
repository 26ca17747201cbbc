//! Downloads packages of a Debian release into a folder, without root and without touching the
//! machine's own package state.
//!
//! apt is given a private state, cache and source list. Its notion of what is installed is a file
//! that we write: empty but for a few packages that only an installed system would need
//! ([`NOT_NEEDED`]), so apt resolves the whole closure of what is asked for and little more.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::sources::Mirror;

/// The release whose backports have a QEMU with a vfio-user client and a kernel with VFIO.
const SUITE: &str = "trixie";

/// Packages declared as installed, each with what it provides: parts of a running system (making
/// an initramfs, users, services) that unpacked programs never call.
const NOT_NEEDED: &[(&str, &str)] = &[
    ("dracut", "linux-initramfs-tool"),
    ("linux-base", ""),
    ("python3", ""),
    ("udev", ""),
    ("systemd", ""),
    ("debconf", "debconf-2.0"),
    ("adduser", ""),
    ("passwd", ""),
];

/// A private apt, in a folder of its own.
#[derive(Debug)]
pub(super) struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Sets up the folder and downloads the package lists from `mirror`.
    pub(super) fn open(dir: &Path, mirror: &Mirror) -> Result<Self> {
        let apt = Self { dir: dir.to_owned() };
        for sub in ["state/lists/partial", "cache/archives/partial", "etc/empty.d"] {
            fs::create_dir_all(dir.join(sub))?;
        }
        fs::write(dir.join("state/status"), installed())?;
        fs::write(dir.join("etc/sources.list"), source_list(mirror))?;
        // The machine's own snippets are still read, since a proxy may be set there; but hooks in
        // them (some images delete every downloaded package) are cleared again.
        let hooks = "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n\
                     #clear DPkg::Post-Invoke;\n";
        fs::write(dir.join("etc/main.conf"), hooks)?;
        let main = dir.join("etc/main.conf");
        fs::write(
            dir.join("apt.conf"),
            format!("Dir::Etc::main \"{}\";\n", main.display()),
        )?;
        apt.run(
            apt.command().arg("update").arg("-qq"),
            "reading the package lists",
        )?;
        Ok(apt)
    }

    /// Number of packages, and bytes to download, that `packages` and all they depend on make.
    pub(super) fn size_of(&self, packages: &[&str]) -> Result<(usize, u64)> {
        let mut command = self.command();
        command
            .args(["install", "-y", "-qq", "--print-uris"])
            .args(packages);
        let text = self.run(&mut command, "resolving the packages")?;
        // Each line: 'URI' file-name bytes checksum
        let sizes = text.lines().filter(|line| line.starts_with('\'')).map(|line| {
            let bytes = line
                .split_whitespace()
                .nth(2)
                .and_then(|word| word.parse::<u64>().ok());
            bytes.unwrap_or(0)
        });
        Ok(sizes.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes)))
    }

    /// Downloads `packages` and all they depend on; returns the files.
    pub(super) fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let mut command = self.command();
        command
            .args(["install", "-y", "-qq", "--download-only"])
            .args(packages);
        self.run(&mut command, "downloading the packages")?;
        let mut files = fs::read_dir(self.dir.join("cache/archives"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?;
        files.retain(|path| path.extension().is_some_and(|e| e == "deb"));
        files.sort();
        Ok(files)
    }

    fn command(&self) -> Command {
        let dir = self.dir.display();
        let mut command = Command::new("apt-get");
        command
            .env("APT_CONFIG", self.dir.join("apt.conf"))
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        for option in [
            format!("Dir::State={dir}/state"),
            format!("Dir::State::status={dir}/state/status"),
            format!("Dir::Cache={dir}/cache"),
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            format!("Dir::Etc::sourcelist={dir}/etc/sources.list"),
            format!("Dir::Etc::sourceparts={dir}/etc/empty.d"),
            format!("Dir::Etc::preferencesparts={dir}/etc/empty.d"),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "APT::Architecture=amd64".to_owned(),
            "APT::Architectures::=amd64".to_owned(),
            // The user that apt would drop to cannot write into a folder under target/.
            "APT::Sandbox::User=".to_owned(),
            "APT::Install-Recommends=false".to_owned(),
            format!("APT::Default-Release={SUITE}-backports"),
            // Nothing is installed here, so no package is essential.
            "pkgCacheGen::Essential=none".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            // Without it, `update` only warns when an archive cannot be reached.
            "APT::Update::Error-Mode=any".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    fn run(&self, command: &mut Command, doing: &str) -> Result<String> {
        let output = command
            .output()
            .with_context(|| format!("{doing}: apt-get could not be started"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("{doing}: apt-get ended with {}: {}", output.status, errors.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Unpacks one package into `root`.
pub(super) fn unpack(package: &Path, root: &Path) -> Result<()> {
    let output = Command::new("dpkg-deb")
        .arg("--extract")
        .arg(package)
        .arg(root)
        .output();
    let output = output.context("dpkg-deb could not be started")?;
    if !output.status.success() {
        bail!(
            "unpacking {}: {}",
            package.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn source_list(mirror: &Mirror) -> String {
    let options = mirror
        .signed_by
        .as_ref()
        .map_or_else(String::new, |key| format!("[signed-by={}] ", key.display()));
    ["", "-backports"].iter().fold(String::new(), |mut text, pocket| {
        let _ = writeln!(text, "deb {options}{} {SUITE}{pocket} main", mirror.uri);
        text
    })
}

fn installed() -> String {
    NOT_NEEDED
        .iter()
        .fold(String::new(), |mut text, (name, provides)| {
            let _ = write!(
                text,
                "Package: {name}\nStatus: install ok installed\nArchitecture: all\nMulti-Arch: foreign\n\
             Version: 9999\nMaintainer: testbed\nDescription: declared, not needed\n"
            );
            if !provides.is_empty() {
                let _ = writeln!(text, "Provides: {provides}");
            }
            text.push('\n');
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_list_names_backports_and_the_key() {
        let mirror = Mirror {
            uri: "http://mirror.example/debian".to_owned(),
            signed_by: Some("/k.gpg".into()),
        };
        let text = source_list(&mirror);
        let wanted = "deb [signed-by=/k.gpg] http://mirror.example/debian trixie-backports main";
        assert!(
            text.lines().any(|line| line == wanted),
            "source list {text:?} lacks {wanted:?}"
        );
    }

    #[test]
    fn every_paragraph_of_the_installed_list_is_closed_by_an_empty_line() {
        let text = installed();
        let paragraphs = text.split("\n\n").filter(|p| !p.is_empty()).count();
        assert_eq!(paragraphs, NOT_NEEDED.len(), "paragraphs in {text:?}");
        assert!(text.contains("Package: dracut\n"), "{text}");
    }
}
