//! Gives this build a number of its own, by which a supervisor knows a worker of another build.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn main() {
    let mut files = BTreeSet::new();
    for name in crates() {
        let folder = Path::new("..").join(name);
        for part in ["Cargo.toml", "src"] {
            println!("cargo::rerun-if-changed={}", folder.join(part).display());
        }
        collect(&folder.join("src"), &mut files);
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for byte in std::fs::read(&file).unwrap_or_default() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=UVFIO_BUILD={hash:016x}");
}

/// What goes into a worker: this crate, and those of the workspace that it needs, whichever way.
fn crates() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec!["uvfio-worker".to_owned()];
    while let Some(name) = open.pop() {
        let manifest = Path::new("..").join(&name).join("Cargo.toml");
        let text = std::fs::read_to_string(manifest).unwrap_or_default();
        if found.insert(name) {
            let needed = text.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
            open.extend(
                needed
                    .filter(|name| name.starts_with("uvfio-"))
                    .map(str::to_owned),
            );
        }
    }
    found
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.insert(path);
        }
    }
}
