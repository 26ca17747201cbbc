//! A driver for edu, the educational device.
//!
//!     uvfio serve edu --socket /tmp/edu.sock
//!     cargo run --example edu -- /tmp/edu.sock
//!
//! With a PCI address in the socket's place it drives a function of this machine's that is bound to vfio-pci.

mod driver;
#[cfg(test)]
mod tests;

use driver::Edu;
use uvfio_driver::{DriverError, Function, Result};

fn main() -> Result<()> {
    let Some(target) = std::env::args_os().nth(1) else {
        let what = "give the path of its socket, or a PCI address";
        return Err(DriverError::Device(what.into()));
    };
    let mut edu = Edu::open(Function::open_target(target)?)?;
    println!("edu, version {}", edu.version()?);
    println!("10! = {}", edu.factorial(10)?);
    let sent = b"through the device and back";
    let received = edu.copy_through_device(sent)?;
    println!("sent {} bytes, received {}", sent.len(), received.len());
    println!("the same: {}", received == sent);
    edu.reset()?;
    println!("after a reset, 5! = {}", edu.factorial(5)?);
    Ok(())
}
