//! Get and Set Features.

use super::driver::{Command, Machine, config};

#[test]
fn features_keep_what_was_set_until_a_reset() {
    let mut machine = Machine::new(config());
    let get = |select: u32, feature: u32, dword11: u32| {
        Command::new(0x0a)
            .dword(10, select << 8 | feature)
            .dword(11, dword11)
    };
    let set = |feature: u32, dword11: u32| Command::new(0x09).dword(10, feature).dword(11, dword11);
    // Feature, CDW11 to set, what then reads, the default, CDW11 to get.
    let values = [
        (0x01, 0x0102_0304, 0x0102_0304, 0, 0),
        (0x02, 0x20, 0x20, 0, 0),
        (0x04, 0x0150, 0x0150, 343, 0),
        (0x04, 1 << 20 | 0x0100, 0x0100, 0, 1 << 20),
        (0x05, 0x1234, 0x1234, 0, 0),
        (0x06, 0, 0, 1, 0),
        (0x08, 0x0503, 0x0503, 0, 0),
        (0x09, 1 << 16 | 2, 1 << 16 | 2, 2, 2),
        (0x0a, 1, 1, 0, 0),
        (0x0b, 0x1f, 0x1f, 0, 0),
    ];
    for (feature, value, reads, default, index) in values {
        assert_eq!(
            machine.admin_ok(get(0, feature, index)),
            default,
            "feature {feature:#x} before"
        );
        machine.admin_ok(set(feature, value));
        assert_eq!(
            machine.admin_ok(get(0, feature, index)),
            reads,
            "feature {feature:#x} set"
        );
        assert_eq!(
            machine.admin_ok(get(1, feature, index)),
            default,
            "feature {feature:#x} default"
        );
        assert_eq!(
            machine.admin_ok(get(2, feature, index)),
            default,
            "feature {feature:#x} saved"
        );
        assert_eq!(
            machine.admin_ok(get(3, feature, index)),
            4,
            "feature {feature:#x} capabilities"
        );
    }
    machine.disable();
    machine.enable();
    for (feature, _, _, default, index) in values {
        assert_eq!(
            machine.admin_ok(get(0, feature, index)),
            default,
            "feature {feature:#x} after a reset"
        );
    }
}

#[test]
fn features_that_can_not_be_set_are_refused() {
    let mut machine = Machine::new(config());
    let set = |feature: u32, dword11: u32| Command::new(0x09).dword(10, feature).dword(11, dword11);
    let cases = [
        ("unknown feature", set(0x7f, 0), 0x002),
        ("feature 0", set(0, 0), 0x002),
        ("save", set(0x8000_0001, 0), 0x10d),
        ("power state 1", set(0x02, 1), 0x002),
        ("sensor 1", set(0x04, 1 << 16), 0x002),
        ("threshold type 2", set(0x04, 2 << 20), 0x002),
        ("vector 5 of 5", set(0x09, 5), 0x002),
        ("0xffff queues", set(0x07, 0xffff_0003), 0x002),
        ("select 5", Command::new(0x0a).dword(10, 5 << 8 | 1), 0x002),
        (
            "getting vector 5 of 5",
            Command::new(0x0a).dword(10, 9).dword(11, 5),
            0x002,
        ),
    ];
    for (what, command, status) in cases {
        assert_eq!(machine.admin(command).status, status, "{what}");
    }
}

#[test]
fn the_number_of_queues_is_told_and_fixed_once_queues_exist() {
    let mut machine = Machine::new(config());
    let set = Command::new(0x09).dword(10, 7).dword(11, 63 << 16 | 63);
    assert_eq!(machine.admin_ok(set), 3 << 16 | 3, "4 of each");
    let _queue = machine.create_queue(4, 8);
    assert_eq!(machine.admin(set).status, 0x00c);
    assert_eq!(machine.admin_ok(Command::new(0x0a).dword(10, 7)), 3 << 16 | 3);
}

#[test]
fn the_timestamp_counts_from_what_was_set() {
    let mut machine = Machine::new(config());
    let page = machine.allocate(1);
    machine.admin_ok(Command::new(0x0a).dword(10, 0x0e).prp(page, 0));
    assert_eq!(machine.read(page, 8)[6], 0, "origin: cleared by reset");
    let then = 1_700_000_000_000u64;
    machine.write(page, &then.to_le_bytes());
    machine.admin_ok(Command::new(0x09).dword(10, 0x0e).prp(page, 0));
    machine.write(page, &[0xff; 8]);
    machine.admin_ok(Command::new(0x0a).dword(10, 0x0e).prp(page, 0));
    let now = u64::from_le_bytes(machine.read(page, 8).try_into().unwrap());
    assert_eq!(now >> 48, 2, "origin: Set Features");
    assert!(now & 0xffff_ffff_ffff >= then, "{now:#x} is before {then:#x}");
}
