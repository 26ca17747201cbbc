//! A user who writes every byte of configuration space: what that changes in the hardware, by the virtual view and by the
//! kernel's own VFIO.
//!
//! The hardware is looked at from outside, through sysfs, after every dword; a bit counts as changed if it was ever seen
//! to differ from what it was before.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use uvfio_linux::vfio::Region;
use uvfio_pci::tables::express;
use uvfio_pci::{View, chain};

use crate::owned::{COMMAND, Function, Owned, PATIENCE};
use crate::report::Report;
use crate::virtual_view::{EXPRESS, MSI, MSIX, POWER, User};

/// Written in turn; the last is followed by as many random ones.
const PATTERNS: [u32; 4] = [0xffff_ffff, 0, 0x5555_5555, 0xaaaa_aaaa];
/// How long the hardware may take to be as before.
const SETTLES: Duration = Duration::from_millis(50);
/// How often it is asked whether it answers again.
const ANSWERS: usize = 20;

/// Where in a dword an access begins, and how wide it is; some run into the next one.
const PIECES: [(u64, usize); 10] = [
    (0, 1),
    (1, 1),
    (2, 1),
    (3, 1),
    (0, 2),
    (1, 2),
    (2, 2),
    (3, 2),
    (0, 4),
    (1, 4),
];

/// MSI's message control and what follows, with a 64-bit address and mask bits; MSI-X's message control (PCI Local Bus
/// 3.0, 6.8.1 and 6.8.2).
const MSI_CONTROL: u64 = 2;
const MSI_BYTES: usize = 22;
const MSIX_CONTROL: u64 = 2;
/// The first capability's pointer.
const CAPABILITIES: usize = 0x34;

/// Offset of the power state's register in its capability (PCI Power Management 1.2, 3.2.4).
const POWER_CONTROL: u64 = 4;

/// By the virtual view. What its user may have done to the hardware is switched on and off there: decoding and bus
/// mastering, the power state, and MSI or MSI-X, whose address and data the kernel chooses.
pub(crate) fn by_virtual_view(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::new(address);
    let outside = Outside::open(&function)?;
    let user = User::attach(address)?;
    let power = user.capability(POWER).ok().map(|at| at + POWER_CONTROL);
    let mut declared = vec![(COMMAND, 2)];
    let mut messages = Vec::new();
    // The virtual capabilities need not be where the hardware's are.
    if let Some(at) = outside.capability(POWER)? {
        declared.push((at + POWER_CONTROL, 2));
    }
    for (id, first, bytes) in [(MSI, MSI_CONTROL, MSI_BYTES), (MSIX, MSIX_CONTROL, 2)] {
        if let Some(at) = outside.capability(id)? {
            messages.push((at + first, bytes));
        }
    }
    declared.extend(&messages);
    let before = outside.read()?;
    let mut changed = Changed::new(&before);
    write_everything(&user, &outside, &mut changed)?;
    let switched: u32 = declared
        .iter()
        .map(|&(at, bytes)| changed.within(at, bytes))
        .sum();
    report.same(
        "bits of the hardware that the virtual view lets such a user change beside what it may switch",
        &0,
        &(changed.bits() - switched),
    )?;
    if let Some(power) = power {
        user.set_config(power, 0_u16)?;
    }
    user.set_config(COMMAND, 0_u16)?;
    user.virt.detach()?;
    let same = |page: &[u8]| {
        let kept = messages
            .iter()
            .flat_map(|&(at, bytes)| at as usize..at as usize + bytes);
        let mut page = page.to_vec();
        // The kernel leaves its last message there, switched off.
        kept.for_each(|byte| page[byte] = 0);
        page
    };
    let deadline = Instant::now() + PATIENCE;
    let mut after = outside.read()?;
    while same(&after) != same(&before) && Instant::now() < deadline {
        sleep(SETTLES);
        after = outside.read()?;
    }
    report.same(
        "when the user has gone the hardware is as it was",
        &same(&before),
        &same(&after),
    )?;
    report.ok(&format!(
        "ADVERSARY {}: {switched} bits changed by the virtual view, all of them switches that it declares",
        function.text("device")?
    ))
}

