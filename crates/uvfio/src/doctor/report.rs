//! How it is printed: a line for each finding, one more where something is to be done, and two verdicts.

use serde::Serialize;

/// What a finding comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// Something won't work, or not as well, or can't be told.
    Note,
    /// Something that devices of one kind need is missing.
    No,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) status: Status,
    /// What was looked at.
    pub(super) subject: &'static str,
    /// What was found.
    pub(super) found: String,
    /// What works or doesn't because of it.
    pub(super) means: String,
    /// What to do about it, where there is something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

/// Whether devices of one kind work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    pub(super) work: bool,
    /// What they lack, or what to know about them.
    pub(super) because: Vec<String>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Report {
    pub(super) findings: Vec<Line>,
    pub(super) software_devices: Verdict,
    pub(super) real_devices: Verdict,
}

/// Columns before a finding's text.
const INDENT: usize = 6;

impl Report {
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.findings {
            let status = match line.status {
                Status::Ok => "ok",
                Status::Note => "note",
                Status::No => "no",
            };
            text += &format!("{status:<INDENT$}{}: {}", line.subject, line.found);
            // What is as it should be has no consequence that anybody has to know.
            if line.status != Status::Ok {
                text += &format!("; {}", line.means);
            }
            text.push('\n');
            if let Some(fix) = &line.fix {
                text += &format!("{:INDENT$}{fix}\n", "");
            }
        }
        text.push('\n');
        text += &self.software_devices.text("software devices", "will work");
        text += &self
            .real_devices
            .text("real devices", "this machine is ready for them");
        text
    }
}

impl Verdict {
    fn text(&self, kind: &str, will: &str) -> String {
        let work = if self.work { will } else { "won't work" };
        let because = self.because.join("; ");
        let colon = if because.is_empty() { "" } else { ": " };
        format!("{kind}: {work}{colon}{because}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(status: Status, fix: Option<&str>) -> Line {
        Line {
            status,
            subject: "subject",
            found: "found".into(),
            means: "something works".into(),
            fix: fix.map(str::to_owned),
        }
    }

    #[test]
    fn a_finding_is_a_line_with_one_more_for_what_to_do_and_the_verdicts_close_the_page() {
        let report = Report {
            findings: vec![
                line(Status::Ok, None),
                line(Status::Note, None),
                line(Status::No, Some("do this")),
            ],
            software_devices: Verdict {
                work: true,
                because: vec![],
            },
            real_devices: Verdict {
                work: false,
                because: vec!["no this".into(), "no that".into()],
            },
        };
        assert_eq!(
            report.text(),
            "ok    subject: found\n\
             note  subject: found; something works\n\
             no    subject: found; something works\n      \
             do this\n\
             \n\
             software devices: will work\n\
             real devices: won't work: no this; no that\n"
        );
    }
}
