//! Layouts over a function that exists, for the views that show its own registers.
//!
//! ```text
//! read    plan: which lanes to fetch -> the hardware is asked -> finish: fetched bits and the model's, composed
//! write   step stores what the model needs to know, and gives an Effect::HardwareWrite for what the view lets through
//! ```
//!
//! Some fields the hardware must not be given by a plain write, since others answer for them: the kernel switches
//! messages, power states and resets, and bus mastering waits while a mapping is missing. Their writes have the same
//! effects as in the virtual view ([`CARRIED`]), and what reads back is the hardware's.

use crate::compile::{FIRST_CAPABILITY, FIRST_EXTENDED};
use crate::layout::WORDS;
use crate::tables::{self, advanced, express, header, msi, msix, power, vendor};
use crate::{
    Access, Action, Blueprint, ByteEnables, Capability, DumpError, Effect, Field, Layout, Placed, State,
    Treatment, View, Window, chain,
};

/// Fields that reach the hardware by effects of their own, never by [`Effect::HardwareWrite`].
const CARRIED: [&Field; 7] = [
    &header::BUS_MASTER,
    &power::STATE,
    &msi::ENABLE,
    &msi::GRANTED,
    &msix::ENABLE,
    &express::INITIATE_FLR,
    &advanced::INITIATE_FLR,
];

/// Bytes that hold nothing but carried fields and what can't be written: read-modify-write there would meet the one
/// who carries them out.
const ALONE: [&Field; 3] = [&power::STATE, &msi::ENABLE, &advanced::INITIATE_FLR];

/// Fields that work in the hardware: the model must not do the same once more.
const IN_HARDWARE: [&Field; 2] = [&msi::MASK, &msix::FUNCTION_MASK];

/// Fields that are off when a user comes, whatever the page holds.
const OFF: [&Field; 4] = [
    &header::IO,
    &header::MEMORY,
    &header::INTX_DISABLE,
    &header::BUS_MASTER,
];

/// The bits of COMMAND that say what decodes, in their dword.
const DECODING: u32 = header::MEMORY.place(0).mask | header::IO.place(0).mask;

/// What a write to one dword may do to the hardware, and where a read comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backing {
    /// Bits that read as the hardware holds them.
    shown: u32,
    /// Bits whose writes reach the hardware as they are.
    through: u32,
    /// Bits that are written as 0 unless the user writes them: of registers with bits that a written 1 clears.
    zero: u32,
}

impl Layout {
    /// Lays out the configuration space of a function that exists, for a view that shows its registers: the structures
    /// lie where `page` has them, which was read from it when it was quiet. The page has 256 or 4096 bytes, all that
    /// there is; or 64, the header alone, of which such a layout shows no more. BARs and the number of messages are as
    /// `blueprint` says. There is no expansion ROM and no INTx: the interrupt pin reads 0.
    ///
    /// In [`View::Filtered`] writes reach the hardware in fields that tables declare and that don't disturb others, in
    /// vendor-specific structures, and in bytes that belong to no structure. A structure that no table describes is
    /// stopped: its meaning is the specification's, and may be the system's. So is a designated one that another than
    /// the function's vendor defines. Where the chains break a rule nobody can tell whose the other bytes are, so they
    /// are all stopped. In [`View::Raw`] every write reaches the hardware.
    ///
    /// # Errors
    /// Where the page has another length, or is not one of a function with a type 0 header.
    pub fn over(blueprint: &Blueprint<'_>, page: &[u8], view: View) -> Result<Self, DumpError> {
        let (mut layout, findings) = Self::from_dump_in(page, view)?;
        layout.bars = blueprint.bars;
        layout.grant(blueprint);
        if let Some(vpd) = &mut layout.structures.vpd {
            // What is stored there outlives the lease.
            vpd.writable = view == View::Raw;
        }
        let mut backing = [Backing::default(); WORDS];
        let bytes = usize::from(layout.config_bytes) / 4;
        for word in backing.iter_mut().take(bytes) {
            word.shown = u32::MAX;
            word.through = u32::MAX;
        }
        layout.backing = backing;
        layout.backed = true;
        if view != View::Raw {
            layout.stop_structures(page, findings.iter().next().is_some());
            layout.let_through(page);
        }
        layout.settle(view);
        Ok(layout)
    }

    /// Whether it lies over a function that exists, whose registers it shows.
    #[must_use]
    pub const fn is_backed(&self) -> bool {
        self.backed
    }

