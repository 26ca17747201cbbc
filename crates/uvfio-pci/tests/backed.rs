//! Layouts over a function that exists: what the views `filtered` and `raw` read of it, and which of a user's writes
//! reach it. The hardware is a page of bytes that records what it is told; which bits may reach it is written by hand.

#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail")]

mod common;

use std::sync::Arc;

use common::{Device, EVERYTHING};
use uvfio_pci::{
    Bar, Blueprint, ByteEnables, Effect, Effects, Input, Interrupt, Layout, Outcome, ResetKind, State, View,
    Window, access, step,
};

/// The page of a function with one of everything; and structures that no table describes, as PCI Express Base 5.0 and
/// the Enhanced Allocation ECN have them: enhanced allocation at 0xc0, SR-IOV at 0x200, L1 PM substates at 0x240, and
/// a designated structure of its own vendor at 0x260.
fn page() -> Vec<u8> {
    let mut page = Device::seen(&EVERYTHING, View::Raw).page();
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x85, &[0xc0]); // PCI Express: next
    put(0xc0, &[0x14, 0x00, 0x01, 0x00, 0x34, 0x12, 0x00, 0x00]);
    put(0x148, &[0x03, 0x00, 0x01, 0x20]); // serial number: next
    put(0x200, &[0x10, 0x00, 0x01, 0x24]);
    put(0x240, &[0x1e, 0x00, 0x01, 0x26]);
    // of 1234, revision 0, 16 bytes, ID 7
    put(
        0x260,
        &[
            0x23, 0x00, 0x01, 0x00, 0x34, 0x12, 0x00, 0x01, 0x07, 0x00, 0xa5, 0x5a,
        ],
    );
    put(0x26c, &[0xff; 4]);
    // Error bits, a pending wake-up, BARs and message registers as a system sets them.
    put(0x06, &[0x10, 0xf9]);
    put(0x10, &[0x08, 0x00, 0x00, 0xfe]);
    put(0x30, &[0x00, 0x00, 0xfe, 0xff]);
    put(0x45, &[0x81]);
    put(0x54, &[0x00, 0x00, 0xe0, 0xfe]);
    put(0x8e, &[0x0f]);
    put(0x104, &[0x00, 0x00, 0x10, 0x00]);
    put(0x800, &[0x5a; 16]);
    page
}

/// A function that exists, its user, and what it was told.
#[derive(Clone)]
struct Bench {
    layout: Arc<Layout>,
    state: Box<State>,
    hardware: Vec<u8>,
    /// Offset, bytes, value.
    told: Vec<(u16, u8, u32)>,
    refused: usize,
}

impl Bench {
    fn new(view: View) -> Self {
        Self::over(view, page())
    }

    fn over(view: View, page: Vec<u8>) -> Self {
        let layout = Arc::new(Layout::over(&EVERYTHING, &page, view).expect("a type 0 header"));
        assert!(layout.is_backed());
        Self {
            state: Box::new(State::new(&layout)),
            layout,
            hardware: page,
            told: Vec::new(),
            refused: 0,
        }
    }

    fn fetch(&self, register: u16, enables: ByteEnables) -> u32 {
        let mut value = 0;
        for (lane, bytes) in enables.natural() {
            for n in 0..bytes {
                let byte = self.hardware[usize::from(register) * 4 + usize::from(lane + n)];
                value |= u32::from(byte) << ((lane + n) * 8);
            }
        }
        value
    }

    fn read(&self, offset: u16, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        for piece in access::split(offset.into(), len) {
            let planned = self.layout.plan(&self.state, piece.register, piece.enables);
            let fetched = self.fetch(piece.register, planned);
            let value = self.layout.finish(&self.state, piece.register, planned, fetched);
            piece.scatter(value, &mut data);
        }
        data
    }

