//! How it ends, and what is left then.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{build_preload, told, uvfio_run};

#[test]
fn the_exit_status_is_the_programs() {
    for status in [0, 1, 7, 255] {
        let output = uvfio_run(&["edu"])
            .args(["sh", "-c", &format!("exit {status}")])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", told(&output));
    }
}

#[test]
fn a_program_that_dies_by_a_signal_takes_the_command_with_it() {
    for signal in [Signal::TERM, Signal::SEGV, Signal::ABORT, Signal::KILL] {
        let number = signal.as_raw();
        let output = uvfio_run(&["edu"])
            .args(["sh", "-c", &format!("kill -{number} $$")])
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), Some(number), "{}", told(&output));
    }
}

#[test]
fn a_program_that_is_not_there_and_a_device_that_is_not_are_the_command_lines_fault() {
    for (device, program, word) in [
        (
            "edu",
            "/nonexistent/program",
            "/nonexistent/program could not be started",
        ),
        ("flux-capacitor", "true", "there is no device"),
        ("0000:00:00.0", "true", "gives programs devices in software"),
    ] {
        let output = uvfio_run(&[device]).arg(program).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(word) && said.lines().count() == 1, "{said}");
    }
}

/// A program under way: a shell that has printed its number and those of two processes that it has started, one of them in a
/// session of its own, whose parent has left.
struct UnderWay {
    command: Child,
    output: BufReader<ChildStdout>,
    processes: Vec<Pid>,
}

impl UnderWay {
    fn start(then: &str) -> Self {
        let script = format!(
            "trap 'echo caught; exit 3' TERM; sleep 1000 & one=$!; \
             two=$(setsid sh -c 'sleep 1000 >/dev/null & echo $!'); echo $$ $one $two; {then}"
        );
        let mut command = uvfio_run(&["edu"])
            .args(["sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(command.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let numbers = line
            .split_whitespace()
            .map(|number| Pid::from_raw(number.parse().unwrap()).unwrap());
        let processes: Vec<_> = numbers.collect();
        assert_eq!(processes.len(), 3, "{line:?}");
        Self {
            command,
            output,
            processes,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.command)
    }

    /// Waits until none of its processes is left.
    fn nothing_is_left(&self) {
        for process in &self.processes {
            let left = format!("process {process:?} of the program is left");
            crate::common::eventually(&left, || !is_alive(*process));
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

fn is_alive(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_pid())).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}

#[test]
fn what_the_program_leaves_behind_ends_with_it() {
    let mut under_way = UnderWay::start("exit 5");
    assert_eq!(under_way.command.wait().unwrap().code(), Some(5));
    let left: Vec<_> = under_way
        .processes
        .iter()
        .filter(|process| is_alive(**process))
        .collect();
    assert!(left.is_empty(), "{left:?} when the command has ended");
}

#[test]
fn a_signal_to_the_command_is_the_programs() {
    let mut under_way = UnderWay::start("while :; do sleep 0.01; done");
    kill_process(under_way.pid(), Signal::TERM).unwrap();
    let mut line = String::new();
    under_way.output.read_line(&mut line).unwrap();
    assert_eq!(line, "caught\n");
    assert_eq!(under_way.command.wait().unwrap().code(), Some(3));
    under_way.nothing_is_left();
}

#[test]
fn nothing_is_left_when_the_command_is_killed() {
    let mut under_way = UnderWay::start("while :; do sleep 0.01; done");
    kill_process(under_way.pid(), Signal::KILL).unwrap();
    assert_eq!(
        under_way.command.wait().unwrap().signal(),
        Some(Signal::KILL.as_raw())
    );
    under_way.nothing_is_left();
}

#[test]
fn nothing_is_left_when_the_programs_parent_is_killed() {
    let mut under_way = UnderWay::start("while :; do sleep 0.01; done");
    let program = under_way.processes[0].as_raw_pid();
    let stat = fs::read_to_string(format!("/proc/{program}/stat")).unwrap();
    let parent = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    assert_ne!(Pid::from_raw(parent).unwrap(), under_way.pid());
    kill_process(Pid::from_raw(parent).unwrap(), Signal::KILL).unwrap();
    assert_eq!(under_way.command.wait().unwrap().code(), Some(1));
    under_way.nothing_is_left();
}

#[test]
fn no_mount_of_its_is_seen_outside() {
    let under_way = UnderWay::start("while :; do sleep 0.01; done");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("uvfio"), "{mounts}");
    drop(under_way);
}

#[test]
fn where_user_namespaces_are_refused_one_sentence_says_so() {
    build_preload();
    // In a user namespace in which there may be no other.
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
        .args([
            env!("CARGO_BIN_EXE_uvfio"),
            "run",
            "--device",
            "edu",
            "--",
            "true",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("needs a user namespace") && said.lines().count() == 1,
        "{said}"
    );
}
