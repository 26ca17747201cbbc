//! Power management.

use crate::{Access, Action, Field, Table, tables};

const S: &str = "PCI Bus Power Management 1.2, 3.2.3";
const CSR: &str = "PCI Bus Power Management 1.2, 3.2.4";

/// The capability's ID.
pub const ID: u8 = 0x01;

/// Version.
pub const VERSION: Field = Field::new("Version", 0x02, 2, 2, 0).says("3: PCI Power Management 1.2.", S);
/// D1 support.
pub const D1: Field = Field::new("D1_Support", 0x02, 2, 9, 9)
    .says("Whether D1 can be entered; the model offers D0 and D3hot.", S);
/// D2 support.
pub const D2: Field = Field::new("D2_Support", 0x02, 2, 10, 10).says("Whether D2 can be entered.", S);
/// PME support.
pub const PME: Field = Field::new("PME_Support", 0x02, 2, 15, 11).hidden().says(
    "From which states the function wakes the system; a user's device never does.",
    S,
);
/// Power state.
pub const STATE: Field = Field::new("PowerState", 0x04, 2, 1, 0)
    .users()
    .cleared()
    .action(Action::PowerState)
    .says("0: D0. 3: D3hot: BARs don't answer, no memory is accessed, no interrupt is sent. A state that is not offered is not entered.", CSR);
/// No soft reset.
pub const NO_SOFT_RESET: Field = Field::new("No_Soft_Reset", 0x04, 2, 3, 3).says(
    "1: registers survive D3hot. 0: coming back from D3hot to D0 resets the function.",
    CSR,
);
/// PME enable.
pub const PME_ENABLE: Field = Field::new("PME_En", 0x04, 2, 8, 8)
    .access(Access::Rws)
    .hidden()
    .guarded()
    .says("Waking the system is not offered.", CSR);
/// PME status.
pub const PME_STATUS: Field = Field::new("PME_Status", 0x04, 2, 15, 15)
    .access(Access::Rw1cs)
    .hidden()
    .guarded()
    .says("Waking the system is not offered.", CSR);
const BRIDGE: Field = Field::new("PMCSR_BSE", 0x06, 1, 7, 0)
    .hidden()
    .says("For bridges only.", "PCI Bus Power Management 1.2, 3.2.5");
const DATA: Field = Field::new("Data", 0x07, 1, 7, 0)
    .hidden()
    .says("Not offered.", "PCI Bus Power Management 1.2, 3.2.6");

/// Power management.
pub static POWER: Table = Table {
    name: "Power Management",
    doc: "Puts the function into D0 or D3hot.",
    section: "PCI Bus Power Management 1.2, 3.2",
    fields: &[
        tables::CAPABILITY_ID,
        tables::NEXT,
        VERSION,
        D1,
        D2,
        PME,
        STATE,
        NO_SOFT_RESET,
        PME_ENABLE,
        PME_STATUS,
        BRIDGE,
        DATA,
    ],
};
