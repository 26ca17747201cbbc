//! A page of the book, as tests read it that run what it says.
#![allow(dead_code, reason = "each includer uses its part")]

/// The blocks of code of a page or a part of it: (what stands after the fence, the text).
pub(crate) fn blocks(page: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(kind), None) => open = Some((kind.to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    found
}

/// What stands under a heading of the second level, up to the next one; empty where there is none.
pub(crate) fn part<'a>(page: &'a str, heading: &str) -> &'a str {
    let start = format!("\n## {heading}\n");
    let part = page.split_once(&start).map_or("", |(_, part)| part);
    part.split_once("\n## ").map_or(part, |(part, _)| part)
}

/// The file that a block consists of, as the book's builder puts it in: its path from the page's folder.
pub(crate) fn included(block: &str) -> Option<&str> {
    block.trim().strip_prefix("{{#include ")?.strip_suffix("}}")
}
