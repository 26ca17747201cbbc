//! The scenarios: one file each, one row of [`ALL`] each.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::checks::Checks;
use super::guest::Builder;
use super::server::Server;
use super::testbed::Testbed;

mod self_check;

/// Something that must hold in a virtual machine.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// What it shows, as `--list` prints it
    pub(super) about: &'static str,
    /// An error means that it could not be carried to its end, and counts as a failed check.
    pub(super) run: fn(&Context<'_>, &mut Checks) -> Result<()>,
}

/// Every scenario, in the order in which they run.
pub(super) const ALL: &[Scenario] = &[self_check::SCENARIO];

/// What a scenario may use.
#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) testbed: &'a Testbed,
    /// Logs of this scenario, kept after the run
    pub(super) dir: PathBuf,
    /// A folder with a short path, removed after the run
    pub(super) scratch: &'a Path,
    pub(super) programs: &'a Programs,
}

/// What is built here for the scenarios.
#[derive(Debug)]
pub(super) struct Programs {
    /// The server
    pub(super) uvfio: PathBuf,
    /// The guest's own tools
    pub(super) guest_tools: PathBuf,
}

impl<'a> Context<'a> {
    /// A virtual machine in the making.
    pub(super) fn guest(&self) -> Builder<'a> {
        Builder::new(self.testbed, &self.dir, self.scratch)
    }

    /// Starts our server for a device; `name` names its socket and log.
    pub(super) fn serve(&self, name: &str, device: &str, options: &[&str]) -> Result<Server> {
        let socket = self.scratch.join(format!("{name}.sock"));
        let log = self.dir.join(format!("{name}.log"));
        Server::start(&self.programs.uvfio, device, options, &socket, &log)
    }
}
