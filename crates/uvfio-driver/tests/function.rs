//! What a driver may rely on, over every transport.

mod common;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use common::{AREA, Access, BAR_BYTES, Case, over_each, over_each_with};
use rustix::fs::SealFlags;
use uvfio_core::{Device, GoneReason, Policy, VirtualDevice};
use uvfio_driver::tables::{express, header, msi, power};
use uvfio_driver::transport::Region;
use uvfio_driver::{
    DriverError, Event, Function, InProcess, IrqKind, MapBars, PowerState, Result, Socket, Transport,
};
use uvfio_proto::{Limits, Server};

/// For what must happen; it never does where the test fails.
const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));
/// For what must not happen.
const A_MOMENT: Option<Duration> = Some(Duration::from_millis(50));

#[test]
fn configuration_space_is_read_by_offset_and_by_field() {
    over_each(|Case { over, function, .. }| {
        let config = function.config();
        assert_eq!(config.bytes(), 4096, "{over}");
        assert_eq!(config.read::<u32>(0).unwrap(), 0x0b0b_1234, "{over}");
        let identity = function.identity().unwrap();
        assert_eq!((identity.vendor, identity.device), (0x1234, 0x0b0b), "{over}");
        assert_eq!((identity.revision, identity.class), (7, [0, 0xff, 0]), "{over}");
        let ids: Vec<_> = config.capabilities().iter().map(|found| found.id).collect();
        let expected = [power::ID, msi::ID, express::ID].map(u16::from);
        assert_eq!(ids, expected, "{over}: capabilities");
        let found = config.need(&msi::MSI).unwrap();
        assert_eq!(found.get(&msi::CAPABLE).unwrap(), 5, "{over}: 32 messages");
        assert!(config.find(&uvfio_driver::tables::msix::MSIX).is_none(), "{over}");
        let missing = config.need(&uvfio_driver::tables::msix::MSIX);
        assert!(matches!(missing, Err(DriverError::NoCapability(_))), "{over}");
    });
}

#[test]
fn a_field_is_written_and_its_neighbours_stay() {
    over_each(|Case { over, function, .. }| {
        let command = function.config().need(&header::HEADER).unwrap();
        command.set(&header::SERR, 1).unwrap();
        command.set(&header::BUS_MASTER, 1).unwrap();
        assert_eq!(command.get(&header::SERR).unwrap(), 1, "{over}");
        assert_eq!(
            command.get(&header::MEMORY).unwrap(),
            1,
            "{over}: as `open` left it"
        );
        command.set(&header::SERR, 0).unwrap();
        assert_eq!(command.get(&header::BUS_MASTER).unwrap(), 1, "{over}");
        let wide = command.set(&header::BUS_MASTER, 2);
        assert!(
            matches!(wide, Err(DriverError::FieldValue { value: 2, .. })),
            "{over}"
        );
    });
}

#[test]
fn accesses_outside_a_bar_or_askew_do_not_reach_the_device() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            let bar = function.bar(2).unwrap();
            assert_eq!(bar.bytes(), BAR_BYTES, "{over}");
            for offset in [BAR_BYTES, BAR_BYTES - 2, u64::MAX, u64::MAX - 3] {
                let read = bar.read::<u32>(offset);
                assert!(
                    matches!(read, Err(DriverError::OutOfBounds { .. })),
                    "{over}: {offset:#x}"
                );
                let write = bar.write_bytes(offset, &[1; 4]);
                assert!(
                    matches!(write, Err(DriverError::OutOfBounds { .. })),
                    "{over}: {offset:#x}"
                );
            }
            for offset in [1, 2, 3, AREA.0 + 2] {
                let read = bar.read::<u32>(offset);
                assert!(
                    matches!(read, Err(DriverError::Misaligned { .. })),
                    "{over}: {offset:#x}"
                );
            }
            assert_eq!(board.accesses(), [], "{over}");
            assert!(matches!(function.bar(0), Err(DriverError::NoBar(0))), "{over}");
            assert!(matches!(function.bar(6), Err(DriverError::NoBar(6))), "{over}");
        },
    );
}

