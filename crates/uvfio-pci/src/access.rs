//! Accesses of any offset and length as whole registers with byte enables.

use crate::ByteEnables;

/// One whole register (dword) that an access touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The dword's number: byte offset / 4.
    pub register: u16,
    /// The lanes that the access covers.
    pub enables: ByteEnables,
    /// Where the first of those lanes lies in the access's data.
    pub data_at: usize,
}

/// Splits an access of `len` bytes at `offset` into the registers it touches, in ascending order.
/// The caller has checked that the access lies within the window (at most 64 KiB); what lies past 256 KiB is
/// left out.
pub fn split(offset: u32, len: usize) -> impl Iterator<Item = Piece> {
    let start = u64::from(offset);
    let end = start.saturating_add(len as u64);
    let first = start / 4;
    // An access of no bytes touches nothing, also in the middle of a register.
    let past = if len == 0 {
        first
    } else {
        end.div_ceil(4).min(u64::from(u16::MAX) + 1)
    };
    (first..past.max(first)).map_while(move |register| {
        let low = start.max(register * 4);
        let high = end.min(register * 4 + 4);
        let lanes = (0xf_u8 << (low - register * 4)) & (0xf_u8 >> (register * 4 + 4 - high)) & 0xf;
        Some(Piece {
            register: u16::try_from(register).ok()?,
            enables: ByteEnables(lanes),
            data_at: usize::try_from(low - start).ok()?,
        })
    })
}

/// Gives each register that an access touches to `take`: the same as [`split`], at less cost where it is only one, as
/// it nearly always is.
#[inline]
pub fn each(offset: u32, len: usize, mut take: impl FnMut(Piece)) {
    match single(offset, len) {
        Some(piece) => take(piece),
        None => split(offset, len).for_each(take),
    }
}

/// The only register that an access touches, where it is just one.
#[inline]
fn single(offset: u32, len: usize) -> Option<Piece> {
    let lane = offset % 4;
    if len == 0 || len > 4 - lane as usize {
        return None;
    }
    Some(Piece {
        register: u16::try_from(offset / 4).ok()?,
        enables: ByteEnables((0xf_u8 >> (4 - len)) << lane),
        data_at: 0,
    })
}

impl Piece {
    /// The register's value with this piece's bytes of `data` (the whole access's) in their lanes, 0 elsewhere.
    #[must_use]
    pub fn gather(&self, data: &[u8]) -> u32 {
        let source = data.get(self.data_at..).unwrap_or_default();
        if let (true, Some(whole)) = (self.enables == ByteEnables::ALL, source.first_chunk()) {
            return u32::from_le_bytes(*whole);
        }
        let mut value = 0;
        for (byte, from) in source.iter().take(self.enables.count()).enumerate() {
            value |= u32::from(*from) << (8 * (self.enables.first() + byte));
        }
        value
    }

    /// Puts the lanes of a register's value where they belong in `data` (the whole access's).
    pub fn scatter(&self, value: u32, data: &mut [u8]) {
        let target = data.get_mut(self.data_at..).unwrap_or_default();
        if self.enables == ByteEnables::ALL
            && let Some(whole) = target.first_chunk_mut()
        {
            *whole = value.to_le_bytes();
            return;
        }
        let mut lanes = value.wrapping_shr(8 * self.enables.first() as u32);
        for to in target.iter_mut().take(self.enables.count()) {
            *to = lanes as u8;
            lanes >>= 8;
        }
    }
}

impl ByteEnables {
    /// All four lanes.
    pub const ALL: Self = Self(0xf);

    /// The bits that the lanes cover.
    #[must_use]
    pub const fn mask(self) -> u32 {
        let spread = self.0 as u32;
        let ones = (spread & 1) | (spread & 2) << 7 | (spread & 4) << 14 | (spread & 8) << 21;
        ones * 0xff
    }

    /// The lanes in which `bits` has any.
    #[must_use]
    pub const fn covering(bits: u32) -> Self {
        let [a, b, c, d] = bits.to_le_bytes();
        Self((a != 0) as u8 | ((b != 0) as u8) << 1 | ((c != 0) as u8) << 2 | ((d != 0) as u8) << 3)
    }

    /// The accesses by which hardware reaches the lanes, each as wide as it can be: the first lane and the number of
    /// bytes (1, 2 or 4, naturally aligned).
    pub fn natural(self) -> impl Iterator<Item = (u8, u8)> {
        let mut left = self.0 & 0xf;
        core::iter::from_fn(move || {
            let (lane, bytes, lanes) = match left {
                0 => return None,
                0b1111 => (0, 4, 0b1111),
                _ if left & 0b0011 == 0b0011 => (0, 2, 0b0011),
                _ if left == 0b1100 => (2, 2, 0b1100),
                _ => {
                    let lane = left.trailing_zeros() as u8;
                    (lane, 1, 1 << lane)
                }
            };
            left &= !lanes;
            Some((lane, bytes))
        })
    }

    /// The lowest lane.
    const fn first(self) -> usize {
        (self.0 & 0xf).trailing_zeros() as usize
    }

    /// How many lanes.
    const fn count(self) -> usize {
        (self.0 & 0xf).count_ones() as usize
    }
}
