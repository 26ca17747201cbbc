//! Tests of what is done to a made-up machine, and of what must not be.

use std::fs;

use super::made_up::MadeUp;
use super::*;

/// A disk's function with its driver, a group of its own, and vfio-pci ready to take it.
fn machine_with_disk() -> (MadeUp, Address) {
    let machine = MadeUp::new();
    let disk = machine.function(
        "pci0000:00/0000:00:03.0",
        &[("class", "0x010802\n"), ("reset_method", "flr\n")],
    );
    machine.write("sys/devices/pci0000:00/0000:00:03.0/reset", "");
    machine.driver("nvme", &[disk]);
    machine.driver("vfio-pci", &[]);
    machine.group(3, &[disk]);
    (machine, disk)
}

#[track_caller]
fn driver(host: &Host, address: Address) -> Option<String> {
    host.sysfs().function(address).expect("it is there").driver
}

#[track_caller]
fn driver_override(host: &Host, address: Address) -> Option<String> {
    let function = host.sysfs().function(address).expect("it is there");
    function.driver_override.filter(|name| !name.is_empty())
}

#[test]
fn bind_and_unbind_give_the_function_back_to_the_driver_that_it_had() {
    let (machine, disk) = machine_with_disk();
    let (host, kernel) = machine.with_kernel(&[(disk, "nvme")]);
    let bound = host.bind(disk, false).expect("bound");
    assert_eq!(
        (bound.changed, bound.driver.as_str(), bound.former.as_deref()),
        (true, "vfio-pci", Some("nvme"))
    );
    assert!(
        bound.not_noted.is_none() && bound.blockers.is_empty(),
        "{bound:?}"
    );
    assert_eq!(bound.group, 3);
    assert_eq!(driver(&host, disk).as_deref(), Some("vfio-pci"));

    let writes = kernel.writes.lock().expect("no panic").len();
    let again = host.bind(disk, false).expect("bound");
    assert_eq!((again.changed, again.former.as_deref()), (false, Some("nvme")));
    assert_eq!(
        kernel.writes.lock().expect("no panic").len(),
        writes,
        "nothing is written the second time"
    );

    let unbound = host.unbind(disk, false).expect("unbound");
    assert_eq!((unbound.changed, unbound.driver.as_deref()), (true, Some("nvme")));
    assert_eq!((unbound.missed, driver_override(&host, disk)), (None, None));
    assert!(!host.unbind(disk, false).expect("nothing to do").changed);
    assert_eq!(
        fs::read_dir(machine.path("run/uvfio/bound"))
            .expect("the folder")
            .count(),
        0,
        "no note is left"
    );
}

#[test]
fn without_its_note_the_kernel_chooses_the_driver() {
    for note in [None, Some("garbage"), Some("uvfio 1\ndriver ../../../x\n")] {
        let (machine, disk) = machine_with_disk();
        let (host, _) = machine.with_kernel(&[(disk, "nvme")]);
        host.bind(disk, false).expect("bound");
        let path = machine.path(&format!("run/uvfio/bound/{disk}"));
        match note {
            Some(text) => fs::write(&path, text).expect("written"),
            None => fs::remove_file(&path).expect("removed"),
        }
        let unbound = host.unbind(disk, false).expect("unbound");
        assert_eq!(unbound.driver.as_deref(), Some("nvme"), "note {note:?}");
    }
}

#[test]
fn a_function_that_had_no_driver_gets_none_back() {
    let (machine, disk) = machine_with_disk();
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:03.0/driver")).expect("removed");
    let (host, _) = machine.with_kernel(&[(disk, "nvme")]);
    host.bind(disk, false).expect("bound");
    assert_eq!(host.unbind(disk, false).expect("unbound").driver, None);
}

#[test]
fn an_override_that_was_there_before_is_there_afterwards() {
    let (machine, disk) = machine_with_disk();
    machine.driver("special", &[]);
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:03.0/driver")).expect("removed");
    machine.driver("special", &[disk]);
    machine.write("sys/devices/pci0000:00/0000:00:03.0/driver_override", "special\n");
    let (host, _) = machine.with_kernel(&[(disk, "nvme")]);
    host.bind(disk, false).expect("bound");
    let unbound = host.unbind(disk, false).expect("unbound");
    assert_eq!(unbound.driver.as_deref(), Some("special"));
    assert_eq!(driver_override(&host, disk).as_deref(), Some("special"));
}

