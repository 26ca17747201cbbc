//! Accesses by message and unmaps: which of the two comes first, and what the later one finds.

#![allow(clippy::unwrap_used)] // a test's helpers may

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use uvfio_core::{DmaAccess, DmaError, DmaMap, DmaMessages, DmaSpace, DmaTicket, Policy, UnmapError};

const IOVA: u64 = 0x4000;
const PAGE: u64 = 4096;

/// What has become of an access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Access {
    first: u64,
    last: u64,
    abandoned: bool,
    ended: bool,
}

type Unmap = JoinHandle<Result<u64, UnmapError>>;

/// Asks for an unmap in the midst of every beginning, and sends its message when it is told to.
#[derive(Debug)]
struct Late {
    space: Arc<DmaSpace>,
    begun: Mutex<Vec<Access>>,
    unmap: Mutex<Option<Unmap>>,
    go: Mutex<Receiver<()>>,
}

impl Late {
    fn ask(&self, ticket: DmaTicket, iova: u64) -> Result<(), DmaError> {
        self.go.lock().unwrap().recv().unwrap();
        if self.begun.lock().unwrap()[ticket.0 as usize].abandoned {
            Err(DmaError::Message {
                iova,
                why: "abandoned",
            })
        } else {
            Ok(())
        }
    }
}

impl DmaMessages for Late {
    fn begin(&self, first: u64, last: u64) -> DmaTicket {
        let space = self.space.clone();
        let unmap = spawn(move || space.unmap(IOVA, PAGE));
        // Long enough for an unmap that nothing holds up to be over.
        std::thread::sleep(Duration::from_millis(50));
        let passed = unmap.is_finished();
        *self.unmap.lock().unwrap() = Some(unmap);
        assert!(
            !passed,
            "the unmap came back in the midst of the beginning of an access"
        );
        let mut begun = self.begun.lock().unwrap();
        begun.push(Access {
            first,
            last,
            ..Access::default()
        });
        DmaTicket(begun.len() as u64 - 1)
    }

    fn end(&self, ticket: DmaTicket) {
        self.begun.lock().unwrap()[ticket.0 as usize].ended = true;
    }

    fn read(&self, ticket: DmaTicket, iova: u64, _data: &mut [u8]) -> Result<(), DmaError> {
        self.ask(ticket, iova)
    }

    fn write(&self, ticket: DmaTicket, iova: u64, _data: &[u8]) -> Result<(), DmaError> {
        self.ask(ticket, iova)
    }

    fn abandon(&self) {
        self.abandon_range(0, u64::MAX);
    }

    fn abandon_range(&self, first: u64, last: u64) {
        for access in &mut *self.begun.lock().unwrap() {
            access.abandoned |= access.first <= last && access.last >= first;
        }
    }
}

#[test]
fn an_unmap_abandons_an_access_whose_message_has_yet_to_be_sent() {
    let space = Arc::new(DmaSpace::new(&Policy::default()));
    space.set_bus_master(true);
    let (go, wait) = channel();
    let messages = Arc::new(Late {
        space: space.clone(),
        begun: Mutex::default(),
        unmap: Mutex::default(),
        go: Mutex::new(wait),
    });
    space.set_messages(messages.clone());
    space
        .map(DmaMap {
            iova: IOVA,
            bytes: PAGE,
            access: DmaAccess::all(),
            backing: None,
        })
        .unwrap();

    let device = {
        let space = space.clone();
        spawn(move || space.write(IOVA + 16, &[1; 8]))
    };
    let unmap = loop {
        if let Some(unmap) = messages.unmap.lock().unwrap().take() {
            break unmap;
        }
        std::thread::yield_now();
    };
    assert_eq!(unmap.join().unwrap(), Ok(PAGE));
    // The unmap is answered. Only now does the device's thread come to send its message.
    go.send(()).unwrap();
    let result = device.join().unwrap();
    assert_eq!(
        result,
        Err(DmaError::Message {
            iova: IOVA + 16,
            why: "abandoned"
        })
    );
    let expected = Access {
        first: IOVA + 16,
        last: IOVA + 23,
        abandoned: true,
        ended: true,
    };
    assert_eq!(*messages.begun.lock().unwrap(), [expected]);
    // An access that comes later finds nothing to begin.
    let refused = space.write(IOVA, &[1]);
    assert!(matches!(refused, Err(DmaError::NotMapped { .. })), "{refused:?}");
}
