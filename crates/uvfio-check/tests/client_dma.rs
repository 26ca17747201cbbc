//! What clients answer to DMA_READ and DMA_WRITE: ours, and one that is broken on purpose.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

#[path = "common/clients.rs"]
mod clients;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use clients::{judged, message, outcome, words};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use uvfio_check::client::Options;
use uvfio_check::{Outcome, Report};
use uvfio_proto::message::DmaMapFlags;
use uvfio_proto::{Client, ClientMemory, Errno};

/// Where memory is: without a descriptor, with one, and without one and read-only.
const MEMORY: u64 = 0x10_0000;
const FILE: u64 = 0x20_0000;
const ROM: u64 = 0x30_0000;
const PAGE: u64 = 0x1000;

const RULES: [&str; 6] = [
    "client.dma_read",
    "client.dma_both",
    "client.dma_data",
    "client.dma_write",
    "client.dma_read_only",
    "client.dma_outside",
];

/// A page that can be written, and one that can't.
struct Pages {
    memory: Vec<u8>,
    file: OwnedFd,
}

fn file() -> OwnedFd {
    let file = memfd_create("memory", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&file, PAGE).expect("its size");
    rustix::io::pwrite(&file, b"the file", 0).expect("its bytes");
    file
}

impl Pages {
    fn new(file: OwnedFd) -> Self {
        let memory = (0..PAGE).map(|at| at as u8).collect();
        Self { memory, file }
    }

    fn at(&mut self, iova: u64, count: usize) -> Result<&mut [u8], Errno> {
        let start = iova.checked_sub(MEMORY).ok_or(Errno(22))? as usize;
        let end = start.checked_add(count).ok_or(Errno(22))?;
        self.memory.get_mut(start..end).ok_or(Errno(22))
    }
}

impl ClientMemory for Pages {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        if (FILE..FILE + PAGE).contains(&iova) && iova + data.len() as u64 <= FILE + PAGE {
            rustix::io::pread(&self.file, data, iova - FILE).map_err(|_| Errno(5))?;
            return Ok(());
        }
        data.copy_from_slice(self.at(iova, data.len())?);
        Ok(())
    }

    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        self.at(iova, data.len())?.copy_from_slice(data);
        Ok(())
    }
}

/// Each command of the client's lets at least one of the judge's come before its reply.
fn let_be_asked(client: &mut Client) {
    for _ in 0..20 {
        client.info().expect("info");
    }
}

/// Our client, with memory, serves until nothing more is asked.
fn with_memory(stream: UnixStream, memory: fn(Pages) -> Box<dyn ClientMemory>) {
    let mut client = Client::new(stream).expect("a version");
    let file = file();
    client.set_memory(memory(Pages::new(file.try_clone().expect("a descriptor"))));
    let both = DmaMapFlags::READ | DmaMapFlags::WRITE;
    client.dma_map(MEMORY, PAGE, both, None).expect("memory");
    client
        .dma_map(FILE, PAGE, DmaMapFlags::READ, Some((file.as_fd(), 0)))
        .expect("a file");
    let_be_asked(&mut client);
}

#[test]
fn our_client_answers_as_it_should() {
    let report = judged(&Options::default(), |stream| {
        with_memory(stream, |pages| Box::new(pages));
    });
    for rule in RULES {
        assert_eq!(*outcome(&report, rule), Outcome::Pass, "{rule}:\n{report}");
    }
    assert!(report.good(), "{report}");
}

#[test]
fn a_client_without_memory_refuses_and_breaks_no_rule() {
    let report = judged(&Options::default(), |stream| {
        let mut client = Client::new(stream).expect("a version");
        client
            .dma_map(MEMORY, PAGE, DmaMapFlags::READ | DmaMapFlags::WRITE, None)
            .expect("memory");
        let_be_asked(&mut client);
    });
    assert!(report.good(), "{report}");
    assert_eq!(*outcome(&report, "client.dma_read"), Outcome::Pass, "{report}");
    let nothing = matches!(outcome(&report, "client.dma_data"), Outcome::NotApplicable { .. });
    assert!(nothing, "data were never had:\n{report}");
}

/// Memory that is not what its file has.
struct Stale(Pages);

impl ClientMemory for Stale {
    fn read(&mut self, iova: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0.read(iova, data)?;
        if iova == FILE {
            data.fill(0);
        }
        Ok(())
    }

    fn write(&mut self, iova: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.write(iova, data)
    }
}

#[test]
fn data_that_are_not_the_files_are_found() {
    let report = judged(&Options::default(), |stream| {
        with_memory(stream, |pages| Box::new(Stale(pages)));
    });
    let found = matches!(outcome(&report, "client.dma_data"), Outcome::Fail { .. });
    assert!(found, "{report}");
}

/// A command of the judge's: header and payload.
struct Asked {
    id: [u8; 2],
    command: u16,
    payload: Vec<u8>,
}

impl Asked {
    fn iova(&self) -> u64 {
        self.word(0)
    }

    fn count(&self) -> u64 {
        self.word(8)
    }

    fn word(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.payload[at..at + 8].try_into().expect("eight bytes"))
    }

    /// A reply; `flags` 1, and 0x21 with an error.
    fn reply(&self, flags: u32, payload: &[u8]) -> Vec<u8> {
        let errno = if flags & 0x20 == 0 { 0 } else { 22 };
        let mut reply = message(self.command, flags, errno, payload);
        reply[..2].copy_from_slice(&self.id);
        reply
    }

    /// As it should be.
    fn right(&self, memory: &mut Pages) -> Vec<u8> {
        let count = self.count().min(PAGE) as usize;
        let result = if self.command == 11 {
            let mut data = vec![0; count];
            let allowed = self.count() <= PAGE && !(ROM..ROM + PAGE).contains(&self.iova());
            let read = if allowed {
                memory.read(self.iova(), &mut data)
            } else {
                Err(Errno(22))
            };
            read.map(|()| data)
        } else {
            memory
                .write(self.iova(), &self.payload[16..])
                .map(|()| Vec::new())
        };
        match result {
            Ok(data) => self.reply(1, &[&self.payload[..16], &data].concat()),
            Err(_) => self.reply(0x21, &[]),
        }
    }
}

