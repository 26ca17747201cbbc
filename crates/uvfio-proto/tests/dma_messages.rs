//! Memory without a descriptor, both ways, through a server and its device.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::device::{CONFIG, Served, limits, serve, serve_stream};
use common::raw::{Got, Raw, access, dma_map, dma_unmap, message, words};
use uvfio_core::DmaError;
use uvfio_proto::message::DmaMapFlags;
use uvfio_proto::{Client, ClientMemory, End, Errno, Limits, ServeError};

const MIB: usize = 1 << 20;

/// Maps 16 MiB at 2 MiB without a descriptor and switches bus mastering on.
fn by_message() -> (Served, Raw) {
    let (served, raw) = serve();
    prepare(&raw);
    (served, raw)
}

fn prepare(raw: &Raw) {
    assert_eq!(raw.ask(1, 2, &dma_map(32, 3, 0, 0x20_0000, 16 << 20)).errno, 0);
    assert_eq!(raw.ask(1, 10, &access(4, CONFIG, 2, &[6, 0])).errno, 0);
}

/// Answers a DMA_READ.
fn answer(raw: &Raw, command: &Got, data: &[u8]) {
    let payload = [&command.payload[..16], data].concat();
    raw.send(&message(command.id, command.command, 1, &payload));
}

#[test]
fn a_device_reads_and_writes_memory_by_message() {
    let (served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || {
        let mut data = [0; 8];
        host.dma().read(0x20_0010, &mut data)?;
        host.dma().write(0x30_0000, &data)?;
        Ok::<_, DmaError>(data)
    });
    let got = raw.recv();
    assert_eq!(
        (got.command, got.flags, got.u64(0), got.u64(8)),
        (11, 0, 0x20_0010, 8)
    );
    answer(&raw, &got, b"8 bytes.");
    let got = raw.recv();
    assert_eq!(
        (got.command, got.flags, got.u64(0), got.u64(8)),
        (12, 0, 0x30_0000, 8)
    );
    assert_eq!(&got.payload[16..], b"8 bytes.");
    answer(&raw, &got, b"");
    assert_eq!(device.join().unwrap(), Ok(*b"8 bytes."));
}

#[test]
fn no_reply_waits_for_the_clients_answer() {
    let (served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().read(0x20_0000, &mut [0; 4]));
    let due = raw.recv();
    assert_eq!(due.command, 11);
    // It is not answered; everything else is.
    let ask = |command, payload: &[u8]| {
        let got = raw.ask(5, command, payload);
        assert_eq!((got.id, got.command, got.flags), (5, command, 1), "{got:?}");
    };
    ask(9, &access(0, CONFIG, 4, &[]));
    ask(10, &access(0, 0, 4, &[0; 4]));
    ask(2, &dma_map(32, 3, 0, 0x8000_0000, 0x1000));
    ask(4, &words(&[16, 0, 0, 0]));
    ask(8, &words(&[20, 0x24, 2, 0, 1]));
    ask(3, &dma_unmap(24, 0, 0x20_0000, 16 << 20));
    // The unmap has ended it; a late answer is dropped and the connection lives.
    assert!(
        matches!(device.join().unwrap(), Err(DmaError::Message { .. })),
        "abandoned by the unmap"
    );
    answer(&raw, &due, &[1; 4]);
    ask(13, &[]);
    ask(4, &words(&[16, 0, 0, 0]));
}

#[test]
fn a_reset_abandons_what_is_under_way() {
    let (served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || {
        let mut data = vec![0; MIB * 4];
        host.dma().read(0x20_0000, &mut data)
    });
    let due = raw.recv();
    let begun = Instant::now();
    let got = raw.ask(5, 13, &[]);
    assert_eq!(
        (got.command, got.flags),
        (13, 1),
        "the reset is answered: {got:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "clients give up after 5 s"
    );
    assert!(device.join().unwrap().is_err());
    answer(&raw, &due, &vec![1; MIB]);
    assert_eq!(raw.ask(6, 4, &words(&[16, 0, 0, 0])).id, 6);
}

