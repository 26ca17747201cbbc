//! The table of all cases: one file a group.

mod by_message;
mod disconnect;
mod dma;
mod framing;
mod header;
mod info;
mod io_fds;
mod irqs;
mod order;
mod regions;
mod reset;
mod version;

use uvfio_proto::message::Command;

use crate::case::{Bench, Case, Rule, Run, Step};
use crate::facts::Facts;

pub(crate) use dma::memory;

/// All cases, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        version::CASES,
        header::CASES,
        framing::CASES,
        info::CASES,
        io_fds::CASES,
        regions::CASES,
        irqs::CASES,
        dma::CASES,
        by_message::ASKED,
        by_message::STOPPED,
        by_message::ANSWERS,
        order::CASES,
        reset::CASES,
        disconnect::CASES,
    ]
    .into_iter()
    .flatten()
}

/// Why a server must not take requests that lie about themselves.
const WHOLE: Rule =
    Rule::Ours("what is too short to be the command, or contradicts itself, is refused and not guessed at");

const REFUSED: &str = "an error reply that is a header only; the session goes on";

/// A case of several steps.
const fn steps(
    name: &'static str,
    what: &'static str,
    rule: Rule,
    expected: &'static str,
    steps: fn(&Bench<'_>) -> Step,
) -> Case {
    Case {
        name,
        what,
        rule,
        expected,
        run: Run::Steps(steps),
    }
}

/// A command that must be refused.
const fn refused(
    name: &'static str,
    what: &'static str,
    rule: Rule,
    command: Command,
    payload: fn(&Facts) -> Option<Vec<u8>>,
) -> Case {
    Case {
        name,
        what,
        rule,
        expected: REFUSED,
        run: Run::Refused(command, payload),
    }
}
