//! What a function claims of the address space: the lines of its attribute `resource`.

use super::tree::hexadecimal;

/// Flags in the third column, as `include/linux/ioport.h` numbers them.
mod flag {
    pub(super) const IO: u64 = 0x100;
    pub(super) const MEMORY: u64 = 0x200;
    pub(super) const PREFETCH: u64 = 0x2000;
    pub(super) const MEMORY_64: u64 = 0x10_0000;
    pub(super) const DISABLED: u64 = 0x1000_0000;
    pub(super) const UNSET: u64 = 0x2000_0000;
}

/// How many lines belong to BARs; the next is the expansion ROM's.
const BARS: usize = 6;

/// Which kind of address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// I/O ports
    Io,
    /// Memory below 4 GiB
    Memory32,
    /// Memory anywhere
    Memory64,
}

/// One range of addresses that a function answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Number of the line in `resource`: 0 to 5 are the BARs, 6 is the expansion ROM
    pub index: usize,
    /// Its kind
    pub space: Space,
    /// Whether reads have no side effects, and the range may be prefetched
    pub prefetchable: bool,
    /// First address, as the processor sees it
    pub address: u64,
    /// Length in bytes; never 0
    pub bytes: u64,
    /// Whether the kernel has given it an address; without one the function does not answer there
    pub assigned: bool,
    /// The third column as it is
    pub flags: u64,
}

/// The first seven lines; what follows belongs to SR-IOV and to bridges. A line that can't be understood is an error,
/// with its number.
pub(super) fn parse(text: &str) -> Result<Vec<Resource>, usize> {
    let mut resources = Vec::new();
    for (index, line) in text.lines().take(BARS + 1).enumerate() {
        resources.extend(parse_line(index, line).ok_or(index)?);
    }
    Ok(resources)
}

/// None: no line of three numbers. Nothing in it: the line is of an unused resource.
fn parse_line(index: usize, line: &str) -> Option<Option<Resource>> {
    let mut numbers = line.split_ascii_whitespace().map(hexadecimal);
    let (address, last, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    if numbers.next().is_some() {
        return None;
    }
    let space = match (flags & flag::IO, flags & flag::MEMORY, flags & flag::MEMORY_64) {
        (0, 0, _) => return Some(None),
        (0, _, 0) => Space::Memory32,
        (0, _, _) => Space::Memory64,
        _ => Space::Io,
    };
    // A resource of no length is written with an end before its start; of all addresses none is.
    let bytes = last.checked_sub(address).and_then(|less| less.checked_add(1));
    Some(bytes.filter(|_| last != 0).map(|bytes| Resource {
        index,
        space,
        prefetchable: flags & flag::PREFETCH != 0,
        address,
        bytes,
        assigned: flags & (flag::UNSET | flag::DISABLED) == 0,
        flags,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bars_and_rom_are_read_with_their_kinds_and_sizes() {
        let text = "0x0000000000006000 0x000000000000601f 0x0000000000040101\n\
            0x00000000fe800000 0x00000000fe81ffff 0x0000000000040200\n\
            0x0000004000000000 0x000000400007ffff 0x000000000014220c\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x0000000000000000 0x0000000000000fff 0x0000000020040200\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x00000000feb00000 0x00000000feb7ffff 0x0000000000046200\n\
            0x00000000fe840000 0x00000000fe843fff 0x0000000000140204\n";
        let seen: Vec<_> = parse(text)
            .expect("the kernel's own form")
            .iter()
            .map(|r| (r.index, r.space, r.prefetchable, r.address, r.bytes, r.assigned))
            .collect();
        assert_eq!(
            seen,
            [
                (0, Space::Io, false, 0x6000, 32, true),
                (1, Space::Memory32, false, 0xfe80_0000, 128 << 10, true),
                (2, Space::Memory64, true, 0x40_0000_0000, 512 << 10, true),
                (4, Space::Memory32, false, 0, 4096, false),
                (6, Space::Memory32, true, 0xfeb0_0000, 512 << 10, true),
            ]
        );
    }

    #[test]
    fn ranges_of_no_length_or_of_all_addresses_are_none() {
        let text = "0x0000000000001000 0x0000000000000fff 0x0000000000000200\n\
            0x0000000000000000 0xffffffffffffffff 0x0000000000000200\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000200\n";
        assert_eq!(parse(text), Ok(Vec::new()));
    }

    #[test]
    fn garbage_is_an_error_that_names_its_line() {
        for (text, line) in [
            ("garbage", 0),
            ("0x0 0x0 0x0\n0x0 0x0", 1),
            ("0x0 0x0 0x0 0x0", 0),
            ("0x0 0x+f 0x200", 0),
            ("0 0xf 0x200", 0),
            ("0x0 0x1ffffffffffffffff 0x200", 0),
            ("0x0 0x0 0x0\n\n", 1),
        ] {
            assert_eq!(parse(text), Err(line), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_size_is_what_lies_between_first_and_last(start: u64, last in 1_u64.., flags: u64) {
            let parsed = parse(&format!("{start:#018x} {last:#018x} {flags:#018x}\n")).expect("well-formed");
            for resource in &parsed {
                prop_assert_eq!(resource.address, start);
                prop_assert_eq!(resource.address + (resource.bytes - 1), last);
            }
            let has_length = last >= start && (start, last) != (0, u64::MAX);
            prop_assert_eq!(parsed.len() == 1, has_length && flags & 0x300 != 0);
        }

        #[test]
        fn no_text_makes_the_parser_fall_over(text in "\\PC*|[0-9a-fx \n]{0,200}") {
            let _ = parse(&text);
        }
    }
}
