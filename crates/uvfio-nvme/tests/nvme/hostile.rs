//! Users that mean harm, or make mistakes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::driver::{Command, HOLE, MEMORY, MEMORY_BYTES, Machine, PAGE, Queue, config, read_command, reg};

/// An address of any kind: memory, a hole, the ends of the address space, aligned or not.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..MEMORY_BYTES / PAGE).prop_map(|page| MEMORY + page * PAGE),
        1 => (0..MEMORY_BYTES).prop_map(|offset| MEMORY + offset),
        1 => Just(HOLE),
        1 => Just(0),
        1 => Just(u64::MAX - 4095),
        1 => Just(MEMORY + MEMORY_BYTES - PAGE),
        1 => any::<u64>(),
    ]
}

fn small_or_any() -> impl Strategy<Value = u32> {
    prop_oneof![3 => 0..64u32, 2 => any::<u32>(), 1 => Just(u32::MAX)]
}

prop_compose! {
    fn command(opcodes: &'static [u8])(
        opcode in prop_oneof![6 => prop::sample::select(opcodes), 1 => any::<u8>()],
        flags in prop_oneof![8 => Just(0), 1 => any::<u8>()],
        nsid in prop_oneof![6 => Just(1), 1 => 0..4u32, 1 => any::<u32>()],
        prp1 in address(),
        prp2 in address(),
        dwords in prop::array::uniform6(small_or_any()),
    ) -> Command {
        let mut command = Command::new(opcode).nsid(nsid).prp(prp1, prp2);
        command.0[0] |= u32::from(flags) << 8;
        for (number, value) in dwords.into_iter().enumerate() {
            command = command.dword(10 + number, value);
        }
        command
    }
}

const IO: &[u8] = &[0, 1, 2, 5, 8, 9];
const ADMIN: &[u8] = &[0x00, 0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x7c];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_io_commands_get_exactly_one_completion_each(commands in prop::collection::vec(command(IO), 1..60)) {
        let mut machine = Machine::new(config());
        // The queue lies outside what the commands can reach: in a mapping of its own.
        let (keep, base) = apart(&machine);
        machine.admin_ok(Command::new(0x05).prp(base, 0).dword(10, 63 << 16 | 1).dword(11, 1));
        machine.admin_ok(Command::new(0x01).prp(base + PAGE, 0).dword(10, 63 << 16 | 1).dword(11, 1 << 16 | 1));
        let mut expected = BTreeMap::new();
        let mut bytes = Vec::new();
        for (cid, command) in commands.iter().enumerate() {
            expected.insert(cid as u16, *command);
            bytes.extend(command.cid(cid as u16).0.iter().flat_map(|dword| dword.to_le_bytes()));
        }
        std::os::unix::fs::FileExt::write_all_at(&keep, &bytes, PAGE).unwrap();
        machine.write_register(0x1008, commands.len() as u32);
        for place in 0..commands.len() as u64 {
            let mut entry = [0; 16];
            machine.wait_for("a completion for each command", || {
                std::os::unix::fs::FileExt::read_exact_at(&keep, &mut entry, 16 * place).unwrap();
                entry[14] & 1 == 1
            });
            let cid = u16::from_le_bytes([entry[12], entry[13]]);
            prop_assert!(expected.remove(&cid).is_some(), "a second completion of {cid}");
        }
        let mut next = [0; 16];
        std::os::unix::fs::FileExt::read_exact_at(&keep, &mut next, 16 * commands.len() as u64).unwrap();
        prop_assert_eq!(next, [0; 16], "a completion of no command");
        prop_assert_eq!(machine.register(reg::CSTS), 1, "CSTS");
    }

    #[test]
    fn any_admin_commands_leave_a_controller_that_a_reset_mends(
        commands in prop::collection::vec(command(ADMIN), 1..30),
    ) {
        let mut machine = Machine::new(config());
        machine.identify(1, 0).unwrap();
        let mut admin = std::mem::replace(&mut machine.admin, Queue::nowhere());
        for command in &commands {
            machine.submit(&mut admin, *command);
        }
        // Whatever they did to the queues' own memory: the registers answer, and a reset mends it.
        machine.device.reset(super::driver::PATIENCE).unwrap();
        prop_assert_eq!(machine.register(reg::CSTS), 0, "CSTS");
        machine.recycle_cold();
        machine.enable();
        prop_assert!(machine.identify(1, 0).is_ok());
    }

    #[test]
    fn any_register_writes_leave_a_controller_that_a_reset_mends(
        writes in prop::collection::vec(
            (prop_oneof![4 => 0..0x40u64, 4 => 0x1000..0x1030u64, 1 => 0..0x2000u64], any::<u64>(), 0..4u32),
            1..100,
        ),
    ) {
        let mut machine = Machine::new(config());
        let _queue = machine.create_queue(1, 16);
        for (offset, value, size) in writes {
            let bytes = 1 << size;
            let offset = offset & !(bytes - 1);
            machine.device.write(0, offset, &value.to_le_bytes()[..bytes as usize]).unwrap();
        }
        machine.device.reset(super::driver::PATIENCE).unwrap();
        prop_assert_eq!(machine.register(reg::CSTS), 0, "CSTS");
        machine.recycle_cold();
        machine.enable();
        let mut queue = machine.create_queue(1, 16);
        let page = machine.allocate(1);
        prop_assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    }
}

