//! The house's arrows: which crate of the workspace may know which, in one table.
//!
//! They go down only. A new crate adds a row; a new arrow is a change of the design, and changes this table in
//! the same commit.
#![allow(clippy::expect_used)] // A check that cannot read what it checks has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Each crate and the crates of this workspace that it may depend on, for whatever purpose (also for its tests).
const ARROWS: &[(&str, &[&str])] = &[
    ("uvfio-pci", &[]),
    ("uvfio-core", &["uvfio-pci"]),
    ("uvfio-proto", &["uvfio-core", "uvfio-pci"]),
    ("uvfio-linux", &["uvfio-core", "uvfio-pci"]),
    ("uvfio-soft", &["uvfio-core", "uvfio-pci"]),
    ("uvfio-nvme", &["uvfio-core", "uvfio-pci"]),
    // For its tests it brings devices.
    (
        "uvfio-uapi",
        &["uvfio-core", "uvfio-nvme", "uvfio-pci", "uvfio-soft"],
    ),
    // A vfio-user server's function for that interface.
    (
        "uvfio-remote",
        &["uvfio-core", "uvfio-pci", "uvfio-proto", "uvfio-uapi"],
    ),
    // What a program under `uvfio run` and its supervisor say to each other, and the library within the program.
    ("uvfio-calls", &[]),
    ("uvfio-preload", &["uvfio-calls"]),
    // For tests it brings devices, and what reads the kernel's sysfs.
    (
        "uvfio-run",
        &[
            "uvfio-calls",
            "uvfio-core",
            "uvfio-linux",
            "uvfio-pci",
            "uvfio-soft",
            "uvfio-uapi",
        ],
    ),
    // For tests of its drivers it brings the devices that they drive.
    (
        "uvfio-driver",
        &[
            "uvfio-core",
            "uvfio-linux",
            "uvfio-nvme",
            "uvfio-pci",
            "uvfio-proto",
            "uvfio-soft",
        ],
    ),
    (
        "uvfio-check",
        &[
            "uvfio-core",
            "uvfio-nvme",
            "uvfio-pci",
            "uvfio-proto",
            "uvfio-soft",
        ],
    ),
    (
        "uvfio-capi",
        &["uvfio-core", "uvfio-driver", "uvfio-proto", "uvfio-soft"],
    ),
    (
        "uvfio-worker",
        &[
            "uvfio-core",
            "uvfio-linux",
            "uvfio-nvme",
            "uvfio-pci",
            "uvfio-proto",
            "uvfio-soft",
        ],
    ),
    (
        "uvfio",
        &[
            "uvfio-check",
            "uvfio-core",
            "uvfio-driver",
            "uvfio-linux",
            "uvfio-pci",
            "uvfio-proto",
            "uvfio-remote",
            "uvfio-run",
            "uvfio-soft",
            "uvfio-worker",
        ],
    ),
    // Programs that run inside a test machine meet the project through its protocols only.
    ("uvfio-guest-tools", &[]),
    // The project's own tasks look at everything; nothing may look at them.
    (
        "xtask",
        &[
            "uvfio-core",
            "uvfio-driver",
            "uvfio-nvme",
            "uvfio-pci",
            "uvfio-proto",
            "uvfio-soft",
            "uvfio-worker",
        ],
    ),
];

/// Crates that a kernel could host: no dependency outside the workspace either.
const BARE: &[&str] = &["uvfio-pci"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace's root")
        .to_path_buf()
}

/// Every package of the workspace as `cargo metadata` tells it.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo metadata starts");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    metadata["packages"]
        .as_array()
        .expect("a list of packages")
        .clone()
}

/// The dependencies of a package: (name, kind), where kind is `normal`, `dev` or `build`.
fn dependencies(package: &Value) -> Vec<(String, String)> {
    let list = package["dependencies"]
        .as_array()
        .expect("a list of dependencies");
    list.iter()
        .map(|d| {
            let name = d["name"].as_str().expect("a dependency has a name").to_owned();
            (name, d["kind"].as_str().unwrap_or("normal").to_owned())
        })
        .collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a package has a name")
}

