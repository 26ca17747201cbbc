//! The first message: version and capabilities ("VFIO_USER_VERSION").
//!
//! The data is JSON from a stranger: its length, its nesting and its types are checked before anything is
//! believed. A reply is never longer than the request (QEMU gives up on a longer one), and names nothing that the
//! client did not propose, save the two limits that the client must know.

use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, IntoBytes};

use crate::message::{self, DEFAULT_DATA_BYTES, HEADER_BYTES};

/// The protocol's major version here.
pub const MAJOR: u16 = 0;
/// The highest minor version here.
pub const MINOR: u16 = 1;
/// Longest JSON taken, bytes.
pub const MAX_JSON_BYTES: usize = 16 * 1024;
/// Deepest nesting taken.
pub const MAX_JSON_DEPTH: usize = 8;
/// Most descriptors a message that are promised to be taken; QEMU refuses a server that says more.
pub const MAX_MSG_FDS: u32 = 16;

/// What a side says of itself; what it leaves out has the specification's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Most descriptors in one message to this side. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msg_fds: Option<u64>,
    /// Most data in one read or write, bytes. Default 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_data_xfer_size: Option<u64>,
    /// Most DMA mappings at a time. Default 65,535.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dma_maps: Option<u64>,
    /// Page sizes of mappings, or'ed together, bytes. Default 4096.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgsizes: Option<u64>,
    /// REGION_WRITE_MULTI is known. Default no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_multiple: Option<bool>,
    /// The device feature that tells the usable ranges of IOVAs is known
    /// ([`IOVA_RANGES`](crate::message::feature_number::IOVA_RANGES)); this project's own. Default no: not every server
    /// survives a DEVICE_FEATURE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iova_ranges: Option<bool>,
}

impl Capabilities {
    /// Most descriptors in one message to this side.
    #[must_use]
    pub fn msg_fds(&self) -> usize {
        usize::try_from(self.max_msg_fds.unwrap_or(1)).unwrap_or(usize::MAX)
    }

    /// Most data in one read or write, bytes.
    #[must_use]
    pub fn data_bytes(&self) -> u32 {
        let bytes = self.max_data_xfer_size.unwrap_or(u64::from(DEFAULT_DATA_BYTES));
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Data {
    #[serde(default)]
    capabilities: Option<Capabilities>,
}

/// A VERSION payload, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// The capabilities; `None` where there was no JSON.
    pub capabilities: Option<Capabilities>,
}

/// Why a VERSION payload was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Too short.
    #[error("the payload has {0} bytes; major and minor version need 4")]
    Short(usize),
    /// Too long.
    #[error("the JSON has {0} bytes; at most {MAX_JSON_BYTES} are read")]
    Long(usize),
    /// Not ended, or ended early.
    #[error("the JSON must end with its only NUL byte")]
    Nul,
    /// Too deep.
    #[error("the JSON is nested deeper than {MAX_JSON_DEPTH}")]
    Deep,
    /// Not what it must be.
    #[error("the JSON is not as the specification has it: {0}")]
    Json(String),
    /// Another protocol.
    #[error("major version {0} is not spoken here; it is {MAJOR}")]
    Major(u16),
    /// No data could ever go.
    #[error("max_data_xfer_size is 0, so that no data could be read or written")]
    NoData,
    /// The server answered a later version than was asked.
    #[error("minor version {got} was answered to {asked}")]
    Minor {
        /// Asked.
        asked: u16,
        /// Answered.
        got: u16,
    },
}

/// Reads a VERSION payload.
///
/// # Errors
/// For what [`VersionError`] says; the version numbers are not judged.
pub fn read(payload: &[u8]) -> Result<Proposal, VersionError> {
    let Ok((fixed, json)) = message::Version::read_from_prefix(payload) else {
        return Err(VersionError::Short(payload.len()));
    };
    let capabilities = match json {
        // An empty string is no JSON, as none at all is.
        [] | [0] => None,
        json if json.len() > MAX_JSON_BYTES => return Err(VersionError::Long(json.len())),
        [json @ .., 0] if !json.contains(&0) => {
            if depth(json) > MAX_JSON_DEPTH {
                return Err(VersionError::Deep);
            }
            let data: Data =
                serde_json::from_slice(json).map_err(|error| VersionError::Json(error.to_string()))?;
            Some(data.capabilities.unwrap_or_default())
        }
        _ => return Err(VersionError::Nul),
    };
    if capabilities
        .as_ref()
        .is_some_and(|said| said.max_data_xfer_size == Some(0))
    {
        return Err(VersionError::NoData);
    }
    Ok(Proposal {
        major: fixed.major,
        minor: fixed.minor,
        capabilities,
    })
}

