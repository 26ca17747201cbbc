//! Interrupts: SET_IRQS by its rules, both doors, and users who work against their own eventfds.

#![allow(clippy::unwrap_used)] // a test's helpers may

mod common;
#[path = "common/contested.rs"]
mod contested;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{CONFIG, Recorder, Told, User, VECTORS, count, event, eventually, signalled};
use contested::Contested;
use uvfio_core::{IrqAction, IrqData, IrqError};
use uvfio_pci::InterruptMode;

const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
const ERR: u32 = 3;
const REQ: u32 = 4;

fn eventfds(files: &[Option<&OwnedFd>]) -> IrqData {
    IrqData::EventFd(
        files
            .iter()
            .map(|file| file.map(|file| file.try_clone().unwrap()))
            .collect(),
    )
}

/// Every interrupt of a fresh device is disabled: nothing of a refused request has stuck.
fn untouched(user: &User) -> bool {
    user.device.host().interrupt_mode() == InterruptMode::Intx
        && (0..5).all(|index| {
            let loopback = user.set_irqs(index, 0, 1, IrqAction::Trigger, IrqData::None);
            loopback == Err(IrqError::NotEnabled(index))
        })
}

#[test]
fn requests_that_break_a_rule_are_refused_and_change_nothing() {
    use IrqAction::{Mask, Trigger, Unmask};
    let user = User::awake();
    let file = event();
    let none = || IrqData::None;
    let yes = || IrqData::Bool(vec![1]);
    let one = || eventfds(&[Some(&file)]);
    let outside = |index, start, count, have| IrqError::OutOfRange {
        index,
        start,
        count,
        have,
    };
    let vectors = u32::from(VECTORS);
    for (index, start, count, action, data, expected) in [
        (5, 0, 1, Trigger, none(), IrqError::NoSuchIndex(5)),
        (u32::MAX, 0, 1, Trigger, one(), IrqError::NoSuchIndex(u32::MAX)),
        (INTX, 1, 0, Trigger, none(), outside(INTX, 1, 0, 1)),
        (INTX, 0, 2, Trigger, one(), outside(INTX, 0, 2, 1)),
        (MSI, 16, 0, Trigger, none(), outside(MSI, 16, 0, 16)),
        (MSI, 0, 17, Trigger, one(), outside(MSI, 0, 17, 16)),
        (MSI, 15, 2, Trigger, one(), outside(MSI, 15, 2, 16)),
        (
            MSIX,
            vectors,
            0,
            Trigger,
            none(),
            outside(MSIX, vectors, 0, vectors),
        ),
        (
            MSIX,
            1,
            u32::MAX,
            Trigger,
            one(),
            outside(MSIX, 1, u32::MAX, vectors),
        ),
        (ERR, 0, 2, Trigger, one(), outside(ERR, 0, 2, 1)),
        (REQ, 1, 0, Trigger, none(), outside(REQ, 1, 0, 1)),
        (INTX, 0, 1, Mask, one(), IrqError::MaskByEventFd),
        (INTX, 0, 1, Mask, none(), IrqError::NotEnabled(INTX)),
        (INTX, 0, 1, Unmask, yes(), IrqError::NotEnabled(INTX)),
        (INTX, 0, 1, Unmask, one(), IrqError::NotEnabled(INTX)),
        (MSI, 0, 1, Mask, none(), IrqError::NotMaskable(MSI)),
        (MSI, 0, 1, Unmask, one(), IrqError::NotMaskable(MSI)),
        (MSIX, 0, 1, Mask, yes(), IrqError::NotMaskable(MSIX)),
        (MSIX, 0, 1, Unmask, none(), IrqError::NotMaskable(MSIX)),
        (ERR, 0, 1, Mask, none(), IrqError::NotMaskable(ERR)),
        (REQ, 0, 1, Unmask, none(), IrqError::NotMaskable(REQ)),
        (INTX, 0, 0, Trigger, none(), IrqError::NotEnabled(INTX)),
        (MSI, 0, 0, Trigger, none(), IrqError::NotEnabled(MSI)),
        (MSIX, 0, 0, Trigger, none(), IrqError::NotEnabled(MSIX)),
        (ERR, 0, 0, Trigger, none(), IrqError::NotEnabled(ERR)),
        (INTX, 0, 1, Trigger, none(), IrqError::NotEnabled(INTX)),
        (MSI, 0, 1, Trigger, yes(), IrqError::NotEnabled(MSI)),
        (MSIX, 3, 1, Trigger, none(), IrqError::NotEnabled(MSIX)),
        (REQ, 0, 1, Trigger, yes(), IrqError::NotEnabled(REQ)),
    ] {
        let asked = format!("index {index}, {start}+{count}, {action:?}, {data:?}");
        assert_eq!(
            user.set_irqs(index, start, count, action, data),
            Err(expected),
            "{asked}"
        );
        assert!(untouched(&user), "{asked} changed something");
    }
    assert_eq!(user.device.news(), []);
}

