//! Interrupts that a device takes to the user itself: where it is told to take them, and that nothing is lost or doubled
//! whatever becomes of a vector meanwhile. The device here is one as the kernel and hardware would be: it signals the
//! user's eventfd where it was told one, and tells the model where it was not.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers may

mod common;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    CONFIG, INTX_DISABLE, IO, MASTER, MEMORY, Recorder, Told, User, VECTORS, count, event, eventually,
    signalled,
};
use proptest::prelude::*;
use uvfio_core::{GoneReason, IrqAction, IrqData, Routes};
use uvfio_pci::InterruptMode;

const INTX: u32 = 0;
const MSI: u32 = 1;
const MSIX: u32 = 2;
/// In BAR 2.
const TABLE: u64 = 0x1000;
const ON: u16 = IO | MEMORY | MASTER;

fn direct() -> User {
    let user = User::of(Recorder {
        direct: true,
        ..Recorder::default()
    });
    user.command(ON);
    assert_eq!(user.device.news(), [Told::BusMaster(true)]);
    user
}

impl User {
    fn routes(&self) -> Routes {
        self.device.routes.lock().unwrap().clone()
    }

    /// The vectors that go to an eventfd.
    fn open(&self) -> Vec<usize> {
        let routes = self.routes();
        (0..routes.vectors.len())
            .filter(|vector| routes.vectors[*vector].is_some())
            .collect()
    }

    /// The hardware sends a message. The lock is held as the kernel waits for handlers that run.
    fn fire(&self, vector: u16) {
        let routes = self.device.routes.lock().unwrap();
        match routes.vectors.get(usize::from(vector)) {
            Some(Some(eventfd)) => {
                rustix::io::write(eventfd.as_fd(), &1_u64.to_ne_bytes()).unwrap();
            }
            _ => {
                drop(routes);
                self.device.host().signal(vector);
            }
        }
    }

    fn mask(&self, vector: u16, on: bool) {
        self.write(
            2,
            TABLE + 16 * u64::from(vector) + 12,
            &u32::from(on).to_le_bytes(),
        );
    }

    fn control(&self, enable: bool, function_mask: bool) {
        let at = self.capability(0x11) + 2;
        let value = u16::from(enable) << 15 | u16::from(function_mask) << 14;
        self.write(CONFIG, at, &value.to_le_bytes());
    }

    fn pending(&self) -> u64 {
        u64::from_le_bytes(self.read(2, 0xc00))
    }

    fn set_line(&self, action: IrqAction, data: IrqData) {
        self.set_irqs(INTX, 0, 1, action, data).unwrap();
    }
}

#[test]
fn a_vector_is_open_when_nothing_stands_between_it_and_its_eventfd() {
    let user = direct();
    let files = [event(), event(), event()];
    user.trigger(MSIX, 3, &files.each_ref()).unwrap();
    assert_eq!(user.routes().mode, InterruptMode::MsiX(VECTORS));
    assert_eq!(user.routes().vectors.len(), usize::from(VECTORS));
    assert_eq!(user.open(), [3, 4, 5]);
    user.mask(4, true);
    assert_eq!(user.open(), [3, 5]);
    user.control(true, true);
    assert_eq!(user.open(), []);
    user.control(true, false);
    user.mask(4, false);
    user.command(IO | MEMORY);
    assert_eq!(user.open(), []);
    user.command(ON);
    assert_eq!(user.open(), [3, 4, 5]);
    user.set_irqs(MSIX, 4, 1, IrqAction::Trigger, IrqData::EventFd(vec![None]))
        .unwrap();
    assert_eq!(user.open(), [3, 5]);
    user.control(false, false);
    assert_eq!(user.routes(), Routes::default());
    user.control(true, false);
    assert_eq!(user.open(), [3, 5]);

    user.device.hold();
    let reset = user.virt.reset(Duration::ZERO).unwrap();
    assert_eq!(reset, uvfio_core::ResetProgress::UnderWay);
    assert_eq!(user.open(), [], "while a reset is under way");
    user.device.release();
    eventually("the vectors are open again", || user.open() == [3, 5]);
}

#[test]
fn another_vector_leaves_the_others_as_they_were() {
    let user = direct();
    user.trigger(MSIX, 0, &[&event()]).unwrap();
    let before = user.routes();
    user.trigger(MSIX, 1, &[&event()]).unwrap();
    let after = user.routes();
    assert_eq!(user.open(), [0, 1]);
    assert_eq!(before.vectors[0], after.vectors[0]);
    user.trigger(MSIX, 0, &[&event()]).unwrap();
    assert_ne!(after.vectors[0], user.routes().vectors[0], "an exchange is told");
}