#[test]
fn a_driver_that_does_not_take_its_function_back_is_named() {
    let (machine, disk) = machine_with_disk();
    let (host, kernel) = machine.with_kernel(&[(disk, "nvme")]);
    host.bind(disk, false).expect("bound");
    kernel.refuses.lock().expect("no panic").push("nvme");
    let unbound = host.unbind(disk, false).expect("unbound");
    assert_eq!((unbound.driver, unbound.missed.as_deref()), (None, Some("nvme")));
}

#[test]
fn a_driver_told_of_the_function_by_hand_gets_it_back_by_name() {
    let (machine, disk) = machine_with_disk();
    // The kernel by itself has no driver for it.
    let (host, _) = machine.with_kernel(&[]);
    host.bind(disk, false).expect("bound");
    assert_eq!(
        host.unbind(disk, false).expect("unbound").driver.as_deref(),
        Some("nvme")
    );
}

#[test]
fn when_vfio_pci_refuses_everything_is_as_before() {
    let (machine, disk) = machine_with_disk();
    let (host, kernel) = machine.with_kernel(&[(disk, "nvme")]);
    kernel.refuses.lock().expect("no panic").push("vfio-pci");
    let refused = host.bind(disk, false).expect_err("refused");
    assert!(matches!(refused, Error::NotTaken { got: None, .. }), "{refused}");
    assert_eq!(driver(&host, disk).as_deref(), Some("nvme"));
    assert_eq!(driver_override(&host, disk), None);
    assert!(!machine.path(&format!("run/uvfio/bound/{disk}")).exists());
}

#[test]
fn a_bind_that_was_cut_short_is_finished_and_still_knows_the_driver() {
    let (machine, disk) = machine_with_disk();
    let (host, _) = machine.with_kernel(&[(disk, "nvme")]);
    host.bind(disk, false).expect("bound");
    // As if it had ended after the driver was gone.
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:03.0/driver")).expect("removed");
    let bound = host.bind(disk, false).expect("bound");
    assert_eq!((bound.changed, bound.former.as_deref()), (true, Some("nvme")));
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:03.0/driver")).expect("removed");
    let unbound = host.unbind(disk, false).expect("unbound");
    assert_eq!((unbound.changed, unbound.driver.as_deref()), (true, Some("nvme")));
}

#[test]
fn a_note_of_former_times_does_not_count_for_a_function_without_driver() {
    let (machine, disk) = machine_with_disk();
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:03.0/driver")).expect("removed");
    machine.write(&format!("run/uvfio/bound/{disk}"), "uvfio 1\ndriver nvme\n");
    let (host, _) = machine.with_kernel(&[]);
    assert_eq!(host.bind(disk, false).expect("bound").former, None);
    assert_eq!(host.unbind(disk, false).expect("unbound").driver, None);
}

#[test]
fn a_function_that_vfio_pci_takes_by_its_ids_is_not_said_to_be_back() {
    let (machine, disk) = machine_with_disk();
    fs::remove_file(machine.path("sys/devices/pci0000:00/0000:00:03.0/driver")).expect("removed");
    machine.driver("vfio-pci", &[disk]);
    let (host, _) = machine.with_kernel(&[(disk, "vfio-pci")]);
    let refused = host
        .unbind(disk, false)
        .expect_err("it is there again")
        .to_string();
    assert!(
        refused.contains("write \"8086 10c9\" to /sys/bus/pci/drivers/vfio-pci/remove_id"),
        "{refused}"
    );
}

#[test]
fn what_can_not_be_bound_is_refused_before_anything_is_written() {
    let (machine, disk) = machine_with_disk();
    let bridge = machine.function("pci0000:00/0000:00:1c.0", &[("class", "0x060400\n")]);
    let no_group = machine.function("pci0000:00/0000:00:04.0", &[]);
    let parent = machine.function("pci0000:00/0000:00:05.0", &[("sriov_numvfs", "2\n")]);
    machine.group(5, &[parent]);
    let (host, kernel) = machine.with_kernel(&[]);
    let refused = |address| host.bind(address, false).expect_err("refused");
    assert!(matches!(refused(bridge), Error::Bridge { .. }));
    assert!(matches!(refused(no_group), Error::NoGroup { .. }));
    assert!(matches!(
        refused(parent),
        Error::VirtualFunctions { count: 2, .. }
    ));
    assert!(matches!(
        refused("00:1f.7".parse().expect("an address")),
        Error::NoFunction { .. }
    ));
    fs::remove_dir_all(machine.path("sys/bus/pci/drivers/vfio-pci")).expect("removed");
    let sentence = refused(disk).to_string();
    assert!(sentence.contains("modprobe vfio-pci"), "{sentence}");
    assert_eq!(kernel.writes.lock().expect("no panic").len(), 0);
    assert!(!machine.path("run").exists(), "a note was written");
}

