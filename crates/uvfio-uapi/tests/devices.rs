//! Devices that do something, driven as a program for Linux's VFIO drives them.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use common::{Kind, Memory, Program, count, sys, until};
use rustix::io::Errno;
use uvfio_soft::edu::{BUFFER_AT, COMMAND_FROM_DEVICE, COMMAND_RUN, INTERRUPT_FACTORIAL, Reg};
use uvfio_uapi::Node;

const IOVA: u64 = 0x10_0000;
const SOURCE: u64 = 0x80_0000;

/// Turns bus mastering on, or off.
fn bus_master(program: &Program, device: i32, on: bool) {
    let before = program.config_u16(device, 4);
    let after = if on { before | 4 } else { before & !4 };
    program
        .write(device, 7, 4, &after.to_le_bytes())
        .expect("COMMAND is written");
}

/// Has edu copy, and waits until it says that it is done.
fn copy(program: &Program, device: i32, from: u64, to: u64, bytes: u64, flags: u64) {
    for (register, value) in [
        (Reg::DmaSource, from),
        (Reg::DmaDestination, to),
        (Reg::DmaCount, bytes),
        (Reg::DmaCommand, COMMAND_RUN | flags),
    ] {
        program
            .write(device, 0, register.offset(), &value.to_le_bytes())
            .expect("written");
    }
    until("the transfer is over", || {
        u64::from(program.read_u32(device, 0, Reg::DmaCommand.offset())) & COMMAND_RUN == 0
    });
}

/// Fills edu's buffer, which it reaches by DMA only; `container` has nothing mapped at [`SOURCE`].
fn fill(program: &Program, container: i32, device: i32, value: u8) {
    let memory = Memory::new(4096);
    memory.put(0, &[value; 4096]);
    program
        .map(container, SOURCE, memory.address(), 4096, sys::READ)
        .expect("mapped");
    bus_master(program, device, true);
    copy(program, device, SOURCE, BUFFER_AT, 4096, 0);
    program.unmap(container, SOURCE, 4096, 0).expect("unmapped");
}

#[test]
fn edu_copies_to_and_from_memory_of_the_process() {
    let program = Program::edu();
    let (container, _, device) = program.opened();
    let memory = Memory::new(8192);
    memory.put(0, &[0xa5; 512]);
    program
        .map(container, IOVA, memory.address(), 8192, sys::READ | sys::WRITE)
        .expect("mapped");
    bus_master(&program, device, true);
    copy(&program, device, IOVA, BUFFER_AT, 512, 0);
    copy(
        &program,
        device,
        BUFFER_AT,
        IOVA + 4096 - 256,
        512,
        COMMAND_FROM_DEVICE,
    );
    assert_eq!(memory.get(4096 - 256, 512), [0xa5; 512]);
    assert_eq!(memory.get(4096 + 256, 512), [0; 512]);
}

#[test]
fn a_transfer_spans_two_mappings_of_two_places() {
    let program = Program::edu();
    let (container, _, device) = program.opened();
    let (low, high) = (Memory::new(4096), Memory::new(4096));
    low.put(0, &[1; 4096]);
    high.put(0, &[2; 4096]);
    for (iova, memory) in [(IOVA, &low), (IOVA + 4096, &high)] {
        program
            .map(container, iova, memory.address(), 4096, sys::READ | sys::WRITE)
            .expect("mapped");
    }
    bus_master(&program, device, true);
    copy(&program, device, IOVA + 4096 - 100, BUFFER_AT, 200, 0);
    copy(&program, device, BUFFER_AT, IOVA, 200, COMMAND_FROM_DEVICE);
    assert_eq!(low.get(0, 200), [[1; 100], [2; 100]].concat());
}

