//! Pages of real devices, decoded: the tables where the chains say, every byte as it was.

#![allow(clippy::expect_used, reason = "a test may fail")]

mod common;

use common::{ALL, Device, EVERYTHING};
use uvfio_pci::chain::Finding;
use uvfio_pci::{Findings, Interrupt, Layout, MAX_FINDINGS, State, View};

fn decode(page: &[u8]) -> (Device, Findings) {
    let (layout, findings) = Layout::from_dump(page).expect("a page of a type 0 function");
    let state = Box::new(State::new(&layout));
    let device = Device {
        layout: Box::new(layout),
        state,
        effects: Vec::new(),
    };
    (device, findings)
}

/// A conventional page with the chain starting at 0x40.
fn page(bytes: usize) -> Vec<u8> {
    let mut page = vec![0; bytes];
    page[..8].copy_from_slice(&[0x86, 0x80, 0xb7, 0x10, 0, 0, 0x10, 0]);
    page[0x34] = 0x40;
    page
}

fn names(device: &Device) -> Vec<(u16, &'static str)> {
    let placed = device.layout.placed();
    placed.map(|placed| (placed.offset, placed.table.name)).collect()
}

#[test]
fn a_page_that_the_model_made_decodes_to_the_same_tables() {
    for (name, blueprint) in ALL {
        let device = Device::seen(&blueprint, View::Raw);
        let (mut made, mut read) = (Vec::new(), Vec::new());
        let (decoded, findings) = decode(&device.page());
        assert_eq!(findings.iter().collect::<Vec<_>>(), [], "{name}");
        assert_eq!(decoded.page(), device.page(), "{name}");
        for (device, placed) in [(&device, &mut made), (&decoded, &mut read)] {
            placed.extend(
                device
                    .layout
                    .placed()
                    .map(|placed| (placed.offset, placed.copies, placed.table.name)),
            );
            // A ROM BAR that reads 0 is none to a dump.
            placed.retain(|placed| placed.0 != 0x30 && !placed.2.starts_with("Base address register"));
        }
        assert_eq!(read, made, "{name}");
        assert_eq!(decoded.layout.view(), View::Raw);
        for kind in [Interrupt::Intx, Interrupt::Msi, Interrupt::MsiX] {
            assert_eq!(
                decoded.layout.vectors(kind),
                device.layout.vectors(kind),
                "{name} {kind:?}"
            );
        }
        assert_eq!(
            decoded.layout.function_level_reset(),
            device.layout.function_level_reset(),
            "{name}"
        );
    }
}

#[test]
fn every_byte_of_a_page_reads_back_whatever_it_is() {
    let mut page = page(4096);
    for (n, byte) in page.iter_mut().enumerate().skip(0x40) {
        *byte = (n * 7 + n / 256 * 31) as u8;
    }
    let (device, _) = decode(&page);
    assert_eq!(device.page(), page);
}

#[test]
fn bars_are_decoded_by_their_lowest_bits() {
    let mut page = page(256);
    page[0x10..0x14].copy_from_slice(&0xfeb0_0000_u32.to_le_bytes());
    page[0x14..0x18].copy_from_slice(&0x0000_c001_u32.to_le_bytes());
    page[0x18..0x1c].copy_from_slice(&0xe000_000c_u32.to_le_bytes());
    page[0x1c..0x20].copy_from_slice(&0x0000_0012_u32.to_le_bytes());
    page[0x30..0x34].copy_from_slice(&0xfea0_0001_u32.to_le_bytes());
    let (device, _) = decode(&page);
    let bars: Vec<_> = names(&device)
        .into_iter()
        .filter(|name| (0x10..0x34).contains(&name.0))
        .collect();
    assert_eq!(
        bars,
        [
            (0x10, "Base address register, 32-bit memory"),
            (0x14, "Base address register, I/O"),
            (0x18, "Base address register, 64-bit memory"),
            (0x1c, "Base address register, upper half"),
            (0x20, "Base address register, none"),
            (0x24, "Base address register, none"),
            (0x30, "Expansion ROM base address register"),
        ]
    );
}

