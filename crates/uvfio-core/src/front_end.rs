//! Which threads are a front end's.
//!
//! A front end's thread reads the user's messages and answers them, so it must never wait for the user: not write
//! an eventfd that the user may have filled, and not ask for memory by a message whose answer it would have to read
//! itself. Every method of [`crate::VirtualDevice`] marks its thread while it runs, and [`crate::Lines`] and
//! [`crate::DmaSpace`], which devices call from there as well as from threads of their own, look at the mark. Other
//! threads that the end of a user's time waits for are marked while they could write an eventfd.

use std::cell::Cell;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The mark; gone when dropped.
#[derive(Debug)]
pub(crate) struct FrontEnd {
    before: bool,
}

impl FrontEnd {
    /// Marks this thread.
    pub(crate) fn enter() -> Self {
        Self {
            before: INSIDE.replace(true),
        }
    }

    /// Whether this thread is marked.
    pub(crate) fn inside() -> bool {
        INSIDE.get()
    }
}

impl Drop for FrontEnd {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}
