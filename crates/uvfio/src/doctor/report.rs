//! How it is printed: one paragraph for each finding, and two verdicts.

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

/// Columns of a page.
const WIDTH: usize = 110;

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
            let fix = line
                .fix
                .as_ref()
                .map_or(String::new(), |fix| format!(" Fix: {fix}."));
            let sentence = format!("{}: {}. {}.{fix}", line.subject, line.found, capital(&line.means));
            text += &paragraph(status, &sentence);
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
        // Hung like the findings, with nothing before it.
        let sentence = format!("{kind}: {work}{colon}{because}");
        paragraph("", &sentence).trim_start().to_owned()
    }
}

/// The same with its first letter large.
fn capital(sentence: &str) -> String {
    let mut letters = sentence.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// A sentence in lines of at most [`WIDTH`] columns where its words allow, the first of them after `head`.
fn paragraph(head: &str, sentence: &str) -> String {
    let mut text = format!("{head:<INDENT$}");
    let mut column = INDENT;
    for (number, word) in sentence.split(' ').enumerate() {
        let length = word.chars().count();
        if number > 0 && column + 1 + length > WIDTH {
            text += &format!("\n{:INDENT$}", "");
            column = INDENT;
        } else if number > 0 {
            text.push(' ');
            column += 1;
        }
        text += word;
        column += length;
    }
    text.push('\n');
    text
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
    fn a_finding_is_a_paragraph_and_the_verdicts_close_the_page() {
        let report = Report {
            findings: vec![line(Status::Ok, None), line(Status::No, Some("do this"))],
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
            "ok    subject: found. Something works.\n\
             no    subject: found. Something works. Fix: do this.\n\
             \n\
             software devices: will work\n\
             real devices: won't work: no this; no that\n"
        );
    }

    #[test]
    fn long_paragraphs_are_folded_at_words_and_indented() {
        let text = paragraph("note", &"seventeen letters ".repeat(20));
        assert!(text.lines().count() > 2, "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
            assert!(
                line.starts_with("note  s") || line.starts_with("      s") || line.starts_with("      l"),
                "{line}"
            );
        }
        let words: Vec<&str> = text.split_whitespace().skip(1).collect();
        assert_eq!(words.len(), 40, "{text}");
    }
}
