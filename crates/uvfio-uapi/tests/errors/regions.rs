//! GET_REGION_INFO, reads, writes and mappings.

use rustix::io::Errno;
use uvfio_uapi::Part;

use crate::Argument::Bytes;
use crate::common::odd::BAR3_AT;
use crate::common::{Kind, Program, sys};
use crate::{Case, check, structure};

const READ: u32 = 1;
const WRITE: u32 = 2;
const MMAP: u32 = 4;
const CAPS: u32 = 8;

fn odd(traps: bool) -> (Program, i32) {
    let mut program = Program::with(&[("0000:01:00.0", 7, Kind::Odd)]);
    program.traps = traps;
    let (_, _, device) = program.opened();
    (program, device)
}

/// Flags, size, and the capabilities' ids.
fn info(program: &Program, device: i32, index: u32) -> Result<(u32, u64, Vec<u32>), Errno> {
    let mut info = sys::sealed(vec![0; 200]);
    info[8..12].copy_from_slice(&index.to_ne_bytes());
    program.ioctl(device, sys::GET_REGION_INFO, &mut info)?;
    assert_eq!(
        sys::u64_at(&info, 24),
        u64::from(index) << 40,
        "where region {index} begins"
    );
    let mut capabilities = Vec::new();
    let mut at = sys::u32_at(&info, 12) as usize;
    while at != 0 {
        capabilities.push(sys::u32_at(&info, at) & 0xffff);
        at = sys::u32_at(&info, at + 4) as usize;
    }
    Ok((sys::u32_at(&info, 4), sys::u64_at(&info, 16), capabilities))
}

#[test]
fn what_a_device_tells_of_its_regions() {
    let (program, device) = odd(false);
    check(&program, device, sys::GET_REGION_INFO, structure(32));
    let all = READ | WRITE;
    let expected = [
        (0, Ok((all, 16384, vec![]))),
        (1, Ok((all, 64, vec![]))),
        (2, Ok((all, 256, vec![]))),
        (3, Ok((all | MMAP | CAPS, 16384, vec![1]))),
        (4, Ok((0, 0, vec![]))),
        (5, Ok((0, 0, vec![]))),
        (6, Ok((READ, 4096, vec![]))),
        (7, Ok((all, 256, vec![]))),
        (8, Err(Errno::INVAL)),
        (9, Err(Errno::INVAL)),
        (u32::MAX, Err(Errno::INVAL)),
    ];
    for (index, expected) in expected {
        assert_eq!(info(&program, device, index), expected, "region {index}");
    }
}

#[test]
fn whoever_traps_is_offered_a_mapping_of_every_bar_of_whole_pages() {
    let (program, device) = odd(true);
    let all = READ | WRITE;
    for (index, expected) in [
        (0, Ok((all | MMAP | CAPS, 16384, vec![3]))),
        (1, Ok((all, 64, vec![]))),
        (2, Ok((all, 256, vec![]))),
        (3, Ok((all | MMAP, 16384, vec![]))),
        (7, Ok((all, 256, vec![]))),
    ] {
        assert_eq!(info(&program, device, index), expected, "region {index}");
    }
}

#[test]
fn parts_that_can_be_mapped_are_listed_where_there_is_room() {
    let (program, device) = odd(false);
    let mut short = sys::words(&[32, 0, 3, 0xee, 0, 0, 0, 0]);
    check(
        &program,
        device,
        sys::GET_REGION_INFO,
        vec![Case("short", Bytes(short.clone()), Ok(0))],
    );
    program
        .ioctl(device, sys::GET_REGION_INFO, &mut short)
        .expect("short is fine");
    assert_eq!(sys::u32_at(&short, 12), 0, "the list is not there");
    let needs = sys::u32_at(&short, 0);
    assert_eq!(needs, 32 + 16 + 2 * 16);
    let mut whole = vec![0; needs as usize];
    sys::seal(&mut whole);
    whole[8] = 3;
    program
        .ioctl(device, sys::GET_REGION_INFO, &mut whole)
        .expect("with room");
    let list: Vec<u64> = (48..80).step_by(8).map(|at| sys::u64_at(&whole, at)).collect();
    assert_eq!(
        (sys::u32_at(&whole, 40), list.as_slice()),
        (2, [0, 4096, 8192, 8192].as_slice())
    );
}

