//! How the command ends when it can't do what it was asked for.

use std::fmt::Display;
use std::process::ExitCode;

/// One sentence for the user, and the exit status.
#[derive(Debug)]
pub(crate) struct Failure {
    sentence: String,
    status: u8,
}

impl Failure {
    /// The command line, or something that it names, can't be used: status 2.
    pub(crate) fn usage(why: impl Display) -> Self {
        Self {
            sentence: why.to_string(),
            status: 2,
        }
    }

    /// It failed while running: status 1.
    pub(crate) fn running(why: impl Display) -> Self {
        Self {
            sentence: why.to_string(),
            status: 1,
        }
    }

    /// Prints the sentence, and gives the status.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("uvfio: {}", self.sentence);
        ExitCode::from(self.status)
    }
}
