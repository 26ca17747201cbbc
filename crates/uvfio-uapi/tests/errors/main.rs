//! Every request with everything that can be wrong with it, and the error number that the kernel documents for that.
//!
//! The tables are written from what is known of the kernel, not from this crate.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

mod cdev;
mod closed;
#[path = "../common/mod.rs"]
mod common;
mod container;
mod device;
mod group;
mod interrupts;
mod iommufd;
mod regions;

use common::{NOWHERE, Program, sys};
use rustix::io::Errno;

/// One call: what is special about it, its argument, and what must come back.
struct Case(&'static str, Argument, Result<i32, Errno>);

enum Argument {
    /// A structure.
    Bytes(Vec<u8>),
    /// The third argument as it is.
    Value(u64),
}

use Argument::{Bytes, Value};

/// Sends each to `file`, and lists those that were answered otherwise than they must be.
fn check(program: &Program, file: i32, request: u32, cases: Vec<Case>) {
    let mut wrong = Vec::new();
    for Case(what, argument, expected) in cases {
        let got = match argument {
            Bytes(mut bytes) => program.ioctl(file, request, &mut bytes),
            Value(value) => program.ioctl_value(file, request, value),
        };
        if got != expected {
            wrong.push(format!("{what}: {got:?}, must be {expected:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "request {request:#x}:\n  {}",
        wrong.join("\n  ")
    );
}

/// What is wrong with every request that takes a structure of at least `least` bytes.
fn structure(least: u32) -> Vec<Case> {
    vec![
        Case("no memory there", Value(NOWHERE), Err(Errno::FAULT)),
        Case("no memory at 2^64", Value(u64::MAX - 3), Err(Errno::FAULT)),
        Case("argsz 0", Bytes(vec![0; least as usize]), Err(Errno::INVAL)),
        Case(
            "argsz a byte short",
            {
                let mut bytes = vec![0; least as usize];
                bytes[..4].copy_from_slice(&(least - 1).to_ne_bytes());
                Bytes(bytes)
            },
            Err(Errno::INVAL),
        ),
    ]
}

#[test]
fn a_request_of_another_kind_of_file_is_not_known() {
    let program = Program::edu();
    let (container, group, device) = program.opened();
    let requests = 0x3b00..0x3c00;
    for request in requests {
        let (of_container, of_group, of_device) = (
            matches!(request, 0x3b64..=0x3b66 | 0x3b70..=0x3b72 | 0x3b75),
            matches!(request, 0x3b67..=0x3b6a),
            // To bind one that came from a group is refused for another reason.
            matches!(request, 0x3b6b..=0x3b71 | 0x3b74..=0x3b76),
        );
        for (file, known, what) in [
            (container, of_container, "container"),
            (group, of_group, "group"),
            (device, of_device, "device"),
        ] {
            if !known {
                assert_eq!(
                    program.ioctl_value(file, request, NOWHERE),
                    Err(Errno::NOTTY),
                    "request {request:#x} to a {what}"
                );
            }
        }
    }
}

#[test]
fn a_file_that_is_closed_or_never_was_is_a_bad_descriptor() {
    let program = Program::edu();
    let container = program.open(uvfio_uapi::Node::Container);
    let file = program.file(container);
    program.close(container);
    let ioctl = program.uapi.ioctl(file, sys::GET_API_VERSION, 0, &program);
    assert_eq!(ioctl, Err(Errno::BADF));
    assert_eq!(program.uapi.read(file, 0, &mut [0]), Err(Errno::BADF));
    assert_eq!(program.uapi.write(file, 0, &[0]), Err(Errno::BADF));
    assert_eq!(program.uapi.mappings(file, 0, 4096).err(), Some(Errno::BADF));
    // A second time, nothing happens.
    program.uapi.close(file);
}

#[test]
fn containers_and_groups_are_neither_read_nor_written_nor_mapped() {
    let program = Program::edu();
    let (container, group, _) = program.opened();
    for number in [container, group] {
        let file = program.file(number);
        assert_eq!(program.uapi.read(file, 0, &mut [0; 4]), Err(Errno::INVAL));
        assert_eq!(program.uapi.write(file, 0, &[0; 4]), Err(Errno::INVAL));
        assert_eq!(program.uapi.mappings(file, 0, 4096).err(), Some(Errno::NODEV));
    }
}
