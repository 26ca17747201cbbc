//! Configuration space from a file: the bytes themselves, or the text of `lspci -x`, `-xxx`, `-xxxx`.

use std::path::{Path, PathBuf};

/// Why a file holds no configuration space.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpError {
    #[error("{path:?} could not be read: {why}")]
    System { path: PathBuf, why: std::io::Error },
    #[error(
        "{path:?} is neither a binary configuration space (64, 256 or 4096 bytes; it has {bytes}) nor the text of \
         lspci -x, -xxx or -xxxx"
    )]
    Unknown { path: PathBuf, bytes: usize },
}

/// The largest file that is looked at: every function of a large machine by `lspci -xxxx`.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Reads a dump: 64, 256 or 4096 bytes, or as much as lspci showed. Of a text with several functions, the first.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DumpError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .map_err(|why| DumpError::System {
            path: path.into(),
            why,
        })?;
    if let Some(config) = std::str::from_utf8(&bytes).ok().and_then(from_lspci) {
        return Ok(config);
    }
    match bytes.len() {
        64 | 256 | 4096 => Ok(bytes),
        bytes => Err(DumpError::Unknown {
            path: path.into(),
            bytes,
        }),
    }
}

/// The rows `OFFSET: xx xx ..` of the first function, which must follow each other without a gap.
fn from_lspci(text: &str) -> Option<Vec<u8>> {
    let mut config = Vec::new();
    for (offset, row) in text.lines().filter_map(row) {
        if offset == 0 && !config.is_empty() {
            break;
        }
        if offset != config.len() || offset + row.len() > 4096 {
            return None;
        }
        config.extend(row);
    }
    (config.len() >= 64).then_some(config)
}

fn row(line: &str) -> Option<(usize, Vec<u8>)> {
    let (offset, rest) = line.split_once(": ")?;
    if !(2..=3).contains(&offset.len()) {
        return None;
    }
    let offset = usize::from_str_radix(offset, 16).ok()?;
    let bytes: Option<Vec<u8>> = rest
        .split_ascii_whitespace()
        .map(|byte| {
            if byte.len() == 2 {
                u8::from_str_radix(byte, 16).ok()
            } else {
                None
            }
        })
        .collect();
    bytes.filter(|row| row.len() == 16).map(|row| (offset, row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rows: usize) -> String {
        let mut text = String::from("00:02.0 Unclassified device [00ff]: Device 1234:11e8 (rev 10)\n");
        for row in 0..rows {
            let bytes: Vec<String> = (0..16).map(|n| format!("{:02x}", (row + n) & 0xff)).collect();
            text += &format!("{:02x}: {}\n", row * 16, bytes.join(" "));
        }
        text
    }

    #[test]
    fn rows_of_lspci_are_read_in_every_length() {
        for (rows, bytes) in [(4, 64), (16, 256), (256, 4096)] {
            let config = from_lspci(&text(rows)).unwrap_or_else(|| panic!("{rows} rows"));
            assert_eq!(config.len(), bytes, "{rows} rows");
            assert_eq!(config[0x21], 3, "byte 0x21 of {rows} rows");
        }
    }

    #[test]
    fn the_first_of_several_functions_is_taken() {
        let both = text(4) + "\n" + &text(16);
        assert_eq!(from_lspci(&both).map(|c| c.len()), Some(64));
    }

    #[test]
    fn a_gap_or_other_text_is_no_dump() {
        assert_eq!(from_lspci("hello: world\n"), None);
        assert_eq!(from_lspci(&text(16).replace("20: ", "30: ")), None);
        assert_eq!(from_lspci(&text(2)), None);
    }
}
