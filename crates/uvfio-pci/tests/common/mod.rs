//! A device on the bench: devices to test with, and accesses as a driver would make them. Offsets in these
//! tests are written out from the specifications; they are not taken from the tables that they test.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test may fail")]

use uvfio_pci::{
    Bar, BarSpan, Blueprint, Capability, Delivery, Effect, Effects, Extended, Identity, Input, Layout,
    MAX_EFFECTS, State, View, Window, access, next_delivery, read, step,
};

/// The identity of QEMU's teaching device.
pub(crate) const EDU_IDENTITY: Identity = Identity {
    vendor: 0x1234,
    device: 0x11e8,
    revision: 0x10,
    class: [0x00, 0xff, 0x00],
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
    interrupt_pin: 1,
};

/// A conventional function: one memory BAR, INTx, one 64-bit MSI message.
pub(crate) const EDU: Blueprint<'static> = Blueprint {
    identity: EDU_IDENTITY,
    bars: [
        Bar::Memory32 {
            bytes: 1 << 20,
            prefetchable: false,
        },
        Bar::None,
        Bar::None,
        Bar::None,
        Bar::None,
        Bar::None,
    ],
    rom_bytes: 0,
    capabilities: &[Capability::Msi {
        messages: 1,
        wide: true,
        maskable: false,
    }],
    extended: &[],
};

/// An NVMe controller: one 64-bit BAR, PCI Express, MSI-X with 33 vectors, AER, serial number.
pub(crate) const NVME: Blueprint<'static> = Blueprint {
    identity: Identity {
        vendor: 0x1b36,
        device: 0x0010,
        revision: 0x02,
        class: [0x01, 0x08, 0x02],
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        interrupt_pin: 1,
    },
    bars: [
        Bar::Memory64 {
            bytes: 16 << 10,
            prefetchable: false,
        },
        Bar::None,
        Bar::None,
        Bar::None,
        Bar::None,
        Bar::None,
    ],
    rom_bytes: 0,
    capabilities: &[
        Capability::PowerManagement { no_soft_reset: true },
        Capability::MsiX {
            vectors: 33,
            table: BarSpan {
                bar: 0,
                offset: 0x2000,
            },
            pba: BarSpan {
                bar: 0,
                offset: 0x3000,
            },
        },
        Capability::Express {
            flr: true,
            integrated: false,
        },
    ],
    extended: &[Extended::Aer, Extended::SerialNumber(0x0123_4567_89ab_cdef)],
};

/// A function with one of everything, each BAR of another kind.
pub(crate) const EVERYTHING: Blueprint<'static> = Blueprint {
    identity: EDU_IDENTITY,
    bars: [
        Bar::Memory32 {
            bytes: 64 << 10,
            prefetchable: true,
        },
        Bar::Io { bytes: 32 },
        Bar::Memory64 {
            bytes: 8 << 30,
            prefetchable: true,
        },
        Bar::None,
        Bar::Memory32 {
            bytes: 16,
            prefetchable: false,
        },
        Bar::None,
    ],
    rom_bytes: 64 << 10,
    capabilities: &[
        Capability::PowerManagement { no_soft_reset: false },
        Capability::Vpd { writable: true },
        Capability::Msi {
            messages: 32,
            wide: true,
            maskable: true,
        },
        Capability::MsiX {
            vectors: 100,
            table: BarSpan { bar: 0, offset: 0 },
            pba: BarSpan {
                bar: 0,
                offset: 0x8000,
            },
        },
        Capability::AdvancedFeatures,
        Capability::Vendor {
            body: &[0xa0, 0xa1, 0xa2, 0xa3, 0xa4],
            writable: &[0x00, 0xff, 0x0f, 0x00, 0x80],
        },
        Capability::Express {
            flr: true,
            integrated: true,
        },
    ],
    extended: &[
        Extended::Aer,
        Extended::Vendor {
            id: 0x1234,
            revision: 3,
            body: &[1, 2, 3, 4, 5, 6, 7, 8],
            writable: &[0xff, 0, 0xff, 0, 0xf0, 0, 0, 0],
        },
        Extended::Designated {
            vendor: 0x8086,
            revision: 1,
            id: 0x0042,
            body: &[9, 8],
            writable: &[0, 0xff],
        },
        Extended::SerialNumber(u64::MAX),
    ],
};

/// A 32-bit maskable MSI of four messages, a subsystem ID, power management, and no BAR at all.
pub(crate) const PLAIN: Blueprint<'static> = Blueprint {
    identity: EDU_IDENTITY,
    bars: [Bar::None; 6],
    rom_bytes: 0,
    capabilities: &[
        Capability::Msi {
            messages: 4,
            wide: false,
            maskable: true,
        },
        Capability::Subsystem {
            vendor: 0xaaaa,
            device: 0x5555,
        },
        Capability::PowerManagement { no_soft_reset: true },
    ],
    extended: &[],
};

pub(crate) const ALL: [(&str, Blueprint<'static>); 4] = [
    ("edu", EDU),
    ("nvme", NVME),
    ("everything", EVERYTHING),
    ("plain", PLAIN),
];

/// A function and what its last step gave.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) layout: Box<Layout>,
    pub(crate) state: Box<State>,
    pub(crate) effects: Vec<Effect>,
}

