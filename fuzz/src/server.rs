//! A client's bytes and descriptors, to the server of an edu.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;
use uvfio_core::{Policy, VirtualDevice, region_index};
use uvfio_proto::transport::{Blocked, Outgoing};
use uvfio_proto::{Limits, Server};
use uvfio_soft::edu::{self, Edu};

use super::bytes::Bytes;

/// The device, and configuration space as the first user finds it.
struct Served {
    device: Arc<VirtualDevice>,
    page: Vec<u8>,
}

fn config(device: &VirtualDevice) -> Vec<u8> {
    let bytes = device
        .region_info(region_index::CONFIG)
        .expect("it is there")
        .bytes;
    let mut page = vec![0; bytes as usize];
    device
        .read(region_index::CONFIG, 0, &mut page)
        .expect("it can be read");
    page
}

fn served() -> &'static Served {
    static SERVED: OnceLock<Served> = OnceLock::new();
    SERVED.get_or_init(|| {
        let edu = Edu::new(edu::Config::default()).expect("edu");
        let device = VirtualDevice::new(edu, &Policy::default()).expect("a device");
        device.attach(None);
        let page = config(&device);
        device.detach().expect("it comes back");
        Served { device, page }
    })
}

/// Descriptors of several kinds.
fn descriptors(which: u8) -> Vec<OwnedFd> {
    let memory = || {
        let memory = rustix::fs::memfd_create("user", MemfdFlags::CLOEXEC).expect("a memfd");
        rustix::fs::ftruncate(&memory, 0x1_0000).expect("its size");
        memory
    };
    let event =
        || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
    match which % 5 {
        0 => vec![],
        1 => vec![memory()],
        2 => vec![event()],
        3 => (0..8).map(|_| event()).collect(),
        _ => vec![memory(), event(), memory()],
    }
}

/// Bytes: how it begins; then pieces, each with its descriptors and its length.
pub fn run(data: &[u8]) {
    let mut data = Bytes(data);
    let Served { device, page } = served();
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let ours = Arc::new(ours);
    let limits = Limits {
        max_data_bytes: 4096,
        dma_timeout: Duration::from_millis(5),
        ..Limits::default()
    };
    let reader = {
        let ours = Arc::clone(&ours);
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = (&*ours).read_to_end(&mut bytes);
            bytes
        })
    };
    let mut server = Server::new(theirs, Arc::clone(device), limits);
    let thread = std::thread::spawn(move || {
        let _ = server.serve();
    });
    if data.u8() & 1 == 0 {
        let version = b"\0\0\x01\0\x28\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0{\"capabilities\":{}}\0";
        // Some write_multiple, so that it can be tried.
        let _ = (&*ours).write_all(version);
    }
    let out = Outgoing::new(Arc::clone(&ours));
    while data.more() {
        let fds = descriptors(data.u8());
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let count = usize::from(data.u8()) + 1;
        let piece = data.take(count);
        if piece.is_empty() || out.send(&[piece, &[]], &fds, &mut || Blocked::Wait).is_err() {
            break;
        }
    }
    let _ = ours.shutdown(Shutdown::Write);
    thread.join().expect("the server does not panic");
    let replies = reader.join().expect("it only reads");
    check_framed(&replies);
    device.detach().expect("the device comes back");
    device.attach(None);
    let now = config(device);
    device.detach().expect("the device comes back");
    assert!(
        now == *page,
        "configuration space is not as at power-on for the next user"
    );
    assert_eq!(
        device.dma().usage(),
        uvfio_core::DmaUsage::default(),
        "mappings for the next user"
    );
}

/// What came back is whole messages, replies of which an error has no payload.
fn check_framed(mut replies: &[u8]) {
    while !replies.is_empty() {
        let word = |at: usize| u32::from_ne_bytes(replies[at..at + 4].try_into().expect("four bytes"));
        assert!(replies.len() >= 16, "{} bytes of a header", replies.len());
        let (bytes, flags) = (word(4) as usize, word(8));
        assert!(
            (16..=replies.len()).contains(&bytes),
            "a message of {bytes} bytes of {}",
            replies.len()
        );
        assert!(flags & 0x20 == 0 || bytes == 16, "an error with payload");
        replies = &replies[bytes..];
    }
}
