//! What `uvfio list` says of one function: the form of its JSON, and what its text is made from.

use std::collections::BTreeMap;

use serde::Serialize;
use uvfio_linux::device::BarGrant;
use uvfio_linux::sysfs::{
    Config, Error, ErrorCounter, ErrorCounters, Function, Group, Host, LostBar, Member, ResetMethods,
    Resource, Space,
};

use super::Surroundings;
use crate::names;

#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) address: String,
    pub(super) vendor: u16,
    pub(super) device: u16,
    pub(super) name: String,
    pub(super) class: u32,
    pub(super) class_name: String,
    pub(super) revision: Option<u8>,
    pub(super) subsystem_vendor: Option<u16>,
    pub(super) subsystem_device: Option<u16>,
    pub(super) driver: Option<String>,
    pub(super) driver_override: Option<String>,
    pub(super) iommu_group: Option<GroupRecord>,
    /// Empty: it can't be reset. Absent: it can, and the kernel does not say how.
    pub(super) reset_methods: Option<Vec<String>>,
    /// How `serve --bars` can have a user reach its BARs. Not among them is `dmabuf`: whether the kernel can do that shows
    /// only once the function is open.
    pub(super) bar_grants: Vec<&'static str>,
    /// Whoever gets it could raise any interrupt of the machine: the kernel was told to do without interrupt remapping,
    /// and that is not known to be on.
    pub(super) interrupts_not_isolated: bool,
    pub(super) resources: Vec<ResourceRecord>,
    pub(super) held_by: Vec<HolderRecord>,
    pub(super) needed_because: Vec<String>,
    pub(super) power_state: Option<String>,
    pub(super) numa_node: Option<u32>,
    pub(super) boot_vga: bool,
    pub(super) removable: Option<String>,
    pub(super) sriov: SriovRecord,
    pub(super) errors: Option<ErrorsRecord>,
    /// Only where one function was asked for
    pub(super) config: Option<ConfigRecord>,
    pub(super) findings: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct GroupRecord {
    pub(super) number: u32,
    pub(super) isolated: bool,
    /// Whether it could be given to a user as it is
    pub(super) viable: bool,
    pub(super) members: Vec<MemberRecord>,
    pub(super) reserved: Vec<ReservedRecord>,
}

