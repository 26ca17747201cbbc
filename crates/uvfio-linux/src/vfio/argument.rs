//! The bytes of a request's argument, as `include/uapi/linux/vfio.h` lays them out.
//!
//! Places are named by the fields of the structures in `vfio-bindings` (`offset_of!`), so no layout stands here.
//! What lies beyond the end reads 0, as the kernel itself treats what a shorter structure lacks, and cannot be
//! written.

/// A request's argument. Its first word is `argsz`, its length, which is set by whoever sends it.
#[derive(Clone, Debug)]
pub(super) struct Argument {
    bytes: Vec<u8>,
}

impl Argument {
    /// All zeros, as long as `T`.
    pub(super) fn of<T>() -> Self {
        Self::with_bytes(size_of::<T>())
    }

    /// All zeros, as long as `T` with `data` after it.
    pub(super) fn with_data<T>(data: &[u8]) -> Self {
        let mut argument = Self::of::<T>();
        argument.bytes.extend_from_slice(data);
        argument
    }

    /// All zeros; never shorter than the word that says how long it is.
    pub(super) fn with_bytes(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes.max(4)],
        }
    }

    /// The same argument in `bytes` bytes, for an answer that did not fit.
    pub(super) fn grown_to(&self, bytes: usize) -> Self {
        let mut grown = self.clone();
        grown.bytes.resize(bytes.max(self.bytes.len()), 0);
        grown
    }

    /// Sets a 32-bit field.
    pub(super) fn set_u32(mut self, at: usize, value: u32) -> Self {
        self.put(at, &value.to_ne_bytes());
        self
    }

    /// Sets a 64-bit field.
    pub(super) fn set_u64(mut self, at: usize, value: u64) -> Self {
        self.put(at, &value.to_ne_bytes());
        self
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        let end = at.saturating_add(value.len());
        if let Some(place) = self.bytes.get_mut(at..end) {
            place.copy_from_slice(value);
        }
    }

    /// Says in the first word how long it is, and gives the bytes to be sent.
    pub(super) fn sealed(&mut self) -> &mut [u8] {
        let bytes = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.put(0, &bytes.to_ne_bytes());
        &mut self.bytes
    }

    /// What it holds, `argsz` included.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// A 16-bit field of what the kernel sent.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(array_at(bytes, at).unwrap_or_default())
}

/// A 32-bit field of what the kernel sent.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array_at(bytes, at).unwrap_or_default())
}

/// A 64-bit field of what the kernel sent.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(array_at(bytes, at).unwrap_or_default())
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_says_how_long_an_argument_is_whatever_was_put_there() {
        let mut argument = Argument::with_data::<[u8; 20]>(&[7; 12]).set_u32(0, 0xffff_ffff);
        assert_eq!(u32_at(argument.sealed(), 0), 32);
        let mut grown = argument.grown_to(100);
        assert_eq!(grown.sealed().len(), 100);
        assert_eq!(u32_at(grown.bytes(), 0), 100);
        assert_eq!(grown.bytes()[20..32], [7; 12]);
    }

    #[test]
    fn what_lies_beyond_the_end_reads_zero_and_is_not_written() {
        let argument = Argument::with_bytes(6)
            .set_u32(4, 0xffff_ffff)
            .set_u64(usize::MAX, 1);
        assert_eq!(argument.bytes(), [0; 6]);
        assert_eq!(u32_at(&[0xff; 6], 4), 0);
        assert_eq!(u16_at(&[0xff; 6], 4), 0xffff);
        assert_eq!(u64_at(&[0xff; 6], usize::MAX), 0);
    }
}
