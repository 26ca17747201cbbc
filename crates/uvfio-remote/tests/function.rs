//! What the kernel does beside a device, over a server that does none of it.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fault, Hostile, Says, command, dma, event, irqs, message};
use uvfio_core::region_index::CONFIG;
use uvfio_core::{DmaError, DmaMessages, DmaTicket, IrqIndex, ResetProgress};
use uvfio_remote::Remote;
use uvfio_uapi::Backend;

const SOON: Duration = Duration::from_secs(20);

/// A page of memory at 0x1000.
#[derive(Debug)]
struct Page(Mutex<Vec<u8>>);

impl Page {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new((0..=255).cycle().take(4096).collect())))
    }

    fn access(&self, iova: u64, bytes: usize, copy: impl FnOnce(&mut [u8])) -> Result<(), DmaError> {
        let at = iova.wrapping_sub(0x1000) as usize;
        let mut page = self.0.lock().unwrap();
        let part = at.checked_add(bytes).and_then(|end| page.get_mut(at..end));
        copy(part.ok_or(DmaError::Message { iova, why: "outside" })?);
        Ok(())
    }
}

impl DmaMessages for Page {
    fn read(&self, _: DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.access(iova, data.len(), |part| data.copy_from_slice(part))
    }

    fn write(&self, _: DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        self.access(iova, data.len(), |part| part.copy_from_slice(data))
    }

    fn abandon(&self) {}
}

fn used(says: Says) -> (Hostile, Arc<Remote>, Arc<Page>) {
    let server = Hostile::new(says);
    let remote = server.connect().unwrap();
    let page = Page::new();
    remote.attach(Arc::clone(&page) as _).unwrap();
    (server, remote, page)
}

/// The registers that have been accessed up to now: command, offset, bytes.
fn accesses(server: &Hostile) -> Vec<(u16, u64, u32)> {
    let came = std::iter::from_fn(|| server.came.try_recv().ok());
    came.filter(|came| matches!(came.command, command::REGION_READ | command::REGION_WRITE))
        .filter(|came| came.payload[8..12] == [0; 4])
        .map(|came| {
            let offset = u64::from_ne_bytes(came.payload[..8].try_into().unwrap());
            let bytes = u32::from_ne_bytes(came.payload[12..16].try_into().unwrap());
            (came.command, offset, bytes)
        })
        .collect()
}

