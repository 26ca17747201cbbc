//! The channel against a client that answers well, late, badly or not at all.

use std::os::unix::net::UnixStream;

use super::*;
use crate::transport::{Incoming, Message};

/// The client's end: what it is sent, and what it answers.
struct Peer {
    incoming: Incoming,
    channel: Arc<DmaChannel>,
}

fn pair(chunk: u32, timeout: Duration) -> (Arc<DmaChannel>, Peer) {
    let (server, client) = UnixStream::pair().expect("a socket pair");
    let channel = Arc::new(DmaChannel::new(
        Arc::new(Outgoing::new(Arc::new(server))),
        chunk,
        timeout,
    ));
    let incoming = Incoming::new(Arc::new(client), 2 << 20);
    (Arc::clone(&channel), Peer { incoming, channel })
}

/// A whole access of its own.
fn read(channel: &DmaChannel, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
    let ticket = channel.begin(iova, iova + (data.len() as u64 - 1));
    let result = channel.read(ticket, iova, data);
    channel.end(ticket);
    result
}

fn write(channel: &DmaChannel, iova: u64, data: &[u8]) -> Result<(), DmaError> {
    let ticket = channel.begin(iova, iova + (data.len() as u64 - 1));
    let result = channel.write(ticket, iova, data);
    channel.end(ticket);
    result
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

impl Peer {
    /// The next command: id, access, data.
    fn command(&mut self) -> (Header, DmaAccess, Vec<u8>) {
        let message: Message = self.incoming.next_message().expect("good").expect("open");
        let (access, data) = DmaAccess::read_from_prefix(self.incoming.payload(&message)).expect("whole");
        (message.header, access, data.to_vec())
    }

    /// What the socket's thread does with a reply.
    fn reply(&self, header: Header, flags: u32, payload: &[u8]) -> Result<(), Unasked> {
        self.channel.answer(
            &Header {
                flags: 1 | flags,
                ..header
            },
            payload,
        )
    }

    fn answer(&self, (header, access, _): &(Header, DmaAccess, Vec<u8>), data: &[u8]) -> Result<(), Unasked> {
        self.reply(*header, 0, &[access.as_bytes(), data].concat())
    }
}

fn why(result: Result<(), DmaError>) -> &'static str {
    match result {
        Err(DmaError::Message { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_access_goes_in_pieces_that_the_client_takes() {
    let (channel, mut peer) = pair(1000, LONG);
    let writer = std::thread::spawn(move || write(&channel, 0x1000, &[7; 2500]));
    for (iova, count) in [(0x1000, 1000), (0x13e8, 1000), (0x17d0, 500)] {
        let command = peer.command();
        assert_eq!(command.1, DmaAccess { iova, count });
        assert_eq!(command.2, vec![7; count as usize]);
        peer.answer(&command, &[]).expect("asked");
    }
    assert_eq!(writer.join().expect("no panic"), Ok(()));

    let (channel, mut peer) = pair(1000, LONG);
    let reader = std::thread::spawn(move || {
        let mut data = [0; 1500];
        read(&channel, u64::MAX - 1499, &mut data).map(|()| data)
    });
    for value in [1, 2] {
        let command = peer.command();
        peer.answer(&command, &vec![value; command.1.count as usize])
            .expect("asked");
    }
    let data = reader.join().expect("no panic").expect("answered");
    assert_eq!((data[0], data[999], data[1000], data[1499]), (1, 1, 2, 2));
}

#[test]
fn answers_find_their_askers_in_any_order() {
    let (channel, mut peer) = pair(4096, LONG);
    let readers: Vec<_> = (0..8_u64)
        .map(|number| {
            let channel = Arc::clone(&channel);
            std::thread::spawn(move || {
                let mut data = [0; 8];
                read(&channel, number * 0x1000, &mut data).map(|()| u64::from_ne_bytes(data))
            })
        })
        .collect();
    let mut commands: Vec<_> = (0..8).map(|_| peer.command()).collect();
    let mut ids: Vec<_> = commands.iter().map(|command| command.0.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 8, "ids of open commands differ");
    commands.reverse();
    for command in &commands {
        peer.answer(command, &(command.1.iova + 5).to_ne_bytes())
            .expect("asked");
    }
    for (number, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.join().expect("no panic"), Ok(number as u64 * 0x1000 + 5));
    }
}

#[test]
fn an_answer_after_abandon_is_dropped_and_a_second_one_is_unasked() {
    let (channel, mut peer) = pair(4096, LONG);
    let reader = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || read(&channel, 0x1000, &mut [0; 4]))
    };
    let late = peer.command();
    channel.abandon();
    assert_eq!(why(reader.join().expect("no panic")), ABANDONED);

    // The channel works on, under other ids.
    let reader = std::thread::spawn(move || {
        let mut data = [0; 4];
        read(&channel, 0x2000, &mut data).map(|()| data)
    });
    let command = peer.command();
    assert_ne!(command.0.id, late.0.id);
    peer.answer(&late, &[9; 4]).expect("dropped");
    peer.answer(&command, &[1; 4]).expect("asked");
    assert_eq!(reader.join().expect("no panic"), Ok([1; 4]));
    assert_eq!(
        peer.answer(&late, &[9; 4]),
        Err(Unasked),
        "it was answered already"
    );
}

#[test]
fn abandon_ends_an_access_between_its_pieces() {
    let (channel, mut peer) = pair(1000, LONG);
    let writer = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || write(&channel, 0, &[0; 5000]))
    };
    let first = peer.command();
    // The answer and abandon come before the writer runs again, or after; in either case there is an end.
    channel.abandon();
    peer.answer(&first, &[]).expect("open");
    assert_eq!(why(writer.join().expect("no panic")), ABANDONED);
}

