//! How the command ends when it can't do what it was asked for.

use std::fmt::Display;
use std::process::ExitCode;

use clap::error::ErrorKind;

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

    /// The function that it served is no longer its own: status 3.
    pub(crate) fn taken(why: impl Display) -> Self {
        Self {
            sentence: why.to_string(),
            status: 3,
        }
    }

    /// Prints the sentence, and gives the status.
    pub(crate) fn report(&self) -> ExitCode {
        uvfio_worker::say(format_args!("uvfio: {}", self.sentence));
        ExitCode::from(self.status)
    }
}

/// Prints what is wrong with the command line in one sentence, or the help that was asked for.
pub(crate) fn command_line(command: &clap::Command, error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader who has seen enough is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(2)
        }
        _ => {
            let verb = std::env::args()
                .nth(1)
                .filter(|word| command.find_subcommand(word).is_some());
            let program = verb.map_or_else(|| "uvfio".to_owned(), |verb| format!("uvfio {verb}"));
            let sentence = sentence(&error.to_string());
            eprintln!("{program}: {sentence}; see `{program} --help`");
            ExitCode::from(2)
        }
    }
}

/// The sentence and the hints of an error that `clap` spreads over many lines, without the usage that follows.
fn sentence(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for paragraph in text.split("\n\n") {
        let words = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(error) = words.strip_prefix("error: ") {
            parts.push(error.into());
        } else if let Some(tip) = words.strip_prefix("tip: ") {
            parts.push(tip.replace(" tip: ", "; "));
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn errors_of_many_lines_become_one_sentence() {
        let missing = "error: the following required arguments were not provided:\n  --socket <PATH>\n  <DEVICE>\n\n\
            Usage: uvfio serve --socket <PATH> <DEVICE>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            sentence(missing),
            "the following required arguments were not provided: --socket <PATH> <DEVICE>"
        );
        let unknown = "error: unexpected argument '--sock' found\n\n  tip: a similar argument exists: '--socket'\n\n\
            Usage: uvfio serve\n";
        assert_eq!(
            sentence(unknown),
            "unexpected argument '--sock' found; a similar argument exists: '--socket'"
        );
    }
}
