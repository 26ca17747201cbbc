//! Values of features (section 5.21.1): what the host set, and what they are by default.

use std::time::Instant;

use crate::spec::feature as f;
use crate::spec::status::Status;

/// Kelvin: what the controller's temperature always is.
pub(crate) const TEMPERATURE: u16 = 308;
/// Kelvin: WCTEMP, also the threshold's default.
pub(crate) const WARNING_TEMPERATURE: u16 = 343;
/// Kelvin: CCTEMP.
pub(crate) const CRITICAL_TEMPERATURE: u16 = 353;

/// TMPSEL: the composite temperature, the only sensor.
const SENSOR_COMPOSITE: u32 = 0;
/// TMPSEL in Set Features: every sensor.
const SENSOR_ALL: u32 = 0xf;

/// The host's settings.
#[derive(Debug)]
pub(crate) struct Features {
    arbitration: u32,
    power: u32,
    over_temperature: u16,
    under_temperature: u16,
    error_recovery: u32,
    write_cache: bool,
    coalescing: u32,
    /// CD, one a vector.
    uncoalesced: Vec<bool>,
    atomicity: u32,
    async_events: u32,
    timestamp: Timestamp,
    /// Pairs of I/O queues that there are.
    queues: u16,
}

#[derive(Debug)]
struct Timestamp {
    millis: u64,
    at: Instant,
    set: bool,
}

/// Bytes of the Timestamp feature's data.
pub(crate) const TIMESTAMP_BYTES: usize = 8;

impl Features {
    /// Defaults of a controller with so many pairs of I/O queues and vectors.
    pub(crate) fn new(queues: u16, vectors: u16) -> Self {
        Self {
            arbitration: 0,
            power: 0,
            over_temperature: WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: 0,
            write_cache: true,
            coalescing: 0,
            uncoalesced: vec![false; usize::from(vectors)],
            atomicity: 0,
            async_events: 0,
            timestamp: Timestamp {
                millis: 0,
                at: Instant::now(),
                set: false,
            },
            queues,
        }
    }

