//! IOMMU groups: the functions that the IOMMU can't tell apart, and that VFIO gives to one user together.

use std::fmt;

use super::function::is_bridge;
use super::tree::{hexadecimal, malformed};
use super::{Address, Error, Sysfs, is_vfio_driver};

/// Drivers beside VFIO's that leave a group's DMA alone, so that they are in nobody's way.
const HARMLESS: [&str; 2] = ["pci-stub", "pcieport"];
/// The name of a group behind which there is no IOMMU.
const WITHOUT_IOMMU: &str = "vfio-noiommu";

/// An IOMMU group.
#[derive(Debug)]
pub struct Group {
    /// Its number, which is also the name of its node in `/dev/vfio`
    pub number: u32,
    /// Whether there really is an IOMMU; without one its user can reach all memory
    pub isolated: bool,
    /// What belongs to it, in order of names
    pub members: Vec<Member>,
    /// Ranges of IOVAs that no user may map
    pub reserved: Vec<ReservedRegion>,
}

/// A device in an IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name in `/sys`
    pub name: String,
    /// Its address, where it is a PCI function
    pub address: Option<Address>,
    /// The driver that has it
    pub driver: Option<String>,
    /// Whether it is a bridge, which vfio-pci can't take
    pub is_bridge: bool,
    /// Whether it keeps the group from being given to a user
    pub blocks: bool,
}

/// A range of IOVAs that the IOMMU or its driver keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReservedRegion {
    /// First IOVA
    pub first: u64,
    /// Last IOVA
    pub last: u64,
    /// The kernel's word for why: `msi`, `reserved`, `direct`, `direct-relaxable`
    pub kind: String,
}

impl Group {
    /// The members that are in the way. Without any the group is viable: it can be given to a user, once one of its
    /// functions is bound to vfio-pci.
    ///
    /// A member is in the way while a driver has it that may use the kernel's DMA: any but VFIO's, `pci-stub` and
    /// `pcieport`. So is a bridge, whose `shpchp` does no DMA but does not say so either; Linux before 5.19 overlooked
    /// bridges. The kernel has the last word when the group is opened.
    pub fn blockers(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.blocks)
    }

    /// Whether no member is in the way.
    #[must_use]
    pub fn is_viable(&self) -> bool {
        self.blockers().next().is_none()
    }
}

impl fmt::Display for Member {
    /// Who it is, who has it, and what would get it out of the way.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, driver, .. } = self;
        let Some(driver) = driver else {
            return write!(f, "{name} has no driver");
        };
        match (self.blocks, self.is_bridge, self.address) {
            (false, ..) => write!(f, "{name} is driven by {driver}"),
            (true, true, _) => write!(
                f,
                "{name}, a bridge, is driven by {driver} (`echo {name} >/sys/bus/pci/drivers/{driver}/unbind` takes \
                 it from there)"
            ),
            (true, false, Some(_)) => {
                write!(
                    f,
                    "{name} is driven by {driver} (`uvfio bind {name}` takes it from there)"
                )
            }
            (true, false, None) => write!(f, "{name} is driven by {driver} (unbind it from there)"),
        }
    }
}

impl Sysfs {
    /// An IOMMU group by its number.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], or where its members or reserved regions can't be read.
    pub fn group(&self, number: u32) -> Result<Group, Error> {
        let folder = self.tree.path(format!("kernel/iommu_groups/{number}"));
        let names = self.tree.names(&folder.join("devices"))?;
        let names = names.ok_or(Error::UnknownGroup { group: number })?;
        let members = names
            .into_iter()
            .map(|name| self.member(name, number))
            .collect::<Result<_, _>>()?;
        let path = folder.join("reserved_regions");
        let reserved = match self.tree.attribute(&path)? {
            Some(text) => parse_reserved(&text).ok_or_else(|| {
                malformed(&path, &text, "a first IOVA, a last one and a kind, line by line")
            })?,
            None => Vec::new(),
        };
        let name = self.tree.attribute(&folder.join("name"))?;
        Ok(Group {
            number,
            isolated: name.as_deref() != Some(WITHOUT_IOMMU),
            members,
            reserved,
        })
    }

    fn member(&self, name: String, group: u32) -> Result<Member, Error> {
        let folder = self
            .tree
            .path(format!("kernel/iommu_groups/{group}/devices/{name}"));
        let driver = self.tree.link_name(&folder.join("driver"))?;
        let address = Address::of_name(&name);
        let class = self.tree.attribute(&folder.join("class"))?;
        let class = class.and_then(|class| u32::try_from(hexadecimal(&class)?).ok());
        let is_bridge = address.is_some() && class.is_some_and(is_bridge);
        let blocks = driver
            .as_deref()
            .is_some_and(|driver| !is_vfio_driver(driver) && !HARMLESS.contains(&driver));
        Ok(Member {
            name,
            address,
            driver,
            is_bridge,
            blocks,
        })
    }
}

fn parse_reserved(text: &str) -> Option<Vec<ReservedRegion>> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (first, last) = (hexadecimal(words.next()?)?, hexadecimal(words.next()?)?);
        let kind = words.next()?.to_owned();
        (words.next().is_none() && first <= last).then_some(ReservedRegion { first, last, kind })
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reserved_regions_are_read_with_their_kinds() {
        let text = "0x00000000000a0000 0x00000000000fffff direct-relaxable\n0x00000000fee00000 0x00000000feefffff msi";
        let regions = parse_reserved(text).expect("the kernel's own form");
        let seen: Vec<_> = regions
            .iter()
            .map(|r| (r.first, r.last, r.kind.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                (0xa_0000, 0xf_ffff, "direct-relaxable"),
                (0xfee0_0000, 0xfeef_ffff, "msi")
            ]
        );
        for text in [
            "0x0 0x1",
            "0x2 0x1 msi",
            "0 1 msi",
            "0x0 0x1 msi more",
            "0x0 0x+1 msi",
            "\n",
        ] {
            assert_eq!(parse_reserved(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_fall_over(text in "\\PC*|[0-9a-fxmsi \n]{0,100}") {
            let _ = parse_reserved(&text);
        }
    }
}
