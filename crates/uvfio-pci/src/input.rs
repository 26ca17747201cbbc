//! What goes into a step and what comes out.

/// The byte lanes of a register that an access covers: bit n is byte n.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteEnables(pub u8);

/// A space whose registers are the model's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Window {
    /// Configuration space.
    Config,
    /// The MSI-X table.
    MsixTable,
    /// The MSI-X pending bit array.
    MsixPba,
}

/// The kinds of interrupt a function can send. The numbers are VFIO's interrupt indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interrupt {
    /// The legacy line.
    Intx = 0,
    /// MSI messages.
    Msi = 1,
    /// MSI-X messages.
    MsiX = 2,
}

/// How a function was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetKind {
    /// Function level reset.
    FunctionLevel,
    /// Conventional reset (hot, bus, power-on).
    Conventional,
    /// D3hot to D0 with No_Soft_Reset 0.
    D3hot,
}

/// A device power state that the model knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PowerState {
    /// Working.
    #[default]
    D0,
    /// Light sleep.
    D1,
    /// Deeper sleep.
    D2,
    /// Off but for configuration space.
    D3hot,
}

impl PowerState {
    /// The state that the field PowerState of PMCSR names by this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::D0,
            1 => Self::D1,
            2 => Self::D2,
            _ => Self::D3hot,
        }
    }

    /// Its number in that field.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

/// One thing that happens to a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The user writes one whole register (a dword, little endian) of a window, in the lanes enabled.
    Write {
        /// The space.
        window: Window,
        /// The dword's number: byte offset / 4.
        register: u16,
        /// The value; only enabled lanes count.
        value: u32,
        /// The lanes.
        enables: ByteEnables,
    },
    /// The device sends message `vector` (MSI or MSI-X, whichever is enabled). A vector at or above the
    /// number of messages granted is folded into it (PCI Local Bus 3.0, section 6.8.3.4).
    VectorFired {
        /// Vector, from 0.
        vector: u16,
    },
    /// The device asserts or deasserts its INTx line.
    IntxLevel {
        /// Whether it is asserted.
        asserted: bool,
    },
    /// Request door: interrupts of `kind` are enabled with vectors 0..`vectors`. MSI: MME becomes
    /// ceil(log2(vectors)), and never shrinks while enabled. MSI-X: bit 15. INTx: delivery is on.
    Enable {
        /// Which interrupts.
        kind: Interrupt,
        /// How many.
        vectors: u16,
    },
    /// Request door: interrupts of `kind` are disabled, every vector detached.
    Disable {
        /// Which interrupts.
        kind: Interrupt,
    },
    /// Request door: an eventfd was attached to a vector (MSI-X: its mask bit becomes 0). If the vector was
    /// pending, it is delivered.
    Attach {
        /// Which interrupts.
        kind: Interrupt,
        /// Which vector.
        vector: u16,
    },
    /// Request door: the vector's eventfd was taken away (MSI-X: its mask bit becomes 1).
    Detach {
        /// Which interrupts.
        kind: Interrupt,
        /// Which vector.
        vector: u16,
    },
    /// Request door: INTx is masked by SET_IRQS, apart from COMMAND's INTx disable.
    MaskIntx,
    /// Request door: INTx is unmasked, by SET_IRQS or the resample eventfd; delivered again if still asserted.
    UnmaskIntx,
    /// Request door: bus mastering by DEVICE_FEATURE; the same bit as COMMAND's.
    BusMaster {
        /// Whether it is on.
        on: bool,
    },
    /// A reset begins (request door, bus reset, D-state). Gives [`Effect::Reset`].
    Reset {
        /// How.
        kind: ResetKind,
    },
    /// An effect that takes time is done.
    EffectDone {
        /// The number it came with.
        id: EffectId,
        /// How it went.
        outcome: Outcome,
    },
    /// What came of the end of a reset has been carried out: the device has its user's settings again. Where that has
    /// given others meanwhile, they are effects, and this must come once more; see [`crate::State::settling`].
    Settled {
        /// The number that the reset came with.
        id: EffectId,
    },
    /// The device reports an error of the AER uncorrectable (`correctable` false) or correctable register.
    Error {
        /// Which register.
        correctable: bool,
        /// Bit number in it.
        bit: u8,
        /// The TLP header, for the header log.
        header: [u32; 4],
    },
}

