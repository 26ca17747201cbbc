//! Interrupts by MSI-X, MSI and the line.

use super::driver::{Command, Machine, config, read_command, reg, signals, with_msi};
use uvfio_core::{IrqAction, IrqData, SetIrqs};

const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;

#[test]
fn each_queue_interrupts_by_its_own_vector() {
    let mut machine = Machine::cold(config());
    let events = machine.enable_interrupts(MSIX, 5);
    machine.enable();
    machine.identify(1, 0).unwrap();
    machine.wait_for("vector 0", || signals(&events[0]) > 0);
    let mut queue = machine.create_queue(3, 8);
    machine.wait_for("vector 0", || signals(&events[0]) > 0);
    let page = machine.allocate(1);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    machine.wait_for("vector 3", || signals(&events[3]) > 0);
    for other in [1, 2, 4] {
        assert_eq!(signals(&events[other]), 0, "vector {other}");
    }
    // INTMS has no meaning while MSI-X is enabled (3.1.3).
    machine.write_register(reg::INTMS, 0xffff_ffff);
    machine.run(&mut queue, read_command(1, 0, 1, page, 0));
    machine.wait_for("vector 3 in spite of INTMS", || signals(&events[3]) > 0);
}

#[test]
fn a_queue_without_interrupts_is_silent() {
    let mut machine = Machine::cold(config());
    let events = machine.enable_interrupts(MSIX, 5);
    machine.enable();
    let (cq, sq, page) = (machine.allocate(1), machine.allocate(1), machine.allocate(1));
    machine.admin_ok(
        Command::new(0x05)
            .prp(cq, 0)
            .dword(10, 7 << 16 | 1)
            .dword(11, 2 << 16 | 1),
    );
    machine.admin_ok(
        Command::new(0x01)
            .prp(sq, 0)
            .dword(10, 7 << 16 | 1)
            .dword(11, 1 << 16 | 1),
    );
    let mut queue = super::driver::Queue::at(1, sq, cq, 8);
    for _ in 0..20 {
        assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    }
    // An interrupt of the admin queue comes after whatever those might have sent.
    signals(&events[0]);
    machine.identify(1, 0).unwrap();
    machine.wait_for("vector 0", || signals(&events[0]) > 0);
    assert_eq!(signals(&events[2]), 0, "vector 2");
}

#[test]
fn msi_messages_are_masked_and_told_of_later() {
    let mut machine = Machine::cold(with_msi(4));
    let events = machine.enable_interrupts(MSI, 4);
    machine.enable();
    let mut queue = machine.create_queue(2, 8);
    let page = machine.allocate(1);
    assert_eq!(machine.run(&mut queue, read_command(1, 0, 1, page, 0)).status, 0);
    machine.wait_for("message 2", || signals(&events[2]) > 0);
    machine.write_register(reg::INTMS, 1 << 2);
    assert_eq!(machine.register(reg::INTMS), 1 << 2);
    machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
    machine.wait_for("the completion", || machine.peek(&queue).is_some());
    machine.identify(1, 0).unwrap();
    assert_eq!(signals(&events[2]), 0, "a masked message");
    machine.write_register(reg::INTMC, 1 << 2);
    assert_eq!(machine.register(reg::INTMC), 0);
    machine.wait_for("message 2 after unmasking", || signals(&events[2]) > 0);
    // A vector beyond the messages can't be named.
    let done = machine.admin(
        Command::new(0x05)
            .prp(page, 0)
            .dword(10, 7 << 16 | 3)
            .dword(11, 4 << 16 | 3),
    );
    assert_eq!(done.status, 0x108, "{done:x?}");
}

#[test]
fn the_line_is_asserted_until_the_host_has_consumed_everything() {
    let mut machine = Machine::cold(config());
    let events = machine.enable_interrupts(INTX, 1);
    machine.enable();
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    // Delivering INTx masks it; unmasked, it comes again while the line is asserted.
    let unmask = |machine: &Machine| {
        let request = SetIrqs {
            index: INTX,
            start: 0,
            count: 1,
            action: IrqAction::Unmask,
            data: IrqData::None,
        };
        machine.device.set_irqs(request).unwrap();
    };
    unmask(&machine);
    signals(&events[0]);
    for _ in 0..3 {
        machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
        machine.wait_for("the interrupt", || signals(&events[0]) > 0);
        unmask(&machine);
        machine.wait_for("the interrupt again, as nothing was consumed", || {
            signals(&events[0]) > 0
        });
        machine.complete(&mut queue);
        unmask(&machine);
        assert!(!asserted(&machine), "the line is asserted though all is consumed");
    }
    // Masked by INTMS, the line is quiet, and asserted when unmasked.
    machine.write_register(reg::INTMS, 1);
    machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
    machine.wait_for("the completion", || machine.peek(&queue).is_some());
    assert!(!asserted(&machine), "the line is asserted though INTMS masks it");
    signals(&events[0]);
    machine.write_register(reg::INTMC, 1);
    machine.wait_for("the interrupt after INTMC", || signals(&events[0]) > 0);
    // A reset takes the line away.
    machine.disable();
    assert!(!asserted(&machine), "the line is asserted after a reset");
}

#[test]
fn the_line_takes_over_when_msi_x_is_disabled_and_falls_when_it_is_enabled() {
    let mut machine = Machine::cold(config());
    let _events = machine.enable_interrupts(MSIX, 5);
    machine.enable();
    let mut queue = machine.create_queue(1, 8);
    let page = machine.allocate(1);
    machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
    machine.wait_for("the completion", || machine.peek(&queue).is_some());
    assert!(!asserted(&machine), "the line is asserted while MSI-X is enabled");
    let off = SetIrqs {
        index: MSIX,
        start: 0,
        count: 0,
        action: IrqAction::Trigger,
        data: IrqData::None,
    };
    machine.device.set_irqs(off).unwrap();
    machine.wait_for("the line", || asserted(&machine));
    let _events = machine.enable_interrupts(MSIX, 5);
    assert!(
        !asserted(&machine),
        "the line is asserted though MSI-X is enabled again"
    );
}

/// STATUS.Interrupt Status.
fn asserted(machine: &Machine) -> bool {
    let mut status = [0; 2];
    machine
        .device
        .read(uvfio_core::region_index::CONFIG, 6, &mut status)
        .unwrap();
    status[0] & 1 << 3 != 0
}
