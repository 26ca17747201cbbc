//! `uvfio diff`: what a function's user would see of its configuration space, against what the hardware says.

use serde::Serialize;
use uvfio_linux::device::Presented;
use uvfio_linux::sysfs::{Address, Config, Host, ResetMethods};
use uvfio_pci::tables::{header, power};
use uvfio_pci::{Field, Layout, Placed, State, Treatment, View, Window};

use crate::exit::Failure;
use crate::list::{self, Machine};
use crate::{ViewArg, explain, print};

/// Compare what a new user of a PCI function would see with what the hardware says, field by field.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The address of a PCI function of this machine, such as 0000:01:00.0.
    address: Address,
    /// As which view's user sees it.
    #[arg(long, value_enum, default_value = "virtual")]
    view: ViewArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Serialize)]
struct Compared {
    address: String,
    view: &'static str,
    /// Bytes of configuration space that this user may read, and all there are.
    bytes: usize,
    whole: usize,
    /// Fields of the hardware's structures, and how many of them differ.
    fields: usize,
    differences: Vec<Difference>,
}

/// A field, or bytes that belong to none, with another value for the user than in the hardware.
#[derive(Debug, Serialize)]
struct Difference {
    structure: &'static str,
    /// Where the hardware has the register.
    offset: u16,
    bytes: u16,
    field: &'static str,
    msb: u16,
    lsb: u8,
    /// Of bytes that belong to no field, the first.
    hardware: u32,
    /// The bytes that belong to no field, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    data: Vec<u8>,
    /// None: the user has no such register.
    user: Option<u32>,
    /// Where the user finds the register.
    user_offset: Option<u16>,
    why: String,
}

/// What the hardware holds, and what its user sees.
struct Both {
    page: Vec<u8>,
    hardware: Layout,
    user: Layout,
    state: State,
}

/// The most bytes of a run that are printed, two lines of a terminal; there may be 4000.
const MAX_SHOWN: usize = 32;

/// Bytes of the header, all that an ordinary user may read.
const HEADER_BYTES: usize = 64;

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let host = args.machine.host();
    let view = args.view.into();
    let config = host.sysfs().config(args.address).map_err(list::failure)?;
    let both = Both::of(&host, args.address, &config, view)?;
    let (fields, differences) = both.compare();
    let compared = Compared {
        address: args.address.to_string(),
        view: view.name(),
        bytes: config.bytes.len(),
        whole: config.whole,
        fields,
        differences,
    };
    if args.json {
        return print(&(serde_json::to_string_pretty(&compared).map_err(Failure::running)? + "\n"));
    }
    print(&text(&compared))
}

impl Both {
    fn of(host: &Host, address: Address, config: &Config, view: View) -> Result<Self, Failure> {
        let function = host.sysfs().function(address).map_err(list::failure)?;
        let mut page = config.bytes.clone();
        // Of a virtual function the hardware does not tell; whoever shows it knows it from the kernel.
        let known = [function.vendor.to_le_bytes(), function.device.to_le_bytes()];
        let told = page.clone();
        for (byte, known) in page.iter_mut().zip(known.iter().flatten()) {
            *byte = *known;
        }
        let mut bars = [0; 6];
        for resource in &function.resources {
            if let Some(bytes) = bars.get_mut(resource.index) {
                *bytes = resource.bytes;
            }
        }
        let resettable = function.reset != ResetMethods::None;
        let mut first = page.clone();
        if page.len() <= HEADER_BYTES {
            // No chain: where it leads is not known.
            first.resize(256, 0);
            let list = header::CAPABILITIES_LIST.place(0);
            if let Some(status) = first.get_mut(usize::from(list.word) * 4 + list.shift as usize / 8) {
                *status &= !(1 << (list.shift % 8));
            }
        }
        let presented = Presented::of(first.get(..256).unwrap_or(&first), bars, resettable);
        let presented = presented
            .map_err(|lie| Failure::running(format_args!("{address} would not be given to a user: {lie}")))?;
        let blueprint = presented.blueprint();
        let user = match view {
            View::Virtual => Layout::compile(&blueprint, view).map_err(Failure::running)?,
            _ => Layout::over(&blueprint, &page, view).map_err(Failure::running)?,
        };
        Ok(Self {
            hardware: Layout::from_dump(&page).map_err(Failure::running)?.0,
            state: State::new(&user),
            user,
            page: told,
        })
    }

    /// How many fields there are, and the differences. Of a header alone the chain is not known.
    fn compare(&self) -> (usize, Vec<Difference>) {
        let mut fields = 0;
        let mut differences = Vec::new();
        let is_part = self.page.len() <= HEADER_BYTES;
        for placed in self.hardware.placed() {
            let there = self.of_user(&placed);
            for copy in 0..placed.copies {
                let shift = copy * placed.table.bytes();
                for field in placed.table.fields {
                    if is_part && [header::CAPABILITIES, header::CAPABILITIES_LIST].contains(field) {
                        continue;
                    }
                    fields += 1;
                    differences.extend(self.field(&placed, field, shift, there));
                }
            }
        }
        differences.extend(self.undeclared());
        differences.sort_by_key(|difference| (difference.offset, difference.lsb));
        (fields, differences)
    }

    /// Where the user has a table of the hardware's.
    fn of_user(&self, placed: &Placed) -> Option<u16> {
        if self.user.is_backed() || placed.structure == 0 {
            return Some(placed.offset);
        }
        let same = |other: &Placed| std::ptr::eq(other.table, placed.table);
        let before = self.hardware.placed().filter(same);
        let nth = before.take_while(|other| other.offset != placed.offset).count();
        self.user.placed().filter(same).nth(nth).map(|found| found.offset)
    }

