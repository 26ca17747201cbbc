//! How long files keep what they use: groups, containers, mappings, devices.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::odd::Odd;
use common::{Kind, Memory, Program, count, sys, until};
use rustix::io::Errno;
use uvfio_core::{DmaError, GoneReason};
use uvfio_uapi::{Asked, Node};

const IOVA: u64 = 0x10_0000;

/// A program with a device whose host tests can hold.
fn odd() -> (Program, Arc<Odd>) {
    let odd = Odd::new();
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Given(Arc::clone(&odd) as _))]);
    (program, odd)
}

/// Reads 4 bytes at [`IOVA`] as the device does.
fn dma(odd: &Odd) -> Result<u32, DmaError> {
    odd.host().dma().read_u32(IOVA)
}

fn bus_master(program: &Program, device: i32) {
    program.write(device, 7, 4, &[7, 0]).expect("COMMAND is written");
}

#[test]
fn a_group_stays_in_use_until_its_file_and_all_of_its_devices_files_are_closed() {
    for device_first in [true, false] {
        let program = Program::edu();
        let (_, group, device) = program.opened();
        let again = program.device_fd(group, "0000:01:00.0").expect("opened again");
        let order = if device_first {
            [device, again, group]
        } else {
            [group, device, again]
        };
        for number in order {
            assert_eq!(
                program.try_open(Node::Group(7)),
                Err(Errno::BUSY),
                "before closing {number}"
            );
            program.close(number);
        }
        assert!(
            program.try_open(Node::Group(7)).is_ok(),
            "devices first: {device_first}"
        );
    }
}

#[test]
fn a_group_opened_again_has_no_container() {
    let program = Program::edu();
    let (container, group, device) = program.opened();
    program.close(device);
    program.close(group);
    let group = program.open(Node::Group(7));
    let mut status = sys::words(&[8, 0]);
    program
        .ioctl(group, sys::GROUP_GET_STATUS, &mut status)
        .expect("status");
    assert_eq!(sys::u32_at(&status, 4), 1);
    // With its last group the container has lost its IOMMU, and everything mapped.
    assert_eq!(
        program.map(container, IOVA, 0, 4096, sys::READ),
        Err(Errno::INVAL)
    );
    program.set_container(group, container).expect("set");
    assert_eq!(
        program.ioctl_value(container, sys::SET_IOMMU, sys::TYPE1V2),
        Ok(0)
    );
    assert_eq!(program.unmap(container, 0, 0, sys::UNMAP_ALL), Ok(0));
}

#[test]
fn a_container_lives_on_without_its_file() {
    let (program, odd) = odd();
    let (container, _, device) = program.opened();
    let memory = Memory::new(4096);
    memory.put(0, &[5; 4]);
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ)
        .expect("mapped");
    bus_master(&program, device);
    program.close(container);
    assert_eq!(dma(&odd), Ok(0x0505_0505));
}

#[test]
fn a_device_s_last_file_ends_its_use() {
    let (program, odd) = odd();
    let (container, group, device) = program.opened();
    let again = program.device_fd(group, "0000:01:00.0").expect("opened again");
    let memory = Memory::new(4096);
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ)
        .expect("mapped");
    let (interrupt, number) = program.eventfd();
    program
        .set_eventfds(device, 1, 0, &[number])
        .expect("MSI is enabled");
    bus_master(&program, device);
    program.write(device, 0, 0, &[9; 4]).expect("written");
    program.close(device);
    assert_eq!(dma(&odd), Ok(0), "the other file keeps it in use");
    odd.host().signal(0);
    until("its interrupts come", || count(&interrupt) == 1);
    let host = odd.host();
    program.close(again);
    host.signal(0);
    assert!(host.dma().read_u32(IOVA).is_err(), "it reaches nothing any more");
    let device = program.device_fd(group, "0000:01:00.0").expect("opened");
    assert_eq!(
        program.config_u16(device, 4),
        3,
        "as powered on: bus master is off"
    );
    bus_master(&program, device);
    assert_eq!(
        dma(&odd),
        Ok(0),
        "what is mapped in the container is mapped for the next, too"
    );
    let (_, number) = program.eventfd();
    assert_eq!(
        program.set_eventfds(device, 0, 0, &[number]),
        Ok(0),
        "MSI is not enabled any more"
    );
    assert_eq!(count(&interrupt), 0);
}

