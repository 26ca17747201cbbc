//! Serving a region access allocates nothing, once the buffers have grown to its length.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]
#![allow(unsafe_code, reason = "the allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::device::{CONFIG, TestDevice, limits};
use common::raw::{Raw, access, message};
use uvfio_core::{Policy, VirtualDevice};
use uvfio_proto::{End, Server};

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: as the system's, which does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn region_accesses_allocate_nothing() {
    let device = TestDevice::new();
    let virtual_device = VirtualDevice::new(device, &Policy::default()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut server = Server::new(theirs, Arc::clone(&virtual_device), limits());
    let server = std::thread::spawn(move || {
        COUNTED.set(true);
        let end = server.serve();
        COUNTED.set(false);
        end
    });
    let raw = Raw::new(ours);
    raw.negotiate();
    // Longest first: the buffers grow.
    let block = [3; 0x1000];
    let accesses: [(&str, u16, u32, Vec<u8>); 8] = [
        ("write of 4 KiB", 10, 0, access(0, 0, 0x1000, &block)),
        ("read of 64 KiB", 9, 0, access(0, 0, 0x1_0000, &[])),
        ("read of 4 bytes", 9, 0, access(8, 0, 4, &[])),
        ("write of 4 bytes", 10, 0, access(8, 0, 4, &[1; 4])),
        ("posted write", 10, 0x10, access(8, 0, 4, &[1; 4])),
        ("read of configuration space", 9, 0, access(0, CONFIG, 4096, &[])),
        ("write of COMMAND", 10, 0, access(4, CONFIG, 2, &[6, 0])),
        ("read of the MSI-X table", 9, 0, access(0, 4, 16, &[])),
    ];
    let one = |command, flags, payload: &[u8]| {
        raw.send(&message(1, command, flags, payload));
        if flags == 0 {
            assert_eq!(raw.recv().flags, 1);
        }
    };
    for (_, command, flags, payload) in &accesses {
        one(*command, *flags, payload);
    }
    for (what, command, flags, payload) in &accesses {
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        for _ in 0..100 {
            one(*command, *flags, payload);
        }
        // The last posted one is done when this is answered.
        one(9, 0, &access(0, CONFIG, 1, &[]));
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0, "100 × {what}");
    }
    assert!(
        ALLOCATIONS.load(Ordering::SeqCst) > 0,
        "the server's thread is counted at all"
    );
    drop(raw);
    assert!(matches!(server.join().unwrap(), Ok(End::Disconnected)));
}
