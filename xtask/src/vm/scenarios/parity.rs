//! One program in C, on the kernel's vfio-pci in a guest and under `uvfio run` on this machine: what it prints differs
//! only where a committed file says so, with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::{Context, STEP};
use crate::paths;
use crate::vm::checks::Checks;
use crate::vm::guest::Guest;

/// Where the program lies.
const SOURCES: &str = "crates/uvfio/tests/run/programs/parity";
/// The differences, below [`SOURCES`].
const DIFFERENCES: &str = "differences.txt";
/// The ways to catch calls that are compared.
const WAYS: [&str; 2] = ["preload", "seccomp"];
/// A program that prints fewer lines has not gone through.
const LEAST_LINES: usize = 850;

/// What each call gave, by its label.
type Results = BTreeMap<String, String>;

/// Compiles the program, with no shared library where it is for a guest.
pub(super) fn compile(context: &Context<'_>, name: &str, options: &[&str]) -> Result<PathBuf> {
    let program = context.scratch.join(name);
    let folder = paths::workspace().join(SOURCES);
    let mut sources = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    let output = Command::new("cc")
        .args(["-std=gnu11", "-O1", "-o"])
        .arg(&program)
        .args(options)
        .args(&sources)
        .output()
        .context("cc could not be started; it is of Debian's package gcc")?;
    if !output.status.success() {
        bail!(
            "cc ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(program)
}

/// Runs the program in the guest, which has it as `parity`, and here in each way, and compares.
pub(super) fn compare(
    context: &Context<'_>,
    uvfio: &Path,
    guest: &mut Guest,
    checks: &mut Checks,
) -> Result<()> {
    let kernel = guest.text("parity_with_the_kernel", STEP)?.join("\n");
    fs::write(context.dir.join("kernel.txt"), &kernel)?;
    let kernel = results(&kernel)?;
    let text = fs::read_to_string(paths::workspace().join(SOURCES).join(DIFFERENCES))?;
    let known = differences(&text)?;
    let shared = compile(context, "parity-shared", &[])?;
    for way in WAYS {
        let program = if way == "seccomp" {
            context.scratch.join("parity")
        } else {
            shared.clone()
        };
        let ours = run_here(uvfio, way, &program)?;
        fs::write(context.dir.join(format!("{way}.txt")), &ours)?;
        let wrong = compared(&kernel, &results(&ours)?, &known, way);
        for line in &wrong {
            checks.fail(&format!(
                "by {way}, the kernel's results but for known differences: {line}"
            ));
        }
        if wrong.is_empty() {
            checks.ok(&format!(
                "by {way}, {} calls give what the kernel gives but for {} known differences",
                kernel.len(),
                known.iter().filter(|known| known.is_of(way)).count()
            ));
        }
    }
    Ok(())
}

fn run_here(uvfio: &Path, way: &str, program: &Path) -> Result<String> {
    let output = Command::new(uvfio)
        .args(["run", "--device", "edu", "--via", way, "--"])
        .arg(program)
        .args(["/dev/vfio/1", "0000:01:00.0"])
        .output()
        .with_context(|| format!("{} could not be started", uvfio.display()))?;
    if !output.status.success() {
        bail!(
            "`uvfio run --via {way}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("what the program printed")
}

/// Takes what the program printed apart.
fn results(printed: &str) -> Result<Results> {
    let mut results = Results::new();
    for line in printed.lines() {
        let (label, result) = line
            .split_once(" = ")
            .with_context(|| format!("{line:?} is not a label and a result"))?;
        if results.insert(label.to_owned(), result.to_owned()).is_some() {
            bail!("there are two results for {label:?}");
        }
    }
    if results.len() < LEAST_LINES {
        bail!(
            "the program printed {} lines, and should {LEAST_LINES} at least",
            results.len()
        );
    }
    Ok(results)
}

/// A call whose results differ, as the committed file has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    label: String,
    kernel: String,
    /// Ours, by way; nothing where a way differs not.
    ours: BTreeMap<&'static str, String>,
}

impl Known {
    fn is_of(&self, way: &str) -> bool {
        self.ours.contains_key(way)
    }
}

/// What a call gives that was not made.
const NOT_MADE: &str = "(not called)";

/// Reads the file of differences:
///
/// ```text
/// # The reason, in as many lines as it takes, for all that follows up to the next.
/// label
///     kernel = result
///     uvfio = result          or, where the ways differ: preload = result, seccomp = result
/// ```
fn differences(text: &str) -> Result<Vec<Known>> {
    let mut known: Vec<Known> = Vec::new();
    let mut reasoned = false;
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| anyhow::anyhow!("{DIFFERENCES}, line {}: {what}: {line:?}", number + 1);
        if line.starts_with('#') {
            reasoned = true;
        } else if let Some(result) = line.strip_prefix("    ") {
            let (who, result) = result.split_once(" = ").ok_or_else(|| wrong("no result"))?;
            let entry = known.last_mut().ok_or_else(|| wrong("a result of no call"))?;
            let result = result.to_owned();
            match (who, WAYS.iter().find(|way| **way == who)) {
                ("kernel", _) => entry.kernel = result,
                ("uvfio", _) => entry.ours.extend(WAYS.map(|way| (way, result.clone()))),
                (_, Some(way)) => drop(entry.ours.insert(way, result)),
                _ => return Err(wrong("whose result?")),
            }
        } else if !line.is_empty() {
            if !reasoned {
                return Err(wrong("no reason stands above"));
            }
            known.push(Known {
                label: line.to_owned(),
                ..Known::default()
            });
        }
    }
    let mut labels = BTreeSet::new();
    for entry in &known {
        if entry.kernel.is_empty() || entry.ours.is_empty() {
            bail!(
                "{DIFFERENCES}: {:?} wants a line of the kernel and one of uvfio",
                entry.label
            );
        }
        if !labels.insert(&entry.label) {
            bail!("{DIFFERENCES}: {:?} is there twice", entry.label);
        }
    }
    Ok(known)
}

/// What is wrong, a sentence each: a difference that is not in the file, and what is in the file and is not so.
fn compared(kernel: &Results, ours: &Results, known: &[Known], way: &str) -> Vec<String> {
    let labels: BTreeSet<&String> = kernel.keys().chain(ours.keys()).collect();
    let of = |results: &Results, label: &str| -> String {
        results
            .get(label)
            .map_or_else(|| NOT_MADE.to_owned(), Clone::clone)
    };
    let mut wrong = Vec::new();
    for label in &labels {
        let (theirs, ours) = (of(kernel, label), of(ours, label));
        let entry = known
            .iter()
            .find(|entry| entry.label == **label && entry.is_of(way));
        let expected = entry.map(|entry| (&entry.kernel, entry.ours.get(way)));
        match expected {
            None if theirs == ours => {}
            None => wrong.push(format!("{label}: the kernel gave {theirs}, and uvfio {ours}")),
            Some(_) if theirs == ours => {
                wrong.push(format!("{label}: both gave {ours}; take it out of {DIFFERENCES}"));
            }
            Some(expected) if expected == (&theirs, Some(&ours)) => {}
            Some((kernel, uvfio)) => wrong.push(format!(
                "{label}: the kernel gave {theirs}, and uvfio {ours}; {DIFFERENCES} has {kernel} and {}",
                uvfio.map_or("nothing", String::as_str)
            )),
        }
    }
    for entry in known.iter().filter(|entry| entry.is_of(way)) {
        if !labels.contains(&entry.label) {
            wrong.push(format!(
                "{}: {DIFFERENCES} has it, and nobody called it",
                entry.label
            ));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::{Results, compared, differences};

    fn of(lines: &[(&str, &str)]) -> Results {
        lines
            .iter()
            .map(|(label, result)| ((*label).to_owned(), (*result).to_owned()))
            .collect()
    }

    const FILE: &str = "# why\na\n    kernel = 1\n    uvfio = 2\nb\n    kernel = 0\n    seccomp = EIO\n";

    #[test]
    fn known_differences_pass_in_the_ways_that_they_are_known_of() {
        let known = differences(FILE).unwrap();
        let kernel = of(&[("a", "1"), ("b", "0"), ("c", "7")]);
        let ours = of(&[("a", "2"), ("b", "EIO"), ("c", "7")]);
        assert_eq!(compared(&kernel, &ours, &known, "seccomp"), Vec::<String>::new());
        assert_eq!(
            compared(&kernel, &ours, &known, "preload"),
            ["b: the kernel gave 0, and uvfio EIO"]
        );
    }

    #[test]
    fn what_is_no_longer_so_fails() {
        let known = differences(FILE).unwrap();
        let kernel = of(&[("a", "1"), ("c", "7")]);
        let wrong = compared(&kernel, &of(&[("a", "1"), ("c", "7")]), &known, "seccomp");
        assert_eq!(
            wrong,
            [
                "a: both gave 1; take it out of differences.txt",
                "b: differences.txt has it, and nobody called it"
            ]
        );
        let wrong = compared(&kernel, &of(&[("a", "3")]), &known, "preload");
        assert_eq!(
            wrong,
            [
                "a: the kernel gave 1, and uvfio 3; differences.txt has 1 and 2",
                "c: the kernel gave 7, and uvfio (not called)"
            ]
        );
    }

    #[test]
    fn a_difference_needs_a_reason_and_both_results() {
        for wrong in [
            "a\n    kernel = 1\n    uvfio = 2\n",
            "# why\na\n    kernel = 1\n",
            "# why\na\n    uvfio = 1\n",
            "# why\n    uvfio = 1\n",
            "# why\na\n    kernel = 1\n    qemu = 1\n",
        ] {
            assert!(differences(wrong).is_err(), "{wrong:?}");
        }
    }
}
