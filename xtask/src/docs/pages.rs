//! The register pages: one a structure, written from the model's tables and nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, anyhow, bail};
use uvfio_pci::{Field, Layout, Table, Treatment, View};

use super::drawing::{Span, draw};
use super::samples::{self, Row, Sample};
use super::{GENERATED, Pages, phrases};

/// All generated pages.
pub(super) fn all() -> Result<Pages> {
    let mut pages = Pages::new();
    for sample in samples::all() {
        let page = page(&sample)?;
        pages.insert(format!("{GENERATED}/{}.md", sample.file), page);
    }
    Ok(pages)
}

fn page(sample: &Sample) -> Result<String> {
    let first = sample
        .tables
        .first()
        .ok_or_else(|| anyhow!("{}: no table", sample.file))?
        .table;
    let mut out = "<!-- Written by `cargo xtask docs` from crates/uvfio-pci/src/tables. -->\n\n".to_owned();
    let _ = writeln!(out, "# {}\n", first.name);
    for row in &sample.tables {
        let table = row.table;
        if !std::ptr::eq(table, first) {
            let _ = writeln!(out, "## {}\n", table.name);
        }
        let _ = writeln!(out, "{}\n\n*{}*\n", table.doc, table.section);
        let (base, place) = match row.place {
            Some(words) => (None, words.to_owned()),
            None => place(&places(sample, table)?),
        };
        if !place.is_empty() {
            let _ = writeln!(out, "{place}\n");
        }
        for (register, fields) in registers(table) {
            out.push_str(&describe(register, &fields, base, name(row, register.0, &fields)));
        }
    }
    Ok(format!("{}\n", out.trim_end()))
}

/// Where a table lies in its structure, in each layout that has it: (layout, byte offset).
fn places(sample: &Sample, table: &Table) -> Result<Vec<(&'static str, u16)>> {
    let mut places = Vec::new();
    for (layout, blueprint) in &sample.variants {
        let compiled = Layout::compile(blueprint, View::Virtual)
            .map_err(|error| anyhow!("{}: the sample can't be laid out: {error}", sample.file))?;
        let found = compiled.placed().filter(|placed| placed.table == table);
        places.extend(found.map(|placed| (*layout, placed.offset - placed.structure)));
    }
    if places.is_empty() {
        bail!("{}: no sample has the table {:?}", sample.file, table.name);
    }
    Ok(places)
}

/// The offset to count from, where it is the same in every layout, and the places in words.
fn place(places: &[(&str, u16)]) -> (Option<u16>, String) {
    match places {
        [("", base)] => (Some(*base), String::new()),
        [(_, base), rest @ ..] if rest.iter().all(|(_, other)| other == base) => {
            let layouts: Vec<_> = places.iter().map(|(layout, _)| *layout).collect();
            (Some(*base), format!("In these layouts: {}.", layouts.join("; ")))
        }
        _ => {
            let list: Vec<_> = places
                .iter()
                .map(|(layout, offset)| format!("{offset:#04x} ({layout})"))
                .collect();
            (None, format!("Offset in the structure: {}.", list.join(", ")))
        }
    }
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
fn describe((offset, bytes): (u16, u8), fields: &[&Field], base: Option<u16>, name: &str) -> String {
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
    let place = match base {
        Some(base) => format!("{:#04x}", base + offset),
        None => format!("+{offset:#04x}"),
    };
    let mut out = format!("### {place} {name}, {} bits\n\n", bytes * 8);
    let _ = write!(out, "```text\n{}```\n\n", draw(bytes * 8, &spans));
    out.push_str("| | bits | field | is | virtual | filtered | raw | FLR | conventional | D3hot to D0 |\n");
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

/// A register's name: its only field's, or the one that its row gives.
fn name(row: &Row, register: u16, fields: &[&'static Field]) -> &'static str {
    let given = row.names.iter().find(|(offset, _)| *offset == register);
    match (fields, given) {
        (_, Some((_, name))) => name,
        ([only], None) => only.name,
        _ => row.table.name,
    }
}

fn bits(field: &Field) -> String {
    if field.lsb == field.msb {
        field.lsb.to_string()
    } else {
        format!("{}:{}", field.msb, field.lsb)
    }
}

/// What a view's user reads, and what becomes of its write.
fn cell(field: &Field, treatment: Treatment) -> String {
    format!(
        "{} / {}",
        phrases::reads(treatment),
        phrases::writes(field.access, treatment)
    )
}
