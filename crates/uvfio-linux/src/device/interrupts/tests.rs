use std::io;
use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, eventfd};
use uvfio_core::{Device, DeviceError, IrqAction, IrqData, IrqIndex, Policy, SetIrqs, VirtualDevice, Width};
use uvfio_pci::{Bar, Blueprint, Identity, ResetKind};

use super::*;

mod hostile;

#[test]
fn only_vectors_that_change_are_changed_and_a_missing_one_is_not_sought_for_its_latch() {
    use Target::{Latch, Nowhere};
    let now = [Latch, Latch, Nowhere, Nowhere, Latch, Latch];
    assert_eq!(changes(&now, &[const { Latch }; 6]), []);
    let wanted = [Nowhere, Nowhere, Latch, Nowhere, Latch, Nowhere];
    assert_eq!(changes(&now, &wanted), [0..2, 5..6]);
}

/// A kernel that notes what it is asked, and refuses to enable INTx as long as it is told to.
#[derive(Clone, Debug, Default)]
struct Kernel(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    requests: Vec<&'static str>,
    refuses: Option<&'static str>,
    enabled: bool,
}

impl Kernel {
    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap().requests)
    }

    /// Has it refuse a request from now on.
    fn refuse(&self, request: Option<&'static str>) {
        self.0.lock().unwrap().refuses = request;
    }

    fn note(&self, request: &'static str) -> Result<(), VfioError> {
        let mut asked = self.0.lock().unwrap();
        asked.requests.push(request);
        let refused = |errno| VfioError::other("VFIO_DEVICE_SET_IRQS", request.to_owned(), errno);
        if asked.refuses == Some(request) {
            return Err(refused(Errno::BUSY));
        }
        match request {
            "enable" => asked.enabled = true,
            _ if !asked.enabled => return Err(refused(Errno::INVAL)),
            "disable" => asked.enabled = false,
            _ => {}
        }
        Ok(())
    }
}

impl Requests for Kernel {
    fn name(&self) -> &str {
        "test"
    }

    fn set_eventfds(
        &self,
        _irq: Irq,
        _first: u32,
        _eventfds: &[Option<BorrowedFd<'_>>],
    ) -> Result<(), VfioError> {
        self.note("enable")
    }

    fn disable(&self, _irq: Irq) -> Result<(), VfioError> {
        self.note("disable")
    }

    fn mask_intx(&self) -> Result<(), VfioError> {
        self.note("mask")
    }

    fn unmask_intx(&self) -> Result<(), VfioError> {
        self.note("unmask")
    }

    fn unmask_intx_by(&self, _eventfd: Option<BorrowedFd<'_>>) -> Result<(), VfioError> {
        self.note("unmask by")
    }
}

fn interrupts() -> (Interrupts, Kernel) {
    interrupts_of(0)
}

fn interrupts_of(vectors: u16) -> (Interrupts, Kernel) {
    let kernel = Kernel::default();
    let interrupts = Interrupts {
        device: Box::new(kernel.clone()),
        latches: Latches::new("test", vectors).unwrap(),
        maskable: false,
        enabled: Mutex::default(),
    };
    (interrupts, kernel)
}

/// A function with INTx and nothing else.
fn blueprint() -> Blueprint<'static> {
    Blueprint {
        identity: Identity {
            vendor: 0x1234,
            device: 0x11e8,
            revision: 0x10,
            class: [0xff, 0, 0],
            subsystem_vendor: 0,
            subsystem: 0,
            interrupt_pin: 1,
        },
        bars: [Bar::None; 6],
        rom_bytes: 0,
        capabilities: &[],
        extended: &[],
    }
}

/// A function with INTx that keeps where its interrupts are to go.
#[derive(Debug, Default)]
struct Line(Mutex<Routes>);

impl Device for Line {
    fn name(&self) -> &'static str {
        "line"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        blueprint()
    }

    fn attach(&self, _host: Host) {}

    fn detach(&self) {}

    fn read(&self, _bar: u8, _offset: u64, _width: Width) -> u64 {
        0
    }

    fn write(&self, _bar: u8, _offset: u64, _width: Width, _value: u64) {}

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        Ok(())
    }

    fn direct_interrupts(&self) -> bool {
        true
    }

    fn routes_changed(&self, routes: &Routes) {
        *self.0.lock().unwrap() = routes.clone();
    }
}

/// Where INTx goes for a user who has attached an eventfd to it, and one that unmasks it.
fn routes() -> Routes {
    let new = || -> io::Result<OwnedFd> { Ok(eventfd(0, EventfdFlags::CLOEXEC)?) };
    let line = Arc::new(Line::default());
    let device = VirtualDevice::new(line.clone(), &Policy::default()).unwrap();
    device.attach(None);
    for action in [IrqAction::Trigger, IrqAction::Unmask] {
        let request = SetIrqs {
            index: IrqIndex::Intx as u32,
            start: 0,
            count: 1,
            action,
            data: IrqData::EventFd(vec![Some(new().unwrap())]),
        };
        device.set_irqs(request).unwrap();
    }
    let routes = line.0.lock().unwrap().clone();
    assert!(
        routes.intx.as_ref().is_some_and(|intx| intx.unmask.is_some()),
        "{routes:?}"
    );
    routes
}

#[test]
fn a_line_that_could_not_be_enabled_is_not_taken_for_enabled_and_is_enabled_when_it_is_set_again() {
    let (interrupts, kernel) = interrupts();
    let routes = routes();
    kernel.refuse(Some("enable"));
    interrupts.set(&routes, false);
    assert_eq!(kernel.asked(), ["enable", "disable"]);
    interrupts.mask_line(true);
    assert_eq!(kernel.asked(), [""; 0], "there is no line to mask");
    kernel.refuse(None);
    interrupts.set(&routes, false);
    assert_eq!(kernel.asked(), ["enable", "unmask by"]);
    interrupts.set(&routes, false);
    assert_eq!(kernel.asked(), [""; 0], "all is as it is to be");
}

#[test]
fn a_line_of_which_only_a_part_could_be_set_is_disabled() {
    let (interrupts, kernel) = interrupts();
    kernel.refuse(Some("unmask by"));
    interrupts.set(&routes(), false);
    assert_eq!(kernel.asked(), ["enable", "unmask by", "disable"]);
    assert!(!kernel.0.lock().unwrap().enabled);
    interrupts.silence();
    assert_eq!(kernel.asked(), [""; 0], "it is off");
}
