//! From one user to the next: resets that take their time, devices that go away, users who leave.

#![allow(clippy::unwrap_used)] // a test's helpers may

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{CONFIG, IO, MASTER, MEMORY, Recorder, Told, User, count, event, eventually, signalled};
use rustix::fs::MemfdFlags;
use uvfio_core::{
    Backing, DmaAccess, DmaError, DmaMap, DmaMessages, DmaTicket, GoneReason, IrqAction, IrqData, Policy,
    ResetProgress, VirtualDevice, region_index,
};
use uvfio_pci::{InterruptMode, ResetKind};

const PATIENCE: Duration = Duration::from_secs(10);
const NONE: Duration = Duration::ZERO;

fn memory() -> DmaMap {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&file, 0x1000).unwrap();
    DmaMap {
        iova: 0,
        bytes: 0x1000,
        access: DmaAccess::READ | DmaAccess::WRITE,
        backing: Some(Backing { file, offset: 0 }),
    }
}

#[test]
fn a_reset_by_request_keeps_the_configuration_and_reaches_the_device() {
    let user = User::awake();
    let line = event();
    user.trigger(2, 0, &[&line]).unwrap();
    user.device.news();
    assert_eq!(user.virt.reset(PATIENCE).unwrap(), ResetProgress::Done);
    assert_eq!(
        user.device.news(),
        [
            Told::BusMaster(false),
            Told::Reset(ResetKind::FunctionLevel),
            Told::BusMaster(true)
        ]
    );
    assert_eq!(user.read16(common::COMMAND) & 7, IO | MEMORY | MASTER);
    user.device.host().signal(0);
    assert_eq!(signalled(&line), 1, "the eventfd is attached as before");
}

#[test]
fn a_device_is_told_after_a_reset_of_the_memory_that_its_user_has_switched_off_meanwhile() {
    let user = User::awake();
    user.command(MEMORY);
    assert_eq!(user.device.memory.lock().unwrap().last(), Some(&true));
    user.device.hold();
    assert_eq!(user.virt.reset(NONE).unwrap(), ResetProgress::UnderWay);
    user.device.wait_until_resetting();
    user.command(0);
    user.device.release();
    user.virt.settle();
    assert_eq!(user.device.memory.lock().unwrap().last(), Some(&false));
}

#[test]
fn a_device_that_cannot_be_reset_refuses_its_user_a_reset_and_goes_on() {
    let user = User::of(Recorder {
        unresettable: true,
        ..Recorder::default()
    });
    user.command(IO | MEMORY | MASTER);
    user.device.news();
    assert!(!user.virt.resettable());
    let error = user.virt.reset(PATIENCE).unwrap_err();
    assert!(error.what.contains("no way to reset"), "{error}");
    assert_eq!(user.device.news(), [], "it is told of nothing");
    assert!(!user.virt.is_gone());
    assert_eq!(user.read16(common::COMMAND) & 7, IO | MEMORY | MASTER);
}

#[test]
fn while_a_reset_takes_its_time_accesses_are_answered_without_the_device() {
    let user = User::awake();
    user.device.hold();
    assert_eq!(user.virt.reset(NONE).unwrap(), ResetProgress::UnderWay);
    user.device.wait_until_resetting();
    user.device.news();
    assert_eq!(user.read::<4>(0, 0), [0xff; 4]);
    user.write(0, 0, &[1]);
    assert_eq!(user.read16(0), 0x1234, "configuration space answers");
    assert!(!user.virt.dma().enabled());
    assert_eq!(
        user.virt.reset(NONE).unwrap(),
        ResetProgress::UnderWay,
        "a second one joins the first"
    );
    user.virt.dma_map(memory()).unwrap();
    user.virt.dma_unmap(0, 0x1000).unwrap();
    assert_eq!(user.device.news(), []);
    user.device.release();
    assert_eq!(user.virt.reset(PATIENCE).unwrap(), ResetProgress::Done);
    assert_eq!(user.read::<4>(0, 0), [0, 1, 2, 3]);
}

#[test]
fn flr_by_register_does_not_wait_for_the_device() {
    let user = User::awake();
    user.device.hold();
    let control = user.capability(0x10) + 8;
    user.write(CONFIG, control, &0x8000u16.to_le_bytes());
    user.device.wait_until_resetting();
    assert_eq!(user.read::<1>(0, 0), [0xff]);
    assert_eq!(user.read16(control) & 0x8000, 0, "the bit reads 0");
    user.device.release();
    eventually("the device answers again", || user.read::<1>(0, 0) == [0]);
    assert_eq!(
        user.read16(common::COMMAND) & 7,
        IO | MEMORY | MASTER,
        "configuration is as the user had it"
    );
}