/// The server's payload in answer to `proposal`, whose message had `request_bytes` bytes.
///
/// # Errors
/// Where the major version is another.
pub fn answer(
    proposal: &Proposal,
    request_bytes: usize,
    ours: &Capabilities,
) -> Result<Vec<u8>, VersionError> {
    if proposal.major != MAJOR {
        return Err(VersionError::Major(proposal.major));
    }
    let fixed = message::Version {
        major: MAJOR,
        minor: proposal.minor.min(MINOR),
    };
    let room = request_bytes.saturating_sub(HEADER_BYTES + size_of::<message::Version>());
    let json = match &proposal.capabilities {
        Some(theirs) => fitting_json(theirs, ours, room)?,
        // A client without JSON takes the defaults for granted: it must be told of anything less.
        None if ours.data_bytes() < DEFAULT_DATA_BYTES => json_of(&Capabilities {
            max_data_xfer_size: ours.max_data_xfer_size,
            ..Capabilities::default()
        })?,
        None => Vec::new(),
    };
    let mut payload = fixed.as_bytes().to_vec();
    payload.extend_from_slice(&json);
    Ok(payload)
}

/// A client's payload.
///
/// # Errors
/// Never, save where JSON can't be written.
pub fn propose(ours: &Capabilities) -> Result<Vec<u8>, VersionError> {
    let mut payload = message::Version {
        major: MAJOR,
        minor: MINOR,
    }
    .as_bytes()
    .to_vec();
    payload.extend_from_slice(&json_of(ours)?);
    Ok(payload)
}

/// What a client makes of the server's answer.
///
/// # Errors
/// Where it is malformed, or a version that was not asked.
pub fn accept(payload: &[u8]) -> Result<Capabilities, VersionError> {
    let answer = read(payload)?;
    if answer.major != MAJOR {
        return Err(VersionError::Major(answer.major));
    }
    if answer.minor > MINOR {
        return Err(VersionError::Minor {
            asked: MINOR,
            got: answer.minor,
        });
    }
    Ok(answer.capabilities.unwrap_or_default())
}

/// The fullest JSON that is no longer than `room`, most needed capability first; none where not even the empty
/// object fits.
fn fitting_json(theirs: &Capabilities, ours: &Capabilities, room: usize) -> Result<Vec<u8>, VersionError> {
    let limits = Capabilities {
        max_data_xfer_size: ours.max_data_xfer_size,
        max_msg_fds: ours.max_msg_fds,
        ..Capabilities::default()
    };
    let writes = Capabilities {
        write_multiple: ours
            .write_multiple
            .filter(|_| theirs.write_multiple == Some(true)),
        ..limits.clone()
    };
    let maps = Capabilities {
        max_dma_maps: ours.max_dma_maps.filter(|_| theirs.max_dma_maps.is_some()),
        ..writes.clone()
    };
    let all = Capabilities {
        iova_ranges: ours.iova_ranges.filter(|_| theirs.iova_ranges == Some(true)),
        ..maps.clone()
    };
    let data = Capabilities {
        max_msg_fds: None,
        ..limits.clone()
    };
    for offer in [all, maps, writes, limits, data, Capabilities::default()] {
        let json = json_of(&offer)?;
        if json.len() <= room {
            return Ok(json);
        }
    }
    Ok(Vec::new())
}

/// JSON with its NUL.
fn json_of(capabilities: &Capabilities) -> Result<Vec<u8>, VersionError> {
    let data = Data {
        capabilities: Some(capabilities.clone()),
    };
    let mut json = serde_json::to_vec(&data).map_err(|error| VersionError::Json(error.to_string()))?;
    json.push(0);
    Ok(json)
}

