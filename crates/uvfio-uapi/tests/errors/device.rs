//! Requests to a device, but for its interrupts.

use rustix::io::Errno;
use uvfio_uapi::Node;

use crate::Argument::Bytes;
use crate::common::{Kind, Program, count, sys};
use crate::{Case, check, structure};

fn odd() -> Program {
    Program::with(&[("0000:01:00.0", 7, Kind::Odd)])
}

#[test]
fn what_a_device_tells_of_itself() {
    let program = odd();
    let (_, _, device) = program.opened();
    let mut cases = structure(16);
    cases.push(Case(
        "a program of long ago",
        Bytes(sys::sealed(vec![0; 16])),
        Ok(0),
    ));
    cases.push(Case("one of the future", Bytes(sys::sealed(vec![0; 400])), Ok(0)));
    check(&program, device, sys::GET_INFO, cases);
    let mut info = sys::sealed(vec![0xee; 24]);
    program.ioctl(device, sys::GET_INFO, &mut info).expect("info");
    assert_eq!(
        info[..20],
        sys::words(&[24, 3, 9, 5, 0]),
        "PCI and reset, 9 regions, 5 indices"
    );
    let mut short = sys::sealed(vec![0xee; 24]);
    short[..4].copy_from_slice(&16_u32.to_ne_bytes());
    program.ioctl(device, sys::GET_INFO, &mut short).expect("info");
    assert_eq!(short[16..], [0xee; 8], "nothing is written beyond argsz");
}

#[test]
fn a_device_that_can_t_be_reset_says_so() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::OddWithoutReset)]);
    let (_, _, device) = program.opened();
    let mut info = sys::sealed(vec![0; 24]);
    program.ioctl(device, sys::GET_INFO, &mut info).expect("info");
    assert_eq!(sys::u32_at(&info, 4), 2, "PCI, without reset");
    assert_eq!(program.ioctl_value(device, sys::RESET, 0), Err(Errno::INVAL));
}

#[test]
fn what_a_device_tells_of_its_interrupts() {
    let odd = odd();
    let nvme = Program::with(&[("0000:01:00.0", 7, Kind::Nvme)]);
    let asked = |program: &Program, device, index| {
        let mut info = sys::words(&[16, 0, index, 0]);
        program
            .ioctl(device, sys::GET_IRQ_INFO, &mut info)
            .map(|_| (sys::u32_at(&info, 4), sys::u32_at(&info, 12)))
    };
    let (_, _, device) = odd.opened();
    check(&odd, device, sys::GET_IRQ_INFO, structure(16));
    for (index, expected) in [
        (0, Ok((7, 1))),
        (1, Ok((9, 4))),
        (2, Ok((1, 4))),
        // It is not PCI Express.
        (3, Err(Errno::INVAL)),
        (4, Ok((9, 1))),
        (5, Err(Errno::INVAL)),
        (u32::MAX, Err(Errno::INVAL)),
    ] {
        assert_eq!(asked(&odd, device, index), expected, "index {index}");
    }
    let (_, _, device) = nvme.opened();
    for (index, expected) in [(1, Ok((9, 0))), (2, Ok((1, 17))), (3, Ok((9, 1)))] {
        assert_eq!(asked(&nvme, device, index), expected, "index {index} of nvme");
    }
}

