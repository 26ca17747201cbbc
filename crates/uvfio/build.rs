//! Writes the PCI ID database as one piece of text, in the form that pci.ids has.
//!
//! As tables of strings in the program it would be 1.4 MiB of addresses, which the loader writes for each process that is
//! started: memory of its own for every server and every worker, who never look at a name. Text is not touched until
//! somebody reads it.

use std::fmt::Write as _;
use std::path::PathBuf;

use pci_ids::{Classes, Vendors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut text = String::new();
    for vendor in Vendors::iter() {
        writeln!(text, "{:04x}  {}", vendor.id(), vendor.name())?;
        for device in vendor.devices() {
            writeln!(text, "\t{:04x}  {}", device.id(), device.name())?;
        }
    }
    for class in Classes::iter() {
        writeln!(text, "C {:02x}  {}", class.id(), class.name())?;
        for subclass in class.subclasses() {
            writeln!(text, "\t{:02x}  {}", subclass.id(), subclass.name())?;
        }
    }
    let folder = std::env::var_os("OUT_DIR").ok_or("cargo says where: OUT_DIR")?;
    std::fs::write(PathBuf::from(folder).join("pci.ids"), text)?;
    Ok(())
}