#[track_caller]
fn is_refused(machine: &MadeUp, address: Address, sentence: &str) {
    let (host, kernel) = machine.with_kernel(&[]);
    let refused = host.bind(address, false).expect_err("refused").to_string();
    assert!(refused.contains(sentence), "{sentence:?} is not in {refused:?}");
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(
        kernel.writes.lock().expect("no panic").len(),
        0,
        "something was written"
    );
    let (host, _) = machine.with_kernel(&[]);
    assert!(host.bind(address, true).expect("forced").changed);
}

#[test]
fn a_disk_is_not_taken_from_under_its_file_systems() {
    let path = "pci0000:00/0000:00:03.0/nvme/nvme0/nvme0n1";
    let with_disk = |mounted: &dyn Fn(&MadeUp)| {
        let (machine, disk) = machine_with_disk();
        machine.block(path, "259:0");
        machine.block(&format!("{path}/nvme0n1p1"), "259:1");
        machine.write(&format!("sys/devices/{path}/nvme0n1p1/partition"), "1\n");
        mounted(&machine);
        (machine, disk)
    };
    let (machine, disk) = with_disk(&|machine| machine.mount("259:1", "/", "/dev/root"));
    is_refused(&machine, disk, "it carries the root file system");
    let (machine, disk) = with_disk(&|machine| machine.mount("259:0", "/srv/data", "/dev/nvme0n1"));
    is_refused(&machine, disk, "it carries the file system on /srv/data");
    // A file system with a number of its own, which names its device.
    let (machine, disk) = with_disk(&|machine| machine.mount("0:40", "/srv", "/dev/nvme0n1p1"));
    is_refused(&machine, disk, "it carries the file system on /srv");
    let (machine, disk) =
        with_disk(&|machine| machine.add_line("proc/swaps", "/dev/nvme0n1p1 partition 1048572 0 -2"));
    is_refused(&machine, disk, "it carries swap space (/dev/nvme0n1p1)");
    // Only a container has it.
    let (machine, disk) = with_disk(&|machine| {
        machine.write(
            "proc/77/mountinfo",
            "9 1 259:1 / /data rw - ext4 /dev/nvme0n1p1 rw\n",
        );
    });
    is_refused(
        &machine,
        disk,
        "it carries the file system that process 77 has on /data",
    );
    let (machine, disk) = with_disk(&|machine| {
        let devices = "sys/fs/btrfs/1234/devices/nvme0n1";
        machine.link(devices, &format!("sys/devices/{path}"));
    });
    is_refused(&machine, disk, "it carries the file system on btrfs 1234");
    // Mounted, but from another device.
    let (machine, disk) = with_disk(&|machine| machine.mount("0:30", "/mnt", "tmpfs"));
    assert!(
        machine
            .with_kernel(&[])
            .0
            .bind(disk, false)
            .expect("free")
            .changed
    );
}

