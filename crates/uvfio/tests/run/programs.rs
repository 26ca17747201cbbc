//! Programs that drive a device through VFIO.

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::{text_of, told, uvfio_run, uvfio_run_by, uvfio_run_verb};

/// Compiles a program in C with `options`; it lies in a folder that all may read.
pub(crate) fn compile(source: &str, options: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/run/programs")
        .join(source);
    let mut cc = Command::new("cc");
    cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .args(options);
    text_of(&mut cc);
    (folder, program)
}

#[test]
fn a_program_compiled_with_checks_of_its_buffers_reaches_its_device() {
    let (_folder, program) = compile("edu.c", &["-O2", "-D_FORTIFY_SOURCE=2"]);
    let seen = text_of(
        uvfio_run(&["edu"])
            .arg(program)
            .args(["/dev/vfio/1", "0000:01:00.0"]),
    );
    assert!(seen.ends_with("interrupts: 1\n"), "{seen}");
}

#[test]
fn a_second_device_is_another_group() {
    let (_folder, program) = compile("edu.c", &[]);
    let mut run = uvfio_run(&["nvme,mem=1M", "edu"]);
    let seen = text_of(run.arg(program).args(["/dev/vfio/2", "0000:01:01.0"]));
    assert!(seen.contains("10! = 3628800"), "{seen}");
}

/// What a program in Python prints.
fn python(script: &str, way: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run/programs");
    let mut run = uvfio_run_by(way, &["edu"]);
    text_of(run.arg("/usr/bin/python3").arg(folder.join(script)))
}

#[test]
fn open_files_are_what_they_are_with_the_kernel() {
    assert_eq!(python("files.py", "preload"), "as the kernel's\n");
}

#[test]
fn a_device_is_reached_by_a_file_of_its_own_and_iommufd() {
    for way in ["preload", "seccomp"] {
        assert_eq!(python("cdev.py", way), "by /dev/iommu\n", "{way}");
    }
}

/// Nothing is preloaded to it, so the kernel tells of its calls.
#[test]
fn a_static_program_does_it_by_calls() {
    let seen = printed_by("calls.c", &["-static"], "edu");
    assert_eq!(seen, "11e81234\n5! = 120\nmmap: not offered\nall by calls\n");
}

#[test]
fn the_way_of_catching_can_be_chosen() {
    let (_folder, program) = compile("calls.c", &[]);
    for (way, mapped) in [("preload", "mmap: offered\n"), ("seccomp", "mmap: not offered\n")] {
        let mut run = uvfio_run_by(way, &["edu"]);
        let seen = text_of(run.arg(&program));
        assert!(
            seen.contains(mapped) && seen.ends_with("all by calls\n"),
            "{way}: {seen}"
        );
    }
}

#[test]
fn threads_children_and_other_programs_share_a_device() {
    for (way, options) in [
        ("preload", ["-pthread"].as_slice()),
        ("seccomp", &["-pthread", "-static"]),
    ] {
        let (_folder, program) = compile("family.c", options);
        let mut run = uvfio_run_by(way, &["edu"]);
        assert_eq!(text_of(run.arg(program)), "one device for all\n", "{way}");
    }
}

/// Each has its own group 1, which opens once, and a register of its own.
#[test]
fn a_hundred_at_a_time_do_not_see_each_other() {
    let (_folder, program) = compile("alone.c", &[]);
    let runs: Vec<_> = (1..=100_u32)
        .map(|number| {
            let mut run = uvfio_run(&["edu"]);
            run.arg(&program).arg(number.to_string());
            let run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            (number, run)
        })
        .collect();
    // Each has written before any reads again, and ends when told so.
    let mut runs: Vec<_> = runs
        .into_iter()
        .map(|(number, mut run)| {
            let mut line = String::new();
            let mut output = BufReader::new(run.stdout.take().unwrap());
            output.read_line(&mut line).unwrap();
            assert_eq!(line, "written\n", "run {number}");
            (number, run, output)
        })
        .collect();
    for (number, run, output) in &mut runs {
        drop(run.stdin.take());
        let mut said = String::new();
        output.read_to_string(&mut said).unwrap();
        assert_eq!(said, format!("{number:#010x}, 1 function\n"));
        assert!(run.wait().unwrap().success(), "run {number}");
    }
}

/// What a program prints, compiled with `options`, that drives the one device there is.
fn printed_by(source: &str, options: &[&str], device: &str) -> String {
    let (_folder, program) = compile(source, options);
    text_of(uvfio_run(&[device]).arg(program))
}