/// Two pages mapped where random addresses don't lie.
fn apart(machine: &Machine) -> (std::fs::File, u64) {
    let file = super::driver::sealed_memfd(2 * PAGE);
    let base = 0x5000_0000_0000;
    let backing = Some(uvfio_core::Backing {
        file: file.try_clone().unwrap().into(),
        offset: 0,
    });
    let access = uvfio_core::DmaAccess::READ | uvfio_core::DmaAccess::WRITE;
    machine
        .device
        .dma_map(uvfio_core::DmaMap {
            iova: base,
            bytes: 2 * PAGE,
            access,
            backing,
        })
        .unwrap();
    (file, base)
}

#[test]
fn doorbells_of_any_value_are_taken_or_are_events() {
    let mut machine = Machine::new(config());
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    for value in [16, 17, 0xffff, 0x1_0010, u32::MAX] {
        machine.write_register(0x1008, value);
        machine.write_register(0x100c, value);
    }
    // A head past what was completed.
    machine.write_register(0x100c, 5);
    for _ in 0..40 {
        assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    }
    let mut admin = std::mem::replace(&mut machine.admin, Queue::nowhere());
    machine.submit(&mut admin, Command::new(0x0c));
    let event = machine.complete(&mut admin);
    assert_eq!(
        (event.status, event.result),
        (0, 0x01_0100),
        "invalid doorbell value: {event:x?}"
    );
}

#[test]
fn a_completion_queue_that_nobody_empties_stops_its_own_queue_only() {
    let mut machine = Machine::new(config());
    let (cq, sq) = (machine.allocate(1), machine.allocate(1));
    machine.admin_ok(Command::new(0x05).prp(cq, 0).dword(10, 3 << 16 | 1).dword(11, 1));
    machine.admin_ok(
        Command::new(0x01)
            .prp(sq, 0)
            .dword(10, 31 << 16 | 1)
            .dword(11, 1 << 16 | 1),
    );
    let mut submission = Queue::at(1, sq, cq, 32);
    let page = machine.allocate(1);
    for _ in 0..31 {
        machine.submit(&mut submission, read_command(1, 0, 1, page, 0));
    }
    let completions = |machine: &Machine| {
        machine
            .read(cq, 64)
            .chunks(16)
            .filter(|entry| entry[14] & 1 == 1)
            .count()
    };
    machine.wait_for("three completions", || completions(&machine) == 3);
    let mut other = machine.create_queue(2, 16);
    for _ in 0..30 {
        assert_eq!(machine.run(&mut other, read_command(1, 0, 1, page, 0)).status, 0);
    }
    assert_eq!(
        completions(&machine),
        3,
        "a fourth completion would make the full queue look empty"
    );
    // Emptied, it goes on.
    let mut completion = Queue::at(1, sq, cq, 4);
    for _ in 0..31 {
        assert_eq!(machine.complete(&mut completion).status, 0);
    }
    // Full again, a reset frees the threads.
    for _ in 0..31 {
        machine.submit(&mut submission, read_command(1, 0, 1, page, 0));
    }
    machine.disable();
    machine.enable();
    let mut queue = machine.create_queue(1, 16);
    for _ in 0..30 {
        assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    }
}

#[test]
fn a_full_completion_queue_does_not_keep_its_submission_queue_from_being_deleted() {
    let mut machine = Machine::new(config());
    let (cq, sq) = (machine.allocate(1), machine.allocate(1));
    machine.admin_ok(Command::new(0x05).prp(cq, 0).dword(10, 3 << 16 | 1).dword(11, 1));
    machine.admin_ok(
        Command::new(0x01)
            .prp(sq, 0)
            .dword(10, 31 << 16 | 1)
            .dword(11, 1 << 16 | 1),
    );
    let mut submission = Queue::at(1, sq, cq, 32);
    let page = machine.allocate(1);
    for _ in 0..31 {
        machine.submit(&mut submission, read_command(1, 0, 1, page, 0));
    }
    machine.wait_for("three completions", || {
        machine
            .read(cq, 64)
            .chunks(16)
            .filter(|entry| entry[14] & 1 == 1)
            .count()
            == 3
    });
    machine.admin_ok(Command::new(0x00).dword(10, 1));
    machine.admin_ok(Command::new(0x04).dword(10, 1));
    let mut queue = machine.create_queue(1, 16);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
}

#[test]
fn a_queue_in_a_hole_is_fatal_status_and_a_reset_mends_it() {
    let mut machine = Machine::new(config());
    let cq = machine.allocate(1);
    machine.admin_ok(Command::new(0x05).prp(cq, 0).dword(10, 15 << 16 | 1).dword(11, 1));
    machine.admin_ok(
        Command::new(0x01)
            .prp(HOLE, 0)
            .dword(10, 15 << 16 | 1)
            .dword(11, 1 << 16 | 1),
    );
    machine.write_register(0x1008, 1);
    machine.wait_for("CSTS.CFS", || machine.register(reg::CSTS) & 2 != 0);
    machine.disable();
    machine.enable();
    machine.identify(1, 0).unwrap();
}

#[test]
fn registers_answer_while_nothing_is_mapped() {
    let machine = Machine::cold(config());
    machine.device.dma_unmap(MEMORY, MEMORY_BYTES).unwrap();
    machine.write_register(reg::AQA, 31 << 16 | 31);
    machine.write_register64(reg::ASQ, MEMORY);
    machine.write_register64(reg::ACQ, MEMORY + PAGE);
    machine.write_register(reg::CC, super::driver::CC_ENABLE);
    machine.wait_for("CSTS.RDY", || machine.register(reg::CSTS) & 1 == 1);
    machine.write_register(0x1000, 3);
    machine.wait_for("CSTS.CFS", || machine.register(reg::CSTS) & 2 != 0);
    machine.disable();
    assert_eq!(machine.register(reg::CSTS), 0);
}
