//! Checks, reported in the lines that the machine's host expects.

use std::fmt::Debug;
use std::io::Write as _;

use anyhow::Result;
use rustix::io::Errno;
use uvfio_linux::vfio::{Rule, VfioError};

/// Where checks go: standard output.
#[derive(Debug)]
pub(crate) struct Report;

impl Report {
    pub(crate) fn ok(&mut self, what: &str) -> Result<()> {
        line("ok", what)
    }

    /// Something that the host waits for.
    pub(crate) fn note(&mut self, what: &str) -> Result<()> {
        line("note", what)
    }

    pub(crate) fn fail(&mut self, what: &str) -> Result<()> {
        line("fail", what)
    }

    /// A check by comparison; a failure shows both values.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, got: &T) -> Result<()> {
        if expected == got {
            self.ok(what)
        } else {
            self.fail(&format!("{what}: expected {expected:#x?} got {got:#x?}"))
        }
    }

    /// A check that something was refused for this reason, with this number, in a sentence that has all of `words`.
    pub(crate) fn refused<T>(
        &mut self,
        what: &str,
        result: Result<T, VfioError>,
        (errno, rule): (Errno, &dyn Fn(&Rule) -> bool),
        words: &[&str],
    ) -> Result<()> {
        let Err(error) = result else {
            return self.fail(&format!("{what}: expected a refusal ({errno}) got success"));
        };
        let sentence = error.to_string();
        if error.errno() != Some(errno) || !error.rule().is_some_and(rule) {
            return self.fail(&format!("{what}: expected {errno} got {error:?}"));
        }
        match words.iter().find(|word| !sentence.contains(**word)) {
            None => self.ok(&format!("{what}: {sentence}")),
            Some(word) => self.fail(&format!(
                "{what}: expected a sentence with {word:?} got {sentence:?}"
            )),
        }
    }
}

fn line(verb: &str, what: &str) -> Result<()> {
    // One write a line, so that lines of several programs do not mix.
    let words: Vec<_> = what.split_whitespace().collect();
    let mut to = std::io::stdout().lock();
    to.write_all(format!("UVFIO {verb} {}\n", words.join(" ")).as_bytes())?;
    Ok(to.flush()?)
}
