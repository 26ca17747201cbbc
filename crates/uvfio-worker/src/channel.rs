//! What supervisor and worker say to each other, over a socket pair that keeps message boundaries.
//!
//! The worker is not trusted once it has a user: what it says is a letter and some text, and descriptors that it
//! sends are not taken.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg,
};
use uvfio_linux::device::BarGrant;
use uvfio_pci::View;

use crate::image::Image;
use crate::owned::Descriptors;

/// The longest message, bytes; a path and then some.
const LONGEST: usize = 16 * 1024;

/// The most descriptors in a message: those of a function.
const DESCRIPTORS: usize = 4;

/// What the supervisor says.
#[derive(Debug)]
pub(crate) enum Order {
    /// Here is one more image.
    Image(Image),
    /// Here is one more PCI function of those that the device is.
    Function(Descriptors),
    /// Make this device over what was sent.
    Make(Setup),
    /// Serve this user.
    Serve {
        /// Which function it has, by its place in the specification.
        function: u8,
        stream: UnixStream,
        /// Where the user's unfinished messages are kept.
        journal: OwnedFd,
        /// Who it is, for the log.
        peer: String,
    },
    /// End in order.
    Stop,
    /// Take the device away from its user.
    TakeAway,
    /// Ask whoever has something of the device to give it back.
    RequestRelease,
    /// Tell the user of a function that it has reported an error.
    ReportError { function: u8 },
}

/// Why a device is gone from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Its last worker died.
    Worker,
    /// The function answers no more.
    Function,
    /// The kernel wanted the function back, and its user did not give it back in time.
    Time,
}

impl Lost {
    const ALL: [Self; 3] = [Self::Worker, Self::Function, Self::Time];

    fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Function => "function",
            Self::Time => "time",
        }
    }
}

/// How the device is to be made and served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    /// The device is gone from the start.
    pub(crate) gone: Option<Lost>,
    /// Whether the log may be coloured.
    pub(crate) ansi: bool,
    pub(crate) view: View,
    /// How its user reaches the BARs of a function that exists.
    pub(crate) bars: BarGrant,
    /// What the last worker said of the device's shape, where it is gone and exists no more for us.
    pub(crate) shape: String,
    pub(crate) log: String,
    pub(crate) spec: String,
}

/// What the worker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// It has started; which build it is.
    Hello(String),
    /// Confined, and ready for users; of what shape each function is, where that is asked for when it is gone.
    Ready { shape: String },
    /// The user of a function has left; the function is ready for the next, or has no other.
    Free { function: u8 },
    /// It has ended: told to, or since the device was taken away and its user has left.
    Ended { gone: bool },
    /// It can't start, or can't go on.
    Failed(String),
}

