//! Get Log Page (section 5.14).

use zerocopy::little_endian::{U16, U32, U128};
use zerocopy::{FromZeros, IntoBytes};

use crate::features::TEMPERATURE;
use crate::identity::{FIRMWARE, padded};
use crate::prp::Failure;
use crate::spec::command::{NSID_ALL, admin, nvm};
use crate::spec::log::{self, EventType};
use crate::spec::status::Status;
use crate::sync::lock;

use super::Admin;

impl Admin<'_> {
    /// Get Log Page.
    pub(super) fn get_log_page(&self) -> Result<(), Failure> {
        let sqe = self.sqe();
        let page = sqe.cdw10() as u8;
        let data = match page {
            log::LID_ERROR => lock(&self.shared.errors).page(),
            log::LID_HEALTH if matches!(sqe.nsid.get(), 0 | NSID_ALL) => self.health().as_bytes().to_vec(),
            // Health of one namespace is not kept (LPA bit 0).
            log::LID_HEALTH => return Err(Status::INVALID_FIELD.into()),
            log::LID_FIRMWARE => firmware().as_bytes().to_vec(),
            // Namespaces do not change.
            log::LID_CHANGED_NAMESPACES => vec![0; 4096],
            log::LID_EFFECTS => effects().as_bytes().to_vec(),
            _ => return Err(Status::INVALID_LOG_PAGE.into()),
        };
        // NUMDL and NUMDU, dwords, 0's based; LPOL and LPOU, bytes.
        let dwords = u64::from(sqe.cdw10() >> 16) | u64::from(sqe.cdw11() & 0xffff) << 16;
        let offset = u64::from(sqe.cdw12()) | u64::from(sqe.cdw13()) << 32;
        if offset % 4 != 0 || offset > data.len() as u64 {
            return Err(Status::INVALID_FIELD.into());
        }
        // What lies past the end of the page is undefined: it is not written.
        let rest = data.get(offset as usize..).unwrap_or_default();
        let wanted = ((dwords + 1) * 4).min(rest.len() as u64) as usize;
        self.send(rest.get(..wanted).unwrap_or_default())?;
        if sqe.cdw10() & log::CDW10_RETAIN_EVENT == 0 {
            match page {
                log::LID_ERROR => lock(&self.shared.events).read(EventType::Error),
                log::LID_HEALTH => lock(&self.shared.events).read(EventType::Health),
                _ => {}
            }
        }
        Ok(())
    }

    fn health(&self) -> log::Health {
        let counted = self.shared.counters.snapshot();
        let units = |bytes: u64| U128::new(u128::from(bytes).div_ceil(512 * 1000));
        let mut data = log::Health::new_zeroed();
        if lock(&self.shared.features).temperature_warning() {
            data.critical_warning = log::WARNING_TEMPERATURE;
        }
        data.temperature = U16::new(TEMPERATURE);
        data.spare = 100;
        data.spare_threshold = 10;
        data.data_units_read = units(counted.bytes_read);
        data.data_units_written = units(counted.bytes_written);
        data.host_reads = U128::new(counted.reads.into());
        data.host_writes = U128::new(counted.writes.into());
        data.power_cycles = U128::new(1);
        data.power_on_hours = U128::new((self.shared.made.elapsed().as_secs() / 3600).into());
        data.media_errors = U128::new(counted.media_errors.into());
        data.error_entries = U128::new(lock(&self.shared.errors).count().into());
        data
    }
}

fn firmware() -> log::FirmwareSlots {
    let mut data = log::FirmwareSlots::new_zeroed();
    data.active = 1;
    data.slot1 = padded(FIRMWARE);
    data
}

fn effects() -> log::Effects {
    let mut data = log::Effects::new_zeroed();
    let set = |table: &mut [U32; 256], opcode: u8, effects: u32| {
        if let Some(entry) = table.get_mut(usize::from(opcode)) {
            *entry = U32::new(effects);
        }
    };
    for opcode in admin::SUPPORTED {
        set(&mut data.admin, *opcode, log::EFFECT_SUPPORTED);
    }
    for (opcode, changes) in nvm::SUPPORTED {
        let content = if *changes { log::EFFECT_CONTENT } else { 0 };
        set(&mut data.io, *opcode, log::EFFECT_SUPPORTED | content);
    }
    data
}
