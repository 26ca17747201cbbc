//! The demo's page.
#![allow(clippy::expect_used)] // A test that can't start the command has failed.

use std::process::{Command, Output};
use std::sync::LazyLock;

fn demo(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvfio"))
        .arg("demo")
        .args(args)
        .output()
        .expect("the command starts")
}

#[test]
fn the_page_is_as_it_should_be_and_fits_a_screen() {
    let output = demo(&[]);
    let page = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{}\n{page}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!page.contains("WRONG"), "{page}");
    let lines = page.lines().count();
    assert!((30..=40).contains(&lines), "the page has {lines} lines:\n{page}");
    for shown in [
        "1 1 1 1 1 1 1 1",
        "1234:11e8",
        "FLR",
        "EEXIST: ",
        "EINVAL: ",
        "0 of 4096 bytes differ",
        "nvme: random reads, 32 under way",
        "MiB/s",
    ] {
        assert!(page.contains(shown), "{shown:?} is not on the page:\n{page}");
    }
}

/// The page as a program reads it; made once for all tests.
fn object() -> &'static serde_json::Value {
    static PAGE: LazyLock<serde_json::Value> = LazyLock::new(|| {
        let output = demo(&["--json"]);
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    });
    &PAGE
}

/// The line whose name begins so.
fn line<'a>(page: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let lines = page["lines"].as_array().expect("a list of lines");
    let begins = |line: &&serde_json::Value| line["name"].as_str().is_some_and(|n| n.starts_with(name));
    lines.iter().find(begins).expect(name)
}

#[test]
fn as_json_it_is_one_object_of_lines_that_hold_numbers_as_numbers() {
    let page = object();
    assert_eq!(page["ok"], true, "{page:#}");
    let lines = page["lines"].as_array().expect("a list of lines");
    assert!(lines.len() >= 25, "{} lines", lines.len());
    for line in lines {
        for field in ["section", "name", "value"] {
            let text = line[field].as_str();
            assert!(text.is_some_and(|text| !text.is_empty()), "{field}: {line:#}");
        }
        assert_eq!(line["ok"], true, "{line:#}");
    }
    assert_eq!(
        line(page, "each raised once")["numbers"]["arrived"],
        serde_json::json!([1, 1, 1, 1, 1, 1, 1, 1])
    );
    assert_eq!(
        line(page, "mapping memory over")["numbers"]["errno"],
        rustix::io::Errno::EXIST.raw_os_error()
    );
}

#[test]
fn the_speed_of_both_devices_is_measured() {
    let page = object();
    for (name, bytes) in [
        ("edu: a register", None),
        ("edu: DMA", Some(4096.0)),
        ("nvme: random reads, 1 ", Some(4096.0)),
        ("nvme: random reads, 32 ", Some(4096.0)),
    ] {
        let numbers = &line(page, name)["numbers"];
        let number = |field: &str| numbers[field].as_f64().unwrap_or_default();
        assert!(
            number("median_us") > 0.0 && number("per_second") > 0.0,
            "{name}: {numbers}"
        );
        if let Some(bytes) = bytes {
            let expected = number("per_second") * bytes / f64::from(1 << 20);
            assert!(
                (number("mib_per_second") - expected).abs() < 0.2,
                "{name}: {numbers}: {expected} MiB/s by the others"
            );
        }
    }
}

#[test]
fn the_user_is_another_process_in_another_user_namespace_or_the_page_says_why_not() {
    let page = object();
    let (servers, user) = (line(page, "servers"), line(page, "user"));
    let processes = servers["numbers"]["processes"].as_array().expect("a list");
    assert_eq!(processes.len(), 2, "{servers}");
    let process = &user["numbers"]["process"];
    assert!(
        process.is_u64() && !processes.contains(process),
        "server and user are one process: {servers}, {user}"
    );
    let namespace = |line: &serde_json::Value| {
        let value = line["value"].as_str().expect("text");
        let after = value.split("user:[").nth(1).expect("a user namespace");
        after.split(']').next().map(ToOwned::to_owned)
    };
    if !user.to_string().contains("no namespace of its own") {
        assert_ne!(
            namespace(servers),
            namespace(user),
            "server and user share a namespace"
        );
    }
}
