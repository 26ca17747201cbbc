//! The crate `vfio_user`, whose client Cloud Hypervisor uses: its client against our server, our client against its
//! server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use common::device::{
    BAR0, BAR1, BAR2, BAR2_AT, BELLS, CONFIG, PARTS, TestDevice, VECTORS, eventually, limits,
};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uvfio_core::{Policy, VirtualDevice};
use uvfio_proto::message::{DmaMapFlags, FeatureFlags, RegionFlags, SetIrqsFlags};
use uvfio_proto::{Client, ClientError, End, Errno, Server};
use vfio_user::{
    DmaMapFlags as TheirMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion, SparseArea,
};

fn events(count: usize) -> Vec<OwnedFd> {
    (0..count)
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap())
        .collect()
}

fn memory(bytes: u64) -> OwnedFd {
    let memory = memfd_create("ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&memory, bytes).unwrap();
    memory
}

#[test]
fn cloud_hypervisors_client_drives_a_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let device = TestDevice::new();
    let virtual_device = VirtualDevice::new(Arc::clone(&device) as _, &Policy::default()).unwrap();
    let server = {
        let virtual_device = Arc::clone(&virtual_device);
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            Server::new(stream, virtual_device, limits()).serve()
        })
    };

    // Version, information, every region with its areas.
    let mut client = vfio_user::Client::new(&path).unwrap();
    assert!(
        !client.resettable(),
        "its sense is inverted: a device that can be reset is not reset at start"
    );
    let region = |client: &vfio_user::Client, index, bytes, flags, areas: &[(u64, u64)], file| {
        let region = client.region(index).unwrap();
        assert_eq!((region.size, region.flags), (bytes, flags), "region {index}");
        let got: Vec<_> = region
            .sparse_areas
            .iter()
            .map(|area| (area.offset, area.size))
            .collect();
        assert_eq!(got, areas, "region {index}");
        assert_eq!(region.file_offset.as_ref().map(vm_offset), file, "region {index}");
    };
    region(&client, 0, BAR0, 3, &[], None);
    region(&client, 1, BAR1, 7, &[], Some(0));
    region(&client, 2, BAR2, 15, &PARTS, Some(BAR2_AT));
    region(&client, CONFIG, 4096, 3, &[], None);
    region(&client, 8, 0, 0, &[], None);

    // Configuration space, as it walks capabilities; BAR sizing through it.
    let mut word = [0; 4];
    client.region_read(CONFIG, 0, &mut word).unwrap();
    assert_eq!(word, [0x34, 0x12, 0x78, 0x56]);
    let mut at = [0];
    client.region_read(CONFIG, 0x34, &mut at).unwrap();
    let mut found = Vec::new();
    while at[0] != 0 {
        let mut id = [0];
        client.region_read(CONFIG, u64::from(at[0]), &mut id).unwrap();
        client.region_read(CONFIG, u64::from(at[0]) + 1, &mut at).unwrap();
        found.push(id[0]);
    }
    assert_eq!(found, [0x01, 0x11, 0x10]);
    client.region_write(CONFIG, 0x10, &[0xff; 4]).unwrap();
    client.region_read(CONFIG, 0x10, &mut word).unwrap();
    assert_eq!(
        u32::from_le_bytes(word),
        !(BAR0 as u32 - 1),
        "its size, as region information has it"
    );
    client.region_write(CONFIG, 4, &[6, 0]).unwrap();
    client.region_write(0, 0x100, b"register").unwrap();
    let mut register = [0; 8];
    client.region_read(0, 0x100, &mut register).unwrap();
    assert_eq!(&register, b"register");

    // Memory with a descriptor.
    let ram = memory(0x10_0000);
    client
        .dma_map(0x1000, 0x4000_0000, 0x8_0000, ram.as_raw_fd())
        .unwrap();
    device.host().dma().write(0x4000_0010, b"by the device").unwrap();
    let mut written = [0; 13];
    rustix::io::pread(&ram, &mut written, 0x1010).unwrap();
    assert_eq!(&written, b"by the device");

    // Interrupts: a block of 16.
    let info = client.get_irq_info(2).unwrap();
    assert_eq!(
        (info.index, info.count, info.flags & 1),
        (2, u32::from(VECTORS), 1)
    );
    let events = events(16);
    let fds: Vec<_> = events.iter().map(AsRawFd::as_raw_fd).collect();
    client.set_irqs(2, 0x24, 0, 16, &fds).unwrap();
    device.host().signal(9);
    eventually("vector 9's eventfd is written", || {
        rustix::io::read(&events[9], &mut [0; 8]).is_ok()
    });
    client.set_irqs(2, 0x21, 0, 0, &[]).unwrap();

    client.dma_unmap(0x4000_0000, 0x8_0000).unwrap();
    assert!(
        device.host().dma().write(0x4000_0010, b"no").is_err(),
        "it is unmapped"
    );
    client.reset().unwrap();
    assert_eq!(*device.resets.lock().unwrap(), 1);
    client.region_read(0, 0x100, &mut register).unwrap();
    assert_eq!(register, [0; 8], "the device was reset, and COMMAND is as it was");

    client.shutdown().unwrap();
    assert!(matches!(server.join().unwrap(), Ok(End::Disconnected)));
}

