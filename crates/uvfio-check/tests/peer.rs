//! The server of the crate `vfio_user`: what it fails stands in the book, as this finds it.
//!
//! With `BLESS=1` in the environment the table in the book is written instead of compared.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use uvfio_check::{Outcome, Patience, Report, Server, check_server};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, ServerBackend, ServerRegion};

/// Configuration space and BAR 0.
const CONFIG: u32 = 7;
const BYTES: u64 = 256;

/// The device behind it: memory, and interrupts that go where they are told.
#[derive(Default)]
struct Backend {
    regions: BTreeMap<u32, Vec<u8>>,
    maps: BTreeMap<u64, (u64, Option<File>)>,
    events: BTreeMap<(u32, u32), File>,
}

impl Backend {
    fn new() -> Self {
        let mut config = vec![0; BYTES as usize];
        config[..4].copy_from_slice(&[0x34, 0x12, 0x78, 0x56]);
        Self {
            regions: BTreeMap::from([(0, vec![0; BYTES as usize]), (CONFIG, config)]),
            ..Self::default()
        }
    }

    fn bytes(&mut self, region: u32, offset: u64, count: usize) -> io::Result<&mut [u8]> {
        let start = usize::try_from(offset).map_err(|_| invalid())?;
        let end = start.checked_add(count).ok_or_else(invalid)?;
        let region = self.regions.get_mut(&region).ok_or_else(invalid)?;
        region.get_mut(start..end).ok_or_else(invalid)
    }
}

fn is_eventfd(file: &File) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    link.is_ok_and(|link| link.to_string_lossy().contains("eventfd"))
}

fn invalid() -> io::Error {
    rustix::io::Errno::INVAL.into()
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let count = data.len();
        data.copy_from_slice(self.bytes(region, offset, count)?);
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        self.bytes(region, offset, data.len())?.copy_from_slice(data);
        Ok(())
    }

    fn dma_map(
        &mut self,
        _flags: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        file: Option<File>,
    ) -> io::Result<()> {
        let last = size
            .checked_sub(1)
            .and_then(|size| address.checked_add(size))
            .ok_or_else(invalid)?;
        offset.checked_add(size).ok_or_else(invalid)?;
        if let Some((&other, &(size, _))) = self.maps.range(..=last).next_back()
            && other + (size - 1) >= address
        {
            return Err(rustix::io::Errno::EXIST.into());
        }
        self.maps.insert(address, (size, file));
        Ok(())
    }

    fn dma_unmap(&mut self, _flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        match self.maps.get(&address) {
            Some(&(mapped, _)) if mapped == size => {
                self.maps.remove(&address);
                Ok(())
            }
            _ => Err(invalid()),
        }
    }

    fn reset(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn set_irqs(&mut self, index: u32, flags: u32, start: u32, count: u32, fds: Vec<File>) -> io::Result<()> {
        let events = fds.iter().all(is_eventfd);
        if fds.len() > count as usize || !events {
            return Err(invalid());
        }
        let end = start
            .checked_add(count)
            .filter(|end| *end <= 8)
            .ok_or_else(invalid)?;
        match (flags, count) {
            (0x24, _) => {
                let mut fds = fds.into_iter();
                for vector in start..end {
                    match fds.next() {
                        Some(event) => self.events.insert((index, vector), event),
                        None => self.events.remove(&(index, vector)),
                    };
                }
                Ok(())
            }
            (0x21, 0) => {
                self.events.retain(|&(of, _), _| of != index);
                Ok(())
            }
            (0x21, _) => {
                for vector in start..end {
                    if let Some(mut event) = self.events.get(&(index, vector)) {
                        event.write_all(&1_u64.to_ne_bytes())?;
                    }
                }
                Ok(())
            }
            _ => Err(invalid()),
        }
    }
}

struct Theirs {
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Theirs {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        std::thread::spawn(move || {
            loop {
                let listener: OwnedFd = listener.try_clone().expect("a descriptor").into();
                // One client, or until it panics: the next is served by another.
                let one = std::thread::spawn(move || {
                    let server = vfio_user::Server::from_owned_fd(listener, true, irqs(), regions());
                    let _ = server.run(&mut Backend::new());
                });
                let _ = one.join();
            }
        });
        Self { path, _dir: dir }
    }
}

