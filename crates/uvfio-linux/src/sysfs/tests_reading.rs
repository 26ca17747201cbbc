//! Tests of what is read of a made-up machine.

use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::made_up::MadeUp;
use super::*;

#[test]
fn a_function_is_described_by_its_attributes() {
    let machine = MadeUp::new();
    let port = machine.function("pci0000:00/0000:00:02.0", &[("class", "0x060400\n")]);
    let physical = machine.function(
        "pci0000:00/0000:00:02.0/0000:01:00.0",
        &[
            (
                "resource",
                "0x00000000fe800000 0x00000000fe81ffff 0x0000000000040200\n",
            ),
            ("reset_method", "flr pm bus\n"),
            ("power_state", "D3hot\n"),
            ("sriov_totalvfs", "7\n"),
            ("sriov_numvfs", "2\n"),
            ("numa_node", "1\n"),
            ("boot_vga", "1\n"),
            ("removable", "removable\n"),
            ("driver_override", "igb\n"),
            ("aer_dev_correctable", "RxErr 2\nTOTAL_ERR_COR 2\n"),
        ],
    );
    let folder = "sys/devices/pci0000:00/0000:00:02.0";
    for (index, slot) in [(0, "0000:01:10.0"), (10, "0000:01:11.4"), (1, "0000:01:10.2")] {
        let of = machine.function(&format!("pci0000:00/0000:00:02.0/{slot}"), &[]);
        machine.link(
            &format!("{folder}/0000:01:00.0/virtfn{index}"),
            &format!("{folder}/{of}"),
        );
        machine.link(&format!("{folder}/{of}/physfn"), &format!("{folder}/{physical}"));
    }
    machine.driver("igb", &[physical]);
    machine.group(4, &[physical]);

    let function = Sysfs::at(machine.path("sys"))
        .function(physical)
        .expect("it is there");
    assert!(function.findings.is_empty(), "{:?}", function.findings);
    assert_eq!(
        (function.vendor, function.device, function.class),
        (0x8086, 0x10c9, 0x02_0000)
    );
    assert_eq!(function.resources.len(), 1);
    assert_eq!(function.driver.as_deref(), Some("igb"));
    assert_eq!(function.driver_override.as_deref(), Some("igb"));
    assert_eq!(function.group, Some(4));
    let methods = ["flr", "pm", "bus"].map(str::to_owned).to_vec();
    assert_eq!(function.reset, ResetMethods::Named(methods));
    assert_eq!(function.power_state.as_deref(), Some("D3hot"));
    let slots: Vec<String> = function
        .sriov
        .virtual_functions
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        slots,
        ["0000:01:10.0", "0000:01:10.2", "0000:01:11.4"],
        "in order of their numbers"
    );
    assert_eq!((function.sriov.total, function.sriov.enabled), (Some(7), 2));
    assert_eq!(function.numa_node, Some(1));
    assert!(function.boot_vga);
    assert_eq!(function.removable.as_deref(), Some("removable"));
    assert_eq!(function.errors.expect("counters").total(), 2);

    let sysfs = Sysfs::at(machine.path("sys"));
    assert!(sysfs.function(port).expect("it is there").is_bridge());
    let virtual_function = sysfs
        .function("01:10.2".parse().expect("an address"))
        .expect("it is there");
    assert_eq!(virtual_function.sriov.physical_function, Some(physical));
    let order: Vec<Address> = sysfs
        .functions()
        .expect("a list")
        .iter()
        .map(|(address, _)| *address)
        .collect();
    let mut sorted = order.clone();
    sorted.sort_unstable();
    assert_eq!((order.len(), &order), (5, &sorted));
}

#[test]
fn what_a_plain_function_does_not_have_is_absent() {
    let machine = MadeUp::new();
    let address = machine.function("pci0000:00/0000:00:03.0", &[]);
    let function = Sysfs::at(machine.path("sys"))
        .function(address)
        .expect("it is there");
    assert!(function.findings.is_empty(), "{:?}", function.findings);
    assert_eq!(function.driver, None);
    assert_eq!(function.driver_override, None, "(null) is no driver");
    assert_eq!(function.numa_node, None, "-1 is no node");
    assert_eq!((function.group, function.reset), (None, ResetMethods::None));
    assert_eq!(function.sriov, Sriov::default());
    assert_eq!(function.errors, None);
    machine.write("sys/devices/pci0000:00/0000:00:03.0/reset", "");
    let function = Sysfs::at(machine.path("sys"))
        .function(address)
        .expect("it is there");
    assert_eq!(function.reset, ResetMethods::Unnamed);
}

