//! `uvfio doctor` on the machine that runs the tests, whatever that has.
#![allow(clippy::expect_used)] // A test that can't start the command has failed.

use std::process::{Command, Output};

use serde_json::Value;

const SUBJECTS: [&str; 11] = [
    "kernel",
    "confinement",
    "user namespaces",
    "huge pages",
    "locked memory",
    "IOMMU",
    "interrupt remapping",
    "VFIO modules",
    "/dev/vfio",
    "lockdown",
    "strict devmem",
];

fn doctor(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvfio"))
        .arg("doctor")
        .args(args)
        .output()
        .expect("the command starts")
}

fn json() -> Value {
    serde_json::from_slice(&doctor(&["--json"]).stdout).expect("JSON")
}

#[test]
fn every_subject_has_a_line_and_the_verdicts_come_last() {
    let output = doctor(&[]);
    let page = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(0),
        "software devices work where the tests do:\n{page}"
    );
    for subject in SUBJECTS {
        let heads = ["ok   ", "note ", "no   "].map(|status| format!("{status} {subject}: "));
        let lines = page
            .lines()
            .filter(|line| heads.iter().any(|head| line.starts_with(head)));
        assert_eq!(lines.count(), 1, "{subject} in:\n{page}");
    }
    let findings = json();
    for finding in findings["findings"].as_array().expect("findings") {
        let fix = finding["fix"].as_str();
        assert!(
            fix.is_none_or(|fix| page.contains(&format!("\n      {fix}\n"))),
            "what to do is a line of its own: {finding} in:\n{page}"
        );
    }
    let last: Vec<&str> = page.lines().rev().take(2).collect();
    assert_eq!(last.get(1), Some(&"software devices: will work"), "{page}");
    assert!(
        last.first()
            .is_some_and(|line| line.starts_with("real devices: ")),
        "{page}"
    );
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn json_has_the_same_and_every_line_that_is_not_ok_says_what_it_means() {
    let report = json();
    let findings = report["findings"].as_array().expect("findings");
    let subjects: Vec<_> = findings.iter().map(|line| line["subject"].as_str()).collect();
    assert_eq!(subjects, SUBJECTS.map(Some));
    for line in findings {
        let status = line["status"].as_str();
        assert!(matches!(status, Some("ok" | "note" | "no")), "{line}");
        for field in ["found", "means"] {
            assert!(
                line[field].as_str().is_some_and(|text| !text.is_empty()),
                "{line}"
            );
        }
        assert!(
            status != Some("no") || line["fix"].is_string(),
            "nothing to do about {line}"
        );
    }
    assert_eq!(report["software_devices"]["work"], true);
    assert!(report["real_devices"]["work"].is_boolean(), "{report}");
}

/// The oracle is the system itself, asked in another way.
#[test]
fn what_it_says_of_this_machine_is_so() {
    let report = json();
    let found = |subject: &str| {
        let findings = report["findings"].as_array().expect("findings");
        let line = findings.iter().find(|line| line["subject"] == subject);
        line.and_then(|line| line["found"].as_str())
            .expect("a line")
            .to_owned()
    };
    let release = Command::new("uname").arg("-r").output().expect("uname runs");
    let release = String::from_utf8_lossy(&release.stdout).trim().to_owned();
    assert!(
        found("kernel").contains(&format!("Linux {release},")),
        "{}",
        found("kernel")
    );
    let groups = std::fs::read_dir("/sys/kernel/iommu_groups").map_or(0, Iterator::count);
    let real = &report["real_devices"];
    if groups == 0 {
        assert_eq!(real["work"], false, "without an IOMMU: {real}");
    } else {
        assert!(found("IOMMU").contains(&groups.to_string()), "{}", found("IOMMU"));
    }
    assert!(
        found("confinement").starts_with("a worker was confined"),
        "{report}"
    );
}

#[test]
fn where_no_worker_can_be_confined_it_says_so_and_ends_with_status_1() {
    // Without descriptors for it.
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 6 && exec \"$0\" doctor",
            env!("CARGO_BIN_EXE_uvfio"),
        ])
        .output()
        .expect("sh runs");
    let page = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{page}");
    assert!(
        page.contains("\nno    confinement: a worker could not be started"),
        "{page}"
    );
    assert!(
        page.contains("\nsoftware devices: won't work: no confined worker"),
        "{page}"
    );
}