impl Setup {
    fn to_text(&self) -> String {
        let flag = |flag| if flag { "1" } else { "0" };
        // The specification comes last: it may have any character but a zero.
        format!(
            "{}\0{}\0{}\0{}\0{}\0{}\0{}",
            self.gone.map_or("", Lost::name),
            flag(self.ansi),
            self.view.name(),
            self.bars.name(),
            self.shape,
            self.log,
            self.spec
        )
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut parts = text.splitn(7, '\0');
        let (gone, ansi) = (parts.next()?, parts.next()? == "1");
        let (view, bars) = (parts.next()?, parts.next()?);
        Some(Self {
            gone: Lost::ALL.into_iter().find(|known| known.name() == gone),
            ansi,
            view: View::ALL.into_iter().find(|known| known.name() == view)?,
            bars: BarGrant::ALL.into_iter().find(|known| known.name() == bars)?,
            shape: parts.next()?.into(),
            log: parts.next()?.into(),
            spec: parts.next()?.into(),
        })
    }
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self(ours), theirs))
    }

    /// The end that a worker was started with, as its standard input.
    pub(crate) fn inherited() -> io::Result<Self> {
        let stdin = io::stdin();
        if rustix::net::sockopt::socket_type(&stdin)? != SocketType::SEQPACKET {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        stdin.as_fd().try_clone_to_owned().map(Self)
    }

    /// Gives an order, without ever waiting for a worker that does not listen.
    pub(crate) fn order(&self, order: &Order) -> io::Result<()> {
        match order {
            Order::Image(image) => self.send(b'I', &image.bytes.to_ne_bytes(), &[image.file.as_fd()]),
            Order::Function(descriptors) => {
                let Descriptors {
                    container,
                    group,
                    device,
                    group_number,
                    config,
                } = descriptors;
                let mut descriptors = vec![container.as_fd(), group.as_fd(), device.as_fd()];
                descriptors.extend(config.as_ref().map(AsFd::as_fd));
                self.send(b'F', &group_number.to_ne_bytes(), &descriptors)
            }
            Order::Make(setup) => self.send(b'M', setup.to_text().as_bytes(), &[]),
            Order::Serve {
                function,
                stream,
                journal,
                peer,
            } => {
                let text = [&[*function], peer.as_bytes()].concat();
                self.send(b'U', &text, &[stream.as_fd(), journal.as_fd()])
            }
            Order::Stop => self.send(b'S', &[], &[]),
            Order::TakeAway => self.send(b'T', &[], &[]),
            Order::RequestRelease => self.send(b'Q', &[], &[]),
            Order::ReportError { function } => self.send(b'X', &[*function], &[]),
        }
    }

    /// Waits for an order; `None` where the supervisor is gone.
    pub(crate) fn next_order(&self) -> io::Result<Option<Order>> {
        let mut bytes = vec![0; LONGEST];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let got = recvmsg(&self.0, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let mut fds = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten();
        let Some((kind, rest)) = bytes.get(..got).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        let text = || String::from_utf8_lossy(rest).into_owned();
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        Ok(Some(match kind {
            b'I' => Order::Image(Image {
                file: File::from(fds.next().ok_or_else(bad)?),
                bytes: u64::from_ne_bytes(rest.try_into().map_err(|_| bad())?),
            }),
            b'F' => Order::Function(Descriptors {
                container: fds.next().ok_or_else(bad)?,
                group: fds.next().ok_or_else(bad)?,
                device: fds.next().ok_or_else(bad)?,
                config: fds.next(),
                group_number: u32::from_ne_bytes(rest.try_into().map_err(|_| bad())?),
            }),
            b'M' => Order::Make(Setup::from_text(&text()).ok_or_else(bad)?),
            b'U' => {
                let (function, peer) = rest.split_first().ok_or_else(bad)?;
                Order::Serve {
                    function: *function,
                    stream: fds.next().ok_or_else(bad)?.into(),
                    journal: fds.next().ok_or_else(bad)?,
                    peer: String::from_utf8_lossy(peer).into_owned(),
                }
            }
            b'S' => Order::Stop,
            b'T' => Order::TakeAway,
            b'Q' => Order::RequestRelease,
            b'X' => Order::ReportError {
                function: *rest.first().ok_or_else(bad)?,
            },
            _ => return Err(bad()),
        }))
    }

    /// Reports to the supervisor.
    pub(crate) fn report(&self, report: &Report) -> io::Result<()> {
        match report {
            Report::Hello(build) => self.send(b'H', build.as_bytes(), &[]),
            Report::Ready { shape } => self.send(b'R', shape.as_bytes(), &[]),
            Report::Free { function } => self.send(b'L', &[*function], &[]),
            Report::Ended { gone } => self.send(b'E', &[u8::from(*gone)], &[]),
            Report::Failed(why) => {
                let mut end = why.len().min(LONGEST - 1);
                while !why.is_char_boundary(end) {
                    end -= 1;
                }
                self.send(b'F', why.get(..end).unwrap_or_default().as_bytes(), &[])
            }
        }
    }

    /// The next report, if there is one; the inner `None` means that the worker has closed its end.
    pub(crate) fn next_report(&self) -> io::Result<Option<Option<Report>>> {
        let mut bytes = [0; LONGEST];
        let mut receive = || recv(&self.0, &mut bytes, RecvFlags::DONTWAIT);
        let received = match receive() {
            // It ended with an order unread. The kernel says so once, and before it hands out what was reported until
            // then.
            Err(rustix::io::Errno::CONNRESET) => receive(),
            other => other,
        };
        let got = match received {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            other => other?.0,
        };
        let Some((kind, rest)) = bytes.get(..got).and_then(<[u8]>::split_first) else {
            return Ok(Some(None));
        };
        let text = || {
            let text = String::from_utf8_lossy(rest);
            text.chars().filter(|c| !c.is_control()).collect::<String>()
        };
        Ok(Some(Some(match kind {
            b'H' => Report::Hello(text()),
            b'R' => Report::Ready { shape: text() },
            b'L' => Report::Free {
                function: *rest.first().ok_or(io::ErrorKind::InvalidData)?,
            },
            b'E' => Report::Ended { gone: rest == [1] },
            b'F' => Report::Failed(text()),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        })))
    }

    fn send(&self, kind: u8, text: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if text.len() >= LONGEST {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let kind = [kind];
        let pieces = [IoSlice::new(&kind), IoSlice::new(text)];
        sendmsg(
            &self.0,
            &pieces,
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_arrives_as_it_was_sent() {
        let views = [View::Virtual, View::Filtered, View::Raw];
        let lost = [None, Some(Lost::Worker), Some(Lost::Function), Some(Lost::Time)];
        let views = views.into_iter().zip(BarGrant::ALL).cycle();
        for (gone, (view, bars)) in lost.into_iter().zip(views) {
            let setup = Setup {
                gone,
                ansi: gone.is_none(),
                view,
                bars,
                shape: if gone.is_some() {
                    "none rom:0".into()
                } else {
                    String::new()
                },
                log: "warn,audit=info".into(),
                spec: "nvme,file=a\nb,,c.img".into(),
            };
            assert_eq!(Setup::from_text(&setup.to_text()), Some(setup));
        }
    }

    #[test]
    fn a_user_arrives_with_the_function_that_it_has() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let (stream, _other) = UnixStream::pair().expect("a pair");
        let journal = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).expect("a descriptor");
        let order = Order::Serve {
            function: 3,
            stream,
            journal,
            peer: "process 7".into(),
        };
        ours.order(&order).expect("sent");
        match Channel(theirs).next_order().expect("heard") {
            Some(Order::Serve { function, peer, .. }) => {
                assert_eq!((function, peer.as_str()), (3, "process 7"));
            }
            other => panic!("expected the user, got {other:?}"),
        }
    }

    #[test]
    fn a_report_of_an_unknown_kind_is_an_error_and_a_closed_end_is_none() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let theirs = Channel(theirs);
        assert!(ours.next_report().expect("nothing yet").is_none());
        theirs.send(b'?', b"", &[]).expect("sent");
        assert!(ours.next_report().is_err());
        theirs
            .report(&Report::Failed("bell \x07 and\nline".into()))
            .expect("sent");
        let heard = ours.next_report().expect("heard").expect("something");
        assert_eq!(heard, Some(Report::Failed("bell  andline".into())));
        drop(theirs);
        assert_eq!(ours.next_report().expect("heard"), Some(None));
    }

    #[test]
    fn the_last_words_of_a_worker_are_heard_though_an_order_came_too_late_for_it() {
        let (ours, theirs) = Channel::pair().expect("a pair");
        let theirs = Channel(theirs);
        theirs.report(&Report::Ended { gone: true }).expect("sent");
        ours.order(&Order::Stop).expect("sent");
        drop(theirs);
        let heard = ours.next_report().expect("heard");
        assert_eq!(heard, Some(Some(Report::Ended { gone: true })));
        assert_eq!(ours.next_report().expect("heard"), Some(None));
    }
}
