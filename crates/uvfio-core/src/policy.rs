//! What a user may have: one plain struct, filled by whoever starts the device.

use uvfio_pci::View;

/// Limits and grants for one user of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which view of the device.
    pub view: View,
    /// Most DMA mappings.
    pub max_mappings: u32,
    /// Most bytes mapped.
    pub max_mapped_bytes: u64,
}

impl Default for Policy {
    /// The virtual view, 65,535 mappings (what vfio-user's clients expect), 1 TiB.
    fn default() -> Self {
        Self {
            view: View::Virtual,
            max_mappings: 65_535,
            max_mapped_bytes: 1 << 40,
        }
    }
}