/// What the device must not reach, it does not.
#[test]
fn memory_is_out_of_reach_unless_mapped_for_that_and_bus_mastering_is_on() {
    let program = Program::edu();
    let (container, _, device) = program.opened();
    let memory = Memory::new(8192);
    let untouched = |why: &str| {
        copy(&program, device, BUFFER_AT, IOVA, 64, COMMAND_FROM_DEVICE);
        assert_eq!(memory.get(0, 64), [0; 64], "{why}");
    };
    fill(&program, container, device, 7);

    untouched("nothing is mapped");
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ)
        .expect("mapped");
    untouched("it is mapped for reads only");
    program.unmap(container, IOVA, 4096, 0).expect("unmapped");
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ | sys::WRITE)
        .expect("mapped");
    program.unmap(container, IOVA, 4096, 0).expect("unmapped");
    untouched("it is unmapped again");
    program
        .map(container, IOVA, memory.address(), 4096, sys::READ | sys::WRITE)
        .expect("mapped");
    bus_master(&program, device, false);
    untouched("bus mastering is off");
    bus_master(&program, device, true);
    copy(&program, device, BUFFER_AT, IOVA, 64, COMMAND_FROM_DEVICE);
    assert_eq!(memory.get(0, 64), [7; 64], "mapped, and bus mastering is on");
}

#[test]
fn dma_to_what_munmap_took_away_fails_and_the_device_lives_on() {
    let program = Program::edu();
    let (container, _, device) = program.opened();
    let (gone, kept) = (Memory::new(4096), Memory::new(4096));
    for (iova, memory) in [(IOVA, &gone), (IOVA + 4096, &kept)] {
        program
            .map(container, iova, memory.address(), 4096, sys::READ | sys::WRITE)
            .expect("mapped");
    }
    fill(&program, container, device, 7);
    drop(gone);
    copy(&program, device, BUFFER_AT, IOVA, 64, COMMAND_FROM_DEVICE);
    copy(&program, device, BUFFER_AT, IOVA + 4096, 64, COMMAND_FROM_DEVICE);
    assert_eq!(kept.get(0, 64), [7; 64]);
}

#[test]
fn eight_msi_messages_reach_their_eventfds() {
    let program = Program::edu();
    let (_, _, device) = program.opened();
    let (eventfds, numbers): (Vec<_>, Vec<_>) = (0..8).map(|_| program.eventfd()).unzip();
    program
        .set_eventfds(device, 1, 0, &numbers)
        .expect("MSI is enabled");
    bus_master(&program, device, true);
    for (message, eventfd) in eventfds.iter().enumerate() {
        raise(&program, device, 1 << message);
        until("the message comes", || count(eventfd) == 1);
        let others: u64 = eventfds.iter().map(count).sum();
        assert_eq!(others, 0, "others besides message {message}");
    }
}

/// Raises edu's interrupt.
fn raise(program: &Program, device: i32, value: u32) {
    program
        .write(device, 0, Reg::InterruptRaise.offset(), &value.to_le_bytes())
        .expect("raised");
}

#[test]
fn intx_masks_itself_and_comes_again_when_it_is_unmasked_by_request_or_by_eventfd() {
    let program = Program::edu();
    let (_, _, device) = program.opened();
    let (interrupt, number) = program.eventfd();
    program
        .set_eventfds(device, 0, 0, &[number])
        .expect("INTx is enabled");
    raise(&program, device, INTERRUPT_FACTORIAL);
    until("INTx comes", || count(&interrupt) == 1);
    let mut unmask = sys::irq_set(sys::UNMASK | sys::NONE, 0, 0, 1);
    program
        .ioctl(device, sys::SET_IRQS, &mut unmask)
        .expect("unmasked");
    until("it comes again, being asserted still", || count(&interrupt) == 1);
    let (resample, number) = program.eventfd();
    let mut by_eventfd = sys::irq_set(sys::UNMASK | sys::EVENTFD, 0, 0, 1);
    by_eventfd.extend(number.to_ne_bytes());
    sys::seal(&mut by_eventfd);
    program
        .ioctl(device, sys::SET_IRQS, &mut by_eventfd)
        .expect("an eventfd unmasks");
    rustix::io::write(&resample, &1_u64.to_ne_bytes()).expect("signalled");
    until("it comes again, unmasked by eventfd", || count(&interrupt) == 1);
}

/// Where the PCI Express capability begins.
fn express(program: &Program, device: i32) -> u64 {
    let byte = |at: u64| u64::from(program.config_u16(device, at) & 0xff);
    let mut at = byte(0x34);
    while byte(at) != 0x10 {
        at = byte(at + 1);
        assert_ne!(at, 0, "there is a PCI Express capability");
    }
    at
}

