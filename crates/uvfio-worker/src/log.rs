//! The log, in rations: what a user can cause at will must fill neither the disk nor its reader's day.
//!
//! Every kind of event (one place in the program, one device) has its own allowance over time, whoever causes it:
//! coming again under a new connection gains a user nothing, and a flood of one kind hides no other. What is dropped
//! is counted, and the count is logged with what comes next. Debugging output (levels `debug` and `trace`) is asked
//! for by the operator, and passes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, format};
use tracing_subscriber::registry::LookupSpan;

use crate::log_pipe::{Copier, Lines, pipe};

/// So many of a kind are logged at once.
const BURST: u32 = 64;

/// After that, one in this time.
const PERIOD: Duration = Duration::from_secs(1);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// What is to be logged can't be read.
    #[error("{filter:?} is not a level or filter: {why}")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is one already.
    #[error("this process has a log already")]
    Twice,
    /// No descriptor or thread for it.
    #[error("the log could not be set up: {0}")]
    System(#[from] io::Error),
}

/// How long a process that ends waits for the last lines of its log to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// This process's log.
static LOG: OnceLock<(Lines, Option<Copier>)> = OnceLock::new();

/// Logs to standard error from now on, in rations, what `filter` lets through: a level, or a filter such as
/// `info,uvfio_proto=debug`; `ansi`: with colours. Whoever logs never waits for whoever reads: what standard error
/// does not take in time is dropped, and counted.
///
/// # Errors
/// Where the filter can't be read, the process has a log, or a pipe or thread can't be had.
pub fn log_to_stderr(filter: &str, ansi: bool) -> Result<(), LogError> {
    let (read, write) = pipe()?;
    log_to(Lines::new(write), Some(Copier::to_stderr(read)?), filter, ansi)
}

/// The same in a worker, whose standard error is such a pipe already.
pub(crate) fn log_to_supervisor(filter: &str, ansi: bool) -> Result<(), LogError> {
    let pipe = io::stderr().as_fd().try_clone_to_owned()?;
    log_to(Lines::new(pipe), None, filter, ansi)
}

