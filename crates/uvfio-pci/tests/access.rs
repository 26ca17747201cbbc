//! Accesses of any offset and length, as registers with byte enables.

use uvfio_pci::ByteEnables;
use uvfio_pci::access::{Piece, each, split};

#[test]
fn an_access_is_split_at_registers_in_ascending_order() {
    let pieces: Vec<Piece> = split(0x0e, 9).collect();
    let expected = [(3, 0b1100, 0), (4, 0b1111, 2), (5, 0b0111, 6)];
    let got: Vec<_> = pieces
        .iter()
        .map(|piece| (piece.register, piece.enables.0, piece.data_at))
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn an_empty_access_touches_nothing() {
    assert_eq!(split(0x10, 0).count(), 0);
    assert_eq!(split(0x11, 0).count(), 0);
}

#[test]
fn an_access_past_the_last_register_is_left_out() {
    assert_eq!(split(u32::MAX, 8).count(), 0);
    assert_eq!(split(0x3_fffc, 8).count(), 1);
}

#[test]
fn every_byte_of_every_access_comes_back_where_it_was() {
    for offset in 0..8 {
        for len in 0..12 {
            let data: Vec<u8> = (1..=len as u8).collect();
            let mut back = vec![0; len];
            for piece in split(offset, len) {
                piece.scatter(piece.gather(&data), &mut back);
                assert_eq!(
                    piece.gather(&data) & !piece.enables.mask(),
                    0,
                    "offset {offset} len {len}: bytes in lanes that are not enabled"
                );
            }
            assert_eq!(back, data, "offset {offset} len {len}");
        }
    }
}

#[test]
fn each_register_of_an_access_is_one_that_it_is_split_into() {
    for offset in (0..12).chain(0x3_fff8..0x4_0008).chain(u32::MAX - 4..=u32::MAX) {
        for len in 0..12 {
            let mut pieces = Vec::new();
            each(offset, len, |piece| pieces.push(piece));
            assert!(
                pieces.into_iter().eq(split(offset, len)),
                "offset {offset:#x} len {len}"
            );
        }
    }
}

#[test]
fn byte_enables_cover_their_lanes() {
    assert_eq!(ByteEnables(0).mask(), 0);
    assert_eq!(ByteEnables(0b0101).mask(), 0x00ff_00ff);
    assert_eq!(ByteEnables(0b1010).mask(), 0xff00_ff00);
    assert_eq!(ByteEnables::ALL.mask(), u32::MAX);
    assert_eq!(ByteEnables(0xf0).mask(), 0, "there are four lanes");
}
