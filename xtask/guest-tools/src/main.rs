//! What scenarios run inside a virtual machine.
fn main() {}