    fn r16(&self, offset: u16) -> u16 {
        self.read(offset, 2).try_into().map_or(0, u16::from_le_bytes)
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Effects::new();
        step(&self.layout, &mut self.state, input, &mut effects);
        for effect in effects.iter() {
            self.carry_out(effect);
        }
        effects.iter().collect()
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::HardwareWrite {
                register,
                enables,
                value,
                keep,
            } => {
                assert_eq!(value & keep, 0, "a bit to keep has no value");
                assert_eq!(
                    (value | keep) & !enables.mask(),
                    0,
                    "only in the lanes that are written"
                );
                let whole = value | self.fetch(register, enables) & keep;
                for (lane, bytes) in enables.natural() {
                    let part = u64::from(whole) >> (lane * 8) & ((1_u64 << (bytes * 8)) - 1);
                    self.told
                        .push((register * 4 + u16::from(lane), bytes, part as u32));
                }
            }
            Effect::Refused { .. } => self.refused += 1,
            _ => {}
        }
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Vec<Effect> {
        let pieces: Vec<_> = access::split(offset.into(), data.len()).collect();
        pieces
            .iter()
            .flat_map(|piece| {
                self.input(Input::Write {
                    window: Window::Config,
                    register: piece.register,
                    value: piece.gather(data),
                    enables: piece.enables,
                })
            })
            .collect()
    }

    /// What the hardware was told since this was asked last, by byte.
    fn told_bytes(&mut self) -> Vec<(u16, u8)> {
        let told = std::mem::take(&mut self.told);
        told.iter()
            .flat_map(|(at, bytes, value)| {
                (0..u16::from(*bytes)).map(move |n| (at + n, (value >> (n * 8)) as u8))
            })
            .collect()
    }
}

/// Bits that a written 1 clears, as the specifications draw them: STATUS, PME_Status, DEVSTA, and AER's two status
/// registers.
fn clears(offset: u16) -> u8 {
    match offset {
        0x07 => 0xf9,
        0x45 => 0x80,
        0x8e => 0x0f,
        0x104..0x108 => 0x005f_f030_u32.to_le_bytes()[usize::from(offset - 0x104)],
        0x110..0x114 => 0x0000_71c1_u32.to_le_bytes()[usize::from(offset - 0x110)],
        _ => 0,
    }
}

/// Bits whose writes reach the hardware as they are in the filtered view.
fn filtered(offset: u16) -> u8 {
    let dword = |offset: u16, bits: u32| bits.to_le_bytes()[usize::from(offset % 4)];
    match offset {
        0x04 => 0x43,        // COMMAND: I/O, memory, parity; bus mastering is carried
        0x05 => 0x01,        // SERR#; INTx stays off
        0x07 => 0xf9,        // STATUS
        0x0c | 0x3c => 0xff, // cache line size, interrupt line
        0x4a..0x50 => 0xff,  // VPD, but for the flag: see below
        0x60..0x64 => 0xff,  // MSI's mask bits
        0x6b => 0x40,        // MSI-X function mask
        0x80..0x84 => 0xff,  // the vendor's structure from 0x7c on
        0x7f => 0xff,
        0x8c => 0x1f,                               // DEVCTL without the payload size
        0x8d => 0x79,                               // without phantom functions, aux power and FLR
        0x8e => 0x0f,                               // DEVSTA
        0xac => 0x10,                               // completion timeout disable
        0x104..0x108 => dword(offset, 0x005f_f030), // AER status
        0x108..0x110 => dword(offset, 0x005f_f030), // mask, severity
        0x110..0x114 => dword(offset, 0x0000_71c1),
        0x114..0x118 => dword(offset, 0x0000_71c1),
        0x134..0x13c => 0xff,                                     // the VSEC's body
        0x26a..0x270 => 0xff, // the body of the designated structure of its own vendor
        0x7a..0x7c | 0xb0..0xc0 | 0x154..0x200 | 0x270.. => 0xff, // no structure
        _ => 0,               // not the DVSEC of another vendor, nor EA, SR-IOV, L1 substates
    }
}

/// What raw's user does not write by itself: bus mastering, the power state, MSI and MSI-X enable, resets.
fn carried(offset: u16) -> u8 {
    match offset {
        0x04 => 0x04,
        0x44 | 0x52 | 0x78 => 0xff,
        0x6b => 0x80,
        0x8d => 0x80,
        _ => 0,
    }
}

const VALUES: [u8; 12] = [0xff, 0, 0x55, 0xaa, 1, 2, 4, 8, 16, 32, 64, 128];