    fn field(
        &self,
        placed: &Placed,
        field: &'static Field,
        shift: u16,
        there: Option<u16>,
    ) -> Option<Difference> {
        let register = placed.offset + shift + field.register;
        let held = field.extract(bytes_at(&self.page, register, field.bytes));
        let user_offset = there.map(|there| there + shift + field.register);
        let user = user_offset.map(|offset| field.extract(self.user_reads(offset, field.bytes)));
        if user.unwrap_or(0) == held || self.is_hardwares(field) {
            return None;
        }
        Some(Difference {
            structure: placed.table.name,
            offset: register,
            bytes: field.bytes.into(),
            field: field.name,
            msb: field.msb.into(),
            lsb: field.lsb,
            hardware: held,
            data: Vec::new(),
            user,
            user_offset,
            why: self.why(field, user.is_some()),
        })
    }

    /// Whether a user reads a field from the hardware, although a new state of the registers has another value.
    fn is_hardwares(&self, field: &Field) -> bool {
        self.user.is_backed() && self.user.view() == View::Raw && *field == header::INTX_DISABLE
    }

    fn why(&self, field: &Field, there: bool) -> String {
        if !there {
            return "its structure is not shown in this view: reads 0, a write is dropped".into();
        }
        if self.user.is_backed() {
            let why = if [header::VENDOR, header::DEVICE].contains(field) {
                "known from the kernel: the hardware of a virtual function reads all ones"
            } else if *field == header::INTERRUPT_PIN {
                "this view has no INTx"
            } else if *field == header::INTX_DISABLE {
                "kept by the model: this view has no INTx, and in the hardware the line stays disabled"
            } else if *field == power::STATE {
                "a new user has the function in D0"
            } else {
                "a new user has it off"
            };
            return why.into();
        }
        let treatment = field.treatment(self.user.view());
        let source = match treatment {
            Treatment::Shadow => "kept by the model: a new user has it as at power-on",
            _ => explain::source(treatment),
        };
        let doc = field.doc.trim_end_matches('.');
        if doc.is_empty() {
            source.into()
        } else {
            format!("{source}. {doc}")
        }
    }

    /// Runs of bytes that no table declares and that the user does not see.
    fn undeclared(&self) -> Vec<Difference> {
        let mut runs: Vec<Difference> = Vec::new();
        if self.user.is_backed() {
            return runs;
        }
        for (offset, byte) in (0_u16..).zip(&self.page) {
            if *byte == 0 || self.hardware.fields_at(offset).next().is_some() {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.offset + run.bytes == offset => {
                    run.bytes += 1;
                    run.msb += 8;
                    run.data.push(*byte);
                }
                _ => runs.push(Difference {
                    structure: "bytes that no table describes",
                    offset,
                    bytes: 1,
                    field: "",
                    msb: 7,
                    lsb: 0,
                    hardware: (*byte).into(),
                    data: vec![*byte],
                    user: None,
                    user_offset: None,
                    why: "nothing that is not declared exists in this view: reads 0, a write is dropped"
                        .into(),
                }),
            }
        }
        runs
    }

    /// What a new user reads at an offset of its own. Over hardware that is what the page holds but for what is off when
    /// a user comes; the page may be of a function that another driver has in use.
    fn user_reads(&self, offset: u16, bytes: u8) -> u32 {
        let value = uvfio_pci::read(&self.user, &self.state, Window::Config, offset / 4);
        bytes_at(&value.to_le_bytes(), offset % 4, bytes)
    }
}

/// A little-endian number of up to 4 bytes; what is not there is 0.
fn bytes_at(page: &[u8], offset: u16, bytes: u8) -> u32 {
    let found = page.iter().skip(offset.into()).take(bytes.into());
    found.rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

fn text(compared: &Compared) -> String {
    let Compared {
        address,
        view,
        bytes,
        whole,
        fields,
        differences,
    } = compared;
    let mut text = format!(
        "{address}: what a new user of the {view} view sees, against what the hardware says: {} of {fields} fields \
         differ\n",
        differences.iter().filter(|one| !one.field.is_empty()).count()
    );
    if bytes < whole {
        text += &format!(
            "  ! only the first {bytes} of {whole} bytes of its configuration space may be read by this user; root \
             sees all\n"
        );
    }
    for one in differences {
        text += &line(one);
    }
    text
}

fn line(one: &Difference) -> String {
    if one.field.is_empty() {
        return run_of_bytes(one);
    }
    let bits = match (one.msb, one.lsb) {
        (msb, lsb) if msb == u16::from(lsb) => format!("bit {lsb}"),
        (msb, lsb) => format!("bits {msb}:{lsb}"),
    };
    let user = one
        .user
        .map_or_else(|| "-".to_owned(), |user| format!("{user:#x}"));
    let moved = match one.user_offset {
        Some(offset) if offset != one.offset => format!(" (there at {offset:#05x})"),
        _ => String::new(),
    };
    format!(
        "{:#05x}  {bits:<10} {}: hardware {:#x}, user {user}{moved}\n        {}\n",
        one.offset, one.field, one.hardware, one.why
    )
}

fn run_of_bytes(run: &Difference) -> String {
    let count = match run.bytes {
        1 => "1 byte".to_owned(),
        bytes => format!("{bytes} bytes"),
    };
    let mut text = format!(
        "{:#05x}  {count:<10} {}: user -, hardware",
        run.offset, run.structure
    );
    let shown = run.data.iter().take(MAX_SHOWN);
    shown.for_each(|byte| text += &format!(" {byte:02x}"));
    if run.data.len() > MAX_SHOWN {
        text += &format!(" and {} more (--json has all)", run.data.len() - MAX_SHOWN);
    }
    text + &format!("\n        {}\n", run.why)
}
