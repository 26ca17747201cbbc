//! The operator takes the devices back, by SIGUSR1 to this process: the program is asked as the kernel asks when somebody
//! unbinds vfio-pci from a function, but not for ever.

use std::io;
use std::sync::Arc;
use std::thread::Builder;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::{Handle, Signals};
use uvfio_uapi::{Asked, Uapi};

/// How long between two times that the program is asked: the kernel's vfio.c.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// Hears the operator's order, SIGUSR1, from when it is made: one that comes before anybody follows it is not lost, and does
/// not end the process.
#[derive(Debug)]
pub struct Order(Signals);

impl Order {
    /// Listens from now on.
    ///
    /// # Errors
    /// The system's, where the signal can't be taken.
    pub fn listen() -> io::Result<Self> {
        Signals::new([SIGUSR1]).map(Self)
    }
}

/// Follows the operator's order until it is dropped.
pub(crate) struct Removal(Handle);

/// Waits for the order on a thread from now on. The program has `within` to close the devices; then they are taken.
pub(crate) fn follow(Order(mut signals): Order, uapi: Arc<Uapi>, within: Duration) -> io::Result<Removal> {
    let handle = signals.handle();
    Builder::new()
        .name("removal".into())
        .stack_size(128 << 10)
        .spawn(move || {
            // There is no way back, so a second order says nothing new.
            if signals.forever().next().is_some() {
                take_back(&uapi, within);
            }
        })?;
    Ok(Removal(handle))
}

fn take_back(uapi: &Uapi, within: Duration) {
    let start = Instant::now();
    tracing::warn!(target: "audit", "SIGUSR1: the devices are taken back; from now on none is opened");
    uapi.withdraw();
    loop {
        let left = within.saturating_sub(start.elapsed());
        for (address, asked) in uapi.ask_for_devices() {
            let seconds = left.as_secs_f32();
            match asked {
                Asked::Nobody => {}
                Asked::ByReq => tracing::warn!(
                    target: "audit",
                    "{address}: the program is asked for it by REQ, and has {seconds:.0} s to close it"
                ),
                Asked::Deaf => tracing::warn!(
                    target: "audit",
                    "{address}: the program has it open and listens to no REQ; it has {seconds:.0} s to close it"
                ),
            }
        }
        if uapi.wait_given_back(left.min(ASK_EVERY)) {
            tracing::warn!(target: "audit", "the program has none of the devices open any more");
            return;
        }
        if start.elapsed() >= within {
            break;
        }
    }
    for address in uapi.take_devices() {
        tracing::warn!(
            target: "audit",
            "{address}: it was not given back in time; the program goes on with a device that is gone"
        );
    }
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.0.close();
    }
}
