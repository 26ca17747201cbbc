//! How long a server takes from its start until it has answered its first user.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::Effort;
use super::figures::{Figure, Limit, Report, median};
use super::memory::sparse_disk;
use super::server::Server;

/// Milliseconds that it may take.
const LIMIT: f64 = 20.0;

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let starts = if effort.smoke { 3 } else { 20 };
    let devices = [
        ("edu", "edu".to_owned()),
        ("nvme, a sparse file of 1 GiB", sparse_disk(folder.path())),
    ];
    let mut ours = vec![Vec::new(); devices.len()];
    for _ in 0..effort.runs {
        for ((_, device), ours) in devices.iter().zip(&mut ours) {
            let times: Result<Vec<f64>> = (0..starts).map(|_| start(folder.path(), device)).collect();
            ours.push(median(&times?));
        }
    }
    for ((name, _), ours) in devices.iter().zip(ours) {
        report.add(&Figure {
            name: format!("start to first answer: {name}"),
            beside: "-",
            ours,
            theirs: Vec::new(),
            unit: "ms",
            limit: Some(Limit::Value(LIMIT)),
        });
    }
    Ok(())
}

/// Milliseconds from before `uvfio serve` is executed until a user has connected, agreed on a version, and read a
/// register of configuration space.
fn start(folder: &Path, device: &str) -> Result<f64> {
    let start = Instant::now();
    let mut server = Server::exec(folder, device)?;
    server.first_answer()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}