    /// The lanes of a register of configuration space that a read has to fetch from the hardware. None: the model
    /// answers, as for every layout that is not [backed](Self::is_backed), and while a reset is under way or its
    /// settings are being put back.
    #[must_use]
    pub fn plan(&self, state: &State, register: u16, enables: ByteEnables) -> ByteEnables {
        let there = u32::from(register) * 4 < self.window_bytes(Window::Config);
        let away = state.resetting() || state.settling();
        if !there || away || self.backing(register).shown & enables.mask() == 0 {
            return ByteEnables(0);
        }
        enables
    }

    /// What a read gives: `fetched` in the lanes that [`plan`](Self::plan) asked for, composed with what is the
    /// model's.
    #[must_use]
    pub fn finish(&self, state: &State, register: u16, planned: ByteEnables, fetched: u32) -> u32 {
        let shown = self.backing(register).shown & planned.mask();
        let own = crate::read(self, state, Window::Config, register);
        (fetched & shown) | (own & !shown)
    }

    /// The write after which a register of the hardware that reads `is` holds again what it held (`was`) before it had
    /// a user: in the bits that the view's user may have written. None where it does.
    #[must_use]
    pub fn put_back(&self, register: u16, was: u32, is: u32) -> Option<Effect> {
        let word = self.word(register);
        // Vital product data's address is a command; and a bit that a written 1 clears can't be set.
        let command = word.actions & 1 << Action::Vpd as u16 != 0;
        let bits = self.backing(register).through & !word.clear;
        (!command && (was ^ is) & bits != 0).then(|| self.effect(register, was, bits))
    }

    /// What of a write reaches the hardware.
    pub(crate) fn hardware_write(
        &self,
        state: &State,
        register: u16,
        value: u32,
        lanes: u32,
    ) -> Option<Effect> {
        let through = self.backing(register).through & lanes;
        // One thread gives the hardware its settings after a reset: no older value must come after a newer one.
        if !self.backed || through == 0 || state.resetting() || state.settling() {
            return None;
        }
        Some(self.effect(register, value, through))
    }

    /// After a reset: what decodes in the hardware is what decodes in the model.
    pub(crate) fn decode_again(&self, state: &State) -> Option<Effect> {
        let word = header::MEMORY.place(0).word;
        self.backed.then(|| self.effect(word, state.word(word), DECODING))
    }

    /// The bits of COMMAND that say what decodes.
    pub(crate) fn decoding(&self, state: &State) -> u32 {
        state.word(header::MEMORY.place(0).word) & DECODING
    }

    fn effect(&self, register: u16, value: u32, bits: u32) -> Effect {
        let enables = ByteEnables::covering(bits);
        Effect::HardwareWrite {
            register,
            enables,
            value: value & bits,
            keep: enables.mask() & !bits & !self.backing(register).zero & !self.word(register).clear,
        }
    }

    fn backing(&self, register: u16) -> Backing {
        self.backing[usize::from(register) % WORDS]
    }

    /// As many messages as the blueprint has; none of a kind that it hasn't.
    fn grant(&mut self, blueprint: &Blueprint<'_>) {
        let (mut messages, mut vectors) = (None, None);
        for capability in blueprint.capabilities {
            match *capability {
                Capability::Msi { messages: n, .. } => messages = Some(u32::from(n.max(1)).ilog2()),
                Capability::MsiX { vectors: n, .. } => vectors = Some(n),
                _ => {}
            }
        }
        let structures = &mut self.structures;
        structures.msi = structures.msi.zip(messages).map(|(mut msi, capable)| {
            msi.capable = msi.capable.min(capable);
            msi
        });
        structures.msix = structures.msix.zip(vectors).map(|(mut msix, vectors)| {
            msix.vectors = msix.vectors.min(vectors);
            msix
        });
    }

    /// Nothing goes through to the header, to any structure, or, where there are findings, anywhere.
    fn stop_structures(&mut self, page: &[u8], findings: bool) {
        let end = if findings {
            self.config_bytes
        } else {
            FIRST_CAPABILITY
        };
        self.stop(0, end);
        for item in chain::walk(page) {
            if let chain::Item::Capability(found) = item {
                let bytes = u16::try_from(found.bytes.len()).unwrap_or(u16::MAX);
                let end = found.offset.saturating_add(bytes);
                self.stop(found.offset, end);
                if self.placed().any(|placed| {
                    placed.structure == found.offset
                        && (core::ptr::eq(placed.table, &raw const tables::UNKNOWN)
                            || core::ptr::eq(placed.table, &raw const tables::UNKNOWN_EXTENDED))
                }) {
                    self.refuse(found.offset, end);
                }
            }
        }
    }

