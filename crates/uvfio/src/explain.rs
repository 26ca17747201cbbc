//! `uvfio explain`: what one byte of configuration space is, and what a write to it does in each view.
//!
//! What a field reads and what becomes of a write is not told from the tables but tried on the model, with a copy of
//! the state; only the reasons come from the tables.

use serde::Serialize;
use uvfio_pci::{
    Access, Action, After, ByteEnables, Effect, Effects, Field, Input, Placed, Treatment, View, Window,
};

use crate::exit::Failure;
use crate::list::Machine;
use crate::print;
use crate::target::{Seen, Target};

/// Explain a byte of configuration space: its fields, and what each view's user reads and may write.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// As for `show`.
    target: String,
    /// Byte offset, decimal or hexadecimal with 0x.
    #[arg(value_parser = offset)]
    offset: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

fn offset(text: &str) -> Result<u16, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u16::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number
        .ok()
        .filter(|n| *n < 4096)
        .ok_or_else(|| "an offset is a number from 0 to 0xfff, such as 0x04".into())
}

/// A field, and what the three views make of it.
#[derive(Debug, Serialize)]
struct Explained {
    structure: &'static str,
    structure_offset: u16,
    register_offset: u16,
    register_bytes: u8,
    field: &'static str,
    msb: u8,
    lsb: u8,
    access: &'static str,
    doc: &'static str,
    section: &'static str,
    /// What the device holds.
    held: u32,
    views: Vec<InView>,
    after_flr: &'static str,
    after_conventional_reset: &'static str,
    after_d3hot: &'static str,
}

#[derive(Debug, Serialize)]
struct InView {
    view: &'static str,
    reads: u32,
    wrote: u32,
    then_reads: u32,
    effects: Vec<String>,
    why: String,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let target = Target::open(&args.target, &args.machine.host())?;
    let views: Vec<(View, Seen)> = View::ALL
        .into_iter()
        .map(|view| Ok((view, target.seen(view)?)))
        .collect::<Result<_, Failure>>()?;
    let Some((_, raw)) = views.last() else {
        return Ok(());
    };
    if args.offset >= raw.layout.config_bytes() {
        let bytes = raw.layout.config_bytes();
        if let Some(whole) = target.whole.filter(|whole| usize::from(args.offset) < *whole) {
            return Err(Failure::running(format_args!(
                "this user may read only the first {bytes} of the {whole} bytes of {}'s configuration space; root sees \
                 what is at {:#x}",
                target.name, args.offset
            )));
        }
        return Err(Failure::usage(format_args!(
            "{} has {bytes} bytes of configuration space; {:#x} lies past them",
            target.name, args.offset
        )));
    }
    let fields: Vec<Explained> = raw
        .layout
        .fields_at(args.offset)
        .map(|(placed, field)| explain(&placed, field, raw, &views))
        .collect();
    if args.json {
        return print(&(serde_json::to_string_pretty(&fields).map_err(Failure::running)? + "\n"));
    }
    if fields.is_empty() {
        let real = target.natural_view == View::Raw;
        return print(&undeclared(args.offset, &views, real));
    }
    print(&fields.iter().map(text).collect::<Vec<_>>().join("\n"))
}

fn undeclared(offset: u16, views: &[(View, Seen)], real: bool) -> String {
    let mut text = format!("{offset:#05x}: no field of any structure that the device declares\n");
    for (view, seen) in views {
        let reads = seen.register(offset, 1);
        let write = match view {
            View::Filtered if real => {
                "a write reaches a real function where the byte belongs to no structure"
            }
            View::Raw if real => "a write reaches a real function",
            _ => "a write is dropped",
        };
        text += &format!("  {:<9} reads {reads:#04x}; {write}\n", view.name());
    }
    text
}

fn explain(placed: &Placed, field: &'static Field, raw: &Seen, views: &[(View, Seen)]) -> Explained {
    Explained {
        structure: placed.table.name,
        structure_offset: placed.structure,
        register_offset: placed.offset + field.register,
        register_bytes: field.bytes,
        field: field.name,
        msb: field.msb,
        lsb: field.lsb,
        access: access(field.access),
        doc: field.doc,
        section: field.section,
        held: raw.layout.value(&raw.state, placed, field),
        views: views
            .iter()
            .map(|(view, seen)| try_write(*view, seen, placed, field))
            .collect(),
        after_flr: after(field.resets.flr),
        after_conventional_reset: after(field.resets.conventional),
        after_d3hot: after(field.resets.d3hot),
    }
}

/// Writes the field's inverse to a copy of the state: all of the register is written, other fields as they read (but
/// write-1-to-clear bits as 0, as a careful driver does).
fn try_write(view: View, seen: &Seen, placed: &Placed, field: &Field) -> InView {
    let place = field.place(placed.offset);
    let shift = place.shift - u32::from(field.lsb);
    let ones = field.mask() >> field.lsb;
    let reads = seen.layout.value(&seen.state, placed, field);
    let clears = |f: &Field| matches!(f.access, Access::Rw1c | Access::Rw1cs);
    let wrote = if clears(field) { ones } else { !reads & ones };
    let others: u32 = placed
        .table
        .fields
        .iter()
        .filter(|other| clears(other))
        .map(|other| other.place(placed.offset))
        .filter(|other| other.word == place.word)
        .fold(0, |all, other| all | other.mask);
    let value = (seen.dword(place.word) & !others & !place.mask) | (wrote << place.shift);
    let lanes = (0xf_u8 >> (4 - field.bytes.min(4))) << (shift / 8);
    let input = Input::Write {
        window: Window::Config,
        register: place.word,
        value,
        enables: ByteEnables(lanes),
    };

    let mut state = seen.state.clone();
    let mut effects = Effects::new();
    uvfio_pci::step(&seen.layout, &mut state, input, &mut effects);
    let then_reads = seen.layout.value(&state, placed, field);
    let effects: Vec<Effect> = effects.iter().collect();
    InView {
        view: view.name(),
        reads,
        wrote,
        then_reads,
        why: why(view, seen, placed, field, then_reads != reads, &effects),
        effects: effects.iter().map(effect).collect(),
    }
}

