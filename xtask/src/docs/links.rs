//! Whether the book hangs together: every page in the summary, every relative link leads to a file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What is wrong with the book whose pages lie in `book`; empty where nothing is.
pub(super) fn check(book: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut pages = Vec::new();
    collect(book, &mut pages)?;
    let summary = book.join("SUMMARY.md");
    let mut listed = BTreeSet::new();
    for page in &pages {
        let text = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
        for link in links(&text) {
            let target = page
                .parent()
                .unwrap_or(book)
                .join(link.split('#').next().unwrap_or(link));
            match target.canonicalize() {
                Ok(found) if *page == summary => {
                    listed.insert(found);
                }
                Ok(_) => {}
                Err(_) => wrong.push(format!("{}: the link {link} leads nowhere", page.display())),
            }
        }
    }
    for page in pages.iter().filter(|page| **page != summary) {
        if !listed.contains(
            &page
                .canonicalize()
                .with_context(|| format!("finding {}", page.display()))?,
        ) {
            wrong.push(format!("{}: not in SUMMARY.md", page.display()));
        }
    }
    Ok(wrong)
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|end| end == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(())
}

/// The targets of a page's links to other files of the book.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.starts_with('#') && !target.is_empty())
}
