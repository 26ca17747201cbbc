//! Where the machine gets Debian's packages from.
//!
//! The testbed asks the mirror that the machine itself uses, so that no mirror's name stands in
//! this project. Both forms of apt's source files are read: one line a source (`*.list`) and
//! paragraphs (`*.sources`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A mirror of Debian's archive, and the keys that sign it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    /// Where `dists/` and `pool/` lie
    pub(super) uri: String,
    /// The key file that the machine names for it; `None` leaves the choice to apt
    pub(super) signed_by: Option<PathBuf>,
}

/// Keys of every Debian release, where the package `debian-archive-keyring` is installed.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

impl Mirror {
    /// The mirror at `uri`, trusted by the keys that the machine has.
    pub(super) fn at(uri: &str) -> Self {
        let keyring = PathBuf::from(KEYRING);
        Self {
            uri: uri.to_owned(),
            signed_by: keyring.exists().then_some(keyring),
        }
    }

    /// The first mirror of Debian's main archive that the apt configuration in `etc_apt` names.
    pub(super) fn of_machine(etc_apt: &Path) -> Result<Self> {
        for file in source_files(etc_apt)? {
            let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
            let found = match file.extension().is_some_and(|e| e == "sources") {
                true => from_paragraphs(&text),
                false => from_lines(&text),
            };
            if let Some(mirror) = found {
                let named = mirror.signed_by.filter(|key| key.exists());
                return Ok(Self {
                    signed_by: named.or(Self::at("").signed_by),
                    uri: mirror.uri,
                });
            }
        }
        bail!(
            "no source in {} is a mirror of Debian's main archive; name one with --mirror URL",
            etc_apt.display()
        )
    }
}

fn source_files(etc_apt: &Path) -> Result<Vec<PathBuf>> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        let mut more = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
        more.retain(|path| path.extension().is_some_and(|e| e == "list" || e == "sources"));
        more.sort();
        files.append(&mut more);
    }
    files.retain(|path| path.is_file());
    Ok(files)
}

/// `deb [options] URI suite component...`
fn from_lines(text: &str) -> Option<Mirror> {
    text.lines().find_map(|line| {
        let line = line.split('#').next()?.trim();
        let rest = line
            .strip_prefix("deb")?
            .strip_prefix(char::is_whitespace)?
            .trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(inner) => inner.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        let suite = words.next()?;
        let key = options
            .split_whitespace()
            .find_map(|o| o.strip_prefix("signed-by="));
        is_debian_main(uri, &[suite], &words.collect::<Vec<_>>()).then(|| mirror(uri, key))
    })
}

/// Paragraphs of `Field: value`, the fields of one source.
fn from_paragraphs(text: &str) -> Option<Mirror> {
    let without_comments: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments
        .split(|line| line.trim().is_empty())
        .find_map(|paragraph| {
            let field = |name: &str| -> Vec<&str> {
                let of_field = |line: &&str| {
                    line.split_once(':')
                        .is_some_and(|(n, _)| n.eq_ignore_ascii_case(name))
                };
                let Some(start) = paragraph.iter().position(of_field) else {
                    return Vec::new();
                };
                let first = paragraph[start].split_once(':').map_or("", |(_, value)| value);
                let folded = paragraph[start + 1..]
                    .iter()
                    .take_while(|l| l.starts_with([' ', '\t']));
                std::iter::once(first)
                    .chain(folded.copied())
                    .flat_map(str::split_whitespace)
                    .collect()
            };
            if !field("Types").contains(&"deb") || field("Enabled").contains(&"no") {
                return None;
            }
            let (suites, components) = (field("Suites"), field("Components"));
            let uri = field("URIs")
                .into_iter()
                .find(|uri| is_debian_main(uri, &suites, &components))?;
            Some(mirror(uri, field("Signed-By").first().copied()))
        })
}

/// Whether a source is the archive that also holds the suites that the testbed needs: the main
/// archive of any Debian release, not its security archive and not somebody else's.
fn is_debian_main(uri: &str, suites: &[&str], components: &[&str]) -> bool {
    let path_is_debian = uri.trim_end_matches('/').ends_with("/debian");
    path_is_debian && components.contains(&"main") && suites.iter().any(|s| !s.contains("-security"))
}

fn mirror(uri: &str, key: Option<&str>) -> Mirror {
    Mirror {
        uri: uri.to_owned(),
        signed_by: key.filter(|k| k.starts_with('/')).map(PathBuf::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_with_comments_and_two_suites_names_the_mirror_and_its_key() {
        let text = "Types: deb\n# note\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\n\
                    Components: main\n\nTypes: deb\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm\n bookworm-updates\nComponents: main contrib\nSigned-By: /usr/share/keyrings/d.gpg\n";
        let found = from_paragraphs(text);
        assert_eq!(
            found,
            Some(mirror(
                "http://mirror.example/debian",
                Some("/usr/share/keyrings/d.gpg")
            ))
        );
    }

    #[test]
    fn a_one_line_source_with_options_names_the_mirror() {
        let text = "# deb http://old.example/debian x main\ndeb-src http://s.example/debian x main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main\n";
        assert_eq!(
            from_lines(text),
            Some(mirror("http://mirror.example/debian/", Some("/k.gpg")))
        );
    }

    #[test]
    fn sources_of_others_are_passed_over() {
        assert_eq!(from_lines("deb https://tools.example/apt stable main\n"), None);
        assert_eq!(
            from_paragraphs("Types: deb\nURIs: https://n.example/node\nSuites: x\nComponents: main\n"),
            None
        );
        let disabled =
            "Types: deb\nEnabled: no\nURIs: http://m.example/debian\nSuites: x\nComponents: main\n";
        assert_eq!(from_paragraphs(disabled), None);
    }
}