#[test]
fn each_width_reaches_the_device_as_one_access() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            let bar = function.bar(2).unwrap();
            bar.write::<u8>(1, 0x11).unwrap();
            bar.write::<u16>(2, 0x2222).unwrap();
            bar.write::<u32>(4, 0x4444_4444).unwrap();
            bar.write::<u64>(8, 0x8888_8888_8888_8888).unwrap();
            assert_eq!(bar.read::<u64>(8).unwrap(), 0x8888_8888_8888_8888, "{over}");
            let expected = [
                Access::Write(1, 1, 0x11),
                Access::Write(2, 2, 0x2222),
                Access::Write(4, 4, 0x4444_4444),
                Access::Write(8, 8, 0x8888_8888_8888_8888),
                Access::Read(8, 8),
            ];
            assert_eq!(board.accesses(), expected, "{over}");
        },
    );
}

#[test]
fn posted_writes_are_done_before_the_next_read() {
    over_each(|Case { over, function, .. }| {
        let bar = function.bar(2).unwrap().posted();
        for value in 0..200_u32 {
            bar.write(0x10, value).unwrap();
            if value % 50 == 49 {
                assert_eq!(bar.read::<u32>(0x10).unwrap(), value, "{over}");
            }
        }
    });
}

#[test]
fn what_can_be_mapped_is_reached_without_the_device() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            let bar = function.bar(2).unwrap();
            assert!(bar.is_mapped(AREA.0, AREA.1), "{over}");
            assert!(!bar.is_mapped(AREA.0 - 4, 8), "{over}: across the area's start");
            assert!(!bar.is_mapped(AREA.0 + AREA.1, 1), "{over}: past its end");
            bar.write(AREA.0 + 8, 0x0102_0304_u32).unwrap();
            assert_eq!(
                board.in_memory(AREA.0 + 8, 4),
                [4, 3, 2, 1],
                "{over}: little-endian"
            );
            board.set_in_memory(AREA.0 + 0x101, b"from the device");
            let mut data = [0; 15];
            bar.read_bytes(AREA.0 + 0x101, &mut data).unwrap();
            assert_eq!(&data, b"from the device", "{over}");
            assert_eq!(board.accesses(), [], "{over}");
            bar.read::<u32>(AREA.0 - 4).unwrap();
            assert_eq!(board.accesses(), [Access::Read(AREA.0 - 4, 4)], "{over}");
        },
    );
}

#[test]
fn memory_that_could_be_cut_short_is_mapped_only_where_the_caller_says_so() {
    let unsealed = SealFlags::empty();
    over_each_with(unsealed, common::options(MapBars::Sealed), |case| {
        assert!(
            !case.function.bar(2).unwrap().is_mapped(AREA.0, 8),
            "{}",
            case.over
        );
    });
    over_each_with(unsealed, common::options(MapBars::Always), |case| {
        assert!(
            case.function.bar(2).unwrap().is_mapped(AREA.0, 8),
            "{}",
            case.over
        );
    });
    over_each_with(SealFlags::SHRINK, common::options(MapBars::Never), |case| {
        assert!(
            !case.function.bar(2).unwrap().is_mapped(AREA.0, 8),
            "{}",
            case.over
        );
    });
}

