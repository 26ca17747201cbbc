//! Our command on a machine with an IOMMU: what it lists, binds, refuses and resets, judged by lspci and by what the
//! kernel shows.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Context, STEP, Scenario};
use crate::vm::checks::Checks;
use crate::vm::device::{self, Device};
use crate::vm::guest::Guest;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "list-bind",
    about: "list, bind, unbind and reset agree with lspci and the kernel, and spare what the machine needs",
    run,
};

/// Every PCI function that the machine is given, as vendor and device.
const GIVEN: [(u64, u64); 6] = [
    (0x1b36, 0x0010),
    (0x8086, 0x10c9),
    (0x8086, 0x10d3),
    (0x1234, 0x11e8),
    (0x1033, 0x0194),
    (0x1b36, 0x000c),
];

fn run(context: &Context<'_>, checks: &mut Checks) -> Result<()> {
    let Some(uvfio) = &context.programs.uvfio else {
        return Ok(());
    };
    let (nvme, disk) = (context.scratch.join("nvme.img"), context.scratch.join("disk.img"));
    device::make_image(&nvme, 64)?;
    device::make_image(&disk, 64)?;
    let disk = Device {
        description: json!({ "driver": "virtio-blk-pci", "id": "disk", "drive": "disk1" }),
        drive: Some(disk),
        server: None,
    };
    let mut guest = context
        .guest()
        .iommu()
        .root_ports(1)
        .attach(&Device::qemu_nvme("nvme", &nvme).below("rp1"))
        .attach(&disk)
        .device(json!({ "driver": "igb", "id": "igb" }))
        .device(json!({ "driver": "e1000e", "id": "e1000e" }))
        // What lies behind a conventional bridge shares a group.
        .device(json!({ "driver": "pcie-pci-bridge", "id": "bridge" }))
        .device(json!({ "driver": "edu", "id": "edu", "bus": "bridge", "addr": "1" }))
        .device(json!({ "driver": "nec-usb-xhci", "id": "usb", "bus": "bridge", "addr": "2" }))
        .modules(&["igb", "e1000e", "xhci-pci"])
        .tool(&context.programs.guest_tools)
        .dynamic_tool(uvfio)
        .start()?;
    guest.run("iommu_groups_exist", STEP, checks)?;
    guest.run("list_load_drivers", STEP, checks)?;
    agrees(&mut guest, checks)?;
    for step in [
        "list_bind_twice",
        "list_unbind_twice",
        "list_held",
        "list_refuses_disks",
        "list_resets",
        "list_virtual_functions",
        "list_shared_group",
        "list_refuses_networks",
    ] {
        guest.run(step, STEP, checks)?;
    }
    checks.same("QEMU ends when told to", &Some(0), &guest.quit()?.code());
    Ok(())
}

/// What others say of a function.
#[derive(Debug, Default, PartialEq)]
struct Said {
    ids: (u64, u64),
    driver: Option<String>,
    group: Option<u64>,
    resets: Vec<String>,
}

/// Compares the whole list with lspci's and with `/sys`.
fn agrees(guest: &mut Guest, checks: &mut Checks) -> Result<()> {
    let text = guest.text("text uvfio list --all --json", STEP)?.join("\n");
    let list: Value = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    let ours: BTreeMap<String, Said> = list
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(of_json)
        .collect();
    let mut theirs = of_lspci(&guest.text("text lspci -Dvmmnk", STEP)?);
    for line in guest.text("text list_reset_methods", STEP)? {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        if let Some(said) = words.next().and_then(|address| theirs.get_mut(&address)) {
            said.resets = words.collect();
        }
    }
    let addresses = |map: &BTreeMap<String, Said>| map.keys().cloned().collect::<Vec<_>>();
    checks.same(
        "list has the functions that lspci has",
        &addresses(&theirs),
        &addresses(&ours),
    );
    for (address, said) in &theirs {
        let ours = ours.get(address);
        checks.same(
            &format!("list agrees with lspci and /sys on {address}"),
            &Some(said),
            &ours,
        );
    }
    for ids in GIVEN {
        checks.same(
            &format!("list has {:04x}:{:04x}", ids.0, ids.1),
            &true,
            &ours.values().any(|said| said.ids == ids),
        );
    }
    Ok(())
}

fn of_json(function: &Value) -> Option<(String, Said)> {
    let methods = function["reset_methods"].as_array()?;
    let said = Said {
        ids: (function["vendor"].as_u64()?, function["device"].as_u64()?),
        driver: function["driver"].as_str().map(str::to_owned),
        group: function["iommu_group"]["number"].as_u64(),
        resets: methods
            .iter()
            .filter_map(|method| Some(method.as_str()?.to_owned()))
            .collect(),
    };
    Some((function["address"].as_str()?.to_owned(), said))
}

/// Records of lspci -vmm: lines of a name and a value, an empty line between two records.
fn of_lspci(lines: &[String]) -> BTreeMap<String, Said> {
    let mut all = BTreeMap::new();
    let mut address = String::new();
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        let value = value.trim();
        // Before the first record may stand what lspci misses on this machine.
        if name == "Slot" {
            value.clone_into(&mut address);
        } else if address.is_empty() {
            continue;
        }
        let said: &mut Said = all.entry(address.clone()).or_default();
        match name {
            "Vendor" => said.ids.0 = hexadecimal(value),
            "Device" => said.ids.1 = hexadecimal(value),
            "Driver" => said.driver = Some(value.to_owned()),
            "IOMMUGroup" => said.group = value.parse().ok(),
            _ => {}
        }
    }
    all
}
