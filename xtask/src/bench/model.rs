//! The model alone: nanoseconds a read and a write, and allocations, as `uvfio-pci`'s own benchmark counts them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use super::Effort;
use super::figures::{Figure, Limit, Report};

/// Nanoseconds.
const READ_LIMIT: f64 = 10.0;
/// Nanoseconds.
const WRITE_LIMIT: f64 = 50.0;

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let output = super::cargo()
        .args([
            "bench",
            "--quiet",
            "--package",
            "uvfio-pci",
            "--bench",
            "model",
            "--",
        ])
        .arg(effort.runs.to_string())
        .output()
        .context("cargo could not be started")?;
    if !output.status.success() {
        bail!(
            "`cargo bench -p uvfio-pci` failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8_lossy(&output.stdout);
    for (name, values) in figures(&text)? {
        let (limit, unit) = match name.split(',').next() {
            Some("read") => (READ_LIMIT, "ns"),
            Some("write" | "interrupt") => (WRITE_LIMIT, "ns"),
            Some("allocations") => (0.0, "in all"),
            _ => bail!("the model's benchmark prints {name:?}, for which there is no limit"),
        };
        report.add(&Figure {
            name: format!("model: {name}"),
            beside: "-",
            ours: values,
            theirs: Vec::new(),
            unit,
            limit: Some(Limit::Value(limit)),
        });
    }
    Ok(())
}

/// The benchmark prints a line a figure and run: `NAME = VALUE`.
fn figures(text: &str) -> Result<BTreeMap<String, Vec<f64>>> {
    let mut figures: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains(" = ")) {
        let (name, value) = line.split_once(" = ").unwrap_or((line, ""));
        let value = value
            .trim()
            .parse()
            .with_context(|| format!("reading {line:?}"))?;
        figures.entry(name.to_owned()).or_default().push(value);
    }
    if figures.is_empty() {
        bail!("the model's benchmark printed no figure");
    }
    Ok(figures)
}
