//! What scenarios found, printed as it comes and counted.

use std::fmt::Debug;

/// The checks of all scenarios of a run.
#[derive(Debug, Default)]
pub(super) struct Checks {
    scenario: String,
    passed: usize,
    failures: Vec<String>,
}

impl Checks {
    /// Names the scenario that the next checks belong to.
    pub(super) fn scenario(&mut self, name: &str) {
        name.clone_into(&mut self.scenario);
    }

    /// Names the part of the scenario that the next checks belong to.
    pub(super) fn part(&mut self, name: &str) {
        let scenario = self.scenario.split(',').next().unwrap_or_default();
        self.scenario = format!("{scenario}, {name}");
    }

    pub(super) fn ok(&mut self, what: &str) {
        self.passed += 1;
        println!("  ok    {}: {what}", self.scenario);
    }

    pub(super) fn fail(&mut self, what: &str) {
        println!("  FAIL  {}: {what}", self.scenario);
        self.failures.push(format!("{}: {what}", self.scenario));
    }

    /// A check by comparison; a failure shows both values.
    pub(super) fn same<T: PartialEq + Debug>(&mut self, what: &str, expected: &T, got: &T) {
        if expected == got {
            self.ok(what);
        } else {
            self.fail(&format!("{what}: expected {expected:?} got {got:?}"));
        }
    }

    /// A check that a text contains a sentence; a failure shows both.
    pub(super) fn says(&mut self, what: &str, sentence: &str, text: &str) {
        if text.contains(sentence) {
            self.ok(what);
        } else {
            self.fail(&format!("{what}: expected {sentence:?} in {text:?}"));
        }
    }

    /// Counts those of another scenario, too.
    pub(super) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
    }

    /// The checks that failed, each with its scenario.
    pub(super) fn failures(&self) -> &[String] {
        &self.failures
    }

    pub(super) fn passed(&self) -> usize {
        self.passed
    }
}
