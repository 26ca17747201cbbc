//! A PCI function that a vfio-user server has, ours or somebody else's, as a [`uvfio_uapi::Backend`].
//!
//! ```text
//! uapi -> Remote            what the interface asks, and what a gone device answers
//!           declared        what the server says of the function, checked once
//!           regions         accesses, as wide as the kernel makes them
//!           irqs            eventfds, which the server signals itself
//!           reset           what the user has set, written again where a reset took it
//!         link              the connection: who asks, who answers the server, and its end
//!           reach           the user's memory, for the server's DMA by message
//! ```
//!
//! The server is the function's model: its registers are not modelled a second time here, or the two could disagree,
//! and what this project has no table for would be missing. What the kernel does beside a device is done here: memory
//! that is off does not answer, a function level reset is made by request, and it leaves what the user had set.
//!
//! Nothing that the server says is believed beyond what it may say: sizes, indices and descriptors are checked before
//! they are used. A server that breaks the protocol, closes the connection, or does not answer in time has lost its
//! device: it is gone, as one that was unplugged.

mod declared;
mod error;
mod irqs;
mod link;
mod reach;
mod regions;
mod remote;
mod reset;

pub use error::{Lie, RemoteError};
pub use remote::{Patience, Remote};
