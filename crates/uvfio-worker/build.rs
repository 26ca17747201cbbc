//! Gives this build a number of its own, by which a supervisor knows a worker of another build.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What goes into a worker; the fingerprint is of all of it.
const CRATES: &[&str] = &[
    "uvfio-pci",
    "uvfio-core",
    "uvfio-proto",
    "uvfio-soft",
    "uvfio-nvme",
    "uvfio-worker",
];

fn main() {
    let mut files = BTreeSet::new();
    for name in CRATES {
        let folder = Path::new("..").join(name).join("src");
        println!("cargo::rerun-if-changed={}", folder.display());
        collect(&folder, &mut files);
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for byte in std::fs::read(&file).unwrap_or_default() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    println!("cargo::rustc-env=UVFIO_BUILD={hash:016x}");
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