#[test]
fn every_device_of_a_container_reaches_what_is_mapped_in_it_and_no_other_does() {
    let (one, two, other) = (Odd::new(), Odd::new(), Odd::new());
    let program = Program::with(&[
        ("0000:01:00.0", 7, Kind::Given(Arc::clone(&one) as _)),
        ("0000:02:00.0", 8, Kind::Given(Arc::clone(&two) as _)),
        ("0000:03:00.0", 9, Kind::Given(Arc::clone(&other) as _)),
    ]);
    let (container, group) = program.container(7, sys::TYPE1V2);
    let device = program.device_fd(group, "0000:01:00.0").expect("opened");
    let memory = Memory::new(4096);
    memory.put(0, &[5; 4]);
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ)
        .expect("mapped");
    // Into a container whose IOMMU is there, and has mappings.
    let second = program.open(Node::Group(8));
    program.set_container(second, container).expect("set");
    let second = program.device_fd(second, "0000:02:00.0").expect("opened");
    let (_, third) = program.container(9, sys::TYPE1V2);
    let third = program.device_fd(third, "0000:03:00.0").expect("opened");
    for device in [device, second, third] {
        bus_master(&program, device);
    }
    assert_eq!((dma(&one), dma(&two)), (Ok(0x0505_0505), Ok(0x0505_0505)));
    assert!(
        matches!(dma(&other), Err(DmaError::NotMapped { iova: IOVA, .. })),
        "{:?}",
        dma(&other)
    );
    program.unmap(container, IOVA, 4096, 0).expect("unmapped");
    assert!(dma(&one).is_err() && dma(&two).is_err());
}

#[test]
fn an_address_that_is_taken_away_is_out_of_reach_until_there_is_a_new_one() {
    let (program, odd) = odd();
    let (container, _, device) = program.opened();
    let (before, after) = (Memory::new(4096), Memory::new(4096));
    before.put(0, &[1; 4]);
    after.put(0, &[2; 4]);
    program
        .map(container, IOVA, before.address(), 4096, sys::READ)
        .expect("mapped");
    bus_master(&program, device);
    assert_eq!(dma(&odd), Ok(0x0101_0101));
    program
        .unmap(container, IOVA, 4096, sys::VADDR)
        .expect("taken away");
    assert!(dma(&odd).is_err());
    program
        .map(container, IOVA, after.address(), 4096, sys::VADDR)
        .expect("a new one");
    assert_eq!(dma(&odd), Ok(0x0202_0202));
}

#[test]
fn a_new_address_is_of_the_memory_that_is_there_at_that_moment() {
    let (program, odd) = odd();
    program.keep_memory();
    let (container, _, device) = program.opened();
    let memory = Memory::new(4096);
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ)
        .expect("mapped");
    bus_master(&program, device);
    program
        .unmap(container, IOVA, 4096, sys::VADDR)
        .expect("taken away");
    memory.put(0, &[2; 4]);
    program
        .map(container, IOVA, memory.address(), 4096, sys::VADDR)
        .expect("a new one");
    // As if the process had other memory there now.
    memory.put(0, &[3; 4]);
    assert_eq!(
        dma(&odd),
        Ok(0x0202_0202),
        "the process' own memory is not looked at again"
    );
}

#[test]
fn reads_and_writes_without_an_offset_go_on_where_the_last_one_ended() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Odd)]);
    let (_, _, device) = program.opened();
    program
        .write(device, 0, 0, &[1, 2, 3, 4, 5, 6, 7, 8])
        .expect("written");
    let file = program.file(device);
    let mut data = [0; 3];
    let mut read = |most: usize| {
        let bytes = program.uapi.at_position(file, |at| {
            program
                .uapi
                .read(file, at, &mut data[..most])
                .map(|bytes| bytes as u64)
        });
        (bytes, data)
    };
    assert_eq!(read(3), (Ok(3), [1, 2, 3]));
    assert_eq!(read(2), (Ok(2), [4, 5, 3]));
    let written = program.uapi.at_position(file, |at| {
        program.uapi.write(file, at, &[9]).map(|bytes| bytes as u64)
    });
    assert_eq!(written, Ok(1));
    assert_eq!(read(2), (Ok(2), [7, 8, 3]));
    assert_eq!(program.read(device, 0, 5, 1), Ok(vec![9]));
    // One that fails leaves it where it is.
    let refused = program.uapi.at_position(file, |_| Err(Errno::FAULT));
    assert_eq!(refused, Err(Errno::FAULT));
    program.write(device, 0, 8, &[10]).expect("written");
    assert_eq!(read(1), (Ok(1), [10, 8, 3]));
}