/// How deep brackets nest outside strings; what is not JSON may give anything.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(major: u16, minor: u16, json: &[u8]) -> Vec<u8> {
        let mut bytes = message::Version { major, minor }.as_bytes().to_vec();
        bytes.extend_from_slice(json);
        bytes
    }

    fn ours() -> Capabilities {
        Capabilities {
            max_msg_fds: Some(16),
            max_data_xfer_size: Some(1 << 20),
            max_dma_maps: Some(65_535),
            write_multiple: Some(true),
            pgsizes: None,
            iova_ranges: Some(true),
        }
    }

    fn text(payload: &[u8]) -> String {
        String::from_utf8_lossy(&payload[4..])
            .trim_end_matches('\0')
            .to_owned()
    }

    #[test]
    fn what_is_not_version_data_is_refused() {
        let deep = [vec![b'['; 9], vec![b']'; 9], vec![0]].concat();
        let nested = [vec![b'['; 8000], vec![b']'; 8000], vec![0]].concat();
        let long = [vec![b' '; MAX_JSON_BYTES], vec![0]].concat();
        let rows: &[(&str, &[u8])] = &[
            ("no NUL", b"{}"),
            ("inner NUL", b"{\0}\0"),
            ("not JSON", b"hello\0"),
            ("half an object", b"{\"capabilities\":{\0"),
            (
                "a number of text",
                b"{\"capabilities\":{\"max_msg_fds\":\"16\"}}\0",
            ),
            ("a negative number", b"{\"capabilities\":{\"max_msg_fds\":-1}}\0"),
            ("capabilities no object", b"{\"capabilities\":7}\0"),
            (
                "the same key twice",
                b"{\"capabilities\":{\"max_msg_fds\":1,\"max_msg_fds\":2}}\0",
            ),
            (
                "no data at all",
                b"{\"capabilities\":{\"max_data_xfer_size\":0}}\0",
            ),
            ("not UTF-8", b"{\"\xff\":1}\0"),
            ("too deep", &deep),
            ("far too deep", &nested),
            ("too long", &long),
        ];
        for (name, json) in rows {
            let got = read(&payload(0, 1, json));
            assert!(got.is_err(), "{name}: {got:?}");
        }
        for short in [0, 1, 3] {
            assert_eq!(read(&vec![0; short]), Err(VersionError::Short(short)));
        }
    }

    #[test]
    fn unknown_capabilities_are_passed_over() {
        let json = b"{\"x\":[1],\"capabilities\":{\"migration\":{\"pgsize\":4096},\"max_msg_fds\":8}}\0";
        let got = read(&payload(0, 0, json)).expect("good");
        assert_eq!(got.capabilities.expect("there").max_msg_fds, Some(8));
    }

    #[test]
    fn brackets_in_strings_do_not_nest() {
        assert_eq!(depth(br#"{"a":"[[[[[[[[[[\"[[[["}"#), 1);
        assert_eq!(depth(b"[[]]{}"), 2);
    }

    #[test]
    fn the_minor_version_is_the_lower_one() {
        for (asked, want) in [(0, 0), (1, 1), (2, 1), (u16::MAX, 1)] {
            let proposal = read(&payload(0, asked, b"")).expect("good");
            let reply = answer(&proposal, 20, &ours()).expect("good");
            assert_eq!(read(&reply).expect("good").minor, want, "asked {asked}");
        }
        let proposal = read(&payload(1, 0, b"")).expect("good");
        assert_eq!(answer(&proposal, 20, &ours()), Err(VersionError::Major(1)));
    }

    #[test]
    fn the_reply_is_never_longer_than_a_request_with_json() {
        let proposal = read(&payload(
            0,
            1,
            b"{\"capabilities\":{\"write_multiple\":true,\"max_dma_maps\":9}}\0",
        ))
        .expect("good");
        let mut texts = Vec::new();
        for request in 20..300 {
            let reply = answer(&proposal, request, &ours()).expect("good");
            assert!(
                reply.len() + HEADER_BYTES <= request,
                "{request}: {}",
                text(&reply)
            );
            texts.push(text(&reply));
        }
        texts.dedup();
        assert_eq!(texts.len(), 6, "{texts:#?}");
        assert_eq!(texts[0], "");
        assert!(texts[5].contains("max_dma_maps"), "{}", texts[5]);
    }

    #[test]
    fn nothing_is_named_that_was_not_proposed() {
        let proposal = read(&payload(0, 1, b"{\"capabilities\":{}}\0")).expect("good");
        let reply = text(&answer(&proposal, 400, &ours()).expect("good"));
        assert!(
            ["write_multiple", "max_dma_maps", "iova_ranges"]
                .iter()
                .all(|name| !reply.contains(name)),
            "{reply}"
        );
        assert!(reply.contains("max_msg_fds"), "{reply}");
    }

    #[test]
    fn two_sides_of_this_project_agree_on_all() {
        let proposal = read(&propose(&ours()).expect("good")).expect("good");
        let agreed = accept(&answer(&proposal, 400, &ours()).expect("good")).expect("good");
        assert_eq!(agreed, ours());
    }

    #[test]
    fn a_client_without_json_gets_none_unless_the_limit_is_lower_than_the_default() {
        let proposal = read(&payload(0, 1, b"")).expect("good");
        assert_eq!(answer(&proposal, 20, &ours()).expect("good").len(), 4);
        let low = Capabilities {
            max_data_xfer_size: Some(4096),
            ..ours()
        };
        assert!(text(&answer(&proposal, 20, &low).expect("good")).contains("4096"));
    }
}