/// Which function it is; its thousands of registers would tell a reader nothing.
impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let bytes = self.page().len();
        let capability = self.r8(0x40);
        write!(
            f,
            "{:?} view, {bytes} bytes, first capability {capability:#x}",
            self.layout.view()
        )
    }
}

impl Device {
    pub(crate) fn new(blueprint: &Blueprint<'_>) -> Self {
        Self::seen(blueprint, View::Virtual)
    }

    pub(crate) fn seen(blueprint: &Blueprint<'_>, view: View) -> Self {
        let layout = Box::new(Layout::compile(blueprint, view).expect("the blueprint keeps the rules"));
        let state = Box::new(State::new(&layout));
        Self {
            layout,
            state,
            effects: Vec::new(),
        }
    }

    /// One input; gives its effects, which also stay in `effects`.
    pub(crate) fn input(&mut self, input: Input) -> &[Effect] {
        let mut effects = Effects::new();
        step(&self.layout, &mut self.state, input, &mut effects);
        self.effects = effects.iter().collect();
        // What does not fit is left out: a full buffer may have lost something.
        assert!(
            self.effects.len() < MAX_EFFECTS,
            "{input:?} fills the buffer: {:?}",
            self.effects
        );
        &self.effects
    }

    /// Reads `N` bytes at any offset of a window.
    pub(crate) fn bytes<const N: usize>(&self, window: Window, offset: u32) -> [u8; N] {
        let mut data = [0; N];
        for piece in access::split(offset, N) {
            piece.scatter(read(&self.layout, &self.state, window, piece.register), &mut data);
        }
        data
    }

    /// Writes bytes at any offset of a window; gives the effects of all of its registers.
    pub(crate) fn put(&mut self, window: Window, offset: u32, data: &[u8]) -> Vec<Effect> {
        let mut all = Vec::new();
        for piece in access::split(offset, data.len()) {
            all.extend_from_slice(self.input(Input::Write {
                window,
                register: piece.register,
                value: piece.gather(data),
                enables: piece.enables,
            }));
        }
        self.effects.clone_from(&all);
        all
    }

    pub(crate) fn r8(&self, offset: u16) -> u8 {
        self.bytes::<1>(Window::Config, offset.into())[0]
    }
    pub(crate) fn r16(&self, offset: u16) -> u16 {
        u16::from_le_bytes(self.bytes(Window::Config, offset.into()))
    }
    pub(crate) fn r32(&self, offset: u16) -> u32 {
        u32::from_le_bytes(self.bytes(Window::Config, offset.into()))
    }
    pub(crate) fn w8(&mut self, offset: u16, value: u8) -> Vec<Effect> {
        self.put(Window::Config, offset.into(), &[value])
    }
    pub(crate) fn w16(&mut self, offset: u16, value: u16) -> Vec<Effect> {
        self.put(Window::Config, offset.into(), &value.to_le_bytes())
    }
    pub(crate) fn w32(&mut self, offset: u16, value: u32) -> Vec<Effect> {
        self.put(Window::Config, offset.into(), &value.to_le_bytes())
    }

    /// A dword of the MSI-X table: entry and dword in it (3: vector control).
    pub(crate) fn entry(&self, vector: u32, dword: u32) -> u32 {
        u32::from_le_bytes(self.bytes(Window::MsixTable, vector * 16 + dword * 4))
    }
    pub(crate) fn set_entry(&mut self, vector: u32, dword: u32, value: u32) -> Vec<Effect> {
        self.put(Window::MsixTable, vector * 16 + dword * 4, &value.to_le_bytes())
    }
    /// A vector's bit in the pending bit array.
    pub(crate) fn pending(&self, vector: u32) -> bool {
        self.bytes::<1>(Window::MsixPba, vector / 8)[0] >> (vector % 8) & 1 != 0
    }

    /// All of configuration space.
    pub(crate) fn page(&self) -> Vec<u8> {
        let words = self.layout.config_bytes() / 4;
        (0..words)
            .flat_map(|n| read(&self.layout, &self.state, Window::Config, n).to_le_bytes())
            .collect()
    }

    /// Byte offset of a capability, found as a driver finds it.
    pub(crate) fn capability(&self, id: u8) -> u16 {
        let mut at = u16::from(self.r8(0x34));
        while at != 0 {
            if self.r8(at) == id {
                return at;
            }
            at = self.r8(at + 1).into();
        }
        panic!("no capability {id:#x} in the chain");
    }

    /// Byte offset of an extended capability.
    pub(crate) fn extended(&self, id: u16) -> u16 {
        let mut at = 0x100;
        while at != 0 {
            if self.r16(at) == id {
                return at;
            }
            at = self.r16(at + 2) >> 4;
        }
        panic!("no extended capability {id:#x} in the chain");
    }

    /// Takes every interrupt that can be delivered, as (kind, vector).
    pub(crate) fn deliveries(&mut self) -> Vec<Delivery> {
        let taken: Vec<_> = core::iter::from_fn(|| next_delivery(&self.layout, &mut self.state))
            .take(4096)
            .collect();
        assert!(taken.len() < 4096, "deliveries never end: {:?}", &taken[..3]);
        taken
    }

    /// Takes every interrupt that can be delivered; its vectors.
    pub(crate) fn vectors(&mut self) -> Vec<u16> {
        self.deliveries().iter().map(|delivery| delivery.vector).collect()
    }
}
