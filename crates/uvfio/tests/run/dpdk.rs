//! DPDK's drivers, of Debian's package `dpdk-dev`, without huge pages. With them it runs in a virtual machine, whose root may
//! reserve some: `cargo xtask vm run-dpdk`.

use std::process::{Command, Stdio};

use crate::programs::compile;
use crate::{text_of, uvfio_run};

/// What a program of DPDK's prints under `uvfio run` with some devices.
fn printed(devices: &[&str], program: &str, options: &[&str], test: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let mut run = uvfio_run(devices);
    run.args([
        program,
        "--no-huge",
        "-m",
        "64",
        "--iova-mode=va",
        "-l",
        "0",
        "--no-telemetry",
    ])
    .args(options)
    .env("DPDK_TEST", test)
    .env("XDG_RUNTIME_DIR", folder.path())
    .stdin(Stdio::null());
    text_of(&mut run)
}

/// DPDK's own test of DMA engines.
#[test]
fn dpdk_finds_its_dma_engine_and_is_content_with_it() {
    let seen = printed(&["ioat"], "dpdk-test", &["-a", "0000:01:00.0"], "dmadev_autotest");
    // It tests its own engine in software, too, which can't fill.
    for part in [
        "Test dmadev instance 0 [0000:01:00.0]",
        "DMA Dev 0: Running copy Tests",
        "DMA Dev 0: Running burst capacity Tests",
        "DMA Dev 0: Running fill Tests",
        "Test OK",
    ] {
        assert!(seen.contains(part), "{part:?} is not in:\n{seen}");
    }
}

/// Without being told which: it takes all that there are, and there are no others.
#[test]
fn of_several_devices_dpdk_finds_these_alone_and_drives_its_dma_engines() {
    let flags = text_of(Command::new("pkg-config").args(["--cflags", "libdpdk"]));
    let mut options = vec!["-DALLOW_EXPERIMENTAL_API"];
    options.extend(flags.split_whitespace());
    options.extend(["-lrte_dmadev", "-lrte_eal"]);
    let (_folder, program) = compile("dpdk.c", &options);
    let seen = printed(
        &["ioat", "nvme,mem=1M", "ioat,channels=2", "edu"],
        program.to_str().unwrap(),
        &[],
        "",
    );
    // DPDK's driver says something, too.
    let lines: Vec<_> = seen.lines().filter(|line| line.starts_with("0000:")).collect();
    assert_eq!(
        lines,
        [
            "0000:01:00.0: dmadev_ioat",
            "0000:01:01.0: no driver",
            "0000:01:02.0: dmadev_ioat",
            "0000:01:03.0: no driver",
            "0000:01:00.0: copied, pages of 4 KiB",
            "0000:01:02.0: copied, pages of 4 KiB",
        ],
        "{seen}"
    );
}
