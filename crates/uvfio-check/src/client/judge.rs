//! The rules for a client, and what was seen of each.

use std::collections::BTreeMap;

use uvfio_proto::message::{Command, DmaMap, DmaUnmap, RegionAccess, SetIrqs};
use zerocopy::FromBytes;

use super::device::{Device, IRQS, MAX_DATA};
use crate::case::{Rule, Stop};
use crate::report::{Report, Row, outcome};
use crate::session::read_version;
use crate::wire::Message;

const FRAMING: Rule = Rule::Spec("Header");

/// Name, what is looked at, where the rule comes from, and the rule.
type Line = (&'static str, &'static str, Rule, &'static str);

const RULES: &[Line] = &[
    (
        "client.framing",
        "the stream",
        FRAMING,
        "whole messages up to the end",
    ),
    (
        "client.version_first",
        "the first message",
        Rule::Spec("VFIO_USER_VERSION"),
        "VERSION, once",
    ),
    (
        "client.version_data",
        "VERSION",
        Rule::Spec("VFIO_USER_VERSION"),
        "major, minor, and JSON that ends with a NUL, or none",
    ),
    (
        "client.flags",
        "every command's header",
        FRAMING,
        "type 0, and no flag but No_reply",
    ),
    (
        "client.error_field",
        "every command's header",
        FRAMING,
        "an error field of 0, which is reserved",
    ),
    (
        "client.commands",
        "every command",
        Rule::Spec("Commands"),
        "one that clients send",
    ),
    (
        "client.payload",
        "every command's payload",
        Rule::Spec("Commands"),
        "as long as the command's structure, and its data",
    ),
    (
        "client.argsz",
        "every argsz",
        Rule::Spec("Message sizes"),
        "at least the fixed part of the reply",
    ),
    (
        "client.descriptors",
        "descriptors",
        Rule::Spec("Commands"),
        "none but with DMA_MAP, at most one, and DEVICE_SET_IRQS, at most one a vector",
    ),
    (
        "client.ranges",
        "region accesses",
        Rule::Spec("Read and Write Operations"),
        "within the region and max_data_xfer_size",
    ),
    (
        "client.irqs",
        "DEVICE_SET_IRQS",
        Rule::Spec("VFIO_USER_DEVICE_SET_IRQS"),
        "one action, one kind of data, within the index",
    ),
    (
        "client.map",
        "DMA_MAP",
        Rule::Spec("VFIO_USER_DMA_MAP"),
        "a range that is one, over no other",
    ),
    (
        "client.unmap",
        "DMA_UNMAP",
        Rule::Spec("VFIO_USER_DMA_UNMAP"),
        "exactly one mapping",
    ),
    (
        "client.dma_read",
        "a DMA_READ sent to the client",
        Rule::Spec("VFIO_USER_DMA_READ"),
        "its id, and the bytes asked for, or an error",
    ),
    (
        "client.dma_both",
        "two DMA_READ at once",
        Rule::Spec("Command Concurrency"),
        "both answered, each with its id and its bytes, or an error",
    ),
    (
        "client.dma_data",
        "a DMA_READ of what the client's file has, or a DMA_WRITE has brought",
        Rule::Spec("VFIO_USER_DMA_READ"),
        "these bytes, or an error",
    ),
    (
        "client.dma_write",
        "a DMA_WRITE, and another that brings back what was there",
        Rule::Spec("VFIO_USER_DMA_WRITE"),
        "its id, address and count, or an error",
    ),
    (
        "client.dma_read_only",
        "a DMA_WRITE to a mapping that can only be read",
        Rule::Spec("VFIO_USER_DMA_MAP"),
        "an error",
    ),
    (
        "client.dma_outside",
        "a DMA_READ after a mapping, one over its end, and one of 2^64 - 1 bytes",
        Rule::Ours("a server's bytes are to be checked as well: what was not mapped is not the device's"),
        "an error each",
    ),
    (
        "client.unasked",
        "replies",
        FRAMING,
        "to a command of the server's only",
    ),
    (
        "client.after_error",
        "what follows a refused command",
        Rule::Ours("an error must not stop a client for ever, nor bring it out of step"),
        "another command, or a proper end",
    ),
];

const TYPE1V2: &str = "a range over several mappings or none, as Linux's type1v2 takes it; QEMU with an IOMMU in the guest does";

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Judge {
    seen: BTreeMap<&'static str, Option<Stop>>,
    messages: u64,
    waits_after_error: bool,
}

impl Judge {
    /// Notes that a rule was looked at, and whether it was kept; the first breach stays.
    pub(super) fn see(&mut self, rule: &'static str, kept: impl FnOnce() -> Result<(), String>) {
        let stop = kept().err().map(Stop::Fail);
        self.note(rule, stop);
    }

    fn note(&mut self, rule: &'static str, stop: Option<Stop>) {
        let seen = self.seen.entry(rule).or_default();
        let worse = matches!(
            (&*seen, &stop),
            (None, _) | (Some(Stop::Deviation(_)), Some(Stop::Fail(_)))
        );
        if worse {
            *seen = stop;
        }
    }

    /// A command was refused on purpose.
    pub(super) fn refused(&mut self) {
        self.waits_after_error = true;
    }

    /// Looks at a command, before it is carried out.
    pub(super) fn command(&mut self, got: &Message, device: &Device) {
        let header = got.header;
        self.messages += 1;
        let first = self.messages == 1;
        let is_version = header.command == Command::Version as u16;
        self.see("client.version_first", || {
            if first == is_version {
                Ok(())
            } else {
                Err(format!("message {}: {got}", header.id))
            }
        });
        if self.waits_after_error {
            self.see("client.after_error", || Ok(()));
        }
        self.see("client.flags", || match header.flags & !0x10 {
            0 => Ok(()),
            _ => Err(got.to_string()),
        });
        self.see("client.error_field", || match header.errno {
            0 => Ok(()),
            _ => Err(got.to_string()),
        });
        let command = Command::from_number(header.command)
            .filter(|command| !matches!(command, Command::DmaRead | Command::DmaWrite));
        self.see("client.commands", || {
            command.map(|_| ()).ok_or_else(|| got.to_string())
        });
        let Some(command) = command else { return };
        self.payload(command, got);
        self.descriptors(command, got);
        match command {
            Command::Version => self.see("client.version_data", || {
                read_version(&got.payload)
                    .map(|_| ())
                    .map_err(|stop| format!("{stop:?}"))
            }),
            Command::RegionRead | Command::RegionWrite => self.access(got, device),
            Command::SetIrqs => self.irqs(got),
            Command::DmaMap => self.map(got, device),
            Command::DmaUnmap => self.unmap(got, device),
            _ => {}
        }
    }

    fn payload(&mut self, command: Command, got: &Message) {
        let have = got.payload.len();
        let (fixed, argsz) = match command {
            Command::Version => (4, false),
            Command::DmaMap | Command::GetRegionInfo => (32, true),
            Command::DmaUnmap => (24, true),
            Command::GetInfo | Command::GetRegionIoFds | Command::GetIrqInfo => (16, true),
            Command::SetIrqs => (20, true),
            Command::RegionRead | Command::RegionWrite => (16, false),
            Command::RegionWriteMulti => (8, false),
            Command::Feature | Command::MigrationRead | Command::MigrationWrite => (8, true),
            Command::Reset | Command::DmaRead | Command::DmaWrite => (0, false),
        };
        let exact = matches!(command, Command::DmaMap | Command::RegionRead | Command::Reset);
        let data = match RegionAccess::read_from_prefix(&got.payload) {
            Ok((access, _)) if command == Command::RegionWrite => Some(16 + access.count as usize),
            _ => None,
        };
        self.see("client.payload", || {
            let long = have < fixed || exact && have != fixed || data.is_some_and(|data| data != have);
            if long {
                Err(format!("{}: {have} bytes of payload", command.name()))
            } else {
                Ok(())
            }
        });
        if argsz && let Ok((argsz, _)) = u32::read_from_prefix(&got.payload) {
            self.see("client.argsz", || {
                if argsz as usize >= fixed {
                    Ok(())
                } else {
                    Err(format!("{}: argsz {argsz}", command.name()))
                }
            });
        }
    }

    fn descriptors(&mut self, command: Command, got: &Message) {
        let have = got.fds.len();
        let most = match command {
            Command::DmaMap => 1,
            Command::SetIrqs => {
                SetIrqs::read_from_prefix(&got.payload).map_or(0, |(set, _)| set.count as usize)
            }
            _ => 0,
        };
        if have > 0 || most > 0 {
            self.see("client.descriptors", || {
                if have <= most {
                    Ok(())
                } else {
                    Err(format!("{} with {have} descriptors", command.name()))
                }
            });
        }
    }

    fn access(&mut self, got: &Message, device: &Device) {
        let Ok((access, _)) = RegionAccess::read_from_prefix(&got.payload) else {
            return;
        };
        self.see("client.ranges", || {
            let end = access.offset.checked_add(access.count.into());
            let inside = end.is_some_and(|end| end <= device.bytes(access.region));
            if inside && access.count <= MAX_DATA {
                Ok(())
            } else {
                Err(format!("{access:?}"))
            }
        });
    }

    fn irqs(&mut self, got: &Message) {
        let Ok((set, data)) = SetIrqs::read_from_prefix(&got.payload) else {
            return;
        };
        self.see("client.irqs", || {
            let one = |bits: u32| bits.count_ones() == 1;
            let shape = one(set.flags & 7) && one(set.flags & 0x38) && set.flags & !0x3f == 0;
            let end = set.start.checked_add(set.count);
            let inside = set.index < IRQS && end.is_some_and(|end| end <= Device::vectors(set.index));
            // ERR and REQ are attached without being asked about.
            let known = inside || set.index > 2;
            let whole = set.flags & 2 == 0 || data.len() >= set.count as usize;
            if shape && known && whole {
                Ok(())
            } else {
                Err(format!("{set:?}"))
            }
        });
    }

    fn map(&mut self, got: &Message, device: &Device) {
        let Ok((map, _)) = DmaMap::read_from_prefix(&got.payload) else {
            return;
        };
        self.see("client.map", || {
            let end = map.iova.checked_add(map.bytes.saturating_sub(1));
            let good = map.bytes > 0 && end.is_some() && map.flags & !0xf == 0;
            if good && !device.overlaps(map.iova, map.bytes) {
                Ok(())
            } else {
                Err(format!("{map:x?}"))
            }
        });
    }

    fn unmap(&mut self, got: &Message, device: &Device) {
        let Ok((unmap, _)) = DmaUnmap::read_from_prefix(&got.payload) else {
            return;
        };
        let exactly = |map: &DmaMap| (map.iova, map.bytes) == (unmap.iova, unmap.bytes);
        let stop = (!device.maps.iter().any(exactly)).then(|| Stop::Deviation(TYPE1V2.into()));
        self.note("client.unmap", stop);
    }

    /// What came of each rule.
    pub(super) fn report(mut self) -> Report {
        let not_seen = || Some(Stop::NotApplicable("the client did nothing of the kind".into()));
        let row = |&(name, what, rule, expected): &Line| {
            let stop = self.seen.remove(name).unwrap_or_else(not_seen);
            let (section, ours) = rule.parts();
            Row {
                name,
                what,
                section,
                ours,
                expected,
                outcome: outcome(stop),
            }
        };
        Report {
            cases: RULES.iter().map(row).collect(),
        }
    }
}