/// Writes each byte with each width, and looks at each byte that the hardware is told.
fn each_write(view: View, through: fn(u16) -> u8) {
    let fresh = Bench::new(view);
    for offset in 0..4096_u16 {
        for width in [1, 2, 4] {
            for value in VALUES {
                let span = offset..offset.saturating_add(width as u16);
                // The flag of VPD and the bits that start a reset are other tests'.
                let others = [(0x4b, 0x80), (0x8d, 0x80), (0x78, 0x01)];
                let other = |(at, bit)| span.contains(&at) && value & bit != 0;
                if span.end > 4096 || others.into_iter().any(other) {
                    continue;
                }
                let mut bench = fresh.clone();
                let data = vec![value; width];
                bench.write(offset, &data);
                let told = bench.told_bytes();
                for at in span.clone() {
                    let (bits, held) = (through(at), fresh.hardware[usize::from(at)]);
                    let got: Vec<u8> = told
                        .iter()
                        .filter(|(byte, _)| *byte == at)
                        .map(|(_, value)| *value)
                        .collect();
                    let context = format!("{view:?}: {width} bytes {value:02x} at {offset:#x}, byte {at:#x}");
                    if bits == 0 {
                        assert_eq!(got, [], "{context}: nothing of it may reach the hardware");
                        continue;
                    }
                    let [got] = got[..] else {
                        panic!("{context}: told {got:02x?}")
                    };
                    assert_eq!(
                        got & bits,
                        value & bits,
                        "{context}: what the user writes, in {bits:08b}"
                    );
                    let beside = got & !bits;
                    assert_eq!(
                        beside & clears(at),
                        0,
                        "{context}: a 1 that the user did not write clears a bit"
                    );
                    assert_eq!(beside & !held, 0, "{context}: bits that the user may not set");
                }
                assert!(
                    told.iter().all(|(at, _)| span.contains(at)),
                    "{span:?}: {told:02x?}"
                );
            }
        }
    }
}

#[test]
fn what_reaches_the_hardware_in_the_filtered_view_is_the_bits_that_disturb_nobody() {
    each_write(View::Filtered, filtered);
}

#[test]
fn in_the_raw_view_every_bit_reaches_the_hardware_but_those_that_the_kernel_carries_out() {
    each_write(View::Raw, |offset| !carried(offset));
}

#[test]
fn a_stopped_bit_beside_one_that_is_let_through_keeps_what_it_holds() {
    let mut bench = Bench::new(View::Filtered);
    bench.hardware[0x8c] = 0x50;
    bench.write(0x8c, &[0xaf]);
    assert_eq!(
        bench.told,
        [(0x8c, 1, 0x4f)],
        "DEVCTL: the payload size is as it was"
    );
}

#[test]
fn an_access_reaches_the_hardware_as_wide_as_the_user_made_it() {
    for (offset, data, told) in [
        (
            0x800_u16,
            &[1, 2, 3, 4][..],
            &[(0x800_u16, 4_u8, 0x0403_0201_u32)][..],
        ),
        (0x802, &[3, 4], &[(0x802, 2, 0x0403)]),
        (0x801, &[2, 3, 4], &[(0x801, 1, 2), (0x802, 2, 0x0403)]),
        (0x803, &[4, 5], &[(0x803, 1, 4), (0x804, 1, 5)]),
        (
            0x8c,
            &[0x1f, 0x28, 0x0f, 0],
            &[(0x8c, 2, 0x281f), (0x8e, 1, 0x0f)],
        ),
    ] {
        let mut bench = Bench::new(View::Filtered);
        bench.write(offset, data);
        assert_eq!(bench.told, told, "{data:x?} at {offset:#x}");
    }
}

#[test]
fn reads_are_the_hardwares_but_for_the_identity_and_intx_which_are_never_other_than_known() {
    for view in [View::Filtered, View::Raw] {
        let mut bench = Bench::new(view);
        // As the hardware of a virtual function, which does not tell who it is; and everything else turned round.
        let known = bench.hardware[..4].to_vec();
        for byte in &mut bench.hardware {
            *byte = !*byte;
        }
        let mut wanted = bench.hardware.clone();
        wanted[..4].copy_from_slice(&known);
        wanted[0x3d] = 0;
        if view == View::Filtered {
            wanted[5] &= !0x04;
        }
        for width in [1, 2, 4, 7] {
            for offset in 0..=4096 - width {
                let got = bench.read(offset as u16, width);
                assert_eq!(
                    got,
                    wanted[offset..offset + width],
                    "{view:?}: {width} bytes at {offset:#x}"
                );
            }
        }
    }
}