    /// A change of these bytes is refused with a word.
    fn refuse(&mut self, from: u16, to: u16) {
        for byte in from..to {
            self.words[usize::from(byte / 4) % WORDS].stopped |= 0xff << (u32::from(byte % 4) * 8);
        }
    }

    fn stop(&mut self, from: u16, to: u16) {
        for byte in from..to {
            let lane = 0xff << (u32::from(byte % 4) * 8);
            self.backing[usize::from(byte / 4) % WORDS].through &= !lane;
        }
    }

    /// Lets through what the tables say of their fields.
    fn let_through(&mut self, page: &[u8]) {
        let own = chain::value(page, 0, &header::VENDOR);
        let mut next = 0;
        while let Some(placed) = self.nth_placed(next) {
            next += 1;
            let foreign = core::ptr::eq(placed.table, &raw const vendor::BODY)
                && self.is_designated(page, placed.structure)
                && chain::value(page, placed.structure, &vendor::DVSEC_VENDOR) != own;
            if foreign {
                self.refuse(placed.offset, placed.end());
            }
            for copy in 0..placed.copies {
                let at = placed.offset + copy * placed.table.bytes();
                for field in placed.table.fields {
                    self.let_field(at, field, !foreign);
                }
            }
        }
    }

    fn is_designated(&self, page: &[u8], at: u16) -> bool {
        at >= FIRST_EXTENDED && chain::value(page, at, &tables::EXTENDED_ID) == Some(vendor::DVSEC_ID.into())
    }

    fn let_field(&mut self, at: u16, field: &Field, allowed: bool) {
        let place = field.place(at);
        let treatment = field.treatment(self.view);
        let backing = &mut self.backing[usize::from(place.word) % WORDS];
        let clears = matches!(field.access, Access::Rw1c | Access::Rw1cs);
        let writable = clears || matches!(field.access, Access::Rw | Access::Rws);
        if allowed && writable && treatment == Treatment::Hardware {
            backing.through |= place.mask;
        }
        if clears {
            backing.zero |= field.register_mask(at);
        }
    }

    /// What holds in either view: what others carry out does not go through, and the state is that of a function
    /// which nobody has switched on.
    fn settle(&mut self, view: View) {
        // It never changes; of a virtual function the hardware reads all ones there.
        self.backing[0].shown = 0;
        // As VFIO tells that there is no INTx: a client that reads a pin asks for the interrupt, and fails without.
        let pin = header::INTERRUPT_PIN.place(0);
        self.backing[usize::from(pin.word) % WORDS].shown &= !pin.mask;
        self.words[usize::from(pin.word) % WORDS].initial &= !pin.mask;
        let intx = header::INTX_DISABLE.place(0);
        if view != View::Raw {
            // This view has no INTx, and the line may be shared: in the hardware it stays disabled.
            let backing = &mut self.backing[usize::from(intx.word) % WORDS];
            backing.through &= !intx.mask;
            backing.shown &= !intx.mask;
        }
        let mut next = 0;
        while let Some(placed) = self.nth_placed(next) {
            next += 1;
            for field in placed.table.fields {
                self.settle_field(&placed, field);
            }
        }
        if !self.function_level_reset() {
            for (at, field) in [
                (self.structures.express, &express::INITIATE_FLR),
                (self.structures.advanced, &advanced::INITIATE_FLR),
            ] {
                if let Some(at) = at {
                    self.drop_action(at, field);
                }
            }
        }
    }

    fn settle_field(&mut self, placed: &Placed, field: &Field) {
        let place = field.place(placed.offset);
        let is = |list: &[&Field]| list.contains(&field);
        let index = usize::from(place.word) % WORDS;
        if is(&CARRIED) {
            self.backing[index].through &= !place.mask;
        }
        if is(&ALONE) {
            let lane = place.mask.trailing_zeros() / 8 * 8;
            self.backing[index].through &= !(0xff << lane);
        }
        if is(&OFF) || is(&CARRIED) || is(&IN_HARDWARE) {
            self.words[index].initial &= !place.mask;
        }
        if is(&IN_HARDWARE) {
            self.words[index].write &= !place.mask;
        }
        // The other fields of a register with bits that a written 1 clears keep what they hold.
        if matches!(field.access, Access::Rw | Access::Rws) {
            self.backing[index].zero &= !place.mask;
        }
    }
}
