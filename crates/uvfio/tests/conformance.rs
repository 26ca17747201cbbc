//! The book's report of the conformance kit on what `uvfio serve` serves: as the commands in it give it, now.
//!
//! With `BLESS=1` in the environment the page is written instead of compared; `cargo xtask conformance` does that.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

mod common;

use common::Server;

/// What is served, by the name of its column: what stands after `uvfio serve`.
const DEVICES: [(&str, &str); 4] = [
    ("edu", "edu"),
    ("ioat", "ioat"),
    ("nvme", "nvme,mem=16M"),
    ("notify", "notify"),
];

const HEAD: &str = "# What the kit says of ours\n\n\
    The whole report of [the conformance kit](conformance.md) on the software devices, as the command serves them: in a\n\
    confined worker. `cargo xtask conformance` writes this page, and a test holds it to what the commands say:\n\n";

const LEGEND: &str = "A rule is a section of the specification (QEMU's `docs/interop/vfio-user.rst`); *ours* are those \
    for which it has\nnone: `uvfio check-server SOCKET --list` has the reason of each, and what is expected.\n\n";

/// Serves a device and has it judged: the report's cases.
fn judged(device: &str) -> Vec<Value> {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let _server = Server::start(&[device], &socket, Stdio::null());
    // Patient, for a machine that does other things: no case of a server that is right waits for silence.
    let output = Command::new(env!("CARGO_BIN_EXE_uvfio"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .arg("check-server")
        .arg(&socket)
        .args(["--json", "--timeout", "60"])
        .output()
        .expect("the command starts");
    let mut report: Value = serde_json::from_slice(&output.stdout).expect("a report in JSON");
    match report["cases"].take() {
        Value::Array(cases) => cases,
        other => panic!("no cases: {other}"),
    }
}

fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_default()
}

/// What stands in a cell of the table.
fn word(case: &Value) -> &str {
    match text(case, "result") {
        "fail" => "**FAIL**",
        "not-applicable" => "n/a",
        other => other,
    }
}

/// The page, without anything that differs from run to run.
fn page(reports: &[(&str, Vec<Value>)]) -> String {
    let mut page = HEAD.to_owned();
    for (_, device) in DEVICES {
        let _ = writeln!(page, "    uvfio serve {device} --socket SOCKET &");
        page += "    uvfio check-server SOCKET\n";
    }
    page +=
        "\n| device | cases | passed | failed | deviations | not applicable |\n|---|---|---|---|---|---|\n";
    for (name, cases) in reports {
        let count = |word| cases.iter().filter(|case| text(case, "result") == word).count();
        let _ = writeln!(
            page,
            "| {name} | {} | {} | {} | {} | {} |",
            cases.len(),
            count("pass"),
            count("fail"),
            count("deviation"),
            count("not-applicable")
        );
    }
    page += "\n## Deviations, and why they are accepted\n\n";
    page += &reasons(reports, "deviation", "reason");
    page += "\n## Why cases were not applicable\n\n";
    page += &reasons(reports, "not-applicable", "why");
    page += "\n## Every case\n\n";
    page += LEGEND;
    let names: Vec<_> = reports.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(page, "| case | sent | rule | {} |", names.join(" | "));
    let _ = writeln!(page, "|---|---|---|{}", "---|".repeat(names.len()));
    let (_, first) = reports.first().expect("a report");
    for (at, case) in first.iter().enumerate() {
        let words: Vec<_> = reports.iter().map(|(_, cases)| word(&cases[at])).collect();
        let rule = case["section"].as_str().unwrap_or("*ours*");
        let (name, what) = (text(case, "name"), text(case, "what"));
        let _ = writeln!(page, "| `{name}` | {what} | {rule} | {} |", words.join(" | "));
    }
    page
}

/// A list: what is said of cases with this result, of whose device, and the cases of which it is said.
fn reasons(reports: &[(&str, Vec<Value>)], result: &str, key: &str) -> String {
    let mut said: BTreeMap<&str, BTreeMap<&str, Vec<&str>>> = BTreeMap::new();
    for (device, cases) in reports {
        for case in cases.iter().filter(|case| text(case, "result") == result) {
            let devices = said.entry(text(case, key)).or_default();
            devices.entry(device).or_default().push(text(case, "name"));
        }
    }
    let mut list = String::new();
    for (reason, devices) in said {
        let _ = writeln!(list, "- {reason}:");
        for (device, names) in devices {
            let _ = writeln!(list, "  - {device}: {}", listed(&names));
        }
    }
    list
}

/// Names in a row; a group of many by its own name.
fn listed(names: &[&str]) -> String {
    let group = |name: &str| name.split_inclusive('.').next().unwrap_or_default().to_owned();
    match names {
        [first, .., last] if names.len() > 6 && group(first) == group(last) => {
            format!("{} of `{}`", names.len(), group(first))
        }
        _ => names
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

#[test]
fn the_books_report_is_what_the_kit_says_now() {
    let reports: Vec<_> = DEVICES
        .iter()
        .map(|(name, device)| (*name, judged(device)))
        .collect();
    for (name, cases) in &reports {
        assert_eq!(
            cases.len(),
            uvfio_check::all().count(),
            "{name}: cases are missing"
        );
        let failed: Vec<_> = cases
            .iter()
            .filter(|case| text(case, "result") == "fail")
            .collect();
        assert!(failed.is_empty(), "{name}: {failed:#?}");
    }
    let now = page(&reports);
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/conformance-report.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, now).expect("the page is written");
        return;
    }
    let old = std::fs::read_to_string(&path).expect("the book's page");
    assert_eq!(old, now, "`cargo xtask conformance` writes the page");
}
