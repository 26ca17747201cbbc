//! `cargo xtask packages`: the programs that the tests run, from Debian's packages where one is missing.
//!
//! `cargo xtask test` begins with it. Where nothing is missing, nothing is asked of the network.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

/// Each program, and the package of Debian's that has it.
const PROGRAMS: [(&str, &str); 10] = [
    ("cc", "gcc"),
    ("c++", "g++"),
    ("python3", "python3"),
    ("lspci", "pciutils"),
    ("xz", "xz-utils"),
    ("gzip", "gzip"),
    ("cpio", "cpio"),
    ("git", "git"),
    ("dpdk-test", "dpdk-dev"),
    ("pkg-config", "pkgconf"),
];

/// Another installation that goes on is waited for, not raced.
const PATIENCE: &str = "DPkg::Lock::Timeout=120";

/// Installs what is missing; fails where that can't be done.
pub(super) fn main() -> ExitCode {
    match ensure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Sees to it that every program is there.
pub(super) fn ensure() -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let there = |program: &str| is_there(program, &path);
    let packages = packages_for(there);
    if packages.is_empty() {
        return Ok(());
    }
    println!("=== packages: installing {}", packages.join(" "));
    let rights = Rights::own();
    if !there("apt-get") {
        bail!("{}", by_hand(&packages, "this system has no apt-get"));
    }
    if rights == Rights::Sudo && !there("sudo") {
        bail!("{}", by_hand(&packages, "only root can install them"));
    }
    // Where the lists can't be renewed, those that are there may still do.
    if !succeeds(&rights.update())? {
        eprintln!("the lists of packages could not be renewed; trying with those that are there");
    }
    if !succeeds(&rights.install(&packages))? {
        bail!("{}", by_hand(&packages, "installing them failed"));
    }
    let still = packages_for(there);
    if !still.is_empty() {
        bail!(
            "{} is installed, but no folder of PATH has its program: check the PATH",
            still.join(" ")
        );
    }
    Ok(())
}

/// The packages of the programs that are not there, each once.
fn packages_for(there: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let missing = PROGRAMS.iter().filter(|(program, _)| !there(program));
    missing.map(|(_, package)| *package).collect()
}

/// One sentence for who has to do it by hand.
fn by_hand(packages: &[&str], why: &str) -> String {
    let names = packages.join(" ");
    format!(
        "the tests need packages that are missing ({names}), and {why}: run `apt-get install {names}` as root"
    )
}

/// Who installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rights {
    /// This process.
    Root,
    /// `sudo`, as long as it asks for no password.
    Sudo,
}

impl Rights {
    fn own() -> Self {
        if rustix::process::geteuid().is_root() {
            Self::Root
        } else {
            Self::Sudo
        }
    }

    fn update(self) -> Vec<&'static str> {
        self.apt(&["update", "-qq"])
    }

    fn install(self, packages: &[&'static str]) -> Vec<&'static str> {
        let mut command = self.apt(&["install", "-y", "-q", "--no-install-recommends"]);
        command.extend(packages);
        command
    }

    fn apt(self, arguments: &[&'static str]) -> Vec<&'static str> {
        let mut command = match self {
            Self::Root => vec![],
            Self::Sudo => vec!["sudo", "-n"],
        };
        // By `env`, since sudo hands no variable on.
        command.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", PATIENCE]);
        command.extend(arguments);
        command
    }
}

fn succeeds(command: &[&str]) -> Result<bool> {
    let (program, arguments) = command.split_first().context("an empty command")?;
    let status = Command::new(program)
        .args(arguments)
        .status()
        .with_context(|| format!("starting {program}"))?;
    Ok(status.success())
}

/// Whether one of the search path's folders has the program.
fn is_there(program: &str, path: &OsStr) -> bool {
    env::split_paths(path).any(|folder| {
        fs::metadata(folder.join(program))
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
#[allow(clippy::expect_used)] // A test whose ground gives way has failed.
mod tests {
    use super::*;

    #[test]
    fn each_missing_program_asks_for_its_package_and_none_where_all_are_there() {
        assert_eq!(packages_for(|_| true), [""; 0]);
        assert_eq!(packages_for(|program| program != "c++"), ["g++"]);
        assert_eq!(
            packages_for(|program| !["lspci", "xz", "cc"].contains(&program)),
            ["gcc", "pciutils", "xz-utils"]
        );
        let all = "gcc g++ python3 pciutils xz-utils gzip cpio git dpdk-dev pkgconf";
        assert_eq!(packages_for(|_| false).join(" "), all);
    }

    #[test]
    fn root_installs_by_itself_and_others_by_a_sudo_that_asks_nothing() {
        let root = Rights::Root.install(&["cpio", "g++"]).join(" ");
        assert!(
            root.starts_with("env DEBIAN_FRONTEND=noninteractive apt-get "),
            "{root}"
        );
        assert!(
            root.ends_with(" install -y -q --no-install-recommends cpio g++"),
            "{root}"
        );
        let sudo = Rights::Sudo.update().join(" ");
        assert!(sudo.starts_with("sudo -n env "), "{sudo}");
    }

    #[test]
    fn who_has_to_install_by_hand_is_told_the_packages_and_the_command_in_one_sentence() {
        let said = by_hand(&["cpio", "xz-utils"], "only root can install them");
        assert!(
            said.contains("(cpio xz-utils)") && said.contains("only root can"),
            "{said}"
        );
        assert!(
            said.ends_with("run `apt-get install cpio xz-utils` as root"),
            "{said}"
        );
        assert!(!said.contains('\n') && !said.contains(". "), "{said}");
    }

    #[test]
    fn a_program_is_there_where_a_folder_of_the_search_path_has_it_and_it_can_be_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tool");
        fs::write(&file, "").expect("written");
        let path = folder.path().as_os_str();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("set");
        assert!(!is_there("tool", path), "a file that can't be run");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
        assert!(is_there("tool", path));
        assert!(!is_there("other", path));
    }
}
