//! The demo's page: what was tried, what was seen, and whether that is as it should be.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The whole page.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) sections: Vec<Section>,
}

/// Some lines under a title.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Section {
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

/// One check.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    /// What was tried.
    pub(super) what: String,
    /// What was seen.
    pub(super) seen: String,
    /// What should have been seen; none where `seen` is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expected: Option<String>,
}

impl Section {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            lines: Vec::new(),
        }
    }

    /// A line that tells, and can't be wrong.
    pub(super) fn tell(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        self.lines.push(Line {
            what: what.into(),
            seen: seen.into(),
            expected: None,
        });
    }

    /// A line that is wrong unless `ok`; `expected` is shown then.
    pub(super) fn check(
        &mut self,
        what: impl Into<String>,
        seen: impl Into<String>,
        ok: bool,
        expected: impl Into<String>,
    ) {
        let expected = (!ok).then(|| expected.into());
        self.lines.push(Line {
            what: what.into(),
            seen: seen.into(),
            expected,
        });
    }
}

impl Page {
    /// Number of lines, and how many of them are not as they should be.
    pub(super) fn count(&self) -> (usize, usize) {
        let lines = || self.sections.iter().flat_map(|section| &section.lines);
        (
            lines().count(),
            lines().filter(|line| line.expected.is_some()).count(),
        )
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{}", section.title)?;
            for line in &section.lines {
                let mark = if line.expected.is_some() { "WRONG" } else { "ok" };
                writeln!(f, "  {mark:<5} {:<38} {}", line.what, line.seen)?;
                if let Some(expected) = &line.expected {
                    writeln!(f, "        {:<38} expected: {expected}", "")?;
                }
            }
        }
        match self.count() {
            (all, 0) => write!(f, "{all} lines, all as they should be"),
            (all, wrong) => write!(f, "{wrong} of {all} lines are NOT as they should be"),
        }
    }
}
