//! Programs in C, C++ and Python that drive edu over a socket, as people would build and run them.
#![allow(clippy::unwrap_used, clippy::panic)] // A program that can't be built or run has failed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::thread::JoinHandle;

use uvfio_core::{Device, Policy, VirtualDevice};
use uvfio_proto::{Limits, Server};
use uvfio_soft::edu;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the library's, from the build that this test is of.
fn library(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let found = test.with_file_name(name);
    assert!(found.exists(), "{} was not built", found.display());
    found
}

/// edu for one user, at a socket.
fn serve(socket: &Path) -> JoinHandle<Result<(), String>> {
    let device: Arc<dyn Device> = edu::Edu::new(edu::Config::default()).unwrap();
    let device = VirtualDevice::new(device, &Policy::default()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
        let ended = Server::new(stream, device.clone(), Limits::default()).serve();
        device.detach().map_err(|error| error.to_string())?;
        ended.map(|_| ()).map_err(|error| error.to_string())
    })
}

fn run(mut command: Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Compiles the C program with `compiler`, and what links the library to it.
fn compile(compiler: &str, standard: &str, program: &Path, link: &[&OsStr]) {
    let mut cc = Command::new(compiler);
    cc.args([standard, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"])
        .arg(package().join("include"))
        .arg(package().join("examples/edu.c"))
        .arg("-o")
        .arg(program)
        .args(link);
    run(cc);
}

/// The C example with the shared library.
fn shared_program(place: &Path) -> PathBuf {
    let program = place.join("edu");
    let shared = library("libuvfio.so");
    let mut path = std::ffi::OsString::from("-Wl,-rpath,");
    path.push(shared.parent().unwrap());
    compile("cc", "-std=c99", &program, &[shared.as_os_str(), &path]);
    program
}

/// Runs a program that drives edu, and gives what it printed.
fn drive(place: &Path, program: impl FnOnce(&Path) -> Command) -> String {
    let socket = place.join("edu.sock");
    let server = serve(&socket);
    let output = run(program(&socket));
    assert_eq!(server.join().unwrap(), Ok(()), "the server");
    String::from_utf8(output.stdout).unwrap()
}

const PRINTED: &str = "10! = 3628800\n\
                       from C to the device and back\n\
                       an access of 4 bytes at 0x100000 lies outside BAR 0, which has 0x100000 bytes\n";

#[test]
fn a_c_program_drives_edu_over_a_socket() {
    let place = tempfile::tempdir().unwrap();
    let program = shared_program(place.path());
    let printed = drive(place.path(), |socket| {
        let mut command = Command::new(&program);
        command.arg(socket);
        command
    });
    assert_eq!(printed, PRINTED);
}

#[test]
fn a_c_program_that_names_a_function_by_its_address_learns_why_it_cannot_have_it() {
    let place = tempfile::tempdir().unwrap();
    let program = shared_program(place.path());
    // No machine has a function there.
    let output = Command::new(&program).arg("ffff:ff:1f.7").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("there is no PCI function ffff:ff:1f.7"), "{said}");
}

#[test]
fn the_static_library_needs_nothing_but_the_systems() {
    let place = tempfile::tempdir().unwrap();
    let program = place.path().join("edu");
    let archive = library("libuvfio.a");
    let system = ["-lgcc_s", "-lpthread", "-ldl", "-lm"].map(OsStr::new);
    let mut link = vec![archive.as_os_str()];
    link.extend(system);
    compile("cc", "-std=c11", &program, &link);
    let printed = drive(place.path(), |socket| {
        let mut command = Command::new(&program);
        command.arg(socket);
        command
    });
    assert_eq!(printed, PRINTED);
}

#[test]
fn the_header_is_c_and_c_plus_plus_too() {
    for (compiler, language, standard) in [("cc", "c", "-std=c99"), ("c++", "c++", "-std=c++11")] {
        let mut check = Command::new(compiler);
        check
            .args([
                "-x",
                language,
                standard,
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
            ])
            .arg("-fsyntax-only")
            .arg(package().join("include/uvfio.h"));
        run(check);
    }
}

#[test]
fn python_drives_edu_by_ctypes() {
    let place = tempfile::tempdir().unwrap();
    let printed = drive(place.path(), |socket| {
        let mut python = Command::new("python3");
        python
            .arg(package().join("examples/edu.py"))
            .arg(library("libuvfio.so"))
            .arg(socket);
        python
    });
    assert_eq!(printed, "liveness reads 0xedcba987\n");
}

/// Words that begin with `uvfio_` and are followed by a parenthesis, in lines that `part` finds.
fn functions(text: &str, part: impl Fn(&str) -> Option<&str>) -> BTreeSet<String> {
    text.lines()
        .filter_map(part)
        .filter_map(|line| {
            let name = line.split('(').next()?.split(' ').next_back()?;
            Some(name.trim_start_matches('*').to_owned())
        })
        .collect()
}

#[test]
fn the_header_declares_every_function_of_the_library_and_no_other() {
    let header = std::fs::read_to_string(package().join("include/uvfio.h")).unwrap();
    let code = std::fs::read_to_string(package().join("src/calls.rs")).unwrap();
    let declared = functions(&header, |line| {
        let starts = ["int ", "void ", "uint64_t ", "const char "];
        (starts.iter().any(|start| line.starts_with(start)) && line.contains('(')).then_some(line)
    });
    let defined = functions(&code, |line| line.contains("extern \"C\" fn").then_some(line));
    assert!(declared.len() > 20, "{declared:?}");
    assert_eq!(declared, defined, "left: the header's, right: the library's");
}
