//! Reports checks to the host, in the lines that it expects on the guest's second serial port.

use std::fmt::Debug;
use std::io::Write;

use anyhow::Result;

/// Where checks are reported, normally standard output.
pub(crate) struct Report {
    to: Box<dyn Write>,
}

impl Report {
    pub(crate) fn new(to: Box<dyn Write>) -> Self {
        Self { to }
    }

    pub(crate) fn ok(&mut self, what: &str) -> Result<()> {
        self.line("ok", what)
    }

    pub(crate) fn note(&mut self, what: &str) -> Result<()> {
        self.line("note", what)
    }

    pub(crate) fn fail(&mut self, what: &str) -> Result<()> {
        self.line("fail", what)
    }

    /// A check by comparison; a failure shows both values, with numbers in base 16.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, got: &T) -> Result<()> {
        if expected == got {
            self.ok(what)
        } else {
            self.fail(&format!("{what}: expected {expected:#x?} got {got:#x?}"))
        }
    }

    fn line(&mut self, verb: &str, what: &str) -> Result<()> {
        // One write a line, so that lines of several programs do not mix.
        let line = format!(
            "UVFIO {verb} {}\n",
            what.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        self.to.write_all(line.as_bytes())?;
        Ok(self.to.flush()?)
    }
}
