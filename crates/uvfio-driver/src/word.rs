//! The widths of a single access.

mod sealed {
    pub trait Sealed {}
}

/// A number that one access carries: `u8`, `u16`, `u32` or `u64`. PCI is little-endian; values here are the
/// processor's.
pub trait Word: Copy + sealed::Sealed {
    /// How many bytes: 1, 2, 4 or 8.
    const BYTES: usize;

    /// Widened.
    fn to_u64(self) -> u64;

    /// The low bytes of a wider one.
    fn from_u64(wide: u64) -> Self;
}

macro_rules! word {
    ($($word:ty),*) => { $(
        impl sealed::Sealed for $word {}
        impl Word for $word {
            const BYTES: usize = size_of::<$word>();

            fn to_u64(self) -> u64 {
                u64::from(self)
            }

            fn from_u64(wide: u64) -> Self {
                wide as $word
            }
        }
    )* };
}

word!(u8, u16, u32, u64);

/// Checks that `bytes` bytes at `offset` lie within `have`, and, for a single access, that it is aligned.
pub(crate) fn check(
    place: crate::Place,
    offset: u64,
    bytes: u64,
    have: u64,
    single: bool,
) -> crate::Result<()> {
    if offset.checked_add(bytes).is_none_or(|end| end > have) {
        return Err(crate::DriverError::OutOfBounds {
            place,
            offset,
            bytes,
            have,
        });
    }
    if single && !offset.is_multiple_of(bytes) {
        return Err(crate::DriverError::Misaligned { place, offset, bytes });
    }
    Ok(())
}
