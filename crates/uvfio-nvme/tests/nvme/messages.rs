//! Memory that is reached by message only.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use uvfio_core::{Device, DmaAccess, DmaError, DmaMap, DmaMessages, DmaTicket, Policy, VirtualDevice};
use uvfio_nvme::Nvme;

use super::driver::{
    Command, MEMORY, MEMORY_BYTES, Machine, PATIENCE, config, read_command, reg, write_command,
};

/// A user who answers messages out of a file, as long as nobody holds him up.
#[derive(Debug)]
struct Answering {
    memory: std::fs::File,
    state: Mutex<State>,
    changed: Condvar,
    asked: AtomicU64,
    abandoned: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    silent: bool,
    waiting: u64,
    round: u64,
}

impl Answering {
    fn answer(&self, iova: u64) -> Result<u64, DmaError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.lock().unwrap();
        let round = state.round;
        state.waiting += 1;
        while state.silent && state.round == round {
            state = self.changed.wait(state).unwrap();
        }
        state.waiting -= 1;
        if state.round == round {
            Ok(iova - MEMORY)
        } else {
            Err(DmaError::Message {
                iova,
                why: "abandoned",
            })
        }
    }

    fn set_silent(&self, silent: bool) {
        self.state.lock().unwrap().silent = silent;
        self.changed.notify_all();
    }
}

impl DmaMessages for Answering {
    fn read(&self, _ticket: DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        let offset = self.answer(iova)?;
        self.memory
            .read_exact_at(data, offset)
            .map_err(|_| DmaError::Message { iova, why: "refused" })
    }

    fn write(&self, _ticket: DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        let offset = self.answer(iova)?;
        self.memory
            .write_all_at(data, offset)
            .map_err(|_| DmaError::Message { iova, why: "refused" })
    }

    fn abandon(&self) {
        self.abandoned.fetch_add(1, Ordering::SeqCst);
        self.state.lock().unwrap().round += 1;
        self.changed.notify_all();
    }
}

fn machine() -> (Machine, Arc<Answering>) {
    let nvme = Nvme::new(config()).unwrap();
    let device: Arc<dyn Device> = nvme.clone();
    let device = VirtualDevice::new(device, &Policy::default()).unwrap();
    let machine = Machine::over(nvme, device.clone());
    let messages = Arc::new(Answering {
        memory: machine.memory.try_clone().unwrap(),
        state: Mutex::default(),
        changed: Condvar::new(),
        asked: AtomicU64::new(0),
        abandoned: AtomicU64::new(0),
    });
    device.attach(Some(messages.clone()));
    map(&machine);
    (machine, messages)
}

fn map(machine: &Machine) {
    let access = DmaAccess::READ | DmaAccess::WRITE;
    machine
        .device
        .dma_map(DmaMap {
            iova: MEMORY,
            bytes: MEMORY_BYTES,
            access,
            backing: None,
        })
        .unwrap();
    machine
        .device
        .write(uvfio_core::region_index::CONFIG, 4, &6u16.to_le_bytes())
        .unwrap();
}

#[test]
fn commands_work_and_shadow_doorbells_are_not_offered() {
    let (mut machine, _) = machine();
    machine.enable();
    let identify = machine.identify(1, 0).unwrap();
    assert_eq!(
        identify[257] & 1,
        0,
        "OACS bit 8: polling would cost a message each time"
    );
    assert_eq!(machine.admin(Command::new(0x7c)).status, 0x001);
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(2);
    machine.write(page, &[0x3c; 8192]);
    assert_eq!(
        machine
            .run(&mut queue, write_command(1, 0, 16, page, page + 4096))
            .status,
        0
    );
    machine.write(page, &[0; 8192]);
    assert_eq!(
        machine
            .run(&mut queue, read_command(1, 0, 16, page, page + 4096))
            .status,
        0
    );
    assert!(machine.read(page, 8192) == [0x3c; 8192]);
}

#[test]
fn registers_answer_and_resets_end_while_the_user_answers_no_message() {
    let (mut machine, messages) = machine();
    for _ in 0..3 {
        machine.enable();
        let mut queue = machine.create_queue(1, 16);
        let page = machine.allocate(1);
        messages.set_silent(true);
        for _ in 0..4 {
            machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
        }
        machine.wait_for("a message to the user", || {
            messages.state.lock().unwrap().waiting > 0
        });
        assert_eq!(machine.register(reg::CSTS), 1);
        machine.device.reset(PATIENCE).unwrap();
        assert_eq!(machine.register(reg::CSTS), 0);
        messages.set_silent(false);
    }
    machine.enable();
    machine.identify(1, 0).unwrap();
}

#[test]
fn an_unmap_of_other_memory_abandons_messages_and_disturbs_no_command() {
    let (mut machine, messages) = machine();
    machine.enable();
    let mut queue = machine.create_queue(1, 16);
    let page = machine.allocate(1);
    for _ in 0..20 {
        messages.set_silent(true);
        let cid = machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
        machine.wait_for("a message to the user", || {
            messages.state.lock().unwrap().waiting > 0
        });
        let access = DmaAccess::READ;
        machine
            .device
            .dma_map(DmaMap {
                iova: 0,
                bytes: 4096,
                access,
                backing: None,
            })
            .unwrap();
        let before = messages.abandoned.load(Ordering::SeqCst);
        machine.device.dma_unmap(0, 4096).unwrap();
        assert!(
            messages.abandoned.load(Ordering::SeqCst) > before,
            "the unmap abandons nothing any more"
        );
        messages.set_silent(false);
        let done = machine.complete(&mut queue);
        assert_eq!((done.cid, done.status), (cid, 0), "{done:x?}");
    }
}

#[test]
fn disabling_the_controller_ends_while_the_user_answers_no_message() {
    let (mut machine, messages) = machine();
    for admin in [false, true] {
        machine.enable();
        let mut queue = machine.create_queue(1, 16);
        let page = machine.allocate(1);
        messages.set_silent(true);
        if admin {
            let mut admin = std::mem::replace(&mut machine.admin, super::driver::Queue::nowhere());
            machine.submit(&mut admin, Command::new(0x06).nsid(1).prp(page, 0));
        } else {
            machine.submit(&mut queue, read_command(1, 0, 1, page, 0));
        }
        machine.wait_for("a message to the user", || {
            messages.state.lock().unwrap().waiting > 0
        });
        machine.disable();
        messages.set_silent(false);
    }
    machine.enable();
    machine.identify(1, 0).unwrap();
}
