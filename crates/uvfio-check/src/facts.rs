//! What a server says of its device, asked once before the cases. They choose by it what to try.

use uvfio_proto::message::{Command, DeviceFlags, DeviceInfo, IrqFlags, IrqInfo, RegionFlags, RegionInfo};

use zerocopy::FromBytes;

use crate::case::{Bench, Step, fail};
use crate::payload;

/// Configuration space is this region of a PCI device.
pub(crate) const CONFIG: u32 = 7;

/// Interrupt Line, the one register that every PCI function has, keeps what is written, and does nothing.
pub(crate) const INTERRUPT_LINE: u64 = 0x3c;

/// More regions or interrupt indices than this are not looked at.
const MOST_LOOKED_AT: u32 = 64;

/// The server's device.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) resettable: bool,
    /// How many regions it says there are.
    pub(crate) region_count: u32,
    /// Those that could be asked for.
    pub(crate) regions: Vec<RegionInfo>,
    /// How many interrupt indices it says there are.
    pub(crate) irq_count: u32,
    pub(crate) irqs: Vec<IrqInfo>,
    /// Most bytes of data in one access.
    pub(crate) max_data: u32,
    /// It offered REGION_WRITE_MULTI.
    pub(crate) write_multiple: bool,
    /// Most mappings.
    pub(crate) max_maps: u64,
    /// Vendor and device, where configuration space says so.
    pub(crate) identity: Option<[u16; 2]>,
}

impl Facts {
    /// Asks for them.
    pub(crate) fn ask(bench: &Bench<'_>) -> Step<Self> {
        let mut session = bench.session()?;
        let offer = session.offer.clone();
        let number = |key: &str, default: u64| {
            offer
                .get(key)
                .and_then(serde_json::Value::as_u64)
                .unwrap_or(default)
        };
        let info: DeviceInfo = session.get(Command::GetInfo, &payload::info(16))?;
        let mut facts = Self {
            resettable: info.flags & DeviceFlags::RESET.bits() != 0,
            region_count: info.regions,
            irq_count: info.irqs,
            max_data: u32::try_from(number("max_data_xfer_size", 1 << 20)).unwrap_or(u32::MAX),
            write_multiple: offer.get("write_multiple").and_then(serde_json::Value::as_bool) == Some(true),
            max_maps: number("max_dma_maps", 65_535),
            ..Self::default()
        };
        for index in 0..info.regions.min(MOST_LOOKED_AT) {
            facts
                .regions
                .push(session.get(Command::GetRegionInfo, &payload::region_info(32, index))?);
        }
        for index in 0..info.irqs.min(MOST_LOOKED_AT) {
            facts
                .irqs
                .push(session.get(Command::GetIrqInfo, &payload::indexed(16, 0, index, 0))?);
        }
        if facts.has_config() {
            let asked = payload::access(CONFIG, 0, 4, &[]);
            // A reply that is wrong is found by the cases of reading.
            if let Ok(reply) = session.ask(Command::RegionRead, &asked) {
                let data = reply.payload.get(asked.len()..).unwrap_or_default();
                facts.identity = <[u16; 2]>::read_from_bytes(data).ok();
            }
        }
        if facts.regions.is_empty() {
            return fail("the device has no regions");
        }
        Ok(facts)
    }

    /// A region's size, 0 where it isn't there, bytes.
    pub(crate) fn bytes(&self, region: u32) -> u64 {
        self.regions.get(region as usize).map_or(0, |info| info.bytes)
    }

    /// Whether configuration space can be read and written, as far as Interrupt Line.
    pub(crate) fn has_config(&self) -> bool {
        let both = (RegionFlags::READ | RegionFlags::WRITE).bits();
        self.regions
            .get(CONFIG as usize)
            .is_some_and(|info| info.flags & both == both && info.bytes > INTERRUPT_LINE)
    }

    /// A region that is there in name only.
    pub(crate) fn empty_region(&self) -> Option<u32> {
        self.regions
            .iter()
            .position(|info| info.bytes == 0)
            .map(|index| index as u32)
    }

    /// Interrupt indices with at least `count` interrupts that an eventfd can signal, the most flexible first.
    pub(crate) fn signalled(&self, count: u32) -> Option<u32> {
        [2, 1, 0].into_iter().find(|&index| {
            self.irqs
                .get(index as usize)
                .is_some_and(|info| info.count >= count && info.flags & IrqFlags::EVENTFD.bits() != 0)
        })
    }
}