    /// As after a controller reset: nothing is saved.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.queues, self.uncoalesced.len() as u16);
    }

    /// DW0 of Get Features for the value that `select` means. Timestamp's is data: see [`Features::timestamp`].
    pub(crate) fn get(&self, feature: u8, select: u32, cdw11: u32) -> Result<u32, Status> {
        match select {
            f::SELECT_CURRENT => self.value(feature, cdw11),
            f::SELECT_DEFAULT | f::SELECT_SAVED => {
                Self::new(self.queues, self.uncoalesced.len() as u16).value(feature, cdw11)
            }
            f::SELECT_CAPABILITIES => self.value(feature, cdw11).map(|_| f::CHANGEABLE),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn value(&self, feature: u8, cdw11: u32) -> Result<u32, Status> {
        Ok(match feature {
            f::ARBITRATION => self.arbitration,
            f::POWER_MANAGEMENT => self.power,
            f::TEMPERATURE_THRESHOLD => match (cdw11 >> 16 & 0xf, cdw11 >> 20 & 0x3) {
                (SENSOR_COMPOSITE, 0) => u32::from(self.over_temperature),
                (SENSOR_COMPOSITE, 1) => u32::from(self.under_temperature),
                _ => return Err(Status::INVALID_FIELD),
            },
            f::ERROR_RECOVERY => self.error_recovery,
            f::VOLATILE_WRITE_CACHE => u32::from(self.write_cache),
            f::NUMBER_OF_QUEUES => u32::from(self.queues - 1) << 16 | u32::from(self.queues - 1),
            f::INTERRUPT_COALESCING => self.coalescing,
            f::INTERRUPT_VECTOR => {
                let vector = cdw11 & 0xffff;
                let uncoalesced = self
                    .uncoalesced
                    .get(vector as usize)
                    .ok_or(Status::INVALID_FIELD)?;
                vector | u32::from(*uncoalesced) << 16
            }
            f::WRITE_ATOMICITY => self.atomicity,
            f::ASYNC_EVENT => self.async_events,
            f::TIMESTAMP => 0,
            _ => return Err(Status::INVALID_FIELD),
        })
    }

    /// Set Features, except Timestamp; gives DW0. `queues_exist`: I/O queues have been created.
    pub(crate) fn set(&mut self, feature: u8, cdw11: u32, queues_exist: bool) -> Result<u32, Status> {
        match feature {
            f::ARBITRATION => self.arbitration = cdw11 & 0xffff_ff07,
            // There is one power state; workload hints may be any.
            f::POWER_MANAGEMENT if cdw11 & 0x1f == 0 => self.power = cdw11 & 0xff,
            f::TEMPERATURE_THRESHOLD => self.set_threshold(cdw11)?,
            // DULBE (bit 16) is not supported.
            f::ERROR_RECOVERY if cdw11 & 1 << 16 == 0 => self.error_recovery = cdw11 & 0xffff,
            f::VOLATILE_WRITE_CACHE => self.write_cache = cdw11 & 1 != 0,
            f::NUMBER_OF_QUEUES => {
                if cdw11 & 0xffff == 0xffff || cdw11 >> 16 == 0xffff {
                    return Err(Status::INVALID_FIELD);
                }
                if queues_exist {
                    return Err(Status::COMMAND_SEQUENCE_ERROR);
                }
                // The controller allocates what it has, whether that is more or less than was asked for.
                return self.value(feature, 0);
            }
            f::INTERRUPT_COALESCING => self.coalescing = cdw11 & 0xffff,
            f::INTERRUPT_VECTOR => {
                let vector = self
                    .uncoalesced
                    .get_mut((cdw11 & 0xffff) as usize)
                    .ok_or(Status::INVALID_FIELD)?;
                *vector = cdw11 & 1 << 16 != 0;
            }
            f::WRITE_ATOMICITY => self.atomicity = cdw11 & 1,
            f::ASYNC_EVENT => self.async_events = cdw11 & 0xff,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }

    fn set_threshold(&mut self, cdw11: u32) -> Result<(), Status> {
        let threshold = (cdw11 & 0xffff) as u16;
        match (cdw11 >> 16 & 0xf, cdw11 >> 20 & 0x3) {
            (SENSOR_COMPOSITE | SENSOR_ALL, 0) => self.over_temperature = threshold,
            (SENSOR_COMPOSITE | SENSOR_ALL, 1) => self.under_temperature = threshold,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(())
    }

    /// Whether the temperature is outside the thresholds.
    pub(crate) fn temperature_warning(&self) -> bool {
        TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature
    }

    /// Whether the host wants an event for the critical warnings `warning` (Asynchronous Event Configuration).
    pub(crate) fn wants_event(&self, warning: u8) -> bool {
        self.async_events & u32::from(warning) != 0
    }

    /// Whether written data may stay volatile until a flush.
    pub(crate) fn write_cache(&self) -> bool {
        self.write_cache
    }

    /// Sets the Timestamp feature by its data: milliseconds in 6 bytes (5.21.1.14).
    pub(crate) fn set_timestamp(&mut self, data: [u8; TIMESTAMP_BYTES]) {
        let millis = u64::from_le_bytes(data) & 0xffff_ffff_ffff;
        self.timestamp = Timestamp {
            millis,
            at: Instant::now(),
            set: true,
        };
    }

    /// The Timestamp feature's data: milliseconds, and in byte 6 whether the host has set it.
    pub(crate) fn timestamp(&self) -> [u8; TIMESTAMP_BYTES] {
        let passed = u64::try_from(self.timestamp.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let millis = self.timestamp.millis.wrapping_add(passed) & 0xffff_ffff_ffff;
        let origin = u64::from(self.timestamp.set) << 1;
        (millis | origin << 48).to_le_bytes()
    }
}