#[test]
fn disabling_intx_is_kept_by_the_model_in_the_filtered_view() {
    let mut bench = Bench::new(View::Filtered);
    bench.hardware[5] = 0x04;
    assert_eq!(bench.r16(0x04) & 0x400, 0);
    bench.write(0x05, &[0x04]);
    assert_eq!(bench.r16(0x04) & 0x400, 0x400);
    bench.write(0x05, &[0]);
    assert_eq!(
        bench.told_bytes(),
        [(5, 4), (5, 4)],
        "the hardware's own stays as it is"
    );
    assert_eq!(bench.layout.vectors(Interrupt::Intx), 0);
}

#[test]
fn what_the_kernel_carries_out_has_its_effect_and_no_write() {
    for view in [View::Filtered, View::Raw] {
        let mut bench = Bench::new(view);
        let effects = bench.write(0x04, &[0x06, 0x00]);
        assert!(
            effects.contains(&Effect::BusMaster { on: true }),
            "{view:?}: {effects:?}"
        );
        assert!(effects.contains(&Effect::Decode), "{view:?}: {effects:?}");
        assert!(
            bench.told_bytes().contains(&(4, 0x02)),
            "{view:?}: memory space, and no bus mastering"
        );
        let effects = bench.write(0x44, &[3, 0]);
        assert!(
            effects
                .iter()
                .any(|effect| matches!(effect, Effect::Power { .. })),
            "{view:?}: {effects:?}"
        );
        let told = bench.told_bytes();
        assert!(told.iter().all(|(at, _)| *at != 0x44), "{view:?}: PMCSR {told:?}");
        bench.write(0x44, &[0, 0]);
        let mut bench = Bench::new(view);
        let effects = bench.write(0x8c, &[0x1f, 0xa8]);
        assert!(
            effects
                .iter()
                .any(|effect| matches!(effect, Effect::Reset { .. })),
            "{view:?}: {effects:?}"
        );
        assert_eq!(
            bench.told_bytes(),
            [(0x8c, 0x1f), (0x8d, 0x28)],
            "{view:?}: DEVCTL"
        );
        bench.write(0x3c, &[9]);
        assert_eq!(
            bench.told_bytes(),
            [],
            "{view:?}: nothing reaches a function that is being reset"
        );
        let mut bench = Bench::new(view);
        let enable = bench.write(0x6b, &[0x80]);
        assert_eq!(
            bench.told_bytes(),
            [(0x6b, 0x00)],
            "{view:?}: the function mask, and no enable"
        );
        assert_eq!(
            enable.contains(&Effect::Interrupts),
            view == View::Raw,
            "{view:?}: {enable:?}"
        );
    }
}

#[test]
fn while_a_reset_is_under_way_the_model_answers_and_after_it_the_hardware_decodes_what_the_user_had() {
    for (view, decodes) in [(View::Filtered, 0x02), (View::Raw, 0x00)] {
        let mut bench = Bench::new(view);
        bench.write(0x04, &[0x06]);
        let effects = bench.input(Input::Reset {
            kind: ResetKind::FunctionLevel,
        });
        let Some(Effect::Reset { id, .. }) = effects
            .iter()
            .find(|effect| matches!(effect, Effect::Reset { .. }))
        else {
            panic!("{view:?}: {effects:?}")
        };
        bench.told.clear();
        bench.hardware.fill(0xff);
        assert_eq!(bench.read(0, 4), [0x34, 0x12, 0xe8, 0x11], "{view:?}");
        assert_eq!(bench.r16(0x8c) & 0x8000, 0, "{view:?}: DEVCTL");
        bench.write(0x3c, &[9]);
        assert_eq!(bench.told, [], "{view:?}");
        bench.hardware = page();
        bench.hardware[4] = 0x02;
        bench.input(Input::EffectDone {
            id: *id,
            outcome: Outcome::Done,
        });
        assert_eq!(bench.told, [(4, 1, decodes)], "{view:?}: COMMAND");
        bench.told.clear();
        bench.write(0x04, &[0x01]);
        bench.write(0x3c, &[9]);
        assert_eq!(bench.told, [], "{view:?}: what settles it is another thread's");
        bench.input(Input::Settled { id: *id });
        assert_eq!(bench.told, [(4, 1, 0x01)], "{view:?}: COMMAND as it is by now");
        assert!(bench.r16(0x8e) & 0x20 != 0, "{view:?}: DEVSTA");
        bench.input(Input::Settled { id: *id });
        bench.told.clear();
        assert_eq!(bench.r16(0x8e) & 0x20, 0, "{view:?}: DEVSTA");
        bench.write(0x04, &[0x02]);
        assert_eq!(bench.told, [(4, 1, 0x02)], "{view:?}: by its user again");
    }
}

