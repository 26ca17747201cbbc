//! A register drawn in text: sixteen bits a row, a box a field.

use std::fmt::Write as _;

/// A field to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span<'a> {
    pub(super) name: &'a str,
    /// What stands in the box where the name does not fit.
    pub(super) key: char,
    pub(super) lsb: u8,
    pub(super) msb: u8,
}

/// Characters a bit, its left border included.
const BIT: usize = 5;

/// Draws a register of `bits` bits, most significant first. Bits of no span are marked as reserved by dots.
pub(super) fn draw(bits: u8, spans: &[Span<'_>]) -> String {
    let mut out = String::new();
    let mut top = bits;
    while top > 0 {
        let low = (top - 1) / 16 * 16;
        row(&mut out, top - 1, low, spans);
        top = low;
    }
    out
}

/// Draws bits `high` down to `low`.
fn row(out: &mut String, high: u8, low: u8, spans: &[Span<'_>]) {
    let boxes = boxes(high, low, spans);
    let ruler = |out: &mut String| {
        for (width, _) in &boxes {
            let _ = write!(out, "+{}", "-".repeat(width * BIT - 1));
        }
        out.push_str("+\n");
    };
    let mut numbers = String::new();
    for bit in (low..=high).rev() {
        let _ = write!(numbers, "{bit:>4} ");
    }
    let _ = writeln!(out, "{}", numbers.trim_end());
    ruler(out);
    for (width, label) in &boxes {
        let _ = write!(out, "|{label:^room$}", room = width * BIT - 1);
    }
    out.push_str("|\n");
    ruler(out);
}

/// The boxes of a row from the left: (width in bits, label).
fn boxes(high: u8, low: u8, spans: &[Span<'_>]) -> Vec<(usize, String)> {
    let mut boxes = Vec::new();
    let mut bit = i16::from(high);
    while bit >= i16::from(low) {
        let here = spans
            .iter()
            .find(|s| i16::from(s.lsb) <= bit && bit <= i16::from(s.msb));
        let end = match here {
            Some(span) => i16::from(span.lsb.max(low)),
            None => spans
                .iter()
                .map(|s| i16::from(s.msb) + 1)
                .filter(|b| *b <= bit)
                .max()
                .unwrap_or(0)
                .max(low.into()),
        };
        let width = usize::try_from(bit - end + 1).unwrap_or(1);
        let label = here.map_or_else(|| "-".to_owned(), |span| label(span, width));
        boxes.push((width, label));
        bit = end - 1;
    }
    boxes
}

fn label(span: &Span<'_>, width: usize) -> String {
    if span.name.chars().count() < width * BIT - 1 {
        span.name.to_owned()
    } else {
        span.key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, draw};

    #[test]
    fn a_register_is_drawn_with_names_keys_and_gaps() {
        let spans = [
            Span {
                name: "Enable",
                key: 'a',
                lsb: 15,
                msb: 15,
            },
            Span {
                name: "Size",
                key: 'b',
                lsb: 10,
                msb: 11,
            },
            Span {
                name: "Low",
                key: 'c',
                lsb: 0,
                msb: 7,
            },
        ];
        let want = "  15   14   13   12   11   10    9    8    7    6    5    4    3    2    1    0\n\
                    +----+--------------+---------+---------+---------------------------------------+\n\
                    | a  |      -       |  Size   |    -    |                  Low                  |\n\
                    +----+--------------+---------+---------+---------------------------------------+\n";
        assert_eq!(draw(16, &spans), want);
    }

    #[test]
    fn a_field_over_sixteen_bits_is_in_both_rows() {
        let drawn = draw(
            32,
            &[Span {
                name: "Address",
                key: 'a',
                lsb: 2,
                msb: 31,
            }],
        );
        assert_eq!(drawn.matches("Address").count(), 2, "{drawn}");
        assert_eq!(drawn.lines().count(), 8, "{drawn}");
    }
}
