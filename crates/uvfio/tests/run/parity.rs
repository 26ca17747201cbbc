//! What no kernel is there to be compared with: `/dev/iommu`, and devices by files of their own. (What `cargo xtask vm
//! edu-msi` compares with the kernel is the other part of the same program.)

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{text_of, uvfio_run_by};

/// Where its sources are.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/programs/parity")
}

/// The program, in a folder that all may read.
pub(crate) fn compiled() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("parity");
    let files = std::fs::read_dir(sources())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .args(files.filter(|file| file.extension().is_some_and(|extension| extension == "c")));
    text_of(&mut cc);
    (folder, program)
}

#[test]
fn iommufd_and_a_devices_own_file_answer_as_the_committed_table_says() {
    let (_folder, program) = compiled();
    let table = std::fs::read_to_string(sources().join("no-kernel-compared.txt")).unwrap();
    let expected: Vec<&str> = table
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    for way in ["preload", "seccomp"] {
        let seen = text_of(uvfio_run_by(way, &["edu"]).arg(&program).args([
            "/dev/vfio/1",
            "0000:01:00.0",
            "/dev/vfio/devices/vfio0",
        ]));
        let seen: Vec<&str> = seen.lines().collect();
        for (number, (expected, seen)) in expected.iter().zip(&seen).enumerate() {
            assert_eq!(expected, seen, "{way}, call {number}");
        }
        assert_eq!(expected.len(), seen.len(), "{way}: calls");
    }
}