#[test]
fn what_can_be_wrong_with_a_read_or_a_write() {
    let (program, device) = odd(false);
    // Region, offset, length; what a read and what a write must give.
    let n = |n: usize| Ok(n);
    let (invalid, fault) = (Err(Errno::INVAL), Err(Errno::FAULT));
    for (region, at, len, read, write) in [
        (0, 0, 4, n(4), n(4)),
        (0, 0, 0, n(0), n(0)),
        (0, 1, 7, n(7), n(7)),
        (0, 16380, 100, n(4), n(4)),
        (0, 16384, 1, invalid, invalid),
        (0, 1 << 39, 1, invalid, invalid),
        (1, 0, 64, n(64), n(64)),
        (2, 255, 2, n(1), n(1)),
        (4, 0, 1, invalid, invalid),
        (6, 0, 4, n(4), invalid),
        (6, 4096, 1, invalid, invalid),
        (7, 0, 256, n(256), n(256)),
        (7, 255, 1, n(1), n(1)),
        (7, 254, 4, fault, fault),
        (7, 256, 1, fault, fault),
        (7, 1 << 39, 1, fault, fault),
        (8, 0xa0000, 1, invalid, invalid),
        (9, 0, 1, invalid, invalid),
        (0xff_ffff, 0, 1, invalid, invalid),
    ] {
        let got = program.read(device, region, at, len).map(|data| data.len());
        assert_eq!(got, read, "read of {len} bytes at {at:#x} of region {region}");
        // What is written is what is there, so that nothing is switched off.
        let data = match program.read(device, region, at, len) {
            Ok(data) if data.len() == len => data,
            _ => vec![0; len],
        };
        let got = program.write(device, region, at, &data);
        assert_eq!(got, write, "write of {len} bytes at {at:#x} of region {region}");
    }
}

#[test]
fn memory_answers_while_it_is_on_and_ports_always() {
    let (program, device) = odd(false);
    let command = program.config_u16(device, 4);
    assert_eq!(command & 7, 3, "opened with memory and I/O on, bus master off");
    program.write(device, 7, 4, &[0, 0]).expect("switched off");
    for region in [0, 2, 3, 6] {
        assert_eq!(
            program.read(device, region, 0, 4),
            Err(Errno::IO),
            "region {region}"
        );
    }
    assert_eq!(program.write(device, 0, 0, &[0; 4]), Err(Errno::IO));
    assert_eq!(program.read(device, 1, 0, 4), Ok(vec![0xff; 4]));
    let file = program.file(device);
    assert_eq!(program.uapi.load(file, 0, &mut [0; 4]), Err(Errno::IO));
    assert_eq!(program.uapi.store(file, 0, &[0; 4]), Err(Errno::IO));
    program
        .write(device, 7, 4, &command.to_le_bytes())
        .expect("switched on");
    assert_eq!(program.read(device, 0, 0, 4), Ok(vec![0; 4]));
}

#[test]
fn the_msi_x_table_is_reached_by_a_mapping_only() {
    let (program, device) = odd(true);
    let file = program.file(device);
    program.write(device, 0, 4096, &[1; 16]).expect("dropped");
    assert_eq!(
        program.read(device, 0, 4096 - 2, 68),
        Ok([vec![0; 2], vec![0xff; 64], vec![0; 2]].concat())
    );
    let mut entry = [0; 4];
    program.uapi.load(file, 4096, &mut entry).expect("loaded");
    assert_eq!(entry, [0; 4], "what was written by pwrite was dropped");
    program
        .uapi
        .store(file, 4096, &0xfee0_0000_u32.to_le_bytes())
        .expect("stored");
    program.uapi.load(file, 4096, &mut entry).expect("loaded");
    assert_eq!(u32::from_le_bytes(entry), 0xfee0_0000);
}