#[test]
fn transactions_are_pending_until_the_device_has_its_users_settings_again() {
    const PENDING: u16 = 1 << 5;
    let user = User::awake();
    let express = user.capability(0x10);
    let (control, status) = (express + 8, express + 10);
    // What the user reads while the device is told to master the bus again.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (virt, reads) = (Arc::downgrade(&user.virt), seen.clone());
    *user.device.on_bus_master.lock().unwrap() = Some(Box::new(move |on| {
        // Once more when the user leaves.
        let Some(virt) = virt.upgrade() else { return };
        let (mut pending, mut register) = ([0; 2], [0; 4]);
        virt.read(CONFIG, status, &mut pending).unwrap();
        virt.read(0, 0x10, &mut register).unwrap();
        let pending = u16::from_le_bytes(pending) & PENDING;
        reads.lock().unwrap().push((on, pending, register));
    }));
    user.write(CONFIG, control, &0x8000u16.to_le_bytes());
    eventually("no transaction is pending", || user.read16(status) & PENDING == 0);
    assert_eq!(
        *seen.lock().unwrap(),
        [(false, PENDING, [0xff; 4]), (true, PENDING, [0xff; 4])]
    );
    assert_eq!(
        user.read::<4>(0, 0x10),
        [0x10, 0x11, 0x12, 0x13],
        "it answers again"
    );
}

#[test]
fn a_device_that_does_not_come_back_from_a_reset_is_gone() {
    let user = User::awake();
    user.device.fail_resets();
    let error = user.virt.reset(PATIENCE).unwrap_err();
    assert_eq!(error.to_string(), "recorder: it burnt down");
    assert_eq!(
        user.virt.gone_reason(),
        Some(GoneReason::Failed("it burnt down".into()))
    );
    assert_eq!(user.read::<4>(CONFIG, 0), [0xff; 4]);
    assert_eq!(
        user.virt.reset(PATIENCE).unwrap(),
        ResetProgress::Done,
        "acknowledged"
    );
}

#[test]
fn a_gone_device_answers_everything_and_holds_nothing() {
    let user = User::awake();
    let (line, error, request) = (event(), event(), event());
    user.trigger(2, 0, &[&line]).unwrap();
    user.trigger(3, 0, &[&error]).unwrap();
    user.trigger(4, 0, &[&request]).unwrap();
    user.virt.dma_map(memory()).unwrap();
    user.virt.request_removal();
    assert_eq!(signalled(&request), 1);
    let host = user.device.host();
    user.device.news();

    user.virt.gone(GoneReason::Revoked, true);
    assert_eq!(signalled(&error), 1, "ERR, as was asked for");
    assert_eq!(
        user.device.news(),
        [Told::BusMaster(false), Told::Mode(InterruptMode::Intx)]
    );
    assert!(user.virt.is_gone());

    for region in [0, 1, 2, 4, region_index::ROM, CONFIG] {
        user.write(region, 0, &[0; 16]);
        assert_eq!(user.read::<16>(region, 0), [0xff; 16], "region {region}");
    }
    assert!(user.virt.read(CONFIG, 4096, &mut [0]).is_err(), "still outside");
    assert_eq!(user.virt.region_info(0).unwrap().bytes, 0x1000, "info as before");
    assert_eq!(
        user.virt.irq_info(2).unwrap().count,
        common::VECTORS.into(),
        "info as before"
    );

    host.signal(0);
    assert_eq!(count(&line), 0);
    assert!(host.dma().read(0, &mut [0]).is_err());
    assert_eq!(user.virt.dma().usage(), uvfio_core::DmaUsage::default());

    // Also what a device that is there refuses: there is nothing any more that it could harm.
    for (iova, bytes) in [(0, 0x1000), (1, 1), (0x1000, 0), (u64::MAX, u64::MAX)] {
        assert_eq!(
            user.virt.dma_unmap(iova, bytes),
            Ok(0),
            "an unmap of {bytes:#x} bytes at {iova:#x}"
        );
    }
    for (iova, bytes) in [(1, 1), (0x1000, 0), (u64::MAX, u64::MAX)] {
        let map = DmaMap {
            iova,
            bytes,
            access: DmaAccess::empty(),
            backing: None,
        };
        assert_eq!(
            user.virt.dma_map(map),
            Ok(()),
            "a map of {bytes:#x} bytes at {iova:#x}"
        );
    }
    for (index, start, count) in [(2, 0, 5000), (1, 99, 1), (77, 0, 1)] {
        assert_eq!(
            user.set_irqs(index, start, count, IrqAction::Mask, IrqData::None),
            Ok(()),
            "SET_IRQS of {count} vectors from {start} of index {index}"
        );
    }

    // Acknowledged, and the descriptors are closed: an eventfd of which only the user has a copy has no writer.
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    user.virt
        .dma_map(DmaMap {
            backing: Some(Backing {
                file: theirs,
                offset: 0,
            }),
            ..memory()
        })
        .unwrap();
    let end = |fd: &std::os::fd::OwnedFd| rustix::io::read(fd, &mut [0; 1]) == Ok(0);
    assert!(end(&ours), "end of file, since nobody holds the other end");
    let (ours, theirs) = rustix::pipe::pipe().unwrap();
    user.set_irqs(2, 0, 1, IrqAction::Trigger, IrqData::EventFd(vec![Some(theirs)]))
        .unwrap();
    assert!(end(&ours), "end of file, since nobody holds the other end");
    assert_eq!(user.virt.dma_unmap(0, 0x1000), Ok(0));
    assert_eq!(user.virt.reset(PATIENCE).unwrap(), ResetProgress::Done);
    user.virt.set_bus_master(true);
    assert_eq!(user.virt.dma().usage(), uvfio_core::DmaUsage::default());
    assert_eq!(user.device.news(), []);
    user.virt.detach().unwrap();
    assert!(user.virt.is_gone(), "for good");
}