fn why(view: View, seen: &Seen, placed: &Placed, field: &Field, changed: bool, effects: &[Effect]) -> String {
    let there = seen
        .layout
        .fields_at(placed.offset + field.register + u16::from(field.lsb / 8));
    if !there.into_iter().any(|(_, found)| found == field) {
        return "the structure is not there in this view: reads 0, writes are dropped".into();
    }
    let writable = matches!(
        field.access,
        Access::Rw | Access::Rws | Access::Rw1c | Access::Rw1cs
    );
    let acts = changed || !effects.is_empty();
    match field.treatment(view) {
        treatment @ (Treatment::Hidden | Treatment::Constant | Treatment::HardwareRead) => {
            source(treatment).into()
        }
        Treatment::Shadow if !writable => {
            "kept by the model, which alone changes it; a write is dropped".into()
        }
        Treatment::Hardware if !writable => "the device's own, read-only; a write is dropped".into(),
        Treatment::Shadow | Treatment::Hardware
            if !acts && matches!(field.access, Access::Rw | Access::Rws) =>
        {
            "writable in general, but fixed by what this device declares".into()
        }
        treatment @ (Treatment::Shadow | Treatment::Hardware) => {
            format!("{}{}", source(treatment), action(field.action))
        }
    }
}

/// Where a field's value comes from, in words.
pub(crate) const fn source(treatment: Treatment) -> &'static str {
    match treatment {
        Treatment::Hidden => "not there in this view: reads 0, a write is dropped",
        Treatment::Constant => "declared by the device, the same for every user; a write is dropped",
        Treatment::HardwareRead => "the device's own; a write could disturb others, so it is stopped",
        Treatment::Shadow => "kept by the model",
        Treatment::Hardware => "the device's own register",
    }
}

fn action(action: Action) -> &'static str {
    match action {
        Action::None => "",
        Action::Decode => "; switches what the function answers",
        Action::BusMaster => "; switches DMA and messages",
        Action::IntxDisable => "; switches INTx",
        Action::Bar => "; sizes or moves the BAR",
        Action::PowerState => "; changes the power state",
        Action::Vpd => "; starts a transfer of vital product data",
        Action::Msi => "; enables, counts or masks messages",
        Action::MsiX => "; enables or masks vectors",
        Action::FunctionLevelReset => "; starts a function level reset, and reads 0",
    }
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Decode => "decoding changes".into(),
        Effect::BusMaster { on } => format!("bus mastering goes {}", if *on { "on" } else { "off" }),
        Effect::Interrupts => "the enabled interrupts change".into(),
        Effect::Deliver => "pending interrupts are delivered".into(),
        Effect::Reset { kind, .. } => format!("the device is reset ({kind:?})"),
        Effect::Power { from, to, .. } => format!("power goes from {from:?} to {to:?}"),
        Effect::Vpd { address, .. } => format!("vital product data at {address:#x} are moved"),
        Effect::BarMoved { bar } => format!("BAR {bar} moves"),
        Effect::HardwareWrite { value, keep, .. } => {
            format!("the device is written {value:#x} (bits {keep:#x} as they are)")
        }
        Effect::Refused { rule, .. } => format!("refused: {rule}"),
    }
}

fn text(explained: &Explained) -> String {
    let Explained {
        register_offset,
        register_bytes,
        field,
        msb,
        lsb,
        structure,
        structure_offset,
        ..
    } = explained;
    let bits = if msb == lsb {
        format!("bit {lsb}")
    } else {
        format!("bits {msb}:{lsb}")
    };
    let mut text = format!(
        "{register_offset:#05x}  {field}: {bits} of a {register_bytes}-byte register, in [{structure_offset:03x}] \
         {structure}\n"
    );
    text += &format!("  {}\n", explained.doc);
    text += &format!(
        "  {}; {}; the device holds {:#x}\n",
        explained.section, explained.access, explained.held
    );
    text += &format!(
        "  after FLR (virtual view) {}; conventional reset {}; D3hot to D0 {}\n",
        explained.after_flr, explained.after_conventional_reset, explained.after_d3hot
    );
    text += &format!("  {:<9} {:<10} {:<24} {}\n", "view", "reads", "a write", "why");
    for view in &explained.views {
        let write = format!("of {:#x}: reads {:#x}", view.wrote, view.then_reads);
        text += &format!(
            "  {:<9} {:<10} {:<24} {}\n",
            view.view,
            format!("{:#x}", view.reads),
            write,
            view.why
        );
        for effect in &view.effects {
            text += &format!("  {:<9} {:<10} {:<24} -> {effect}\n", "", "", "");
        }
    }
    text
}

const fn access(access: Access) -> &'static str {
    match access {
        Access::Ro => "RO (read-only)",
        Access::Rw => "RW (read-write)",
        Access::Rw1c => "RW1C (a written 1 clears)",
        Access::Ros => "ROS (read-only, sticky)",
        Access::Rws => "RWS (read-write, sticky)",
        Access::Rw1cs => "RW1CS (a written 1 clears, sticky)",
        Access::HwInit => "HwInit (set once by hardware)",
        Access::RsvdP => "RsvdP (reserved, preserve)",
        Access::RsvdZ => "RsvdZ (reserved, write 0)",
    }
}

const fn after(after: After) -> &'static str {
    match after {
        After::Kept => "as before",
        After::Initial => "as at power-on",
    }
}
