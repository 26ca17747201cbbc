//! Every seed of the fuzz targets, and all that they ever found, through the targets.

#[path = "../../../fuzz/src/lib.rs"]
#[allow(
    clippy::pedantic,
    missing_docs,
    unreachable_pub,
    reason = "a crate of its own"
)]
mod uvfio_fuzz;

use std::path::Path;

/// Runs the seeds of one target, and as many cuts of each.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap_or_default();
        println!("{}", entry.path().display());
        run(&bytes);
        run(bytes.get(..bytes.len() / 2).unwrap_or_default());
        count += 1;
    }
    assert!(count > 0, "{} has no seeds", folder.display());
}

#[test]
fn seeds_of_the_server() {
    replay("server", uvfio_fuzz::server::run);
}

#[test]
fn seeds_of_the_model() {
    replay("config", uvfio_fuzz::config::run);
}

#[test]
fn seeds_of_capability_chains() {
    replay("chains", uvfio_fuzz::chains::run);
}

#[test]
fn seeds_of_the_dma_table() {
    replay("dma", uvfio_fuzz::dma::run);
}

#[test]
fn seeds_of_dma_descriptors() {
    replay("ioat", uvfio_fuzz::ioat::run);
}

#[test]
fn seeds_of_nvme_commands() {
    replay("nvme", uvfio_fuzz::nvme::run);
}