#[test]
fn one_function_that_makes_no_sense_does_not_hide_the_others() {
    let machine = MadeUp::new();
    machine.function("pci0000:00/0000:00:01.0", &[("class", "garbage\n")]);
    machine.function("pci0000:00/0000:00:02.0", &[("vendor", "0x12345\n")]);
    machine.function("pci0000:00/0000:00:03.0", &[]);
    machine.function("pci0000:00/0000:00:04.0", &[]);
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:04.0/class")).expect("removed");
    // What is no function: a name that is no address, a link to nowhere, in circles, and out of the tree.
    machine.link("sys/bus/pci/devices/nonsense", "sys/devices");
    machine.link("sys/bus/pci/devices/0000:00:05.0", "sys/devices/nowhere");
    machine.link(
        "sys/bus/pci/devices/0000:00:06.0",
        "sys/bus/pci/devices/0000:00:06.0",
    );
    machine.link("sys/bus/pci/devices/0000:00:07.0", "proc/1");
    let listed = Sysfs::at(machine.path("sys")).functions().expect("a list");
    let seen: Vec<(String, String)> = listed
        .into_iter()
        .map(|(address, function)| {
            let error = function.map_or_else(|error| error.to_string(), |_| "read".to_owned());
            (address.to_string(), error)
        })
        .collect();
    let expected = [
        ("0000:00:01.0", "class says \"garbage\""),
        ("0000:00:02.0", "vendor says \"0x12345\""),
        ("0000:00:03.0", "read"),
        ("0000:00:04.0", "is missing"),
        ("0000:00:06.0", "leads to no place in"),
        ("0000:00:07.0", "leads to no place in"),
    ];
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    for ((address, says), (expected_address, part)) in seen.iter().zip(expected) {
        assert_eq!(address, expected_address);
        assert!(says.contains(part), "{address}: {part:?} is not in {says:?}");
    }
    let nowhere = Sysfs::at(machine.path("sys")).function("00:05.0".parse().expect("an address"));
    assert!(matches!(nowhere, Err(Error::NoFunction { .. })), "{nowhere:?}");
}

#[test]
fn an_odd_attribute_is_a_finding_and_the_rest_is_read() {
    let machine = MadeUp::new();
    let address = machine.function(
        "pci0000:00/0000:00:03.0",
        &[
            ("resource", "no numbers\n"),
            ("numa_node", "\x1b[31mred\n"),
            ("sriov_numvfs", "-1\n"),
            ("aer_dev_fatal", "what\n"),
            ("reset_method", "pm\n"),
        ],
    );
    let folder = machine.path("sys/devices/pci0000:00/0000:00:03.0");
    symlink("..", folder.join("physfn")).expect("linked");
    symlink("eleven", folder.join("iommu_group")).expect("linked");
    fs::create_dir(folder.join("power_state")).expect("made");
    let function = Sysfs::at(machine.path("sys"))
        .function(address)
        .expect("it is there");
    assert_eq!(function.reset, ResetMethods::Named(vec!["pm".into()]));
    let findings: Vec<String> = function.findings.iter().map(ToString::to_string).collect();
    for part in [
        "resource says \"no numbers\"",
        "numa_node says \"?[31mred\"",
        "sriov_numvfs says \"-1\"",
        "aer_dev_fatal says \"what\"",
        "iommu_group says \"eleven\"",
        "power_state could not be read",
    ] {
        assert!(
            findings.iter().any(|finding| finding.contains(part)),
            "{part:?} is not in {findings:#?}"
        );
    }
    assert_eq!(findings.len(), 6, "{findings:#?}");
}

#[test]
fn configuration_space_is_read_as_far_as_it_may_be() {
    let machine = MadeUp::new();
    let address = machine.function("pci0000:00/0000:00:03.0", &[]);
    let sysfs = Sysfs::at(machine.path("sys"));
    assert!(
        matches!(sysfs.config(address), Err(Error::NoFunction { .. })),
        "without the file"
    );
    for (length, read, part) in [
        (4096, 4096, false),
        (256, 256, false),
        (300, 256, true),
        (64, 64, false),
    ] {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        machine.write("sys/devices/pci0000:00/0000:00:03.0/config", &bytes);
        let config = sysfs.config(address).expect("a header at least");
        assert_eq!(
            (&config.bytes[..], config.is_part()),
            (&bytes[..read], part),
            "{length} bytes"
        );
    }
    machine.write("sys/devices/pci0000:00/0000:00:03.0/config", [0; 63]);
    let refused = sysfs.config(address).expect_err("less than a header").to_string();
    assert!(refused.contains("63 bytes"), "{refused}");
}

