//! Interrupt remapping: whether a device can raise its own interrupts only.

use super::Host;

/// Modules of the kernel's that can be told to do without.
const MODULES: [&str; 2] = ["vfio_iommu_type1", "iommufd"];

/// Names of interrupts' controllers in `/proc/interrupts` that there are only behind remapping hardware that is on. On
/// x86 Linux puts `IR-` before them; on Arm an ITS tells devices apart by itself.
const REMAPPED: [&str; 3] = ["IR-IO-APIC", "IR-PCI-MSI", "ITS-"];

/// The same ones where it is off.
const PLAIN: [&str; 2] = ["IO-APIC", "PCI-MSI"];

/// Options that a kernel was booted with, to switch it off.
const OFF: [&str; 2] = ["nointremap", "intremap=off"];

/// What is known of a machine's interrupt remapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remapping {
    /// Whether it is on; none: this user can't tell.
    pub on: Option<bool>,
    /// Where that is known from, or why it isn't.
    pub because: String,
    /// Modules that were told to do without (`allow_unsafe_interrupts`): `vfio_iommu_type1`, `iommufd`.
    pub unsafe_allowed: Vec<String>,
}

impl Remapping {
    /// Whether the kernel would give a device to a user who could then raise any interrupt of the machine, as far as is
    /// known: it was told to do without remapping, and remapping is not known to be on.
    #[must_use]
    pub fn is_missing_and_allowed(&self) -> bool {
        self.on != Some(true) && !self.unsafe_allowed.is_empty()
    }
}

impl Host {
    /// Looks for it in `/proc/interrupts` and the command line of the kernel. A group's reserved region of type `msi`
    /// says nothing of it: x86 has that one in either case.
    #[must_use]
    pub fn remapping(&self) -> Remapping {
        let allowed = |module: &&str| {
            let parameter = format!("module/{module}/parameters/allow_unsafe_interrupts");
            let tree = &self.sysfs.tree;
            let value = tree.attribute(&tree.path(parameter)).ok().flatten();
            value.as_deref() == Some("Y")
        };
        let unsafe_allowed = MODULES.into_iter().filter(allowed).map(str::to_owned).collect();
        let (on, because) = self.remapped();
        Remapping {
            on,
            because,
            unsafe_allowed,
        }
    }

    fn remapped(&self) -> (Option<bool>, String) {
        let text = |name: &str| self.proc.list(&self.proc.path(name)).ok().flatten();
        let interrupts = text("interrupts").unwrap_or_default();
        let controller = |beginnings: &[&'static str]| {
            let mut words = interrupts.split_whitespace();
            words.find_map(|word| beginnings.iter().find(|begin| word.starts_with(**begin)).copied())
        };
        if let Some(name) = controller(&REMAPPED) {
            let name = name.trim_end_matches('-');
            return (Some(true), format!("/proc/interrupts has {name}"));
        }
        if let Some(name) = controller(&PLAIN) {
            return (Some(false), format!("/proc/interrupts has {name} without IR-"));
        }
        let booted = text("cmdline").unwrap_or_default();
        let booted_with = |option: &&str| booted.split_whitespace().any(|word| word == *option);
        if let Some(option) = OFF.into_iter().find(booted_with) {
            return (Some(false), format!("booted with {option}"));
        }
        let why = "/proc/interrupts can't be read, or has no controller whose name would tell";
        (None, why.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of a machine with these files.
    fn remapping(files: &[(&str, &str)]) -> Remapping {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Host::at(root.path()).remapping()
    }

    #[test]
    fn remapping_shows_in_the_names_of_controllers_and_else_in_the_command_line() {
        let found = |interrupts: &str, booted: &str| {
            let found = remapping(&[("proc/interrupts", interrupts), ("proc/cmdline", booted)]);
            (found.on, found.because)
        };
        let on =
            " 9: 0 IR-IO-APIC 9-fasteoi acpi\n24: 0 DMAR-MSI 0-edge dmar0\n25: 3 IR-PCI-MSI 1-edge nvme0q0\n";
        assert_eq!(
            found(on, "quiet"),
            (Some(true), "/proc/interrupts has IR-IO-APIC".into())
        );
        let msi = "25: 3 IR-PCI-MSIX-0000:01:00.0 0-edge nvme0q0\n";
        assert_eq!(found(msi, "").0, Some(true));
        let off = " 4: 0 IO-APIC 4-edge ttyS0\n25: 3 PCI-MSIX-0000:01:00.0 0-edge nvme0q0\n";
        assert_eq!(
            found(off, ""),
            (Some(false), "/proc/interrupts has IO-APIC without IR-".into())
        );
        assert_eq!(found("10: 1 ITS-MSI 0 Edge nvme0q0\n", "").0, Some(true), "Arm");
        assert_eq!(found("10: 1 GICv2 30 Level timer\n", "").0, None);
        let booted = found("", "ro intremap=off quiet");
        assert_eq!(booted, (Some(false), "booted with intremap=off".into()));
        assert_eq!(found("", "ro").0, None);
        assert_eq!(remapping(&[]).on, None, "an empty folder");
    }

    #[test]
    fn interrupts_are_not_isolated_where_a_module_may_do_without_remapping_that_is_not_known_to_be_on() {
        const TYPE1: &str = "sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
        const IOMMUFD: &str = "sys/module/iommufd/parameters/allow_unsafe_interrupts";
        let on = ("proc/interrupts", "9: 0 IR-IO-APIC acpi");
        let off = ("proc/interrupts", "9: 0 IO-APIC acpi");
        let unknown = ("proc/interrupts", "");
        for (interrupts, parameter, missing) in [
            (on, "Y\n", false),
            (off, "Y\n", true),
            (unknown, "Y\n", true),
            (on, "N\n", false),
            (off, "N\n", false),
            (unknown, "N\n", false),
        ] {
            for parameter in [(TYPE1, parameter), (IOMMUFD, parameter)] {
                let found = remapping(&[interrupts, parameter]);
                assert_eq!(
                    found.is_missing_and_allowed(),
                    missing,
                    "{interrupts:?} {parameter:?}"
                );
            }
        }
        let found = remapping(&[(TYPE1, "Y\n"), (IOMMUFD, "N\n")]);
        assert_eq!(found.unsafe_allowed, ["vfio_iommu_type1"]);
    }
}
