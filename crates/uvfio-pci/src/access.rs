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
/// The caller has checked that the access lies within the window (at most 64 KiB).
pub fn split(offset: u32, len: usize) -> impl Iterator<Item = Piece> {
    let _ = (offset, len);
    core::iter::empty()
}
