//! What a program finds in `/sys` and `/dev`.

use std::collections::BTreeSet;
use std::process::Command;

use crate::{shell, text_of, uvfio_run};

#[test]
fn the_functions_that_are_there_are_those_that_were_asked_for() {
    let mut list = uvfio_run(&["edu", "nvme,mem=1M"]);
    let list = text_of(list.args([env!("CARGO_BIN_EXE_uvfio"), "list", "--json"]));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let seen = list.as_array().unwrap().iter().map(|function| {
        let number = |name: &str| function[name].as_u64().unwrap();
        let name = function["address"].as_str().unwrap();
        (
            name,
            number("vendor"),
            number("device"),
            function["driver"].as_str(),
        )
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [
            ("0000:01:00.0", 0x1234, 0x11e8, Some("vfio-pci")),
            ("0000:01:01.0", 0xfef0, 0x0140, Some("vfio-pci")),
        ],
        "{list:#}"
    );
    for function in list.as_array().unwrap() {
        assert_eq!(function["findings"], serde_json::json!([]), "{function:#}");
    }
}

/// lspci takes what the kernel's sysfs has, and nothing else.
#[test]
fn lspci_understands_them() {
    let seen = text_of(uvfio_run(&["edu"]).args(["lspci", "-nn", "-v"]));
    for line in [
        "01:00.0 ",
        "[1234:11e8]",
        "IOMMU group 1",
        "Memory at c0000000 (32-bit, non-prefetchable)",
        "MSI: Enable- Count=1/8",
        "Kernel driver in use: vfio-pci",
    ] {
        assert!(seen.contains(line), "{line:?} is not in\n{seen}");
    }
}

#[test]
fn nodes_are_there_for_the_container_each_group_and_each_device() {
    let nodes = shell(
        &["edu", "edu"],
        "cd /dev/vfio && stat -c '%n %F' * devices/* ../iommu",
    );
    assert_eq!(
        nodes.lines().collect::<BTreeSet<_>>(),
        [
            "../iommu character special file",
            "1 character special file",
            "2 character special file",
            "devices directory",
            "vfio character special file",
            "devices/vfio0 character special file",
            "devices/vfio1 character special file",
        ]
        .into()
    );
}

#[test]
fn what_lies_beside_it_is_as_it_is_on_the_machine() {
    // What is the machine's own, and lies in folders of which one entry is ours.
    let script = "for name in /dev/null /dev/pts /dev/shm /sys/module/* /sys/class/* /sys/bus/pci/drivers/*; do \
                  case $name in *vfio*|*/iommu) ;; *) test -e $name && readlink -f $name;; esac; done; \
                  cat /sys/class/net/lo/address; echo x >/dev/null && stat -c '%t:%T' /dev/null";
    let outside = text_of(Command::new("sh").args(["-c", script]));
    let inside = shell(&["edu"], script);
    assert_eq!(inside, outside);
    assert!(inside.lines().count() > 10, "{inside}");
}

#[test]
fn nothing_in_it_can_be_written() {
    let script = "for name in /sys/bus/pci/devices/*/reset /sys/bus/pci/drivers/vfio-pci/bind /dev/new; do \
                  (echo 1 >$name) 2>/dev/null && echo $name; done; true";
    assert_eq!(shell(&["edu"], script), "");
}

#[test]
fn the_program_has_its_user_and_no_capability() {
    let seen = shell(
        &["edu"],
        "id -u; id -g; grep Cap /proc/self/status; mount -t tmpfs none /mnt 2>/dev/null || echo refused",
    );
    let own = text_of(uvfio_run_user().args(["-c", "id -u; id -g"]));
    let zeros = "0000000000000000";
    let capabilities: String = ["Inh", "Prm", "Eff", "Bnd", "Amb"]
        .map(|set| format!("Cap{set}:\t{zeros}\n"))
        .concat();
    assert_eq!(seen, own + &capabilities + "refused\n");
}

/// A shell of the same user, not under `uvfio run`.
fn uvfio_run_user() -> Command {
    if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh"]);
        command
    } else {
        Command::new("sh")
    }
}

#[test]
fn two_runs_see_nothing_of_each_other() {
    let addresses = "ls /sys/bus/pci/devices; sleep 0.3; ls /sys/bus/pci/devices";
    let other = std::thread::spawn(|| {
        shell(
            &["nvme,mem=1M", "edu"],
            "cat /sys/bus/pci/devices/*/device; sleep 0.3",
        )
    });
    let one = shell(&["edu"], addresses);
    assert_eq!(one, "0000:01:00.0\n0000:01:00.0\n");
    assert_eq!(other.join().unwrap(), "0x0140\n0x11e8\n");
}