/// What such a user of the `filtered` view can't change: (what, first byte, bytes).
fn guarded(outside: &Outside) -> Result<Vec<(&'static str, u64, usize)>> {
    let mut guarded = vec![
        ("the identity", 0x00, 4),
        ("revision and class", 0x08, 4),
        ("BARs", 0x10, 24),
        ("the ROM", 0x30, 4),
    ];
    let within = [
        (MSI, "MSI's control, address and data", MSI_CONTROL, 12),
        // Of its control only the function mask may be the user's.
        (MSIX, "MSI-X's table size", MSIX_CONTROL, 1),
        (MSIX, "where MSI-X's table and pending bits are", 4, 8),
        (EXPRESS, "link control and status", 0x10, 4),
        (EXPRESS, "slot and root registers", 0x14, 0x10),
        (EXPRESS, "link control and status 2", 0x30, 4),
    ];
    for (id, what, first, bytes) in within {
        if let Some(at) = outside.capability(id)?
            && (id != EXPRESS || first + bytes as u64 <= outside.express_bytes(at)?)
        {
            guarded.push((what, at + first, bytes));
        }
    }
    // PCI Express Base 5.0, 7.7.7, 7.8, 7.9 and SR-IOV 1.1, 3.3.
    for (id, what, bytes) in [
        (0x0d, "access control", 8),
        (0x0e, "alternative routing", 8),
        (0x0f, "address translation", 8),
        (0x10, "SR-IOV", 0x40),
        (0x15, "resizable BARs", 12),
        (0x1e, "L1 substates", 16),
    ] {
        if let Some(at) = outside.extended(id)? {
            guarded.push((what, at, bytes));
        }
    }
    Ok(guarded)
}

/// By the `filtered` view: what could disturb others stays as it is.
pub(crate) fn by_filtered_view(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::new(address);
    let outside = Outside::open(&function)?;
    let user = User::seeing(address, View::Filtered)?;
    let before = outside.read()?;
    let mut changed = Changed::new(&before);
    write_everything(&user, &outside, &mut changed)?;
    for (what, at, bytes) in guarded(&outside)? {
        report.same(
            &format!("bits of {what} (at {at:#x}) that the filtered view lets such a user change"),
            &0,
            &changed.within(at, bytes),
        )?;
    }
    user.virt.detach()?;
    let after = outside.read()?;
    // What is cleared by a 1 is cleared; COMMAND decodes for the next user.
    let differ: Vec<String> = (0..before.len())
        .filter(|at| !(4..8).contains(at) && before[*at] != after[*at])
        .map(|at| format!("{at:#x}: {:02x}, was {:02x}", after[at], before[at]))
        .collect();
    report.same(
        "when the user has gone the registers that it wrote are as they were",
        &Vec::new(),
        &differ,
    )?;
    report.ok(&format!(
        "ADVERSARY {}: {} bits changed by the filtered view",
        function.text("device")?,
        changed.bits()
    ))
}

/// Writes every byte with every width, and notes what that changes.
fn write_everything(user: &User, outside: &Outside, changed: &mut Changed<'_>) -> Result<()> {
    let config = user.virt.region_info(uvfio_core::region_index::CONFIG)?.bytes;
    for (at, values) in writes(changed.before.len()) {
        for value in values {
            let value = value.to_le_bytes();
            for (first, width) in PIECES {
                let offset = at as u64 + first;
                let written = user
                    .virt
                    .write(uvfio_core::region_index::CONFIG, offset, &value[..width]);
                if written.is_err() && offset + width as u64 <= config {
                    bail!("{width} bytes at {offset:#x} were refused: {written:?}");
                }
            }
        }
        // What is written in the midst of a reset goes nowhere: the next register's turn comes after it.
        user.virt.settle();
        if !changed.note(&outside.read_when_it_answers()?) {
            bail!("it does not answer any more after writes to {at:#x}");
        }
    }
    Ok(())
}

/// The same writes through the kernel's own VFIO.
pub(crate) fn by_kernel(address: &str, report: &mut Report) -> Result<()> {
    let owned = Owned::open(address)?;
    let outside = Outside::open(&owned.function)?;
    let config = owned.device.config()?;
    let before = outside.read()?;
    let mut changed = Changed::new(&before);
    let mut silent = None;
    for (at, values) in writes(before.len()) {
        for value in values {
            write_all_widths(&config, at as u64, value);
        }
        if !changed.note(&outside.read_when_it_answers()?) {
            silent.get_or_insert(at);
        }
    }
    // Whatever that has done to it.
    owned.device.reset().context("the reset afterwards")?;
    report.ok(&format!(
        "ADVERSARY {}: {} bits changed by the kernel's VFIO{}",
        owned.function.text("device")?,
        changed.bits(),
        silent.map_or(String::new(), |at| format!(
            ", and some while from {at:#x} on it did not answer"
        ))
    ))
}

