//! `uvfio check-server` and `uvfio check-client` as processes.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

mod common;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn uvfio(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvfio"));
    command.args(args).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn run(args: &[&str]) -> Output {
    uvfio(args).output().expect("the command starts")
}

fn start(args: &[&str], socket: &Path) -> Running {
    // Nobody reads its log here: a pipe would fill, and then it would wait.
    let child = uvfio(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    common::eventually("there is no socket", || socket.exists());
    Running(child)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_served_device_passes_and_the_report_is_json_where_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let path = socket.display().to_string();
    let _server = start(&["serve", "edu", "--socket", &path], &socket);
    let output = run(&["check-server", &path]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    assert!(said.contains(" 0 failed, "), "{said}");
    let output = run(&["check-server", &path, "version.", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let cases = report["cases"].as_array().expect("cases");
    assert!(cases.len() > 10, "{report}");
    assert!(cases.iter().all(|case| case["result"] != "fail"), "{report}");
}

#[test]
fn a_server_that_hangs_up_fails_and_one_that_is_not_there_is_a_usage_error() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let path = socket.display().to_string();
    let output = run(&["check-server", &path]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let listener = UnixListener::bind(&socket).expect("a socket");
    // Ends with the process.
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let output = run(&["check-server", &path, "info.reply"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).starts_with("FAIL"),
        "{}",
        text(&output.stdout)
    );
    let output = run(&["check-server", &path, "no such case"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
}

#[test]
fn a_client_is_judged_when_it_leaves() {
    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("s");
    let path = socket.display().to_string();
    let mut judge = start(&["check-client", "--socket", &path], &socket);
    let stream = UnixStream::connect(&socket).expect("it listens");
    let mut client = uvfio_proto::Client::new(stream).expect("a version");
    client.info().expect("an answer");
    drop(client);
    let status = judge.0.wait().expect("its end");
    let mut said = String::new();
    let out = judge.0.stdout.as_mut().expect("its output");
    std::io::Read::read_to_string(out, &mut said).expect("text");
    assert!(status.success() && said.contains(" 0 failed, "), "{said}");
}
