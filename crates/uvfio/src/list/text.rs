//! The text of `uvfio list`: two or three lines a function, or everything about one.

use super::record::{GroupRecord, MemberRecord, Record};
use crate::names;

/// What is said of a function: the lines of the list, or with `all` everything.
pub(super) fn function(record: &Record, all: bool) -> String {
    let Record {
        address,
        vendor,
        device,
        name,
        class,
        class_name,
        ..
    } = record;
    let mut lines = vec![format!(
        "{address}  {vendor:04x}:{device:04x} {name}, {class_name} [{class:06x}]"
    )];
    let driver = record
        .driver
        .as_deref()
        .map_or_else(|| "no driver".to_owned(), |name| format!("driver {name}"));
    let mut facts = vec![
        driver,
        group(record),
        resets(record),
        format!("BARs {}", record.bar_grants.join(" ")),
    ];
    if record.interrupts_not_isolated {
        facts.push("interrupts not isolated".to_owned());
    }
    lines.push(facts.join("; "));
    for holder in &record.held_by {
        lines.push(format!("held by {} (process {})", holder.name, holder.pid));
    }
    lines.extend(record.needed_because.iter().cloned());
    if all {
        lines.extend(details(record));
    }
    lines.extend(record.findings.iter().map(|finding| format!("! {finding}")));
    lines.join("\n    ") + "\n"
}

fn group(record: &Record) -> String {
    let Some(group) = &record.iommu_group else {
        return "no IOMMU group".to_owned();
    };
    let number = group.number;
    if !group.isolated {
        return format!("group {number}, with no IOMMU behind it");
    }
    let others: Vec<&str> = blockers(group)
        .filter(|member| member.name != record.address)
        .map(|member| member.sentence.as_str())
        .collect();
    match (group.viable, &others[..]) {
        (true, _) => format!("IOMMU group {number}, viable"),
        (false, []) => format!("IOMMU group {number}, viable once it is bound to vfio-pci"),
        (false, others) => format!("IOMMU group {number}, not viable: {}", others.join(", ")),
    }
}

fn blockers(group: &GroupRecord) -> impl Iterator<Item = &MemberRecord> {
    group.members.iter().filter(|member| member.blocks)
}

fn resets(record: &Record) -> String {
    match record.reset_methods.as_deref() {
        None => "can be reset".to_owned(),
        Some([]) => "no reset".to_owned(),
        Some(methods) => format!("reset {}", methods.join(" ")),
    }
}

fn details(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(vendor), Some(device)) = (record.subsystem_vendor, record.subsystem_device) {
        let revision = record
            .revision
            .map_or_else(String::new, |revision| format!(", revision {revision:02x}"));
        lines.push(format!("subsystem {vendor:04x}:{device:04x}{revision}"));
    }
    if let Some(name) = &record.driver_override {
        lines.push(format!("only {name} may have it (driver_override)"));
    }
    for resource in &record.resources {
        let which = resource
            .bar
            .map_or_else(|| "ROM".to_owned(), |bar| format!("BAR {bar}"));
        let prefetchable = if resource.prefetchable {
            ", prefetchable"
        } else {
            ""
        };
        let place = if resource.assigned {
            format!("at {:#x}", resource.address)
        } else {
            "without an address".to_owned()
        };
        let bytes = names::bytes(resource.bytes);
        lines.push(format!(
            "{which}  {}{prefetchable}, {bytes}, {place}",
            resource.kind
        ));
    }
    if let Some(config) = &record.config {
        let part = if config.readable < config.bytes {
            format!("; this user may read the first {}, root all", config.readable)
        } else {
            String::new()
        };
        lines.push(format!("{} bytes of configuration space{part}", config.bytes));
        lines.push(format!("verified after a reset: {}", config.verified));
    }
    for member in record.iommu_group.iter().flat_map(|group| &group.members) {
        lines.push(format!("in its group: {}", member.sentence));
    }
    for region in record.iommu_group.iter().flat_map(|group| &group.reserved) {
        let (first, last) = (region.first, region.last);
        lines.push(format!(
            "IOVAs {first:#x} to {last:#x} are reserved ({})",
            region.kind
        ));
    }
    lines.extend(sriov(record));
    lines.extend(
        record
            .power_state
            .iter()
            .map(|state| format!("power state {state}")),
    );
    lines.extend(
        record
            .numa_node
            .iter()
            .map(|node| format!("near NUMA node {node}")),
    );
    if record.boot_vga {
        lines.push("the machine booted with it as its display".to_owned());
    }
    lines.extend(
        record
            .removable
            .iter()
            .map(|word| format!("firmware says of its place: {word}")),
    );
    if let Some(errors) = &record.errors {
        let kinds = [
            ("correctable", &errors.correctable),
            ("non-fatal", &errors.nonfatal),
            ("fatal", &errors.fatal),
        ];
        let seen = kinds.into_iter().flat_map(|(severity, kinds)| {
            kinds
                .iter()
                .map(move |(name, count)| format!("{severity} {name} {count} times"))
        });
        let seen: Vec<String> = seen.collect();
        let seen = if seen.is_empty() {
            "none".to_owned()
        } else {
            seen.join(", ")
        };
        lines.push(format!("errors reported (AER): {seen}"));
    }
    lines
}

fn sriov(record: &Record) -> Vec<String> {
    let mut lines = Vec::new();
    let sriov = &record.sriov;
    if let Some(total) = sriov.total {
        let list = if sriov.virtual_functions.is_empty() {
            String::new()
        } else {
            format!(": {}", sriov.virtual_functions.join(" "))
        };
        lines.push(format!("{} of {total} virtual functions{list}", sriov.enabled));
    }
    lines.extend(
        sriov
            .physical_function
            .iter()
            .map(|function| format!("a virtual function of {function}")),
    );
    lines
}