#[test]
fn a_bus_is_reset_by_who_has_all_of_its_groups() {
    let program = Program::with(&[
        ("0000:01:00.0", 7, Kind::Edu),
        ("0000:01:00.1", 8, Kind::Edu),
        ("0000:02:00.0", 9, Kind::Edu),
        ("0000:00:03.0", 10, Kind::Edu),
    ]);
    let (container, group) = program.container(7, sys::TYPE1V2);
    let device = program.device_fd(group, "0000:01:00.0").expect("opened");
    let other = program.open(Node::Group(8));
    let foreign = program.open(Node::Group(9));

    let mut cases = structure(12);
    cases.push(Case("no room", Bytes(sys::words(&[12, 0, 0])), Err(Errno::NOSPC)));
    cases.push(Case(
        "room for one",
        Bytes(sys::words(&[20, 0, 0, 0, 0])),
        Err(Errno::NOSPC),
    ));
    check(&program, device, sys::HOT_RESET_INFO, cases);
    let mut info = sys::words(&[28, 0, 0, 0, 0, 0, 0]);
    program
        .ioctl(device, sys::HOT_RESET_INFO, &mut info)
        .expect("info");
    // Group, then segment, bus and packed function.
    let expected = sys::words(&[28, 0, 2, 7, 0x0001_0000, 8, 0x0101_0000]);
    assert_eq!(info, expected);
    let mut short = sys::words(&[12, 9, 9]);
    let _ = program.ioctl(device, sys::HOT_RESET_INFO, &mut short);
    assert_eq!(
        short,
        sys::words(&[12, 0, 2]),
        "how many there are is told without room"
    );

    let reset = |groups: &[i32]| {
        let mut argument = sys::words(&[0, 0, groups.len() as u32]);
        argument.extend(groups.iter().flat_map(|group| group.to_ne_bytes()));
        Bytes(sys::sealed(argument))
    };
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut cases = structure(12);
    cases.extend([
        refused("flags", Bytes(sys::words(&[12, 1, 1])), Errno::INVAL),
        refused("no groups", reset(&[]), Errno::INVAL),
        refused(
            "more groups than functions",
            reset(&[group, other, foreign]),
            Errno::INVAL,
        ),
        refused("no such descriptor", reset(&[99_999]), Errno::BADF),
        refused("a container", reset(&[container]), Errno::INVAL),
        refused("not all groups", reset(&[group]), Errno::INVAL),
        refused("a group of another bus", reset(&[group, foreign]), Errno::INVAL),
        Case("all groups", reset(&[other, group]), Ok(0)),
    ]);
    check(&program, device, sys::HOT_RESET, cases);

    let root = program.open(Node::Group(10));
    program.set_container(root, container).expect("set");
    let device = program.device_fd(root, "0000:00:03.0").expect("opened");
    for request in [sys::HOT_RESET_INFO, sys::HOT_RESET] {
        assert_eq!(
            program.ioctl(device, request, &mut sys::words(&[12, 0, 0])),
            Err(Errno::NODEV),
            "a root bus"
        );
    }
}

#[test]
fn what_can_be_wrong_with_an_ioeventfd() {
    let program = odd();
    let (container, _, device) = program.opened();
    let (_, number) = program.eventfd();
    let bar = |bar: u64, at: u64| bar << 40 | at;
    let at = |width, offset, number| Bytes(sys::ioeventfd(width, offset, 1, number));
    let invalid = |what, argument| Case(what, argument, Err(Errno::INVAL));
    let mut cases = structure(28);
    cases.extend([
        invalid("no width", at(0, bar(0, 0), number)),
        invalid("two widths", at(3, bar(0, 0), number)),
        invalid("an unknown flag", at(16, bar(0, 0), number)),
        invalid("a descriptor below -1", at(4, bar(0, 0), -2)),
        invalid("the ROM", at(4, bar(6, 0), number)),
        invalid("configuration space", at(4, bar(7, 0), number)),
        invalid("no such region", at(4, bar(70_000, 0), number)),
        invalid("no such BAR", at(4, bar(4, 0), number)),
        invalid("past the BAR's end", at(4, bar(0, 16384 - 3), number)),
        invalid("the MSI-X table", at(4, bar(0, 4096 + 60), number)),
        invalid("into the MSI-X table", at(8, bar(0, 4092), number)),
        Case("no such descriptor", at(4, bar(0, 0), 99_999), Err(Errno::BADF)),
        invalid("not an eventfd", at(4, bar(0, 0), container)),
        Case("none there", at(4, bar(0, 0), -1), Err(Errno::NODEV)),
        Case("right before the table", at(4, bar(0, 4092), number), Ok(0)),
        Case("right after it", at(4, bar(0, 4096 + 64), number), Ok(0)),
        Case("one", at(4, bar(0, 0), number), Ok(0)),
        Case("the same", at(4, bar(0, 0), number), Err(Errno::EXIST)),
        Case("another width", at(2, bar(0, 0), number), Ok(0)),
        Case("taken away", at(4, bar(0, 0), -1), Ok(0)),
        Case("taken away twice", at(4, bar(0, 0), -1), Err(Errno::NODEV)),
    ]);
    check(&program, device, sys::IOEVENTFD, cases);
    for value in 0..997 {
        let mut one = sys::ioeventfd(8, bar(0, 8), value, number);
        assert_eq!(
            program.ioctl(device, sys::IOEVENTFD, &mut one),
            Ok(0),
            "number {value}"
        );
    }
    let mut one_more = sys::ioeventfd(8, bar(0, 8), 5000, number);
    assert_eq!(
        program.ioctl(device, sys::IOEVENTFD, &mut one_more),
        Err(Errno::NOSPC)
    );
}