#[cfg(target_arch = "x86_64")]
#[test]
fn instructions_do_to_a_bar_what_they_do_to_memory() {
    // Below the stack's end there would be what an instruction here pushes.
    let seen = printed_by("instructions.c", &["-mno-red-zone"], "nvme,mem=1M");
    assert!(
        seen.ends_with(" instructions, 0 wrong\n") && seen.len() < 40,
        "{seen}"
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_of_a_bar_is_memory_is_mapped_as_memory() {
    assert_eq!(
        printed_by("doorbells.c", &[], "nvme,mem=1M,poll=always"),
        "mapped in part\n"
    );
}

/// Nobody sees its call of mmap.
#[test]
fn by_calls_alone_not_even_memory_of_a_bar_is_offered_to_be_mapped() {
    let (_folder, program) = compile("doorbells.c", &[]);
    let output = uvfio_run_by("seccomp", &["nvme,mem=1M,poll=always"])
        .arg(program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.starts_with("the BAR can't be mapped"), "{}", told(&output));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_instruction_that_cannot_be_done_is_a_crash_and_a_sentence() {
    let (_folder, program) = compile("unknown.c", &[]);
    let output = uvfio_run(&["edu"]).arg(program).output().unwrap();
    assert_eq!(
        output.status.signal(),
        Some(Signal::SEGV.as_raw()),
        "{}",
        told(&output)
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("Xadd at 0x") && said.lines().count() == 1, "{said}");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_mapped_bar_leaves_the_program_its_signals_and_lasts_as_long_as_it_is_mapped() {
    assert_eq!(printed_by("mapped.c", &["-O1", "-pthread"], "edu"), "mapped\n");
}

#[test]
fn memory_mapped_for_dma_stays_what_it_was() {
    for way in ["preload", "seccomp"] {
        let (_folder, program) = compile("memory.c", &[]);
        let mut run = uvfio_run_by(way, &["edu"]);
        assert_eq!(text_of(run.arg(program)), "pinned\n", "{way}");
    }
}

#[test]
fn every_form_of_reading_and_writing_does_what_it_does_with_the_kernel() {
    for (way, options) in [("preload", [].as_slice()), ("seccomp", &["-static"])] {
        let (_folder, program) = compile("transfer.c", options);
        let mut run = uvfio_run_by(way, &["edu"]);
        assert_eq!(text_of(run.arg(program).arg(way)), "read and written\n", "{way}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn threads_may_map_and_unmap_bars_at_a_time() {
    assert_eq!(
        printed_by("races.c", &["-O1", "-pthread"], "edu"),
        "each its own\n"
    );
}

/// By preload nothing may wait for what waits for it; by seccomp each has a number of its own.
#[test]
fn threads_may_open_and_close_a_device_at_a_time() {
    for (way, options) in [
        ("preload", ["-pthread"].as_slice()),
        ("seccomp", &["-pthread", "-static"]),
    ] {
        let (_folder, program) = compile("closing.c", options);
        let mut run = uvfio_run_by(way, &["edu"]);
        assert_eq!(text_of(run.arg(program)), "opened and closed\n", "{way}");
    }
}

#[test]
fn a_library_of_the_program_may_call_before_ours_has_been_made_ready() {
    let (folder, library) = compile("early.c", &["-shared", "-fPIC", "-DLIBRARY"]);
    let library_name = library.with_file_name("libearly.so");
    std::fs::rename(&library, &library_name).unwrap();
    let folder = folder.path().to_str().unwrap().to_owned();
    let (_other, program) = compile(
        "early.c",
        &["-L", &folder, "-learly", &format!("-Wl,-rpath,{folder}")],
    );
    assert_eq!(text_of(uvfio_run(&["edu"]).arg(program)), "early\n");
}

/// The loader is a program without a loader, and yet brings libraries.
#[test]
fn a_program_started_by_the_loader_takes_the_library() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let loader = maps.split_whitespace().find(|word| word.contains("/ld-"));
    let (_folder, program) = compile("calls.c", &[]);
    let mut run = uvfio_run(&["edu"]);
    let seen = text_of(run.arg(loader.expect("this test has a loader")).arg(program));
    assert!(
        seen.contains("mmap: offered\n") && seen.ends_with("all by calls\n"),
        "{seen}"
    );
}

#[test]
fn locked_memory_counts_where_that_is_asked_for() {
    let (_folder, program) = compile("locked.c", &[]);
    let counted = "3: ENOMEM, 2: done, 1 more: ENOMEM, ";
    let not_counted = "3: done, 2: done, 1 more: done, ";
    for (limit, by_container, by_iommu) in [
        (
            "rlimit",
            format!("{counted}2 beside 1 that is locked: ENOMEM, 1: done"),
            "3: ENOMEM, 2: done, 1 more: ENOMEM",
        ),
        (
            "8K",
            format!("{counted}2 beside 1 that is locked: done, 1: ENOMEM"),
            "3: ENOMEM, 2: done, 1 more: ENOMEM",
        ),
        (
            "unlimited",
            format!("{not_counted}2 beside 1 that is locked: done, 1: done"),
            "3: done, 2: done, 1 more: done",
        ),
    ] {
        for way in ["preload", "seccomp"] {
            let mut run = uvfio_run_verb(&["edu"]);
            run.args(["--via", way, "--locked-memory", limit, "--"]);
            let seen = text_of(run.arg(&program));
            assert_eq!(seen, format!("{by_container}\n{by_iommu}\n"), "{limit}, {way}");
        }
    }
    // Without the option there is no limit.
    let seen = text_of(uvfio_run(&["edu"]).arg(&program));
    assert!(seen.starts_with(not_counted), "{seen}");
}

/// Cargo builds a package's examples for its tests.
#[test]
fn a_program_by_the_library_of_rust_vmm_drives_edu() {
    let example = Path::new(env!("CARGO_BIN_EXE_uvfio")).with_file_name("examples/rust_vmm");
    for way in ["preload", "seccomp"] {
        let mut run = uvfio_run_by(way, &["edu"]);
        let seen = text_of(run.arg(&example).arg("0000:01:00.0"));
        assert_eq!(seen, "8 interrupts at most\n6! = 720\ninterrupts: 1\n", "{way}");
    }
}
