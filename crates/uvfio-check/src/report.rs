//! What came of each case, as lines to read and as JSON.

use std::fmt;

use serde::Serialize;

use crate::case::{Bench, Case, Patience, Server, Stop};
use crate::facts::Facts;

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Outcome {
    /// As the rule has it.
    Pass,
    /// Against the rule.
    Fail {
        /// What came instead of what was expected.
        got: String,
    },
    /// It can't be tried on this server.
    NotApplicable {
        /// Why.
        why: String,
    },
    /// Not as the text has it, and accepted.
    Deviation {
        /// Why it is accepted.
        reason: String,
    },
}

impl Outcome {
    /// The word that stands before a case's line.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail { .. } => "FAIL",
            Self::NotApplicable { .. } => "n/a",
            Self::Deviation { .. } => "deviation",
        }
    }
}

/// One case and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case's name.
    pub name: &'static str,
    /// What was sent.
    pub what: &'static str,
    /// The specification's section; none where the rule is ours.
    pub section: Option<&'static str>,
    /// Why it is a rule where the specification has none.
    pub ours: Option<&'static str>,
    /// What had to come of it.
    pub expected: &'static str,
    /// What did.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All that was tried.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The cases, in their order.
    pub cases: Vec<Row>,
}

impl Report {
    /// How many came to an end of this kind: the word of [`Outcome::word`].
    #[must_use]
    pub fn count(&self, word: &str) -> usize {
        self.cases.iter().filter(|row| row.outcome.word() == word).count()
    }

    /// Whether no rule was broken.
    #[must_use]
    pub fn good(&self) -> bool {
        self.count("FAIL") == 0
    }

    /// The counts, in a line.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} cases: {} passed, {} failed, {} deviations, {} not applicable",
            self.cases.len(),
            self.count("pass"),
            self.count("FAIL"),
            self.count("deviation"),
            self.count("n/a")
        )
    }

    /// The names of the cases that failed.
    #[must_use]
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = |row: &&Row| matches!(row.outcome, Outcome::Fail { .. });
        self.cases.iter().filter(failed).map(|row| row.name).collect()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = match (self.section, self.ours) {
            (Some(section), _) => section.to_owned(),
            (None, reason) => format!("ours: {}", reason.unwrap_or_default()),
        };
        write!(f, "{:<9}  {:<34} {}", self.outcome.word(), self.name, self.what)?;
        match &self.outcome {
            Outcome::Pass => Ok(()),
            Outcome::Fail { got } => write!(
                f,
                "\n           rule      {rule}\n           expected  {}\n           got       {got}",
                self.expected
            ),
            Outcome::NotApplicable { why } => write!(f, "\n           {why}"),
            Outcome::Deviation { reason } => {
                write!(f, "\n           rule      {rule}\n           accepted  {reason}")
            }
        }
    }
}

impl fmt::Display for Report {
    /// A line a case; more where something is to be said about it; the counts at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.cases {
            writeln!(f, "{row}")?;
        }
        writeln!(f, "\n{}", self.summary())
    }
}

/// Cases in a row without a connection, or without a word on one, after which the server counts as gone.
const GONE_AFTER: usize = 3;

/// Tries every case whose name contains `filter` on a server, and tells `each` as it comes.
pub fn check_server(
    server: &dyn Server,
    patience: Patience,
    filter: &str,
    mut each: impl FnMut(&Row),
) -> Report {
    let unknown = Stop::Fail("it was not asked yet".into());
    let facts = Facts::ask(&Bench::new(server, patience, Err(&unknown)));
    let bench = Bench::new(server, patience, facts.as_ref());
    let mut report = Report::default();
    let mut without = 0;
    for case in crate::cases::all().filter(|case| case.name.contains(filter)) {
        let stop = if without >= GONE_AFTER {
            Some(Stop::NotApplicable(
                "the server does not answer a new client any more".into(),
            ))
        } else {
            case.try_on(&bench).err()
        };
        let no_connection = matches!(&stop, Some(Stop::Fail(got))
            if got.contains("no connection: ") || got.contains("reply to command 1: nothing came"));
        if without < GONE_AFTER {
            without = if no_connection { without + 1 } else { 0 };
        }
        let row = row(case, stop);
        each(&row);
        report.cases.push(row);
    }
    report
}

fn row(case: &Case, stop: Option<Stop>) -> Row {
    let (section, ours) = case.rule.parts();
    Row {
        name: case.name,
        what: case.what,
        section,
        ours,
        expected: case.expected,
        outcome: outcome(stop),
    }
}

/// What came of a case that went to its end, or stopped.
pub(crate) fn outcome(stop: Option<Stop>) -> Outcome {
    match stop {
        None => Outcome::Pass,
        Some(Stop::Fail(got)) => Outcome::Fail { got },
        Some(Stop::NotApplicable(why)) => Outcome::NotApplicable { why },
        Some(Stop::Deviation(reason)) => Outcome::Deviation { reason },
    }
}
