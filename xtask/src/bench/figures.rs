//! Ratios over several runs, and whether they keep their limits.

/// The middle of some values; 0 where there are none.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A value with two decimal places; with four where it is below 0.1, such as the ratio to a floor far below.
fn decimal(value: f64) -> String {
    if value > 0.0 && value < 0.1 {
        format!("{value:.4}")
    } else {
        format!("{value:.2}")
    }
}

/// One figure over all runs.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) name: String,
    /// What it was measured beside.
    pub(super) beside: &'static str,
    /// Microseconds (or what `unit` says) of ours, one a run.
    pub(super) ours: Vec<f64>,
    /// The same of the floor or peer; empty where the figure stands alone.
    pub(super) theirs: Vec<f64>,
    pub(super) unit: &'static str,
    pub(super) limit: Option<Limit>,
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// The ratio of ours to theirs is at most this.
    Ratio(f64),
    /// Ours is at most this.
    Value(f64),
}

impl Figure {
    /// Ours over theirs, run by run.
    fn ratios(&self) -> Vec<f64> {
        self.ours
            .iter()
            .zip(&self.theirs)
            .map(|(ours, theirs)| ours / theirs)
            .collect()
    }

    /// Whether the median keeps the limit; none where there is no limit.
    fn passes(&self) -> Option<bool> {
        Some(match self.limit? {
            Limit::Ratio(limit) => median(&self.ratios()) <= limit,
            Limit::Value(limit) => median(&self.ours) <= limit,
        })
    }

    fn row(&self) -> String {
        let range = |values: &[f64]| {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            format!("{}-{}", decimal(least), decimal(most))
        };
        let ratios = self.ratios();
        let (theirs, ratio, spread) = if ratios.is_empty() {
            ("-".to_owned(), "-".to_owned(), range(&self.ours))
        } else {
            (
                decimal(median(&self.theirs)),
                decimal(median(&ratios)),
                range(&ratios),
            )
        };
        let limit = match self.limit {
            Some(Limit::Ratio(limit)) => format!("{limit:.2} x"),
            Some(Limit::Value(limit)) => format!("{limit} {}", self.unit),
            None => "-".to_owned(),
        };
        let verdict = match self.passes() {
            Some(true) => "PASS",
            Some(false) => "FAIL",
            None => "",
        };
        let ours = format!("{} {}", decimal(median(&self.ours)), self.unit);
        format!(
            "| {} | {ours} | {theirs} | {} | {ratio} | {spread} | {limit} | {verdict} |",
            self.name, self.beside
        )
    }
}

/// All figures of a run of the program.
#[derive(Debug)]
pub(super) struct Report {
    smoke: bool,
    failed: Vec<String>,
    figures: usize,
}

impl Report {
    pub(super) fn new(smoke: bool) -> Self {
        Self {
            smoke,
            failed: Vec::new(),
            figures: 0,
        }
    }

    /// The head of the table.
    pub(super) fn heading() -> &'static str {
        "| figure | ours | theirs | beside | ratio | spread | limit | |\n|---|---|---|---|---|---|---|---|"
    }

    /// Prints a figure, and remembers whether it keeps its limit.
    pub(super) fn add(&mut self, figure: &Figure) {
        println!("{}", figure.row());
        self.figures += 1;
        if figure.passes() == Some(false) {
            self.failed.push(figure.name.clone());
        }
    }

    /// The last line; whether the run as a whole is good. A smoke run's figures fail nothing.
    pub(super) fn finish(&self) -> bool {
        let failed = self.failed.len();
        println!("\n{} figures, {failed} beyond their limits", self.figures);
        for name in &self.failed {
            println!("  FAIL {name}");
        }
        if self.smoke && failed > 0 {
            println!("  (a smoke run: too short to count)");
        }
        failed == 0 || self.smoke
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Limit, median};

    fn figure(ours: &[f64], theirs: &[f64], limit: Limit) -> Figure {
        Figure {
            name: "x".into(),
            beside: "y",
            ours: ours.to_vec(),
            theirs: theirs.to_vec(),
            unit: "µs",
            limit: Some(limit),
        }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
    }

    #[test]
    fn ratios_are_taken_run_by_run_and_the_median_is_held_against_the_limit() {
        // The machine was twice as slow in the second run, for both.
        let same = figure(&[11.0, 22.0, 11.0], &[10.0, 20.0, 10.0], Limit::Ratio(1.2));
        assert_eq!(same.passes(), Some(true), "{}", same.row());
        let slow = figure(&[13.0, 26.0, 11.0], &[10.0, 20.0, 10.0], Limit::Ratio(1.2));
        assert_eq!(slow.passes(), Some(false), "{}", slow.row());
    }
}
