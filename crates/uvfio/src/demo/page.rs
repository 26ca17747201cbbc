//! The demo's page: what was tried, what was seen, and whether that is as it should be.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Whether the speed that the page shows is that of an optimised build.
const OPTIMISED: bool = !cfg!(debug_assertions);

/// The whole page.
#[derive(Debug, Default)]
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
    name: String,
    /// What was seen.
    value: String,
    /// What should have been seen; none where `value` is that.
    expected: Option<String>,
    /// The numbers in `value`, for programs. Their names end in their units.
    numbers: BTreeMap<String, Value>,
}

impl Line {
    /// Adds a number that stands in the line's value, or a list of such.
    pub(super) fn number(&mut self, name: &str, number: impl Into<Value>) -> &mut Self {
        self.numbers.insert(name.to_owned(), number.into());
        self
    }
}

impl Section {
    pub(super) fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            lines: Vec::new(),
        }
    }

    /// A line that tells, and can't be wrong.
    pub(super) fn tell(&mut self, name: impl Into<String>, value: impl Into<String>) -> &mut Line {
        self.check(name, value, true, "")
    }

    /// A line that is wrong unless `ok`; `expected` is shown then.
    pub(super) fn check(
        &mut self,
        name: impl Into<String>,
        value: impl Into<String>,
        ok: bool,
        expected: impl Into<String>,
    ) -> &mut Line {
        self.lines.push_mut(Line {
            name: name.into(),
            value: value.into(),
            expected: (!ok).then(|| expected.into()),
            numbers: BTreeMap::new(),
        })
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

    /// The same for programs: whether all is well, and the lines, each with its section.
    pub(super) fn to_json(&self) -> Value {
        let mut lines = Vec::new();
        for section in &self.sections {
            for line in &section.lines {
                let mut object = json!({
                    "section": section.title,
                    "name": line.name,
                    "value": line.value,
                    "ok": line.expected.is_none(),
                    "numbers": line.numbers,
                });
                if let Some(expected) = &line.expected {
                    object["expected"] = json!(expected);
                }
                lines.push(object);
            }
        }
        json!({ "ok": self.count().1 == 0, "optimised": OPTIMISED, "lines": lines })
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "{}", section.title)?;
            for line in &section.lines {
                let mark = if line.expected.is_some() { "WRONG" } else { "ok" };
                writeln!(f, "  {mark:<5} {:<38} {}", line.name, line.value)?;
                if let Some(expected) = &line.expected {
                    writeln!(f, "        {:<38} expected: {expected}", "")?;
                }
            }
        }
        match self.count() {
            (all, 0) => write!(f, "{all} lines, all as they should be")?,
            (all, wrong) => write!(f, "{wrong} of {all} lines are NOT as they should be")?,
        }
        if !OPTIMISED {
            f.write_str(" (the build is not optimised: its speed means little)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{OPTIMISED, Page, Section};

    fn page() -> Page {
        let mut section = Section::new("A section");
        section.tell("told", "7 bytes").number("bytes", 7);
        section.check("wrong", "seen", false, "another");
        Page {
            sections: vec![section],
        }
    }

    #[test]
    fn a_line_that_is_wrong_makes_the_page_wrong_and_says_what_was_expected() {
        let page = page();
        assert_eq!(page.count(), (2, 1));
        let text = page.to_string();
        assert!(
            text.contains("expected: another") && text.contains("WRONG"),
            "{text}"
        );
    }

    #[test]
    fn as_json_each_line_has_its_section_and_numbers_are_numbers() {
        let line = |name, value, ok, numbers| json!({ "section": "A section", "name": name, "value": value, "ok": ok, "numbers": numbers });
        let mut wrong = line("wrong", "seen", false, json!({}));
        wrong["expected"] = json!("another");
        let told = line("told", "7 bytes", true, json!({ "bytes": 7 }));
        assert_eq!(
            page().to_json(),
            json!({ "ok": false, "optimised": OPTIMISED, "lines": [told, wrong] })
        );
    }
}