#[test]
fn a_reset_under_way_ends_its_wait_when_the_device_goes() {
    let user = Arc::new(User::awake());
    user.device.hold();
    let waiting = {
        let user = user.clone();
        std::thread::spawn(move || user.virt.reset(Duration::MAX))
    };
    user.device.wait_until_resetting();
    user.virt.gone(GoneReason::Unplugged, false);
    assert_eq!(waiting.join().unwrap().unwrap(), ResetProgress::Done);
    user.device.release();
}

#[test]
fn the_next_user_finds_a_device_as_at_power_on() {
    let user = User::awake();
    let line = event();
    let page: [u8; 4096] = User::new().read(CONFIG, 0);
    user.write(CONFIG, 0x10, &[0xff; 4]);
    user.write(CONFIG, 0x3c, &[11]);
    user.trigger(1, 0, &[&line]).unwrap();
    user.virt.dma_map(memory()).unwrap();
    let host = user.device.host();
    user.device.news();
    user.virt.detach().unwrap();
    assert_eq!(
        user.device.news(),
        [
            Told::BusMaster(false),
            Told::Mode(InterruptMode::Intx),
            Told::Reset(ResetKind::Conventional),
            Told::Detach
        ]
    );
    assert_eq!(user.virt.dma().usage(), uvfio_core::DmaUsage::default());
    host.signal(0);
    assert_eq!(count(&line), 0);

    user.virt.attach(None);
    assert_eq!(user.device.news(), [Told::Attach]);
    assert!(
        user.read::<4096>(CONFIG, 0) == page,
        "configuration space is as at power-on"
    );
    user.command(MEMORY | MASTER);
    user.trigger(2, 0, &[&line]).unwrap();
    user.device.host().signal(0);
    assert_eq!(signalled(&line), 1);
}

#[test]
fn a_device_that_hangs_when_its_user_leaves_gets_no_other() {
    let user = User::awake();
    user.device.hold();
    let error = user.virt.detach_within(Duration::from_millis(50)).unwrap_err();
    assert!(error.what.contains("did not come back"), "{error}");
    assert!(user.virt.is_gone());
    user.device.news();
    user.virt.attach(None);
    assert_eq!(user.device.news(), [], "the device hears nothing of the next one");
    assert_eq!(user.read::<2>(CONFIG, 0), [0xff; 2]);
    user.device.release();
}

#[test]
fn a_device_without_a_user_needs_no_detach_and_ends_its_threads() {
    let device = Arc::new(Recorder::default());
    let virt = VirtualDevice::new(device.clone(), &Policy::default()).unwrap();
    virt.detach().unwrap();
    drop(virt);
    assert_eq!(device.news(), []);
    eventually("the threads let go of the device", || {
        Arc::strong_count(&device) == 1
    });
}

#[test]
fn a_dropped_virtual_device_has_detached_its_user() {
    let User { device, virt } = User::awake();
    device.news();
    drop(virt);
    assert!(
        device
            .news()
            .ends_with(&[Told::Reset(ResetKind::Conventional), Told::Detach])
    );
    eventually("the threads let go of the device", || {
        Arc::strong_count(&device) == 1
    });
}