#[test]
fn bad_answers_fail_the_access_and_nothing_else() {
    type Answer = fn(&Peer, (Header, DmaAccess, Vec<u8>));
    let cases: [(&str, Answer, &str); 7] = [
        (
            "an error",
            |peer, (header, ..)| peer.reply(header, 0x20, &[]).expect("asked"),
            "refused",
        ),
        (
            "nothing",
            |peer, (header, ..)| peer.reply(header, 0, &[]).expect("asked"),
            "too short",
        ),
        (
            "15 bytes",
            |peer, (header, ..)| peer.reply(header, 0, &[0; 15]).expect("asked"),
            "too short",
        ),
        (
            "few bytes",
            |peer, command| peer.answer(&command, &[0; 3]).expect("asked"),
            "has not the bytes",
        ),
        (
            "many bytes",
            |peer, command| peer.answer(&command, &[0; 5]).expect("asked"),
            "has not the bytes",
        ),
        (
            "another address",
            |peer, (header, mut access, data)| {
                access.iova += 1;
                peer.answer(&(header, access, data), &[0; 4]).expect("asked");
            },
            "another access",
        ),
        (
            "another count",
            |peer, (header, mut access, data)| {
                access.count = u64::MAX;
                peer.answer(&(header, access, data), &[0; 4]).expect("asked");
            },
            "another access",
        ),
    ];
    let (channel, mut peer) = pair(4096, LONG);
    for (what, answer, reason) in cases {
        let reader = {
            let channel = Arc::clone(&channel);
            std::thread::spawn(move || read(&channel, 0x1000, &mut [0; 4]))
        };
        let command = peer.command();
        answer(&peer, command);
        let why = why(reader.join().expect("no panic"));
        assert!(why.contains(reason), "{what}: {why}");
    }
}

#[test]
fn a_write_is_acknowledged_with_a_count_of_4_or_8_bytes() {
    let (channel, mut peer) = pair(4096, LONG);
    for short in [false, true] {
        let writer = {
            let channel = Arc::clone(&channel);
            std::thread::spawn(move || write(&channel, 0x1000, &[1; 4]))
        };
        let (header, access, _) = peer.command();
        let payload = access.as_bytes();
        peer.reply(header, 0, if short { &payload[..12] } else { payload })
            .expect("asked");
        assert_eq!(writer.join().expect("no panic"), Ok(()), "short: {short}");
    }
}

#[test]
fn a_reply_under_a_wrong_command_is_unasked() {
    let (channel, mut peer) = pair(4096, LONG);
    let reader = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || read(&channel, 0x1000, &mut [0; 4]))
    };
    let (header, access, _) = peer.command();
    let wrong = Header {
        command: Command::DmaWrite as u16,
        ..header
    };
    assert_eq!(peer.reply(wrong, 0, access.as_bytes()), Err(Unasked));
    assert_eq!(
        peer.reply(
            Header {
                id: header.id ^ 1,
                ..header
            },
            0,
            access.as_bytes()
        ),
        Err(Unasked)
    );
    channel.close();
    assert_eq!(why(reader.join().expect("no panic")), "the connection is gone");
    assert_eq!(why(write(&channel, 0, &[0; 4])), "the connection is gone");
}

