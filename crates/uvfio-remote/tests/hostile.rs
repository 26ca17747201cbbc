//! Servers that answer nonsense, do not answer, or leave in the middle.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use common::{Fault, Hostile, Says, command, event, irqs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use uvfio_core::region_index::CONFIG;
use uvfio_core::{DmaAccess, DmaError, DmaMessages, DmaTicket, IrqData, IrqIndex, ResetProgress, SetIrqs};
use uvfio_remote::{Lie, Remote, RemoteError};
use uvfio_uapi::{Backend, DmaRange};

const SOON: Duration = Duration::from_secs(20);

/// A user with no memory.
#[derive(Debug)]
struct Nothing;

impl DmaMessages for Nothing {
    fn read(&self, _: DmaTicket, iova: u64, _: &mut [u8]) -> Result<(), DmaError> {
        Err(DmaError::Message { iova, why: "nothing" })
    }

    fn write(&self, _: DmaTicket, iova: u64, _: &[u8]) -> Result<(), DmaError> {
        Err(DmaError::Message { iova, why: "nothing" })
    }

    fn abandon(&self) {}
}

const RANGE: DmaRange<'_> = DmaRange {
    iova: 0x10_0000,
    bytes: 0x1000,
    access: DmaAccess::READ.union(DmaAccess::WRITE),
    file: None,
};

/// A function of a good server, with a user, memory on, and the eventfd of REQ.
fn used(server: &Hostile) -> (Arc<Remote>, OwnedFd) {
    let remote = server.connect().unwrap();
    remote.attach(Arc::new(Nothing)).unwrap();
    remote.write(CONFIG, 4, &[6, 0]).unwrap();
    let wanted = event();
    let notice = irqs(IrqIndex::Req, vec![Some(wanted.try_clone().unwrap())]);
    remote.set_irqs(notice).unwrap();
    (remote, wanted)
}

/// What a user sees of a device that is gone; it learns of it by REQ.
fn assert_gone(remote: &Remote, wanted: &OwnedFd, what: &str) {
    let until = Timespec {
        tv_sec: SOON.as_secs().cast_signed(),
        tv_nsec: 0,
    };
    let told = poll(&mut [PollFd::new(wanted, PollFlags::IN)], Some(&until));
    assert_eq!(told, Ok(1), "{what}: REQ is not signalled");
    assert!(remote.is_gone(), "{what}");
    for (region, bytes) in [(0, 8), (CONFIG, 64)] {
        let mut data = vec![0; bytes];
        remote.read(region, 0, &mut data).unwrap();
        assert_eq!(data, vec![0xff; bytes], "{what}: region {region}");
        remote.write(region, 0, &data).unwrap();
        assert!(remote.answers(region), "{what}: region {region}");
    }
    assert_eq!(remote.region_info(0).unwrap().bytes, 0x1000, "{what}");
    remote
        .set_irqs(irqs(IrqIndex::MsiX, vec![Some(event())]))
        .unwrap();
    assert_eq!(remote.reset(SOON).unwrap(), ResetProgress::Done, "{what}");
    remote.map(&RANGE).unwrap();
    remote.unmap(RANGE.iova, RANGE.bytes);
    remote.detach().unwrap();
    let next = remote.attach(Arc::new(Nothing));
    assert_eq!(next.unwrap_err().errno, Errno::NODEV, "{what}: the next user");
}

/// A request of the user's.
type Ask = fn(&Remote);

#[test]
fn a_server_that_breaks_the_protocol_has_lost_its_device_and_nobody_hangs() {
    let asks: [(&str, u16, Ask); 7] = [
        ("a read", command::REGION_READ, |remote| {
            let mut data = [0; 4];
            remote.read(0, 0, &mut data).unwrap();
            assert_eq!(data, [0xff; 4]);
        }),
        ("a write", command::REGION_WRITE, |remote| {
            remote.write(0, 0, &[1; 4]).unwrap();
        }),
        ("a write of COMMAND", command::REGION_READ, |remote| {
            remote.write(CONFIG, 4, &[2, 0]).unwrap();
        }),
        ("interrupts", command::SET_IRQS, |remote| {
            remote
                .set_irqs(irqs(IrqIndex::MsiX, vec![Some(event())]))
                .unwrap();
        }),
        ("a mapping", command::DMA_MAP, |remote| {
            remote.map(&RANGE).unwrap();
        }),
        ("an unmapping", command::DMA_UNMAP, |remote| {
            remote.unmap(0x10_0000, 0x1000);
        }),
        ("a reset", command::RESET, |remote| {
            let reset = remote.reset(SOON);
            assert!(reset.is_err(), "{reset:?}");
        }),
    ];
    // At a time: some of them take as long as the patience.
    std::thread::scope(|scope| {
        for (what, command, ask) in asks {
            for fault in Fault::ALL {
                scope.spawn(move || {
                    let server = Hostile::new(Says::default());
                    let (remote, wanted) = used(&server);
                    server.fault(command, fault);
                    ask(&remote);
                    assert_gone(&remote, &wanted, &format!("{fault:?} at {what}"));
                });
            }
        }
    });
}