#[test]
fn descriptors_that_are_not_eventfds_are_refused_with_their_place() {
    let user = User::awake();
    let good = event();
    let memfd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    for bad in [&memfd, &pipe, &null] {
        let refused = user.trigger(MSIX, 0, &[&good, &good, bad, &good]);
        assert_eq!(refused, Err(IrqError::NotAnEventFd(2)));
        assert!(untouched(&user));
    }
}

#[test]
fn one_kind_of_interrupt_at_a_time() {
    let user = User::awake();
    let file = event();
    for (first, others) in [(INTX, [MSI, MSIX]), (MSI, [INTX, MSIX]), (MSIX, [INTX, MSI])] {
        user.trigger(first, 0, &[&file]).unwrap();
        for wanted in others {
            let refused = user.trigger(wanted, 0, &[&file]);
            assert_eq!(
                refused,
                Err(IrqError::OtherInUse {
                    wanted,
                    in_use: first
                })
            );
            assert_eq!(user.disable(wanted), Err(IrqError::NotEnabled(wanted)));
        }
        user.trigger(ERR, 0, &[&file]).unwrap();
        user.trigger(REQ, 0, &[&file]).unwrap();
        user.disable(first).unwrap();
        assert_eq!(user.disable(first), Err(IrqError::NotEnabled(first)));
        user.disable(ERR).unwrap();
        user.disable(REQ).unwrap();
    }
    assert!(untouched(&user));
}

#[test]
fn messages_go_to_the_eventfd_of_their_vector() {
    for (index, vectors) in [(MSI, 16), (MSIX, VECTORS)] {
        let user = User::awake();
        let files: Vec<_> = (0..vectors).map(|_| event()).collect();
        user.trigger(index, 0, &files.iter().collect::<Vec<_>>()).unwrap();
        let host = user.device.host();
        for vector in 0..vectors {
            host.signal(vector);
            let counts: Vec<u64> = files.iter().map(count).collect();
            let expected: Vec<u64> = (0..vectors).map(|other| u64::from(other == vector)).collect();
            assert_eq!(counts, expected, "index {index} vector {vector}");
        }
        user.disable(index).unwrap();
        host.signal(0);
        assert_eq!(count(&files[0]), 0, "index {index}, disabled");
    }
}

#[test]
fn vectors_are_added_by_several_requests_and_taken_away_one_by_one() {
    let user = User::awake();
    let msix = user.capability(0x11) + 2;
    let files: Vec<_> = (0..16).map(|_| event()).collect();
    let all: Vec<_> = files.iter().collect();
    user.trigger(MSIX, 0, &all[..8]).unwrap();
    user.trigger(MSIX, 8, &all[8..]).unwrap();
    assert_eq!(
        user.read16(msix) & 0x8000,
        0x8000,
        "MSI-X is enabled in the register too"
    );
    let host = user.device.host();
    host.signal(3);
    host.signal(12);
    assert_eq!((count(&files[3]), count(&files[12])), (1, 1));

    // Without its eventfd a vector is masked, stays pending, and is delivered once when there is one again.
    user.set_irqs(MSIX, 3, 1, IrqAction::Trigger, eventfds(&[None]))
        .unwrap();
    assert_eq!(
        user.read::<4>(2, 0x1000 + 3 * 16 + 12),
        [1, 0, 0, 0],
        "vector 3's mask bit"
    );
    host.signal(3);
    host.signal(3);
    assert_eq!(user.read::<1>(2, 0xc00), [8], "pending bit 3");
    let other = event();
    user.trigger(MSIX, 3, &[&other]).unwrap();
    assert_eq!((signalled(&other), count(&files[3])), (1, 0));
    assert_eq!(user.read::<1>(2, 0xc00), [0]);
    host.signal(12);
    assert_eq!(count(&files[12]), 1, "the others are as they were");
}