#[test]
fn an_open_configuration_space_knows_how_much_of_it_may_be_read_and_whether_it_may_be_written() {
    let machine = MadeUp::new();
    let address = machine.function("pci0000:00/0000:00:03.0", &[]);
    let sysfs = Sysfs::at(machine.path("sys"));
    let absent = sysfs.open_config(address, false);
    assert!(matches!(absent, Err(Error::NoFunction { .. })), "{absent:?}");
    for length in [4096, 256, 64] {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        machine.write("sys/devices/pci0000:00/0000:00:03.0/config", &bytes);
        let read_only = sysfs.open_config(address, false).expect("opened");
        assert_eq!(
            (read_only.bytes(), read_only.is_writable()),
            (length as u64, false)
        );
        assert!(read_only.write(4, &[9]).is_err(), "it was opened to be read");
        let both = sysfs.open_config(address, true).expect("opened");
        assert_eq!((both.bytes(), both.is_writable()), (length as u64, true));
        both.write(4, &[9, 8]).expect("written");
        let mut seen = [0; 4];
        read_only.read(4, &mut seen).expect("read");
        assert_eq!(seen, [9, 8, 6, 7]);
        assert!(
            read_only.read(length as u64 - 2, &mut seen).is_err(),
            "past the end"
        );
    }
    machine.write("sys/devices/pci0000:00/0000:00:03.0/config", [0; 63]);
    assert!(sysfs.open_config(address, false).is_err(), "less than a header");
}

#[test]
fn a_group_is_blocked_by_what_a_driver_of_the_kernels_has() {
    let machine = MadeUp::new();
    let at =
        |slot: u8, class| machine.function(&format!("pci0000:00/0000:00:{slot:02x}.0"), &[("class", class)]);
    let network = "0x020000\n";
    let (bridge, port) = (at(1, "0x060400\n"), at(2, "0x060400\n"));
    let (free, vfio, variant, stub) = (at(3, network), at(4, network), at(5, network), at(6, network));
    let all = [bridge, port, free, vfio, variant, stub];
    machine.driver("pcieport", &[port]);
    machine.driver("vfio-pci", &[vfio]);
    machine.driver("mlx5_vfio_pci", &[variant]);
    machine.driver("pci-stub", &[stub]);
    machine.group(7, &all);
    let sysfs = Sysfs::at(machine.path("sys"));
    let group = sysfs.group(7).expect("the group");
    assert!(group.is_viable(), "{:?}", group.blockers().collect::<Vec<_>>());
    assert_eq!(group.members.len(), all.len());
    assert!(group.isolated);

    let audio = at(0x1f, "0x040300\n");
    machine.driver("snd_hda_intel", &[audio]);
    machine.driver("shpchp", &[bridge]);
    machine.link(
        &format!("sys/kernel/iommu_groups/7/devices/{audio}"),
        &format!("sys/bus/pci/devices/{audio}"),
    );
    machine.link(
        "sys/kernel/iommu_groups/7/devices/platform.1",
        "sys/devices/platform.1",
    );
    machine.link("sys/devices/platform.1/driver", "sys/bus/pci/drivers/pl330");
    let group = sysfs.group(7).expect("the group");
    let blockers: Vec<String> = group.blockers().map(ToString::to_string).collect();
    assert_eq!(
        blockers,
        [
            "0000:00:01.0, a bridge, is driven by shpchp (`echo 0000:00:01.0 >/sys/bus/pci/drivers/shpchp/unbind` \
             takes it from there)",
            "0000:00:1f.0 is driven by snd_hda_intel (`uvfio bind 0000:00:1f.0` takes it from there)",
            "platform.1 is driven by pl330 (unbind it from there)",
        ]
    );
    assert!(matches!(sysfs.group(8), Err(Error::UnknownGroup { group: 8 })));
    machine.write("sys/kernel/iommu_groups/7/name", "vfio-noiommu\n");
    assert!(!sysfs.group(7).expect("the group").isolated);
    machine.write("sys/kernel/iommu_groups/7/reserved_regions", "0x1 msi\n");
    assert!(matches!(sysfs.group(7), Err(Error::Malformed { .. })));
}

