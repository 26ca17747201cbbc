//! The checks, by what of the library they are about.

use std::time::Duration;

use uvfio_driver::tables::{header, power};
use uvfio_driver::{Bar, DriverError, Event, Function, IrqKind, MapBars, Options, PowerState, Result, Vfio};

use crate::report::Report;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for what must not come.
const SHORT: Duration = Duration::from_millis(200);
/// Part of the sentence for a function whose BARs do not answer.
const SILENT: &str = "its memory space is off in COMMAND, or it sleeps";

/// The first registers of a BAR. Reading those of the devices that this is for changes nothing.
fn words(bar: &Bar) -> Result<Vec<u32>> {
    (0..4).map(|word| bar.read(word * 4)).collect()
}

/// Every way into a BAR leads to the same registers, and none ends the program where they do not answer.
pub(crate) fn memory(address: &str, report: &mut Report) -> Result<()> {
    let expected = {
        let options = Options {
            map_bars: MapBars::Never,
        };
        let function = Function::open_with(Vfio::open(address)?, options)?;
        let bar = function.bar(0)?;
        report.same("no mapping where none is wanted", &false, &bar.is_mapped(0, 4));
        words(&bar)?
    };
    let function = Function::open_vfio(address)?;
    let bar = function.bar(0)?;
    report.same("the first registers are mapped", &true, &bar.is_mapped(0, 4));
    report.same("and read what they read by calls", &expected, &words(&bar)?);
    let mut bytes = [0; 16];
    bar.read_bytes(0, &mut bytes)?;
    let together: Vec<u8> = expected.iter().flat_map(|word| word.to_le_bytes()).collect();
    report.same("and as bytes", &together, &bytes.to_vec());
    report.refused("nothing lies beyond the BAR", "lies outside BAR 0", {
        bar.read::<u32>(bar.bytes())
    });

    let header = function.config().need(&header::HEADER)?;
    header.set(&header::MEMORY, 0)?;
    report.same("memory off: no mapping is used", &false, &bar.is_mapped(0, 4));
    report.refused("memory off: a read is refused", SILENT, bar.read::<u32>(0));
    report.refused("memory off: a write is refused", SILENT, bar.write(0, 0_u32));
    let again = function.bar(0)?;
    report.refused(
        "memory off: so it is by a window opened now",
        SILENT,
        again.read::<u32>(0),
    );
    header.set(&header::MEMORY, 1)?;
    report.same(
        "memory on: the mapping is used again",
        &true,
        &bar.is_mapped(0, 4),
    );
    report.same("memory on: and reads as before", &expected, &words(&bar)?);
    report.same("memory on: so does the other", &expected, &words(&again)?);

    function.reset()?;
    report.same("after a reset the mapping is used", &true, &bar.is_mapped(0, 4));
    report.same("after a reset it reads as before", &expected, &words(&bar)?);
    Ok(())
}

/// A function goes to sleep and comes back; what it forgets is written again.
pub(crate) fn sleep(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::open_vfio(address)?;
    let bar = function.bar(0)?;
    let expected = words(&bar)?;
    function.set_bus_master(true)?;
    report.same(
        "the function has power management",
        &true,
        &function.config().find(&power::POWER).is_some(),
    );
    for round in 1..=2 {
        function.set_power_state(PowerState::D3hot)?;
        report.same(
            &format!("it sleeps, round {round}"),
            &PowerState::D3hot,
            &function.power_state()?,
        );
        report.refused("asleep: a read is refused", SILENT, bar.read::<u32>(0));
        function.set_power_state(PowerState::D0)?;
        report.same("awake: the mapping is used again", &true, &bar.is_mapped(0, 4));
        report.same("awake: it reads as before", &expected, &words(&bar)?);
        let header = function.config().need(&header::HEADER)?;
        report.same(
            "awake: bus mastering is on, as before",
            &1,
            &header.get(&header::BUS_MASTER)?,
        );
    }
    Ok(())
}