#[derive(Debug, Serialize)]
pub(super) struct MemberRecord {
    pub(super) name: String,
    pub(super) driver: Option<String>,
    /// Whether it is in the way
    pub(super) blocks: bool,
    #[serde(skip)]
    pub(super) sentence: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ReservedRecord {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) kind: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ResourceRecord {
    /// 0 to 5; absent for the expansion ROM
    pub(super) bar: Option<usize>,
    pub(super) kind: &'static str,
    pub(super) prefetchable: bool,
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) assigned: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct HolderRecord {
    pub(super) pid: u32,
    pub(super) name: String,
}

#[derive(Debug, Serialize)]
pub(super) struct SriovRecord {
    pub(super) total: Option<u32>,
    pub(super) enabled: u32,
    pub(super) virtual_functions: Vec<String>,
    pub(super) physical_function: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ErrorsRecord {
    pub(super) total: u64,
    pub(super) correctable: BTreeMap<String, u64>,
    pub(super) nonfatal: BTreeMap<String, u64>,
    pub(super) fatal: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ConfigRecord {
    pub(super) bytes: usize,
    /// How many of them this user may read
    pub(super) readable: usize,
    /// How much of it is verified with the hardware after a reset, where this user serves the function: `all`, or
    /// `header`
    pub(super) verified: &'static str,
}

impl Record {
    pub(super) fn of(host: &Host, function: Function, around: &Surroundings) -> Self {
        let address = function.address;
        let class = function.class.to_be_bytes();
        let held_by = around
            .open
            .as_ref()
            .map(|open| open.holders(&function))
            .unwrap_or_default();
        let needed = around
            .uses
            .as_ref()
            .map(|uses| uses.of(address))
            .unwrap_or_default();
        let mut findings: Vec<String> = function.findings.iter().map(ToString::to_string).collect();
        let group = function.group.map(|number| host.sysfs().group(number));
        let iommu_group = match group.transpose() {
            Ok(group) => group.map(GroupRecord::of),
            Err(error) => {
                findings.push(error.to_string());
                None
            }
        };
        let sriov = function.sriov;
        Self {
            address: address.to_string(),
            vendor: function.vendor,
            device: function.device,
            name: names::device(function.vendor, function.device),
            class: function.class,
            class_name: names::class(class[1], class[2]),
            revision: function.revision,
            subsystem_vendor: function.subsystem_vendor,
            subsystem_device: function.subsystem_device,
            driver: function.driver,
            driver_override: function.driver_override.filter(|name| !name.is_empty()),
            iommu_group,
            reset_methods: match function.reset {
                ResetMethods::None => Some(Vec::new()),
                ResetMethods::Unnamed => None,
                ResetMethods::Named(methods) => Some(methods),
            },
            bar_grants: bar_grants(&function.resources).map(BarGrant::name).collect(),
            interrupts_not_isolated: around.interrupts_not_isolated,
            resources: function.resources.iter().map(ResourceRecord::of).collect(),
            held_by: held_by
                .into_iter()
                .map(|holder| HolderRecord {
                    pid: holder.pid,
                    name: holder.name,
                })
                .collect(),
            needed_because: needed.iter().map(ToString::to_string).collect(),
            power_state: function.power_state,
            numa_node: function.numa_node,
            boot_vga: function.boot_vga,
            removable: function.removable,
            sriov: SriovRecord {
                total: sriov.total,
                enabled: sriov.enabled,
                virtual_functions: sriov.virtual_functions.iter().map(ToString::to_string).collect(),
                physical_function: sriov.physical_function.map(|function| function.to_string()),
            },
            errors: function.errors.as_ref().map(ErrorsRecord::of),
            config: None,
            findings,
        }
    }

    pub(super) fn has_group(&self) -> bool {
        self.iommu_group.is_some()
    }

    pub(super) fn add_config(&mut self, config: Result<Config, Error>, lost: &[LostBar]) {
        match config {
            Ok(config) => {
                self.config = Some(ConfigRecord {
                    bytes: config.whole,
                    readable: config.bytes.len(),
                    verified: if config.is_part() { "header" } else { "all" },
                });
                self.findings.extend(lost.iter().map(ToString::to_string));
            }
            Err(error) => self.findings.push(error.to_string()),
        }
    }
}

/// What a user can be granted of these BARs.
fn bar_grants(resources: &[Resource]) -> impl Iterator<Item = BarGrant> {
    // The smallest part of a BAR that can be mapped.
    let page = rustix::param::page_size() as u64;
    let mapped = resources.iter().any(|resource| {
        let is_bar = resource.index < 6 && !matches!(resource.space, Space::Io);
        is_bar && resource.bytes >= page
    });
    [Some(BarGrant::Trapped), mapped.then_some(BarGrant::DeviceFd)]
        .into_iter()
        .flatten()
}

impl GroupRecord {
    fn of(group: Group) -> Self {
        Self {
            number: group.number,
            isolated: group.isolated,
            viable: group.is_viable(),
            members: group.members.into_iter().map(MemberRecord::of).collect(),
            reserved: group
                .reserved
                .into_iter()
                .map(|region| ReservedRecord {
                    first: region.first,
                    last: region.last,
                    kind: region.kind,
                })
                .collect(),
        }
    }
}

impl MemberRecord {
    fn of(member: Member) -> Self {
        Self {
            sentence: member.to_string(),
            name: member.name,
            driver: member.driver,
            blocks: member.blocks,
        }
    }
}

impl ResourceRecord {
    fn of(resource: &Resource) -> Self {
        Self {
            bar: Some(resource.index).filter(|index| *index < 6),
            kind: match resource.space {
                Space::Io => "I/O",
                Space::Memory32 => "32-bit memory",
                Space::Memory64 => "64-bit memory",
            },
            prefetchable: resource.prefetchable,
            address: resource.address,
            bytes: resource.bytes,
            assigned: resource.assigned,
        }
    }
}

impl ErrorsRecord {
    fn of(errors: &ErrorCounters) -> Self {
        let kinds = |counters: &[ErrorCounter]| {
            let seen = counters.iter().filter(|counter| counter.count > 0);
            seen.map(|counter| (counter.name.clone(), counter.count))
                .collect()
        };
        Self {
            total: errors.total(),
            correctable: kinds(&errors.correctable),
            nonfatal: kinds(&errors.nonfatal),
            fatal: kinds(&errors.fatal),
        }
    }
}
