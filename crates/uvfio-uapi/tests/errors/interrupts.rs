//! SET_IRQS. Each row is a call to a fresh device, after others that set the stage.

use rustix::io::Errno;

use crate::Argument::Bytes;
use crate::common::{Kind, Program, sys};
use crate::structure;
use crate::{Case, check};
use sys::{BOOL, EVENTFD, MASK, NONE, TRIGGER, UNMASK};

const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
const ERR: u32 = 3;
const REQ: u32 = 4;

/// What stands for an eventfd's number, and for other descriptors', in the tables.
const FD: i32 = 1_000_000;
const NO_EVENTFD: i32 = 1_000_001;
const NO_DESCRIPTOR: i32 = 1_000_002;

/// Flags, index, start, count, descriptors.
type Call = (u32, u32, u32, u32, &'static [i32]);

const ENABLE_INTX: Call = (TRIGGER | EVENTFD, INTX, 0, 1, &[FD]);
const ENABLE_MSI_2: Call = (TRIGGER | EVENTFD, MSI, 0, 2, &[FD, FD]);
const ENABLE_MSIX_2: Call = (TRIGGER | EVENTFD, MSIX, 0, 2, &[FD, FD]);

fn call(
    program: &Program,
    device: i32,
    &(flags, index, start, count, descriptors): &Call,
) -> Result<i32, Errno> {
    let (_, eventfd) = program.eventfd();
    let pipe = program.give(rustix::pipe::pipe().expect("a pipe").0);
    let mut argument = sys::irq_set(flags, index, start, count);
    if flags & BOOL != 0 {
        argument.extend(vec![1; count as usize]);
    }
    for descriptor in descriptors {
        let number = match *descriptor {
            FD => eventfd,
            NO_EVENTFD => pipe,
            NO_DESCRIPTOR => 999_999,
            other => other,
        };
        argument.extend(number.to_ne_bytes());
    }
    sys::seal(&mut argument);
    program.ioctl(device, sys::SET_IRQS, &mut argument)
}

#[test]
fn what_can_be_wrong_with_the_structure() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Odd)]);
    let (_, _, device) = program.opened();
    let set = |flags, index, start, count, data: &[u8]| {
        let mut argument = sys::irq_set(flags, index, start, count);
        argument.extend(data);
        Bytes(sys::sealed(argument))
    };
    let invalid = |what, argument| Case(what, argument, Err(Errno::INVAL));
    let mut cases = structure(20);
    cases.extend([
        invalid("no such index", set(TRIGGER | NONE, 5, 0, 0, &[])),
        invalid("no such index by far", set(TRIGGER | NONE, u32::MAX, 0, 0, &[])),
        invalid("an unknown flag", set(TRIGGER | NONE | 64, MSI, 0, 1, &[])),
        invalid("no kind of data", set(TRIGGER, MSI, 0, 1, &[])),
        invalid("two kinds of data", set(TRIGGER | NONE | BOOL, MSI, 0, 1, &[1])),
        invalid("a vector that is not there", set(TRIGGER | NONE, MSI, 4, 1, &[])),
        invalid("the same, count 0", set(TRIGGER | NONE, MSI, 4, 0, &[])),
        invalid(
            "vectors that are not all there",
            set(TRIGGER | NONE, MSI, 3, 2, &[]),
        ),
        invalid("a count that wraps", set(TRIGGER | NONE, MSI, 1, u32::MAX, &[])),
        invalid("the longest count", set(TRIGGER | NONE, MSI, 0, u32::MAX, &[])),
        invalid(
            "errors of what is not PCI Express",
            set(TRIGGER | NONE, ERR, 0, 1, &[]),
        ),
        invalid("no room for the bytes", set(TRIGGER | BOOL, MSI, 0, 2, &[1])),
        invalid(
            "no room for the descriptors",
            set(TRIGGER | EVENTFD, MSI, 0, 2, &[0; 7]),
        ),
        // All of this is told before what the index can't do.
        invalid("no room, and no such action", set(MASK | BOOL, MSI, 0, 2, &[1])),
        invalid(
            "a vector that is not there, masked",
            set(MASK | NONE, MSI, 4, 1, &[]),
        ),
        Case("no action", set(NONE, MSI, 0, 1, &[]), Err(Errno::NOTTY)),
        Case(
            "two actions",
            set(MASK | UNMASK | NONE, INTX, 0, 1, &[]),
            Err(Errno::NOTTY),
        ),
    ]);
    check(&program, device, sys::SET_IRQS, cases);
}