#[test]
fn bus_mastering_goes_off_before_the_vectors_and_on_after_them() {
    let user = direct();
    user.trigger(MSIX, 0, &[&event()]).unwrap();
    user.device.news();
    user.command(IO | MEMORY);
    assert_eq!(user.device.news(), [Told::BusMaster(false), Told::Routes]);
    user.command(ON);
    assert_eq!(user.device.news(), [Told::Routes, Told::BusMaster(true)]);
}

#[test]
fn msi_follows_the_number_of_messages_granted() {
    let user = direct();
    let files = [event(), event(), event()];
    user.trigger(MSI, 0, &files.each_ref()).unwrap();
    assert_eq!(user.routes().mode, InterruptMode::Msi(4));
    assert_eq!(user.open(), [0, 1, 2]);
    user.disable(MSI).unwrap();
    assert_eq!(user.routes(), Routes::default());
}

#[test]
fn of_a_user_who_leaves_or_loses_its_device_no_eventfd_is_kept() {
    for gone in [false, true] {
        let user = direct();
        user.trigger(MSIX, 0, &[&event()]).unwrap();
        assert_eq!(user.open(), [0]);
        if gone {
            user.virt.gone(GoneReason::Revoked, false);
        } else {
            user.virt.detach().unwrap();
        }
        assert_eq!(user.routes(), Routes::default());
    }
}

#[test]
fn a_device_that_leaves_its_interrupts_to_the_model_is_told_of_no_routes() {
    let user = User::awake();
    user.trigger(MSIX, 0, &[&event()]).unwrap();
    user.mask(0, true);
    user.disable(MSIX).unwrap();
    user.trigger(INTX, 0, &[&event()]).unwrap();
    user.set_line(IrqAction::Unmask, IrqData::None);
    let told = user.device.news();
    assert!(told.iter().all(|told| matches!(told, Told::Mode(_))), "{told:?}");
}

#[test]
fn the_line_is_open_by_command_and_masked_beside_it() {
    let user = direct();
    let file = event();
    user.trigger(INTX, 0, &[&file]).unwrap();
    let open = || user.routes().intx.map(|line| line.open);
    assert_eq!(open(), Some(true));
    user.command(ON | INTX_DISABLE);
    assert_eq!(open(), Some(false));
    user.command(IO);
    assert_eq!(open(), Some(true), "INTx is no access to memory");
    user.device.news();
    user.set_line(IrqAction::Mask, IrqData::None);
    user.set_line(IrqAction::Unmask, IrqData::None);
    let expected = [Told::IntxMasked(true), Told::IntxMasked(false)];
    assert_eq!(user.device.news(), expected);
    assert_eq!(open(), Some(true), "its masks are not told by routes");

    let unmask = event();
    let data = IrqData::EventFd(vec![Some(unmask.try_clone().unwrap())]);
    user.set_line(IrqAction::Unmask, data);
    assert!(user.routes().intx.unwrap().unmask.is_some());
    rustix::io::write(&unmask, &1_u64.to_ne_bytes()).unwrap();
    // Something that the delivery thread does after it could have read the eventfd.
    user.set_irqs(INTX, 0, 1, IrqAction::Trigger, IrqData::None)
        .unwrap();
    assert_eq!(signalled(&file), 1);
    assert_eq!(
        count(&unmask),
        1,
        "the eventfd that unmasks is the kernel's to read"
    );

    user.trigger(MSIX, 0, &[&event()]).unwrap_err();
    user.control(true, false);
    assert_eq!(user.routes().intx, None, "messages are enabled in its place");
}

/// What is done to the first vectors of MSI-X.
#[derive(Clone, Copy, Debug)]
enum Do {
    Fire(u16),
    Mask(u16, bool),
    MaskFunction(bool),
    Enable(bool),
    BusMaster(bool),
    Attach(u16),
    Detach(u16),
    Reset,
}

const FEW: u16 = 3;

fn anything() -> impl Strategy<Value = Do> {
    let vector = 0..FEW;
    prop_oneof![
        6 => vector.clone().prop_map(Do::Fire),
        4 => (vector.clone(), any::<bool>()).prop_map(|(vector, on)| Do::Mask(vector, on)),
        1 => any::<bool>().prop_map(Do::MaskFunction),
        1 => any::<bool>().prop_map(Do::Enable),
        1 => any::<bool>().prop_map(Do::BusMaster),
        2 => vector.clone().prop_map(Do::Attach),
        1 => vector.prop_map(Do::Detach),
        1 => Just(Do::Reset),
    ]
}

