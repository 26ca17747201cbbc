//! Checks, a line each.

use std::fmt::Debug;

use uvfio_driver::Result;

/// Checks so far.
#[derive(Default)]
pub(crate) struct Report {
    failed: bool,
}

impl Report {
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    pub(crate) fn ok(&mut self, what: &str) {
        println!("ok {what}");
    }

    pub(crate) fn fail(&mut self, what: &str) {
        self.failed = true;
        println!("fail {what}");
    }

    /// A check by comparison.
    pub(crate) fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, got: &T) {
        if expected == got {
            self.ok(what);
        } else {
            self.fail(&format!("{what}: expected {expected:x?} got {got:x?}"));
        }
    }

    /// A check that something is refused, in a sentence that has `part`.
    pub(crate) fn refused<T>(&mut self, what: &str, part: &str, result: Result<T>) {
        match result {
            Ok(_) => self.fail(&format!("{what}: expected a refusal got success")),
            Err(error) if error.to_string().contains(part) => self.ok(&format!("{what}: {error}")),
            Err(error) => self.fail(&format!("{what}: expected {part:?} got {error}")),
        }
    }
}