#[test]
fn a_reset_by_request_or_by_register_is_done_when_the_call_returns_and_keeps_the_configuration() {
    let program = Program::edu();
    let (_, _, device) = program.opened();
    bus_master(&program, device, true);
    let before = program.read(device, 7, 0, 64).expect("the header");
    let function_level_reset = express(&program, device) + 8;
    for by_register in [false, true] {
        program
            .write(device, 0, Reg::Liveness.offset(), &9_u32.to_le_bytes())
            .expect("written");
        assert_eq!(program.read_u32(device, 0, Reg::Liveness.offset()), !9);
        if by_register {
            let control = program.config_u16(device, function_level_reset) | 0x8000;
            program
                .write(device, 7, function_level_reset, &control.to_le_bytes())
                .expect("written");
        } else {
            program.ioctl_value(device, sys::RESET, 0).expect("reset");
        }
        assert_ne!(
            program.read_u32(device, 0, Reg::Liveness.offset()),
            !9,
            "by register: {by_register}"
        );
        assert_eq!(
            program.read(device, 7, 0, 64),
            Ok(before.clone()),
            "by register: {by_register}"
        );
    }
}

#[test]
fn an_ioeventfd_writes_its_value_until_it_is_taken_away() {
    let program = Program::edu();
    let (_, _, device) = program.opened();
    let (doorbell, number) = program.eventfd();
    let liveness = |number| sys::ioeventfd(4, Reg::Liveness.offset(), 0x1234_5678, number);
    program
        .ioctl(device, sys::IOEVENTFD, &mut liveness(number))
        .expect("the eventfd is taken");
    rustix::io::write(&doorbell, &1_u64.to_ne_bytes()).expect("signalled");
    until("the register has the value's inverse", || {
        program.read_u32(device, 0, Reg::Liveness.offset()) == !0x1234_5678
    });
    program
        .ioctl(device, sys::IOEVENTFD, &mut liveness(-1))
        .expect("the eventfd is taken away");
    assert_eq!(
        program.ioctl(device, sys::IOEVENTFD, &mut liveness(-1)),
        Err(Errno::NODEV)
    );
}

#[test]
fn nvme_answers_identify_by_its_admin_queue_and_msi_x() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Nvme)]);
    let (container, _, device) = program.opened();
    let memory = Memory::new(3 * 4096);
    program
        .map(
            container,
            IOVA,
            memory.address(),
            3 * 4096,
            sys::READ | sys::WRITE,
        )
        .expect("mapped");
    let (interrupt, number) = program.eventfd();
    program
        .set_eventfds(device, 2, 0, &[number])
        .expect("MSI-X is enabled");
    bus_master(&program, device, true);
    let write = |at: u64, data: &[u8]| program.write(device, 0, at, data).expect("BAR 0 is written");
    // Admin queues of 16 entries: submissions in the first page, completions in the second.
    write(0x24, &0x000f_000f_u32.to_le_bytes());
    write(0x28, &IOVA.to_le_bytes());
    write(0x30, &(IOVA + 4096).to_le_bytes());
    write(0x14, &0x0046_0001_u32.to_le_bytes());
    until("the controller is ready", || {
        program.read_u32(device, 0, 0x1c) & 1 == 1
    });
    // Identify controller, to the third page.
    let mut command = [0; 64];
    command[0] = 0x06;
    command[2] = 0x2a;
    command[24..32].copy_from_slice(&(IOVA + 8192).to_le_bytes());
    command[40] = 1;
    memory.put(0, &command);
    write(0x1000, &1_u32.to_le_bytes());
    until("the message of completion comes", || count(&interrupt) > 0);
    let completion = memory.get(4096, 16);
    assert_eq!(completion[12], 0x2a, "the command's identifier");
    assert_eq!(
        u16::from_le_bytes([completion[14], completion[15]]),
        1,
        "success, phase 1"
    );
    assert_eq!(&memory.get(8192 + 4, 4), b"uapi", "the serial number");
}

