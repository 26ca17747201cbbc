//! What is left of a function when its worker has died: its shape.
//!
//! The next worker answers its user in the dead one's place, without the function. Whoever asks how large a region is,
//! or how many vectors an interrupt has, must hear what it heard before. So each worker says, before it has a user, how
//! its device is made, and the supervisor tells the next one. It is one line of words:
//!
//! ```text
//! memory32:4096 none none none none none rom:0 pin:0 express msi:1 msix:65:0:8192:0:12288
//! ```

use std::fmt::Write as _;
use std::sync::Arc;

use uvfio_core::{Device, DeviceError, Host, Width};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Identity, ResetKind};

/// As much of a blueprint as a user can still see when the device is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    bars: [Bar; 6],
    rom_bytes: u32,
    interrupt_pin: u8,
    capabilities: Vec<Capability<'static>>,
}

impl Shape {
    /// The shape of a device.
    pub(crate) fn of(blueprint: &Blueprint<'_>) -> Self {
        let seen = blueprint
            .capabilities
            .iter()
            .filter_map(|capability| match *capability {
                Capability::Msi {
                    messages,
                    wide,
                    maskable,
                } => Some(Capability::Msi {
                    messages,
                    wide,
                    maskable,
                }),
                Capability::MsiX { vectors, table, pba } => Some(Capability::MsiX { vectors, table, pba }),
                // With it configuration space has 4096 bytes.
                Capability::Express { flr, integrated } => Some(Capability::Express { flr, integrated }),
                _ => None,
            });
        Self {
            bars: blueprint.bars,
            rom_bytes: blueprint.rom_bytes,
            interrupt_pin: blueprint.identity.interrupt_pin,
            capabilities: seen.collect(),
        }
    }

    /// The same in words.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for bar in self.bars {
            // Into a string: can't fail.
            let _ = match bar {
                Bar::None => write!(text, "none "),
                Bar::Memory32 { bytes, .. } => write!(text, "memory32:{bytes} "),
                Bar::Memory64 { bytes, .. } => write!(text, "memory64:{bytes} "),
                Bar::Io { bytes } => write!(text, "io:{bytes} "),
            };
        }
        let _ = write!(text, "rom:{} pin:{}", self.rom_bytes, self.interrupt_pin);
        for capability in &self.capabilities {
            let _ = match capability {
                Capability::Msi { messages, .. } => write!(text, " msi:{messages}"),
                Capability::MsiX { vectors, table, pba } => write!(
                    text,
                    " msix:{vectors}:{}:{}:{}:{}",
                    table.bar, table.offset, pba.bar, pba.offset
                ),
                Capability::Express { .. } => write!(text, " express"),
                _ => Ok(()),
            };
        }
        text
    }

    /// Reads what [`to_text`](Self::to_text) gave; none where it makes no sense.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut bars = [Bar::None; 6];
        for bar in &mut bars {
            *bar = match words.next()?.split_once(':') {
                None => Bar::None,
                Some(("memory32", bytes)) => Bar::Memory32 {
                    bytes: bytes.parse().ok()?,
                    prefetchable: false,
                },
                Some(("memory64", bytes)) => Bar::Memory64 {
                    bytes: bytes.parse().ok()?,
                    prefetchable: false,
                },
                Some(("io", bytes)) => Bar::Io {
                    bytes: bytes.parse().ok()?,
                },
                Some(_) => return None,
            };
        }
        let rom_bytes = words.next()?.strip_prefix("rom:")?.parse().ok()?;
        let interrupt_pin = words.next()?.strip_prefix("pin:")?.parse().ok()?;
        let capabilities = words.map(capability).collect::<Option<_>>()?;
        Some(Self {
            bars,
            rom_bytes,
            interrupt_pin,
            capabilities,
        })
    }
}

fn capability(word: &str) -> Option<Capability<'static>> {
    let (name, rest) = word.split_once(':').unwrap_or((word, ""));
    let numbers: Option<Vec<u32>> = match rest {
        "" => Some(Vec::new()),
        rest => rest.split(':').map(|number| number.parse().ok()).collect(),
    };
    match (name, numbers?.as_slice()) {
        ("msi", [messages]) => Some(Capability::Msi {
            messages: u8::try_from(*messages).ok()?,
            wide: true,
            maskable: false,
        }),
        ("msix", [vectors, table_bar, table, pba_bar, pba]) => Some(Capability::MsiX {
            vectors: u16::try_from(*vectors).ok()?,
            table: BarSpan {
                bar: u8::try_from(*table_bar).ok()?,
                offset: *table,
            },
            pba: BarSpan {
                bar: u8::try_from(*pba_bar).ok()?,
                offset: *pba,
            },
        }),
        ("express", []) => Some(Capability::Express {
            flr: false,
            integrated: true,
        }),
        _ => None,
    }
}

/// A device of which only the shape is left. Nothing reaches it: it is gone before it has a user.
#[derive(Debug)]
pub(crate) struct Remains(Shape);

impl Remains {
    pub(crate) fn of(shape: Shape) -> Arc<dyn Device> {
        Arc::new(Self(shape))
    }
}

impl Device for Remains {
    fn name(&self) -> &'static str {
        "function"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let nobody = u16::MAX;
        Blueprint {
            identity: Identity {
                vendor: nobody,
                device: nobody,
                revision: 0,
                class: [0; 3],
                subsystem_vendor: nobody,
                subsystem: nobody,
                interrupt_pin: self.0.interrupt_pin,
            },
            bars: self.0.bars,
            rom_bytes: self.0.rom_bytes,
            capabilities: &self.0.capabilities,
            extended: &[],
        }
    }

    fn attach(&self, _host: Host) {}

    fn detach(&self) {}

    fn read(&self, _bar: u8, _offset: u64, _width: Width) -> u64 {
        u64::MAX
    }

    fn write(&self, _bar: u8, _offset: u64, _width: Width, _value: u64) {}

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use uvfio_core::{Policy, VirtualDevice};

    use super::*;

    const NVME: &str =
        "memory64:16384 none none none io:32 none rom:2048 pin:1 msi:8 express msix:65:0:8192:0:12288";

    #[test]
    fn a_shape_arrives_as_it_was_sent() {
        let shape = Shape::from_text(NVME).expect("a shape");
        assert_eq!(shape.to_text(), NVME);
        let remains = Remains(shape.clone());
        assert_eq!(Shape::of(&remains.blueprint()), shape);
    }

    #[test]
    fn what_remains_answers_as_the_device_did() {
        let shape = Shape::from_text(NVME).expect("a shape");
        let device = VirtualDevice::new(Remains::of(shape), &Policy::default()).expect("a device");
        let bytes = |region| device.region_info(region).expect("a region").bytes;
        assert_eq!([0, 1, 4, 6, 7].map(bytes), [16384, 0, 32, 2048, 4096], "regions");
        let vectors = |index| device.irq_info(index).expect("an interrupt").count;
        assert_eq!([0, 1, 2].map(vectors), [1, 8, 65], "INTx, MSI, MSI-X");
    }

    #[test]
    fn what_is_no_shape_is_refused() {
        for text in [
            "",
            "none none none none none none",
            "none none none none none none rom:x pin:0",
            "cardboard:4 none none none none none rom:0 pin:0",
            "none none none none none none rom:0 pin:0 msi:1:2",
            "none none none none none none rom:0 pin:0 msix:70000:0:0:0:0",
            "none none none none none none rom:0 pin:0 vpd",
        ] {
            assert_eq!(Shape::from_text(text), None, "{text:?}");
        }
    }
}
