//! A program by the crate `vfio-ioctls` of rust-vmm, which knows nothing of uvfio: it drives edu.
//!
//!     uvfio run --device edu -- target/debug/examples/rust_vmm 0000:01:00.0
#![allow(clippy::unwrap_used, clippy::panic)] // What goes wrong is told by its panic.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use vfio_ioctls::{VfioContainer, VfioDevice};
use vmm_sys_util::eventfd::EventFd;

const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const COMMAND: u64 = 4;
const MEMORY_AND_BUS_MASTER: [u8; 2] = [6, 0];
const FACTORIAL: u64 = 0x08;
const STATUS: u64 = 0x20;
const RAISE: u64 = 0x60;

fn main() {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| panic!("give the function's address"));
    let container = Arc::new(VfioContainer::new(None).unwrap());
    let folder = Path::new("/sys/bus/pci/devices").join(address);
    let device = VfioDevice::new(&folder, container, true).unwrap();
    println!("{} interrupts at most", device.max_interrupts());
    device.region_write(CONFIG, &MEMORY_AND_BUS_MASTER, COMMAND);
    let read = |register| {
        let mut value = [0; 4];
        device.region_read(BAR0, &mut value, register);
        u32::from_le_bytes(value)
    };
    device.region_write(BAR0, &6_u32.to_le_bytes(), FACTORIAL);
    while read(STATUS) & 1 != 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("6! = {}", read(FACTORIAL));
    let events: Vec<_> = (0..8).map(|_| EventFd::new(0).unwrap()).collect();
    device.enable_msi(events.iter().collect()).unwrap();
    device.region_write(BAR0, &1_u32.to_le_bytes(), RAISE);
    println!("interrupts: {}", events[0].read().unwrap());
    device.disable_msi().unwrap();
    device.reset();
}