#[test]
fn a_disk_is_found_below_what_is_made_of_it() {
    let path = "pci0000:00/0000:00:03.0/nvme/nvme0";
    // A volume on a RAID on a partition, mounted by a name that leads to it.
    let (machine, disk) = machine_with_disk();
    machine.block(&format!("{path}/nvme0n1"), "259:0");
    machine.block(&format!("{path}/nvme0n1/nvme0n1p1"), "259:1");
    machine.block("virtual/block/md0", "9:0");
    machine.block("virtual/block/dm-0", "253:0");
    let partition = format!("sys/devices/{path}/nvme0n1/nvme0n1p1");
    machine.link("sys/devices/virtual/block/md0/slaves/nvme0n1p1", &partition);
    machine.link(
        "sys/devices/virtual/block/dm-0/slaves/md0",
        "sys/devices/virtual/block/md0",
    );
    // Nonsense, which must not keep us for ever.
    machine.link(
        "sys/devices/virtual/block/md0/slaves/dm-0",
        "sys/devices/virtual/block/dm-0",
    );
    machine.link("dev/mapper/root", "dev/dm-0");
    machine.mount("0:50", "/", "/dev/mapper/root");
    is_refused(&machine, disk, "it carries the root file system");

    // A partition of a RAID, which says itself what it is a part of and not what it is made of.
    let (machine, disk) = machine_with_disk();
    machine.block(&format!("{path}/nvme0n1"), "259:0");
    machine.block("virtual/block/md0", "9:0");
    machine.block("virtual/block/md0/md0p1", "259:7");
    machine.write("sys/devices/virtual/block/md0/md0p1/partition", "1\n");
    machine.link(
        "sys/devices/virtual/block/md0/slaves/nvme0n1",
        &format!("sys/devices/{path}/nvme0n1"),
    );
    machine.mount("259:7", "/mnt", "/dev/md0p1");
    is_refused(&machine, disk, "it carries the file system on /mnt");

    // A loop device over a disk.
    let (machine, disk) = machine_with_disk();
    machine.block(&format!("{path}/nvme0n1"), "259:0");
    machine.block("virtual/block/loop0", "7:0");
    machine.write(
        "sys/devices/virtual/block/loop0/loop/backing_file",
        "/dev/nvme0n1\n",
    );
    machine.mount("7:0", "/mnt", "/dev/loop0");
    is_refused(&machine, disk, "it carries the file system on /mnt");

    // An NVMe disk that several controllers share lies below none of them.
    let (machine, disk) = machine_with_disk();
    machine.block("virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "259:0");
    machine.write(&format!("sys/devices/{path}/state"), "live\n");
    machine.link(
        "sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0",
        &format!("sys/devices/{path}"),
    );
    machine.mount("259:0", "/", "/dev/nvme0n1");
    is_refused(&machine, disk, "it carries the root file system");
}

fn machine_with_networks() -> (MadeUp, Address, Address) {
    let machine = MadeUp::new();
    let one = machine.function("pci0000:00/0000:00:03.0", &[]);
    let two = machine.function("pci0000:00/0000:00:04.0", &[]);
    machine.driver("vfio-pci", &[]);
    machine.driver("igb", &[one, two]);
    machine.group(3, &[one]);
    machine.group(4, &[two]);
    machine.interface("virtual/net/lo", "unknown");
    machine.interface("pci0000:00/0000:00:03.0/net/eth0", "up");
    (machine, one, two)
}

#[test]
fn the_way_to_the_network_is_not_cut() {
    let (machine, one, two) = machine_with_networks();
    machine.interface("pci0000:00/0000:00:04.0/net/eth1", "up");
    machine.default_route("eth1");
    is_refused(&machine, two, "the default route leads over it (eth1)");
    assert!(
        machine
            .with_kernel(&[])
            .0
            .bind(one, false)
            .expect("another way is there")
            .changed
    );

    // The only one that is up: another has no link, a third is no hardware.
    let (machine, one, two) = machine_with_networks();
    machine.interface("pci0000:00/0000:00:04.0/net/eth1", "down");
    machine.interface("virtual/net/docker0", "up");
    is_refused(
        &machine,
        one,
        "it is the only network interface that is up (eth0)",
    );
    assert!(
        machine
            .with_kernel(&[])
            .0
            .bind(two, false)
            .expect("it has no link")
            .changed
    );
}

#[test]
fn the_way_to_the_network_is_found_below_bridges_and_for_virtual_functions() {
    let (machine, one, two) = machine_with_networks();
    machine.interface("pci0000:00/0000:00:04.0/net/eth1", "up");
    machine.interface("virtual/net/br0", "up");
    machine.interface("virtual/net/bond0", "up");
    machine.link(
        "sys/devices/virtual/net/br0/lower_bond0",
        "sys/devices/virtual/net/bond0",
    );
    machine.link("sys/devices/virtual/net/bond0/lower_eth0", "sys/class/net/eth0");
    machine.link(
        "sys/devices/virtual/net/bond0/lower_br0",
        "sys/devices/virtual/net/br0",
    );
    machine.default_route("br0");
    is_refused(&machine, one, "the default route leads over it (br0)");
    assert!(
        machine
            .with_kernel(&[])
            .0
            .bind(two, false)
            .expect("another way is there")
            .changed
    );

    // The route leads over a virtual function: its physical function is needed too.
    let (machine, one, two) = machine_with_networks();
    machine.interface("pci0000:00/0000:00:04.0/net/eth1", "up");
    machine.link(
        "sys/devices/pci0000:00/0000:00:04.0/physfn",
        "sys/devices/pci0000:00/0000:00:03.0",
    );
    machine.default_route("eth1");
    is_refused(&machine, two, "the default route leads over it (eth1)");
    is_refused(&machine, one, "the default route leads over it (eth1)");
}

#[test]
fn where_it_is_not_known_what_the_system_needs_nothing_is_bound() {
    let (machine, disk) = machine_with_disk();
    machine.add_line("proc/1/mountinfo", "a line that nobody understands");
    let (host, kernel) = machine.with_kernel(&[]);
    let refused = host.bind(disk, false).expect_err("refused").to_string();
    assert!(refused.contains("mountinfo says \"a line"), "{refused}");
    for process in ["1", "self"] {
        fs::remove_file(machine.path(&format!("proc/{process}/mountinfo"))).expect("removed");
    }
    let refused = host.bind(disk, false).expect_err("refused").to_string();
    assert!(refused.contains("mountinfo is missing"), "{refused}");
    assert_eq!(
        kernel.writes.lock().expect("no panic").len(),
        0,
        "something was written"
    );
}

#[test]
fn a_function_that_a_process_holds_is_neither_unbound_nor_reset() {
    let (machine, disk) = machine_with_disk();
    let (host, kernel) = machine.with_kernel(&[(disk, "nvme")]);
    host.bind(disk, false).expect("bound");
    machine.process(42, "qemu", &["/dev/vfio/3"]);
    kernel.writes.lock().expect("no panic").clear();
    for refused in [host.unbind(disk, false).err(), host.reset(disk, false).err()] {
        let sentence = refused.expect("refused").to_string();
        assert!(sentence.contains("is held by qemu (process 42)"), "{sentence}");
    }
    assert_eq!(
        kernel.writes.lock().expect("no panic").len(),
        0,
        "something was written"
    );
    host.reset(disk, true).expect("reset");
    assert_eq!(
        host.unbind(disk, true).expect("waited").driver.as_deref(),
        Some("nvme")
    );
}

#[test]
fn a_function_is_reset_unless_a_driver_would_be_surprised() {
    let (machine, disk) = machine_with_disk();
    let (host, kernel) = machine.with_kernel(&[(disk, "nvme")]);
    let refused = host.reset(disk, false).expect_err("nvme has it");
    assert!(
        matches!(&refused, Error::Driven { driver, .. } if driver == "nvme"),
        "{refused}"
    );
    assert_eq!(
        kernel.writes.lock().expect("no panic").len(),
        0,
        "something was written"
    );
    host.bind(disk, false).expect("bound");
    kernel.writes.lock().expect("no panic").clear();
    assert_eq!(
        host.reset(disk, false).expect("reset"),
        ResetMethods::Named(vec!["flr".into()])
    );
    let write = (format!("bus/pci/devices/{disk}/reset"), "1".to_owned());
    assert_eq!(
        *kernel.writes.lock().expect("no panic"),
        std::slice::from_ref(&write)
    );
    host.unbind(disk, false).expect("unbound");
    kernel.writes.lock().expect("no panic").clear();
    host.reset(disk, true).expect("forced");
    assert_eq!(*kernel.writes.lock().expect("no panic"), [write]);
    for methods in ["\n", " \n"] {
        machine.write("sys/devices/pci0000:00/0000:00:03.0/reset_method", methods);
        assert!(
            matches!(host.reset(disk, true), Err(Error::NoReset { .. })),
            "{methods:?}"
        );
    }
}

#[test]
fn errors_say_what_to_do_about_missing_rights() {
    let path = std::path::PathBuf::from("/sys/x");
    for (kind, part) in [
        (std::io::ErrorKind::PermissionDenied, "needs root"),
        (std::io::ErrorKind::ReadOnlyFilesystem, "do it on the host"),
    ] {
        let error = Error::Write {
            path: path.clone(),
            value: "1".into(),
            source: kind.into(),
        };
        assert!(error.to_string().contains(part), "{error}");
    }
}
