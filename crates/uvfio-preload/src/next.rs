//! libc's own functions of the names that the library takes: the next ones that the loader finds.
#![allow(unsafe_code)] // dlsym.

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicPtr, Ordering};

/// A function of libc's. It is looked for when the library is loaded, since a signal's handler may call ours and may not
/// look for it; or earlier, where the constructor of another library calls ours before that.
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Its address; null where there is none.
    pub(crate) fn address(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Acquire);
        if !found.is_null() {
            return found;
        }
        // SAFETY: a string that ends in 0; RTLD_NEXT is meant for this.
        let next = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(next, Ordering::Release);
        next
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOADED: extern "C" fn() = loaded;

extern "C" fn loaded() {
    crate::trap::SIGACTION.address();
    for next in crate::transfer::NEXT {
        next.address();
    }
}
