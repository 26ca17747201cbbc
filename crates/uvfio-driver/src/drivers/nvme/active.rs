//! The list of active namespaces, which comes by pages (section 5.15.2.3).

use super::error::{NvmeError, Result};
use super::number;
use super::spec::LAST_NAMESPACE;

/// The numbers of all active namespaces, in ascending order. `page_after` asks for those above a number, as many as a
/// page of the list holds; the rest of it is 0.
///
/// # Errors
/// Where a page can't be had, or the numbers don't ascend: then there may be others that the list does not tell of.
pub(super) fn namespaces(mut page_after: impl FnMut(u32) -> Result<Vec<u8>>) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut last = 0;
    // The controller refuses to be asked for what comes after the last number that a namespace can have.
    while last < LAST_NAMESPACE {
        let page = page_after(last)?;
        for at in (0..page.len()).step_by(4) {
            let namespace = number(&page, at, 4) as u32;
            if namespace == 0 {
                return Ok(found);
            }
            if namespace <= last {
                return Err(NvmeError::Broken(format!(
                    "its list of active namespaces has {namespace} after {last}"
                )));
            }
            found.push(namespace);
            last = namespace;
        }
        if page.is_empty() {
            break;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page as a controller with these namespaces gives it.
    fn page(all: &[u32], after: u32) -> Vec<u8> {
        let mut page: Vec<u8> = all
            .iter()
            .filter(|namespace| **namespace > after)
            .take(1024)
            .flat_map(|namespace| namespace.to_le_bytes())
            .collect();
        page.resize(4096, 0);
        page
    }

    #[test]
    fn namespaces_beyond_the_first_page_are_found() {
        for count in [0, 1, 1023, 1024, 1025, 2048, 3000] {
            let all: Vec<u32> = (1..=count).map(|n| 3 * n).collect();
            let found = namespaces(|after| Ok(page(&all, after))).unwrap();
            assert_eq!(found, all, "{count} namespaces");
        }
    }

    #[test]
    fn after_the_last_number_that_there_can_be_nothing_is_asked() {
        let all: Vec<u32> = (0..1024).map(|n| LAST_NAMESPACE - 1023 + n).collect();
        let found = namespaces(|after| match after {
            LAST_NAMESPACE.. => panic!("asked for namespaces after {after:#x}"),
            _ => Ok(page(&all, after)),
        });
        assert_eq!(found.unwrap(), all);
    }

    #[test]
    fn a_list_that_does_not_ascend_is_an_error_and_has_an_end() {
        let all: Vec<u32> = (1..=1024).collect();
        // Whatever it is asked for, it begins again.
        let error = namespaces(|_| Ok(page(&all, 0))).unwrap_err().to_string();
        assert!(error.contains("1 after 1024"), "{error}");
    }
}