#[test]
fn what_can_be_wrong_with_a_feature() {
    let program = odd();
    let (_, _, device) = program.opened();
    let (woken, number) = program.eventfd();
    let feature = |flags: u32| Bytes(sys::words(&[8, flags]));
    let with = |flags: u32, word: i32| Bytes(sys::words(&[16, flags, word as u32, 0]));
    let (get, set, probe) = (sys::FEATURE_GET, sys::FEATURE_SET, sys::FEATURE_PROBE);
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let mut cases = structure(8);
    cases.extend([
        refused("an unknown flag", feature(1 << 19 | set | 3), Errno::INVAL),
        refused("GET and SET", feature(get | set | 3), Errno::INVAL),
        refused(
            "GET and SET of what is not there",
            feature(get | set | 99),
            Errno::INVAL,
        ),
        refused("the device can't be got asleep", feature(get | 3), Errno::INVAL),
        refused("a probe for GET", feature(get | probe | 3), Errno::INVAL),
        refused("neither GET nor SET nor PROBE", feature(3), Errno::INVAL),
        refused("a VF token, of no physical function", feature(set), Errno::NOTTY),
        refused("migration", feature(get | 1), Errno::NOTTY),
        refused("a probe for migration", feature(get | probe | 1), Errno::NOTTY),
        refused(
            "what is told before migration",
            feature(get | probe | 12),
            Errno::INVAL,
        ),
        refused("logging of DMA", feature(set | 6), Errno::NOTTY),
        refused(
            "bus master, which PCI has a register for",
            feature(set | 10),
            Errno::NOTTY,
        ),
        refused("a DMA-BUF", feature(get | 11), Errno::NOTTY),
        refused("not there", feature(probe | 0xffff), Errno::NOTTY),
        Case("a probe for SET", feature(set | probe | 3), Ok(0)),
        Case("a probe", feature(probe | 4), Ok(0)),
        Case("woken, not having slept", feature(set | 5), Ok(0)),
        refused("asleep, without an eventfd", feature(set | 4), Errno::INVAL),
        refused("asleep, with eventfd -1", with(set | 4, -1), Errno::INVAL),
        refused("asleep, with no such eventfd", with(set | 4, 99_999), Errno::BADF),
        Case("asleep", feature(set | 3), Ok(0)),
        refused("asleep again", feature(set | 3), Errno::INVAL),
        refused(
            "asleep again, with an eventfd",
            with(set | 4, number),
            Errno::INVAL,
        ),
        Case("woken", feature(set | 5), Ok(0)),
        Case("asleep until an access", with(set | 4, number), Ok(0)),
    ]);
    check(&program, device, sys::FEATURE, cases);
    assert_eq!(count(&woken), 0);
    program.config_u16(device, 0);
    assert_eq!(count(&woken), 1, "the access woke it");
    program.config_u16(device, 0);
    assert_eq!(count(&woken), 0, "it is awake");
}
