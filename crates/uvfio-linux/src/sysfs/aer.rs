//! How many errors a function has reported, as the kernel's AER driver counts them.

use std::path::Path;

use super::Function;
use super::tree::{Tree, malformed};

/// Errors of a function since it appeared, by the severity of AER (PCI Express Base 5.0, 6.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounters {
    /// Those that hardware has corrected
    pub correctable: Vec<ErrorCounter>,
    /// Those that lost an access, over a link that works
    pub nonfatal: Vec<ErrorCounter>,
    /// Those after which the link can't be relied on
    pub fatal: Vec<ErrorCounter>,
}

/// One kind of error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCounter {
    /// The kernel's short name, such as `BadTLP`
    pub name: String,
    /// How often it was reported
    pub count: u64,
}

impl ErrorCounters {
    /// How many errors there were of all kinds and severities.
    #[must_use]
    pub fn total(&self) -> u64 {
        let all = [&self.correctable, &self.nonfatal, &self.fatal];
        all.into_iter()
            .flatten()
            .fold(0, |sum, kind| sum.saturating_add(kind.count))
    }
}

/// Reads the counters below a function's folder; none where the kernel counts no errors of it.
pub(super) fn read(tree: &Tree, folder: &Path, function: &mut Function) -> Option<ErrorCounters> {
    let mut severity = |name: &str| {
        let path = folder.join(name);
        let text = function.noting(tree.attribute(&path))??;
        function.noting(parse(&text).ok_or_else(|| malformed(&path, &text, "a list of names and counts")))
    };
    let correctable = severity("aer_dev_correctable");
    let nonfatal = severity("aer_dev_nonfatal");
    let fatal = severity("aer_dev_fatal");
    if correctable.is_none() && nonfatal.is_none() && fatal.is_none() {
        return None;
    }
    Some(ErrorCounters {
        correctable: correctable.unwrap_or_default(),
        nonfatal: nonfatal.unwrap_or_default(),
        fatal: fatal.unwrap_or_default(),
    })
}

/// Lines of a name and a count; the last one is a total, which is left out.
fn parse(text: &str) -> Option<Vec<ErrorCounter>> {
    let mut counters = Vec::new();
    for line in text.lines() {
        let (name, count) = line.trim().rsplit_once(' ')?;
        let count = count.parse().ok()?;
        if !name.starts_with("TOTAL_") {
            counters.push(ErrorCounter {
                name: name.to_owned(),
                count,
            });
        }
    }
    Some(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_by_name_and_the_total_is_no_kind_of_error() {
        let counters = parse("RxErr 0\nBadTLP 3\nTOTAL_ERR_COR 3").expect("the kernel's own form");
        let seen: Vec<_> = counters.iter().map(|c| (c.name.as_str(), c.count)).collect();
        assert_eq!(seen, [("RxErr", 0), ("BadTLP", 3)]);
        for text in ["RxErr", "RxErr -1", "RxErr 99999999999999999999", "RxErr one"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_total_does_not_overflow() {
        let kind = |count| ErrorCounter {
            name: "x".into(),
            count,
        };
        let counters = ErrorCounters {
            fatal: vec![kind(u64::MAX), kind(1)],
            ..ErrorCounters::default()
        };
        assert_eq!(counters.total(), u64::MAX);
    }
}
