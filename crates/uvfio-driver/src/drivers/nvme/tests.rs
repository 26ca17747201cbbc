//! The driver against the controller in software, over each transport. What it writes is looked for in the image's file,
//! and what it reads comes from there: neither side is the other's witness.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use crate::{Function, InProcess, MapBars, testing};
use uvfio_core::{Device, Policy, VirtualDevice};
use uvfio_nvme::{BackendConfig, Config, InterruptConfig, NamespaceConfig, Nvme, PollConfig};

use super::controller::{Options, Waiting};
use super::disk::{Disk, Request};
use super::erase::{check_erasable, erase};
use super::error::NvmeError;

/// Size of the image, bytes.
const IMAGE_BYTES: u64 = 16 << 20;

/// A controller's configuration, with an image of that many bytes a block.
struct Setup {
    block: u32,
    interrupts: InterruptConfig,
    poll: PollConfig,
    map_bars: MapBars,
    options: Options,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            block: 512,
            interrupts: InterruptConfig::MsiX,
            poll: PollConfig::default(),
            map_bars: MapBars::default(),
            options: short(),
        }
    }
}

/// Short transfers, so that a test with more of them than fit at once is short too.
fn short() -> Options {
    Options {
        transfer_bytes: 32 << 10,
        ..Options::default()
    }
}

/// Runs a test over every transport, each with an image of its own.
fn over_each(setup: &Setup, test: impl Fn(&str, Disk, &File)) {
    let make = || -> (Arc<dyn Device>, File) {
        let image = tempfile::tempfile().unwrap();
        image.set_len(IMAGE_BYTES).unwrap();
        let namespace = NamespaceConfig {
            backend: BackendConfig::File(image.try_clone().unwrap(), IMAGE_BYTES),
            block: setup.block,
            read_only: false,
        };
        let config = Config {
            interrupts: setup.interrupts,
            poll: setup.poll,
            ..Config::new("DRIVER-TEST", vec![namespace])
        };
        (Nvme::new(config).unwrap(), image)
    };
    let how = crate::Options {
        map_bars: setup.map_bars,
    };
    let (device, image) = make();
    let device = VirtualDevice::new(device, &Policy::default()).unwrap();
    let function = Function::open_with(InProcess::attach(device), how).unwrap();
    test("in process", Disk::open(function, setup.options).unwrap(), &image);

    let (device, image) = make();
    let (socket, serving) = testing::serve(device).unwrap();
    let function = Function::open_with(socket, how).unwrap();
    test("socket", Disk::open(function, setup.options).unwrap(), &image);
    serving.wait().unwrap();
}

/// Bytes that no shift and no swap of pages leaves the same.
fn pattern(seed: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|n| (n.wrapping_add(seed).wrapping_mul(0x9e37_79b9) >> 21) as u8)
        .collect()
}

/// Where two runs of bytes differ first.
fn difference(left: &[u8], right: &[u8]) -> Option<usize> {
    assert_eq!(left.len(), right.len(), "lengths");
    left.iter().zip(right).position(|(a, b)| a != b)
}

/// Writes and reads of every shape, each checked against the image.
fn check_data(over: &str, disk: &mut Disk, image: &File) {
    let block = disk.block_bytes();
    let slot = disk.transfer_bytes();
    // One block, one page, two pages, a list, a whole slot, several slots, more slots than there are, an odd rest.
    for (seed, bytes) in [
        block as usize,
        4096,
        8192,
        12288,
        slot,
        2 * slot,
        40 * slot,
        3 * slot + 4096,
    ]
    .into_iter()
    .enumerate()
    {
        let first = 8 + 5 * seed as u64;
        let data = pattern(seed as u32, bytes);
        disk.write(first, &data).unwrap();
        disk.flush().unwrap();
        let mut stored = vec![0; bytes];
        image.read_exact_at(&mut stored, first * block).unwrap();
        assert_eq!(
            difference(&stored, &data),
            None,
            "{over}: {bytes} bytes as the image has them"
        );

        let other = pattern(!(seed as u32), bytes);
        image.write_all_at(&other, first * block).unwrap();
        let mut read = vec![0; bytes];
        disk.read(first, &mut read).unwrap();
        assert_eq!(
            difference(&read, &other),
            None,
            "{over}: {bytes} bytes as they are read"
        );
    }
}

#[test]
fn the_controller_says_who_it_is() {
    over_each(&Setup::default(), |over, mut disk, _| {
        assert_eq!(disk.controller.identity().serial, "DRIVER-TEST", "{over}");
        assert_eq!(disk.controller.version().unwrap(), "1.4", "{over}");
        assert_eq!(disk.controller.namespaces().unwrap(), [1], "{over}");
        assert_eq!(
            (disk.blocks(), disk.block_bytes()),
            (IMAGE_BYTES / 512, 512),
            "{over}"
        );
        assert!(disk.controller.has_shadow(), "{over}: its memory is shared");
    });
}

#[test]
fn data_are_right_by_interrupt() {
    let setup = Setup {
        options: Options::default(),
        ..Setup::default()
    };
    over_each(&setup, |over, mut disk, image| {
        check_data(over, &mut disk, image);
    });
}

#[test]
fn data_are_right_by_msi_and_without_shadow_doorbells() {
    let setup = Setup {
        interrupts: InterruptConfig::Msi { messages: 4 },
        options: Options {
            shadow: false,
            ..short()
        },
        ..Setup::default()
    };
    over_each(&setup, |over, mut disk, image| {
        assert!(!disk.controller.has_shadow(), "{over}");
        check_data(over, &mut disk, image);
    });
}

