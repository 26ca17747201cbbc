//! Answers that may be longer than the room for them.

use rustix::io::Errno;

use super::argument::{Argument, u32_at};
use super::chain::Malformed;
use super::error::{Asked, VfioError};
use super::rule::Rule;

/// More than any answer needs: the longest are lists of areas and ranges of 16 bytes each.
const MOST: u32 = 1 << 20;
/// Lists may grow between two requests, but not for ever.
const TRIES: usize = 4;

/// Why there is no whole answer.
#[derive(Debug)]
pub(super) enum Incomplete {
    Refused(Errno),
    Malformed(Malformed),
}

impl Incomplete {
    /// As an error of the request `asked`; `rule` says what an error number means for it.
    pub(super) fn of(self, asked: Asked, rule: impl FnOnce(Errno) -> Rule) -> VfioError {
        match self {
            Self::Refused(errno) => asked.refused(rule(errno), errno),
            Self::Malformed(source) => asked.malformed(source),
        }
    }
}

/// Sends `first`, and again with as much room as the answer's `argsz` asks for, until all of it is there.
pub(super) fn complete(
    first: &Argument,
    mut send: impl FnMut(&mut Argument) -> rustix::io::Result<i32>,
) -> Result<Argument, Incomplete> {
    let mut room = first.bytes().len();
    let mut wants = 0;
    for _ in 0..TRIES {
        let mut argument = first.grown_to(room);
        send(&mut argument).map_err(Incomplete::Refused)?;
        wants = u32_at(argument.bytes(), 0);
        match usize::try_from(wants) {
            Ok(wanted) if wanted <= room => return Ok(argument),
            Ok(wanted) if wants <= MOST => room = wanted,
            _ => break,
        }
    }
    Err(Incomplete::Malformed(Malformed::Room { bytes: wants }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel whose answer takes `needs` bytes: it fills what there is room for.
    fn kernel(needs: u32) -> impl FnMut(&mut Argument) -> rustix::io::Result<i32> {
        move |argument| {
            let room = argument.sealed();
            room[0..4].copy_from_slice(&needs.to_ne_bytes());
            let filled = room.len().min(needs as usize);
            room[4..filled].fill(0xaa);
            Ok(0)
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_is_asked_for_again_with_room() {
        let first = Argument::with_bytes(16).set_u32(8, 7);
        let answer = complete(&first, kernel(100)).unwrap();
        assert_eq!(answer.bytes().len(), 100);
        assert!(answer.bytes()[4..].iter().all(|byte| *byte == 0xaa));
        assert_eq!(complete(&first, kernel(16)).unwrap().bytes().len(), 16);
        // An older kernel's answer is shorter than our structure.
        assert_eq!(complete(&first, kernel(12)).unwrap().bytes().len(), 16);
    }

    #[test]
    fn what_was_asked_stands_in_each_request() {
        let first = Argument::with_bytes(16).set_u32(8, 7);
        let mut seen = Vec::new();
        let mut answer = kernel(40);
        complete(&first, |argument| {
            seen.push(u32_at(argument.bytes(), 8));
            answer(argument)
        })
        .unwrap();
        assert_eq!(seen, [7, 7]);
    }

    #[test]
    fn an_answer_that_grows_each_time_or_wants_too_much_is_given_up() {
        let first = Argument::with_bytes(16);
        let mut needs = 16;
        let grows = complete(&first, |argument| {
            needs += 16;
            kernel(needs)(argument)
        });
        assert!(
            matches!(grows, Err(Incomplete::Malformed(Malformed::Room { bytes: 80 }))),
            "{grows:?}"
        );
        let much = complete(&first, kernel(MOST + 1));
        assert!(
            matches!(much, Err(Incomplete::Malformed(Malformed::Room { .. }))),
            "{much:?}"
        );
    }
}
