//! The values of a function's registers: a plain value that can be saved, compared and restored.

use crate::layout::WORDS;
use crate::tables::{header, msi, msix, power};
use crate::{Bar, EffectId, Field, Layout, PowerState};

/// Most MSI-X vectors a function has.
const VECTORS: usize = 2048;
/// 64-bit words in a bitmap of vectors.
const BITMAP: usize = VECTORS / 64;

/// Which interrupts are enabled, and how many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InterruptMode {
    /// INTx (or nothing): messages are not enabled.
    #[default]
    Intx,
    /// MSI with this many messages granted: 1, 2, 4, .. 32.
    Msi(u16),
    /// MSI-X with this many vectors.
    MsiX(u16),
}

/// One bit a vector, and one bit for each of its words that is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: [u64; BITMAP],
    used: u32,
}

impl Bitmap {
    const fn new() -> Self {
        Self {
            words: [0; BITMAP],
            used: 0,
        }
    }

    pub(crate) fn get(&self, vector: u16) -> bool {
        self.words[usize::from(vector) / 64 % BITMAP] >> (vector % 64) & 1 != 0
    }

    pub(crate) fn put(&mut self, vector: u16, on: bool) {
        let index = usize::from(vector) / 64 % BITMAP;
        let bit = 1 << (vector % 64);
        let word = &mut self.words[index];
        *word = if on { *word | bit } else { *word & !bit };
        let used = 1 << index;
        self.used = if *word == 0 {
            self.used & !used
        } else {
            self.used | used
        };
    }

    /// Bits of 32 vectors from `first`, a multiple of 32.
    pub(crate) fn half(&self, first: u16) -> u32 {
        (self.words[usize::from(first) / 64 % BITMAP] >> (first % 64)) as u32
    }

    /// The words that are not 0, with their numbers.
    fn used(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let used = self.used;
        (0..BITMAP)
            .filter(move |n| used >> n & 1 != 0)
            .map(|n| (n, self.words[n % BITMAP]))
    }

    const fn is_empty(&self) -> bool {
        self.used == 0
    }
}

/// The INTx line.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Intx {
    /// The device asserts it.
    pub(crate) asserted: bool,
    /// An eventfd is attached.
    pub(crate) attached: bool,
    /// Masked by request, or by itself on delivery. No register shows it: in COMMAND it would stick through a
    /// guest's read-modify-write.
    pub(crate) masked: bool,
}

/// Everything about a function that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub(crate) words: [u32; WORDS],
    /// Address, upper address and data of each MSI-X vector.
    pub(crate) entries: [[u32; 3]; VECTORS],
    /// MSI-X vectors whose mask bit is 0 (so that all-zeroes is the state at power-on).
    pub(crate) unmasked: Bitmap,
    pub(crate) pending: Bitmap,
    pub(crate) attached: Bitmap,
    pub(crate) msi_pending: u32,
    pub(crate) msi_attached: u32,
    pub(crate) intx: Intx,
    /// The reset that is under way.
    pub(crate) reset: Option<EffectId>,
    /// The reset that is done in the device, whose settings are being put back; and what of COMMAND it was given last.
    pub(crate) settling: Option<(EffectId, u32)>,
    /// The reset under way failed: the function stays dark, and the next reset is a new one.
    pub(crate) reset_failed: bool,
    /// The VPD transfer that is under way.
    pub(crate) vpd: Option<EffectId>,
    pub(crate) next_id: u32,
}

/// Why a saved state does not fit a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreError {
    /// Byte offset of the first register in which a bit differs that no user can have changed; past the end of
    /// configuration space, the state of a vector that is not there.
    pub offset: u16,
}

impl core::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "the saved state does not fit this device: the register at {:#x} could not have come to hold that",
            self.offset
        )
    }
}

impl core::error::Error for RestoreError {}