#[test]
fn what_each_index_can_be_asked_in_each_state() {
    let ok = Ok(0);
    let (invalid, not_a_tty) = (Err(Errno::INVAL), Err(Errno::NOTTY));
    let (bad, busy) = (Err(Errno::BADF), Err(Errno::BUSY));
    // What came before, the call, what must come back.
    let table: &[(&[Call], Call, Result<i32, Errno>)] = &[
        // INTx, not enabled.
        (&[], (TRIGGER | NONE, INTX, 0, 0, &[]), invalid),
        (&[], (TRIGGER | NONE, INTX, 0, 1, &[]), invalid),
        (&[], (TRIGGER | BOOL, INTX, 0, 1, &[]), invalid),
        (&[], (TRIGGER | EVENTFD, INTX, 0, 0, &[]), invalid),
        (&[], (MASK | NONE, INTX, 0, 1, &[]), invalid),
        (&[], (UNMASK | NONE, INTX, 0, 1, &[]), invalid),
        (&[], (UNMASK | EVENTFD, INTX, 0, 1, &[FD]), invalid),
        (&[], (MASK | EVENTFD, INTX, 0, 1, &[FD]), invalid),
        (&[], (TRIGGER | EVENTFD, INTX, 0, 1, &[NO_DESCRIPTOR]), bad),
        (&[], (TRIGGER | EVENTFD, INTX, 0, 1, &[NO_EVENTFD]), invalid),
        (&[], (TRIGGER | EVENTFD, INTX, 0, 1, &[-1]), ok),
        (&[], ENABLE_INTX, ok),
        // INTx, enabled.
        (&[ENABLE_INTX], ENABLE_INTX, ok),
        (&[ENABLE_INTX], (TRIGGER | EVENTFD, INTX, 0, 1, &[-1]), ok),
        (
            &[ENABLE_INTX],
            (TRIGGER | EVENTFD, INTX, 0, 1, &[NO_DESCRIPTOR]),
            bad,
        ),
        (&[ENABLE_INTX], (TRIGGER | NONE, INTX, 0, 1, &[]), ok),
        (&[ENABLE_INTX], (TRIGGER | BOOL, INTX, 0, 1, &[]), ok),
        (&[ENABLE_INTX], (TRIGGER | NONE, INTX, 0, 0, &[]), ok),
        (&[ENABLE_INTX], (MASK | NONE, INTX, 0, 1, &[]), ok),
        (&[ENABLE_INTX], (MASK | BOOL, INTX, 0, 1, &[]), ok),
        (&[ENABLE_INTX], (MASK | NONE, INTX, 0, 0, &[]), invalid),
        (&[ENABLE_INTX], (UNMASK | NONE, INTX, 0, 1, &[]), ok),
        (&[ENABLE_INTX], (UNMASK | BOOL, INTX, 0, 1, &[]), ok),
        (&[ENABLE_INTX], (MASK | EVENTFD, INTX, 0, 1, &[FD]), not_a_tty),
        (&[ENABLE_INTX], (UNMASK | EVENTFD, INTX, 0, 1, &[FD]), ok),
        (&[ENABLE_INTX], (UNMASK | EVENTFD, INTX, 0, 1, &[-1]), ok),
        (
            &[ENABLE_INTX, (UNMASK | EVENTFD, INTX, 0, 1, &[FD])],
            (UNMASK | EVENTFD, INTX, 0, 1, &[FD]),
            busy,
        ),
        (
            &[
                ENABLE_INTX,
                (UNMASK | EVENTFD, INTX, 0, 1, &[FD]),
                (UNMASK | EVENTFD, INTX, 0, 1, &[-1]),
            ],
            (UNMASK | EVENTFD, INTX, 0, 1, &[FD]),
            ok,
        ),
        (
            &[ENABLE_INTX, (TRIGGER | NONE, INTX, 0, 0, &[])],
            (MASK | NONE, INTX, 0, 1, &[]),
            invalid,
        ),
        (
            &[ENABLE_INTX, (TRIGGER | NONE, INTX, 0, 0, &[])],
            ENABLE_MSI_2,
            ok,
        ),
        (&[ENABLE_INTX], ENABLE_MSI_2, invalid),
        (&[ENABLE_INTX], ENABLE_MSIX_2, invalid),
        (&[ENABLE_INTX], (TRIGGER | NONE, MSI, 0, 0, &[]), invalid),
        // MSI.
        (&[], (TRIGGER | NONE, MSI, 0, 0, &[]), invalid),
        (&[], (TRIGGER | NONE, MSI, 0, 1, &[]), invalid),
        (&[], (TRIGGER | BOOL, MSI, 0, 1, &[]), invalid),
        (&[], (TRIGGER | EVENTFD, MSI, 0, 2, &[FD, NO_DESCRIPTOR]), bad),
        (&[], (TRIGGER | EVENTFD, MSI, 0, 2, &[FD, NO_EVENTFD]), invalid),
        (
            &[(TRIGGER | EVENTFD, MSI, 0, 2, &[FD, NO_DESCRIPTOR])],
            ENABLE_MSIX_2,
            ok,
        ),
        (&[], ENABLE_MSI_2, ok),
        (&[], (TRIGGER | EVENTFD, MSI, 2, 2, &[FD, FD]), ok),
        (&[], (TRIGGER | EVENTFD, MSI, 0, 4, &[-1, -1, -1, -1]), ok),
        (&[ENABLE_MSI_2], (TRIGGER | EVENTFD, MSI, 1, 1, &[FD]), ok),
        (&[ENABLE_MSI_2], (TRIGGER | EVENTFD, MSI, 1, 1, &[-1]), ok),
        (&[ENABLE_MSI_2], (TRIGGER | EVENTFD, MSI, 2, 1, &[FD]), invalid),
        (
            &[ENABLE_MSI_2],
            (TRIGGER | EVENTFD, MSI, 1, 2, &[FD, FD]),
            invalid,
        ),
        (&[ENABLE_MSI_2], (TRIGGER | NONE, MSI, 0, 2, &[]), ok),
        (&[ENABLE_MSI_2], (TRIGGER | BOOL, MSI, 0, 2, &[]), ok),
        (&[ENABLE_MSI_2], (TRIGGER | NONE, MSI, 0, 0, &[]), ok),
        (
            &[ENABLE_MSI_2, (TRIGGER | NONE, MSI, 0, 0, &[])],
            (TRIGGER | NONE, MSI, 0, 0, &[]),
            invalid,
        ),
        (
            &[ENABLE_MSI_2, (TRIGGER | NONE, MSI, 0, 0, &[])],
            (TRIGGER | EVENTFD, MSI, 0, 4, &[FD, FD, FD, FD]),
            ok,
        ),
        (&[ENABLE_MSI_2], (MASK | NONE, MSI, 0, 1, &[]), not_a_tty),
        (&[ENABLE_MSI_2], (UNMASK | NONE, MSI, 0, 1, &[]), not_a_tty),
        (&[ENABLE_MSI_2], (UNMASK | EVENTFD, MSI, 0, 1, &[FD]), not_a_tty),
        (&[ENABLE_MSI_2], ENABLE_INTX, invalid),
        (&[ENABLE_MSI_2], ENABLE_MSIX_2, invalid),
        (&[ENABLE_MSI_2], (TRIGGER | NONE, MSIX, 0, 0, &[]), invalid),
        (&[ENABLE_MSI_2], (MASK | NONE, INTX, 0, 1, &[]), invalid),
        // MSI-X has more vectors while it is enabled.
        (&[], ENABLE_MSIX_2, ok),
        (&[ENABLE_MSIX_2], (TRIGGER | EVENTFD, MSIX, 3, 1, &[FD]), ok),
        (&[ENABLE_MSIX_2], (TRIGGER | NONE, MSIX, 0, 4, &[]), ok),
        (&[ENABLE_MSIX_2], (MASK | NONE, MSIX, 0, 1, &[]), not_a_tty),
        (&[ENABLE_MSIX_2], (TRIGGER | NONE, MSIX, 0, 0, &[]), ok),
        (&[ENABLE_MSIX_2], ENABLE_MSI_2, invalid),
        // ERR and REQ, beside any other.
        (&[ENABLE_MSIX_2], (TRIGGER | EVENTFD, REQ, 0, 1, &[FD]), ok),
        (&[ENABLE_MSIX_2], (TRIGGER | EVENTFD, ERR, 0, 1, &[FD]), ok),
        (&[], (TRIGGER | EVENTFD, REQ, 0, 1, &[-1]), ok),
        (&[], (TRIGGER | EVENTFD, REQ, 0, 1, &[-7]), ok),
        (&[], (TRIGGER | EVENTFD, REQ, 0, 1, &[NO_DESCRIPTOR]), bad),
        (&[], (TRIGGER | EVENTFD, REQ, 0, 1, &[NO_EVENTFD]), invalid),
        (&[], (TRIGGER | EVENTFD, REQ, 0, 0, &[]), invalid),
        (&[], (TRIGGER | BOOL, REQ, 0, 0, &[]), invalid),
        (&[], (TRIGGER | BOOL, REQ, 0, 1, &[]), ok),
        (&[], (TRIGGER | NONE, REQ, 0, 1, &[]), invalid),
        (&[], (TRIGGER | NONE, REQ, 0, 0, &[]), invalid),
        (
            &[(TRIGGER | EVENTFD, REQ, 0, 1, &[FD])],
            (TRIGGER | NONE, REQ, 0, 1, &[]),
            ok,
        ),
        (
            &[(TRIGGER | EVENTFD, REQ, 0, 1, &[FD])],
            (TRIGGER | NONE, REQ, 0, 0, &[]),
            ok,
        ),
        (
            &[
                (TRIGGER | EVENTFD, REQ, 0, 1, &[FD]),
                (TRIGGER | NONE, REQ, 0, 0, &[]),
            ],
            (TRIGGER | NONE, REQ, 0, 1, &[]),
            invalid,
        ),
        (
            &[
                (TRIGGER | EVENTFD, REQ, 0, 1, &[FD]),
                (TRIGGER | EVENTFD, REQ, 0, 1, &[-1]),
            ],
            (TRIGGER | NONE, REQ, 0, 1, &[]),
            invalid,
        ),
        (&[], (MASK | NONE, REQ, 0, 1, &[]), not_a_tty),
        (&[], (UNMASK | EVENTFD, ERR, 0, 1, &[FD]), not_a_tty),
    ];
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Given(crate::common::odd::Odd::express()))]);
    let (_, group) = program.container(7, sys::TYPE1V2);
    let mut wrong = Vec::new();
    for (before, asked, expected) in table {
        let device = program.device_fd(group, "0000:01:00.0").expect("opened");
        for earlier in *before {
            let _ = call(&program, device, earlier);
        }
        let got = call(&program, device, asked);
        if got != *expected {
            wrong.push(format!(
                "after {before:?}, {asked:?}: {got:?}, must be {expected:?}"
            ));
        }
        program.close(device);
    }
    assert!(wrong.is_empty(), "SET_IRQS:\n  {}", wrong.join("\n  "));
}
