//! A driver for edu, the educational device.
//!
//!     uvfio serve edu --socket /tmp/edu.sock
//!     cargo run --example edu -- /tmp/edu.sock

mod driver;
#[cfg(test)]
mod tests;

use driver::Edu;
use uvfio_driver::{DriverError, Function, Result};

fn main() -> Result<()> {
    let Some(socket) = std::env::args().nth(1) else {
        return Err(DriverError::Device("give the path of its socket".into()));
    };
    let mut edu = Edu::open(Function::connect(socket)?)?;
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
