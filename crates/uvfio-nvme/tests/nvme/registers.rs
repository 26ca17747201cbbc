//! Registers, enabling, disabling, shutdown.

use super::driver::{CC_ENABLE, CFS, Command, Machine, PAGE, RDY, config, reg};

#[test]
fn capabilities_and_version_say_nvme_1_4_with_pages_of_4_kib() {
    let machine = Machine::cold(config());
    let cap = machine.register64(reg::CAP);
    assert!(cap & 0xffff >= 1023, "CAP.MQES: {cap:#x}");
    assert_eq!(cap >> 16 & 1, 1, "CAP.CQR: {cap:#x}");
    assert_eq!(cap >> 32 & 0xf, 0, "CAP.DSTRD: {cap:#x}");
    assert_eq!(cap >> 37 & 0xff, 1, "CAP.CSS: {cap:#x}");
    assert_eq!(cap >> 48 & 0xff, 0, "CAP.MPSMIN and MPSMAX: {cap:#x}");
    assert_eq!(machine.register(reg::VS), 0x0001_0400);
    assert_eq!(
        u64::from(machine.register(reg::CAP + 4)) << 32 | u64::from(machine.register(reg::CAP)),
        cap
    );
}

#[test]
fn parts_of_a_dword_can_be_read() {
    let machine = Machine::cold(config());
    let mut bytes = [0; 2];
    machine.device.read(0, reg::VS + 2, &mut bytes).unwrap();
    assert_eq!(u16::from_le_bytes(bytes), 1, "VS.MJR");
    let mut byte = [0; 1];
    machine.device.read(0, reg::VS + 1, &mut byte).unwrap();
    assert_eq!(byte[0], 4, "VS.MNR");
}

#[test]
fn reserved_bits_of_queue_addresses_read_zero() {
    let machine = Machine::cold(config());
    machine.write_register64(reg::ASQ, 0x1234_5678_9abc_dfff);
    machine.write_register64(reg::ACQ, 0xffff_ffff_ffff_ffff);
    machine.write_register(reg::AQA, 0xffff_ffff);
    assert_eq!(machine.register64(reg::ASQ), 0x1234_5678_9abc_d000);
    assert_eq!(machine.register64(reg::ACQ), 0xffff_ffff_ffff_f000);
    assert_eq!(machine.register(reg::AQA), 0x0fff_0fff);
}

#[test]
fn a_setting_that_can_not_be_sets_fatal_status_until_the_controller_is_disabled() {
    let impossible = [
        ("CSS 1", CC_ENABLE | 1 << 4, 31 << 16 | 31),
        ("MPS 1", CC_ENABLE | 1 << 7, 31 << 16 | 31),
        ("AMS 1", CC_ENABLE | 1 << 11, 31 << 16 | 31),
        ("ASQS 0", CC_ENABLE, 31 << 16),
        ("ACQS 0", CC_ENABLE, 31),
    ];
    let mut machine = Machine::cold(config());
    for (what, cc, aqa) in impossible {
        machine.write_register(reg::AQA, aqa);
        machine.write_register(reg::CC, cc);
        machine.wait_for(&format!("CSTS.CFS with {what}"), || {
            machine.register(reg::CSTS) & CFS != 0
        });
        assert_eq!(machine.register(reg::CSTS) & RDY, 0, "CSTS.RDY with {what}");
        machine.disable();
        machine.wait_for("CSTS.CFS 0", || machine.register(reg::CSTS) & CFS == 0);
    }
    machine.enable();
}

#[test]
fn admin_queue_registers_survive_a_controller_reset_but_not_a_function_reset() {
    let mut machine = Machine::new(config());
    let (aqa, asq, acq) = (machine.register(reg::AQA), machine.admin.sq, machine.admin.cq);
    machine.disable();
    assert_eq!(machine.register(reg::AQA), aqa);
    assert_eq!(machine.register64(reg::ASQ), asq);
    assert_eq!(machine.register64(reg::ACQ), acq);
    machine.enable();
    machine.device.reset(super::driver::PATIENCE).unwrap();
    assert_eq!(machine.register(reg::AQA), 0);
    assert_eq!(machine.register64(reg::ASQ), 0);
    assert_eq!(machine.register(reg::CC), 0);
    assert_eq!(machine.register(reg::CSTS), 0);
}

#[test]
fn a_shutdown_is_reported_complete_and_ends_with_a_reset() {
    let mut machine = Machine::new(config());
    for notification in [1, 2] {
        machine.write_register(reg::CC, CC_ENABLE | notification << 14);
        machine.wait_for("CSTS.SHST 10b", || machine.register(reg::CSTS) >> 2 & 3 == 2);
        machine.disable();
        assert_eq!(machine.register(reg::CSTS), 0, "after the reset");
        machine.enable();
    }
}

#[test]
fn disabling_and_enabling_at_once_gives_a_fresh_controller() {
    let mut machine = Machine::new(config());
    let _queue = machine.create_queue(1, 16);
    machine.write_register(reg::CC, CC_ENABLE & !1);
    machine.write_register(reg::CC, CC_ENABLE);
    machine.wait_for("CSTS.RDY 1", || machine.register(reg::CSTS) & RDY == 1);
    // RDY may have been seen before the reset: the admin queue's phase tells.
    machine.disable();
    machine.enable();
    let _again = machine.create_queue(1, 16);
}

#[test]
fn queue_registers_can_not_be_changed_while_enabled() {
    let machine = Machine::new(config());
    machine.write_register64(reg::ASQ, 7 * PAGE);
    machine.write_register(reg::AQA, 1);
    assert_eq!(machine.register64(reg::ASQ), machine.admin.sq);
    assert_eq!(machine.register(reg::AQA), 31 << 16 | 31);
}

#[test]
fn doorbells_read_zero_and_unknown_registers_too() {
    let machine = Machine::new(config());
    for offset in [0x18, 0x20, 0x38, 0x100, 0xffc, 0x1000, 0x1ffc] {
        assert_eq!(machine.register(offset), 0, "BAR 0 offset {offset:#x}");
    }
}

#[test]
fn a_shutdown_does_not_wait_for_room_in_the_admin_completion_queue() {
    let mut machine = Machine::new(config());
    let mut admin = std::mem::replace(&mut machine.admin, super::driver::Queue::nowhere());
    // An Abort of a command that is not there, which succeeds.
    let command = Command::new(0x08).dword(10, 0xffff_0001);
    let before = machine.nvme.statistics().admin_commands;
    // Of 32 entries of the queue 31 can be used: the last of these waits for room, and those behind it to be fetched.
    for (commands, done) in [(20, 20), (20, 32)] {
        for _ in 0..commands {
            machine.submit(&mut admin, command);
        }
        machine.wait_for("the commands", || {
            machine.nvme.statistics().admin_commands - before == done
        });
    }
    machine.write_register(reg::CC, CC_ENABLE | 1 << 14);
    machine.wait_for("CSTS.SHST 10b", || machine.register(reg::CSTS) >> 2 & 3 == 2);
    for number in 0..40 {
        let done = machine.complete(&mut admin);
        assert_eq!(done.status, 0, "command {number}: {done:x?}");
    }
}