/// Buffers lie where the IOMMU can map them, are given back, and are refused in sentences.
pub(crate) fn buffers(address: &str, report: &mut Report) -> Result<()> {
    const INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);
    let function = Function::open_vfio(address)?;
    let usable = function.usable_iova();
    let ascending = usable.windows(2).all(|pair| pair[0].1 < pair[1].0);
    report.same(
        "the kernel tells usable ranges in order",
        &(false, true),
        &(usable.is_empty(), ascending),
    );
    let over = usable
        .iter()
        .any(|(first, last)| *first <= INTERRUPTS.1 && INTERRUPTS.0 <= *last);
    report.same("the window for interrupts is not usable", &false, &over);

    let first = {
        let large = function.dma_buffer(3 << 20)?;
        let small = function.dma_buffer(1)?;
        large.write((3 << 20) - 8, 0x1122_3344_5566_7788_u64)?;
        report.same(
            "a buffer holds what is written",
            &0x1122_3344_5566_7788,
            &large.read::<u64>((3 << 20) - 8)?,
        );
        report.same(
            "buffers lie apart",
            &true,
            &(small.iova() >= large.iova() + (3 << 20)),
        );
        large.iova()
    };
    let again = function.dma_buffer(3 << 20)?;
    report.same("what was dropped is free again", &first, &again.iova());
    function.set_dma_limit(first + (3 << 20));
    let refused = function.dma_buffer(1 << 20).map(|_| ());
    report.refused("beyond a limit there is nothing", "usable IOVAs up to", refused);
    Ok(())
}

/// As many vectors as there are, and not one more.
pub(crate) fn vectors(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::open_vfio(address)?;
    let have = function.vectors(IrqKind::MsiX)?;
    report.same("the function has MSI-X vectors", &true, &(have > 1));
    let missing = function.interrupts(IrqKind::MsiX, have + 1).map(|_| ());
    report.refused("one more is refused", "MSI-X vectors were asked for", missing);
    for count in [have, 1, have] {
        let interrupts = function.interrupts(IrqKind::MsiX, count)?;
        report.same("they are enabled", &count, &interrupts.count());
        report.same(
            "nothing has come",
            &None,
            &interrupts.wait_any(Some(Duration::ZERO))?,
        );
        let second = function.interrupts(IrqKind::MsiX, 1).map(|_| ());
        report.refused("nobody else enables them", "enabled already", second);
        function.reset()?;
    }
    let best = function.best_interrupts(4)?;
    report.same(
        "the best are MSI-X",
        &(IrqKind::MsiX, 4),
        &(best.kind(), best.count()),
    );
    Ok(())
}

/// INTx is delivered once, and again once it is unmasked. By edu's registers.
pub(crate) fn edu_intx(address: &str, report: &mut Report) -> Result<()> {
    const RAISE: u64 = 0x60;
    const ACKNOWLEDGE: u64 = 0x64;
    let function = Function::open_vfio(address)?;
    let bar = function.bar(0)?;
    report.same("there is one MSI message", &1, &function.vectors(IrqKind::Msi)?);
    report.same("and no MSI-X", &0, &function.vectors(IrqKind::MsiX)?);
    let two = function.interrupts(IrqKind::Msi, 2).map(|_| ());
    report.refused("two messages are refused", "2 MSI vectors were asked for", two);
    let pin = function.interrupts(IrqKind::Intx, 1)?;
    for round in 1..=3 {
        bar.write(RAISE, 1_u32)?;
        report.same(
            &format!("INTx comes, round {round}"),
            &1,
            &pin.wait(0, Some(PATIENCE))?,
        );
        bar.write(RAISE, 2_u32)?;
        report.same("not again while it is masked", &0, &pin.wait(0, Some(SHORT))?);
        bar.write(ACKNOWLEDGE, 3_u32)?;
        pin.rearm()?;
        report.same("nor once its cause is gone", &0, &pin.wait(0, Some(SHORT))?);
    }
    bar.write(RAISE, 1_u32)?;
    report.same("a last one comes", &1, &pin.wait(0, Some(PATIENCE))?);
    pin.rearm()?;
    report.same(
        "and again when unmasked while its cause stays",
        &1,
        &pin.wait(0, Some(PATIENCE))?,
    );
    Ok(())
}

/// Waits for what the machine has to say, prints it, and lets go once the function is wanted back.
pub(crate) fn events(address: &str, report: &mut Report) -> Result<()> {
    let function = Function::open_vfio(address)?;
    let events = function.events()?;
    report.same(
        "a wish to have the function back can be told",
        &true,
        &events.tells(Event::RemovalRequested),
    );
    println!(
        "note waiting, errors {}",
        if events.tells(Event::Error) {
            "told"
        } else {
            "not told"
        }
    );
    loop {
        match events.wait(Some(PATIENCE))? {
            Some(Event::Error) => println!("note error"),
            Some(Event::RemovalRequested) => {
                report.ok("the function is wanted back, and given back");
                return Ok(());
            }
            None => {
                return Err(DriverError::TimedOut {
                    what: "an event",
                    patience: PATIENCE,
                });
            }
        }
    }
}