/// Writes a line to standard error: by the log, so that it comes in its place and waits for nobody, where the process
/// has one.
pub fn say(line: fmt::Arguments<'_>) {
    let line = format!("{line}\n");
    match LOG.get() {
        Some((lines, _)) => lines.put(line.as_bytes()),
        // Whether anybody reads it is not the caller's concern.
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

/// To be called before the process ends: waits a moment for the log to be read to its end.
pub fn finish_log() {
    if let Some((lines, copier)) = LOG.get() {
        let catch_up = || {
            if let Some(copier) = copier {
                copier.catch_up(lines, LAST_LINES);
            }
        };
        catch_up();
        if lines.tell_dropped() {
            catch_up();
        }
    }
}

fn log_to(lines: Lines, copier: Option<Copier>, filter: &str, ansi: bool) -> Result<(), LogError> {
    let chosen = EnvFilter::try_new(filter).map_err(|error| LogError::Filter {
        filter: filter.into(),
        why: error.to_string(),
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(chosen)
        .with_writer({
            let lines = lines.clone();
            move || lines.clone()
        })
        .with_ansi(ansi)
        // A log that nobody reads any more is no reason to end.
        .log_internal_errors(false)
        .map_event_format(|inner| Rationed {
            inner,
            rations: Mutex::default(),
        })
        .try_init()
        .map_err(|_| LogError::Twice)?;
    LOG.set((lines, copier)).map_err(|_| LogError::Twice)
}

/// Formats events that are within their allowance, and makes nothing of the others.
#[derive(Debug)]
struct Rationed {
    inner: format::Format,
    rations: Mutex<Rations>,
}

impl<S, N> FormatEvent<S, N> for Rationed
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if *metadata.level() <= Level::INFO {
            let mut device = DeviceField(DefaultHasher::new());
            event.record(&mut device);
            let kind = Kind {
                place: metadata.callsite(),
                device: device.0.finish(),
            };
            let place = metadata.module_path().unwrap_or(metadata.target());
            let mut rations = self.rations.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(dropped) = rations.admit(&kind, place, Instant::now()) else {
                return Ok(());
            };
            for Dropped { events, place } in dropped {
                SystemTime.format_time(&mut writer)?;
                match place {
                    None => writeln!(
                        writer,
                        "  WARN audit: {events} more like the next line were dropped"
                    )?,
                    Some(place) => writeln!(writer, "  WARN audit: {events} more of {place} were dropped")?,
                }
            }
        }
        self.inner.format_event(context, writer, event)
    }
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind {
    place: Identifier,
    /// The device's name, hashed; names are few.
    device: u64,
}

/// Finds the field that names the device.
struct DeviceField(DefaultHasher);

impl Visit for DeviceField {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "device" {
            self.0.write(value.as_bytes());
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

/// How many events were dropped, and of what; of the kind that comes next where there is no place.
#[derive(Debug, PartialEq, Eq)]
struct Dropped {
    events: u64,
    place: Option<&'static str>,
}

/// The allowances of all kinds; there are no more than the program has places that log, for each device.
#[derive(Debug, Default)]
struct Rations(HashMap<Kind, Ration>);

#[derive(Debug)]
struct Ration {
    place: &'static str,
    left: u32,
    since: Instant,
    dropped: u64,
}

impl Ration {
    /// Adds what has come due by `now`.
    fn refill(&mut self, now: Instant) {
        let periods = now.saturating_duration_since(self.since).as_nanos() / PERIOD.as_nanos();
        let periods = u32::try_from(periods).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(periods).min(BURST);
        self.since = match PERIOD
            .checked_mul(periods)
            .and_then(|due| self.since.checked_add(due))
        {
            Some(since) if self.left < BURST => since,
            _ => now,
        };
    }
}

impl Rations {
    /// Counts an event; none where it is to be dropped. Otherwise it is to be logged, after what was dropped before
    /// it and not yet told.
    fn admit(&mut self, kind: &Kind, place: &'static str, now: Instant) -> Option<Vec<Dropped>> {
        let ration = self.0.entry(kind.clone()).or_insert(Ration {
            place,
            left: BURST,
            since: now,
            dropped: 0,
        });
        ration.refill(now);
        let Some(left) = ration.left.checked_sub(1) else {
            ration.dropped += 1;
            return None;
        };
        ration.left = left;
        let mut told = Vec::new();
        if ration.dropped > 0 {
            told.push(Dropped {
                events: std::mem::take(&mut ration.dropped),
                place: None,
            });
        }
        // Of other kinds, where the flood is over: nothing of their own may ever tell it.
        for (_, other) in self.0.iter_mut().filter(|(other, _)| *other != kind) {
            other.refill(now);
            if other.dropped > 0 && other.left > 0 {
                told.push(Dropped {
                    events: std::mem::take(&mut other.dropped),
                    place: Some(other.place),
                });
            }
        }
        Some(told)
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite;

    use super::*;

    /// Two places that log.
    fn places() -> [Identifier; 2] {
        let first = tracing::callsite! { name: "first", kind: tracing::metadata::Kind::EVENT, fields: };
        let second = tracing::callsite! { name: "second", kind: tracing::metadata::Kind::EVENT, fields: };
        [first.metadata().callsite(), second.metadata().callsite()]
    }

    fn kind(place: &Identifier, device: u64) -> Kind {
        Kind {
            place: place.clone(),
            device,
        }
    }

    /// How many of `events` at one moment are logged, and what is told to be dropped.
    fn logged(rations: &mut Rations, kind: &Kind, events: u32, now: Instant) -> (u32, Vec<Dropped>) {
        let mut all = (0, Vec::new());
        for dropped in (0..events).filter_map(|_| rations.admit(kind, "here", now)) {
            all.0 += 1;
            all.1.extend(dropped);
        }
        all
    }

    fn own(events: u64) -> Vec<Dropped> {
        vec![Dropped { events, place: None }]
    }

    #[test]
    fn a_flood_is_cut_to_a_burst_and_then_to_one_a_second_and_what_was_dropped_is_told() {
        let [place, _] = places();
        let (mut rations, kind) = (Rations::default(), kind(&place, 1));
        let start = Instant::now();
        assert_eq!(logged(&mut rations, &kind, 10_000, start), (64, vec![]));
        for second in 1..100 {
            // Not in step with the seconds, which loses nothing.
            let now = start + Duration::from_millis(second * 1000 + second % 10);
            let before = if second == 1 { 10_000 - 64 } else { 999 };
            assert_eq!(
                logged(&mut rations, &kind, 1000, now),
                (1, own(before)),
                "second {second}"
            );
        }
        let later = start + Duration::from_secs(100_000);
        assert_eq!(
            logged(&mut rations, &kind, 10_000, later),
            (64, own(999)),
            "after a long rest"
        );
    }

    #[test]
    fn a_flood_of_one_kind_or_device_hides_no_other() {
        let [first, second] = places();
        let mut rations = Rations::default();
        let now = Instant::now();
        assert_eq!(logged(&mut rations, &kind(&first, 1), 1000, now).0, 64);
        assert_eq!(
            logged(&mut rations, &kind(&second, 1), 5, now),
            (5, vec![]),
            "another place"
        );
        assert_eq!(
            logged(&mut rations, &kind(&first, 2), 5, now),
            (5, vec![]),
            "another device"
        );
        let over = now + PERIOD;
        let told = vec![Dropped {
            events: 936,
            place: Some("here"),
        }];
        assert_eq!(
            logged(&mut rations, &kind(&second, 1), 1, over),
            (1, told),
            "the flood is over, and told by another kind"
        );
        assert_eq!(
            logged(&mut rations, &kind(&first, 1), 1, over),
            (1, vec![]),
            "once"
        );
    }
}
