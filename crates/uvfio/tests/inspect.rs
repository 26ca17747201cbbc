//! `uvfio show` and `uvfio explain`.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

use std::process::{Command, Output};

use serde_json::Value;

fn uvfio(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvfio"))
        .args(args)
        .output()
        .expect("the command starts")
}

#[track_caller]
fn says(args: &[&str]) -> String {
    let output = uvfio(args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "uvfio {args:?} ended with {}: {stderr}",
        output.status
    );
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&says(args)).expect("JSON")
}

/// The value of a field in the output of `show --json`.
#[track_caller]
fn field(function: &Value, structure: &str, field: &str) -> u64 {
    let structures = function["structures"].as_array().expect("structures");
    let found = structures
        .iter()
        .filter(|s| s["name"].as_str().is_some_and(|name| name.contains(structure)))
        .flat_map(|s| s["registers"].as_array().expect("registers"))
        .flat_map(|r| r["fields"].as_array().expect("fields"))
        .find(|f| f["name"] == field);
    found.unwrap_or_else(|| panic!("no field {field:?} in {structure:?}: {function:#}"))["value"]
        .as_u64()
        .expect("a number")
}

#[test]
fn show_decodes_a_device_with_each_capability_and_its_fields() {
    let text = says(&["show", "edu"]);
    for part in [
        "1234:11e8",
        "Unclassified device [00ff00], revision 10",
        "BAR 0  32-bit memory, 1 MiB",
        "Power Management",
        "Message Signalled Interrupts",
        "Multiple Message Capable 0x3",
        "Function Level Reset Capability+",
        "Bus Master Enable-",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let function = json(&["show", "edu", "--json"]);
    assert_eq!(function["identity"]["vendor"], 0x1234);
    assert_eq!(function["bars"][0]["bytes"], 1 << 20);
    assert_eq!(
        field(&function, "Message Signalled", "Multiple Message Capable"),
        3
    );
}

#[test]
fn show_names_what_the_database_of_ids_knows() {
    let text = says(&["show", "nvme,mem=1M"]);
    assert!(text.contains("Non-Volatile memory controller"), "{text}");
    assert!(text.contains("MSI-X"), "{text}");
    let without = says(&["show", "nvme,mem=1M,msix=off"]);
    assert!(
        !without.contains("MSI-X") && without.contains("Message Signalled"),
        "{without}"
    );
}

#[test]
fn explain_tells_for_each_view_what_is_read_and_what_becomes_of_a_write() {
    let fields = json(&["explain", "edu", "0x04", "--json"]);
    let bus_master = fields
        .as_array()
        .expect("fields")
        .iter()
        .find(|f| f["field"] == "Bus Master Enable")
        .unwrap_or_else(|| panic!("no bus master in {fields:#}"));
    assert_eq!(bus_master["lsb"], 2);
    assert!(
        bus_master["section"]
            .as_str()
            .is_some_and(|s| s.contains("6.2.2")),
        "{bus_master:#}"
    );
    let views = bus_master["views"].as_array().expect("views");
    let names: Vec<&str> = views.iter().filter_map(|v| v["view"].as_str()).collect();
    assert_eq!(names, ["virtual", "filtered", "raw"]);
    for view in views {
        assert_eq!(
            (&view["reads"], &view["then_reads"]),
            (&Value::from(0), &Value::from(1)),
            "{view:#}"
        );
        assert!(
            view["effects"].to_string().contains("bus mastering goes on"),
            "{view:#}"
        );
    }
}

#[test]
fn explain_shows_that_a_view_stops_a_write_that_another_lets_pass() {
    // BAR 0's address: the virtual user sizes and moves its own, the filtered user must not move the real one.
    let fields = json(&["explain", "edu", "0x13", "--json"]);
    let views = fields[0]["views"].as_array().expect("views");
    assert_eq!(fields[0]["field"], "Base Address", "{fields:#}");
    let changed: Vec<bool> = views.iter().map(|v| v["reads"] != v["then_reads"]).collect();
    assert_eq!(changed, [true, false, true], "{views:#?}");
    assert!(
        views[1]["why"]
            .as_str()
            .is_some_and(|why| why.contains("stopped")),
        "{:#}",
        views[1]
    );
}

#[test]
fn explain_says_of_an_undeclared_byte_that_it_reads_0() {
    let text = says(&["explain", "edu", "0x200"]);
    assert!(text.contains("no field of any structure"), "{text}");
    for view in ["virtual", "filtered", "raw"] {
        assert!(
            text.contains(&format!("{view:<9} reads 0x00; a write is dropped")),
            "{text}"
        );
    }
}

/// edu's configuration space at power-on.
fn page() -> Vec<u8> {
    use uvfio_core::Device;
    let edu = uvfio_soft::edu::Edu::new(uvfio_soft::edu::Config::default()).expect("a device");
    let layout =
        uvfio_pci::Layout::compile(&edu.blueprint(), uvfio_pci::View::Virtual).expect("a possible function");
    let state = uvfio_pci::State::new(&layout);
    let dword = |n| uvfio_pci::read(&layout, &state, uvfio_pci::Window::Config, n);
    (0..1024).flat_map(|n| dword(n).to_le_bytes()).collect()
}

#[test]
fn a_dump_shows_the_same_structures_as_the_device_it_was_taken_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let page = page();
    let rows = page.chunks(16).enumerate().map(|(n, row)| {
        let bytes: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:02x}: {}\n", n * 16, bytes.join(" "))
    });
    let text = format!(
        "00:01.0 Unclassified device [00ff]: Device 1234:11e8\n{}",
        rows.collect::<String>()
    );
    std::fs::write(path("page.bin"), &page).expect("written");
    std::fs::write(path("page.txt"), text).expect("written");

    // A dump can't tell a BAR that holds 0 from none.
    let structures = |mut function: Value| {
        let registers = function["structures"][0]["registers"]
            .as_array_mut()
            .expect("the header");
        registers.retain(|register| register["offset"] != 0x10);
        function["structures"].take()
    };
    let device = json(&["show", "edu", "--json"]);
    let expected = structures(device.clone());
    for dump in ["page.bin", "page.txt"] {
        for view in ["virtual", "filtered", "raw"] {
            let shown = json(&["show", &path(dump), "--view", view, "--json"]);
            assert_eq!(
                shown["identity"], device["identity"],
                "identity of {dump}, {view} view"
            );
            assert_eq!(structures(shown), expected, "structures of {dump}, {view} view");
        }
    }
    // Message control of MSI, which the views treat differently.
    let explained = json(&["explain", &path("page.bin"), "0x4a", "--json"]);
    assert_eq!(
        explained,
        json(&["explain", "edu", "0x4a", "--json"]),
        "MSI control of page.bin"
    );
}