#[test]
fn msi_takes_the_form_that_its_control_register_says() {
    for (control, parts) in [
        (0x0000_u16, &[0x40, 0x48][..]),
        (0x0080, &[0x40, 0x48, 0x4c]),
        (0x0100, &[0x40, 0x48, 0x4c]),
        (0x0180, &[0x40, 0x48, 0x4c, 0x50]),
    ] {
        let mut page = page(256);
        page[0x40] = 0x05;
        page[0x42..0x44].copy_from_slice(&control.to_le_bytes());
        let (device, _) = decode(&page);
        let placed: Vec<u16> = names(&device)
            .iter()
            .map(|name| name.0)
            .filter(|at| *at >= 0x40)
            .collect();
        assert_eq!(placed, parts, "control {control:04x}");
    }
}

#[test]
fn a_reserved_number_of_msi_messages_counts_as_32() {
    for (log2, vectors) in [(5_u8, 32), (6, 32), (7, 32), (0, 1)] {
        let mut page = page(256);
        page[0x40] = 0x05;
        page[0x42] = log2 << 1;
        let (device, _) = decode(&page);
        assert_eq!(device.layout.vectors(Interrupt::Msi), vectors, "2 to the {log2}");
    }
}

#[test]
fn an_express_capability_of_version_1_has_no_second_half() {
    let mut page = page(256);
    page[0x40..0x44].copy_from_slice(&[0x10, 0x54, 0x01, 0x00]);
    page[0x54] = 0x01;
    let (device, findings) = decode(&page);
    assert_eq!(findings.iter().count(), 0);
    let capabilities: Vec<_> = names(&device).into_iter().filter(|name| name.0 >= 0x40).collect();
    assert_eq!(
        capabilities,
        [
            (0x40, "PCI Express"),
            (0x4c, "PCI Express link"),
            (0x54, "Power Management")
        ]
    );
}

#[test]
fn unknown_and_cut_capabilities_are_placed_by_their_headers_alone() {
    let mut page = page(4096);
    page[0x40..0x42].copy_from_slice(&[0x14, 0x50]); // enhanced allocation: no table
    page[0x50..0x52].copy_from_slice(&[0x11, 0x58]); // MSI-X, cut by the next
    page[0x58..0x5a].copy_from_slice(&[0x01, 0x00]);
    page[0x100..0x104].copy_from_slice(&[0x1e, 0x00, 0x01, 0x00]); // L1 PM substates: no table
    let (device, findings) = decode(&page);
    assert_eq!(
        findings.iter().collect::<Vec<_>>(),
        [Finding::Overlap {
            at: 0x50,
            other: 0x58
        }]
    );
    let capabilities: Vec<_> = names(&device).into_iter().filter(|name| name.0 >= 0x40).collect();
    assert_eq!(
        capabilities,
        [
            (0x40, "Unknown capability"),
            (0x50, "Unknown capability"),
            (0x58, "Power Management"),
            (0x100, "Unknown extended capability"),
        ]
    );
    assert_eq!(device.layout.vectors(Interrupt::MsiX), 0);
}

#[test]
fn the_first_64_bytes_decode_with_a_finding() {
    let (device, findings) = decode(&page(64));
    assert_eq!(device.layout.config_bytes(), 64);
    let found: Vec<_> = findings.iter().collect();
    assert_eq!(found, [Finding::Truncated { from: 0x34, to: 0x40 }]);
}

#[test]
fn more_structures_than_there_is_place_for_are_left_out_and_counted() {
    let mut page = page(4096);
    page[0x34] = 0;
    for at in (0x100..0x1000_u16).step_by(4) {
        let next = if at == 0xffc { 0 } else { at + 4 };
        let header = u32::from(next) << 20 | 1 << 16 | 0x7777;
        page[usize::from(at)..][..4].copy_from_slice(&header.to_le_bytes());
    }
    let (device, findings) = decode(&page);
    assert_eq!(findings.iter().count(), MAX_FINDINGS);
    let left_out = findings.left_out();
    let placed = names(&device).iter().filter(|name| name.0 >= 0x100).count();
    assert_eq!(placed + MAX_FINDINGS + left_out, 0xf00 / 4);
    let last = findings.iter().last();
    assert!(matches!(last, Some(Finding::NoPlace { .. })), "{last:?}");
    assert_eq!(device.page(), page);
}