/// The offset in the file of what `vfio_user` keeps for a region.
fn vm_offset<T: std::fmt::Debug>(file: &T) -> u64 {
    let text = format!("{file:?}");
    let start = text.find("start: ").map(|at| at + 7).unwrap();
    text[start..]
        .chars()
        .take_while(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap()
}

/// What its server was asked.
#[derive(Default)]
struct Backend {
    bytes: Vec<u8>,
    maps: Vec<(u32, u64, u64, u64, bool)>,
    unmaps: Vec<(u64, u64)>,
    irqs: Vec<(u32, u32, u32, u32, usize)>,
    resets: u32,
}

struct Shared(Arc<Mutex<Backend>>);

impl ServerBackend for Shared {
    fn region_read(&mut self, _region: u32, offset: u64, data: &mut [u8]) -> Result<(), std::io::Error> {
        let backend = self.0.lock().unwrap();
        data.copy_from_slice(&backend.bytes[offset as usize..offset as usize + data.len()]);
        Ok(())
    }

    fn region_write(&mut self, _region: u32, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        let mut backend = self.0.lock().unwrap();
        backend.bytes[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        flags: TheirMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> Result<(), std::io::Error> {
        self.0
            .lock()
            .unwrap()
            .maps
            .push((flags.bits(), offset, address, size, fd.is_some()));
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> Result<(), std::io::Error> {
        self.0.lock().unwrap().unmaps.push((address, size));
        Ok(())
    }

    fn reset(&mut self) -> Result<(), std::io::Error> {
        self.0.lock().unwrap().resets += 1;
        Ok(())
    }

    fn set_irqs(
        &mut self,
        index: u32,
        flags: u32,
        start: u32,
        count: u32,
        fds: Vec<File>,
    ) -> Result<(), std::io::Error> {
        self.0
            .lock()
            .unwrap()
            .irqs
            .push((index, flags, start, count, fds.len()));
        Ok(())
    }
}

fn their_region(
    index: u32,
    bytes: u64,
    flags: u32,
    areas: &[(u64, u64)],
    memory: Option<&OwnedFd>,
) -> ServerRegion {
    let mut region = ServerRegion {
        region_info: Default::default(),
        sparse_areas: Vec::new(),
        mmap_fd: memory.map(AsRawFd::as_raw_fd),
    };
    region.region_info.argsz = 32;
    region.region_info.index = index;
    region.region_info.size = bytes;
    region.region_info.flags = flags;
    for &(offset, size) in areas {
        let mut area = SparseArea {
            area: Default::default(),
        };
        (area.area.offset, area.area.size) = (offset, size);
        region.sparse_areas.push(area);
    }
    region
}

#[test]
fn our_client_drives_the_other_server() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("socket");
    let backend = Arc::new(Mutex::new(Backend {
        bytes: vec![0; 0x2000],
        ..Backend::default()
    }));
    let bar = memory(0x4000);
    let regions = vec![
        their_region(0, 0x2000, 3, &[], None),
        their_region(1, 0x4000, 7, &[(0x1000, 0x1000), (0x3000, 0x1000)], Some(&bar)),
    ];
    let irqs = (0..3)
        .map(|index| IrqInfo {
            index,
            flags: 1,
            count: 8,
        })
        .collect();
    let server = vfio_user::Server::new(&path, true, irqs, regions).unwrap();
    let thread = {
        let backend = Arc::clone(&backend);
        std::thread::spawn(move || {
            server
                .run(&mut Shared(backend))
                .map_err(|error| error.to_string())
        })
    };

    let mut client = Client::connect(&path).unwrap();
    assert_eq!(client.server_capabilities().max_msg_fds, Some(1));
    let info = client.info().unwrap();
    assert_eq!((info.regions, info.irqs, info.resettable), (2, 3, true));
    let region = client.region_info(0).unwrap();
    assert_eq!(
        (region.bytes, region.flags),
        (0x2000, RegionFlags::READ | RegionFlags::WRITE)
    );
    let region = client.region_info(1).unwrap();
    let areas: Vec<_> = region
        .areas
        .iter()
        .map(|area| (area.offset, area.bytes))
        .collect();
    assert_eq!(areas, [(0x1000, 0x1000), (0x3000, 0x1000)]);
    assert!(region.memory.is_some() && region.flags.contains(RegionFlags::MMAP));
    let irq = client.irq_info(2).unwrap();
    assert_eq!(irq.count, 8);

    client.write(0, 0x10, b"0123456789").unwrap();
    client.write_posted(0, 0x12, b"xx").unwrap();
    let mut data = [0; 10];
    client.read(0, 0x10, &mut data).unwrap();
    assert_eq!(&data, b"01xx456789");

    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    client.dma_map(0x1000, 0x1000, flags, None).unwrap();
    let ram = memory(0x4000);
    client
        .dma_map(0x10_0000, 0x2000, flags, Some((ram.as_fd(), 0x1000)))
        .unwrap();
    client.dma_unmap(0x1000, 0x1000).unwrap();
    let events = events(3);
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    client.set_eventfds(2, SetIrqsFlags::TRIGGER, 4, &fds).unwrap();
    client
        .set_irqs(2, SetIrqsFlags::NONE | SetIrqsFlags::TRIGGER, 0, 0, &[])
        .unwrap();
    client.reset().unwrap();

    // What it refuses without a payload leaves the stream in step.
    match client.set_irqs(7, SetIrqsFlags::NONE | SetIrqsFlags::TRIGGER, 0, 0, &[]) {
        Err(ClientError::Refused { errno, .. }) => assert_eq!(errno, Errno::INVAL),
        other => panic!("{other:?}"),
    }
    match client.write_multi(&[]) {
        Err(ClientError::Caller { .. }) => {}
        other => panic!("it did not offer that: {other:?}"),
    }
    match client.feature(10, FeatureFlags::PROBE, &[]) {
        Err(ClientError::Refused { .. }) => {}
        other => panic!("it has no such command: {other:?}"),
    }
    drop(client);
    let _ = thread.join().unwrap();

    let backend = backend.lock().unwrap();
    assert_eq!(
        backend.maps,
        [
            (3, 0, 0x1000, 0x1000, false),
            (3, 0x1000, 0x10_0000, 0x2000, true)
        ]
    );
    assert_eq!(backend.unmaps, [(0x1000, 0x1000)]);
    assert_eq!(
        backend.irqs,
        [
            (2, 0x24, 4, 1, 1),
            (2, 0x24, 5, 1, 1),
            (2, 0x24, 6, 1, 1),
            (2, 0x21, 0, 0, 0)
        ],
        "one descriptor a message, as it said"
    );
    assert_eq!(backend.resets, 1);
}

/// Our client against our server, for every request it has.
#[test]
fn our_client_drives_our_server() {
    let (mut served, stream) = common::device::serve_stream(limits());
    let mut client = Client::new(stream).unwrap();
    let info = client.info().unwrap();
    assert_eq!((info.regions, info.irqs, info.resettable), (9, 5, true));
    let region = client.region_info(2).unwrap();
    let areas: Vec<_> = region
        .areas
        .iter()
        .map(|area| (area.offset, area.bytes))
        .collect();
    assert_eq!(
        (region.bytes, areas, region.offset),
        (BAR2, PARTS.to_vec(), BAR2_AT)
    );
    let region = client.region_info(1).unwrap();
    assert_eq!(
        (region.areas.len(), region.areas[0].bytes, region.memory.is_some()),
        (1, BAR1, true)
    );
    let doorbells = client.region_io_fds(0).unwrap();
    let told: Vec<_> = doorbells
        .iter()
        .map(|one| (one.offset, one.bytes, one.value))
        .collect();
    assert_eq!(told, [(BELLS[0], 0, None), (BELLS[1], 4, Some(7))]);
    for (one, bell) in doorbells.iter().zip(&served.device.bells) {
        rustix::io::write(&*one.eventfd, &3_u64.to_ne_bytes()).unwrap();
        assert_eq!(bell.take(), 3, "the device has its other end");
    }
    assert!(client.region_io_fds(2).unwrap().is_empty());
    assert_eq!(client.irq_info(2).unwrap().count, u32::from(VECTORS));

    client.write(CONFIG, 4, &[6, 0]).unwrap();
    let data: Vec<u8> = (0..BAR0).map(|at| (at / 3) as u8).collect();
    client.write(0, 0, &data).unwrap();
    client.write_posted(0, 5, b"posted").unwrap();
    let mut got = vec![0; BAR0 as usize];
    client.read(0, 0, &mut got).unwrap();
    assert_eq!(&got[5..11], b"posted");
    assert!(got[11..] == data[11..]);
    let write = |offset, data| uvfio_proto::message::MultiWrite {
        offset,
        region: 0,
        count: 2,
        data,
    };
    let both = [
        write(0, [1, 2, 9, 9, 9, 9, 9, 9]),
        write(2, [3, 4, 9, 9, 9, 9, 9, 9]),
    ];
    assert_eq!(client.write_multi(&both).unwrap(), 2);
    client.read(0, 0, &mut got[..5]).unwrap();
    assert_eq!(&got[..5], [1, 2, 3, 4, 1]);

    let ram = memory(0x4000);
    let flags = DmaMapFlags::READ | DmaMapFlags::WRITE;
    client
        .dma_map(0x10_0000, 0x2000, flags, Some((ram.as_fd(), 0x1000)))
        .unwrap();
    match client.dma_map(0x10_1000, 0x2000, flags, Some((ram.as_fd(), 0))) {
        Err(ClientError::Refused { errno, .. }) => assert_eq!(errno, Errno::EXIST),
        other => panic!("{other:?}"),
    }
    let mut four = [0; 4];
    served.device.host().dma().read(0x10_0000, &mut four).unwrap();
    client.dma_unmap(0x10_0000, 0x2000).unwrap();
    client.dma_unmap_all().unwrap();

    let events = events(20);
    let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
    client.set_eventfds(2, SetIrqsFlags::TRIGGER, 0, &fds).unwrap();
    // Loopback: the request triggers them itself.
    let mut which = [0; 20];
    which[17] = 1;
    client
        .set_irqs(2, SetIrqsFlags::BOOL | SetIrqsFlags::TRIGGER, 0, 20, &which)
        .unwrap();
    eventually("vector 17 came", || {
        rustix::io::read(&events[17], &mut [0; 8]).is_ok()
    });
    client
        .set_irqs(2, SetIrqsFlags::NONE | SetIrqsFlags::TRIGGER, 0, 0, &[])
        .unwrap();

    assert_eq!(
        client
            .feature(10, FeatureFlags::PROBE | FeatureFlags::SET, &[])
            .unwrap(),
        [0_u8; 0]
    );
    client
        .feature(10, FeatureFlags::SET, &0_u32.to_ne_bytes())
        .unwrap();
    client.read(CONFIG, 4, &mut four[..1]).unwrap();
    assert_eq!(four[0], 2, "bus mastering is off, memory on");
    client.reset().unwrap();
    match client.read(0, BAR0 - 2, &mut four) {
        Err(ClientError::Refused { errno, .. }) => assert_eq!(errno, Errno::INVAL),
        other => panic!("{other:?}"),
    }
    drop(client);
    assert!(matches!(served.end(), Ok(End::Disconnected)));
}