/// A client that maps memory and answers what it is asked by `answer`, until nothing more comes.
fn answering(answer: impl Fn(&Asked, &mut Pages) -> Vec<u8> + Send) -> Report {
    judged(&Options::default(), move |mut stream| {
        let mut memory = Pages::new(file());
        let map = |iova: u64, flags| {
            message(
                2,
                0,
                0,
                &words(&[32, flags, 0, 0, iova as u32, 0, PAGE as u32, 0]),
            )
        };
        let begin = [message(1, 0, 0, b"\0\0\x01\0{}\0"), map(MEMORY, 3), map(ROM, 1)].concat();
        stream.write_all(&begin).expect("it is read");
        // DEVICE_GET_INFO behind each answer: where its reply comes first, nothing more was asked.
        let info = message(4, 0, 0, &words(&[16, 0, 0, 0]));
        let mut waits = 0;
        stream.write_all(&info).expect("it is read");
        let mut asked_since = false;
        loop {
            let mut header = [0; 16];
            if stream.read_exact(&mut header).is_err() {
                return;
            }
            let word = |at| u32::from_ne_bytes(header[at..at + 4].try_into().expect("four bytes"));
            let mut payload = vec![0; word(4) as usize - 16];
            stream.read_exact(&mut payload).expect("the rest");
            let command = u16::from_ne_bytes([header[2], header[3]]);
            if word(8) & 1 == 0 {
                let asked = Asked {
                    id: [header[0], header[1]],
                    command,
                    payload,
                };
                stream
                    .write_all(&answer(&asked, &mut memory))
                    .expect("it is read");
                asked_since = true;
            } else if command == 4 {
                if !asked_since && waits > 0 {
                    return;
                }
                (asked_since, waits) = (false, waits + 1);
                stream.write_all(&info).expect("it is read");
            }
        }
    })
}

#[test]
fn a_client_that_answers_right_by_hand_breaks_no_rule() {
    let report = answering(Asked::right);
    assert!(report.good(), "{report}");
    for rule in RULES {
        assert_eq!(*outcome(&report, rule), Outcome::Pass, "{rule}:\n{report}");
    }
}

#[test]
fn each_fault_of_an_answer_is_found() {
    type Answer = fn(&Asked, &mut Pages) -> Vec<u8>;
    let rows: &[(&str, &str, Answer)] = &[
        ("a byte too few", "client.dma_read", |asked, memory| {
            let right = asked.right(memory);
            let payload = right.get(16..right.len() - 1).unwrap_or_default();
            asked.reply(
                1,
                if asked.command == 11 {
                    payload
                } else {
                    &right[16..]
                },
            )
        }),
        ("an error with data", "client.dma_read", |asked, _| {
            asked.reply(0x21, &asked.payload)
        }),
        ("another command", "client.dma_read", |asked, memory| {
            let mut right = asked.right(memory);
            right[2] = 12;
            right
        }),
        ("another address", "client.dma_read", |asked, memory| {
            let mut right = asked.right(memory);
            right.get_mut(17..18).unwrap_or_default().fill(0xaa);
            right
        }),
        ("the same data twice", "client.dma_both", |asked, memory| {
            let mut right = asked.right(memory);
            if asked.id[0] % 2 == 0 {
                right.truncate(16);
                right[4] = 16;
            }
            right
        }),
        ("what is written is lost", "client.dma_data", |asked, memory| {
            if asked.command == 12 && asked.iova() == MEMORY {
                return asked.reply(1, &asked.payload[..16]);
            }
            asked.right(memory)
        }),
        (
            "a write's data in the reply",
            "client.dma_write",
            |asked, memory| {
                let right = asked.right(memory);
                let ok = asked.command == 12 && asked.iova() == MEMORY;
                if ok { asked.reply(1, &asked.payload) } else { right }
            },
        ),
        (
            "what can only be read is written",
            "client.dma_read_only",
            |asked, memory| {
                let right = asked.right(memory);
                let rom = asked.command == 12 && asked.iova() == ROM;
                if rom {
                    asked.reply(1, &asked.payload[..16])
                } else {
                    right
                }
            },
        ),
        ("zeros where nothing is", "client.dma_outside", |asked, memory| {
            let outside = asked.iova() == MEMORY + PAGE && asked.command == 11;
            if outside {
                asked.reply(1, &[&asked.payload[..16], &[0; 8]].concat())
            } else {
                asked.right(memory)
            }
        }),
        ("more than was mapped", "client.dma_outside", |asked, memory| {
            if asked.iova() == MEMORY + PAGE - 4 {
                return asked.reply(1, &[&asked.payload[..16], &[0; 8]].concat());
            }
            asked.right(memory)
        }),
        (
            "a size taken modulo 2^64",
            "client.dma_outside",
            |asked, memory| {
                if asked.count() == u64::MAX {
                    return asked.reply(1, &asked.payload[..16]);
                }
                asked.right(memory)
            },
        ),
        ("an answer twice", "client.unasked", |asked, memory| {
            asked.right(memory).repeat(2)
        }),
    ];
    for (what, rule, answer) in rows {
        let report = answering(answer);
        let found = matches!(outcome(&report, rule), Outcome::Fail { .. });
        assert!(found, "«{what}» was not found by {rule}:\n{report}");
    }
}
