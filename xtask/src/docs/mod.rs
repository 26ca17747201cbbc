//! `cargo xtask docs`: the book's register pages, written from the model's tables.
//!
//! The pages are kept in the repository, so that a change of a table shows as a change of the book; `--check`
//! says whether they are current, and whether every page is in the summary and every link leads somewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::paths;

mod drawing;
mod links;
mod pages;
mod phrases;
mod samples;

/// Options of `cargo xtask docs`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Changes nothing; fails where a page is not what the tables give, or a link leads nowhere
    #[arg(long)]
    check: bool,
}

/// Files of the book by their path below `docs/src`.
type Pages = BTreeMap<String, String>;

/// Where generated pages lie, below `docs/src`; nothing else lies there.
const GENERATED: &str = "registers";

/// Writes the pages, or checks them.
pub(super) fn main(args: &Args) -> ExitCode {
    let book = paths::workspace().join("docs/src");
    let result = if args.check { check(&book) } else { write(&book) };
    match result {
        Ok(wrong) if wrong.is_empty() => ExitCode::SUCCESS,
        Ok(wrong) => {
            wrong.iter().for_each(|line| eprintln!("{line}"));
            eprintln!(
                "error: {} findings; `cargo xtask docs` writes the register pages",
                wrong.len()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes every page, and takes away pages that no table gives any more.
fn write(book: &Path) -> Result<Vec<String>> {
    let pages = pages::all()?;
    let folder = book.join(GENERATED);
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    for name in old_pages(book)? {
        if !pages.contains_key(&name) {
            fs::remove_file(book.join(&name)).with_context(|| format!("removing {name}"))?;
        }
    }
    for (name, text) in &pages {
        fs::write(book.join(name), text).with_context(|| format!("writing {name}"))?;
    }
    println!("{} pages written to {}", pages.len(), folder.display());
    links::check(book)
}

fn check(book: &Path) -> Result<Vec<String>> {
    let pages = pages::all()?;
    let mut wrong = Vec::new();
    for (name, text) in &pages {
        match fs::read_to_string(book.join(name)) {
            Ok(old) if old == *text => {}
            Ok(old) => wrong.push(format!(
                "{name}: line {} is not what the tables give",
                difference(&old, text)
            )),
            Err(_) => wrong.push(format!("{name}: missing")),
        }
    }
    for name in old_pages(book)?
        .into_iter()
        .filter(|name| !pages.contains_key(name))
    {
        wrong.push(format!("{name}: no table gives this page"));
    }
    wrong.extend(links::check(book)?);
    println!("{} register pages checked", pages.len());
    Ok(wrong)
}

/// The number of the first line in which two texts differ.
fn difference(old: &str, new: &str) -> usize {
    old.lines().zip(new.lines()).take_while(|(a, b)| a == b).count() + 1
}

/// The pages that lie in the folder of the generated ones.
fn old_pages(book: &Path) -> Result<Vec<String>> {
    let folder = book.join(GENERATED);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        names.push(format!("{GENERATED}/{}", entry?.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names)
}
