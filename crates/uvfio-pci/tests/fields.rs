//! Every register, with every byte enable and many values: what a write may change, whatever it is. The tables
//! are used to enumerate; what must hold is the specification's meaning of their words.

mod common;

use common::{ALL, Device};
use uvfio_pci::{Access, ByteEnables, Effect, Input, Treatment, View, Window};

/// What the fields of one dword say.
#[derive(Clone, Copy, Default)]
struct Bits {
    /// Some field has them.
    declared: u32,
    /// A write may store into them.
    stored: u32,
    /// A written 1 clears them.
    cleared: u32,
    /// The function changes them by itself.
    own: u32,
}

fn bits_of(device: &Device) -> Vec<Bits> {
    let layout = &device.layout;
    let mut words = vec![Bits::default(); usize::from(layout.config_bytes() / 4)];
    for placed in layout.placed() {
        for copy in 0..placed.copies {
            for field in placed.table.fields {
                let place = field.place(placed.offset + copy * placed.table.bytes());
                let word = &mut words[usize::from(place.word)];
                word.declared |= place.mask;
                let live = matches!(
                    field.treatment(layout.view()),
                    Treatment::Shadow | Treatment::Hardware
                );
                match field.access {
                    _ if !live => {}
                    Access::Rw | Access::Rws => word.stored |= place.mask,
                    Access::Rw1c | Access::Rw1cs => word.cleared |= place.mask,
                    _ => word.own |= place.mask,
                }
            }
        }
    }
    words
}

fn patterns(declared: bool) -> Vec<u32> {
    let mut patterns = vec![0, u32::MAX, 0x5555_5555, 0xaaaa_aaaa];
    if declared {
        patterns.extend((0..32).map(|n| 1 << n));
    }
    patterns
}

/// A function on which as much as possible has happened that writes could undo.
fn used(mut device: Device) -> Device {
    device.w16(0x04, 0x0147);
    device.w8(0x3c, 11);
    for (correctable, bit) in [(true, 0), (true, 13), (false, 4), (false, 12), (false, 20)] {
        device.input(Input::Error {
            correctable,
            bit,
            header: [0x1111_1111, 2, 3, 0xffff_ffff],
        });
    }
    device.input(Input::IntxLevel { asserted: true });
    device
}

/// Writes to each register on a copy of `device`, and checks what became of it.
fn each_write(name: &str, device: &Device) {
    let bits = bits_of(device);
    let mut scratch = device.clone();
    for (register, bits) in (0_u16..).zip(bits) {
        let old = device.r32(register * 4);
        for enables in 0..16 {
            for value in patterns(bits.declared != 0) {
                scratch.state.clone_from(&device.state);
                scratch.input(Input::Write {
                    window: Window::Config,
                    register,
                    value,
                    enables: ByteEnables(enables),
                });
                let write = Write {
                    name,
                    bits,
                    register,
                    enables: ByteEnables(enables),
                    value,
                    old,
                    new: scratch.r32(register * 4),
                    device: &scratch,
                };
                write.check();
            }
        }
    }
}

struct Write<'a> {
    name: &'a str,
    bits: Bits,
    register: u16,
    enables: ByteEnables,
    value: u32,
    old: u32,
    new: u32,
    device: &'a Device,
}

