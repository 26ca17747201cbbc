//! `uvfio show`: configuration space decoded, field by field.

use crate::decode::{self, FieldValue, Function, Register, Structure};
use crate::exit::Failure;
use crate::list::Machine;
use crate::names;
use crate::target::Target;
use crate::{ViewArg, print};

/// Show a function's configuration space, decoded.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A device (as for `serve`), the socket of a server, the address of a PCI function of this machine (such as
    /// 0000:01:00.0), or a file: configuration space as bytes (64, 256 or 4096) or as the text of lspci -x, -xxx or
    /// -xxxx.
    target: String,
    /// As which view's user sees it. Without this: `virtual` for a device, and the bytes as they are for the others.
    #[arg(long, value_enum)]
    view: Option<ViewArg>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let target = Target::open(&args.target, &args.machine.host())?;
    let view = args.view.map_or(target.natural_view, Into::into);
    let function = decode::function(&target.seen(view)?, target.bar_bytes);
    if args.json {
        return print(&(serde_json::to_string_pretty(&function).map_err(Failure::running)? + "\n"));
    }
    let mut text = head(&target.name, &function);
    for finding in &target.findings {
        text += &format!("  ! {finding}\n");
    }
    for structure in &function.structures {
        text += &structure_text(structure);
    }
    print(&text)
}

fn head(name: &str, function: &Function) -> String {
    let id = &function.identity;
    let mut text = format!(
        "{name}: {:04x}:{:04x} {}, {} [{:06x}], revision {:02x}, {} bytes of configuration space\n",
        id.vendor, id.device, id.name, id.class_name, id.class, id.revision, function.config_bytes
    );
    for bar in &function.bars {
        let bytes = bar.bytes.map_or_else(|| "size unknown".to_owned(), names::bytes);
        text += &format!(
            "  BAR {}  {}, {bytes}, at {:#x}\n",
            bar.number, bar.kind, bar.address
        );
    }
    text
}

fn structure_text(structure: &Structure) -> String {
    let mut text = format!(
        "[{:03x}] {}  ({})\n",
        structure.offset, structure.name, structure.section
    );
    for register in &structure.registers {
        let digits = usize::from(register.bytes) * 2;
        let head = format!(
            "  {:03x}  {:>8}  ",
            register.offset,
            format!("{:0digits$x}", register.value)
        );
        text += &wrap(&head, &fields(register));
    }
    text
}

fn fields(register: &Register) -> Vec<String> {
    register
        .fields
        .iter()
        .map(|field| field_text(field, register))
        .collect()
}

/// One bit is shown as lspci does, by + or -; a field that is the whole register by its name only.
fn field_text(field: &FieldValue, register: &Register) -> String {
    let FieldValue {
        name,
        msb,
        lsb,
        value,
    } = *field;
    if msb == lsb {
        format!("{name}{}", if value == 0 { '-' } else { '+' })
    } else if lsb == 0 && msb + 1 == register.bytes * 8 {
        name.to_owned()
    } else {
        format!("{name} {value:#x}")
    }
}

/// Joins words with commas, in lines of about 110 columns.
fn wrap(head: &str, words: &[String]) -> String {
    let mut text = head.to_owned();
    let mut column = head.len();
    for (n, word) in words.iter().enumerate() {
        if n > 0 {
            text.push(',');
            if column + word.len() > 108 {
                text += &format!("\n{:1$}", "", head.len());
                column = head.len();
            } else {
                text.push(' ');
                column += 2;
            }
        }
        text += word;
        column += word.len();
    }
    text.push('\n');
    text
}
