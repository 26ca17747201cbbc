//! A log that need not be read.
//!
//! ```text
//! worker:      lines -> its standard error, a pipe of ours -> a thread of the supervisor -> standard error
//! supervisor:  lines -> another pipe of ours               -> another thread             -> standard error
//! ```
//!
//! Whoever reads the log at the end may stop reading, for a moment or for good. Then the threads wait, and nobody else:
//! a line that finds its pipe full is dropped and counted, and the next one for which there is room says how many were.
//! The ends that are written have `O_NONBLOCK`; they are ours alone, unlike standard error, whose flags it shares with
//! the shell that started us.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{PIPE_BUF, PipeFlags, pipe_with};

/// How a line ends that was too long to be written whole, in one piece.
const CUT: &[u8] = b" [cut]\n";

/// Both ends of a pipe, of which that for writing (the second) doesn't block. No process but ours and its workers may
/// get that one.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK)?;
    Ok((read, write))
}

/// Where lines are written: the end of such a pipe.
#[derive(Clone, Debug)]
pub(crate) struct Lines(Arc<Mutex<End>>);

#[derive(Debug)]
struct End {
    pipe: OwnedFd,
    /// Bytes that went into it.
    written: u64,
    /// Lines that did not, and have not been told of.
    dropped: u64,
}