#[test]
fn more_msi_messages_widen_what_is_granted() {
    let user = User::awake();
    let control = user.capability(5) + 2;
    let file = event();
    user.device.news();
    for (start, granted) in [(0, 1), (2, 4), (4, 8), (15, 16), (0, 16)] {
        user.trigger(MSI, start, &[&file]).unwrap();
        assert_eq!(
            1 << (user.read16(control) >> 4 & 7),
            granted,
            "after vector {start}"
        );
        assert_eq!(user.device.host().interrupt_mode(), InterruptMode::Msi(granted));
    }
    let modes = [1, 4, 8, 16].map(|n| Told::Mode(InterruptMode::Msi(n)));
    assert_eq!(user.device.news(), modes);
}

#[test]
fn eventfd_data_without_descriptors_enables_an_index_with_nobody_to_tell() {
    for (index, mode) in [(MSI, InterruptMode::Msi(4)), (MSIX, InterruptMode::MsiX(VECTORS))] {
        let user = User::awake();
        user.set_irqs(index, 0, 4, IrqAction::Trigger, IrqData::EventFd(Vec::new()))
            .unwrap();
        assert_eq!(user.device.host().interrupt_mode(), mode);
        user.device.host().signal(1);
        let file = event();
        user.trigger(index, 1, &[&file]).unwrap();
        assert_eq!(
            signalled(&file),
            1,
            "what came in between is delivered once, index {index}"
        );
        user.disable(index).unwrap();
    }
}

#[test]
fn registers_and_requests_are_two_doors_to_one_state() {
    let user = User::awake();
    let control = user.capability(0x11) + 2;
    let files = [event(), event()];
    let host = user.device.host();
    // As a guest does it: the register first, the request after, and disabled in the same order.
    user.write(CONFIG, control, &0x8000u16.to_le_bytes());
    user.trigger(MSIX, 0, &[&files[0], &files[1]]).unwrap();
    host.signal(1);
    assert_eq!(count(&files[1]), 1);
    user.write(2, 0x1000 + 16 + 12, &1u32.to_le_bytes());
    host.signal(1);
    assert_eq!(count(&files[1]), 0, "masked in the table");
    user.write(2, 0x1000 + 16 + 12, &0u32.to_le_bytes());
    assert_eq!(signalled(&files[1]), 1, "and pending");
    user.write(CONFIG, control, &0u16.to_le_bytes());
    host.signal(0);
    assert_eq!(count(&files[0]), 0, "disabled in the register");
    user.disable(MSIX).unwrap();
    user.trigger(INTX, 0, &[&files[0]]).unwrap();
}

#[test]
fn enabled_by_the_register_alone_an_index_can_be_disabled_by_request() {
    let user = User::awake();
    let control = user.capability(0x11) + 2;
    user.write(CONFIG, control, &0x8000u16.to_le_bytes());
    user.disable(MSIX).unwrap();
    assert_eq!(user.read16(control) & 0x8000, 0);
}

