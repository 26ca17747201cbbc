//! Users whose descriptors are meant to harm, each kind that the design page names, against the server as it is run; and
//! meanwhile another user, whose accesses must all be answered right. How long they take is printed, and asserted nowhere:
//!
//!     cargo test -p uvfio --test hostile -- --nocapture --test-threads 1
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

#[path = "../common/mod.rs"]
mod common;
mod raw;
mod victim;

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raw::{Raw, words};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use uvfio_proto::message::{DmaMapFlags, SetIrqsFlags};
use uvfio_proto::{Client, ClientError};
use victim::{under_attack, user};

const IOVA: u64 = 0x10_0000;
const PAGE: u64 = 0x1000;
const BOTH: DmaMapFlags = DmaMapFlags::READ.union(DmaMapFlags::WRITE);
/// Memory of huge pages, within the 28 bits of an address that edu drives.
const HUGE_IOVA: u64 = 0x800_0000;
const HUGE: u64 = 0x600_0000;
/// For a reply: less than one close that hangs takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn memfd(flags: MemfdFlags, bytes: u64, seals: SealFlags) -> OwnedFd {
    let flags = flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("memory", flags).expect("a memfd");
    rustix::fs::ftruncate(&file, bytes).expect("its size");
    rustix::fs::fcntl_add_seals(&file, seals).expect("its seals");
    file
}

/// Does this at the end, also of a test that fails: threads that are waited for must be told.
pub(crate) struct AtEnd<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for AtEnd<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Has edu move `count` bytes between its buffer and memory, and waits until it says that it is over.
fn transfer(user: &mut Client, from_device: bool, iova: u64, count: u64) {
    let (source, destination, command) = if from_device {
        (0x4_0000, iova, 3_u64)
    } else {
        (iova, 0x4_0000, 1)
    };
    for (register, value) in [
        (0x80, source),
        (0x88, destination),
        (0x90, count),
        (0x98, command),
    ] {
        user.write(0, register, &value.to_le_bytes()).expect("a register");
    }
    loop {
        let mut state = [0; 8];
        user.read(0, 0x98, &mut state).expect("a register");
        assert_ne!(state, [0xff; 8], "the device is gone");
        if state[0] & 1 == 0 {
            return;
        }
    }
}

/// Files of every kind that is no memory of a user's, by their names.
fn other_files() -> Vec<(&'static str, OwnedFd)> {
    let open = |path: &str, flags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).expect("it is there")
    };
    let mut file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    file.write_all(&[0; 8192]).expect("its bytes");
    let (pipe, _end) = rustix::pipe::pipe().expect("a pipe");
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC);
    vec![
        ("a regular file", file.into()),
        ("a folder", open("/", OFlags::RDONLY | OFlags::DIRECTORY)),
        ("a path", open("/proc/self/exe", OFlags::PATH)),
        ("/dev/null", open("/dev/null", OFlags::RDWR)),
        ("/dev/zero", open("/dev/zero", OFlags::RDWR)),
        ("a file of /proc", open("/proc/self/status", OFlags::RDONLY)),
        ("a pipe", pipe),
        ("a socket", socket.into()),
        ("an epoll", epoll.expect("an epoll")),
    ]
}

#[test]
fn files_that_are_no_memory_are_not_mapped() {
    under_attack("no memory", |socket| {
        let mut attacker = user(socket);
        let mut files = other_files();
        let event = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        files.push(("an eventfd", event));
        for _ in 0..20 {
            for (name, file) in &files {
                // Acknowledged, and reached by message, which this client refuses: the device gets nothing.
                let map = attacker.dma_map(IOVA, PAGE, BOTH, Some((file.as_fd(), 0)));
                map.unwrap_or_else(|error| panic!("{name}: {error}"));
                transfer(&mut attacker, true, IOVA, 64);
                transfer(&mut attacker, false, IOVA, 64);
                attacker.dma_unmap(IOVA, PAGE).expect("unmapped");
            }
        }
    });
}

/// A TCP connection whose last close takes a minute: there is more to send than the other end, which is given as well,
/// takes. What a file of a FUSE file system can do, and without one.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    let mut sender = TcpStream::connect(address).expect("a connection");
    let (receiver, _) = listener.accept().expect("its other end");
    rustix::net::sockopt::set_socket_linger(&sender, Some(Duration::from_secs(60))).expect("SO_LINGER");
    sender.set_nonblocking(true).expect("no waiting");
    while sender.write(&[0; 65536]).is_ok() {}
    (sender.into(), receiver)
}