impl Lines {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self(Arc::new(Mutex::new(End {
            pipe,
            written: 0,
            dropped: 0,
        })))
    }

    /// Writes text, each line as a whole or not at all, without waiting.
    pub(crate) fn put(&self, text: &[u8]) {
        let mut end = self.end();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            end.put(line);
        }
    }

    /// Says how many lines were dropped since it was last said, where there is room for that now; whether it has.
    pub(crate) fn tell_dropped(&self) -> bool {
        let mut end = self.end();
        end.dropped > 0 && end.tell_dropped()
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    fn put(&mut self, line: &[u8]) {
        let cut;
        let line = if line.len() <= PIPE_BUF {
            line
        } else {
            cut = [line.get(..PIPE_BUF - CUT.len()).unwrap_or_default(), CUT].concat();
            &cut
        };
        if !self.tell_dropped() || !self.fits(line) {
            self.dropped += 1;
        }
    }

    /// Whether nothing is left to be told.
    fn tell_dropped(&mut self) -> bool {
        if self.dropped == 0 {
            return true;
        }
        let note = format!(
            "uvfio: {} lines of the log were dropped: nobody read it in time\n",
            self.dropped
        );
        let told = self.fits(note.as_bytes());
        if told {
            self.dropped = 0;
        }
        told
    }

    /// Writes at most `PIPE_BUF` bytes, all or none; none where there is no room for them.
    fn fits(&mut self, bytes: &[u8]) -> bool {
        loop {
            match rustix::io::write(&self.pipe, bytes) {
                Ok(_) => {
                    self.written += bytes.len() as u64;
                    return true;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // Nobody will ever read it: no reason to end, nor to count.
                Err(_) => return true,
            }
        }
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How far a log has come at its other end: bytes, and whether more will come.
#[derive(Debug, Default)]
struct Progress {
    copied: u64,
    over: bool,
}

/// A thread that copies such a pipe to standard error, however long that takes.
#[derive(Debug)]
pub(crate) struct Copier(Arc<(Mutex<Progress>, Condvar)>);

impl Copier {
    /// Copies from `pipe` to this process's standard error until no end for writing is left.
    pub(crate) fn to_stderr(pipe: OwnedFd) -> io::Result<Self> {
        // A descriptor of its own: the lock of `io::stderr` must not be held while the write waits.
        Self::start(pipe, File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn start(pipe: OwnedFd, to: impl Write + Send + 'static) -> io::Result<Self> {
        let progress = Arc::new((Mutex::new(Progress::default()), Condvar::new()));
        let copier = Self(Arc::clone(&progress));
        std::thread::Builder::new().name("log".into()).spawn(move || {
            let note = |step: &dyn Fn(&mut Progress)| {
                step(&mut progress.0.lock().unwrap_or_else(PoisonError::into_inner));
                progress.1.notify_all();
            };
            // An error: standard error is closed. Without a log the device serves on.
            let _ = copy(File::from(pipe), to, |bytes| note(&|p| p.copied += bytes));
            note(&|p| p.over = true);
        })?;
        Ok(copier)
    }

    /// Waits until all that has been written to `lines` is copied, but no longer than `patience`.
    pub(crate) fn catch_up(&self, lines: &Lines, patience: Duration) {
        let written = lines.end().written;
        self.wait(patience, |progress| progress.copied >= written);
    }

    /// Waits until the last end for writing is closed and all is copied, but no longer than `patience`.
    pub(crate) fn end(&self, patience: Duration) {
        self.wait(patience, |_| false);
    }

    fn wait(&self, patience: Duration, enough: impl Fn(&Progress) -> bool) {
        let (progress, changed) = &*self.0;
        let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_timeout_while(progress, patience, |now| !now.over && !enough(now)));
    }
}

/// Copies, in whole lines, so that those of two logs that end in one place are not mixed; tells how many bytes it has
/// copied each time.
fn copy(mut from: impl Read, mut to: impl Write, copied: impl Fn(u64)) -> io::Result<()> {
    let mut buffer = vec![0; 4 * PIPE_BUF];
    let mut have = 0;
    loop {
        let got = match from.read(&mut buffer[have..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        have += got;
        let newline = buffer[..have].iter().rposition(|byte| *byte == b'\n');
        let whole = match newline {
            Some(at) => at + 1,
            None if got == 0 || have == buffer.len() => have,
            None => 0,
        };
        to.write_all(&buffer[..whole])?;
        copied(whole as u64);
        buffer.copy_within(whole..have, 0);
        have -= whole;
        if got == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)] // A test whose ground gives way has failed.

    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Far longer than anything here takes.
    const LONG: Duration = Duration::from_secs(20);

    /// Standard error whose reader takes one piece for each `()` that it is sent.
    struct Slow {
        next: Receiver<()>,
        read: Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.next.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.read
                .send(bytes.to_vec())
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Everything written to a pipe whose writing ends are gone.
    fn read_all(read: OwnedFd) -> String {
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).expect("text");
        text
    }

    #[test]
    fn lines_for_which_there_is_no_room_are_dropped_and_told_of_once_there_is() {
        let (read, write) = pipe().expect("a pipe");
        let lines = Lines::new(write);
        let line = |number: u32| format!("line {number:>8} of those that fill it\n");
        // A pipe has 64 KiB.
        for number in 0..10_000 {
            lines.put(line(number).as_bytes());
        }
        let mut some = vec![0; 32 << 10];
        let mut reader = File::from(read);
        reader.read_exact(&mut some).expect("what was written");
        lines.put(b"there is room\n");
        lines.put(b"no note before this\n");
        assert!(!lines.tell_dropped(), "there is nothing left to tell");
        drop(lines);

        let text = String::from_utf8(some).expect("text") + &read_all(reader.into());
        let whole = (0..10_000)
            .take_while(|number| text.contains(&line(*number)))
            .count();
        assert!((1000..9000).contains(&whole), "{whole} lines were written");
        let tail: Vec<&str> = text.lines().skip(whole).collect();
        let note = format!(
            "uvfio: {} lines of the log were dropped: nobody read it in time",
            10_000 - whole
        );
        assert_eq!(tail, [note.as_str(), "there is room", "no note before this"]);
    }

    #[test]
    fn a_line_longer_than_a_pipe_takes_in_one_piece_is_cut_and_says_so() {
        let (read, write) = pipe().expect("a pipe");
        let lines = Lines::new(write);
        lines.put(&[vec![b'a'; 3 * PIPE_BUF], b"\nnext\n".to_vec()].concat());
        drop(lines);
        let text = read_all(read);
        assert_eq!(text.len(), PIPE_BUF + "next\n".len());
        assert!(text.ends_with("aaa [cut]\nnext\n"), "{:?}", text.get(4000..));
    }

    #[test]
    fn nobody_waits_for_a_reader_that_has_stopped_and_what_it_left_comes_when_it_goes_on() {
        let (read, write) = pipe().expect("a pipe");
        let (go_on, next) = channel();
        let (send, pieces) = channel();
        let copier = Copier::start(read, Slow { next, read: send }).expect("a thread");
        let lines = Lines::new(write);
        for number in 0..10_000 {
            lines.put(format!("line {number} that nobody reads\n").as_bytes());
        }
        // Comes back, though nothing is copied.
        copier.catch_up(&lines, Duration::from_millis(1));
        assert!(pieces.try_recv().is_err(), "something was read");

        for _ in 0..1000 {
            go_on.send(()).expect("the copier is there");
        }
        copier.catch_up(&lines, LONG);
        assert!(lines.tell_dropped(), "there was something to tell");
        drop(lines);
        copier.end(LONG);
        let text = String::from_utf8(pieces.try_iter().flatten().collect()).expect("text");
        let last = text.lines().last().expect("lines");
        assert!(
            last.ends_with("lines of the log were dropped: nobody read it in time"),
            "{last}"
        );
        assert!(
            text.starts_with("line 0 that nobody reads\nline 1 "),
            "{:?}",
            text.get(..99)
        );
    }

    #[test]
    fn lines_of_two_logs_are_not_mixed_however_they_arrive() {
        let (read, write) = pipe().expect("a pipe");
        let (go_on, next) = channel();
        let (send, pieces) = channel();
        let copier = Copier::start(read, Slow { next, read: send }).expect("a thread");
        (0..10).for_each(|_| go_on.send(()).expect("the copier is there"));
        for part in [&b"one\nhalf"[..], b" a line\nand", b" no end"] {
            rustix::io::write(&write, part).expect("written");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(write);
        copier.end(LONG);
        let pieces: Vec<String> = pieces
            .try_iter()
            .map(|piece| String::from_utf8(piece).expect("text"))
            .collect();
        assert_eq!(pieces.concat(), "one\nhalf a line\nand no end");
        let (last, whole) = pieces.split_last().expect("pieces");
        assert!(whole.iter().all(|piece| piece.ends_with('\n')), "{whole:?}");
        assert_eq!(last, "and no end");
    }
}
