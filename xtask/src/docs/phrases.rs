//! What a row of a table means, in words.

use uvfio_pci::{Access, Action, After, Treatment};

/// The specification's word for an access.
pub(super) fn access(access: Access) -> &'static str {
    match access {
        Access::Ro => "RO",
        Access::Rw => "RW",
        Access::Rw1c => "RW1C",
        Access::Ros => "ROS",
        Access::Rws => "RWS",
        Access::Rw1cs => "RW1CS",
        Access::HwInit => "HwInit",
        Access::RsvdP => "RsvdP",
        Access::RsvdZ => "RsvdZ",
    }
}

/// Where a read's value comes from.
pub(super) fn reads(treatment: Treatment) -> &'static str {
    match treatment {
        Treatment::Hidden => "0",
        Treatment::Constant => "declared",
        Treatment::Shadow => "model",
        Treatment::HardwareRead | Treatment::Hardware => "device",
    }
}

/// What becomes of a write, apart from the field's action.
pub(super) fn writes(access: Access, treatment: Treatment) -> &'static str {
    match (treatment, access) {
        (Treatment::Hidden | Treatment::Constant, _) => "dropped",
        (Treatment::HardwareRead, _) => "stopped",
        (Treatment::Shadow | Treatment::Hardware, Access::Rw1c | Access::Rw1cs) => "1 clears",
        (Treatment::Shadow, Access::Rw | Access::Rws) => "stored",
        (Treatment::Hardware, Access::Rw | Access::Rws) => "passed on",
        (Treatment::Shadow | Treatment::Hardware, _) => "dropped",
    }
}

/// What a reset leaves.
pub(super) fn after(after: After) -> &'static str {
    match after {
        After::Kept => "kept",
        After::Initial => "initial",
    }
}

/// What a write makes happen beyond the store, as a sentence; none where it is only stored.
pub(super) fn action(action: Action) -> Option<&'static str> {
    Some(match action {
        Action::None => return None,
        Action::Decode => "A write switches what the function answers: its memory or its I/O BARs.",
        Action::BusMaster => {
            "A write switches the function's own accesses: DMA and messages. While it is off, DMA is refused and \
             messages stay pending."
        }
        Action::IntxDisable => {
            "Set, INTx is not delivered. Cleared while the line is asserted, INTx is delivered once more."
        }
        Action::Bar => {
            "A write moves the BAR; all ones written make it read its size. The mapping of the user's own address \
             space is the user's business: access goes by region and offset."
        }
        Action::PowerState => {
            "A write changes the D-state: outside D0 nothing is decoded, and neither DMA nor interrupts leave the \
             function. A state that the function does not have is not stored."
        }
        Action::Vpd => "A write starts a transfer of four bytes; the flag turns round when it is done.",
        Action::Msi => {
            "A write changes whether and which messages are delivered; what becomes deliverable is delivered."
        }
        Action::MsiX => {
            "A write changes whether and which vectors are delivered; what becomes deliverable is delivered."
        }
        Action::FunctionLevelReset => {
            "Writing 1 resets the function: the device is reset, then configuration is as the user had it, as the \
             column FLR says. It always reads 0."
        }
    })
}