impl Write<'_> {
    #[track_caller]
    fn holds(&self, wrong: u32, rule: &str) {
        assert_eq!(
            wrong,
            0,
            "{} in {:?}, register {:#05x}, write {:08x} with enables {:04b}: was {:08x}, became {:08x}: {rule}",
            self.name,
            self.device.layout.view(),
            self.register * 4,
            self.value,
            self.enables.0,
            self.old,
            self.new
        );
    }

    fn resets(&self) -> bool {
        let effects = &self.device.effects;
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Reset { .. }))
    }

    fn check(&self) {
        let changed = self.old ^ self.new;
        let lanes = self.enables.mask();
        let Bits {
            declared,
            stored,
            cleared,
            own,
        } = self.bits;
        self.holds(changed & !declared, "bits that no field has never change");
        self.holds(changed & !(stored | cleared | own), "read-only bits never change");
        if self.resets() {
            // The values after a reset have tests of their own.
            return;
        }
        self.holds(changed & !lanes, "lanes that are not enabled never change");
        self.holds(
            changed & stored & !(self.value ^ self.old),
            "a bit becomes what was written, or stays",
        );
        let wanted = self.old & !(self.value & lanes);
        self.holds(
            (self.new ^ wanted) & cleared,
            "a written 1 clears, and nothing else does",
        );
        self.holds(changed & own, "a write does not change what the function tells");
        let hardware = |effect: &Effect| matches!(effect, Effect::HardwareWrite { .. });
        if self.device.layout.view() == View::Virtual {
            self.holds(
                u32::from(self.device.effects.iter().any(hardware)),
                "a write in the virtual view reaches no hardware",
            );
        }
    }
}

fn all_registers(view: View) {
    for (name, blueprint) in ALL {
        let fresh = Device::seen(&blueprint, view);
        each_write(name, &fresh);
        each_write(name, &used(fresh));
    }
}

#[test]
fn a_write_changes_only_what_the_virtual_view_lets_it_change() {
    all_registers(View::Virtual);
}

#[test]
fn a_write_changes_only_what_the_filtered_view_lets_it_change() {
    all_registers(View::Filtered);
}

#[test]
fn a_write_changes_only_what_the_raw_view_lets_it_change() {
    all_registers(View::Raw);
}

#[test]
fn a_write_with_no_lane_enabled_does_nothing() {
    for (name, blueprint) in ALL {
        for view in View::ALL {
            let device = used(Device::seen(&blueprint, view));
            for register in 0..device.layout.config_bytes() / 4 {
                let mut written = device.clone();
                let effects = written.input(Input::Write {
                    window: Window::Config,
                    register,
                    value: u32::MAX,
                    enables: ByteEnables(0),
                });
                let told = effects.iter().any(|effect| *effect != Effect::Deliver);
                assert!(!told, "{name} {view:?} {:#x}: {effects:?}", register * 4);
                assert_eq!(written.state, device.state, "{name} {view:?} {:#x}", register * 4);
            }
        }
    }
}

#[test]
fn a_write_changes_no_other_register_unless_it_resets() {
    for (name, blueprint) in ALL {
        let device = used(Device::new(&blueprint));
        let before = device.page();
        for register in 0..device.layout.config_bytes() / 4 {
            for value in [0, u32::MAX] {
                let mut written = device.clone();
                written.w32(register * 4, value);
                if written.effects.iter().any(|e| matches!(e, Effect::Reset { .. })) {
                    continue;
                }
                let after = written.page();
                let at = usize::from(register * 4);
                for (n, (old, new)) in before.iter().zip(&after).enumerate() {
                    assert!(
                        (at..at + 4).contains(&n) || old == new,
                        "{name}: writing {value:08x} to {at:#05x} made byte {n:#05x} {new:02x} from {old:02x}"
                    );
                }
            }
        }
    }
}

#[test]
fn what_lies_past_a_window_reads_0_and_takes_no_write() {
    for (name, blueprint) in ALL {
        let device = Device::new(&blueprint);
        for window in [Window::Config, Window::MsixTable, Window::MsixPba] {
            let end = device.layout.window_bytes(window);
            for register in [end / 4, end / 4 + 1, u32::from(u16::MAX)] {
                let mut written = device.clone();
                let effects = written.input(Input::Write {
                    window,
                    register: register as u16,
                    value: u32::MAX,
                    enables: ByteEnables::ALL,
                });
                assert_eq!(effects, [], "{name} {window:?} {register:#x}");
                assert_eq!(written.state, device.state, "{name} {window:?} {register:#x}");
                let value = uvfio_pci::read(&device.layout, &device.state, window, register as u16);
                assert_eq!(value, 0, "{name} {window:?} {register:#x}");
            }
        }
    }
}