#[test]
fn a_server_that_breaks_the_protocol_at_first_is_no_device() {
    let commands = [
        command::VERSION,
        command::GET_INFO,
        command::GET_REGION_INFO,
        command::GET_IRQ_INFO,
        command::REGION_READ,
    ];
    std::thread::scope(|scope| {
        for command in commands {
            for fault in Fault::ALL {
                scope.spawn(move || {
                    let server = Hostile::new(Says::default());
                    server.fault(command, fault);
                    let refused = server.connect().err();
                    let refused = refused.unwrap_or_else(|| panic!("{fault:?} at {command}: a device"));
                    let sentence = refused.to_string();
                    let path = server.path.display().to_string();
                    assert!(
                        sentence.contains(&path) && !sentence.contains('\n'),
                        "{fault:?} at {command}: {sentence}"
                    );
                    let silent = matches!(refused, RemoteError::NoAnswer { .. });
                    let expected = matches!(fault, Fault::Silence | Fault::Half | Fault::Drip | Fault::Flood);
                    assert!(
                        silent == expected || fault == Fault::Garbage,
                        "{fault:?} at {command}: {sentence}"
                    );
                });
            }
        }
    });
}

#[test]
fn a_server_that_leaves_while_nobody_asks_it_anything_is_missed_at_once() {
    let server = Hostile::new(Says::default());
    let (remote, wanted) = used(&server);
    server.close();
    assert_gone(&remote, &wanted, "closed");
}

#[test]
fn nonsense_that_nobody_asked_for_ends_it_too() {
    for (what, bytes) in [
        ("a reply", common::message(7, command::REGION_READ, 1, &[0; 20])),
        (
            "half a message",
            common::message(7, command::DMA_READ, 0, &[0; 16])[..20].to_vec(),
        ),
        ("garbage", vec![0xa5; 100]),
    ] {
        let server = Hostile::new(Says::default());
        let (remote, wanted) = used(&server);
        server.send(&bytes);
        assert_gone(&remote, &wanted, what);
    }
}

#[test]
fn a_refusal_is_no_end_and_comes_with_its_number() {
    let server = Hostile::new(Says::default());
    let (remote, _) = used(&server);
    server.refuse(command::DMA_MAP, 28);
    assert_eq!(remote.map(&RANGE).unwrap_err().errno, Errno::NOSPC);
    server.refuse(command::SET_IRQS, 16);
    let refused = remote.set_irqs(irqs(IrqIndex::MsiX, vec![Some(event())]));
    assert_eq!(refused.unwrap_err().errno, Errno::BUSY);
    // One that is no number.
    server.refuse(command::DMA_MAP, u32::MAX);
    assert_eq!(remote.map(&RANGE).unwrap_err().errno, Errno::IO);
    for (number, errno) in [(133, Errno::HWPOISON), (134, Errno::IO), (512, Errno::IO)] {
        server.refuse(command::DMA_MAP, number);
        assert_eq!(remote.map(&RANGE).unwrap_err().errno, errno);
    }
    server.refuse(command::RESET, 5);
    assert!(remote.reset(SOON).is_err());
    server.refuse(command::REGION_READ, 14);
    let mut data = [0; 4];
    remote.read(0, 0, &mut data).unwrap();
    assert_eq!(data, [0xff; 4], "what can't be read");
    server.refuse(0, 0);
    assert!(!remote.is_gone());
    remote.write(0, 0, &[1, 2, 3, 4]).unwrap();
    remote.read(0, 0, &mut data).unwrap();
    assert_eq!(data, [1, 2, 3, 4]);
}

#[test]
fn a_command_register_that_it_does_not_let_read_turns_nothing_on() {
    let server = Hostile::new(Says::default());
    let remote = server.connect().unwrap();
    remote.attach(Arc::new(Nothing)).unwrap();
    server.refuse(command::REGION_READ, 14);
    remote.write(CONFIG, 4, &[0, 0]).unwrap();
    assert!(!remote.answers(0));
}

#[test]
fn eventfds_that_it_has_of_a_refused_request_are_taken_from_it() {
    let server = Hostile::new(Says::default());
    let remote = server.connect().unwrap();
    remote.attach(Arc::new(Nothing)).unwrap();
    server.refuse(command::SET_IRQS, 16);
    let refused = remote.set_irqs(irqs(IrqIndex::MsiX, vec![Some(event())]));
    assert_eq!(refused.unwrap_err().errno, Errno::BUSY);
    let flags = || server.next(command::SET_IRQS).payload[4..8].to_vec();
    assert_eq!([flags(), flags()], [[0x24, 0, 0, 0], [0x21, 0, 0, 0]]);
}