#[test]
fn fields_are_found_by_the_bytes_they_lie_in() {
    let (device, _) = decode(&Device::seen(&EVERYTHING, View::Raw).page());
    let at = |offset| -> Vec<&str> {
        device
            .layout
            .fields_at(offset)
            .map(|(_, field)| field.name)
            .collect()
    };
    assert_eq!(at(0x3d), ["Interrupt Pin"]);
    assert_eq!(at(0x44), ["PowerState", "No_Soft_Reset"]);
    assert_eq!(at(0x82), ["Vendor data"]);
    assert_eq!(at(0x38), [""; 0]);
    let body: Vec<_> = device.layout.fields_at(0x82).collect();
    assert_eq!(device.layout.value(&device.state, &body[0].0, body[0].1), 0xa3);
}

fn decode_virtual(page: &[u8]) -> Device {
    let (layout, _) = Layout::from_dump_in(page, View::Virtual).expect("a page of a type 0 function");
    let state = Box::new(State::new(&layout));
    Device {
        layout: Box::new(layout),
        state,
        effects: Vec::new(),
    }
}

/// (offset, ID) of each structure, as a driver walks the chains.
fn chains(device: &Device) -> Vec<(u16, u16)> {
    let mut found = Vec::new();
    let mut at = u16::from(device.r8(0x34));
    while at != 0 {
        found.push((at, device.r8(at).into()));
        at = device.r8(at + 1).into();
    }
    let mut at = 0x100;
    while at != 0 && device.r32(at) != 0 {
        found.push((at, device.r16(at)));
        at = device.r16(at + 2) >> 4;
    }
    found
}

#[test]
fn the_virtual_view_of_a_page_is_that_of_the_device_it_came_from() {
    for (name, blueprint) in ALL {
        let decoded = decode_virtual(&Device::seen(&blueprint, View::Raw).page());
        assert_eq!(decoded.page(), Device::new(&blueprint).page(), "{name}");
    }
}

#[test]
fn the_virtual_view_links_past_what_it_does_not_show() {
    let mut page = page(4096);
    page[0x40..0x42].copy_from_slice(&[0x14, 0x50]); // enhanced allocation: no table
    page[0x50..0x52].copy_from_slice(&[0x01, 0x60]);
    page[0x60..0x62].copy_from_slice(&[0x0c, 0x70]); // hot plug: no table
    page[0x70..0x72].copy_from_slice(&[0x11, 0x00]);
    page[0x100..0x104].copy_from_slice(&[0x1e, 0x00, 0x01, 0x20]); // L1 PM substates: no table; next 0x200
    page[0x200..0x204].copy_from_slice(&[0x03, 0x00, 0x01, 0x30]); // serial number, next 0x300
    page[0x300..0x304].copy_from_slice(&[0x0f, 0x00, 0x01, 0x00]); // ATS: no table
    // The extended chain starts at 0x100 whatever is there: a capability of ID 0 is none.
    let wanted = [(0x50, 0x01), (0x70, 0x11), (0x100, 0), (0x200, 3)];
    assert_eq!(chains(&decode_virtual(&page)), wanted);
}

#[test]
fn the_virtual_view_has_no_chain_where_it_shows_no_structure() {
    let mut page = page(4096);
    page[0x40..0x42].copy_from_slice(&[0x14, 0x00]);
    page[0x100..0x104].copy_from_slice(&[0x1e, 0x00, 0x01, 0x00]);
    let device = decode_virtual(&page);
    assert_eq!(chains(&device), []);
    assert_eq!(device.r16(0x06) & 0x10, 0, "STATUS' capabilities list bit");
}

#[test]
fn the_virtual_view_ends_a_chain_that_loops() {
    let mut page = page(256);
    page[0x40..0x42].copy_from_slice(&[0x01, 0x50]);
    page[0x50..0x52].copy_from_slice(&[0x11, 0x40]);
    assert_eq!(chains(&decode_virtual(&page)), [(0x40, 0x01), (0x50, 0x11)]);
}
