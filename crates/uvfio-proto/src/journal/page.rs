//! The notes as they lie in the journal's first page. Each method is safe against an end between any two stores.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Release};

use super::{Agreed, Sending};

/// What the notes take at the beginning of the file; the bytes received follow.
pub(super) const PAGE_BYTES: usize = 4096;

/// A call of the kernel's that moves bytes, and counts them itself.
#[repr(C)]
pub(super) struct Call {
    /// The call is under way, or was: `base` and the structure's length are the truth.
    armed: AtomicU32,
    /// Bytes moved before the call.
    base: AtomicU64,
    /// Bytes moved, where no call is under way.
    moved: AtomicU64,
    /// The structure that the kernel writes its count into; used under the rules of `memory`.
    pub(super) message: UnsafeCell<libc::mmsghdr>,
}

impl Call {
    /// Before the call; the structure's length must be 0 already.
    pub(super) fn arm(&self, base: u64) {
        self.base.store(base, Release);
        self.armed.store(1, Release);
    }

    /// After the call.
    pub(super) fn disarm(&self, moved: u64) {
        self.moved.store(moved, Release);
        self.armed.store(0, Release);
    }

    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Acquire)
    }

    /// What has been moved, whether or not the call came back; `length` is the structure's.
    fn settled(&self, length: u32) -> u64 {
        if self.armed.load(Acquire) == 1 {
            self.base.load(Acquire).saturating_add(u64::from(length))
        } else {
            self.moved.load(Acquire)
        }
    }
}

/// A message that goes out.
#[repr(C)]
pub(super) struct Outgoing {
    /// For a reply: where in the stream the message begins that it answers, plus 1; 0 while this is being written.
    answers: AtomicU64,
    /// Bytes.
    total: AtomicU64,
    pub(super) call: Call,
}

/// The page. A new one is all zeroes.
#[repr(C)]
pub(super) struct Page {
    agreed: AtomicU32,
    most_fds: AtomicU32,
    one_area: AtomicU32,
    most_data: AtomicU32,
    /// Messages before this byte of the stream are answered.
    done: AtomicU64,
    /// The number in the stream of the buffer's first byte.
    before: AtomicU64,
    /// Bytes received in all.
    pub(super) receive: Call,
    reply: Outgoing,
    command: Outgoing,
}

const _: () = assert!(size_of::<Page>() <= PAGE_BYTES, "the notes have one page");

/// The lengths that the kernel wrote into the structures.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lengths {
    pub(super) received: u32,
    pub(super) reply: u32,
    pub(super) command: u32,
}

/// All of it, as a server that died has left it; not checked.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) done: u64,
    pub(super) end: u64,
    pub(super) before: u64,
    pub(super) agreed: Option<Agreed>,
    /// Sent and total bytes of the reply to the first message that does not count as answered.
    pub(super) reply: Option<(u64, u64)>,
    pub(super) command_sent: u64,
    pub(super) command_total: u64,
}

impl Page {
    pub(super) fn outgoing(&self, what: Sending) -> &Outgoing {
        match what {
            Sending::Reply => &self.reply,
            Sending::Command => &self.command,
        }
    }

    pub(super) fn agree(&self, session: Agreed) {
        self.most_fds.store(session.most_fds, Release);
        self.one_area.store(session.one_area.into(), Release);
        self.most_data.store(session.most_data, Release);
        self.agreed.store(1, Release);
    }

    pub(super) fn done(&self, done: u64) {
        self.done.store(done, Release);
    }

    pub(super) fn moved(&self, before: u64) {
        self.before.store(before, Release);
    }

    /// Corrects the number of bytes received.
    pub(super) fn received(&self, end: u64) {
        self.receive.disarm(end);
    }

    pub(super) fn begin(&self, what: Sending, total: u64) {
        let outgoing = self.outgoing(what);
        outgoing.answers.store(0, Release);
        outgoing.total.store(total, Release);
        outgoing.call.disarm(0);
        outgoing
            .answers
            .store(self.done.load(Acquire).wrapping_add(1), Release);
    }

    pub(super) fn noted(&self, lengths: Lengths) -> Noted {
        let done = self.done.load(Acquire);
        let reply_is_to = self.reply.answers.load(Acquire);
        Noted {
            done,
            end: self.receive.settled(lengths.received),
            before: self.before.load(Acquire),
            agreed: (self.agreed.load(Acquire) == 1).then(|| Agreed {
                most_fds: self.most_fds.load(Acquire),
                one_area: self.one_area.load(Acquire) == 1,
                most_data: self.most_data.load(Acquire),
            }),
            reply: (reply_is_to == done.wrapping_add(1)).then(|| {
                let sent = self.reply.call.settled(lengths.reply);
                (sent, self.reply.total.load(Acquire))
            }),
            command_sent: self.command.call.settled(lengths.command),
            command_total: self.command.total.load(Acquire),
        }
    }
}
