//! The demo's page.
#![allow(clippy::expect_used)] // A test that can't start the command has failed.

use std::process::{Command, Output};

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
    assert!((30..=60).contains(&lines), "the page has {lines} lines:\n{page}");
    for shown in [
        "1 1 1 1 1 1 1 1",
        "1234:11e8",
        "FLR",
        "EEXIST: ",
        "EINVAL: ",
        "0 of 4096 bytes differ",
    ] {
        assert!(page.contains(shown), "{shown:?} is not on the page:\n{page}");
    }
}

#[test]
fn the_user_is_another_process_in_another_user_namespace_or_the_page_says_why_not() {
    let page = demo(&["--json"]);
    let page: serde_json::Value = serde_json::from_slice(&page.stdout).expect("JSON");
    let who = |line: usize| {
        page["sections"][0]["lines"][line]["seen"]
            .as_str()
            .expect("a line")
            .to_owned()
    };
    let (server, user) = (who(0), who(1));
    let process = |line: &str| line.split(',').next().map(ToOwned::to_owned);
    let namespace = |line: &str| line.split("user:[").nth(1).map(ToOwned::to_owned);
    assert_ne!(
        process(&server),
        process(&user),
        "server and user are one process"
    );
    if !user.contains("no namespace of its own") {
        assert_ne!(
            namespace(&server),
            namespace(&user),
            "server and user share a namespace"
        );
    }
}
