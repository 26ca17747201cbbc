//! Drivers written with this library, by what it offers to everybody and nothing else.
//!
//! A driver that more than its own program wants has its place here; the one that the book's tutorial writes step by
//! step is a program of its own, `examples/edu`.

pub mod nvme;