/// As in a program for character devices and `/dev/iommu`.
#[test]
fn a_device_by_a_file_of_its_own_reaches_what_it_is_attached_to() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let device = program.open(Node::Device(0));
    program
        .ioctl(device, sys::BIND, &mut sys::bind(0, iommu))
        .expect("bound");
    let spaces = [0_u8, 1].map(|n| {
        let mut alloc = sys::words(&[12, 0, 0]);
        program
            .ioctl(iommu, sys::IOAS_ALLOC, &mut alloc)
            .expect("an address space");
        let memory = Memory::new(4096);
        memory.put(0, &[n + 1; 64]);
        let ioas = sys::u32_at(&alloc, 8);
        let flags = sys::FIXED | sys::READABLE | sys::WRITEABLE;
        let mut map = sys::ioas_map(flags, ioas, memory.address(), 4096, IOVA);
        program.ioctl(iommu, sys::IOAS_MAP, &mut map).expect("mapped");
        (ioas, memory)
    });
    bus_master(&program, device, true);
    let [(first, one), (second, two)] = spaces;
    let attach = |ioas| {
        program
            .ioctl(device, sys::ATTACH, &mut sys::words(&[12, 0, ioas]))
            .expect("attached")
    };
    attach(first);
    copy(&program, device, IOVA, BUFFER_AT, 64, 0);
    attach(second);
    copy(&program, device, BUFFER_AT, IOVA + 64, 64, COMMAND_FROM_DEVICE);
    assert_eq!(two.get(0, 128), [[2; 64], [1; 64]].concat());
    program
        .ioctl(device, sys::DETACH, &mut sys::words(&[8, 0]))
        .expect("detached");
    copy(&program, device, BUFFER_AT, IOVA + 128, 64, COMMAND_FROM_DEVICE);
    assert_eq!((one.get(64, 128), two.get(128, 64)), (vec![0; 128], vec![0; 64]));
    assert_eq!(
        program.read_u32(device, 0, Reg::Identification.offset()) & 0xff,
        0xed
    );
}

#[test]
fn dev_iommu_plays_a_container() {
    let program = Program::edu();
    let iommu = program.open(Node::Iommu);
    let group = program.open(Node::Group(7));
    program.set_container(group, iommu).expect("set");
    program
        .ioctl_value(iommu, sys::SET_IOMMU, sys::TYPE1V2)
        .expect("set");
    let device = program.device_fd(group, "0000:01:00.0").expect("opened");
    let memory = Memory::new(4096);
    memory.put(0, &[3; 64]);
    program
        .map(iommu, IOVA, memory.address(), 4096, sys::READ | sys::WRITE)
        .expect("mapped");
    bus_master(&program, device, true);
    copy(&program, device, IOVA, BUFFER_AT, 64, 0);
    copy(&program, device, BUFFER_AT, IOVA + 64, 64, COMMAND_FROM_DEVICE);
    assert_eq!(memory.get(64, 64), [3; 64]);

    // As version 1 it cuts mappings; what is left is where it was.
    program
        .ioctl_value(iommu, sys::SET_IOMMU, sys::TYPE1)
        .expect("set");
    let pages = Memory::new(3 * 4096);
    pages.put(2 * 4096, &[4; 64]);
    let at = IOVA + (1 << 20);
    program
        .map(iommu, at, pages.address(), 3 * 4096, sys::READ | sys::WRITE)
        .expect("mapped");
    assert_eq!(program.unmap(iommu, at + 4096, 4096, 0), Ok(4096));
    copy(&program, device, at + 2 * 4096, BUFFER_AT, 64, 0);
    copy(&program, device, BUFFER_AT, at, 64, COMMAND_FROM_DEVICE);
    copy(&program, device, BUFFER_AT, at + 4096, 64, COMMAND_FROM_DEVICE);
    assert_eq!(
        (pages.get(0, 64), pages.get(4096, 64)),
        (vec![4; 64], vec![0; 64])
    );

    for number in [device, group] {
        program.close(number);
    }
    let group = program.open(Node::Group(7));
    assert!(program.set_container(group, iommu).is_ok(), "it is free again");
}
