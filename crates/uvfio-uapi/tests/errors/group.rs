//! Requests to a group, and opening one.

use rustix::io::Errno;
use uvfio_uapi::Node;

use crate::Argument::{Bytes, Value};
use crate::common::{Kind, NOWHERE, Program, sys};
use crate::{Case, check, structure};

#[test]
fn opening_a_node() {
    let program = Program::edu();
    assert_eq!(program.try_open(Node::Group(8)), Err(Errno::NOENT));
    assert_eq!(program.try_open(Node::Device(1)), Err(Errno::NOENT));
    let group = program.open(Node::Group(7));
    assert_eq!(
        program.try_open(Node::Group(7)),
        Err(Errno::BUSY),
        "a group opens once"
    );
    program.close(group);
    assert!(program.try_open(Node::Group(7)).is_ok(), "it is closed");
    // Containers are another at each opening.
    program.open(Node::Container);
    program.open(Node::Container);
}

#[test]
fn status() {
    let program = Program::edu();
    let group = program.open(Node::Group(7));
    check(&program, group, sys::GROUP_GET_STATUS, structure(8));
    let flags = || {
        let mut status = sys::words(&[8, 0xff]);
        program
            .ioctl(group, sys::GROUP_GET_STATUS, &mut status)
            .expect("status");
        sys::u32_at(&status, 4)
    };
    assert_eq!(flags(), 1, "viable");
    let container = program.open(Node::Container);
    program.set_container(group, container).expect("set");
    assert_eq!(flags(), 3, "viable, container set");
}

#[test]
fn what_can_be_wrong_with_a_container() {
    let program = Program::edu();
    let group = program.open(Node::Group(7));
    let container = program.open(Node::Container);
    let closed = program.open(Node::Container);
    program.close(closed);
    let (_, eventfd) = program.eventfd();
    let descriptor = |number: i32| Bytes(number.to_ne_bytes().to_vec());
    check(
        &program,
        group,
        sys::GROUP_SET_CONTAINER,
        vec![
            Case("no memory there", Value(NOWHERE), Err(Errno::FAULT)),
            Case("-1", descriptor(-1), Err(Errno::BADF)),
            Case("no such descriptor", descriptor(99_999), Err(Errno::BADF)),
            Case("one that was closed", descriptor(closed), Err(Errno::BADF)),
            Case(
                "a device's own file",
                descriptor(program.open(Node::Device(0))),
                Err(Errno::BADFD),
            ),
            Case("an eventfd", descriptor(eventfd), Err(Errno::BADFD)),
            Case("a group", descriptor(group), Err(Errno::BADFD)),
            Case("a container", descriptor(container), Ok(0)),
            Case("a second time", descriptor(container), Err(Errno::INVAL)),
            Case(
                "an eventfd, a second time",
                descriptor(eventfd),
                Err(Errno::INVAL),
            ),
            Case("-1, a second time", descriptor(-1), Err(Errno::BADF)),
        ],
    );
    check(
        &program,
        group,
        sys::GROUP_UNSET_CONTAINER,
        vec![
            Case("the container", Value(NOWHERE), Ok(0)),
            Case("none", Value(0), Err(Errno::INVAL)),
        ],
    );
}

#[test]
fn a_container_with_open_devices_is_not_taken_away() {
    let program = Program::edu();
    let (_, group, device) = program.opened();
    let unset = || program.ioctl_value(group, sys::GROUP_UNSET_CONTAINER, 0);
    assert_eq!(unset(), Err(Errno::BUSY));
    program.close(device);
    assert_eq!(unset(), Ok(0));
}

#[test]
fn what_can_be_wrong_with_a_device_s_name() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:02:00.0", 8, Kind::Edu)]);
    let group = program.open(Node::Group(7));
    let name = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.push(0);
        Bytes(bytes)
    };
    let refused = |what, argument, errno| Case(what, argument, Err(errno));
    let names = || {
        vec![
            refused("no memory there", Value(NOWHERE), Errno::FAULT),
            refused("no end", Bytes(vec![b'0'; 5000]), Errno::INVAL),
            refused("no name", name(""), Errno::NODEV),
            refused("no such function", name("0000:01:00.1"), Errno::NODEV),
            refused("a function of another group", name("0000:02:00.0"), Errno::NODEV),
            refused("without its domain", name("01:00.0"), Errno::NODEV),
            refused("with something after it", name("0000:01:00.0x"), Errno::NODEV),
            refused("not text", Bytes(vec![0xff, 0xfe, 0]), Errno::NODEV),
            refused(
                "a token, of what is no virtual function",
                name("0000:01:00.0 vf_token=2ab74924-c335-45f4-9b16-8569e5b08258"),
                Errno::INVAL,
            ),
            refused("an unknown option", name("0000:01:00.0 what=ever"), Errno::INVAL),
        ]
    };
    check(&program, group, sys::GROUP_GET_DEVICE_FD, names());
    let device = || name("0000:01:00.0");
    check(
        &program,
        group,
        sys::GROUP_GET_DEVICE_FD,
        vec![refused("no container", device(), Errno::INVAL)],
    );
    let container = program.open(Node::Container);
    program.set_container(group, container).expect("set");
    check(
        &program,
        group,
        sys::GROUP_GET_DEVICE_FD,
        vec![refused("no IOMMU", device(), Errno::INVAL)],
    );
    program
        .ioctl_value(container, sys::SET_IOMMU, sys::TYPE1V2)
        .expect("set");
    check(&program, group, sys::GROUP_GET_DEVICE_FD, names());
    assert!(program.device_fd(group, "0000:01:00.0").is_ok());
    assert!(
        program.device_fd(group, "0000:01:00.0").is_ok(),
        "as often as one likes"
    );
}
