//! Refusals are in the audit log, by name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::device::serve;
use common::raw::{access, dma_map, header};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        String::from_utf8_lossy(&bytes)
            .lines()
            .filter(|line| line.contains("audit"))
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn refusals_name_the_field_and_the_rule() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();

    let (mut served, raw) = serve();
    raw.ask(1, 2, &dma_map(32, 0x100, 0, 0x1000, 0x1000));
    raw.ask(2, 9, &access(0xffff, 0, 4, &[]));
    raw.ask(3, 77, &[]);
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, parts) in lines.iter().zip([
        ["DMA_MAP", "flags is 0x100", "only bits 0 to 3", "errno=22"],
        ["region 0", "4 bytes", "0xffff", "errno=22"],
        ["command 77", "no such command", "id=3", "errno=38"],
    ]) {
        for part in parts {
            assert!(line.contains(part), "«{part}» is not in «{line}»");
        }
    }

    raw.send(&header(1, 9, 3, 0));
    assert!(served.end().is_err());
    let lines = log.lines();
    let last = lines.last().unwrap();
    assert!(
        last.contains("connection closed") && last.contains("size field is 3"),
        "{last}"
    );
}
