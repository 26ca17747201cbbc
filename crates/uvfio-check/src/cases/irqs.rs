//! DEVICE_SET_IRQS. Interrupts are triggered by request: nothing is known of what else makes the device send one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use uvfio_proto::message::{Command, IrqFlags};

use super::{REFUSED, WHOLE, refused, steps};
use crate::case::{Bench, Case, Rule, Step, fail, hold, not_applicable};
use crate::payload::{set_irqs, words};
use crate::session::Session;
use crate::wire::readable;

const SECTION: Rule = Rule::Spec("VFIO_USER_DEVICE_SET_IRQS");

const NONE: u32 = 1;
const BOOL: u32 = 1 << 1;
const EVENTFD: u32 = 1 << 2;
const MASK: u32 = 1 << 3;
const UNMASK: u32 = 1 << 4;
const TRIGGER: u32 = 1 << 5;

/// How long an eventfd is watched that must not be written: too short lets a fault pass, never the reverse.
const QUIET: Duration = Duration::from_millis(100);

pub(super) const CASES: &[Case] = &[
    steps(
        "irqs.intx",
        "INTx: an eventfd, then TRIGGER",
        SECTION,
        "the eventfd is written",
        |bench| signal(bench, 0),
    ),
    steps(
        "irqs.msi",
        "MSI: an eventfd for message 0, then TRIGGER",
        SECTION,
        "the eventfd is written",
        |bench| signal(bench, 1),
    ),
    steps(
        "irqs.msix",
        "MSI-X: an eventfd for vector 0, then TRIGGER",
        SECTION,
        "the eventfd is written",
        |bench| signal(bench, 2),
    ),
    steps(
        "irqs.bool",
        "eventfds for two vectors, then TRIGGER with the booleans 0, 1",
        SECTION,
        "the second eventfd is written, the first is not",
        |bench| {
            let Some(index) = bench.facts()?.signalled(2) else {
                return not_applicable("no index has two interrupts");
            };
            let mut session = bench.session()?;
            let events = [event()?, event()?];
            attach(&mut session, index, &events)?;
            trigger(&mut session, &set_irqs(BOOL | TRIGGER, index, 0, 2, &[0, 1]))?;
            let [first, second] = &events;
            hold(readable(second, bench.patience().reply)?, || {
                "the second was not written".into()
            })?;
            hold(!readable(first, Duration::ZERO)?, || {
                "the first was written".into()
            })
        },
    ),
    steps(
        "irqs.replaced",
        "a second eventfd for the same vector, then TRIGGER",
        SECTION,
        "the second is written, the first is not",
        |bench| {
            let index = any(bench)?;
            let mut session = bench.session()?;
            let (first, second) = (event()?, event()?);
            attach(&mut session, index, std::slice::from_ref(&first))?;
            attach(&mut session, index, std::slice::from_ref(&second))?;
            trigger(&mut session, &set_irqs(NONE | TRIGGER, index, 0, 1, &[]))?;
            hold(readable(&second, bench.patience().reply)?, || {
                "the second was not written".into()
            })?;
            hold(!readable(&first, Duration::ZERO)?, || {
                "the first was written".into()
            })
        },
    ),
    steps(
        "irqs.disable",
        "an eventfd, then NONE and TRIGGER with count 0",
        SECTION,
        "both succeed; a later TRIGGER writes nothing",
        |bench| {
            silent_after(bench, |session, index| {
                trigger(session, &set_irqs(NONE | TRIGGER, index, 0, 0, &[]))
            })
        },
    ),
    steps(
        "irqs.taken_away",
        "an eventfd, then the same without a descriptor",
        SECTION,
        "both succeed; a later TRIGGER writes nothing",
        |bench| silent_after(bench, |session, index| attach(session, index, &[])),
    ),
    steps(
        "irqs.mask",
        "MASK, then UNMASK, of an index with the flag MASKABLE",
        SECTION,
        "both succeed",
        |bench| {
            let maskable = |info: &&uvfio_proto::message::IrqInfo| {
                info.count > 0 && info.flags & IrqFlags::MASKABLE.bits() != 0
            };
            let Some(index) = bench.facts()?.irqs.iter().find(maskable).map(|info| info.index) else {
                return not_applicable("no index says that it is maskable");
            };
            let mut session = bench.session()?;
            let event = event()?;
            attach(&mut session, index, std::slice::from_ref(&event))?;
            for action in [MASK, UNMASK] {
                trigger(&mut session, &set_irqs(NONE | action, index, 0, 1, &[]))?;
            }
            Ok(())
        },
    ),
    steps(
        "irqs.no_flags",
        "neither data nor action; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| bad(bench, |index, _| set_irqs(0, index, 0, 1, &[])),
    ),
    steps(
        "irqs.no_action",
        "data without action; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| bad(bench, |index, _| set_irqs(NONE, index, 0, 1, &[])),
    ),
    steps(
        "irqs.no_data",
        "an action without data; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| bad(bench, |index, _| set_irqs(TRIGGER, index, 0, 1, &[])),
    ),
    steps(
        "irqs.two_actions",
        "two actions; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| {
            bad(bench, |index, _| {
                set_irqs(NONE | TRIGGER | MASK, index, 0, 1, &[])
            })
        },
    ),
    steps(
        "irqs.two_data",
        "two kinds of data; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| {
            bad(bench, |index, _| {
                set_irqs(NONE | BOOL | TRIGGER, index, 0, 1, &[1])
            })
        },
    ),
    steps(
        "irqs.unknown_flag",
        "bit 6 of the flags; the vector has an eventfd",
        WHOLE,
        REFUSED,
        |bench| {
            bad(bench, |index, _| {
                set_irqs(NONE | TRIGGER | 1 << 6, index, 0, 1, &[])
            })
        },
    ),
    steps(
        "irqs.past_end",
        "the vector after the last; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| {
            bad(bench, |index, count| {
                set_irqs(NONE | TRIGGER, index, count, 1, &[])
            })
        },
    ),
    steps(
        "irqs.too_many",
        "one vector more than there are; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| {
            bad(bench, |index, count| {
                set_irqs(NONE | TRIGGER, index, 0, count.saturating_add(1), &[])
            })
        },
    ),
    steps(
        "irqs.wraps",
        "start 2^32 - 1 and count 2; the vector has an eventfd",
        SECTION,
        REFUSED,
        |bench| {
            bad(bench, |index, _| {
                set_irqs(NONE | TRIGGER, index, u32::MAX, 2, &[])
            })
        },
    ),
    steps(
        "irqs.bool_missing",
        "booleans announced and not sent; the vector has an eventfd",
        WHOLE,
        REFUSED,
        |bench| bad(bench, |index, _| set_irqs(BOOL | TRIGGER, index, 0, 1, &[])),
    ),
    steps(
        "irqs.argsz",
        "argsz 0; the vector has an eventfd",
        WHOLE,
        REFUSED,
        |bench| bad(bench, |index, _| words(&[0, NONE | TRIGGER, index, 0, 1])),
    ),
    steps(
        "irqs.mask_none",
        "MASK of no vectors; the vector has an eventfd",
        Rule::Ours("a count of 0 has its one meaning with NONE and TRIGGER"),
        REFUSED,
        |bench| bad(bench, |index, _| set_irqs(BOOL | MASK, index, 0, 0, &[])),
    ),
    refused(
        "irqs.no_index",
        "the index after the last",
        SECTION,
        Command::SetIrqs,
        |facts| Some(set_irqs(NONE | TRIGGER, facts.irq_count, 0, 1, &[])),
    ),
    refused(
        "irqs.short",
        "19 bytes of payload",
        WHOLE,
        Command::SetIrqs,
        |_| Some(vec![0; 19]),
    ),
    steps(
        "irqs.surplus",
        "three eventfds for one vector",
        Rule::Ours("descriptors that fit no vector are a mistake that must show"),
        "an error reply; the session goes on",
        |bench| {
            let index = any(bench)?;
            let mut session = bench.session()?;
            let events = [event()?, event()?, event()?];
            let fds: Vec<_> = events.iter().map(AsFd::as_fd).collect();
            let reply = session.ask_number(
                Command::SetIrqs as u16,
                &set_irqs(EVENTFD | TRIGGER, index, 0, 1, &[]),
                &fds,
            )?;
            hold(reply.errno.is_some(), || "it succeeded".into())?;
            session.check_alive()
        },
    ),
    steps(
        "irqs.no_eventfd",
        "a file where an eventfd should be",
        Rule::Ours("a file would grow, a pipe could block whoever signals it"),
        "an error reply; the session goes on",
        |bench| {
            let index = any(bench)?;
            let mut session = bench.session()?;
            let file = super::dma::memory(4096)?;
            let reply = session.ask_number(
                Command::SetIrqs as u16,
                &set_irqs(EVENTFD | TRIGGER, index, 0, 1, &[]),
                &[file.as_fd()],
            )?;
            hold(reply.errno.is_some(), || "it succeeded".into())?;
            session.check_alive()
        },
    ),
];