#[test]
fn a_client_that_answers_nothing_is_asked_no_more() {
    let (channel, mut peer) = pair(4096, Duration::from_millis(1));
    for _ in 0..MAX_OPEN {
        let why = why(read(&channel, 0x1000, &mut [0; 4]));
        assert!(why.contains("in time") || why.contains("does not read"), "{why}");
    }
    let commands: Vec<_> = (0..MAX_OPEN).map(|_| peer.command()).collect();
    assert!(why(read(&channel, 0, &mut [0; 4])).contains("too many"));
    peer.answer(&commands[0], &[0; 4]).expect("dropped");
    assert!(
        why(read(&channel, 0, &mut [0; 4])).contains("in time"),
        "one is free again"
    );
}

#[test]
fn the_thread_that_reads_answers_is_refused() {
    let (channel, _peer) = pair(4096, LONG);
    channel.read_here();
    assert!(why(read(&channel, 0, &mut [0; 4])).contains("would have to read"));
}

#[test]
fn a_message_given_up_half_way_is_finished_before_the_next_one() {
    let (channel, mut peer) = pair(1 << 20, SHORT);
    // The socket holds less than this.
    let big = vec![5; 1 << 20];
    let reason = why(write(&channel, 0x1000, &big));
    assert!(reason.contains("while it was sent"), "{reason}");
    assert!(
        why(read(&channel, 0x9000, &mut [0; 4])).contains("does not read"),
        "nothing goes before the rest"
    );

    let reader = std::thread::spawn(move || {
        let whole = peer.command();
        let next = peer.command();
        peer.answer(&whole, &[]).expect("dropped");
        peer.answer(&next, &[3; 4]).expect("asked");
        (whole, next.1)
    });
    let mut data = [0; 4];
    // The reader may take a while to begin.
    for _ in 0..200 {
        if read(&channel, 0x2000, &mut data).is_ok() {
            break;
        }
    }
    let (whole, next) = reader.join().expect("no panic");
    assert_eq!(
        (whole.1, whole.2.len()),
        (
            DmaAccess {
                iova: 0x1000,
                count: 1 << 20
            },
            1 << 20
        )
    );
    assert!(whole.2.iter().all(|&byte| byte == 5));
    assert_eq!(next.iova, 0x2000);
}

#[test]
fn an_unmap_ends_accesses_to_its_range_and_no_others() {
    for (first, last, ended) in [
        (0x9000, 0x9fff, false),
        (0, 0xfff, false),
        (0x1064, u64::MAX, false),
        (0x1063, 0x1063, true),
        (0, 0x1000, true),
        (0, u64::MAX, true),
    ] {
        let (channel, mut peer) = pair(1000, LONG);
        let asked = Arc::clone(&channel);
        let writer = std::thread::spawn(move || write(&asked, 0x1000, &[7; 100]));
        let command = peer.command();
        channel.abandon_range(first, last);
        if ended {
            let result = writer.join().expect("no panic");
            assert_eq!(
                why(result),
                ABANDONED,
                "after an unmap of {first:#x} to {last:#x}"
            );
            peer.answer(&command, &[]).expect("a late answer is known");
        } else {
            peer.answer(&command, &[]).expect("asked");
            let result = writer.join().expect("no panic");
            assert_eq!(result, Ok(()), "after an unmap of {first:#x} to {last:#x}");
        }
        let open = channel.lock();
        assert!(
            open.accesses.is_empty() && open.commands.is_empty(),
            "left: {open:?}"
        );
    }
}

#[test]
fn an_access_that_an_unmap_found_begun_sends_nothing() {
    let (channel, mut peer) = pair(4096, LONG);
    let ended = channel.begin(0x1000, 0x1fff);
    let other = channel.begin(0x2000, 0x2fff);
    channel.abandon_range(0x1000, 0x1fff);
    assert_eq!(why(channel.write(ended, 0x1000, &[1; 4])), ABANDONED);
    assert_eq!(why(channel.read(ended, 0x1000, &mut [0; 4])), ABANDONED);
    let writer = {
        let channel = Arc::clone(&channel);
        std::thread::spawn(move || channel.write(other, 0x2000, &[2; 4]))
    };
    let command = peer.command();
    assert_eq!(command.1.iova, 0x2000, "the first message is the other access's");
    peer.answer(&command, &[]).expect("asked");
    assert_eq!(writer.join().expect("no panic"), Ok(()));
    channel.end(ended);
    assert_eq!(
        why(channel.write(ended, 0x1000, &[1; 4])),
        ABANDONED,
        "after its end too"
    );
}