#[test]
fn memory_that_is_off_in_command_does_not_answer_and_the_server_is_not_asked() {
    let (server, remote, _) = used(Says::default());
    assert!(!remote.answers(0) && remote.answers(CONFIG));
    let mut data = [0; 4];
    remote.read(0, 0, &mut data).unwrap();
    remote.write(0, 0, &[0; 4]).unwrap();
    assert_eq!(data, [0xff; 4]);
    assert_eq!(accesses(&server), []);
    remote.write(CONFIG, 4, &[2, 0]).unwrap();
    assert!(remote.answers(0));
    remote.write(0, 4, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    remote.read(0, 6, &mut data).unwrap();
    assert_eq!(data, [3, 4, 5, 6]);
    let (read, write) = (command::REGION_READ, command::REGION_WRITE);
    assert_eq!(
        accesses(&server),
        [(write, 4, 4), (write, 8, 4), (read, 6, 2), (read, 8, 2)]
    );
}

#[test]
fn an_access_outside_its_region_does_not_reach_the_server() {
    let (server, remote, _) = used(Says::default());
    remote.write(CONFIG, 4, &[2, 0]).unwrap();
    // What that has caused.
    let _ = server.came.try_iter().count();
    for (region, offset) in [
        (0, 0x1000),
        (0, 0xffd),
        (0, u64::MAX),
        (2, 0),
        (CONFIG, 253),
        (9, 0),
    ] {
        assert!(
            remote.read(region, offset, &mut [0; 4]).is_err(),
            "{region} {offset:#x}"
        );
        assert!(
            remote.write(region, offset, &[0; 4]).is_err(),
            "{region} {offset:#x}"
        );
    }
    let came: Vec<_> = server.came.try_iter().collect();
    assert_eq!(came, [], "of whatever region");
}

#[test]
fn the_server_reaches_memory_by_message_while_bus_mastering_is_on() {
    let (server, remote, page) = used(Says::default());
    let ask = |id: u16, command: u16, payload: &[u8]| {
        server.send(&message(id, command, 0, payload));
        let answer = server.next(command);
        assert_eq!((answer.id, answer.flags & 0xf), (id, 1));
        (answer.errno, answer.payload)
    };
    assert_eq!(
        ask(3, command::DMA_READ, &dma(0x1000, 4)),
        (19, vec![]),
        "bus mastering is off"
    );
    remote.write(CONFIG, 4, &[6, 0]).unwrap();
    let (errno, payload) = ask(4, command::DMA_READ, &dma(0x1010, 4));
    assert_eq!((errno, &payload[16..]), (0, &[0x10, 0x11, 0x12, 0x13][..]));
    let write = [dma(0x1ffc, 4), vec![9, 8, 7, 6]].concat();
    assert_eq!(ask(5, command::DMA_WRITE, &write).0, 0);
    assert_eq!(page.0.lock().unwrap()[4092..], [9, 8, 7, 6]);
    for (what, payload) in [
        ("outside", dma(0x1ffd, 4)),
        ("past all addresses", dma(u64::MAX, 4)),
        ("without end", dma(0x1000, u64::MAX)),
        ("too short a message", vec![0; 7]),
    ] {
        assert_ne!(ask(6, command::DMA_READ, &payload).0, 0, "{what}");
    }
    // In the middle of a request, and many that nobody waits for.
    server.fault(command::REGION_READ, Fault::ReadsMemory);
    let mut data = [0xee; 4];
    remote.read(0, 0, &mut data).unwrap();
    assert_eq!(data, [0; 4]);
    assert_eq!(server.next(command::DMA_READ).payload[16..], [0, 1, 2, 3]);
    let many: Vec<u8> = (0..100)
        .flat_map(|id| message(id, command::DMA_READ, 0, &dma(0x1000, 64)))
        .collect();
    server.send(&many);
    for id in 0..100 {
        assert_eq!(server.next(command::DMA_READ).id, id);
    }
    // The user leaves.
    remote.detach().unwrap();
    assert_eq!(ask(7, command::DMA_READ, &dma(0x1000, 4)).0, 19);
}

#[test]
fn vectors_without_eventfds_have_messages_of_their_own_and_a_user_who_leaves_takes_all() {
    let (server, remote, _) = used(Says::default());
    let eventfds = vec![Some(event()), Some(event()), None, Some(event())];
    remote.set_irqs(irqs(IrqIndex::MsiX, eventfds)).unwrap();
    remote.detach().unwrap();
    let said = || {
        let words: Vec<u32> = server
            .next(command::SET_IRQS)
            .payload
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        (words[1], words[2], words[3], words[4])
    };
    // Flags, index, start, count; the server takes one descriptor in a message.
    for expected in [
        (0x24, 2, 0, 1),
        (0x24, 2, 1, 1),
        (0x24, 2, 2, 1),
        (0x24, 2, 3, 1),
        (0x21, 2, 0, 0),
    ] {
        assert_eq!(said(), expected);
    }
}

/// With PCI Express, which says that it can be reset by its register.
fn express() -> Says {
    let mut says = Says::default();
    says.config[0x41] = 0x50;
    says.config[0x50..0x58].copy_from_slice(&[0x10, 0, 2, 0, 0, 0, 0, 0x10]);
    says
}

#[test]
fn what_a_reset_took_is_written_again() {
    let (server, remote, _) = used(express());
    remote.write(CONFIG, 0x10, &[0, 0, 0, 0xc0]).unwrap();
    remote.write(CONFIG, 4, &[6, 4]).unwrap();
    remote.write(CONFIG, 0x43, &[0x80]).unwrap();
    let has = || [0x04, 0x05, 0x13, 0x43, 0x58].map(|at| server.config(at));
    assert_eq!(remote.reset(SOON).unwrap(), ResetProgress::Done);
    assert_eq!(has(), [6, 4, 0xc0, 0x80, 0]);
    server.next(command::RESET);
    // By register it is a request, too, and the other bits of the register stay.
    remote.write(CONFIG, 0x58, &[0x10, 0x80]).unwrap();
    server.next(command::RESET);
    assert_eq!((has(), server.config(0x59)), ([6, 4, 0xc0, 0x80, 0x10], 0));
    assert!(remote.answers(0));
    // The next user finds what the first one found.
    server.set_config(0x3c, 11);
    remote.detach().unwrap();
    let first = express().config;
    let now: Vec<u8> = (0..256).map(|at| server.config(at)).collect();
    assert_eq!(now, first);
    assert!(!remote.answers(0));
}
