//! A driver over a server that is not ours: that of the crate `vfio_user`, with a small device behind it. What that
//! server can't do stands in the last test, and in the book ("vfio-user and its clients").

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod theirs;

use std::time::Duration;

use theirs::{ADDRESS, BAR0, BAR2, COUNT, GO, Theirs, VECTORS};
use uvfio_driver::tables::{header, msix};
use uvfio_driver::{DriverError, Function, IrqKind};
use uvfio_proto::message::{FeatureFlags, feature_number};
use uvfio_proto::{Client, ClientError};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

fn function(theirs: &Theirs) -> Function {
    Function::connect(&theirs.path).unwrap()
}

#[test]
fn a_driver_finds_its_way_about() {
    let theirs = Theirs::new();
    let function = function(&theirs);
    let identity = function.identity().unwrap();
    assert_eq!((identity.vendor, identity.device), (0x1234, 0x0b0e));
    assert_eq!((identity.revision, identity.class), (3, [0xff, 0, 0]));
    assert_eq!(function.config().bytes(), 256);
    let capabilities: Vec<_> = function.config().capabilities().iter().map(|at| at.id).collect();
    assert_eq!(capabilities, [0x11]);
    assert!(function.config().find(&msix::MSIX).is_some());

    // A BAR's size: by region information, and by what is left of ones that are written.
    let config = function.config();
    for (index, bytes) in [(0_u8, BAR0 as u64), (2, BAR2)] {
        let at = 0x10 + 4 * u16::from(index);
        assert_eq!(function.bar(index).unwrap().bytes(), bytes, "BAR {index}");
        config.write::<u32>(at, u32::MAX).unwrap();
        let size = !(config.read::<u32>(at).unwrap() & !0xf) + 1;
        assert_eq!(u64::from(size), bytes, "BAR {index} by its register");
    }
    assert!(
        matches!(function.bar(1), Err(DriverError::NoBar(..))),
        "there is no BAR 1"
    );

    // Registers by message, memory by mapping.
    let bar = function.bar(0).unwrap();
    bar.write::<u32>(0x20, 0x1122_3344).unwrap();
    assert_eq!(bar.read::<u16>(0x22).unwrap(), 0x1122);
    let memory = function.bar(2).unwrap();
    assert!(memory.is_mapped(0, BAR2) && !bar.is_mapped(0, 4));
    memory.write::<u64>(0x3ff8, 0x0102_0304_0506_0708).unwrap();
    let mut there = [0; 8];
    rustix::io::pread(&theirs.bar2, &mut there, 0x3ff8).unwrap();
    assert_eq!(u64::from_le_bytes(there), 0x0102_0304_0506_0708);
}

#[test]
fn a_device_writes_memory_and_interrupts() {
    let theirs = Theirs::new();
    let function = function(&theirs);
    function.set_bus_master(true).unwrap();
    let bar = function.bar(0).unwrap();
    let buffer = function.dma_buffer(8192).unwrap();
    let start = |vector: u32, at: u64| {
        bar.write::<u64>(ADDRESS, buffer.iova() + at).unwrap();
        bar.write::<u32>(COUNT, 16).unwrap();
        bar.write::<u32>(GO, vector).unwrap();
    };

    assert_eq!(function.vectors(IrqKind::MsiX).unwrap(), VECTORS);
    let vectors = function.best_interrupts(VECTORS).unwrap();
    assert_eq!((vectors.kind(), vectors.count()), (IrqKind::MsiX, VECTORS));
    for vector in 0..VECTORS {
        start(vector, 0x1000 + u64::from(vector) * 16);
        assert_eq!(vectors.wait(vector, PATIENCE).unwrap(), 1, "vector {vector}");
        assert_eq!(vectors.wait_any(Some(Duration::ZERO)).unwrap(), None, "no other");
    }
    let mut written = [0; 96];
    buffer.read_bytes(0xff0, &mut written).unwrap();
    assert_eq!(written[..16], [0; 16], "before it");
    assert_eq!(written[16..80], [0xa5; 64]);
    assert_eq!(written[80..], [0; 16], "after it");

    // One kind at a time; INTx masks itself until it is armed again.
    drop(vectors);
    let intx = function.interrupts(IrqKind::Intx, 1).unwrap();
    start(0, 0);
    assert_eq!(intx.wait(0, PATIENCE).unwrap(), 1);
    start(0, 0);
    assert_eq!(intx.poll(0).unwrap(), 0, "it is masked");
    intx.rearm().unwrap();
    start(0, 0);
    assert_eq!(intx.wait(0, PATIENCE).unwrap(), 1);
    drop(intx);

    drop(buffer);
    // A request after it comes after it.
    function.identity().unwrap();
    assert!(
        theirs.device.lock().unwrap().maps.is_empty(),
        "the buffer is unmapped"
    );
}