#[test]
fn the_device_reaches_buffers_where_they_say_and_not_once_they_are_dropped() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            function.set_bus_master(true).unwrap();
            function.set_dma_limit((1 << 28) - 1);
            let first = function.dma_buffer(100).unwrap();
            let second = function.dma_buffer(8192).unwrap();
            assert!(second.iova() + 8192 <= 1 << 28, "{over}: {:#x}", second.iova());
            assert_ne!(first.iova() / 4096, second.iova() / 4096, "{over}");
            second.write_bytes(4097, b"for the device").unwrap();
            let host = board.host();
            let mut seen = [0; 14];
            host.dma().read(second.iova() + 4097, &mut seen).unwrap();
            assert_eq!(&seen, b"for the device", "{over}");
            host.dma().write(first.iova() + 4, &[1, 2, 3, 4]).unwrap();
            assert_eq!(first.read::<u32>(4).unwrap(), 0x0403_0201, "{over}");
            let outside = first.read::<u32>(100);
            assert!(matches!(outside, Err(DriverError::OutOfBounds { .. })), "{over}");
            let iova = first.iova();
            drop(first);
            assert!(
                host.dma().read(iova, &mut seen).is_err(),
                "{over}: {iova:#x} is still mapped"
            );
            assert_eq!(
                function.dma_buffer(4096).unwrap().iova(),
                iova,
                "{over}: given out again"
            );
        },
    );
}

#[test]
fn buffers_that_can_not_be_are_refused_in_words() {
    over_each(|Case { over, function, .. }| {
        function.set_dma_limit((1 << 20) - 1);
        for (bytes, part) in [
            (0, "can't have 0x0 bytes"),
            (u64::MAX, "can't have"),
            (1 << 20, "are free among the usable IOVAs up to 0xfffff"),
        ] {
            let error = function
                .dma_buffer(bytes)
                .err()
                .expect("it is refused")
                .to_string();
            assert!(error.contains(part), "{over}: {bytes:#x}: {error}");
        }
    });
}

#[test]
fn each_message_comes_by_its_own_eventfd() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            function.set_bus_master(true).unwrap();
            assert_eq!(function.vectors(IrqKind::Msi).unwrap(), 32, "{over}");
            // More than one message of the protocol carries.
            let vectors = function.best_interrupts(32).unwrap();
            assert_eq!((vectors.kind(), vectors.count()), (IrqKind::Msi, 32), "{over}");
            let host = board.host();
            for vector in [0, 1, 15, 16, 31] {
                assert_eq!(vectors.poll(vector).unwrap(), 0, "{over}: vector {vector}");
                host.signal(vector as u16);
                assert_eq!(
                    vectors.wait(vector, PATIENCE).unwrap(),
                    1,
                    "{over}: vector {vector}"
                );
            }
            host.signal(20);
            assert_eq!(vectors.wait_any(PATIENCE).unwrap(), Some((20, 1)), "{over}");
            assert_eq!(vectors.wait_any(A_MOMENT).unwrap(), None, "{over}");
            let outside = vectors.poll(32);
            assert!(
                matches!(outside, Err(DriverError::NoVector { vector: 32, .. })),
                "{over}"
            );
            let again = function.interrupts(IrqKind::Msi, 1);
            assert!(matches!(again, Err(DriverError::InterruptsInUse)), "{over}");
            drop(vectors);
            let msi = function.config().need(&msi::MSI).unwrap();
            assert_eq!(msi.get(&msi::ENABLE).unwrap(), 0, "{over}: dropping disables");
            assert!(function.interrupts(IrqKind::Msi, 33).is_err(), "{over}: 33 of 32");
            assert!(function.interrupts(IrqKind::MsiX, 1).is_err(), "{over}: no MSI-X");
        },
    );
}

#[test]
fn intx_comes_once_until_it_is_armed_again() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            let line = function.interrupts(IrqKind::Intx, 1).unwrap();
            let host = board.host();
            host.set_intx(true);
            assert_eq!(line.wait(0, PATIENCE).unwrap(), 1, "{over}");
            assert_eq!(line.wait(0, A_MOMENT).unwrap(), 0, "{over}: masked by itself");
            line.rearm().unwrap();
            assert_eq!(line.wait(0, PATIENCE).unwrap(), 1, "{over}: still asserted");
            host.set_intx(false);
            line.rearm().unwrap();
            assert_eq!(line.wait(0, A_MOMENT).unwrap(), 0, "{over}: no longer asserted");
        },
    );
}