impl State {
    /// The state at power-on.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let mut words = [0; WORDS];
        for (word, compiled) in words.iter_mut().zip(&layout.words) {
            *word = compiled.initial;
        }
        Self {
            words,
            entries: [[0; 3]; VECTORS],
            unmasked: Bitmap::new(),
            pending: Bitmap::new(),
            attached: Bitmap::new(),
            msi_pending: 0,
            msi_attached: 0,
            intx: Intx::default(),
            reset: None,
            settling: None,
            reset_failed: false,
            vpd: None,
            next_id: 0,
        }
    }

    /// Whether the function answers accesses to BAR `bar` (6: the ROM): memory or I/O decoding is on, it is in
    /// D0, no reset is under way, and what the last one took from the device has been put back.
    #[must_use]
    pub fn decodes(&self, layout: &Layout, bar: u8) -> bool {
        let memory = self.field(0, &header::MEMORY) != 0;
        let enabled = match (bar, layout.bar(bar)) {
            (6, _) => {
                layout.rom_bytes != 0 && memory && self.field(header::ROM_BAR, &header::ROM_ENABLE) != 0
            }
            (_, Bar::None) => false,
            (_, Bar::Io { .. }) => self.field(0, &header::IO) != 0,
            (_, Bar::Memory32 { .. } | Bar::Memory64 { .. }) => memory,
        };
        enabled && self.answers(layout)
    }

    /// Whether memory is on in COMMAND, also while the function sleeps or is being reset.
    #[must_use]
    pub fn memory_enabled(&self) -> bool {
        self.field(0, &header::MEMORY) != 0
    }

    /// The address that BAR `bar` holds (6: the ROM), without its flag bits.
    #[must_use]
    pub fn bar_address(&self, layout: &Layout, bar: u8) -> u64 {
        let offset = header::BAR0 + u16::from(bar) * 4;
        let part = |offset: u16, field: &Field| {
            u64::from(self.word(field.place(offset).word) & field.place(offset).mask)
        };
        match (bar, layout.bar(bar)) {
            (6, _) => part(header::ROM_BAR, &header::ROM_BASE),
            (_, Bar::None) => 0,
            (_, Bar::Io { .. }) => part(offset, &header::IO_BASE),
            (_, Bar::Memory32 { .. }) => part(offset, &header::MEMORY_BASE),
            (_, Bar::Memory64 { .. }) => {
                part(offset, &header::MEMORY_BASE) | part(offset + 4, &header::MEMORY_BASE_HIGH) << 32
            }
        }
    }

    /// Whether the function may access memory: bus master on, D0, no reset under way.
    #[must_use]
    pub fn bus_master(&self, layout: &Layout) -> bool {
        self.field(0, &header::BUS_MASTER) != 0 && self.awake(layout)
    }

    /// The power state.
    #[must_use]
    pub fn power(&self, layout: &Layout) -> PowerState {
        let at = layout.structures.power;
        PowerState::from_number(at.map_or(0, |at| self.field(at, &power::STATE)))
    }

    /// Which interrupts are enabled. MSI-X wins over MSI where a user has enabled both, which the specification
    /// forbids.
    #[must_use]
    pub fn interrupt_mode(&self, layout: &Layout) -> InterruptMode {
        if let Some(msix) = layout.structures.msix
            && self.field(msix.at, &msix::ENABLE) != 0
        {
            return InterruptMode::MsiX(msix.vectors);
        }
        if let Some(msi) = layout.structures.msi
            && self.field(msi.at, &msi::ENABLE) != 0
        {
            return InterruptMode::Msi(1 << self.field(msi.at, &msi::GRANTED).min(msi.capable));
        }
        InterruptMode::Intx
    }

    /// Whether interrupt `vector` of the kind in use ([`interrupt_mode`](Self::interrupt_mode)) is open: it would be
    /// delivered at once if the device sent it now. INTx is vector 0, and open whether or not it has masked itself.
    #[must_use]
    pub fn open(&self, layout: &Layout, vector: u16) -> bool {
        crate::interrupt::open(layout, self, vector)
    }

    /// Whether a reset is under way.
    #[must_use]
    pub const fn resetting(&self) -> bool {
        self.reset.is_some()
    }

    /// Whether a reset is done in the device, whose settings are being put back: [`crate::Input::Settled`] is awaited.
    /// Bus mastering and interrupts are on again as the user had them; the registers still say that transactions are
    /// pending.
    #[must_use]
    pub const fn settling(&self) -> bool {
        self.settling.is_some()
    }

    /// Checks that a state saved elsewhere could have come about under `layout`, and gives it back.
    ///
    /// # Errors
    /// Names the first register that could not have that value.
    pub fn restore(self, layout: &Layout) -> Result<Self, RestoreError> {
        for (register, (word, compiled)) in (0_u16..).zip(self.words.iter().zip(&layout.words)) {
            let may_change = compiled.write | compiled.clear | compiled.own;
            if (word ^ compiled.initial) & !may_change != 0 {
                return Err(RestoreError { offset: register * 4 });
            }
        }
        let vectors = usize::from(layout.structures.msix.map_or(0, |msix| msix.vectors));
        let stray = |map: &Bitmap| {
            map.used().any(|(n, word)| {
                word.checked_shr(vectors.saturating_sub(n * 64) as u32)
                    .unwrap_or(0)
                    != 0
            })
        };
        let messages = layout
            .structures
            .msi
            .map_or(0, |msi| u32::MAX >> (32 - (1 << msi.capable)));
        let odd = [&self.unmasked, &self.pending, &self.attached]
            .into_iter()
            .any(stray)
            || self.entries.iter().skip(vectors).any(|entry| *entry != [0; 3])
            || (self.msi_pending | self.msi_attached) & !messages != 0
            || (self.vpd.is_some() && layout.structures.vpd.is_none());
        if odd {
            Err(RestoreError {
                offset: layout.config_bytes,
            })
        } else {
            Ok(self)
        }
    }

    /// The same registers, with eventfds attached where they are in `present`: a saved state is another user's, or of
    /// another time, and knows nothing of those that there are now. Masks stay as they were saved.
    #[must_use]
    pub fn with_eventfds_of(mut self, present: &Self) -> Self {
        self.attached = present.attached.clone();
        self.msi_attached = present.msi_attached;
        self.intx.attached = present.intx.attached;
        self
    }

    /// Whether the function is in D0 and not being reset.
    pub(crate) fn awake(&self, layout: &Layout) -> bool {
        self.reset.is_none() && self.power(layout) == PowerState::D0
    }

    /// Whether it answers accesses to its BARs that decode.
    pub(crate) fn answers(&self, layout: &Layout) -> bool {
        self.awake(layout) && !self.settling()
    }

    pub(crate) fn word(&self, word: u16) -> u32 {
        self.words[usize::from(word) % WORDS]
    }

    /// What a field holds whose structure is at `offset`.
    pub(crate) fn field(&self, offset: u16, field: &Field) -> u32 {
        let place = field.place(offset);
        (self.word(place.word) & place.mask) >> place.shift
    }

    /// Changes a field, as the function itself does.
    pub(crate) fn put(&mut self, offset: u16, field: &Field, value: u32) {
        let place = field.place(offset);
        let word = &mut self.words[usize::from(place.word) % WORDS];
        *word = (*word & !place.mask) | ((value << place.shift) & place.mask);
    }

    pub(crate) fn entry(&mut self, vector: u16) -> &mut [u32; 3] {
        &mut self.entries[usize::from(vector) % VECTORS]
    }

    /// The first MSI-X vector that is pending, attached and unmasked.
    pub(crate) fn first_vector(&self) -> Option<u16> {
        self.pending.used().find_map(|(n, word)| {
            let ready = word & self.attached.words[n % BITMAP] & self.unmasked.words[n % BITMAP];
            (ready != 0).then(|| (n as u32 * 64 + ready.trailing_zeros()) as u16)
        })
    }

    /// Whether no MSI-X vector is pending.
    pub(crate) const fn none_pending(&self) -> bool {
        self.pending.is_empty()
    }

    pub(crate) fn clear_pending(&mut self, layout: &Layout) {
        self.pending = Bitmap::new();
        self.set_msi_pending(layout, 0);
    }

    /// Every vector's eventfd has been taken away.
    pub(crate) fn detach_vectors(&mut self) {
        self.attached = Bitmap::new();
        self.unmasked = Bitmap::new();
    }

    /// The MSI-X table as hardware leaves it after a reset, but for vectors with an eventfd, which stay unmasked.
    pub(crate) fn reset_table(&mut self) {
        self.entries = [[0; 3]; VECTORS];
        self.unmasked = self.attached.clone();
    }

    pub(crate) fn set_msi_pending(&mut self, layout: &Layout, pending: u32) {
        self.msi_pending = pending;
        if let Some(masks) = layout.structures.msi.and_then(|msi| msi.masks) {
            self.put(masks, &msi::PENDING, pending);
        }
    }

    /// A number for an effect that takes time.
    pub(crate) const fn new_id(&mut self) -> EffectId {
        self.next_id = self.next_id.wrapping_add(1);
        EffectId(self.next_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BarSpan, Blueprint, Capability, Identity, View};

    const BLUEPRINT: Blueprint<'static> = Blueprint {
        identity: Identity {
            vendor: 1,
            device: 2,
            revision: 3,
            class: [4, 5, 6],
            subsystem_vendor: 7,
            subsystem: 8,
            interrupt_pin: 1,
        },
        bars: [
            Bar::Memory32 {
                bytes: 4096,
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
            Capability::Msi {
                messages: 4,
                wide: true,
                maskable: true,
            },
            Capability::MsiX {
                vectors: 70,
                table: BarSpan { bar: 0, offset: 0 },
                pba: BarSpan { bar: 0, offset: 2048 },
            },
        ],
        extended: &[],
    };

    /// Restores a fresh state that was changed behind the model's back.
    fn restored(change: impl FnOnce(&mut State)) -> Result<(), RestoreError> {
        let layout =
            Layout::compile(&BLUEPRINT, View::Virtual).map_err(|_| RestoreError { offset: u16::MAX })?;
        let mut state = State::new(&layout);
        change(&mut state);
        state.restore(&layout).map(drop)
    }

    /// The refusal of something that no register shows.
    const NO_REGISTER: Result<(), RestoreError> = Err(RestoreError { offset: 256 });

    #[test]
    fn a_state_with_a_vector_that_is_not_there_is_not_restored() {
        assert_eq!(restored(|_| ()), Ok(()));
        assert_eq!(restored(|state| state.pending.put(69, true)), Ok(()));
        for vector in [70, 127, 128, 2047] {
            assert_eq!(
                restored(|state| state.pending.put(vector, true)),
                NO_REGISTER,
                "{vector}"
            );
            assert_eq!(
                restored(|state| state.attached.put(vector, true)),
                NO_REGISTER,
                "{vector}"
            );
            assert_eq!(
                restored(|state| state.unmasked.put(vector, true)),
                NO_REGISTER,
                "{vector}"
            );
            assert_eq!(
                restored(|state| *state.entry(vector) = [0, 1, 0]),
                NO_REGISTER,
                "{vector}"
            );
        }
        assert_eq!(restored(|state| state.msi_attached = 0b1000), Ok(()));
        assert_eq!(restored(|state| state.msi_attached = 0b1_0000), NO_REGISTER);
        assert_eq!(restored(|state| state.msi_pending = 1 << 31), NO_REGISTER);
    }

    #[test]
    fn a_state_with_a_bit_that_nobody_can_set_is_not_restored() {
        for (word, bit) in [
            (0, 0),
            (1, 7),
            (1, 20),
            (4, 11),
            (5, 31),
            (0x10, 17),
            (0x20, 3),
            (0x3f, 31),
        ] {
            assert_eq!(
                restored(|state| state.words[word] ^= 1 << bit),
                Err(RestoreError {
                    offset: word as u16 * 4
                }),
                "word {word:#x} bit {bit}"
            );
        }
    }

    #[test]
    fn a_transfer_of_data_that_the_function_does_not_have_is_not_restored() {
        assert_eq!(restored(|state| state.vpd = Some(EffectId(1))), NO_REGISTER);
    }
}