/// The specification's account of a vector (PCI Local Bus 3.0, 6.8.3), and that of eventfds in docs/src/interrupts.md.
#[derive(Clone, Copy, Debug, Default)]
struct Vector {
    attached: bool,
    unmasked: bool,
    pending: bool,
    delivered: u64,
}

#[derive(Debug, Default)]
struct Function {
    enabled: bool,
    masked: bool,
    master: bool,
    vectors: [Vector; FEW as usize],
}

impl Function {
    fn open(&self, vector: usize) -> bool {
        let Vector {
            attached, unmasked, ..
        } = self.vectors[vector];
        self.enabled && !self.masked && self.master && attached && unmasked
    }

    fn done(&mut self, what: Do) {
        match what {
            Do::Fire(vector) => self.vectors[usize::from(vector)].pending |= self.enabled,
            Do::Mask(vector, on) => self.vectors[usize::from(vector)].unmasked = !on,
            Do::MaskFunction(on) => self.masked = on,
            Do::Enable(on) => self.enabled = on,
            Do::BusMaster(on) => self.master = on,
            Do::Attach(vector) => {
                self.enabled = true;
                let vector = &mut self.vectors[usize::from(vector)];
                (vector.attached, vector.unmasked) = (true, true);
            }
            Do::Detach(vector) => {
                self.enabled = true;
                let vector = &mut self.vectors[usize::from(vector)];
                (vector.attached, vector.unmasked) = (false, false);
            }
            Do::Reset => {}
        }
        for at in 0..usize::from(FEW) {
            let open = self.open(at);
            let vector = &mut self.vectors[at];
            vector.pending &= self.enabled && !matches!(what, Do::Reset);
            if open && std::mem::take(&mut vector.pending) {
                vector.delivered += 1;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_delivered_is_what_the_specification_lets_through(all in prop::collection::vec(anything(), 1..50)) {
        let user = direct();
        let files: Vec<OwnedFd> = (0..FEW).map(|_| event()).collect();
        let had = Mutex::new([0; FEW as usize]);
        let mut function = Function { master: true, ..Function::default() };
        for what in all {
            match what {
                Do::Fire(vector) => user.fire(vector),
                Do::Mask(vector, on) => user.mask(vector, on),
                Do::MaskFunction(on) => user.control(function.enabled, on),
                Do::Enable(on) => user.control(on, function.masked),
                Do::BusMaster(on) => user.command(if on { ON } else { IO | MEMORY }),
                Do::Attach(vector) => {
                    user.trigger(MSIX, vector.into(), &[&files[usize::from(vector)]]).unwrap();
                }
                Do::Detach(vector) => {
                    let none = IrqData::EventFd(vec![None]);
                    user.set_irqs(MSIX, vector.into(), 1, IrqAction::Trigger, none).unwrap();
                }
                Do::Reset => {
                    user.virt.reset(Duration::from_secs(10)).unwrap();
                }
            }
            function.done(what);
            let expected = function.vectors.map(|vector| vector.delivered);
            let got = || {
                let mut had = had.lock().unwrap();
                for (had, file) in had.iter_mut().zip(&files) {
                    *had += count(file);
                }
                *had
            };
            eventually(&format!("{expected:?} deliveries after {what:?}, not {:?}", got()), || got() == expected);
            let open: Vec<usize> = (0..usize::from(FEW)).filter(|vector| function.open(*vector)).collect();
            prop_assert_eq!(user.open(), open);
            let pending = (0..).zip(function.vectors).map(|(n, vector)| u64::from(vector.pending) << n).sum::<u64>();
            prop_assert_eq!(user.pending(), pending);
        }
    }
}

#[test]
fn raised_while_it_is_masked_and_unmasked_all_the_time_a_vector_comes_once_each_time() {
    let user = direct();
    let file = event();
    user.trigger(MSIX, 0, &[&file]).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                user.mask(0, true);
                user.mask(0, false);
            }
        });
        let counts: Vec<u64> = (0..2000)
            .map(|_| {
                user.fire(0);
                signalled(&file)
            })
            .collect();
        stop.store(true, Ordering::Release);
        assert_eq!(counts, vec![1; 2000]);
    });
    assert_eq!(count(&file), 0);
}
