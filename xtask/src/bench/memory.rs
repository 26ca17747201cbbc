//! Memory that an idle served device takes: of both processes, the pages that nobody else has, not even another server.
//!
//! Idle, but in use: a user is attached, and its driver has set the device up.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use uvfio_driver::Function;
use uvfio_driver::drivers::nvme::{Disk, Options};

use super::Effort;
use super::figures::{Figure, Limit, Report};
use super::processes::private_kib;
use super::server::Server;
use crate::paths::as_option;

/// MiB that a served device may take.
const LIMIT: f64 = 3.0;
/// How long the processes have to come to rest.
const REST: Duration = Duration::from_millis(200);

pub(super) fn run(effort: Effort, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (mut edu, mut nvme) = (Vec::new(), Vec::new());
    for _ in 0..effort.runs {
        edu.push(idle(folder.path(), |_| "edu".into(), Server::line)?);
        nvme.push(idle(folder.path(), sparse_disk, |server| {
            Ok(Disk::open(
                Function::connect(server.socket())?,
                Options::default(),
            )?)
        })?);
    }
    for (name, ours) in [("edu", edu), ("nvme, a sparse file of 1 GiB", nvme)] {
        report.add(&Figure {
            name: format!("private memory of a server at rest: {name}"),
            beside: "-",
            ours,
            theirs: Vec::new(),
            unit: "MiB",
            limit: Some(Limit::Value(LIMIT)),
        });
    }
    Ok(())
}

/// A disk with nothing on it.
pub(super) fn sparse_disk(folder: &Path) -> String {
    format!("nvme,file={},size=1G", as_option(&folder.join("sparse.img")))
}

/// MiB of a server whose user `attach` makes and keeps. Another one of the same kind runs beside it, with a user of its own:
/// so the programs' code, which all servers share, is not counted as one's own.
fn idle<User>(
    folder: &Path,
    device: impl Fn(&Path) -> String,
    attach: impl Fn(&Server) -> Result<User>,
) -> Result<f64> {
    let elsewhere = tempfile::tempdir_in(folder)?;
    let neighbour = Server::start(elsewhere.path(), &device(elsewhere.path()))?;
    let neighbours_user = attach(&neighbour)?;
    let server = Server::start(folder, &device(folder))?;
    let user = attach(&server)?;
    std::thread::sleep(REST);
    let kib = private_kib(&server.processes()?)?;
    drop((user, neighbours_user));
    Ok(kib as f64 / 1024.0)
}
