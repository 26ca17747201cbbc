//! A user who works against its own eventfds, and the one who comes after it.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use uvfio_core::{ResetProgress, region_index};
use uvfio_pci::{BarSpan, Capability};

use self::contested::{Contested, empty};
use super::*;

#[path = "../../../../../uvfio-core/tests/common/contested.rs"]
mod contested;

/// Longer than anything here takes that comes back at all.
const PATIENCE: Duration = Duration::from_secs(10);

const TABLE: &[Capability<'static>] = &[Capability::MsiX {
    vectors: 2,
    table: BarSpan { bar: 0, offset: 0 },
    pba: BarSpan {
        bar: 0,
        offset: 0x800,
    },
}];

/// A function with MSI-X that does with its interrupts what [`super::super::super::Hardware`] does.
#[derive(Debug)]
struct Function {
    interrupts: Interrupts,
    routes: Mutex<Routes>,
}

impl Device for Function {
    fn name(&self) -> &'static str {
        "function"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[0] = Bar::Memory32 {
            bytes: 0x1000,
            prefetchable: false,
        };
        Blueprint {
            bars,
            capabilities: TABLE,
            ..blueprint()
        }
    }

    fn attach(&self, host: Host) {
        self.interrupts.attach(host);
    }

    fn detach(&self) {
        self.interrupts.silence();
        self.interrupts.detach();
    }

    fn read(&self, _bar: u8, _offset: u64, _width: Width) -> u64 {
        0
    }

    fn write(&self, _bar: u8, _offset: u64, _width: Width, _value: u64) {}

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        self.interrupts.silence();
        self.interrupts.set(&self.routes.lock().unwrap(), true);
        Ok(())
    }

    fn direct_interrupts(&self) -> bool {
        true
    }

    fn routes_changed(&self, routes: &Routes) {
        *self.routes.lock().unwrap() = routes.clone();
        self.interrupts.set(routes, true);
    }
}

/// A new user of a function, with these eventfds for its vectors.
fn come(device: &VirtualDevice, eventfds: [&OwnedFd; 2]) {
    device.attach(None);
    let memory_and_bus_master = 0b110_u16;
    device
        .write(region_index::CONFIG, 4, &memory_and_bus_master.to_le_bytes())
        .unwrap();
    let request = SetIrqs {
        index: IrqIndex::MsiX as u32,
        start: 0,
        count: 2,
        action: IrqAction::Trigger,
        data: IrqData::EventFd(eventfds.map(|file| Some(file.try_clone().unwrap())).into()),
    };
    device.set_irqs(request).unwrap();
}

fn mask(device: &VirtualDevice, vector: u64, masked: bool) {
    let control = u32::from(masked).to_le_bytes();
    device.write(0, 16 * vector + 12, &control).unwrap();
}

fn blocking_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

/// Waits for an eventfd to be signalled, and says how often it was.
fn signalled(file: &OwnedFd) -> u64 {
    let patience = Timespec {
        tv_sec: PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut ready = [PollFd::new(file, PollFlags::IN)];
    assert_eq!(poll(&mut ready, Some(&patience)), Ok(1), "no interrupt came");
    empty(file)
}

#[test]
fn a_user_who_keeps_its_eventfd_full_holds_up_no_reset_no_detach_and_no_next_user() {
    let function = Arc::new(Function {
        interrupts: interrupts_of(2).0,
        routes: Mutex::default(),
    });
    let device = VirtualDevice::new(function.clone(), &Policy::default()).unwrap();
    let fire = |vector| function.interrupts.latches.fire(vector);
    for lease in 0..3 {
        let (hostile, other) = (Contested::new(), blocking_eventfd());
        come(&device, [&hostile.file, &other]);
        hostile.until_blocked(|| fire(0));
        for _ in 0..100 {
            mask(&device, 0, true);
            fire(0);
            fire(1);
            mask(&device, 0, false);
        }
        assert_eq!(
            device.reset(PATIENCE).unwrap(),
            ResetProgress::Done,
            "lease {lease}"
        );
        assert!(hostile.blocks(), "lease {lease}: nobody has let the thread go");
        fire(0);
        fire(1);
        device.detach_within(PATIENCE).unwrap();

        let next = [blocking_eventfd(), blocking_eventfd()];
        come(&device, [&next[0], &next[1]]);
        let comes_once = |vector: usize| {
            mask(&device, vector as u64, true);
            fire(vector);
            mask(&device, vector as u64, false);
            assert_eq!(signalled(&next[vector]), 1, "lease {lease}, vector {vector}");
        };
        comes_once(1);
        drop(hostile);
        comes_once(0);
        comes_once(1);
        assert_eq!([empty(&next[0]), empty(&next[1])], [0; 2], "of the user before");
        device.detach_within(PATIENCE).unwrap();
    }
}
