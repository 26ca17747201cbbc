//! What the demo tries, one module a section of the page.

mod config;
mod dma;
mod flr;
mod msi;
mod next_user;
mod refused;
mod speed;

pub(super) use config::config;
pub(super) use dma::dma;
pub(super) use flr::flr;
pub(super) use msi::msi;
pub(super) use next_user::next_user;
pub(super) use refused::refused;
pub(super) use speed::{edu_speed, nvme_speed};

use std::time::{Duration, Instant};

use uvfio_soft::edu::Reg;

use super::link::{Link, Refused};

/// How long an interrupt or a transfer may take before it counts as not coming.
const PATIENCE: Duration = Duration::from_secs(10);

fn register(link: &mut Link, register: Reg) -> Result<u32, Refused> {
    let mut data = [0; 4];
    link.read(0, register.offset(), &mut data)?;
    Ok(u32::from_le_bytes(data))
}

fn set_register(link: &mut Link, register: Reg, value: u64) -> Result<(), Refused> {
    let data = value.to_le_bytes();
    let wide = register.offset() >= Reg::DmaSource.offset();
    link.write(0, register.offset(), if wide { &data } else { &data[..4] })
}

/// Asks again and again until `done`, or until patience ends; gives whether it was done.
fn until(mut done: impl FnMut() -> Result<bool, Refused>) -> Result<bool, Refused> {
    let late = Instant::now() + PATIENCE;
    loop {
        if done()? {
            return Ok(true);
        }
        if Instant::now() > late {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