#[test]
fn vital_product_data_are_read_through_and_stored_only_in_the_raw_view() {
    for (view, stored) in [(View::Filtered, false), (View::Raw, true)] {
        let mut bench = Bench::new(view);
        bench.write(0x4a, &[0x08, 0x00]);
        assert_eq!(bench.told, [(0x4a, 2, 0x0008)], "{view:?}: reading");
        bench.told.clear();
        bench.write(0x4a, &[0x08, 0x80]);
        assert_eq!(
            bench.told == [(0x4a, 2, 0x8008)],
            stored,
            "{view:?}: storing: {:x?}",
            bench.told
        );
        assert_eq!(bench.refused > 0, !stored, "{view:?}: a word about it");
    }
}

#[test]
fn a_write_to_a_structure_that_is_stopped_is_refused_with_a_word() {
    for offset in [0x10_u16, 0x30, 0x54, 0xc4, 0x208, 0x248, 0x146] {
        let mut bench = Bench::new(View::Filtered);
        bench.write(offset, &[0x5b; 4][..4 - usize::from(offset % 4)]);
        assert!(bench.refused > 0, "{offset:#x}");
    }
}

#[test]
fn where_the_chain_breaks_a_rule_no_undeclared_byte_is_written() {
    let mut page = page();
    page[0x24a] = 0x01;
    page[0x242..0x244].copy_from_slice(&0x1001_u16.to_le_bytes()); // L1 substates: next leads back to the first
    let mut bench = Bench::over(View::Filtered, page);
    for offset in [0x7a_u16, 0x154, 0x300, 0x800] {
        bench.write(offset, &[0xff]);
    }
    assert_eq!(bench.told, []);
    bench.write(0x3c, &[7]);
    assert_eq!(bench.told, [(0x3c, 1, 7)], "a declared one is, all the same");
}

#[test]
fn messages_are_as_many_as_were_granted_whatever_the_page_says() {
    let fewer = Blueprint {
        capabilities: &[uvfio_pci::Capability::Msi {
            messages: 4,
            wide: true,
            maskable: true,
        }],
        bars: [Bar::None; 6],
        ..EVERYTHING
    };
    let layout = Layout::over(&fewer, &page(), View::Raw).expect("a type 0 header");
    assert_eq!(layout.vectors(Interrupt::Msi), 4);
    assert_eq!(layout.vectors(Interrupt::MsiX), 0);
}

#[test]
fn a_register_is_put_back_in_the_bits_that_its_user_may_have_written_and_nothing_is_cleared() {
    for (view, offset, now, told) in [
        (
            View::Filtered,
            0x800_u16,
            [1, 2, 3, 4],
            &[(0x800_u16, 4_u8, 0x5a5a_5a5a_u32)][..],
        ),
        (View::Filtered, 0x800, [0x5a; 4], &[]),
        (View::Filtered, 0x10, [0; 4], &[]),
        (View::Raw, 0x10, [0; 4], &[(0x10, 4, 0xfe00_0008)]),
        // DEVCTL, and no error of DEVSTA's is cleared; the payload size is not the user's.
        (View::Filtered, 0x8c, [0xff, 0x20, 0x0f, 0], &[(0x8c, 2, 0x28f0)]),
        (View::Raw, 0x8c, [0xff, 0x20, 0x0f, 0], &[(0x8c, 4, 0x2810)]),
        // VPD's address would start a transfer.
        (View::Raw, 0x48, [3, 0x50, 4, 0], &[]),
    ] {
        let mut bench = Bench::new(view);
        let before = page();
        let at = usize::from(offset);
        bench.hardware[at..at + 4].copy_from_slice(&now);
        let was = u32::from_le_bytes(before[at..at + 4].try_into().expect("four bytes"));
        if let Some(effect) = bench.layout.put_back(offset / 4, was, u32::from_le_bytes(now)) {
            bench.carry_out(effect);
        }
        assert_eq!(bench.told, told, "{view:?}: {offset:#x}");
    }
}