#[test]
fn what_the_server_forgets_at_a_reset_is_written_again() {
    let theirs = Theirs::new();
    let function = function(&theirs);
    function.set_bus_master(true).unwrap();
    let bar = function.bar(0).unwrap();
    bar.write::<u32>(0x20, 5).unwrap();
    assert!(function.resettable().unwrap());
    function.reset().unwrap();
    assert_eq!(theirs.device.lock().unwrap().resets, 1);
    assert_eq!(bar.read::<u32>(0x20).unwrap(), 0, "its registers are reset");
    let command = function.config().need(&header::HEADER).unwrap();
    for field in [&header::MEMORY, &header::BUS_MASTER] {
        assert_eq!(command.get(field).unwrap(), 1, "{field:?}");
    }
    // And it works on.
    let buffer = function.dma_buffer(4096).unwrap();
    let vectors = function.interrupts(IrqKind::MsiX, 1).unwrap();
    bar.write::<u64>(ADDRESS, buffer.iova()).unwrap();
    bar.write::<u32>(COUNT, 4).unwrap();
    bar.write::<u32>(GO, 0).unwrap();
    assert_eq!(vectors.wait(0, PATIENCE).unwrap(), 1);
    assert_eq!(buffer.read::<u32>(0).unwrap(), 0xa5a5_a5a5);
}

/// What it can't, and what a driver has instead. As soon as it can, this fails, and the book is to be changed.
#[test]
fn what_the_other_server_has_not() {
    // One descriptor a message: four vectors are four requests. REGION_WRITE_MULTI is not offered.
    let theirs = Theirs::new();
    let mut client = Client::connect(&theirs.path).unwrap();
    assert_eq!(client.server_capabilities().max_msg_fds, Some(1));
    assert_ne!(client.server_capabilities().write_multiple, Some(true));
    // The crate's server sends neither DMA_READ nor DMA_WRITE, and leaves it to the device to refuse memory without a
    // descriptor; this one does.
    let flags = uvfio_proto::message::DmaMapFlags::READ;
    let mapped = client.dma_map(0x1000, 0x1000, flags, None);
    assert!(matches!(mapped, Err(ClientError::Refused { .. })), "{mapped:?}");
    assert_eq!(client.info().unwrap().regions, 9, "the stream is in step");
    drop(client);

    // What it does not know it refuses, and then takes the rest of that message for the next one: so our client asks
    // for no feature that the server has not told of.
    type Ask = fn(&mut Client) -> Result<(), ClientError>;
    let unknown: [(&str, Ask); 2] = [
        ("DEVICE_FEATURE", |client| {
            let number = feature_number::IOVA_RANGES;
            client.feature(number, FeatureFlags::GET, &[]).map(|_| ())
        }),
        ("GET_REGION_IO_FDS", |client| client.region_io_fds(0).map(|_| ())),
    ];
    for (name, ask) in unknown {
        let theirs = Theirs::new();
        let mut client = Client::connect(&theirs.path).unwrap();
        assert!(client.iova_ranges().unwrap().is_none(), "not asked for");
        assert_eq!(client.info().unwrap().regions, 9, "the stream is in step");
        let refused = ask(&mut client);
        assert!(
            matches!(refused, Err(ClientError::Refused { .. })),
            "{name}: {refused:?}"
        );
        let after = client.info();
        assert!(after.is_err(), "{name}: the stream is in step now: {after:?}");
    }

    // Errors and requests to give the device back: nothing tells of them.
    let theirs = Theirs::new();
    let function = function(&theirs);
    let usable = function.usable_iova();
    assert_eq!(usable, [(0, 0xfedf_ffff), (0xfef0_0000, (1 << 39) - 1)]);
    for kind in [IrqKind::Error, IrqKind::Request] {
        assert_eq!(function.vectors(kind).unwrap(), 0, "{kind}");
    }
}