#[test]
fn a_descriptor_whose_close_does_not_come_back_holds_up_nobody() {
    under_attack("a close that hangs", |socket| {
        // Somebody else is served: what is sent lies in the socket, and its descriptors have no other owner then.
        let first = user(socket);
        let mut attacker = Raw::connect(socket);
        let mut ends = Vec::new();
        let null = File::open("/dev/null").expect("it is there");
        let mut send = |command, payload: &[u32], others: usize| {
            let (stuck, end) = lingering();
            let other = || null.try_clone().expect("a descriptor").into();
            let fds: Vec<OwnedFd> = std::iter::repeat_with(other)
                .take(others)
                .chain([stuck])
                .collect();
            attacker.send(command, &words(payload), &fds);
            ends.push(end);
        };
        // As memory, as a vector's eventfd, and with a command that takes none.
        send(2, &[32, 3, 0, 0, 0x1000, 0, 0x1000, 0], 0);
        send(2, &[32, 3, 0, 0, 0x2000, 0, 0x1000, 0], 0);
        send(8, &[20, 0x24, 1, 0, 1], 0);
        send(4, &[16, 0, 0, 0], 0);
        // And behind more than are taken with any.
        send(4, &[16, 0, 0, 0], 252);
        attacker.send(3, &words(&[24, 0, 0x1000, 0, 0x2000, 0]), &[]);
        drop(first);
        let replies: Vec<_> = (0..7).map(|_| attacker.reply(PATIENCE)).collect();
        assert_eq!(
            replies,
            [(1, 0), (2, 0), (2, 0), (8, 22), (4, 0), (4, 22), (3, 0)]
        );
        // The other ends let go: no close hangs any longer.
        drop(ends);
    });
}

#[test]
fn memory_that_is_cut_short_under_the_device_ends_no_process() {
    under_attack("memory cut short", |socket| {
        let mut attacker = user(socket);
        let file = memfd(MemfdFlags::empty(), 4 * PAGE, SealFlags::empty());
        attacker
            .dma_map(IOVA, 4 * PAGE, BOTH, Some((file.as_fd(), 0)))
            .expect("mapped");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    for bytes in [0, 4 * PAGE, PAGE + 1] {
                        rustix::fs::ftruncate(&file, bytes).expect("cut");
                    }
                }
            });
            let _end = AtEnd(|| over.store(true, Ordering::SeqCst));
            for number in 0..300 {
                transfer(&mut attacker, number % 2 == 0, IOVA + PAGE - 100, PAGE);
            }
        });
    });
}

