//! `uvfio list`, `bind`, `unbind`, `reset`, and `show` of a PCI address, on a made-up machine.
//!
//! Nobody plays the kernel here: what changes a machine is refused in these tests, and tried in a virtual machine.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// A network card at 00:03.0 with the default route and its driver, an idle one at 00:04.0 without; both in group 7. A
/// root port at 00:1c.0.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a folder"));
        machine.function("0000:00:03.0", "0x10c9", "0x020000");
        machine.function("0000:00:04.0", "0x10d3", "0x020000");
        machine.function("0000:00:1c.0", "0x7020", "0x060400");
        for slot in ["0000:00:03.0", "0000:00:04.0"] {
            machine.link(
                &format!("sys/devices/pci0000:00/{slot}/iommu_group"),
                "sys/kernel/iommu_groups/7",
            );
            machine.link(
                &format!("sys/kernel/iommu_groups/7/devices/{slot}"),
                &format!("sys/devices/pci0000:00/{slot}"),
            );
        }
        machine.write("sys/bus/pci/drivers/igb/unbind", "");
        machine.write("sys/bus/pci/drivers/vfio-pci/unbind", "");
        machine.link(
            "sys/devices/pci0000:00/0000:00:03.0/driver",
            "sys/bus/pci/drivers/igb",
        );
        machine.write("sys/devices/pci0000:00/0000:00:03.0/net/eth0/flags", "0x1003\n");
        machine.link(
            "sys/class/net/eth0",
            "sys/devices/pci0000:00/0000:00:03.0/net/eth0",
        );
        machine.write(
            "proc/net/route",
            "head\neth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n",
        );
        machine.write("proc/1/mountinfo", "1 0 0:1 / / rw - rootfs none rw\n");
        machine
    }

    fn write(&self, inside: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(inside);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn link(&self, inside: &str, to: &str) {
        let path = self.0.path().join(inside);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        symlink(
            Path::new(&"../".repeat(inside.matches('/').count())).join(to),
            path,
        )
        .expect("linked");
    }

    fn function(&self, slot: &str, device: &str, class: &str) {
        let folder = format!("sys/devices/pci0000:00/{slot}");
        for (name, text) in [
            ("vendor", "0x8086"),
            ("device", device),
            ("class", class),
            ("revision", "0x01"),
        ] {
            self.write(&format!("{folder}/{name}"), format!("{text}\n"));
        }
        self.write(&format!("{folder}/reset_method"), "flr pm\n");
        self.write(
            &format!("{folder}/resource"),
            "0x00000000fe800000 0x00000000fe81ffff 0x0000000000040200\n",
        );
        self.link(&format!("sys/bus/pci/devices/{slot}"), &folder);
    }

    fn uvfio(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uvfio"));
        command.args(args).arg("--root").arg(self.0.path());
        command.output().expect("the command starts")
    }

    #[track_caller]
    fn says(&self, args: &[&str]) -> String {
        let output = self.uvfio(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "uvfio {args:?} ended with {}: {stderr}",
            output.status
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// The command must end with this status, and one sentence on standard error that has all these parts.
    #[track_caller]
    fn refuses(&self, args: &[&str], status: i32, parts: &[&str]) {
        let output = self.uvfio(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "uvfio {args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        for part in parts {
            assert!(stderr.contains(part), "{part:?} is not in {stderr:?}");
        }
    }
}

#[test]
fn list_shows_endpoints_and_what_is_in_the_way_of_each() {
    let machine = Machine::new();
    let text = machine.says(&["list"]);
    for part in [
        "0000:00:03.0  8086:10c9 Intel Corporation 82576 Gigabit Network Connection, Ethernet controller [020000]\n",
        "driver igb; IOMMU group 7, viable once it is bound to vfio-pci; reset flr pm; BARs trapped device-fd\n",
        "    the default route leads over it (eth0)\n",
        "no driver; IOMMU group 7, not viable: 0000:00:03.0 is driven by igb (`uvfio bind 0000:00:03.0` takes",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(!text.contains("1c.0"), "a bridge without --all:\n{text}");
    let text = machine.says(&["list", "--all"]);
    assert!(
        text.contains("0000:00:1c.0  8086:7020") && text.contains("no IOMMU group"),
        "{text}"
    );
}

#[test]
fn list_of_one_function_shows_everything() {
    let machine = Machine::new();
    machine.write(
        "sys/kernel/iommu_groups/7/reserved_regions",
        "0x00000000fee00000 0x00000000feefffff msi\n",
    );
    machine.write("sys/devices/pci0000:00/0000:00:03.0/config", [0; 4096]);
    machine.write("sys/devices/pci0000:00/0000:00:03.0/numa_node", "garbage\n");
    let text = machine.says(&["list", "00:03.0"]);
    for part in [
        "BAR 0  32-bit memory, 128 KiB, at 0xfe800000\n",
        "4096 bytes of configuration space\n",
        "in its group: 0000:00:04.0 has no driver\n",
        "IOVAs 0xfee00000 to 0xfeefffff are reserved (msi)\n",
        "! ",
        "numa_node says \"garbage\"",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn list_prints_the_same_as_json() {
    let machine = Machine::new();
    machine.link(
        "sys/devices/pci0000:00/0000:00:04.0/driver",
        "sys/bus/pci/drivers/vfio-pci",
    );
    // I/O, and memory of half a page.
    machine.write(
        "sys/devices/pci0000:00/0000:00:04.0/resource",
        "0x000000000000c000 0x000000000000dfff 0x0000000000040101\n\
         0x00000000fe900000 0x00000000fe9007ff 0x0000000000040200\n",
    );
    machine.write("proc/9/comm", "qemu\n");
    fs::create_dir_all(machine.0.path().join("proc/9/fd")).expect("made");
    symlink("/dev/vfio/7", machine.0.path().join("proc/9/fd/3")).expect("linked");
    let list: Value = serde_json::from_str(&machine.says(&["list", "--json"])).expect("JSON");
    assert_eq!(list.as_array().map(Vec::len), Some(2), "{list:#}");
    let card = &list[0];
    assert_eq!(card["address"], "0000:00:03.0");
    assert_eq!(
        (&card["vendor"], &card["device"]),
        (&0x8086.into(), &0x10c9.into())
    );
    assert_eq!(card["driver"], "igb");
    assert_eq!(card["reset_methods"], serde_json::json!(["flr", "pm"]));
    assert_eq!(
        (&card["iommu_group"]["number"], &card["iommu_group"]["viable"]),
        (&7.into(), &false.into())
    );
    assert_eq!(card["resources"][0]["bytes"], 128 << 10);
    assert_eq!(
        card["needed_because"][0],
        "the default route leads over it (eth0)"
    );
    assert_eq!(card["bar_grants"], serde_json::json!(["trapped", "device-fd"]));
    assert_eq!(
        list[1]["bar_grants"],
        serde_json::json!(["trapped"]),
        "BARs without a page"
    );
    assert_eq!(
        list[1]["held_by"],
        serde_json::json!([{ "pid": 9, "name": "qemu" }])
    );
}

#[test]
fn where_the_kernel_does_without_interrupt_remapping_every_function_says_so() {
    let machine = Machine::new();
    machine.write("proc/interrupts", "9: 0 IO-APIC acpi\n");
    let parameter = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    for (value, said) in [("N\n", false), ("Y\n", true)] {
        machine.write(parameter, value);
        let text = machine.says(&["list"]);
        let count = text.matches("; interrupts not isolated\n").count();
        assert_eq!(count, if said { 2 } else { 0 }, "{value:?}: {text}");
        let list: Value = serde_json::from_str(&machine.says(&["list", "--json"])).expect("JSON");
        for function in list.as_array().expect("a list") {
            assert_eq!(function["interrupts_not_isolated"], said, "{value:?}: {function}");
        }
    }
}

#[test]
fn what_can_not_be_done_is_refused_in_one_sentence_with_a_way_out() {
    let machine = Machine::new();
    machine.refuses(
        &["list", "00:1f.0"],
        2,
        &["no PCI function 0000:00:1f.0", "uvfio list --all"],
    );
    machine.refuses(&["list", "1f.0"], 2, &["no PCI address", "0000:00:1f.2"]);
    machine.refuses(
        &["bind", "00:03.0"],
        1,
        &["the default route leads over it (eth0)", "--force"],
    );
    machine.refuses(&["bind", "00:1c.0"], 1, &["is a bridge"]);
    machine.refuses(&["bind", "00:1f.0"], 2, &["no PCI function"]);
    machine.refuses(&["bind"], 2, &["<ADDRESS>"]);
    machine.refuses(&["reset", "00:03.0"], 1, &["the default route"]);
    machine.refuses(&["unbind", "00:1f.0"], 2, &["no PCI function"]);
    let text = machine.says(&["unbind", "00:03.0"]);
    assert_eq!(text, "0000:00:03.0 is not with vfio-pci: driver igb\n");
    fs::remove_dir_all(machine.0.path().join("sys/bus/pci/drivers/vfio-pci")).expect("removed");
    machine.refuses(&["bind", "00:04.0"], 1, &["modprobe vfio-pci"]);
}

#[test]
fn show_and_explain_take_the_address_of_a_function() {
    let machine = Machine::new();
    let mut page = [0; 256];
    page[..4].copy_from_slice(&[0x86, 0x80, 0xc9, 0x10]);
    page[4] = 6;
    page[0xb] = 2;
    machine.write("sys/devices/pci0000:00/0000:00:03.0/config", page);
    let text = machine.says(&["show", "00:03.0"]);
    for part in [
        "0000:00:03.0: 8086:10c9 Intel Corporation 82576",
        "256 bytes of configuration space",
        "Memory Space Enable+, Bus Master Enable+",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let text = machine.says(&["explain", "0000:00:03.0", "0x04"]);
    assert!(text.contains("Bus Master Enable: bit 2"), "{text}");

    // More than a header, but not all: as an ordinary user is given it.
    machine.write(
        "sys/devices/pci0000:00/0000:00:03.0/config",
        [&page[..], &[0; 44]].concat(),
    );
    let text = machine.says(&["show", "00:03.0"]);
    assert!(text.contains("only the first 256 of 300 bytes"), "{text}");
    machine.refuses(
        &["explain", "00:03.0", "0x108"],
        1,
        &["only the first 256", "root sees"],
    );
    machine.refuses(&["show", "00:1f.0"], 2, &["no PCI function 0000:00:1f.0"]);
}

/// A page as an ordinary user's kernel gives it, or root's: a BAR, INTA, power management, and bytes of nobody.
fn page(bytes: usize) -> Vec<u8> {
    let mut page = vec![0; 256];
    page[..16].copy_from_slice(&[
        0x86, 0x80, 0xc9, 0x10, 0x06, 0x04, 0x10, 0x00, 0x01, 0x00, 0x00, 0x02, 0x10, 0x00, 0x80, 0x00,
    ]);
    page[0x10..0x14].copy_from_slice(&[0x00, 0x00, 0x80, 0xfe]);
    page[0x34] = 0x50;
    page[0x3d] = 0x01;
    page[0x50..0x58].copy_from_slice(&[0x01, 0x00, 0x23, 0xc8, 0x00, 0x20, 0x00, 0x00]);
    page[0xa0..0xa3].copy_from_slice(&[1, 2, 3]);
    page.truncate(bytes);
    page
}

const CONFIG: &str = "sys/devices/pci0000:00/0000:00:03.0/config";

#[test]
fn diff_shows_what_a_user_sees_otherwise_and_why() {
    let machine = Machine::new();
    machine.write(CONFIG, page(256));
    let text = machine.says(&["diff", "00:03.0"]);
    for part in [
        "0000:00:03.0: what a new user of the virtual view sees, against what the hardware says: ",
        "0x004  bit 2      Bus Master Enable: hardware 0x1, user 0x0\n        kept by the model: a new user has it as",
        "0x00e  bit 7      Multi-Function Device: hardware 0x1, user 0x0\n        not there in this view",
        "0x010  bits 31:4  Base Address: hardware 0xfe80000, user 0x0\n",
        "0x052  bits 15:11 PME_Support: hardware 0x19, user 0x0 (there at 0x042)\n",
        "0x0a0  3 bytes    bytes that no table describes: user -, hardware 01 02 03\n        nothing that is not",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(
        !text.contains("Vendor ID"),
        "what is the same is not listed:\n{text}"
    );
    let text = machine.says(&["diff", "00:03.0", "--view", "filtered"]);
    assert!(
        text.contains(
            "Interrupt Disable: hardware 0x1, user 0x0\n        kept by the model: this view has no INTx, and in the hardware the line"
        ),
        "{text}"
    );
    let in_use = "Bus Master Enable: hardware 0x1, user 0x0\n        a new user has it off\n";
    assert!(text.contains(in_use), "another driver has it in use:\n{text}");
    assert_eq!(
        text.lines().count(),
        1 + 2 * 4,
        "memory, bus mastering, INTx and its pin differ, and nothing else:\n{text}"
    );
    let text = machine.says(&["diff", "00:03.0", "--view", "raw"]);
    assert!(text.contains(in_use), "another driver has it in use:\n{text}");
    assert_eq!(
        text.lines().count(),
        1 + 2 * 3,
        "memory, bus mastering and the interrupt pin differ, and nothing else:\n{text}"
    );
}

#[test]
fn diff_shows_the_bytes_that_no_table_describes() {
    let machine = Machine::new();
    let mut page = page(256);
    page[0xa0..0xf0].copy_from_slice(&std::array::from_fn::<u8, 80, _>(|n| n as u8 + 1));
    machine.write(CONFIG, &page);
    let text = machine.says(&["diff", "00:03.0"]);
    let shown = "hardware 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f 20 and \
                 48 more (--json has all)\n";
    assert!(text.contains(shown), "{text}");
    let json: Value = serde_json::from_str(&machine.says(&["diff", "00:03.0", "--json"])).expect("JSON");
    let list = json["differences"].as_array().expect("differences");
    let runs: Vec<_> = list.iter().filter(|one| one["field"] == "").collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(runs[0]["data"], Value::from(page[0xa0..0xf0].to_vec()));
}

#[test]
fn diff_as_json_has_both_values_and_where_each_is() {
    let machine = Machine::new();
    machine.write(CONFIG, page(256));
    let json: Value = serde_json::from_str(&machine.says(&["diff", "00:03.0", "--json"])).expect("JSON");
    assert_eq!(
        (json["view"].as_str(), json["bytes"].as_u64()),
        (Some("virtual"), Some(256))
    );
    let list = json["differences"].as_array().expect("differences");
    let support = list
        .iter()
        .find(|one| one["field"] == "PME_Support")
        .expect("PME support");
    assert_eq!(
        (&support["hardware"], &support["user"]),
        (&0x19.into(), &0.into())
    );
    assert_eq!(
        (&support["offset"], &support["user_offset"]),
        (&0x52.into(), &0x42.into())
    );
}

#[test]
fn diff_of_a_part_of_the_page_says_that_it_is_one() {
    let machine = Machine::new();
    machine.write(CONFIG, page(256));
    let whole = machine.says(&["diff", "00:03.0"]);
    assert!(!whole.contains("root sees all"), "{whole}");
    // The kernel says that there are 256 bytes, and gives an ordinary user 64 of them.
    machine.write(CONFIG, page(64));
    let part = machine.says(&["diff", "00:03.0"]);
    assert!(
        part.contains("Multi-Function Device: hardware 0x1, user 0x0"),
        "{part}"
    );
    assert!(
        !part.contains("Capabilities"),
        "where the chain leads is not known:\n{part}"
    );
    assert!(!part.contains("PME"), "{part}");
}

#[test]
fn diff_refuses_what_would_not_be_given_to_a_user() {
    let machine = Machine::new();
    let mut page = page(256);
    page[0x51] = 0x50;
    machine.write(CONFIG, page);
    machine.refuses(
        &["diff", "00:03.0"],
        1,
        &["0000:00:03.0 would not be given to a user: the capability chain"],
    );
}

#[test]
fn what_can_be_verified_and_a_bar_that_has_lost_its_address_are_shown() {
    let machine = Machine::new();
    let config = "sys/devices/pci0000:00/0000:00:03.0/config";
    for (bar, lost) in [([0, 0, 0x80, 0xfe], false), ([0; 4], true)] {
        let mut bytes = vec![0; 256];
        bytes[0x10..0x14].copy_from_slice(&bar);
        machine.write(config, &bytes);
        let text = machine.says(&["list", "0000:00:03.0"]);
        assert!(text.contains("verified after a reset: all"), "{text}");
        assert_eq!(
            text.contains("! BAR 0 has lost its address 0xfe800000"),
            lost,
            "{text}"
        );
    }
}
