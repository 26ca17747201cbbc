//! Where the workspace lies, and where cargo puts what it builds; cargo itself, and paths as options of programs.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's root.
pub(crate) fn workspace() -> PathBuf {
    root(env::var_os("CARGO_MANIFEST_DIR"))
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Cargo, to be run in the workspace: the one that runs this program, where one does.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// A path as the value of an option, of uvfio's and of QEMU's alike: a comma in it is written twice.
pub(crate) fn as_option(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The folder above `xtask`'s own: as `cargo run` says where that is *now*. A program that was built elsewhere, and
/// came here with its target directory, still knows only where it was built.
fn root(told: Option<OsString>) -> PathBuf {
    let own = told.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().unwrap_or(Path::new(".")).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_where_cargo_runs_the_program_and_not_where_it_was_built() {
        assert_eq!(root(Some("/moved/here/xtask".into())), Path::new("/moved/here"));
        assert!(
            root(None).join("xtask/Cargo.toml").is_file(),
            "{}: not the folder that this was built in",
            root(None).display()
        );
    }
}
