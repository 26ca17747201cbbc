//! The library for authors of drivers, for C and everything that calls C. `include/uvfio.h` is its documentation.
//!
//! ```text
//! calls     one function for each in the header: checks its pointers, calls uvfio_driver
//! edge      what all calls have in common: error numbers, the last error's text, panics, pointers
//! handles   what a pointer of the caller's stands for
//! ```

pub mod calls;
mod edge;
mod handles;