#[test]
fn dependencies_between_crates_follow_the_table() {
    let packages = packages();
    let members: BTreeSet<&str> = packages.iter().map(name).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let from = name(package);
        let Some(allowed) = allowed.get(from) else {
            wrong.push(format!("{from} has no row in the table of xtask/tests/arrows.rs"));
            continue;
        };
        for (to, kind) in dependencies(package) {
            if members.contains(to.as_str()) && !allowed.contains(&to.as_str()) {
                wrong.push(format!(
                    "{from} -> {to} ({kind} dependency); allowed: {allowed:?}"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that the design does not have:\n  {}",
        wrong.join("\n  ")
    );
}

#[test]
fn the_table_itself_has_no_cycle() {
    let mut below: BTreeSet<&str> = BTreeSet::new();
    let mut rest: Vec<_> = ARROWS.to_vec();
    while !rest.is_empty() {
        let (ready, blocked): (Vec<_>, Vec<_>) = rest
            .iter()
            .copied()
            .partition(|(_, to)| to.iter().all(|t| below.contains(t)));
        assert!(
            !ready.is_empty(),
            "a cycle, or a crate without a row, among {blocked:?}"
        );
        below.extend(ready.iter().map(|(from, _)| *from));
        rest = blocked;
    }
}

#[test]
fn the_model_depends_on_nothing() {
    for package in packages().iter().filter(|p| BARE.contains(&name(p))) {
        let needs: Vec<_> = dependencies(package)
            .into_iter()
            .filter(|(_, kind)| kind != "dev")
            .collect();
        assert!(
            needs.is_empty(),
            "{} must have no dependency, has {needs:?}",
            name(package)
        );
    }
}

/// What a `no_std` crate may still name is what the compiler finds. Here it finds `core` alone: a sysroot with nothing
/// else in it, whatever targets are installed.
#[test]
fn the_model_compiles_where_there_is_core_and_neither_std_nor_alloc() {
    let root = workspace();
    let library = root.join("crates/uvfio-pci/src/lib.rs");
    let text = std::fs::read_to_string(&library).expect("lib.rs is there");
    assert!(
        text.lines().any(|l| l.trim() == "#![no_std]"),
        "uvfio-pci/src/lib.rs lost its #![no_std]"
    );
    let scratch = tempfile::tempdir().expect("a folder");
    let sysroot = scratch.path().join("sysroot");
    let host = rustc(&["--print", "host-tuple"]).expect("rustc names its host");
    let libraries = sysroot.join("lib/rustlib").join(host).join("lib");
    std::fs::create_dir_all(&libraries).expect("a sysroot");
    let installed = rustc(&["--print", "target-libdir"]).expect("rustc names its libraries");
    for entry in std::fs::read_dir(installed).expect("rustc's libraries").flatten() {
        let name = entry.file_name();
        if ["libcore-", "libcompiler_builtins-"]
            .iter()
            .any(|part| name.to_string_lossy().starts_with(part))
        {
            std::os::unix::fs::symlink(entry.path(), libraries.join(name)).expect("linked");
        }
    }
    let compile = |source: &Path| {
        Command::new("rustc")
            .arg("--sysroot")
            .arg(&sysroot)
            .args([
                "--edition",
                "2024",
                "--crate-type",
                "lib",
                "--emit",
                "metadata",
                "--out-dir",
            ])
            .arg(scratch.path())
            .arg(source)
            .output()
            .expect("rustc starts")
    };
    // The sysroot is what it is meant to be: a crate that wants more does not compile.
    for wants in ["std", "alloc"] {
        let source = scratch.path().join("wants.rs");
        std::fs::write(&source, format!("#![no_std]\nextern crate {wants};\n")).expect("written");
        let said = compile(&source);
        let said = String::from_utf8_lossy(&said.stderr);
        assert!(
            said.contains(&format!("can't find crate for `{wants}`")),
            "a crate that wants {wants}: {said}"
        );
    }
    let compiled = compile(&library);
    assert!(
        compiled.status.success(),
        "uvfio-pci with core alone:\n{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
}

/// Says on the terminal whether it was built: a test that finds no target must not look as if it had.
#[test]
fn the_model_builds_for_bare_metal_if_that_target_is_installed() {
    const TARGET: &str = "x86_64-unknown-none";
    let root = workspace();
    let folder = rustc(&["--print", "target-libdir", "--target", TARGET]);
    if !folder.is_some_and(|folder| Path::new(&folder).is_dir()) {
        // Not `eprintln!`, which is kept from the terminal where a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "NOT BUILT for {TARGET}: the target is not installed; uvfio-pci was compiled with core alone instead"
        );
        return;
    }
    let build = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            "uvfio-pci",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(root.join("target/bare"))
        .current_dir(&root)
        .output()
        .expect("cargo build starts");
    assert!(
        build.status.success(),
        "uvfio-pci for {TARGET}:\n{}",
        String::from_utf8_lossy(&build.stderr)
    );
}

/// What rustc answers; none where it ends with an error.
fn rustc(args: &[&str]) -> Option<String> {
    let output = Command::new("rustc").args(args).output().expect("rustc starts");
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(answer)
}
