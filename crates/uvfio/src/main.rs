//! The `uvfio` command.
fn main() {}
