//! The rules of an access.

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
