//! Devices that somebody else has: behind a server of ours, and behind one that is not.

use std::fs::{Permissions, set_permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Signal, kill_process};

use crate::common::Server;
use crate::programs::compile;
use crate::theirs::{BAR2, Theirs};
use crate::{bare_run_verb, parity, text_of, told, uvfio_run_by};

/// A device that `uvfio serve` has, for whoever runs programs in these tests.
struct Served {
    server: Server,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Served {
    fn new(device: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let socket = folder.path().join("socket");
        let server = Server::start(&[device], &socket, Stdio::null());
        set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
        Self {
            server,
            socket,
            _folder: folder,
        }
    }
}

/// `uvfio run` with the devices behind these sockets.
fn run_over(way: &str, sockets: &[&Path]) -> Command {
    let mut command = bare_run_verb();
    for socket in sockets {
        command.arg("--socket").arg(socket);
    }
    command.args(["--via", way, "--"]);
    command
}

/// Each request of VFIO's, with right and wrong arguments, has the very answer that it has over the device itself.
#[test]
fn every_request_is_answered_as_over_the_device_itself() {
    let (_folder, program) = parity::compiled();
    let served = Served::new("edu");
    for way in ["preload", "seccomp"] {
        for device in [None, Some("/dev/vfio/devices/vfio0")] {
            let seen = |mut run: Command| {
                text_of(
                    run.arg(&program)
                        .args(["/dev/vfio/1", "0000:01:00.0"])
                        .args(device),
                )
            };
            let expected = seen(uvfio_run_by(way, &["edu"]));
            let over = seen(run_over(way, &[&served.socket]));
            assert!(expected.lines().count() > 100, "{expected}");
            for (number, (expected, seen)) in expected.lines().zip(over.lines()).enumerate() {
                assert_eq!(expected, seen, "{way}, {device:?}, call {number}");
            }
            assert_eq!(
                expected.lines().count(),
                over.lines().count(),
                "{way}, {device:?}"
            );
        }
    }
}

/// A device, a program's source, how it is compiled, its arguments, and what it prints last.
type Row = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static str,
);

#[test]
fn programs_find_memory_interrupts_and_mapped_bars_behind_a_server() {
    let rows: [Row; 6] = [
        (
            "edu",
            "edu.c",
            &[],
            &["/dev/vfio/1", "0000:01:00.0"],
            "DMA: 4096 bytes there and back\ninterrupts: 1\n",
        ),
        ("edu", "memory.c", &[], &[], "pinned\n"),
        ("edu", "mapped.c", &["-O1", "-pthread"], &[], "mapped\n"),
        ("edu", "family.c", &["-pthread"], &[], "one device for all\n"),
        (
            "nvme,mem=1M,poll=always",
            "doorbells.c",
            &[],
            &[],
            "mapped in part\n",
        ),
        (
            "nvme,mem=1M",
            "instructions.c",
            &["-mno-red-zone"],
            &[],
            " instructions, 0 wrong\n",
        ),
    ];
    for (device, source, options, arguments, end) in rows {
        let (_folder, program) = compile(source, options);
        let served = Served::new(device);
        let seen = text_of(
            run_over("preload", &[&served.socket])
                .arg(program)
                .args(arguments),
        );
        assert!(seen.ends_with(end), "{source}: {seen}");
    }
}

#[test]
fn sysfs_and_configuration_space_are_the_servers() {
    let script = "cd /sys/bus/pci/devices && ls && cat */resource */uevent && lspci -vvnn 2>/dev/null";
    for device in ["edu", "nvme,mem=1M,serial=socket", "ioat"] {
        let served = Served::new(device);
        let over = text_of(run_over("preload", &[&served.socket]).args(["sh", "-c", script]));
        let itself = text_of(uvfio_run_by("preload", &[device]).args(["sh", "-c", script]));
        assert!(over.contains("Memory at"), "{over}");
        assert_eq!(over, itself, "{device}");
    }
}

