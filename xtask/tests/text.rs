//! Every file in the repository is about the project, not about the machine that it was written on.
#![allow(clippy::expect_used)] // A check that cannot read what it checks has failed.

use std::path::{Path, PathBuf};
use std::process::Command;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace's root")
        .to_path_buf()
}

/// Every file that git tracks, and its text; files that are not text are left out.
fn files() -> Vec<(String, String)> {
    let root = workspace();
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(&root)
        .output()
        .expect("git starts");
    assert!(
        output.status.success(),
        "git ls-files: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    names
        .split('\0')
        .filter(|name| !name.is_empty())
        .filter_map(|name| Some((name.to_owned(), std::fs::read_to_string(root.join(name)).ok()?)))
        .collect()
}

/// Strings that name a folder of a person's or of this checkout.
fn folders() -> Vec<String> {
    let mut list = vec![
        concat!("/ho", "me/").to_owned(),
        concat!("/Us", "ers/").to_owned(),
    ];
    list.push(workspace().display().to_string());
    // A home other than the usual two; root's is a name that file systems of guests have as well.
    if let Ok(home) = std::env::var("HOME")
        && home.len() > 1
        && home != "/root"
    {
        list.push(home);
    }
    list
}

#[test]
fn no_file_names_a_folder_of_a_developers_machine() {
    let folders = folders();
    let mut found = Vec::new();
    for (name, text) in files() {
        for (number, line) in text.lines().enumerate() {
            for folder in folders.iter().filter(|f| line.contains(f.as_str())) {
                found.push(format!("{name}:{}: {folder}", number + 1));
            }
        }
    }
    assert!(
        found.is_empty(),
        "absolute paths of one machine:\n  {}",
        found.join("\n  ")
    );
}

/// Files that people read and change, in lines; what a tool writes (Cargo.lock, generated pages) may be longer.
#[test]
fn no_source_file_is_too_long_to_read_at_a_sitting() {
    const LINES: usize = 700;
    let long: Vec<_> = files()
        .into_iter()
        .filter(|(name, text)| name.ends_with(".rs") && text.lines().count() > LINES)
        .map(|(name, text)| format!("{name}: {} lines", text.lines().count()))
        .collect();
    assert!(
        long.is_empty(),
        "more than {LINES} lines; split by reason to exist:\n  {}",
        long.join("\n  ")
    );
}

#[test]
fn no_line_of_source_ends_in_white_space() {
    let mut found = Vec::new();
    for (name, text) in files() {
        let checked = [".rs", ".toml", ".md", ".sh"]
            .iter()
            .any(|end| name.ends_with(end));
        for (number, _) in text
            .lines()
            .enumerate()
            .filter(|(_, line)| checked && line.ends_with([' ', '\t']))
        {
            found.push(format!("{name}:{}", number + 1));
        }
    }
    assert!(
        found.is_empty(),
        "white space at the end of:\n  {}",
        found.join("\n  ")
    );
}
