//! The operator takes the devices back.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::programs::compile;
use crate::uvfio_run_with;

/// A program with a device, of which the operator wants it back.
struct UnderWay {
    _folder: tempfile::TempDir,
    command: Child,
    output: BufReader<ChildStdout>,
    log: BufReader<ChildStderr>,
}

impl UnderWay {
    /// Starts it, and waits until it listens.
    fn start(way: &str, release_within: &str, arguments: [&str; 2]) -> Self {
        let (folder, program) = compile("req.c", &[]);
        let options = ["--via", way, "--release-within", release_within];
        let mut command: Command = uvfio_run_with(&["edu"], &options);
        command.arg(program).args(arguments);
        let mut command = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(command.stdout.take().unwrap());
        let log = BufReader::new(command.stderr.take().unwrap());
        let mut under_way = Self {
            _folder: folder,
            command,
            output,
            log,
        };
        let mut line = String::new();
        under_way.output.read_line(&mut line).unwrap();
        if line != "ready\n" {
            panic!("{line:?}: {}", under_way.ends().1);
        }
        under_way
    }

    /// The operator's order.
    fn take_back(&self) {
        kill_process(Pid::from_child(&self.command), Signal::USR1).unwrap();
    }

    /// What the program says last, and the log; it must end well.
    fn ends(&mut self) -> (String, String) {
        let (mut said, mut log) = (String::new(), String::new());
        self.output.read_to_string(&mut said).unwrap();
        self.log.read_to_string(&mut log).unwrap();
        let status = self.command.wait().unwrap();
        assert!(status.success(), "{status}: {said}{log}");
        (said, log)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

#[test]
fn a_program_that_obliges_is_asked_once_and_goes_on_without_the_device() {
    for way in ["preload", "seccomp"] {
        let mut program = UnderWay::start(way, "600", ["oblige", "1"]);
        program.take_back();
        let (said, log) = program.ends();
        assert_eq!(said, "given back\n", "{way}: {log}");
        assert_eq!(
            log.matches("is asked for it by REQ, and has 600 s").count(),
            1,
            "{log}"
        );
        assert!(log.contains("has none of the devices open any more"), "{log}");
        assert!(!log.contains("gone"), "{log}");
    }
}

/// Which is ten seconds later, as with the kernel.
#[test]
fn a_program_that_does_not_give_the_device_back_is_asked_again() {
    let mut program = UnderWay::start("preload", "600", ["oblige", "2"]);
    program.take_back();
    let (said, log) = program.ends();
    assert_eq!(said, "given back\n", "{log}");
    assert_eq!(log.matches("is asked for it by REQ").count(), 2, "{log}");
}

#[test]
fn a_program_that_keeps_the_device_goes_on_with_one_that_is_gone() {
    for (way, what) in [("preload", "keep-mapped"), ("seccomp", "keep")] {
        let mut program = UnderWay::start(way, "1", [what, "1"]);
        program.take_back();
        let (said, log) = program.ends();
        assert_eq!(said, "gone\n", "{way}: {log}");
        assert!(
            log.contains("0000:01:00.0: it was not given back in time"),
            "{log}"
        );
    }
}

#[test]
fn with_no_time_to_give_it_back_the_device_is_gone_at_once() {
    let mut program = UnderWay::start("preload", "0", ["keep-mapped", "0"]);
    program.take_back();
    let (said, log) = program.ends();
    assert_eq!(said, "gone\n", "{log}");
}

#[test]
fn an_order_that_comes_before_there_is_a_device_does_not_kill_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let server = UnixListener::bind(&path).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_uvfio"));
    command.args(["run", "--socket"]).arg(&path).args(["--", "true"]);
    let command = command.stderr(Stdio::piped()).spawn().unwrap();
    // It waits for the server's answer now.
    let (connection, _) = server.accept().unwrap();
    kill_process(Pid::from_child(&command), Signal::USR1).unwrap();
    drop(connection);
    let output = command.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{}: {log}", output.status);
    assert!(log.contains("the server has closed the connection"), "{log}");
}
