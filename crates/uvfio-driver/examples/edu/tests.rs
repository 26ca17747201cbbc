//! The driver against the device in software: no hardware, no root, no machine.

// ANCHOR: in_process
use uvfio_driver::{Function, Result};
use uvfio_soft::edu;

use crate::driver::Edu;

/// A device of our own, in this process.
fn in_process() -> Result<Edu> {
    let device = edu::Edu::new(edu::Config::default()).expect("the device's thread starts");
    Edu::open(Function::in_process(device)?)
}

#[test]
fn the_device_computes_a_factorial() -> Result<()> {
    let mut edu = in_process()?;
    assert_eq!(edu.version()?, "1.0");
    assert_eq!(edu.factorial(10)?, 3_628_800);
    assert_eq!(edu.factorial(0)?, 1);
    Ok(())
}
// ANCHOR_END: in_process

// ANCHOR: more
#[test]
fn data_come_back_as_they_were_sent() -> Result<()> {
    let mut edu = in_process()?;
    let data: Vec<u8> = (0..4096_u32).map(|n| (n * 7 % 251) as u8).collect();
    assert_eq!(edu.copy_through_device(&data)?, data);
    assert_eq!(edu.copy_through_device(b"odd")?, b"odd");
    Ok(())
}

#[test]
fn more_than_the_device_holds_is_an_error_and_not_a_crash() -> Result<()> {
    let mut edu = in_process()?;
    let error = edu.copy_through_device(&[1; 4097]).expect_err("4097 bytes");
    assert!(
        error.to_string().contains("lies outside the DMA buffer"),
        "{error}"
    );
    Ok(())
}

#[test]
fn the_driver_goes_on_after_a_reset() -> Result<()> {
    let mut edu = in_process()?;
    edu.copy_through_device(b"before")?;
    edu.reset()?;
    assert_eq!(edu.factorial(5)?, 120);
    assert_eq!(edu.copy_through_device(b"after")?, b"after");
    Ok(())
}
// ANCHOR_END: more

// ANCHOR: socket
/// The same driver over vfio-user, as users of `uvfio serve` reach a device.
#[test]
fn the_driver_works_over_a_socket() -> Result<()> {
    let device = edu::Edu::new(edu::Config::default()).expect("the device's thread starts");
    let (socket, server) = uvfio_driver::testing::serve(device)?;
    let mut edu = Edu::open(Function::open(socket)?)?;
    assert_eq!(edu.factorial(12)?, 479_001_600);
    assert_eq!(edu.copy_through_device(b"over the wire")?, b"over the wire");
    edu.reset()?;
    assert_eq!(edu.factorial(3)?, 6);
    drop(edu);
    server.wait()
}
// ANCHOR_END: socket