fn event() -> Step<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?)
}

/// An index whose interrupts an eventfd can signal.
fn any(bench: &Bench<'_>) -> Step<u32> {
    match bench.facts()?.signalled(1) {
        Some(index) => Ok(index),
        None => not_applicable("no index is signalled by eventfd"),
    }
}

/// Attaches eventfds from vector 0 on, one a message, since a server need not take more; none of them takes vector
/// 0's away.
fn attach(session: &mut Session, index: u32, events: &[OwnedFd]) -> Step {
    let attach = EVENTFD | TRIGGER;
    if events.is_empty() {
        return trigger(session, &set_irqs(attach, index, 0, 1, &[]));
    }
    for (vector, event) in events.iter().enumerate() {
        let payload = set_irqs(attach, index, vector as u32, 1, &[]);
        session.done_with(Command::SetIrqs, &payload, &[event.as_fd()], 0)?;
    }
    Ok(())
}

fn trigger(session: &mut Session, payload: &[u8]) -> Step {
    session.done_with(Command::SetIrqs, payload, &[], 0)?;
    Ok(())
}

fn signal(bench: &Bench<'_>, index: u32) -> Step {
    let info = bench.facts()?.irqs.get(index as usize);
    if !info.is_some_and(|info| info.count > 0 && info.flags & IrqFlags::EVENTFD.bits() != 0) {
        return not_applicable("the device has no such interrupt, or none that an eventfd signals");
    }
    let mut session = bench.session()?;
    let event = event()?;
    attach(&mut session, index, std::slice::from_ref(&event))?;
    trigger(&mut session, &set_irqs(NONE | TRIGGER, index, 0, 1, &[]))?;
    hold(readable(&event, bench.patience().reply)?, || {
        "it was not written".into()
    })?;
    let mut count = [0; 8];
    match rustix::io::read(&event, &mut count) {
        Ok(8) => {}
        other => return fail(format!("the eventfd can't be read: {other:?}")),
    }
    let count = u64::from_ne_bytes(count);
    hold(count == 1, || format!("it was written {count} times"))?;
    hold(!readable(&event, QUIET)?, || "it was written again".into())
}

/// A request that must be refused, whatever state the index is in: vector 0 has an eventfd before.
fn bad(bench: &Bench<'_>, payload: fn(u32, u32) -> Vec<u8>) -> Step {
    let index = any(bench)?;
    let count = bench
        .facts()?
        .irqs
        .get(index as usize)
        .map_or(1, |info| info.count);
    let mut session = bench.session()?;
    attach(&mut session, index, &[event()?])?;
    session.refused(Command::SetIrqs, &payload(index, count))?;
    session.check_alive()
}

/// An eventfd is attached, and this done; then a TRIGGER does not write it any more.
fn silent_after(bench: &Bench<'_>, takes_away: impl FnOnce(&mut Session, u32) -> Step) -> Step {
    let index = any(bench)?;
    let mut session = bench.session()?;
    let event = event()?;
    attach(&mut session, index, std::slice::from_ref(&event))?;
    takes_away(&mut session, index)?;
    // Whether it is refused now is not said.
    session.ask(Command::SetIrqs, &set_irqs(NONE | TRIGGER, index, 0, 1, &[]))?;
    session.check_alive()?;
    hold(!readable(&event, QUIET)?, || "it was written".into())
}