#[test]
fn the_rom_reads_its_image_and_ones_behind_it() {
    let (program, device) = odd(false);
    assert_eq!(program.read(device, 6, 98, 4), Ok(vec![0x55, 0x55, 0xff, 0xff]));
}

#[test]
fn bars_lie_where_the_run_says_and_none_over_another() {
    let program = Program::with(&[
        ("0000:01:00.0", 7, Kind::Odd),
        ("0000:02:00.0", 8, Kind::Odd),
        ("0000:03:00.0", 9, Kind::Nvme),
    ]);
    let (_, _, device) = program.opened();
    let addresses = program.uapi.bar_addresses(0);
    let shown = |register: u64| program.read_u32(device, 7, register);
    assert_eq!(u64::from(shown(0x10)), addresses[0]);
    assert_eq!(u64::from(shown(0x14)), addresses[1] | 1, "I/O");
    assert_eq!(addresses[4], 0);
    let mut all: Vec<u64> = (0..3)
        .flat_map(|n| program.uapi.bar_addresses(n))
        .filter(|&a| a != 0)
        .collect();
    for (n, address) in all.iter().enumerate().filter(|(_, address)| **address >= 1 << 20) {
        let pages = all.iter().filter(|other| *other >> 12 == address >> 12).count();
        assert_eq!(pages, 1, "BAR {n} at {address:#x} shares its page");
    }
    let some = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), some), (some, 2 * 5 + 1));
    assert_eq!(program.uapi.bar_addresses(3), [0; 7]);
}

#[test]
fn what_a_mapping_shows() {
    let (program, device) = odd(true);
    let file = program.file(device);
    let shown = |region: u64, at: u64, bytes: u64| {
        program
            .uapi
            .mappings(file, region << 40 | at, bytes)
            .map(|parts| {
                let part = |part: &Part| match part {
                    Part::Memory { bytes, offset, .. } => (*bytes, Some(*offset - BAR3_AT)),
                    Part::Trapped { bytes } => (*bytes, None),
                };
                parts.iter().map(part).collect::<Vec<_>>()
            })
    };
    for (region, at, bytes, expected) in [
        (0, 0, 16384, Ok(vec![(16384, None)])),
        (0, 4096, 4096, Ok(vec![(4096, None)])),
        (0, 0, 1, Ok(vec![(4096, None)])),
        (0, 0, 16385, Err(Errno::INVAL)),
        (0, 16384, 4096, Err(Errno::INVAL)),
        (0, 100, 4096, Err(Errno::INVAL)),
        (0, 0, 0, Err(Errno::INVAL)),
        (0, 0, u64::MAX, Err(Errno::INVAL)),
        (1, 0, 4096, Err(Errno::INVAL)),
        (2, 0, 4096, Err(Errno::INVAL)),
        (
            3,
            0,
            16384,
            Ok(vec![(4096, Some(0)), (4096, None), (8192, Some(8192))]),
        ),
        (3, 0, 4096, Ok(vec![(4096, Some(0))])),
        (3, 4096, 8192, Ok(vec![(4096, None), (4096, Some(8192))])),
        (3, 12288, 4096, Ok(vec![(4096, Some(12288))])),
        (4, 0, 4096, Err(Errno::INVAL)),
        (6, 0, 4096, Err(Errno::INVAL)),
        (7, 0, 4096, Err(Errno::INVAL)),
        (9, 0, 4096, Err(Errno::INVAL)),
    ] {
        assert_eq!(
            shown(region, at, bytes),
            expected,
            "{bytes:#x} bytes at {at:#x} of region {region}"
        );
    }
    for (offset, bytes) in [(1 << 40, 4), (2 << 40, 4), (7 << 40, 4), (0, 3), (16384, 4)] {
        let mut data = vec![0; bytes];
        assert!(
            program.uapi.load(file, offset, &mut data).is_err(),
            "{bytes} bytes at {offset:#x}"
        );
    }
}