#[test]
fn a_device_that_is_wanted_back_says_so() {
    over_each(
        |Case {
             over,
             function,
             device,
             ..
         }| {
            let events = function.events().unwrap();
            assert!(
                events.tells(Event::RemovalRequested) && events.tells(Event::Error),
                "{over}"
            );
            assert_eq!(events.poll().unwrap(), None, "{over}");
            device.request_removal();
            assert_eq!(
                events.wait(PATIENCE).unwrap(),
                Some(Event::RemovalRequested),
                "{over}"
            );
            assert_eq!(events.poll().unwrap(), None, "{over}");
        },
    );
}

#[test]
fn a_device_that_is_gone_reads_all_ones_and_harms_nobody() {
    over_each(
        |Case {
             over,
             function,
             device,
             ..
         }| {
            let bar = function.bar(2).unwrap();
            let buffer = function.dma_buffer(4096).unwrap();
            device.gone(GoneReason::Unplugged, false);
            assert_eq!(bar.read::<u32>(0).unwrap(), u32::MAX, "{over}");
            bar.write(0, 1_u32).unwrap();
            assert_eq!(function.identity().unwrap().vendor, 0xffff, "{over}");
            buffer.write(0, 5_u8).unwrap();
            assert_eq!(buffer.read::<u8>(0).unwrap(), 5, "{over}: memory is ours");
        },
    );
}

#[test]
fn a_reset_clears_the_device_and_leaves_the_driver_its_configuration() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            function.set_bus_master(true).unwrap();
            let bar = function.bar(2).unwrap();
            let buffer = function.dma_buffer(4096).unwrap();
            let vectors = function.interrupts(IrqKind::Msi, 4).unwrap();
            bar.write(0, 77_u32).unwrap();
            assert!(function.resettable().unwrap(), "{over}");
            function.reset().unwrap();
            assert_eq!(bar.read::<u32>(0).unwrap(), 0, "{over}: the device's register");
            let host = board.host();
            host.signal(3);
            assert_eq!(
                vectors.wait(3, PATIENCE).unwrap(),
                1,
                "{over}: vector 3 after the reset"
            );
            host.dma().write(buffer.iova(), &[9]).unwrap();
            assert_eq!(buffer.read::<u8>(0).unwrap(), 9, "{over}: DMA after the reset");
        },
    );
}

#[test]
fn a_function_comes_back_from_d3hot_with_its_configuration() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            function.set_bus_master(true).unwrap();
            let bar = function.bar(2).unwrap();
            let vectors = function.interrupts(IrqKind::Msi, 2).unwrap();
            assert_eq!(function.power_state().unwrap(), PowerState::D0, "{over}");
            function.set_power_state(PowerState::D3hot).unwrap();
            assert_eq!(
                bar.read::<u32>(0).unwrap(),
                u32::MAX,
                "{over}: BARs don't answer in D3hot"
            );
            assert!(
                function.set_power_state(PowerState::D1).is_err(),
                "{over}: not offered"
            );
            function.set_power_state(PowerState::D0).unwrap();
            bar.write(0, 5_u32).unwrap();
            assert_eq!(bar.read::<u32>(0).unwrap(), 5, "{over}");
            board.host().signal(1);
            assert_eq!(
                vectors.wait(1, PATIENCE).unwrap(),
                1,
                "{over}: vector 1 after D3hot"
            );
        },
    );
}

#[test]
fn the_usable_ranges_of_iovas_are_the_servers() {
    over_each(|Case { over, function, .. }| {
        assert_eq!(function.usable_iova(), [(0, u64::MAX)], "{over}");
    });
}

/// A transport to a server that knows no feature of ours.
struct Silent(InProcess);

