//! Pages of configuration space of a device that nobody trusts: the walk of their chains and their decoding.

use uvfio_pci::chain::{Item, walk};
use uvfio_pci::{Layout, State, View, Window, read};

/// More than any page can give: each dword once as a structure, with three findings of its own.
const MOST_ITEMS: usize = 5000;

/// Walks and decodes `data` as a page, made as long as a page can be.
pub fn run(data: &[u8]) {
    let bytes = match data.len() {
        0..=64 => 64,
        65..=256 => 256,
        _ => 4096,
    };
    let mut page = data.to_vec();
    page.resize(bytes, 0);
    check_walk(&page);
    check_walk(data);
    let Ok((layout, findings)) = Layout::from_dump(&page) else {
        return;
    };
    assert!(findings.iter().count() + findings.left_out() < MOST_ITEMS);
    let state = State::new(&layout);
    for (number, bytes) in page.chunks(4).enumerate() {
        let value = read(&layout, &state, Window::Config, number as u16);
        assert_eq!(
            value.to_le_bytes(),
            bytes,
            "register {:#x} is not as dumped",
            number * 4
        );
    }
    for placed in layout.placed() {
        assert!(
            placed.end() <= layout.config_bytes(),
            "{} ends past the page",
            placed.table.name
        );
    }
    assert!(state.restore(&layout).is_ok(), "its own state does not fit");
    for view in [View::Filtered, View::Virtual] {
        if let Ok((layout, _)) = Layout::from_dump_in(&page, view) {
            check_view(&layout, view);
        }
    }
}

/// The walk ends, stays within the page, and gives no byte twice.
fn check_walk(page: &[u8]) {
    let mut owned = vec![false; page.len()];
    let mut items = 0;
    for item in walk(page) {
        items += 1;
        assert!(items < MOST_ITEMS, "the walk goes on and on");
        match item {
            Item::Finding(finding) => assert!(!finding.to_string().is_empty()),
            Item::Capability(found) => {
                let start = usize::from(found.offset);
                let end = start + found.bytes.len();
                let bytes = owned.get_mut(start..end);
                for (at, owned) in bytes
                    .expect("a structure ends within the page")
                    .iter_mut()
                    .enumerate()
                {
                    let twice = std::mem::replace(owned, true);
                    assert!(!twice, "byte {:#x} belongs to two structures", start + at);
                }
            }
        }
    }
}

/// The virtual view has chains that break no rule.
fn check_view(layout: &Layout, view: View) {
    let state = State::new(layout);
    let words = layout.config_bytes() / 4;
    let shown: Vec<u8> = (0..words)
        .flat_map(|number| read(layout, &state, Window::Config, number).to_le_bytes())
        .collect();
    if view == View::Virtual {
        let wrong = walk(&shown).find(|item| matches!(item, Item::Finding(_)));
        assert!(wrong.is_none(), "the virtual view: {wrong:?}");
    }
    assert!(state.restore(layout).is_ok(), "its own state does not fit");
}
