//! The devices that scenarios give to a guest: ours by vfio-user, or QEMU's own in their place.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::server::Server;

/// A device ready to be given to a guest.
#[derive(Debug)]
pub(super) struct Device {
    /// As QEMU's `-device` and `device_add` take it; has an `id`
    pub(super) description: Value,
    /// The disk image that QEMU itself has to open
    pub(super) drive: Option<PathBuf>,
    /// Who serves it; `None` for QEMU's own
    pub(super) server: Option<Server>,
}

impl Device {
    /// A device that `server` serves.
    pub(super) fn served(id: &str, server: Server) -> Self {
        let socket = json!({ "type": "unix", "path": server.socket() });
        let description = json!({ "driver": "vfio-user-pci", "id": id, "socket": socket });
        Self {
            description,
            drive: None,
            server: Some(server),
        }
    }

    /// A function that QEMU finds below the kernel's VFIO, or what it takes for that.
    pub(super) fn by_vfio(id: &str, address: &str) -> Self {
        Self {
            description: json!({ "driver": "vfio-pci", "id": id, "host": address }),
            drive: None,
            server: None,
        }
    }

    /// QEMU's own NVMe controller.
    pub(super) fn qemu_nvme(id: &str, image: &Path) -> Self {
        let description = json!({ "driver": "nvme", "id": id, "drive": "disk0", "serial": "stand-in" });
        Self {
            description,
            drive: Some(image.to_owned()),
            server: None,
        }
    }

    /// QEMU's own edu device.
    pub(super) fn qemu_edu(id: &str) -> Self {
        Self {
            description: json!({ "driver": "edu", "id": id }),
            drive: None,
            server: None,
        }
    }

    /// The same device, below a root port.
    pub(super) fn below(mut self, port: &str) -> Self {
        self.description["bus"] = port.into();
        self
    }
}

/// Makes an empty disk image of `mib` MiB.
pub(super) fn make_image(path: &Path, mib: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    Ok(file.set_len(mib << 20)?)
}
