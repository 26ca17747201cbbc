//! Where an offset of a BAR leads: to the device, or to a window of the model that lies in it.

use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Layout, Window};

/// One BAR.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BarRoute {
    /// Size in bytes; 0 where there is none.
    pub(super) bytes: u64,
    /// The widest access that the device is given, in bytes.
    widest: u64,
    /// Windows of the model in it, in ascending order.
    windows: [Option<WindowSpan>; 2],
}

#[derive(Clone, Copy, Debug)]
struct WindowSpan {
    first: u64,
    end: u64,
    window: Window,
}

/// Where the next bytes of an access lead, and how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// To the device: a naturally aligned access of 1, 2, 4 or 8 bytes.
    Device(usize),
    /// To a window of the model, at this offset of the window.
    Window(Window, u32, usize),
}

impl BarRoute {
    /// The routes of all six BARs.
    pub(super) fn all(blueprint: &Blueprint<'_>, layout: &Layout) -> [Self; 6] {
        let mut routes = blueprint.bars.map(|bar| {
            let (bytes, widest) = match bar {
                Bar::None => (0, 0),
                Bar::Memory32 { bytes, .. } => (bytes.into(), 8),
                Bar::Memory64 { bytes, .. } => (bytes, 8),
                Bar::Io { bytes } => (bytes.into(), 4),
            };
            Self {
                bytes,
                widest,
                windows: [None; 2],
            }
        });
        for capability in blueprint.capabilities {
            if let Capability::MsiX { table, pba, .. } = *capability {
                for (span, window) in [(table, Window::MsixTable), (pba, Window::MsixPba)] {
                    if let Some(route) = routes.get_mut(usize::from(span.bar)) {
                        route.place(span, window, layout.window_bytes(window));
                    }
                }
            }
        }
        routes
    }

    fn place(&mut self, span: BarSpan, window: Window, bytes: u32) {
        let first = u64::from(span.offset);
        let new = Some(WindowSpan {
            first,
            end: first + u64::from(bytes),
            window,
        });
        self.windows = match self.windows {
            [Some(other), _] if other.first > first => [new, Some(other)],
            [Some(other), _] => [Some(other), new],
            [None, _] => [new, None],
        };
    }

    /// The first hop of `left` bytes (more than 0) at `offset`.
    pub(super) fn hop(&self, offset: u64, left: usize) -> Hop {
        let mut room = left as u64;
        for span in self.windows.iter().flatten() {
            if offset >= span.end {
                continue;
            }
            if offset >= span.first {
                let bytes = room.min(span.end - offset);
                return Hop::Window(span.window, (offset - span.first) as u32, bytes as usize);
            }
            room = room.min(span.first - offset);
            break;
        }
        let aligned = if offset == 0 {
            self.widest
        } else {
            1 << offset.trailing_zeros().min(3)
        };
        let fits = 1 << (63 - room.max(1).leading_zeros());
        Hop::Device(self.widest.min(aligned).min(fits).max(1) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(route: &BarRoute, mut offset: u64, len: usize) -> Vec<Hop> {
        let end = offset + len as u64;
        let mut hops = Vec::new();
        while offset < end {
            let hop = route.hop(offset, (end - offset) as usize);
            hops.push(hop);
            offset += match hop {
                Hop::Device(n) | Hop::Window(_, _, n) => n as u64,
            };
        }
        assert_eq!(offset, end);
        hops
    }

    #[test]
    fn an_access_is_cut_into_naturally_aligned_ones_and_windows() {
        let mut route = BarRoute {
            bytes: 0x1000,
            widest: 8,
            windows: [None; 2],
        };
        route.place(BarSpan { bar: 0, offset: 0x40 }, Window::MsixPba, 8);
        route.place(BarSpan { bar: 0, offset: 0x20 }, Window::MsixTable, 32);
        use Hop::{Device as D, Window as W};
        assert_eq!(hops(&route, 0, 8), [D(8)]);
        assert_eq!(hops(&route, 1, 8), [D(1), D(2), D(4), D(1)]);
        assert_eq!(
            hops(&route, 0x1e, 0x2e),
            [D(2), W(Window::MsixTable, 0, 32), W(Window::MsixPba, 0, 8), D(4)]
        );
        assert_eq!(hops(&route, 0x26, 4), [W(Window::MsixTable, 6, 4)]);
        let io = BarRoute {
            bytes: 64,
            widest: 4,
            windows: [None; 2],
        };
        assert_eq!(hops(&io, 8, 8), [D(4), D(4)]);
    }
}