#[test]
fn who_holds_a_function_is_found_by_group_node_and_device() {
    let machine = MadeUp::new();
    let (one, two) = (
        machine.function("pci0000:00/0000:00:03.0", &[]),
        machine.function("pci0000:00/0000:00:04.0", &[]),
    );
    let other = machine.function("pci0000:00/0000:00:05.0", &[]);
    machine.group(3, &[one, two]);
    machine.group(4, &[other]);
    machine.write(
        "sys/devices/pci0000:00/0000:00:05.0/vfio-dev/vfio2/dev",
        "510:2\n",
    );
    machine.process(
        10,
        "qemu \x1b[31m",
        &["/dev/null", "/dev/vfio/vfio", "/dev/vfio/3", "/dev/vfio/3"],
    );
    machine.process(11, "dpdk", &["anon_inode:[vfio-device]"]);
    machine.write(
        "proc/11/fdinfo/0",
        "pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:00/0000:00:04.0\n",
    );
    machine.process(12, "iommufd", &["/dev/vfio/devices/vfio2"]);
    machine.process(
        13,
        "odd",
        &[
            "/dev/vfio/",
            "/dev/vfio/x",
            "anon_inode:[vfio-device]",
            "/dev/vfio/30",
        ],
    );
    let host = machine.host();
    let open = host.open_vfio().expect("processes");
    let holders = |address| {
        let function = host.sysfs().function(address).expect("it is there");
        open.holders(&function)
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(holders(one), ["qemu ?[31m (process 10)", "dpdk (process 11)"]);
    assert_eq!(holders(two), ["qemu ?[31m (process 10)", "dpdk (process 11)"]);
    assert_eq!(holders(other), ["iommufd (process 12)"]);
    assert_eq!(open.unseen, 0);
}

#[test]
fn a_file_that_only_looks_like_vfios_holds_nothing() {
    let machine = MadeUp::new();
    let address = machine.function("pci0000:00/0000:00:03.0", &[]);
    machine.group(9, &[address]);
    // A character device whose number is known stands for the group's node.
    machine.write("sys/class/vfio/9/dev", "1:3\n");
    let node = machine.path("dev/vfio/9");
    fs::create_dir_all(node.parent().expect("a folder")).expect("made");
    symlink("/dev/null", &node).expect("linked");
    machine.write("elsewhere/vfio/9", "no device");
    let path = |inside: &str| machine.path(inside).display().to_string();
    machine.process(
        20,
        "spoof",
        &[&path("elsewhere/vfio/9"), "/dev/vfio/9", "/dev/zero"],
    );
    machine.process(21, "holder", &[&path("dev/vfio/9")]);
    let host = machine.host();
    let function = host.sysfs().function(address).expect("it is there");
    let holders = host.open_vfio().expect("processes").holders(&function);
    let names: Vec<&str> = holders.iter().map(|holder| holder.name.as_str()).collect();
    assert_eq!(names, ["holder"]);
}

proptest! {
    // Each makes some forty files.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_tree_of_garbage_makes_reading_fall_over(
        texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 12),
        links in proptest::collection::vec("[./a-z0-9:]{1,30}", 5),
    ) {
        let machine = MadeUp::new();
        let address = machine.function("pci0000:00/0000:00:03.0", &[]);
        let folder = "sys/devices/pci0000:00/0000:00:03.0";
        let names = [
            "revision", "resource", "reset_method", "sriov_numvfs", "sriov_totalvfs", "boot_vga", "removable",
            "aer_dev_correctable", "aer_dev_fatal", "driver_override", "numa_node", "config",
        ];
        for (name, text) in names.iter().zip(&texts) {
            machine.write(&format!("{folder}/{name}"), text);
        }
        for (name, to) in ["driver", "iommu_group", "physfn", "virtfn0", "vfio-dev"].iter().zip(&links) {
            symlink(to, machine.path(&format!("{folder}/{name}"))).expect("linked");
        }
        for name in ["net/route", "swaps", "1/mountinfo"] {
            machine.write(&format!("proc/{name}"), &texts[0]);
        }
        let host = machine.host();
        let function = host.sysfs().function(address).expect("ids are as they should be");
        prop_assert_eq!(function.vendor, 0x8086);
        let _ = (host.uses(), host.open_vfio(), host.sysfs().config(address));
    }
}