impl Server for Theirs {
    fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }
}

fn irqs() -> Vec<IrqInfo> {
    let count = |index| if index == 2 { 8 } else { 0 };
    let info = |index| IrqInfo {
        index,
        flags: 1,
        count: count(index),
    };
    (0..5).map(info).collect()
}

fn regions() -> Vec<ServerRegion> {
    let region = |index| {
        let mut region = ServerRegion {
            region_info: Default::default(),
            sparse_areas: Vec::new(),
            mmap_fd: None,
        };
        region.region_info.argsz = 32;
        region.region_info.index = index;
        if index == 0 || index == CONFIG {
            (region.region_info.size, region.region_info.flags) = (BYTES, 3);
        }
        region
    };
    (0..9).map(region).collect()
}

const BEGIN: &str = "<!-- what the vfio_user crate's server fails: written by a test -->\n";
const END: &str = "<!-- end -->\n";

/// Cases that pass where the pieces that were sent apart happen to come together: tried again.
const BY_CHANCE: [&str; 2] = ["framing.bytewise", "framing.header_split"];

/// What came, in so few words that every run says the same.
fn words(got: &str) -> &'static str {
    const WORDS: [(&str, &str); 11] = [
        ("has another one", "a reply that fits no command"),
        ("waits for bytes", "it waits for them"),
        ("nothing came", "it waits for more"),
        ("was closed", "the server ends"),
        ("EEXIST", "an error without number"),
        ("succeeded", "it succeeds"),
        ("answered", "it is carried out"),
        ("agreed to", "it is agreed to"),
        ("beyond what", "`migration`, which was not proposed"),
        ("errno: None", "the bad ones succeed"),
        ("was refused with", "it is refused"),
    ];
    let found = WORDS.iter().find(|(part, _)| got.contains(part));
    found.map_or("something else", |(_, words)| words)
}

/// The table: what failed, by case.
fn table(report: &Report) -> String {
    let mut text = format!(
        "Of {} cases {} passed, {} failed, {} ended in a deviation, {} were not applicable.\n\n\
         | case | sent | came |\n|---|---|---|\n",
        report.cases.len(),
        report.count("pass"),
        report.count("FAIL"),
        report.count("deviation"),
        report.count("n/a")
    );
    for row in &report.cases {
        if let Outcome::Fail { got } = &row.outcome {
            text += &format!("| `{}` | {} | {} |\n", row.name, row.what, words(got));
        }
    }
    text
}

/// Tries all cases; those that end by chance until they fail, or ten times.
fn check(reply: Duration) -> Report {
    let theirs = Theirs::new();
    let patience = Patience {
        reply,
        connection: reply * 3,
    };
    let mut report = check_server(&theirs, patience, "", |_| {});
    for row in report
        .cases
        .iter_mut()
        .filter(|row| BY_CHANCE.contains(&row.name))
    {
        for _ in 0..10 {
            if row.outcome != Outcome::Pass {
                break;
            }
            let again = check_server(&theirs, patience, row.name, |_| {});
            if let Some(again) = again.cases.into_iter().next() {
                *row = again;
            }
        }
    }
    report
}

#[test]
fn the_book_says_what_the_other_server_fails() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/conformance.md");
    let text = std::fs::read_to_string(&page).expect("the book's page");
    let (before, rest) = text.split_once(BEGIN).expect("the table's begin");
    let (old, after) = rest.split_once(END).expect("the table's end");
    let mut now = String::new();
    // Silence is found by waiting: where the machine was too busy to answer in time, it gets more.
    for seconds in [1, 5, 15] {
        let report = check(Duration::from_secs(seconds));
        assert!(report.count("FAIL") > 0 && report.count("pass") > 0, "{report}");
        now = table(&report);
        if now == old {
            return;
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&page, [before, BEGIN, &now, END, after].concat()).expect("the page is written");
            return;
        }
    }
    assert_eq!(old, now, "BLESS=1 writes the table into the book");
}