#[test]
fn nothing_of_a_process_is_held_once_its_files_are_closed() {
    let program = Program::edu();
    assert_eq!(program.holders(), 1);
    let memory = Memory::new(4096);
    let (container, group, device) = program.opened();
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ)
        .expect("mapped");
    assert!(program.holders() > 1, "the mapping");
    for number in [container, group, device] {
        program.close(number);
    }
    assert_eq!(program.holders(), 1, "by container and group");
    let (iommu, device) = (program.open(Node::Iommu), program.open(Node::Device(0)));
    program
        .ioctl(device, sys::BIND, &mut sys::bind(0, iommu))
        .expect("bound");
    let mut space = sys::words(&[12, 0, 0]);
    program
        .ioctl(iommu, sys::IOAS_ALLOC, &mut space)
        .expect("an address space");
    let space = sys::u32_at(&space, 8);
    let mut map = sys::ioas_map(sys::READABLE, space, memory.address(), 4096, 0);
    program.ioctl(iommu, sys::IOAS_MAP, &mut map).expect("mapped");
    program
        .ioctl(device, sys::ATTACH, &mut sys::words(&[12, 0, space]))
        .expect("attached");
    program.close(iommu);
    assert!(program.holders() > 1, "the device keeps what it is attached to");
    program.close(device);
    assert_eq!(program.holders(), 1, "by /dev/iommu");
}

#[test]
fn sleep_ends_with_the_device_s_last_file() {
    let (program, _odd) = odd();
    let (_, group, mut device) = program.opened();
    for user in 0..2 {
        let mut sleep = sys::words(&[8, sys::FEATURE_SET | 3]);
        assert_eq!(
            program.ioctl(device, sys::FEATURE, &mut sleep),
            Ok(0),
            "user {user}"
        );
        program.close(device);
        device = program.device_fd(group, "0000:01:00.0").expect("opened");
    }
}

#[test]
fn an_ioeventfd_ends_with_the_device_s_last_file() {
    let (program, _odd) = odd();
    let (_, group, device) = program.opened();
    let (doorbell, number) = program.eventfd();
    let write = |number| sys::ioeventfd(4, 0, 0x1234_5678, number);
    program
        .ioctl(device, sys::IOEVENTFD, &mut write(number))
        .expect("the eventfd is taken");
    program.close(device);
    let device = program.device_fd(group, "0000:01:00.0").expect("opened");
    rustix::io::write(&doorbell, &1_u64.to_ne_bytes()).expect("signalled");
    let (second, number) = program.eventfd();
    assert_eq!(
        program.ioctl(device, sys::IOEVENTFD, &mut write(number)),
        Ok(0),
        "as if there had been none"
    );
    rustix::io::write(&second, &1_u64.to_ne_bytes()).expect("signalled");
    until("that one is served", || {
        program.read_u32(device, 0, 0) == 0x1234_5678
    });
    assert_eq!(count(&doorbell), 1, "the first is not");
}

#[test]
fn a_reset_by_register_is_done_when_the_write_returns_however_long_it_takes() {
    let odd = Odd::slow();
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Given(odd))]);
    let (_, _, device) = program.opened();
    let express = (0x34..0x100)
        .step_by(4)
        .find(|at| program.config_u16(device, *at) & 0xff == 0x10 && *at > 0x3f)
        .expect("the PCI Express capability");
    program
        .write(device, 7, express + 8, &0x8000_u16.to_le_bytes())
        .expect("written");
    assert_eq!(program.read(device, 0, 0, 4), Ok(vec![0; 4]), "it answers");
}

#[test]
fn a_device_that_is_gone_is_not_opened_and_reads_ones_to_who_has_it_open() {
    let (program, _odd) = odd();
    let (_, group, device) = program.opened();
    program.devices[0].gone(GoneReason::Unplugged, false);
    assert_eq!(program.read(device, 0, 0, 4), Ok(vec![0xff; 4]));
    assert_eq!(program.read(device, 7, 0, 4), Ok(vec![0xff; 4]));
    program.close(device);
    assert_eq!(program.device_fd(group, "0000:01:00.0"), Err(Errno::NODEV));
}