impl Transport for Silent {
    fn resettable(&mut self) -> Result<bool> {
        self.0.resettable()
    }
    fn region(&mut self, index: u32) -> Result<Region> {
        self.0.region(index)
    }
    fn vectors(&mut self, kind: IrqKind) -> Result<u32> {
        self.0.vectors(kind)
    }
    fn read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> Result<()> {
        self.0.read(region, offset, data)
    }
    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Result<()> {
        self.0.write(region, offset, data)
    }
    fn enable_vectors(&mut self, kind: IrqKind, eventfds: &[BorrowedFd<'_>]) -> Result<()> {
        self.0.enable_vectors(kind, eventfds)
    }
    fn disable_vectors(&mut self, kind: IrqKind) -> Result<()> {
        self.0.disable_vectors(kind)
    }
    fn mask_intx(&mut self, masked: bool) -> Result<()> {
        self.0.mask_intx(masked)
    }
    fn map(&mut self, iova: u64, bytes: u64, file: BorrowedFd<'_>) -> Result<()> {
        self.0.map(iova, bytes, file)
    }
    fn unmap(&mut self, iova: u64, bytes: u64) -> Result<()> {
        self.0.unmap(iova, bytes)
    }
    fn reset(&mut self) -> Result<()> {
        self.0.reset()
    }
    fn usable_iova(&mut self) -> Result<Option<Vec<(u64, u64)>>> {
        Ok(None)
    }
}

#[test]
fn without_the_servers_word_buffers_lie_where_every_iommu_reaches() {
    let device = common::Board::new(SealFlags::SHRINK);
    let function = Function::open(Silent(InProcess::over(device).unwrap())).unwrap();
    let usable = function.usable_iova();
    assert_eq!(usable.last().map(|range| range.1), Some((1 << 39) - 1));
    // x86's interrupts.
    assert!(
        usable
            .iter()
            .all(|&(first, last)| last < 0xfee0_0000 || first > 0xfeef_ffff)
    );
    let buffer = function.dma_buffer(1 << 20).unwrap();
    assert!(
        usable
            .iter()
            .any(|&(first, last)| first <= buffer.iova() && buffer.iova() + 0xf_ffff <= last)
    );
}

#[test]
fn a_thread_that_waits_holds_up_no_other() {
    over_each(
        |Case {
             over,
             function,
             board,
             ..
         }| {
            function.set_bus_master(true).unwrap();
            let vectors = function.interrupts(IrqKind::Msi, 1).unwrap();
            let bar = function.bar(2).unwrap();
            std::thread::scope(|scope| {
                let waiting = scope.spawn(|| vectors.wait(0, PATIENCE));
                let others: Vec<_> = (0..4_u64)
                    .map(|thread| {
                        let bar = &bar;
                        scope.spawn(move || {
                            for n in 0..50 {
                                bar.write(AREA.0 + 8 * thread, n).unwrap();
                                bar.read::<u32>(0x20).unwrap();
                                assert_eq!(bar.read::<u64>(AREA.0 + 8 * thread).unwrap(), n);
                            }
                        })
                    })
                    .collect();
                for other in others {
                    other.join().unwrap();
                }
                board.host().signal(0);
                assert_eq!(waiting.join().unwrap().unwrap(), 1, "{over}");
            });
        },
    );
}

#[test]
fn a_server_that_has_gone_is_an_error_and_no_more() {
    let device: Arc<dyn Device> = common::Board::new(SealFlags::SHRINK);
    let device = VirtualDevice::new(device, &Policy::default()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Server::new(theirs, device.clone(), Limits::default());
    let handle = server.handle();
    let thread = std::thread::spawn(move || server.serve().map(|_| ()));
    let function = Function::open(Socket::over(ours).unwrap()).unwrap();
    let bar = function.bar(2).unwrap();
    let buffer = function.dma_buffer(4096).unwrap();
    let vectors = function.interrupts(IrqKind::Msi, 1).unwrap();
    handle.shutdown();
    thread.join().unwrap().unwrap();
    device.detach().unwrap();
    let read = bar.read::<u32>(0);
    assert!(matches!(read, Err(DriverError::Closed { .. })), "{read:?}");
    assert!(function.reset().is_err());
    assert_eq!(vectors.poll(0).unwrap(), 0);
    bar.write(AREA.0, 1_u32).unwrap();
    buffer.write(0, 1_u32).unwrap();
    assert_eq!(buffer.read::<u32>(0).unwrap(), 1, "what is mapped stays");
}