#[test]
fn a_client_that_refuses_fails_the_device_and_nothing_else() {
    let (served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().write(0x20_0000, &[0; 4]));
    let got = raw.recv();
    // ENODEV, as QEMU's answer while its guest has bus mastering off.
    raw.send(&[&message(got.id, 12, 0x21, &[])[..12], &19_u32.to_ne_bytes()].concat());
    assert!(matches!(
        device.join().unwrap(),
        Err(DmaError::Message { iova: 0x20_0000, .. })
    ));
    assert_eq!(raw.ask(6, 4, &words(&[16, 0, 0, 0])).flags, 1);
}

#[test]
fn a_client_that_leaves_ends_what_is_under_way() {
    let (mut served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().read(0x20_0000, &mut [0; 4]));
    let _due = raw.recv();
    drop(raw);
    assert!(matches!(device.join().unwrap(), Err(DmaError::Message { .. })));
    assert!(matches!(
        served.end(),
        Ok(End::Disconnected) | Err(ServeError::Receive(_))
    ));
}

#[test]
fn a_second_answer_to_one_message_ends_the_connection() {
    let (mut served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().read(0x20_0000, &mut [0; 4]));
    let got = raw.recv();
    answer(&raw, &got, &[1; 4]);
    assert_eq!(device.join().unwrap(), Ok(()));
    answer(&raw, &got, &[1; 4]);
    assert!(raw.recv_with().is_none());
    assert!(matches!(served.end(), Err(ServeError::Unasked { .. })));
}

#[test]
fn a_client_that_gives_no_answer_costs_a_device_the_time_out_only() {
    let limits = Limits {
        dma_timeout: Duration::from_millis(50),
        ..limits()
    };
    let (served, stream) = serve_stream(limits);
    let raw = Raw::new(stream);
    raw.negotiate();
    prepare(&raw);
    let host = served.device.host();
    assert!(matches!(
        host.dma().read(0x20_0000, &mut [0; 4]),
        Err(DmaError::Message { .. })
    ));
    let due = raw.recv();
    answer(&raw, &due, &[1; 4]);
    assert_eq!(
        raw.ask(6, 4, &words(&[16, 0, 0, 0])).flags,
        1,
        "the late answer is dropped"
    );
}

#[test]
fn messages_are_no_longer_than_the_client_takes() {
    let (served, raw) = {
        let (served, stream) = serve_stream(limits());
        let raw = Raw::new(stream);
        let json = b"{\"capabilities\":{\"max_data_xfer_size\":4096}}\0";
        assert_eq!(raw.ask(1, 1, &common::raw::version(0, 1, json)).flags, 1);
        prepare(&raw);
        (served, raw)
    };
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().write(0x20_0000, &[9; 10_000]));
    for (iova, count) in [(0x20_0000, 4096), (0x20_1000, 4096), (0x20_2000, 1808)] {
        let got = raw.recv();
        assert_eq!(
            (got.u64(0), got.u64(8), got.payload.len()),
            (iova, count, 16 + count as usize)
        );
        answer(&raw, &got, b"");
    }
    assert_eq!(device.join().unwrap(), Ok(()));
}

#[test]
fn two_sides_that_both_send_do_not_wait_for_each_other() {
    let (served, raw) = by_message();
    let host = served.device.host();
    let device = std::thread::spawn(move || {
        let mut data = vec![0; MIB];
        host.dma().read(0x20_0000, &mut data).map(|()| data)
    });
    let first = raw.recv();
    // The replies to these don't fit into the socket, and nobody reads them yet.
    let reads: Vec<u8> = (0..32)
        .flat_map(|id| message(id, 9, 0, &access(0, 0, 0x1_0000, &[])))
        .collect();
    raw.0.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    raw.send(&reads);
    std::thread::sleep(Duration::from_millis(50));
    let bytes = first.u64(8) as usize;
    answer(&raw, &first, &vec![1; bytes]);
    let mut replies = 0;
    let mut done = bytes;
    while replies < 32 || done < MIB {
        let got = raw.recv();
        if got.command == 11 {
            done += got.u64(8) as usize;
            answer(&raw, &got, &vec![1; got.u64(8) as usize]);
        } else {
            assert_eq!((got.id, got.command, got.flags), (replies, 9, 1));
            replies += 1;
        }
    }
    assert!(device.join().unwrap().unwrap().iter().all(|&byte| byte == 1));
}

