//! Numbers and structures of the specification: NVM Express 1.4c, and nothing of ours.
//!
//! Section numbers without a name are those of NVM Express 1.4c.

pub(crate) mod command;
pub(crate) mod feature;
pub(crate) mod identify;
pub(crate) mod log;
pub(crate) mod registers;
pub(crate) mod status;
