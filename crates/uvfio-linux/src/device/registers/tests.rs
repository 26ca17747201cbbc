//! Over a made-up configuration space, whose bytes do as written unless a test says otherwise.

use super::*;
use crate::device::made_up::function;

#[test]
fn command_has_memory_and_intx_as_told_and_what_is_not_ours_stays() {
    let (bytes, registers) = function();
    let quiet = Switches::QUIET;
    let master = Switches {
        bus_master: true,
        ..quiet
    };
    // Before: parity, SERR#, bus master; no memory.
    registers.set_command(master).unwrap();
    assert!(registers.bus_master());
    registers.set_command(quiet).unwrap();
    assert!(!registers.bus_master());
    registers.set_command(Switches { line: true, ..quiet }).unwrap();
    registers
        .set_command(Switches {
            memory: false,
            ..master
        })
        .unwrap();
    let expected = [
        (4, vec![0x46, 0x05]),
        (4, vec![0x42, 0x05]),
        (4, vec![0x42, 0x01]),
        (4, vec![0x44, 0x05]),
    ];
    assert_eq!(bytes.written(), expected);
}

#[test]
fn a_power_state_is_written_without_clearing_a_pending_power_event() {
    let (bytes, registers) = function();
    bytes.put(0x44, &[0x00, 0x81]);
    assert!(registers.set_power(PowerState::D3hot).unwrap());
    assert_eq!(bytes.written(), [(0x44, vec![0x03, 0x01])]);
}

#[test]
fn transactions_that_do_not_end_are_not_waited_for_without_end() {
    let (bytes, registers) = function();
    assert!(registers.wait_for_transactions().unwrap());
    bytes.put(0x5a, &[0x20]);
    assert!(!registers.wait_for_transactions().unwrap());
}