/// As with the kernel while vfio-pci is being unbound.
#[test]
fn a_device_that_is_withdrawn_is_its_user_s_until_given_back_and_nobody_else_s() {
    let program = Program::edu();
    let (_, group, device) = program.opened();
    let again = program.device_fd(group, "0000:01:00.0").expect("opened again");
    let uapi = &program.uapi;
    uapi.withdraw();
    assert_eq!(program.device_fd(group, "0000:01:00.0"), Err(Errno::NODEV));
    assert_eq!(program.try_open(Node::Device(0)), Err(Errno::NODEV));
    assert_eq!(program.read_u32(device, 0, 0), 0x0100_00ed);
    assert_eq!(uapi.ask_for_devices(), [("0000:01:00.0", Asked::Deaf)]);
    let (request, number) = program.eventfd();
    program.set_eventfds(again, 4, 0, &[number]).expect("REQ is set");
    for time in 1..=2 {
        assert_eq!(uapi.ask_for_devices(), [("0000:01:00.0", Asked::ByReq)]);
        until("REQ is signalled", || count(&request) == 1);
        program.close(if time == 1 { device } else { again });
        assert_eq!(
            uapi.wait_given_back(Duration::ZERO),
            time == 2,
            "{time} of 2 files closed"
        );
    }
    assert_eq!(uapi.ask_for_devices(), [("0000:01:00.0", Asked::Nobody)]);
    assert!(uapi.take_devices().is_empty(), "there is nobody to take it from");
    assert_eq!(program.device_fd(group, "0000:01:00.0"), Err(Errno::NODEV));
}

#[test]
fn a_device_that_is_withdrawn_and_not_given_back_is_gone_when_it_is_taken() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:02:00.0", 8, Kind::Edu)]);
    let (_, _, device) = program.opened();
    let uapi = &program.uapi;
    // The file of a device of which nobody has any before it is bound.
    let unbound = program.open(Node::Device(1));
    uapi.withdraw();
    assert!(!uapi.wait_given_back(Duration::ZERO), "it is open");
    assert_eq!(uapi.take_devices(), ["0000:01:00.0"]);
    assert_eq!(program.read(device, 0, 0, 4), Ok(vec![0xff; 4]));
    assert_eq!(program.ioctl_value(device, sys::RESET, 0), Ok(0));
    let iommu = program.open(Node::Iommu);
    let mut bind = sys::words(&[16, 0, iommu as u32, 0]);
    assert_eq!(program.ioctl(unbound, sys::BIND, &mut bind), Err(Errno::NODEV));
    program.close(device);
    assert!(uapi.wait_given_back(Duration::ZERO), "its last file is closed");
}

#[test]
fn errors_and_requests_to_release_reach_their_eventfds() {
    let odd = Odd::express();
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Given(Arc::clone(&odd) as _))]);
    let (_, _, device) = program.opened();
    let ((error, error_number), (request, request_number)) = (program.eventfd(), program.eventfd());
    program
        .set_eventfds(device, 3, 0, &[error_number])
        .expect("ERR is set");
    program
        .set_eventfds(device, 4, 0, &[request_number])
        .expect("REQ is set");
    odd.host().report_error();
    until("the error is told", || count(&error) == 1);
    odd.host().request_release();
    until("the request is told", || count(&request) == 1);
}

/// Threads of which two want the same group, all the way to a device that reaches memory.
#[test]
fn calls_of_several_threads_at_a_time_leave_nothing_behind() {
    let program = Arc::new(Program::with(&[
        ("0000:01:00.0", 7, Kind::Odd),
        ("0000:02:00.0", 8, Kind::Odd),
    ]));
    let round = |program: &Program, group: u32, name: &str| {
        let group = program.try_open(Node::Group(group)).ok()?;
        let container = program.open(Node::Container);
        program.set_container(group, container).expect("set");
        program
            .ioctl_value(container, sys::SET_IOMMU, sys::TYPE1V2)
            .expect("set");
        let memory = Memory::new(4096);
        program
            .map(container, IOVA, memory.address(), 4096, sys::READ)
            .expect("mapped");
        let device = program.device_fd(group, name).expect("opened");
        bus_master(program, device);
        program.ioctl_value(device, sys::RESET, 0).expect("reset");
        for number in [group, container, device] {
            program.close(number);
        }
        Some(())
    };
    let threads: Vec<_> = [(7, "0000:01:00.0"), (8, "0000:02:00.0"), (7, "0000:01:00.0")]
        .into_iter()
        .map(|(group, name)| {
            let program = Arc::clone(&program);
            std::thread::spawn(move || {
                let mut rounds = 0;
                until("all rounds are done", || {
                    rounds += usize::from(round(&program, group, name).is_some());
                    rounds == 10
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no thread panicked");
    }
    for group in [7, 8] {
        assert!(program.try_open(Node::Group(group)).is_ok(), "group {group}");
    }
}