#[test]
fn a_structure_that_no_table_describes_is_shown_raw_and_hidden_in_the_virtual_view() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("page.bin").display().to_string();
    let mut page = page();
    // Between power management (0x40) and MSI (0x48): HyperTransport (ID 8) at 0xe0, with data behind its header.
    page[0x41] = 0xe0;
    page[0xe0..0xe8].copy_from_slice(&[0x08, 0x48, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    std::fs::write(&path, &page).expect("written");
    let raw = says(&["show", &path]);
    assert!(raw.contains("[0e0] Unknown capability"), "{raw}");
    let hidden = says(&["show", &path, "--view", "virtual"]);
    assert!(!hidden.contains("[0e0]"), "{hidden}");
    let function = json(&["show", &path, "--view", "virtual", "--json"]);
    assert_eq!(
        field(&function, "Power Management", "Next Capability Pointer"),
        0x48,
        "the chain goes past it"
    );
    let bytes = says(&["explain", &path, "0xe2"]);
    assert!(
        bytes.contains("virtual   reads 0x00") && bytes.contains("raw       reads 0xaa"),
        "{bytes}"
    );
}

#[test]
fn what_is_wrong_with_a_chain_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("page.bin").display().to_string();
    let mut page = page();
    page[0x49] = 0x40;
    std::fs::write(&path, &page).expect("written");
    let text = says(&["show", &path]);
    assert!(
        text.lines()
            .any(|line| line.trim_start().starts_with("! ") && line.contains("0x040")),
        "{text}"
    );
}

#[test]
fn a_file_that_is_no_dump_ends_with_status_2_and_a_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content, sentence) in [
        ("short", vec![1; 100], "neither a binary configuration space"),
        ("ones", vec![0xff; 256], "all ones"),
        (
            "bridge",
            [&[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 6, 0, 0, 1][..], &[0; 241]].concat(),
            "type 0 header",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        let output = uvfio(&["show", &path.display().to_string()]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(
            said.contains(sentence),
            "{name} should be refused with {sentence:?}, but: {said}"
        );
    }
}

#[test]
fn a_target_or_offset_that_is_not_there_ends_with_status_2_and_a_sentence() {
    for (args, sentence) in [
        (&["show", "/no/such/file"][..], "does not exist"),
        (&["show", "floppy"], "there is no device"),
        (&["show", "/"], "neither a socket nor a file"),
        (
            &["explain", "edu", "0x1000"],
            "an offset is a number from 0 to 0xfff",
        ),
        (
            &["explain", "edu", "four"],
            "an offset is a number from 0 to 0xfff",
        ),
    ] {
        let output = uvfio(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "uvfio {args:?}: {said}");
        assert!(
            said.contains(sentence),
            "uvfio {args:?} should say {sentence:?}, but said: {said}"
        );
    }
}