#[test]
fn memory_with_holes_ends_no_process() {
    under_attack("memory with holes", |socket| {
        let mut attacker = user(socket);
        let sealed = memfd(MemfdFlags::empty(), 4 * PAGE, SealFlags::SHRINK | SealFlags::GROW);
        // Hardly a machine has these: a page that is not there yet may never come, sealed or not.
        let huge = memfd(MemfdFlags::HUGETLB, HUGE, SealFlags::SHRINK);
        for (iova, bytes, file) in [(IOVA, 4 * PAGE, &sealed), (HUGE_IOVA, HUGE, &huge)] {
            let map = attacker.dma_map(iova, bytes, BOTH, Some((file.as_fd(), 0)));
            map.expect("mapped");
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for number in 0..300 {
            rustix::fs::fallocate(&sealed, punch, 0, 4 * PAGE).expect("a hole");
            transfer(&mut attacker, number % 2 == 0, IOVA + 100, PAGE);
            transfer(&mut attacker, number % 2 == 0, HUGE_IOVA + (number << 18), 64);
        }
    });
}

#[test]
fn eventfds_that_are_full_block_nobody_else() {
    under_attack("full eventfds", |socket| {
        let mut attacker = user(socket);
        // Blocking ones, filled to the brim, and filled again whenever somebody empties them.
        let events: Vec<_> = (0..8)
            .map(|_| eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"))
            .collect();
        let fill = |event: &OwnedFd| {
            let mut poll = [rustix::event::PollFd::new(event, rustix::event::PollFlags::OUT)];
            let now = rustix::event::Timespec::default();
            if rustix::event::poll(&mut poll, Some(&now)) == Ok(1) {
                let count = if poll[0].revents().contains(rustix::event::PollFlags::IN) {
                    1
                } else {
                    u64::MAX - 1
                };
                let _ = rustix::io::write(event, &count.to_ne_bytes());
            }
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // It may block in a full one itself; at the end they are emptied until it is out.
            let filler = scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    events.iter().for_each(fill);
                    std::thread::yield_now();
                }
            });
            let _end = AtEnd(|| {
                over.store(true, Ordering::SeqCst);
                while !filler.is_finished() {
                    for event in &events {
                        let mut count = [0; 8];
                        let mut into = [std::io::IoSliceMut::new(&mut count)];
                        let flags = rustix::io::ReadWriteFlags::NOWAIT;
                        let _ = rustix::io::preadv2(event, &mut into, u64::MAX, flags);
                    }
                    std::thread::yield_now();
                }
            });
            let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
            for number in 0..200_u32 {
                attacker
                    .set_eventfds(1, SetIrqsFlags::TRIGGER, 0, &fds)
                    .expect("attached");
                // By the device, and by request.
                attacker
                    .write(0, 0x60, &(1_u32 << (number % 8)).to_le_bytes())
                    .expect("a raise");
                let flags = SetIrqsFlags::NONE | SetIrqsFlags::TRIGGER;
                attacker.set_irqs(1, flags, 0, 8, &[]).expect("triggered");
                attacker.set_irqs(1, flags, 0, 0, &[]).expect("taken away");
            }
        });
    });
}

#[test]
fn descriptors_that_are_no_eventfds_are_refused() {
    under_attack("no eventfds", |socket| {
        let mut attacker = user(socket);
        let mut files = other_files();
        let flags = MemfdFlags::CLOEXEC;
        let named = rustix::fs::memfd_create("anon_inode:[eventfd]", flags).expect("a memfd");
        files.push(("a memfd that is called an eventfd", named));
        for _ in 0..20 {
            for (name, file) in &files {
                for action in [SetIrqsFlags::TRIGGER, SetIrqsFlags::UNMASK] {
                    let index = u32::from(action == SetIrqsFlags::TRIGGER);
                    let result = attacker.set_eventfds(index, action, 0, &[file.as_fd()]);
                    let refused = matches!(result, Err(ClientError::Refused { .. }));
                    assert!(refused, "{name} with {action:?}: {result:?}");
                }
            }
        }
    });
}

#[test]
fn descriptors_that_no_command_takes_are_closed() {
    under_attack("stray descriptors", |socket| {
        let mut attacker = Raw::connect(socket);
        assert_eq!(attacker.reply(PATIENCE), (1, 0));
        let null = File::open("/dev/null").expect("it is there");
        let many: Vec<OwnedFd> = (0..250)
            .map(|_| null.try_clone().expect("a descriptor").into())
            .collect();
        // Kept, they would be more than any process may have.
        for _ in 0..300 {
            attacker.send(4, &words(&[16, 0, 0, 0]), &many);
            assert_eq!(attacker.reply(PATIENCE).0, 4);
        }
    });
}

#[test]
fn ranges_and_files_without_number_meet_a_limit() {
    under_attack("ranges and files", |socket| {
        let mut attacker = user(socket);
        let file = memfd(MemfdFlags::empty(), PAGE, SealFlags::SHRINK);
        let ranges = (0..80_000_u64)
            .take_while(|number| {
                let map = attacker.dma_map(number * PAGE, PAGE, BOTH, Some((file.as_fd(), 0)));
                map.is_ok()
            })
            .count();
        assert!((10_000..80_000).contains(&ranges), "{ranges} ranges of a file");
        attacker.dma_unmap_all().expect("unmapped");
        let files = (0..80_000_u64)
            .take_while(|number| {
                let file = memfd(MemfdFlags::empty(), PAGE, SealFlags::SHRINK);
                let map = attacker.dma_map(number * PAGE, PAGE, BOTH, Some((file.as_fd(), 0)));
                map.is_ok()
            })
            .count();
        assert!((10..80_000).contains(&files), "{files} files");
        attacker.dma_unmap_all().expect("unmapped");
    });
}