#[test]
fn a_device_behind_a_server_comes_after_those_of_this_process() {
    let served = Served::new("nvme,mem=1M");
    let mut run = bare_run_verb();
    run.arg("--socket")
        .arg(&served.socket)
        .args(["--device", "edu", "--"]);
    let seen = text_of(run.args(["lspci", "-n"]));
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines.len(), 2, "{seen}");
    assert!(
        lines[0].starts_with("01:00.0") && lines[0].contains("1234:11e8"),
        "{seen}"
    );
    assert!(
        lines[1].starts_with("01:01.0") && lines[1].contains("fef0:0140"),
        "{seen}"
    );
}

#[test]
fn a_server_serves_one_program_after_another() {
    let (_folder, program) = compile("edu.c", &[]);
    let served = Served::new("edu");
    for _ in 0..2 {
        let mut run = run_over("preload", &[&served.socket]);
        let seen = text_of(run.arg(&program).args(["/dev/vfio/1", "0000:01:00.0"]));
        assert!(seen.ends_with("interrupts: 1\n"), "{seen}");
    }
}

/// Its server is killed while it reads a register over and over.
#[test]
fn a_program_whose_server_is_killed_has_a_device_that_is_gone() {
    let (_folder, program) = compile("gone.c", &[]);
    for way in ["preload", "seccomp"] {
        let mut served = Served::new("edu");
        let mut run = run_over(way, &[&served.socket])
            .arg(&program)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(run.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "registers: 010000ed\n", "{way}");
        let worker = served.server.worker();
        served.server.0.kill().unwrap();
        // It may have ended with the server.
        let _ = kill_process(worker, Signal::KILL);
        let mut seen = String::new();
        output.read_to_string(&mut seen).unwrap();
        let expected = "registers: ffffffff\nREQ: 1\nconfiguration space: ffffffff\ninterrupts: 0\nreset: 0\n\
                        memory: 0, 0\nagain: ENODEV\n";
        assert_eq!(seen, expected, "{way}");
        let ended = run.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", told(&ended));
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        let sentence = format!(
            "the device behind {} is gone: the server has closed",
            served.socket.display()
        );
        assert!(
            said.contains(&sentence) && said.lines().count() == 1,
            "{way}: {said}"
        );
    }
}

#[test]
fn a_server_that_is_not_ours_has_a_device_for_programs_too() {
    let (_folder, program) = compile("shared.c", &[]);
    for (way, mapped, value) in [
        ("preload", "11223344", 0x1122_3344),
        ("seccomp", "not to be mapped", 0),
    ] {
        let theirs = Theirs::new();
        set_permissions(theirs.path.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        set_permissions(&theirs.path, Permissions::from_mode(0o666)).unwrap();
        let seen = text_of(run_over(way, &[&theirs.path]).arg(&program));
        let expected = format!(
            "1234:0b0e, capability 11\nprivate memory: Input/output error\nmemory: written\n\
             BAR 2: {BAR2} bytes, {mapped}\nCOMMAND after a reset: 0006\n"
        );
        assert_eq!(seen, expected, "{way}");
        let mut there = [0; 4];
        rustix::io::pread(&theirs.bar2, &mut there, 4).unwrap();
        assert_eq!(u32::from_le_bytes(there), value, "{way}: memory of BAR 2");
        let device = theirs.device.lock().unwrap();
        assert!(device.maps.is_empty(), "{way}: memory is still mapped");
        // The program's, and the one when it has left.
        assert_eq!(device.resets, 2, "{way}");
    }
}

#[test]
fn a_socket_without_a_server_is_the_command_lines_fault() {
    let folder = tempfile::tempdir().unwrap();
    set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let silent = folder.path().join("silent");
    // It has a line, in which the command waits.
    let _listener = UnixListener::bind(&silent).unwrap();
    for path in [&file, &silent] {
        set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    }
    for (path, word) in [
        (folder.path().join("nobody"), "no server can be reached at"),
        (file, "no server can be reached at"),
        (
            silent,
            "did not answer within 5s: it serves another user, or does not speak vfio-user",
        ),
    ] {
        let output = run_over("preload", &[&path]).arg("true").output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let named = said.contains(word) && said.contains(&path.display().to_string());
        assert!(named && said.lines().count() == 1, "{said}");
    }
}
