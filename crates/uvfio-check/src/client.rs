//! The other way: a server with a small device that judges what its client sends, until the client leaves.

mod device;
mod judge;
mod probes;

use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use uvfio_proto::message::{Command, Kind};

use crate::payload::{message, refusal};
use crate::report::Report;
use crate::wire::{Heard, Link, Message};
use device::Device;
use judge::Judge;
use probes::Probes;

/// How a client is tried.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Every command of this number is refused with EIO, to see what the client does then.
    pub refuse: Option<u16>,
}

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
    let mut probes = Probes::default();
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
                    probes.answer(&mut judge, &got, &device);
                } else if command(&link, &mut judge, &mut device, &got, options).is_err() {
                    break;
                }
                for message in probes.next(&device) {
                    // Where the client has left, the stream's end tells.
                    let _ = link.send(&message, &[]);
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
        judge.refused();
    }
    if let (true, Ok(_), Some(file)) = (number == Command::DmaMap as u16, &answer, got.fds.first()) {
        device.keep_file(file);
    }
    if got.header.no_reply() {
        return Ok(());
    }
    match answer {
        Ok(payload) => link.send(&message(got.header.id, number, Kind::REPLY, &payload), &[]),
        Err(errno) => link.send(&refusal(got.header.id, number, errno), &[]),
    }
}
