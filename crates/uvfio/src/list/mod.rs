//! `uvfio list`: the PCI functions of this machine, and whether they could be given to a user.

mod record;
mod text;

use std::path::PathBuf;

use uvfio_linux::sysfs::{Address, Error, Host, OpenVfio, Uses};

use crate::exit::Failure;
use crate::print;
use record::Record;

/// List PCI functions: driver, IOMMU group and what is in its way, reset methods, who holds them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this function, with everything that is known of it: as 0000:01:00.0, or 01:00.0 in domain 0.
    address: Option<Address>,
    /// Bridges too.
    #[arg(long, conflicts_with = "address")]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

/// Which machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Machine {
    /// The folder in which the machine's sys, proc, dev and run lie.
    #[arg(long, default_value = "/", value_name = "DIR", hide_short_help = true)]
    root: PathBuf,
}

impl Machine {
    pub(crate) fn host(&self) -> Host {
        Host::at(&self.root)
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let host = args.machine.host();
    let surroundings = Surroundings::of(&host);
    let records = match args.address {
        Some(address) => {
            let function = host.sysfs().function(address).map_err(failure)?;
            let config = host.sysfs().config(address);
            let lost = config.as_ref().map(|config| function.lost_bars(&config.bytes));
            let lost = lost.unwrap_or_default();
            let mut record = Record::of(&host, function, &surroundings);
            record.add_config(config, &lost);
            vec![record]
        }
        None => all(&host, &surroundings, args.all)?,
    };
    if args.json {
        return print(&(serde_json::to_string_pretty(&records).map_err(Failure::running)? + "\n"));
    }
    let mut text = String::new();
    for record in &records {
        text += &text::function(record, args.address.is_some());
    }
    if records.is_empty() {
        text += "There are no PCI functions here.\n";
    }
    for note in surroundings.notes(&records) {
        text += &format!("! {note}\n");
    }
    print(&text)
}

fn all(host: &Host, surroundings: &Surroundings, bridges: bool) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    for (address, function) in host.sysfs().functions().map_err(failure)? {
        match function {
            Ok(function) if bridges || !function.is_bridge() => {
                records.push(Record::of(host, function, surroundings));
            }
            Ok(_) => {}
            // One that can't be read does not hide the others.
            Err(error) => eprintln!("uvfio list: {address} is left out: {error}"),
        }
    }
    Ok(records)
}

/// What stands beside `/sys` and is looked through once for all functions.
struct Surroundings {
    open: Result<OpenVfio, Error>,
    uses: Result<Uses, Error>,
}

impl Surroundings {
    fn of(host: &Host) -> Self {
        Self {
            open: host.open_vfio(),
            uses: host.uses(),
        }
    }

    /// What the list does not know, as sentences.
    fn notes(&self, records: &[Record]) -> Vec<String> {
        let mut notes = Vec::new();
        match &self.open {
            Err(error) => notes.push(format!("who holds them is not known: {error}")),
            // Without a group there is nothing to hold.
            Ok(open) if open.unseen > 0 && records.iter().any(Record::has_group) => notes.push(format!(
                "{} processes may not be looked into by this user; root sees whether they hold a function",
                open.unseen
            )),
            Ok(_) => {}
        }
        if let Err(error) = &self.uses {
            notes.push(format!("what the system needs them for is not known: {error}"));
        }
        notes
    }
}

/// A function that does not exist is the command line's fault.
pub(crate) fn failure(error: Error) -> Failure {
    match error {
        Error::NoFunction { .. } => Failure::usage(error),
        _ => Failure::running(error),
    }
}
