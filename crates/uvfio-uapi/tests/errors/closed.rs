//! Files that are closed while a call is under way, or between a look at their number and its use.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use uvfio_uapi::{Caller, Given, Node, ProcessMemory};

use crate::common::{Kind, Memory, Program, sys};

#[test]
fn a_descriptor_closed_meanwhile_is_none() {
    let program = Program::with(&[("0000:01:00.0", 7, Kind::Edu), ("0000:02:00.0", 8, Kind::Edu)]);
    let group = program.open(Node::Group(7));
    for node in [Node::Container, Node::Iommu, Node::Group(8)] {
        let given = program.open(node);
        program.close_behind(given);
        assert_eq!(program.set_container(group, given), Err(Errno::BADF), "{node:?}");
    }
    let device = program.open(Node::Device(1));
    let iommu = program.open(Node::Iommu);
    program.close_behind(iommu);
    let bound = program.ioctl(device, sys::BIND, &mut sys::bind(0, iommu));
    assert_eq!(bound, Err(Errno::BADF));
    let (_, _, device) = {
        program.close(group);
        program.opened()
    };
    let other = program.open(Node::Group(8));
    program.close_behind(other);
    let reset = program.ioctl(device, sys::HOT_RESET, &mut sys::words(&[16, 0, 1, other as u32]));
    assert_eq!(reset, Err(Errno::BADF));
}

/// A caller whose memory is read only when the test lets it, once.
struct Held<'a> {
    program: &'a Program,
    begun: Mutex<Option<SyncSender<()>>>,
    goes_on: Mutex<Receiver<()>>,
}

impl Caller for Held<'_> {
    fn read(&self, address: u64, data: &mut [u8]) -> Result<(), Errno> {
        if let Some(begun) = self.begun.lock().expect("not poisoned").take() {
            begun.send(()).expect("the test waits for it");
            let _ = self.goes_on.lock().expect("not poisoned").recv();
        }
        Caller::read(self.program, address, data)
    }

    fn write(&self, address: u64, data: &[u8]) -> Result<(), Errno> {
        Caller::write(self.program, address, data)
    }

    fn descriptor(&self, number: i32) -> Result<Given, Errno> {
        self.program.descriptor(number)
    }

    fn memory(&self) -> Arc<dyn ProcessMemory> {
        self.program.memory()
    }
}

/// Makes an ioctl of `number`, closes that while the argument is read, and lets it go on; `meanwhile` runs in between.
fn closed_during(program: &Program, number: i32, request: u32, argument: &[u8], meanwhile: impl FnOnce()) {
    let memory = Memory::new(4096);
    memory.put(0, argument);
    let (begun, told) = sync_channel(1);
    let (go, goes_on) = sync_channel(1);
    let held = Held {
        program,
        begun: Mutex::new(Some(begun)),
        goes_on: Mutex::new(goes_on),
    };
    let file = program.file(number);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| program.uapi.ioctl(file, request, memory.address(), &held));
        told.recv().expect("it has begun");
        // Here, so that the call ends also where something below fails.
        let go = go;
        program.close(number);
        meanwhile();
        go.send(()).expect("it waits");
        assert!(call.join().expect("no panic").is_ok());
    });
}

#[test]
fn a_group_that_is_closed_under_a_call_is_closed_when_that_is_done() {
    let program = Program::edu();
    let (group, container) = (program.open(Node::Group(7)), program.open(Node::Container));
    let argument = container.to_ne_bytes();
    closed_during(&program, group, sys::GROUP_SET_CONTAINER, &argument, || {
        assert_eq!(program.try_open(Node::Group(7)), Err(Errno::BUSY));
    });
    let group = program.open(Node::Group(7));
    let mut status = sys::words(&[8, 0]);
    program
        .ioctl(group, sys::GROUP_GET_STATUS, &mut status)
        .expect("status");
    assert_eq!(sys::u32_at(&status, 4), 1, "viable, and in no container");
}

#[test]
fn a_device_that_is_bound_by_a_file_that_is_closed_meanwhile_is_free_again() {
    let program = Program::edu();
    let (device, iommu) = (program.open(Node::Device(0)), program.open(Node::Iommu));
    closed_during(&program, device, sys::BIND, &sys::bind(0, iommu), || {});
    assert!(program.try_open(Node::Group(7)).is_ok());
}

#[test]
fn a_device_that_is_closed_under_a_call_is_its_user_s_until_that_is_done() {
    let program = Program::edu();
    let (_, group, device) = program.opened();
    let (_eventfd, eventfd) = program.eventfd();
    let mut argument = sys::irq_set(sys::TRIGGER | sys::EVENTFD, 1, 0, 1);
    argument.extend(eventfd.to_ne_bytes());
    sys::seal(&mut argument);
    program.close(group);
    closed_during(&program, device, sys::SET_IRQS, &argument, || {
        assert_eq!(program.try_open(Node::Group(7)), Err(Errno::BUSY));
    });
    assert!(program.try_open(Node::Group(7)).is_ok());
}
