//! Finds kernel modules and all that they need, and makes them loadable by busybox's `modprobe`.
//!
//! Debian's package has no `modules.dep` (it is made when the package is installed), so the
//! dependencies are read from the modules themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::testbed::Testbed;

/// A module, uncompressed.
#[derive(Debug)]
pub(super) struct Module {
    /// Path under `/lib/modules/RELEASE`, ending in `.ko`
    pub(super) path: String,
    pub(super) content: Vec<u8>,
    needs: Vec<String>,
}

/// Modules by name (with `_` for `-`), closed under "needs".
#[derive(Debug, Default)]
pub(super) struct Modules(pub(super) BTreeMap<String, Module>);

impl Modules {
    /// Reads the modules called `wanted` and what they need. Those built into the kernel are left
    /// out.
    pub(super) fn read(testbed: &Testbed, wanted: &[&str]) -> Result<Self> {
        let dir = testbed.module_dir();
        let builtin: BTreeSet<_> = names(&dir.join("modules.builtin"))?.into_keys().collect();
        let paths = names(&dir.join("modules.order"))?;
        let mut found = BTreeMap::new();
        let mut open: Vec<String> = wanted.iter().map(|name| name.replace('-', "_")).collect();
        while let Some(name) = open.pop() {
            if builtin.contains(&name) || found.contains_key(&name) {
                continue;
            }
            let Some(path) = paths.get(&name) else {
                bail!("the kernel {} has no module {name}", testbed.release());
            };
            let content = content(testbed, &dir.join(path))?;
            let needs = needs(&content).with_context(|| format!("module {name}"))?;
            open.extend(needs.iter().cloned());
            found.insert(
                name,
                Module {
                    path: path.clone(),
                    content,
                    needs,
                },
            );
        }
        Ok(Self(found))
    }

    /// `modules.dep`: each module, and all that must be there before it.
    pub(super) fn dependencies(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (name, module)| {
            let mut all = Vec::new();
            self.before(name, &mut all);
            let _ = writeln!(text, "{}: {}", module.path, all.join(" "));
            text
        })
    }

    /// Adds what `name` needs to `to`, nearest first, which is the order that `depmod` writes.
    fn before<'a>(&'a self, name: &str, to: &mut Vec<&'a str>) {
        let needed: Vec<_> = self
            .0
            .get(name)
            .map_or(&[][..], |module| &module.needs)
            .iter()
            .collect();
        for need in &needed {
            if let Some(module) = self.0.get(*need) {
                to.retain(|path| *path != module.path);
                to.push(&module.path);
            }
        }
        for need in needed {
            self.before(need, to);
        }
    }
}

/// Reads a list of module paths; the key is the module's name.
fn names(list: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(list).with_context(|| format!("reading {}", list.display()))?;
    let entry = |line: &str| {
        let name = line.rsplit('/').next()?.strip_suffix(".ko")?.replace('-', "_");
        Some((name, line.to_owned()))
    };
    Ok(text.lines().filter_map(entry).collect())
}

fn content(testbed: &Testbed, path: &Path) -> Result<Vec<u8>> {
    if path.exists() {
        return Ok(fs::read(path)?);
    }
    let packed = path.with_extension("ko.xz");
    let output = testbed.program("usr/bin/xz").arg("-dc").arg(&packed).output()?;
    if !output.status.success() {
        bail!(
            "unpacking {}: {}",
            packed.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(output.stdout)
}

/// The names in the module's own `depends=` record.
fn needs(content: &[u8]) -> Result<Vec<String>> {
    let key = b"\0depends=";
    let Some(start) = content.windows(key.len()).position(|window| window == key) else {
        bail!("has no record of what it depends on");
    };
    let rest = &content[start + key.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let list = std::str::from_utf8(&rest[..end])?;
    Ok(list
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, needs: &[&str]) -> Module {
        let needs = needs.iter().map(ToString::to_string).collect();
        Module {
            path: path.to_owned(),
            content: Vec::new(),
            needs,
        }
    }

    #[test]
    fn needs_are_read_from_the_modules_own_record() {
        assert_eq!(
            needs(b"x\0depends=nvme-core,crc16\0y").unwrap(),
            ["nvme_core", "crc16"]
        );
        assert!(needs(b"x\0depends=\0y").unwrap().is_empty());
        assert!(needs(b"no record").is_err());
    }

    #[test]
    fn a_module_that_two_others_need_comes_after_both() {
        let list = [
            ("a", module("a.ko", &["b", "c"])),
            ("b", module("b.ko", &["c"])),
            ("c", module("c.ko", &[])),
        ];
        let modules = Modules(list.into_iter().map(|(name, m)| (name.to_owned(), m)).collect());
        let text = modules.dependencies();
        assert!(text.contains("a.ko: b.ko c.ko\n"), "modules.dep is {text:?}");
    }
}
