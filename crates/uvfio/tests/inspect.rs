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