/// The kernel may refuse what it likes.
fn write_all_widths(config: &Region, offset: u64, value: u32) {
    let value = value.to_le_bytes();
    for (first, width) in [(0, 1), (1, 1), (2, 1), (3, 1), (0, 2), (2, 2), (0, 4)] {
        let _ = config.write(offset + first, &value[..width]);
    }
}

/// Every dword of configuration space, with what is written to it.
fn writes(bytes: usize) -> impl Iterator<Item = (usize, [u32; 6])> {
    let mut random: u32 = 0x2010_0420;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        random
    };
    (0..bytes).step_by(4).map(move |at| {
        let [a, b, c, d] = PATTERNS;
        (at, [a, b, c, d, next(), next()])
    })
}

/// Configuration space as the kernel reads it for anybody, past VFIO.
pub(crate) struct Outside(File);

impl Outside {
    pub(crate) fn open(function: &Function) -> Result<Self> {
        let path = function.path("config");
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(Self(file))
    }

    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        let mut page = vec![0; usize::try_from(self.0.metadata()?.len())?];
        self.0
            .read_exact_at(&mut page, 0)
            .context("reading configuration space")?;
        Ok(page)
    }

    /// The same, once the function answers: during a reset it does not.
    fn read_when_it_answers(&self) -> Result<Vec<u8>> {
        let mut page = self.read()?;
        for _ in 0..ANSWERS {
            if answers(&page) {
                break;
            }
            sleep(SETTLES);
            page = self.read()?;
        }
        Ok(page)
    }

    /// Where the hardware has a capability.
    /// How long the PCI Express structure at `at` is, which its version and the kind of device say.
    fn express_bytes(&self, at: u64) -> Result<u64> {
        let page = self.read()?;
        let structure = page.get(at as usize..).unwrap_or_default();
        let of = |field| chain::value(structure, 0, field).unwrap_or_default();
        Ok(express::length(of(&express::VERSION), of(&express::TYPE)).into())
    }

    pub(crate) fn capability(&self, id: u8) -> Result<Option<u64>> {
        let page = self.read()?;
        let byte = |at: usize| page.get(at).copied().unwrap_or_default();
        let mut at = usize::from(byte(CAPABILITIES));
        for _ in 0..48 {
            if at == 0 {
                break;
            }
            if byte(at) == id {
                return Ok(Some(at as u64));
            }
            at = usize::from(byte(at + 1));
        }
        Ok(None)
    }

    /// Where the hardware has an extended capability.
    fn extended(&self, id: u16) -> Result<Option<u64>> {
        let page = self.read()?;
        let mut at = 0x100;
        for _ in 0..page.len() / 4 {
            let Some(Ok(bytes)) = page.get(at..at + 4).map(TryInto::try_into) else {
                break;
            };
            let header = u32::from_le_bytes(bytes);
            if header as u16 == id {
                return Ok(Some(at as u64));
            }
            at = (header >> 20) as usize;
            if at == 0 {
                break;
            }
        }
        Ok(None)
    }
}

/// A function that does not answer reads all ones. (So does the identity of a virtual function, always.)
fn answers(page: &[u8]) -> bool {
    page.get(8..12) != Some(&[0xff; 4])
}

/// Bits that were seen to differ from what they were.
struct Changed<'a> {
    before: &'a [u8],
    bits: Vec<u8>,
}

impl<'a> Changed<'a> {
    fn new(before: &'a [u8]) -> Self {
        let bits = vec![0; before.len()];
        Self { before, bits }
    }

    /// Says whether this is anything that the function said.
    fn note(&mut self, now: &[u8]) -> bool {
        if !answers(now) {
            return false;
        }
        for (changed, (before, now)) in self.bits.iter_mut().zip(self.before.iter().zip(now)) {
            *changed |= before ^ now;
        }
        true
    }

    fn bits(&self) -> u32 {
        self.bits.iter().map(|byte| byte.count_ones()).sum()
    }

    fn within(&self, offset: u64, bytes: usize) -> u32 {
        let bytes = self.bits.iter().skip(offset as usize).take(bytes);
        bytes.map(|byte| byte.count_ones()).sum()
    }
}