#[test]
fn data_are_right_when_polled() {
    let polled = |shadow| Setup {
        options: Options {
            waiting: Waiting::Polled,
            shadow,
            ..short()
        },
        ..Setup::default()
    };
    for shadow in [false, true] {
        over_each(&polled(shadow), |over, mut disk, image| {
            check_data(over, &mut disk, image);
        });
    }
}

#[test]
fn data_are_right_with_mapped_doorbells() {
    for waiting in [Waiting::Interrupt, Waiting::Polled] {
        let setup = Setup {
            poll: PollConfig::Always,
            options: Options { waiting, ..short() },
            ..Setup::default()
        };
        over_each(&setup, |over, mut disk, image| {
            assert!(disk.controller.has_mapped_doorbells(), "{over}");
            assert!(!disk.controller.has_shadow(), "{over}");
            check_data(over, &mut disk, image);
            // The reset clears the doorbells behind the mapping.
            disk.reset().unwrap();
            check_data(over, &mut disk, image);
        });
    }
}

#[test]
fn data_are_right_by_message_where_doorbells_could_be_mapped() {
    let setup = Setup {
        poll: PollConfig::Always,
        map_bars: MapBars::Never,
        ..Setup::default()
    };
    over_each(&setup, |over, mut disk, image| {
        assert!(!disk.controller.has_mapped_doorbells(), "{over}");
        check_data(over, &mut disk, image);
    });
}

#[test]
fn data_are_right_one_at_a_time_and_in_blocks_of_4096() {
    let setup = Setup {
        block: 4096,
        options: Options {
            depth: 1,
            transfer_bytes: 4096,
            ..short()
        },
        ..Setup::default()
    };
    over_each(&setup, |over, mut disk, image| check_data(over, &mut disk, image));
}

#[test]
fn many_requests_at_once_keep_their_data_apart() {
    over_each(&Setup::default(), |over, mut disk, image| {
        let all = pattern(9, 1 << 20);
        image.write_all_at(&all, 0).unwrap();
        let mut seen = 0;
        let mut next = 0;
        while seen < 256 {
            while next < 256 && disk.has_room() {
                let read = Request::Read {
                    block: next * 8,
                    bytes: 4096,
                };
                disk.start(read, next).unwrap();
                next += 1;
            }
            disk.submit().unwrap();
            let done = disk.finish().unwrap();
            done.result().unwrap();
            let mut data = vec![0; 4096];
            disk.copy_out(&done, &mut data).unwrap();
            let at = done.tag as usize * 4096;
            assert_eq!(
                difference(&data, &all[at..at + 4096]),
                None,
                "{over}: request {}",
                done.tag
            );
            disk.release(done);
            seen += 1;
        }
    });
}

#[test]
fn a_request_that_the_controller_refuses_says_why_and_the_next_one_works() {
    over_each(&Setup::default(), |over, mut disk, _| {
        let mut block = [0; 512];
        let error = disk.read(disk.blocks(), &mut block).unwrap_err();
        assert!(
            matches!(error, NvmeError::Command { command: "Read", .. }),
            "{over}: {error}"
        );
        assert!(error.to_string().contains("LBA out of range"), "{over}: {error}");
        for bytes in [0, 511, disk.transfer_bytes() + 512] {
            let error = disk.start(Request::Read { block: 0, bytes }, 0).unwrap_err();
            assert!(
                matches!(error, NvmeError::Request(_)),
                "{over}: {bytes} bytes: {error}"
            );
        }
        disk.write(7, &[5; 512]).unwrap();
        disk.read(7, &mut block).unwrap();
        assert_eq!(block, [5; 512], "{over}");
    });
}

#[test]
fn the_driver_survives_a_reset_with_requests_under_way() {
    for waiting in [Waiting::Interrupt, Waiting::Polled] {
        let setup = Setup {
            options: Options { waiting, ..short() },
            ..Setup::default()
        };
        over_each(&setup, |over, mut disk, image| {
            let before = pattern(1, 64 << 10);
            disk.write(0, &before).unwrap();
            for round in 0..3 {
                for n in 0..20 {
                    let data = [7; 4096];
                    let write = Request::Write {
                        block: 1024 + 8 * n,
                        data: &data,
                    };
                    disk.start(write, n).unwrap();
                }
                disk.submit().unwrap();
                disk.reset().unwrap();
                let mut read = vec![0; before.len()];
                disk.read(0, &mut read).unwrap();
                assert_eq!(
                    difference(&read, &before),
                    None,
                    "{over}, {waiting:?}: round {round}"
                );
            }
            check_data(over, &mut disk, image);
        });
    }
}

#[test]
fn another_device_is_refused() {
    let edu = uvfio_soft::edu::Edu::new(uvfio_soft::edu::Config::default()).unwrap();
    let function = Function::in_process(edu).unwrap();
    let error = Disk::open(function, Options::default())
        .err()
        .expect("it is not a disk");
    assert!(error.to_string().contains("its class is"), "{error}");
}

#[test]
fn a_controller_without_format_is_not_erased_and_says_so() {
    let namespace = || NamespaceConfig {
        backend: BackendConfig::Memory(IMAGE_BYTES),
        block: 512,
        read_only: false,
    };
    let config = || Config::new("not erasable", vec![namespace()]);
    let function = || Function::in_process(Nvme::new(config()).unwrap()).unwrap();
    for refused in [check_erasable(function()), erase(function()).map(|_| ())] {
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("does not offer Format NVM (OACS bit 1)"), "{why}");
    }
}
