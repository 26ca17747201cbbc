//! The other way: a server with a small device that judges what its client sends, until the client leaves.

mod device;
mod judge;

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use uvfio_proto::message::{Command, Kind};

use crate::payload::{message, refusal};
use crate::report::Report;
use crate::wire::{Heard, Link, Message};
use device::Device;
use judge::Judge;

/// How a client is tried.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Every command of this number is refused with EIO, to see what the client does then.
    pub refuse: Option<u16>,
}

/// The id of the one command that is sent to the client.
const PROBE_ID: u16 = 0xd3a0;
/// Bytes that are asked of the client's memory.
const PROBE_BYTES: u64 = 8;
const EIO: u32 = 5;

/// Serves one client until it leaves, and gives what was seen of it.
///
/// # Errors
/// Where the socket fails.
pub fn check_client(stream: UnixStream, options: &Options) -> io::Result<Report> {
    let wait = Duration::from_secs(60);
    let mut link = Link::new(stream, wait, wait);
    let mut judge = Judge::default();
    let mut device = Device::new();
    let mut probe = None;
    loop {
        match link.receive()? {
            Heard::Silence { .. } => {}
            Heard::Closed { cut } => {
                judge.see("client.framing", || match cut {
                    0 => Ok(()),
                    cut => Err(format!("it left after {cut} bytes of a message")),
                });
                break;
            }
            Heard::Garbled(header) => {
                judge.see("client.framing", || {
                    Err(format!("a header that begins no message: {header:?}"))
                });
                break;
            }
            Heard::Message(got) => {
                judge.see("client.framing", || Ok(()));
                if got.header.kind() == Kind::Reply {
                    judge.answer(&got, probe.take());
                } else if command(&link, &mut judge, &mut device, &got, options).is_err() {
                    break;
                } else if probe.is_none()
                    && !judge.probed()
                    && let Some(iova) = device.readable(PROBE_BYTES)
                {
                    let payload = [iova.to_ne_bytes(), PROBE_BYTES.to_ne_bytes()].concat();
                    link.send(&message(PROBE_ID, Command::DmaRead as u16, 0, &payload), &[])?;
                    probe = Some(iova);
                }
            }
        }
    }
    Ok(judge.report())
}

/// Judges a command, carries it out, and answers it.
fn command(
    link: &Link,
    judge: &mut Judge,
    device: &mut Device,
    got: &Message,
    options: &Options,
) -> io::Result<()> {
    judge.command(got, device);
    let number = got.header.command;
    let refused = options.refuse == Some(number);
    let answer = if refused {
        Err(EIO)
    } else {
        device.carry_out(number, &got.payload)
    };
    if refused {
        judge.refused(number);
    }
    if got.header.no_reply() {
        return Ok(());
    }
    match answer {
        Ok(payload) => link.send(&message(got.header.id, number, Kind::REPLY, &payload), &[]),
        Err(errno) => link.send(&refusal(got.header.id, number, errno), &[]),
    }
}
