//! Two served devices, each in a process of its own: one user attacks with descriptors, the other one works on and is
//! watched.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use uvfio_proto::Client;

use super::AtEnd;
use super::common::Server;

pub(crate) const CONFIG: u32 = 7;
/// edu's liveness register, in BAR 0.
const LIVENESS: u64 = 4;
/// Accesses of the victim's while nobody attacks.
const IDLE: usize = 2000;
/// The least while somebody does, so that a median means something.
const LEAST: usize = 200;

/// `uvfio serve edu`, until the test ends.
pub(crate) struct Served {
    _server: Server,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Served {
    fn edu() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let socket = dir.path().join("s");
        Self {
            _server: Server::start(&["edu"], &socket, Stdio::null()),
            socket,
            _dir: dir,
        }
    }
}

/// A user of edu: memory and bus mastering are on.
pub(crate) fn user(socket: &Path) -> Client {
    let mut user = Client::connect(socket).expect("served");
    user.write(CONFIG, 0x04, &[0x06, 0]).expect("COMMAND is written");
    user
}

/// How long accesses took.
#[derive(Debug, Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn median(&mut self) -> Duration {
        self.0.sort_unstable();
        self.0[self.0.len() / 2]
    }

    fn worst(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    /// A write, its effect, and what never changes; each access is answered right, and its time is noted.
    fn round(&mut self, user: &mut Client, number: u32) {
        let mut timed = |access: &mut dyn FnMut(&mut Client)| {
            let begin = Instant::now();
            access(user);
            self.0.push(begin.elapsed());
        };
        timed(&mut |user| {
            user.write(0, LIVENESS, &number.to_le_bytes())
                .expect("the victim's write");
        });
        let mut word = [0; 4];
        timed(&mut |user| user.read(0, LIVENESS, &mut word).expect("the victim's read"));
        assert_eq!(u32::from_le_bytes(word), !number, "the victim's liveness check");
        timed(&mut |user| user.read(CONFIG, 0, &mut word).expect("the victim's read"));
        assert_eq!(word, [0x34, 0x12, 0xe8, 0x11], "the victim's identity register");
    }
}

/// Lets one user attack, and another one work. The device of each is there afterwards.
pub(crate) fn under_attack(name: &str, attack: impl FnOnce(&Path)) {
    let (attacked, watched) = (Served::edu(), Served::edu());
    let mut victim = user(&watched.socket);
    let mut idle = Latencies::default();
    (0..)
        .take(IDLE)
        .for_each(|number| idle.round(&mut victim, number));

    let over = Arc::new(AtomicBool::new(false));
    let thread = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut busy = Latencies::default();
            let mut number = 0;
            while !over.load(Ordering::SeqCst) || busy.0.len() < LEAST {
                busy.round(&mut victim, number);
                number += 1;
            }
            (busy, victim)
        })
    };
    let end = AtEnd(|| over.store(true, Ordering::SeqCst));
    attack(&attacked.socket);
    drop(end);
    let (mut busy, mut victim) = thread
        .join()
        .expect("every access of the victim's was answered right");
    println!(
        "{name}: victim: idle {:.1?} (worst {:.1?}), under attack {:.1?} (worst {:.1?}, {} accesses)",
        idle.median(),
        idle.worst(),
        busy.median(),
        busy.worst(),
        busy.0.len()
    );
    // The attacker's own device, for whoever comes next, and the victim's.
    idle.round(&mut user(&attacked.socket), 1);
    idle.round(&mut victim, 2);
}
