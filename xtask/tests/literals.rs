//! Numbers of registers stand in the model's tables, and nowhere else.
//!
//! Looked at: the code of `uvfio-pci` outside `src/tables`, and of `uvfio-core`; comments, strings and unit tests
//! are not. What counts as a register's number:
//!
//! - a hexadecimal literal, unless it is all ones (a lane's or a word's whole mask, and what a device that is
//!   gone reads);
//! - in `uvfio-pci` also a single bit by its number, `1 << 10`.
//!
//! A number that is none of a register's all the same has a row in [`EXCEPTIONS`], with the reason. What this
//! cannot see is an offset written in decimal; the reader has to.
#![allow(clippy::expect_used)] // A check that cannot read what it checks has failed.

use std::path::{Path, PathBuf};

/// (end of the file's path, the literal, why it is no register's number)
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "uvfio-pci/src/compile.rs",
        "0x40",
        "where a layout begins to place capabilities: its own choice",
    ),
    (
        "uvfio-pci/src/compile.rs",
        "0x100",
        "where extended configuration space begins: a border, not a register",
    ),
    (
        "uvfio-pci/src/compile.rs",
        "1 << 31",
        "the largest 32-bit BAR, in bytes",
    ),
    (
        "uvfio-pci/src/compile.rs",
        "1 << 63",
        "the largest 64-bit BAR, in bytes",
    ),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace's root")
        .to_path_buf()
}

/// Blanks out comments, strings and character literals; lines stay where they are.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let starts = |at: usize, what: &str| bytes[at..].starts_with(what.as_bytes());
    while at < bytes.len() {
        let length = if starts(at, "//") {
            text[at..].find('\n').unwrap_or(text.len() - at)
        } else if starts(at, "/*") {
            text[at..].find("*/").map_or(text.len() - at, |end| end + 2)
        } else if starts(at, "\"") {
            string_length(&bytes[at..])
        } else if starts(at, "'\\") || (bytes[at] == b'\'' && bytes.get(at + 2) == Some(&b'\'')) {
            bytes[at + 2..]
                .iter()
                .position(|b| *b == b'\'')
                .map_or(bytes.len() - at, |end| end + 3)
        } else {
            0
        };
        if length == 0 {
            out.push(char::from(bytes[at]));
            at += 1;
        } else {
            out.extend(
                bytes[at..at + length]
                    .iter()
                    .map(|b| if *b == b'\n' { '\n' } else { ' ' }),
            );
            at += length;
        }
    }
    out
}

/// The length of the string literal that `bytes` begins with, quotes included.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Blanks out every `#[cfg(test)]` item with a body.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let body = out[start..].find(['{', ';']).map_or(out.len(), |at| start + at);
        let mut depth = 0_i32;
        let mut end = out.len();
        for (at, c) in out[body..].char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if depth == 0 {
                end = body + at + 1;
                break;
            }
        }
        let blank: String = out[start..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        out.replace_range(start..end, &blank);
    }
    out
}

/// Words of a line that could be names or numbers.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|w| !w.is_empty())
}

/// A literal without its type's suffix and underscores, in lower case.
fn plain(literal: &str) -> String {
    let mut text = literal.to_ascii_lowercase().replace('_', "");
    for suffix in ["u8", "u16", "u32", "u64", "u128", "usize", "i32", "i64"] {
        if let Some(rest) = text.strip_suffix(suffix) {
            text = rest.to_owned();
            break;
        }
    }
    text
}

/// Hexadecimal literals of a line that are not all ones.
fn hexadecimal(line: &str) -> Vec<String> {
    words(line)
        .filter(|w| w.starts_with("0x") || w.starts_with("0X"))
        .map(plain)
        .filter(|w| !w["0x".len()..].chars().all(|c| c == 'f'))
        .collect()
}

/// Single bits of a line, by number: `1 << 10`, `1_u32 << 10`.
fn bits(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("<<") {
        let left = line[..at].trim_end();
        let left = words(left).last().filter(|w| left.ends_with(*w)).map(plain);
        let right = line[at + 2..].trim_start();
        let digits: String = right.chars().take_while(char::is_ascii_digit).collect();
        if left.as_deref() == Some("1") && !digits.is_empty() {
            found.push(format!("1 << {digits}"));
        }
    }
    found
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .expect("the folder can be read")
        .flatten()
    {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every literal in `folder` that looks like a register's, except below `folder/tables`, as (place, literal).
fn literals(folder: &Path, also_bits: bool) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for path in sources(folder)
        .iter()
        .filter(|p| !p.starts_with(folder.join("tables")))
    {
        let text = std::fs::read_to_string(path).expect("a source file is text");
        for (number, line) in without_tests(&code_only(&text)).lines().enumerate() {
            let mut here = hexadecimal(line);
            if also_bits {
                here.extend(bits(line));
            }
            let place = format!("{}:{}", path.display(), number + 1);
            found.extend(here.into_iter().map(|literal| (place.clone(), literal)));
        }
    }
    found
}

fn excepted(place: &str, literal: &str) -> bool {
    let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
    EXCEPTIONS
        .iter()
        .any(|(end, which, _)| file.ends_with(end) && *which == literal)
}

#[test]
fn register_numbers_stand_only_in_the_tables() {
    let root = workspace();
    let mut found = literals(&root.join("crates/uvfio-pci/src"), true);
    found.extend(literals(&root.join("crates/uvfio-core/src"), false));
    found.retain(|(place, literal)| !excepted(place, literal));
    let list: Vec<_> = found
        .iter()
        .map(|(place, literal)| format!("{place}: {literal}"))
        .collect();
    assert!(
        list.is_empty(),
        "numbers that look like a register's offset or mask, outside crates/uvfio-pci/src/tables:\n  {}",
        list.join("\n  ")
    );
}

#[test]
fn every_exception_is_still_needed() {
    let root = workspace();
    let mut found = literals(&root.join("crates/uvfio-pci/src"), true);
    found.extend(literals(&root.join("crates/uvfio-core/src"), false));
    for (file, literal, reason) in EXCEPTIONS {
        let used = found.iter().any(|(place, l)| {
            l == literal
                && place
                    .rsplit_once(':')
                    .is_some_and(|(path, _)| path.ends_with(file))
        });
        assert!(
            used,
            "{file} no longer has {literal} ({reason}): take the exception away"
        );
    }
}

/// The check is worth only what it sees.
#[test]
fn the_check_sees_what_it_should() {
    let code = "let a = 0x04; // 0x08\nlet s = \"0x0c\"; let c = '\"'; let b = 0xFFFF_FFFF_u32; let d = 1_u16 << 10;\n\
                #[cfg(test)]\nmod tests { const X: u8 = 0x77; }\nlet e = 0x3Cu16;";
    let seen: Vec<_> = without_tests(&code_only(code))
        .lines()
        .enumerate()
        .flat_map(|(n, l)| hexadecimal(l).into_iter().chain(bits(l)).map(move |w| (n + 1, w)))
        .collect();
    let want = [(1, "0x04"), (2, "1 << 10"), (5, "0x3c")].map(|(n, w)| (n, w.to_owned()));
    assert_eq!(seen, want);
}
