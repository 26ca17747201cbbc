//! The register pages: one a structure, written from the model's tables and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use uvfio_pci::{Field, Layout, Placed, Table, Treatment, View};

use super::drawing::{Span, draw};
use super::samples::{self, Sample};
use super::{GENERATED, Pages, phrases};

/// Capabilities that every function in a sample has besides the one that the page is about.
const HEADER: u16 = 0;

/// All generated pages.
pub(super) fn all() -> Result<Pages> {
    let mut pages = Pages::new();
    for sample in samples::all() {
        let page = page(&sample)?;
        pages.insert(format!("{GENERATED}/{}.md", sample.file), page);
    }
    Ok(pages)
}

/// A part of a structure, and where it lies in each layout of the sample.
struct Part {
    table: &'static Table,
    /// (layout, byte offset in the structure)
    places: Vec<(&'static str, u16)>,
}

fn page(sample: &Sample) -> Result<String> {
    let parts = parts(sample)?;
    let first = parts
        .first()
        .ok_or_else(|| anyhow!("{}: the model has no table for it", sample.file))?;
    let mut out = "<!-- Written by `cargo xtask docs` from crates/uvfio-pci/src/tables. -->\n\n".to_owned();
    let _ = writeln!(out, "# {}\n", first.table.name);
    for part in &parts {
        let several = parts.len() > 1;
        if several && part.table.name != first.table.name {
            let _ = writeln!(out, "## {}\n", part.table.name);
        }
        let _ = writeln!(out, "{}\n\n*{}*\n", part.table.doc, part.table.section);
        if several {
            let _ = writeln!(out, "{}\n", places(&part.places));
        }
        for (register, fields) in registers(part.table) {
            out.push_str(&describe(register, &fields, part));
        }
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// The parts of the structure that a sample is about, in the order of their offsets.
fn parts(sample: &Sample) -> Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for (layout, blueprint) in &sample.variants {
        let compiled = Layout::compile(blueprint, View::Virtual)
            .map_err(|error| anyhow!("{}: the sample can't be laid out: {error:?}", sample.file))?;
        let placed: Vec<Placed> = compiled.placed().collect();
        let subject = subject(sample, &placed);
        for part in placed.iter().filter(|p| p.structure == subject) {
            let place = (*layout, part.offset - part.structure);
            match parts.iter_mut().find(|known| *known.table == *part.table) {
                Some(known) => known.places.push(place),
                None => parts.push(Part {
                    table: part.table,
                    places: vec![place],
                }),
            }
        }
    }
    Ok(parts)
}

/// The structure that a sample is about: the header for the page of that, else the one with the highest offset
/// (in an extended sample the PCI Express capability lies below it).
fn subject(sample: &Sample, placed: &[Placed]) -> u16 {
    if sample.file == "header" {
        HEADER
    } else {
        placed.iter().map(|p| p.structure).max().unwrap_or(HEADER)
    }
}

fn places(places: &[(&str, u16)]) -> String {
    let list: Vec<_> = places
        .iter()
        .map(|(layout, offset)| match *layout {
            "" => format!("{offset:#04x}"),
            layout => format!("{offset:#04x} ({layout})"),
        })
        .collect();
    format!("This part lies at offset {} of the structure.", list.join(", "))
}

/// The fields of a table by register: (offset, width in bytes).
fn registers(table: &'static Table) -> BTreeMap<(u16, u8), Vec<&'static Field>> {
    let mut registers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for field in table.fields {
        registers
            .entry((field.register, field.bytes))
            .or_default()
            .push(field);
    }
    for fields in registers.values_mut() {
        fields.sort_by_key(|field| field.lsb);
    }
    registers
}

/// One register: its drawing, what each field is in each view, and what each means.
fn describe((offset, bytes): (u16, u8), fields: &[&Field], part: &Part) -> String {
    let base = match part.places.as_slice() {
        [(_, base)] => *base,
        _ => 0,
    };
    let keyed: Vec<(char, &Field)> = ('a'..='z').chain('A'..='Z').zip(fields.iter().copied()).collect();
    let spans: Vec<_> = keyed
        .iter()
        .map(|(key, f)| Span {
            name: f.name,
            key: *key,
            lsb: f.lsb,
            msb: f.msb,
        })
        .collect();
    let mut out = format!(
        "### {:#05x}, {} bits: {}\n\n",
        base + offset,
        bytes * 8,
        title(fields)
    );
    let _ = write!(out, "```text\n{}```\n\n", draw(bytes * 8, &spans));
    out.push_str(
        "| | bits | field | is | virtual | filtered | raw | FLR | conventional reset | D3hot to D0 |\n",
    );
    out.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for (key, field) in &keyed {
        let views: Vec<_> = View::ALL
            .iter()
            .map(|view| cell(field, field.treatment(*view)))
            .collect();
        let _ = writeln!(
            out,
            "| {key} | {} | {} | {} | {} | {} | {} | {} |",
            bits(field),
            field.name,
            phrases::access(field.access),
            views.join(" | "),
            phrases::after(field.resets.flr),
            phrases::after(field.resets.conventional),
            phrases::after(field.resets.d3hot),
        );
    }
    out.push('\n');
    for (_, field) in &keyed {
        let action = phrases::action(field.action)
            .map(|text| format!(" {text}"))
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "- **{}** ({}): {}{action} *{}*",
            field.name,
            bits(field),
            field.doc,
            field.section
        );
    }
    out.push('\n');
    out
}

/// What a reader looks for: the register's only field, or its fields' names in short.
fn title(fields: &[&Field]) -> String {
    match fields {
        [only] => only.name.to_owned(),
        [first, .., last] => format!("{} to {}", first.name, last.name),
        [] => String::new(),
    }
}

fn bits(field: &Field) -> String {
    if field.lsb == field.msb {
        field.lsb.to_string()
    } else {
        format!("{}:{}", field.msb, field.lsb)
    }
}

/// What a view's user reads and what its write does.
fn cell(field: &Field, treatment: Treatment) -> String {
    format!(
        "reads {}; write {}",
        phrases::reads(treatment),
        phrases::writes(field.access, treatment)
    )
}