impl Input {
    /// Whether a reset may end by it: what the user changed while that was under way had no effect then, and shows now.
    #[must_use]
    pub const fn may_end_reset(&self) -> bool {
        matches!(self, Self::EffectDone { .. } | Self::Settled { .. })
    }
}

/// Tells effects apart that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EffectId(pub u32);

/// How an effect went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// A VPD read is done, with its four bytes.
    Data(u32),
    /// It failed; the register that tells of it stays as it is (VPD: F unchanged).
    Failed,
}

/// Something that must happen outside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What the function decodes has changed; see [`crate::State::decodes`].
    Decode,
    /// Bus mastering has changed.
    BusMaster {
        /// Whether the function may access memory.
        on: bool,
    },
    /// Which interrupts are enabled has changed; see [`crate::State::interrupt_mode`].
    Interrupts,
    /// Interrupts can be delivered: call [`crate::next_delivery`] until it gives none.
    Deliver,
    /// The device must reset itself; answer with [`Input::EffectDone`], and then [`Input::Settled`]. Until then nothing
    /// is decoded.
    Reset {
        /// How.
        kind: ResetKind,
        /// Number for the answer.
        id: EffectId,
    },
    /// The device must change its power state; answer with [`Input::EffectDone`].
    Power {
        /// From.
        from: PowerState,
        /// To.
        to: PowerState,
        /// Number for the answer.
        id: EffectId,
    },
    /// Four bytes of VPD must be read (`write` none) or written; answer with [`Input::EffectDone`].
    Vpd {
        /// Byte address, a multiple of 4, below 0x8000.
        address: u16,
        /// Data to write.
        write: Option<u32>,
        /// Number for the answer.
        id: EffectId,
    },
    /// A BAR holds another address (6: the ROM).
    BarMoved {
        /// Which.
        bar: u8,
    },
    /// A register of the hardware must be written, in these lanes and no others. Bits that the user does not
    /// write keep what they hold (`keep`: read them and write them back), but for those of a register with bits
    /// that a written 1 clears: they are written as 0.
    HardwareWrite {
        /// Dword number in configuration space.
        register: u16,
        /// The lanes to write.
        enables: ByteEnables,
        /// Value; 0 in the bits to keep.
        value: u32,
        /// Bits to write as they read.
        keep: u32,
    },
    /// A write was refused; worth a line in the audit log.
    Refused {
        /// Byte offset in configuration space.
        offset: u16,
        /// Which rule, as a sentence.
        rule: &'static str,
    },
}

/// One interrupt to deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which kind.
    pub kind: Interrupt,
    /// Which vector.
    pub vector: u16,
}

/// The most effects that one step gives.
pub const MAX_EFFECTS: usize = 8;

/// The caller's buffer of effects; a step never gives more than [`MAX_EFFECTS`].
#[derive(Clone, Debug, Default)]
pub struct Effects {
    list: [Option<Effect>; MAX_EFFECTS],
    len: usize,
}

impl Effects {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            list: [None; MAX_EFFECTS],
            len: 0,
        }
    }

    /// Forgets what is in it.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    /// Whether the last step had none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The effects of the last step, in order.
    pub fn iter(&self) -> impl Iterator<Item = Effect> + '_ {
        self.list[..self.len].iter().flatten().copied()
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        if self.len < MAX_EFFECTS && !self.iter().any(|e| e == effect) {
            self.list[self.len] = Some(effect);
            self.len += 1;
        }
    }
}