#[test]
fn intx_is_a_level_that_masks_itself_on_delivery() {
    let user = User::awake();
    let (line, unmask) = (event(), event());
    let host = user.device.host();
    user.trigger(INTX, 0, &[&line]).unwrap();
    user.set_irqs(INTX, 0, 1, IrqAction::Unmask, eventfds(&[Some(&unmask)]))
        .unwrap();
    host.set_intx(true);
    assert_eq!(signalled(&line), 1);
    host.set_intx(true);
    assert_eq!(count(&line), 0, "masked since its delivery");
    assert_eq!(user.read16(6) & 8, 8, "STATUS tells of it");
    assert_eq!(
        user.read16(4) & common::INTX_DISABLE,
        0,
        "the mask is not COMMAND's"
    );

    rustix::io::write(&unmask, &1u64.to_ne_bytes()).unwrap();
    assert_eq!(signalled(&line), 1, "unmasked by eventfd while asserted");
    user.set_irqs(INTX, 0, 1, IrqAction::Unmask, IrqData::None)
        .unwrap();
    assert_eq!(signalled(&line), 1, "unmasked by request while asserted");
    host.set_intx(false);
    user.set_irqs(INTX, 0, 1, IrqAction::Unmask, IrqData::Bool(vec![1]))
        .unwrap();
    user.set_irqs(INTX, 0, 1, IrqAction::Mask, IrqData::Bool(vec![0]))
        .unwrap();
    host.set_intx(true);
    assert_eq!(signalled(&line), 1, "a mask of 0 masks nothing");

    host.set_intx(false);
    user.set_irqs(INTX, 0, 1, IrqAction::Unmask, IrqData::None)
        .unwrap();
    user.set_irqs(INTX, 0, 1, IrqAction::Mask, IrqData::None).unwrap();
    host.set_intx(true);
    assert_eq!(count(&line), 0, "masked by request");
    user.set_irqs(INTX, 0, 1, IrqAction::Unmask, eventfds(&[None]))
        .unwrap();
    user.disable(INTX).unwrap();
    assert_eq!(count(&line), 0);
}

#[test]
fn triggered_by_request_an_interrupt_is_delivered_at_once() {
    let user = User::awake();
    let files = [event(), event(), event()];
    let request = |index, count, data| user.set_irqs(index, 0, count, IrqAction::Trigger, data).unwrap();
    user.trigger(MSIX, 0, &[&files[0], &files[1], &files[2]]).unwrap();
    request(MSIX, 3, IrqData::Bool(vec![1, 0, 7]));
    assert_eq!(
        (signalled(&files[0]), signalled(&files[2]), count(&files[1])),
        (1, 1, 0)
    );
    request(MSIX, 2, IrqData::None);
    assert_eq!(
        (signalled(&files[0]), signalled(&files[1]), count(&files[2])),
        (1, 1, 0)
    );
    for index in [ERR, REQ] {
        user.trigger(index, 0, &[&files[0]]).unwrap();
        request(index, 1, IrqData::None);
        assert_eq!(signalled(&files[0]), 1, "index {index}");
        request(index, 1, IrqData::Bool(vec![1]));
        assert_eq!(signalled(&files[0]), 1, "index {index}");
    }
}

#[test]
fn a_signal_from_within_a_register_write_is_delivered_by_another_thread() {
    let on_write = |host: &uvfio_core::Host, vector: u64, _| host.signal(vector as u16);
    let user = User::of(Recorder {
        on_write: Some(Box::new(on_write)),
        ..Recorder::default()
    });
    user.command(common::MEMORY | common::MASTER);
    let files: Vec<_> = (0..VECTORS).map(|_| event()).collect();
    user.trigger(MSIX, 0, &files.iter().collect::<Vec<_>>()).unwrap();
    for vector in 0..VECTORS {
        user.write(0, vector.into(), &[1]);
    }
    for (vector, file) in files.iter().enumerate() {
        assert_eq!(signalled(file), 1, "vector {vector}");
    }
}