/// Memory of our client's.
#[derive(Clone)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl ClientMemory for Memory {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        let memory = self.0.lock().unwrap();
        let from = iova as usize;
        data.copy_from_slice(memory.get(from..from + data.len()).ok_or(Errno::FAULT)?);
        Ok(())
    }

    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let mut memory = self.0.lock().unwrap();
        let from = iova as usize;
        memory
            .get_mut(from..from + data.len())
            .ok_or(Errno::FAULT)?
            .copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn our_client_serves_its_memory_while_it_waits() {
    let (served, stream) = serve_stream(limits());
    let mut client = Client::new(stream).unwrap();
    let memory = Memory(Arc::new(Mutex::new(
        (0..4 * MIB).map(|at| (at / 7) as u8).collect(),
    )));
    client.set_memory(Box::new(memory.clone()));
    client
        .dma_map(0, 4 * MIB as u64, DmaMapFlags::READ | DmaMapFlags::WRITE, None)
        .unwrap();
    client.write(CONFIG, 4, &[6, 0]).unwrap();
    let host = served.device.host();
    // The device moves 3 MiB and a bit; the client reads registers meanwhile.
    let bytes = 3 * MIB / 2 + 5;
    let device = std::thread::spawn(move || {
        let mut data = vec![0; bytes];
        host.dma()
            .read(3, &mut data)
            .and_then(|()| host.dma().write(2 * MIB as u64 + 9, &data))
    });
    let mut id = [0; 4];
    while !device.is_finished() {
        client.read(CONFIG, 0, &mut id).unwrap();
        assert_eq!(id, [0x34, 0x12, 0x78, 0x56]);
    }
    assert_eq!(device.join().unwrap(), Ok(()));
    let memory = memory.0.lock().unwrap();
    assert!(
        memory[3..3 + bytes] == memory[2 * MIB + 9..2 * MIB + 9 + bytes],
        "the copy differs"
    );
}

#[test]
fn our_client_serves_its_memory_when_told_to() {
    let (served, stream) = serve_stream(limits());
    let mut client = Client::new(stream).unwrap();
    let memory = Memory(Arc::new(Mutex::new(vec![0; MIB])));
    client
        .dma_map(0, MIB as u64, DmaMapFlags::READ | DmaMapFlags::WRITE, None)
        .unwrap();
    client.write(CONFIG, 4, &[6, 0]).unwrap();
    assert!(
        !client.serve_incoming(Duration::from_millis(1)).unwrap(),
        "nothing comes"
    );

    let write = |value: u8| {
        let host = served.device.host();
        std::thread::spawn(move || host.dma().write(0x100, &[value; 16]))
    };
    let device = write(1);
    assert!(client.serve_incoming(Duration::from_secs(10)).unwrap());
    assert!(device.join().unwrap().is_err(), "no memory is there yet");

    client.set_memory(Box::new(memory.clone()));
    let device = write(2);
    assert!(client.serve_incoming(Duration::from_secs(10)).unwrap());
    assert_eq!(device.join().unwrap(), Ok(()));
    assert_eq!(memory.0.lock().unwrap()[0x100..0x110], [2; 16]);

    // Past the memory: the device is told, and the connection lives.
    client
        .dma_map(MIB as u64, MIB as u64, DmaMapFlags::READ, None)
        .unwrap();
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().read(MIB as u64 + 4096, &mut [0; 4]));
    assert!(client.serve_incoming(Duration::from_secs(10)).unwrap());
    assert!(device.join().unwrap().is_err());
    assert_eq!(client.info().unwrap().regions, 9);
}

#[test]
fn detach_and_a_new_user_make_a_new_channel() {
    let (mut served, raw) = by_message();
    drop(raw);
    let _ = served.end();
    served.virtual_device.detach().unwrap();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let device = Arc::clone(&served.virtual_device);
    let second = std::thread::spawn(move || uvfio_proto::Server::new(theirs, device, limits()).serve());
    let raw = Raw::new(ours);
    raw.negotiate();
    assert_eq!(
        raw.ask(1, 9, &access(4, CONFIG, 2, &[])).payload[16..],
        [0, 0],
        "COMMAND is as at power-on"
    );
    prepare(&raw);
    let host = served.device.host();
    let device = std::thread::spawn(move || host.dma().read(0x20_0000, &mut [0; 4]));
    let got = raw.recv();
    answer(&raw, &got, &[7; 4]);
    assert_eq!(device.join().unwrap(), Ok(()));
    drop(raw);
    assert!(matches!(second.join().unwrap(), Ok(End::Disconnected)));
}
