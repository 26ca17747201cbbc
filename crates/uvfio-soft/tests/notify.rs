//! The doorbell device as its user sees it, through a virtual device.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use uvfio_core::{
    GoneReason, IrqAction, IrqData, IrqIndex, Policy, ResetProgress, SetIrqs, VirtualDevice,
    region_index::CONFIG,
};
use uvfio_soft::notify::{COUNT, DOORBELL, Notify};

const PATIENCE: Duration = Duration::from_secs(10);

struct User {
    device: Arc<VirtualDevice>,
    message: OwnedFd,
}

impl User {
    fn new() -> Self {
        let device = VirtualDevice::new(Notify::new(), &Policy::default()).expect("a virtual device");
        Self::arrive(device)
    }

    /// A user of the device, with memory on and an eventfd for its message.
    fn arrive(device: Arc<VirtualDevice>) -> Self {
        device.attach(None);
        device.write(CONFIG, 0x04, &[0x06, 0]).expect("COMMAND");
        let message = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        let file = message.as_fd().try_clone_to_owned().expect("a duplicate");
        device
            .set_irqs(SetIrqs {
                index: IrqIndex::MsiX as u32,
                action: IrqAction::Trigger,
                start: 0,
                count: 1,
                data: IrqData::EventFd(vec![Some(file)]),
            })
            .expect("SET_IRQS");
        Self { device, message }
    }

    fn doorbell(&self) -> Arc<OwnedFd> {
        let doorbells = self.device.doorbells(0).expect("BAR 0 is there");
        let [doorbell] = doorbells.as_slice() else {
            panic!("expected one doorbell got {doorbells:?}");
        };
        assert_eq!(
            (doorbell.offset, doorbell.width, doorbell.value),
            (DOORBELL, None, None)
        );
        Arc::clone(&doorbell.eventfd)
    }

    fn ring(&self, times: u64) {
        rustix::io::write(&*self.doorbell(), &times.to_ne_bytes()).expect("there is room");
    }

    fn count(&self) -> u32 {
        let mut data = [0; 4];
        self.device.read(0, COUNT, &mut data).expect("COUNT");
        u32::from_le_bytes(data)
    }

    fn await_count(&self, count: u32) {
        let start = Instant::now();
        while self.count() != count {
            assert!(
                start.elapsed() < PATIENCE,
                "COUNT: expected {count} got {}",
                self.count()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether a message comes within the time, which is then taken.
    fn message(&self, within: Duration) -> bool {
        let within = Timespec::try_from(within).expect("a time");
        let mut ready = [PollFd::new(&self.message, PollFlags::IN)];
        poll(&mut ready, Some(&within)).expect("poll") > 0
            && rustix::io::read(&self.message, &mut [0; 8]).is_ok()
    }
}

#[test]
fn stores_of_any_width_ring_it_and_are_answered() {
    let user = User::new();
    for (rung, width) in [1, 2, 4, 8].into_iter().enumerate() {
        user.device
            .write(0, DOORBELL, &vec![0xff; width])
            .expect("a store");
        assert!(user.message(PATIENCE), "{width} bytes");
        assert_eq!(user.count(), rung as u32 + 1, "{width} bytes");
    }
    let mut data = [1; 4];
    user.device.read(0, DOORBELL, &mut data).expect("a load");
    assert_eq!(data, [0; 4], "DOORBELL reads 0");
}

#[test]
fn rings_by_eventfd_are_counted_with_those_by_message() {
    let user = User::new();
    user.ring(3);
    assert!(user.message(PATIENCE));
    assert_eq!(
        user.count(),
        3,
        "COUNT has the rings before their message is sent"
    );
    user.device.write(0, DOORBELL, &[0; 4]).expect("a store");
    assert_eq!(user.count(), 4);
}

#[test]
fn a_reset_forgets_what_was_rung_and_the_doorbell_stays() {
    let user = User::new();
    user.ring(5);
    user.await_count(5);
    assert_eq!(user.device.reset(PATIENCE).expect("a reset"), ResetProgress::Done);
    assert_eq!(user.count(), 0);
    while user.message(Duration::ZERO) {}
    user.ring(1);
    assert!(user.message(PATIENCE));
    assert_eq!(user.count(), 1);
}

#[test]
fn the_next_user_has_another_doorbell() {
    let first = User::new();
    let old = first.doorbell();
    first.ring(2);
    first.await_count(2);
    first.device.detach().expect("it comes back");
    let next = User::arrive(Arc::clone(&first.device));
    rustix::io::write(&*old, &7_u64.to_ne_bytes()).expect("there is room");
    assert!(!next.message(Duration::from_millis(50)), "the former user rang");
    next.ring(1);
    next.await_count(1);
}

#[test]
fn a_device_that_is_gone_has_no_doorbell() {
    let user = User::new();
    let old = user.doorbell();
    user.device.gone(GoneReason::Revoked, false);
    assert!(user.device.doorbells(0).expect("BAR 0 is there").is_empty());
    rustix::io::write(&*old, &1_u64.to_ne_bytes()).expect("there is room");
    assert!(!user.message(Duration::from_millis(50)));
}

#[test]
fn only_bar_0_has_doorbells() {
    let user = User::new();
    for region in 1..=8 {
        assert!(
            user.device.doorbells(region).expect("a region").is_empty(),
            "region {region}"
        );
    }
    assert!(user.device.doorbells(9).is_err());
}
