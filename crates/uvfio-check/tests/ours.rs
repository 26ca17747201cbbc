//! The kit on servers that are meant to be right: nothing fails.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails should say so"
)]

mod common;

use std::sync::Arc;

use common::proxy::{Broken, NO_FAULT};
use common::{Ours, PATIENT, Windows, edu, notify, nvme};
use uvfio_check::{Report, Server, check_server};
use uvfio_nvme::PollConfig;

/// Deviations that are meant, and no others.
const DEVIATIONS: [&str; 3] = ["dma.unmap_nothing", "dma.unmap_two", "disconnect.state"];

fn check(server: &dyn Server) -> Report {
    let report = check_server(server, PATIENT, "", |_| {});
    assert!(report.good(), "{report}");
    let deviations: Vec<_> = report
        .cases
        .iter()
        .filter(|row| row.outcome.word() == "deviation")
        .map(|row| row.name)
        .collect();
    assert_eq!(deviations, DEVIATIONS, "{report}");
    report
}

/// The names of cases that could not be tried.
fn not_tried(report: &Report) -> Vec<&'static str> {
    let rows = report.cases.iter().filter(|row| row.outcome.word() == "n/a");
    rows.map(|row| row.name).collect()
}

#[test]
fn edu_passes_every_case() {
    let report = check(&Ours::new(edu()));
    assert_eq!(
        not_tried(&report),
        [
            "version.twin_socket",
            "region_info.caps",
            "region_info.caps_cut",
            "io_fds.entries",
            "io_fds.cut",
            "irqs.msix"
        ],
        "{report}"
    );
}

/// Without the cases that need a device whose DMA the kit can command: edu.
fn but_dma(names: Vec<&str>) -> Vec<&str> {
    let of_dma = |name: &&str| name.starts_with("by_message.");
    assert!(names.iter().any(of_dma), "{names:?}");
    names.into_iter().filter(|name| !of_dma(name)).collect()
}

#[test]
fn nvme_passes_every_case() {
    let report = check(&Ours::new(nvme(PollConfig::default())));
    assert_eq!(
        but_dma(not_tried(&report)),
        [
            "version.twin_socket",
            "region_info.caps",
            "region_info.caps_cut",
            "io_fds.entries",
            "io_fds.cut",
            "irqs.msi"
        ],
        "{report}"
    );
}

#[test]
fn nvme_with_mapped_doorbells_passes_every_case() {
    let report = check(&Ours::new(nvme(PollConfig::Always)));
    assert_eq!(
        but_dma(not_tried(&report)),
        ["version.twin_socket", "io_fds.entries", "io_fds.cut", "irqs.msi"],
        "{report}"
    );
}

#[test]
fn notify_passes_every_case() {
    let report = check(&Ours::new(notify()));
    assert_eq!(
        but_dma(not_tried(&report)),
        [
            "version.twin_socket",
            "region_info.caps",
            "region_info.caps_cut",
            "irqs.intx",
            "irqs.msi",
            "irqs.bool",
            "irqs.mask"
        ],
        "{report}"
    );
}

#[test]
fn a_device_with_mappable_bars_passes_every_case() {
    let report = check(&Ours::new(Arc::new(Windows::new())));
    assert!(!not_tried(&report).contains(&"region_info.caps"), "{report}");
}

#[test]
fn a_proxy_without_fault_changes_nothing() {
    check(&Broken::new(Ours::new(edu()), NO_FAULT));
}

#[test]
fn case_names_are_unique_and_sentences_are_there() {
    let mut names: Vec<_> = uvfio_check::all().map(|case| case.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for case in uvfio_check::all() {
        assert!(
            !case.what.is_empty() && !case.expected.is_empty() && case.name.contains('.'),
            "{case:?}"
        );
    }
}