#[test]
fn a_refused_range_holds_dma_back_until_a_reset() {
    let policy = Policy {
        max_mapped_bytes: 0,
        ..Policy::default()
    };
    let device = Arc::new(Recorder::default());
    let virt = VirtualDevice::new(device, &policy).unwrap();
    virt.attach(None);
    virt.set_bus_master(true);
    assert!(virt.dma_map(memory()).is_err());
    assert!(!virt.dma().enabled());
    virt.reset(PATIENCE).unwrap();
    assert!(virt.dma().enabled());
}

/// A user who answers only between its requests, as one does whose answers come on the socket that its requests
/// come on.
#[derive(Debug, Default)]
struct Deaf {
    state: std::sync::Mutex<u64>,
    changed: std::sync::Condvar,
}

impl Deaf {
    fn wait(&self, iova: u64) -> Result<(), DmaError> {
        let mut state = self.state.lock().unwrap();
        let before = *state;
        self.changed.notify_all();
        while *state == before {
            state = self.changed.wait(state).unwrap();
        }
        Err(DmaError::Message {
            iova,
            why: "abandoned",
        })
    }
}

impl DmaMessages for Deaf {
    fn read(&self, _ticket: DmaTicket, iova: u64, _data: &mut [u8]) -> Result<(), DmaError> {
        self.wait(iova)
    }

    fn write(&self, _ticket: DmaTicket, iova: u64, _data: &[u8]) -> Result<(), DmaError> {
        self.wait(iova)
    }

    fn abandon(&self) {
        *self.state.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

#[test]
fn a_reset_waits_for_no_answer_of_the_users() {
    let device = Arc::new(Recorder::default());
    let virt = VirtualDevice::new(device.clone(), &Policy::default()).unwrap();
    virt.attach(Some(Arc::new(Deaf::default())));
    virt.set_bus_master(true);
    virt.dma_map(DmaMap {
        backing: None,
        ..memory()
    })
    .unwrap();
    let host = device.host();
    // The device's reset waits for the thread that is at DMA, as devices do.
    device.hold();
    let dma = {
        let (host, device) = (host.clone(), device.clone());
        std::thread::spawn(move || {
            while host.dma().read(0, &mut [0; 4]) != Err(DmaError::BusMasterOff { iova: 0 }) {}
            device.release();
        })
    };
    assert_eq!(virt.reset(Duration::MAX).unwrap(), ResetProgress::Done);
    dma.join().unwrap();
}

#[test]
fn dma_by_message_from_the_front_ends_thread_is_refused_at_once() {
    let on_write = |host: &uvfio_core::Host, _, _| {
        let refused = host.dma().read(0, &mut [0; 4]);
        assert!(
            matches!(refused, Err(DmaError::Message { iova: 0, .. })),
            "{refused:?}"
        );
    };
    let device = Arc::new(Recorder {
        on_write: Some(Box::new(on_write)),
        ..Recorder::default()
    });
    let virt = VirtualDevice::new(device, &Policy::default()).unwrap();
    virt.attach(Some(Arc::new(Deaf::default())));
    virt.dma_map(DmaMap {
        backing: None,
        ..memory()
    })
    .unwrap();
    virt.write(CONFIG, common::COMMAND, &[7, 0]).unwrap();
    virt.write(0, 0, &[1]).unwrap();
}

#[test]
fn restored_registers_go_with_the_eventfds_that_there_are() {
    for before in [false, true] {
        let user = User::awake();
        let [old, new] = [event(), event()];
        user.trigger(2, 3, &[&old]).unwrap();
        let saved = user.virt.save();
        user.virt.detach().unwrap();
        user.virt.attach(None);
        if before {
            user.trigger(2, 3, &[&new]).unwrap();
            user.trigger(2, 4, &[&new]).unwrap();
        }
        user.virt.restore(saved).unwrap();
        let host = user.device.host();
        host.signal(3);
        if !before {
            user.trigger(2, 3, &[&new]).unwrap();
        }
        assert_eq!(signalled(&new), 1, "vector 3, attached before: {before}");
        // Masked, as it was saved: its eventfd was attached to another user's registers.
        host.signal(4);
        user.virt.detach().unwrap();
        assert_eq!((count(&old), count(&new)), (0, 0), "attached before: {before}");
    }
}

#[test]
fn a_state_in_the_midst_of_a_reset_is_not_restored() {
    let user = User::awake();
    user.device.hold();
    user.virt.reset(NONE).unwrap();
    let midst = user.virt.snapshot();
    user.device.release();
    let saved = user.virt.save();
    assert!(user.virt.restore(midst).is_err());
    user.virt.restore(saved).unwrap();
    assert_eq!(user.read::<1>(0, 0), [0]);
}
