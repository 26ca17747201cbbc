use std::fs;
use std::os::unix::fs::symlink;

use super::*;

const ADDRESS: &str = "0000:01:00.0";

/// A tree like `/sys` with one function.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn with(driver: Option<&str>, group: Option<&str>) -> Self {
        let root = tempfile::tempdir().unwrap();
        let at = |inside: &str| root.path().join(inside);
        let function = format!("devices/{ADDRESS}");
        for folder in ["bus/pci/devices", "kernel/iommu_groups", &function] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for (name, text) in [("vendor", "0x1234"), ("device", "0x11e8"), ("class", "0x00ff00")] {
            fs::write(at(&function).join(name), text).unwrap();
        }
        symlink(
            format!("../../../{function}"),
            at("bus/pci/devices").join(ADDRESS),
        )
        .unwrap();
        let link = |name: &str, folder: String| {
            fs::create_dir_all(at(&folder)).unwrap();
            symlink(format!("../../{folder}"), at(&function).join(name)).unwrap();
        };
        if let Some(driver) = driver {
            link("driver", format!("bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            link("iommu_group", format!("kernel/iommu_groups/{group}"));
        }
        Self { root }
    }

    fn group_of(&self, address: &str) -> Result<(Address, u32)> {
        group_of(&Sysfs::at(self.root.path()), address)
    }
}

/// The refusal's number and sentence.
fn refusal<T: std::fmt::Debug>(result: Result<T>) -> (i32, String) {
    let error = result.unwrap_err();
    (error.errno(), error.to_string())
}

#[test]
fn a_function_that_vfio_has_is_found_with_its_group() {
    let machine = Machine::with(Some("vfio-pci"), Some("17"));
    let (address, group) = machine.group_of("01:00.0").unwrap();
    assert_eq!((address.to_string().as_str(), group), (ADDRESS, 17));
}

#[test]
fn what_is_no_address_and_what_is_not_there_are_refused_before_anything_is_opened() {
    let machine = Machine::with(Some("vfio-pci"), Some("17"));
    let (errno, text) = refusal(machine.group_of("/tmp/nvme.sock"));
    assert_eq!(errno, Errno::INVAL.raw_os_error());
    assert!(text.contains("is no PCI address"), "{text}");
    let (errno, text) = refusal(machine.group_of("0000:02:00.0"));
    assert_eq!(errno, Errno::NODEV.raw_os_error());
    assert!(text.contains("no PCI function 0000:02:00.0"), "{text}");
}

#[test]
fn a_function_of_another_driver_or_none_is_refused_with_how_to_change_that() {
    for (driver, says) in [(Some("nvme"), "driver nvme"), (None, "no driver")] {
        let machine = Machine::with(driver, Some("17"));
        let (errno, text) = refusal(machine.group_of(ADDRESS));
        assert_eq!(errno, Errno::BUSY.raw_os_error());
        assert!(
            text.contains(says) && text.contains("`uvfio bind 0000:01:00.0`"),
            "{text}"
        );
    }
}

#[test]
fn a_function_without_a_group_is_refused() {
    let machine = Machine::with(Some("vfio-pci"), None);
    let (errno, text) = refusal(machine.group_of(ADDRESS));
    assert_eq!(errno, Errno::NODEV.raw_os_error());
    assert!(text.contains("no IOMMU group"), "{text}");
}

#[test]
fn who_is_in_a_groups_way_is_named_with_the_driver() {
    let machine = Machine::with(Some("igb"), Some("17"));
    let members = machine.root.path().join("kernel/iommu_groups/17/devices");
    fs::create_dir_all(&members).unwrap();
    symlink(format!("../../../../devices/{ADDRESS}"), members.join(ADDRESS)).unwrap();
    let sysfs = Sysfs::at(machine.root.path());
    assert_eq!(blockers(&sysfs, 17), "; in the way: 0000:01:00.0 (igb)");
    assert_eq!(blockers(&sysfs, 18), "", "a group that is not there");
}

#[test]
fn what_the_kernel_refused_keeps_its_number_and_its_reason() {
    // No machine has so many groups.
    let error = Group::open(u32::MAX).unwrap_err();
    let reason = error.to_string();
    let (errno, text) = refusal::<()>(Err(because("a reset")(error)));
    assert_eq!(errno, Errno::NOENT.raw_os_error());
    assert_eq!(text, format!("a reset was refused: {reason}"));
}

#[test]
fn a_target_that_looks_like_an_address_is_one_and_anything_else_is_a_socket() {
    let open = |target: &str| match crate::Function::open_target(target) {
        Ok(_) => panic!("{target} was opened"),
        Err(error) => error.to_string(),
    };
    let text = open("ffff:ff:1f.7");
    assert!(text.contains("no PCI function ffff:ff:1f.7"), "{text}");
    for socket in ["./ffff:ff:1f.7", "/nowhere/at/all.sock"] {
        let text = open(socket);
        assert!(text.starts_with("connecting: "), "{text}");
    }
}
