//! The model: a virtual PCI function as data and one pure function.
//!
//! A function's configuration space is described by tables ([`Table`]): one table a structure, one row a
//! field. A device declares what it is and which capabilities it has as a [`Blueprint`]; [`Layout::compile`]
//! places the tables and turns them into masks for one [`View`]. [`State`] holds the values, and [`step()`]
//! changes them: it does no I/O, reads no clock, takes no lock and allocates nothing. What has to happen
//! outside comes back as [`Effect`]s.
//!
//! ```text
//! access of any width, offset, run -> access::split -> whole registers with byte enables
//!                                                       |
//!                              read(layout, state, ..)  |  step(layout, state, Input, effects)
//! ```
//!
//! The crate is `no_std` without `alloc`, so that a kernel could host it as it stands.
#![no_std]
#![forbid(unsafe_code)]

pub mod access;
mod backed;
mod blueprint;
pub mod chain;
mod compile;
mod dump;
mod error;
mod field;
mod input;
mod interrupt;
mod layout;
mod state;
mod step;
pub mod tables;
mod view;

pub use blueprint::*;
pub use dump::*;
pub use field::*;
pub use input::*;
pub use layout::*;
pub use state::*;
pub use step::*;
pub use view::View;