/// A thread that does something until it is told to stop, and counts.
struct Pump {
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Pump {
    fn new(mut work: impl FnMut() -> u64 + Send + 'static) -> Self {
        let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, stopped) = (count.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                counter.fetch_add(work(), Ordering::SeqCst);
            }
        });
        Self { count, stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_user_who_blocks_the_delivery_thread_blocks_no_access_and_no_detach() {
    let on_write = |host: &uvfio_core::Host, _, _| {
        host.signal(0);
        host.signal(1);
    };
    let user = User::of(Recorder {
        on_write: Some(Box::new(on_write)),
        ..Recorder::default()
    });
    user.command(common::MEMORY | common::MASTER);
    let (hostile, good) = (Contested::new(), event());
    user.trigger(MSIX, 0, &[&hostile.file, &good]).unwrap();
    let virt = user.virt.clone();
    let accesses = Pump::new(move || {
        virt.write(0, 0, &[1]).unwrap();
        1
    });
    let others = good.try_clone().unwrap();
    let delivered = Pump::new(move || count(&others));
    hostile.until_blocked(|| ());

    let before = accesses.count.load(Ordering::SeqCst);
    eventually("accesses go on", || {
        accesses.count.load(Ordering::SeqCst) > before + 100
    });
    accesses.stop();
    user.virt.detach().unwrap();
    delivered.stop();
    drop(hostile);
    user.virt.attach(None);
    user.command(common::MEMORY | common::MASTER);
    let next = [event(), event()];
    user.trigger(MSIX, 0, &[&next[0], &next[1]]).unwrap();
    user.write(0, 0, &[1]);
    assert_eq!(
        (signalled(&next[0]), signalled(&next[1])),
        (1, 1),
        "the next user's interrupts are delivered"
    );
}

#[test]
fn a_user_who_keeps_an_eventfd_full_of_which_a_reset_delivers_blocks_no_reset_and_no_detach() {
    let user = User::awake();
    let (hostile, good) = (Contested::new(), event());
    user.trigger(MSIX, 0, &[&hostile.file, &good]).unwrap();
    let (virt, device, host) = (user.virt.clone(), user.device.clone(), user.device.host());
    let resets = Pump::new(move || {
        device.hold();
        let _under_way = virt.reset(Duration::ZERO).unwrap();
        host.signal_nowait(0);
        host.signal_nowait(1);
        device.release();
        virt.settle();
        1
    });
    let others = good.try_clone().unwrap();
    let delivered = Pump::new(move || count(&others));
    hostile.until_blocked(|| ());
    assert_eq!(
        user.virt.reset(Duration::from_secs(10)).unwrap(),
        uvfio_core::ResetProgress::Done
    );
    resets.stop();
    user.virt.detach().unwrap();
    delivered.stop();
}

#[test]
fn a_device_thread_blocked_in_a_full_eventfd_is_let_out_when_the_eventfd_is_taken_away() {
    for by_detach in [false, true] {
        let user = User::awake();
        let hostile = Contested::new();
        user.trigger(MSIX, 0, &[&hostile.file]).unwrap();
        let host = user.device.host();
        let device = Pump::new(move || {
            host.signal(0);
            1
        });
        hostile.until_blocked(|| ());
        if by_detach {
            user.virt.detach().unwrap();
        } else {
            user.disable(MSIX).unwrap();
        }
        let before = device.count.load(Ordering::SeqCst);
        eventually("the device's thread goes on", || {
            device.count.load(Ordering::SeqCst) > before
        });
        device.stop();
    }
}

#[test]
fn a_user_who_blocks_a_thread_cannot_keep_its_device_from_being_taken_away() {
    let user = User::awake();
    let (hostile, error) = (Contested::new(), event());
    user.trigger(MSIX, 0, &[&hostile.file]).unwrap();
    user.trigger(ERR, 0, &[&error]).unwrap();
    let host = user.device.host();
    let device = Pump::new(move || {
        host.signal(0);
        1
    });
    hostile.until_blocked(|| ());
    user.virt.gone(uvfio_core::GoneReason::Revoked, true);
    assert_eq!(signalled(&error), 1);
    device.stop();
}

#[test]
fn irq_info_tells_what_the_function_declares() {
    let user = User::new();
    let info = |index| {
        user.virt
            .irq_info(index)
            .map(|i| (i.count, i.eventfd, i.maskable, i.automasked, i.noresize))
    };
    assert_eq!(info(INTX), Ok((1, true, true, true, false)));
    assert_eq!(info(MSI), Ok((16, true, false, false, true)));
    assert_eq!(info(MSIX), Ok((VECTORS.into(), true, false, false, false)));
    assert_eq!(info(ERR), Ok((1, true, false, false, false)));
    assert_eq!(info(REQ), Ok((1, true, false, false, false)));
    assert_eq!(info(5), Err(IrqError::NoSuchIndex(5)));
}