#[test]
fn a_notice_is_there_when_the_request_that_tries_it_returns_and_a_full_one_holds_nobody_up() {
    let server = Hostile::new(Says::default());
    let (remote, wanted) = used(&server);
    let tries = || SetIrqs {
        data: IrqData::None,
        ..irqs(IrqIndex::Req, vec![None])
    };
    let mut count = [0; 8];
    remote.set_irqs(tries()).unwrap();
    rustix::io::read(&wanted, &mut count).unwrap();
    assert_eq!(count, 1_u64.to_ne_bytes());
    rustix::io::write(&wanted, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    remote.set_irqs(tries()).unwrap();
    remote.request_removal();
    remote.detach().unwrap();
    rustix::io::read(&wanted, &mut count).unwrap();
    assert_eq!(count, (u64::MAX - 1).to_ne_bytes());
}

#[test]
fn memory_that_it_does_not_let_go_of_ends_it() {
    let server = Hostile::new(Says::default());
    let (remote, wanted) = used(&server);
    remote.map(&RANGE).unwrap();
    server.refuse(command::DMA_UNMAP, 22);
    remote.unmap(RANGE.iova, RANGE.bytes);
    assert_gone(&remote, &wanted, "a refused unmapping");
}

#[test]
fn interrupts_that_it_does_not_know_are_not_there() {
    let server = Hostile::new(Says::default());
    server.refuse(command::GET_IRQ_INFO, 22);
    let remote = server.connect().unwrap();
    assert_eq!(
        [0, 1, 2, 3, 4, 5].map(|index| remote.vectors(index)),
        [0, 0, 0, 0, 1, 0]
    );
    server.refuse(0, 0);
    let other = Hostile::new(Says::default());
    other.refuse(command::GET_REGION_INFO, 22);
    assert!(
        matches!(other.connect().err(), Some(RemoteError::Protocol { .. })),
        "configuration space"
    );
}

/// What is wrong with a function, and by which word the sentence tells.
type Row = (&'static str, fn(&mut Says), fn(&Lie) -> bool);

#[test]
fn a_function_that_cannot_be_is_refused() {
    let rows: [Row; 13] = [
        ("regions", |says| says.regions = 7, |lie| *lie == Lie::Regions(7)),
        (
            "no configuration space",
            |says| says.bytes[7] = 0,
            |lie| *lie == Lie::ConfigBytes(0),
        ),
        (
            "much of it",
            |says| says.bytes[7] = u64::MAX,
            |lie| *lie == Lie::ConfigBytes(u64::MAX),
        ),
        (
            "all ones",
            |says| says.config.fill(0xff),
            |lie| matches!(lie, Lie::Config(_)),
        ),
        (
            "a bridge",
            |says| says.config[0xe] = 1,
            |lie| matches!(lie, Lie::Config(_)),
        ),
        (
            "a BAR of no power of two",
            |says| says.bytes[0] = 0x1800,
            |lie| matches!(lie, Lie::Bar { bar: 0, .. }),
        ),
        (
            "a small one",
            |says| says.bytes[3] = 8,
            |lie| matches!(lie, Lie::Bar { bar: 3, .. }),
        ),
        (
            "a large one",
            |says| says.bytes[3] = 1 << 32,
            |lie| matches!(lie, Lie::Bar { bar: 3, .. }),
        ),
        (
            "one in another",
            |says| says.bytes[2] = 16,
            |lie| matches!(lie, Lie::Bar { bar: 2, .. }),
        ),
        (
            "one without an end",
            |says| (says.bytes[5], says.config[0x24]) = (1 << 20, 4),
            |lie| matches!(lie, Lie::Bar { bar: 5, .. }),
        ),
        ("a ROM", |says| says.bytes[6] = 4097, |lie| *lie == Lie::Rom(4097)),
        (
            "a table past its BAR",
            |says| says.config[0x45] = 0x10,
            |lie| {
                matches!(
                    lie,
                    Lie::MsixTable {
                        bar: 0,
                        offset: 0x1000
                    }
                )
            },
        ),
        (
            "vectors",
            |says| says.vectors[2] = 2049,
            |lie| {
                matches!(
                    lie,
                    Lie::Vectors {
                        index: 2,
                        count: 2049,
                        ..
                    }
                )
            },
        ),
    ];
    for (what, change, is) in rows {
        let mut says = Says::default();
        change(&mut says);
        match Hostile::new(says).connect().err() {
            Some(RemoteError::Lie { lie, .. }) if is(&lie) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn another_version_is_refused_and_so_is_who_is_not_there() {
    let says = Says {
        version: (1, 0),
        ..Says::default()
    };
    let server = Hostile::new(says);
    let refused = server.connect().err().unwrap().to_string();
    assert!(
        refused.contains("not a vfio-user server that can be used: VERSION"),
        "{refused}"
    );
    let nobody = server.path.with_file_name("nobody");
    let refused = Remote::connect(&nobody, common::PATIENCE).err().unwrap();
    assert!(matches!(refused, RemoteError::NotThere { .. }), "{refused}");
}
