//! What all calls have in common: error numbers, the last error's text, panics, pointers.
#![allow(unsafe_code)] // pointers from the caller

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use uvfio_driver::DriverError;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Why a call failed.
pub(crate) enum Failure {
    Driver(DriverError),
    /// An argument that can't be right.
    Argument(&'static str),
}

impl From<DriverError> for Failure {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

pub(crate) type Outcome<T> = Result<T, Failure>;

/// Runs a call: its value, or a negative error number. Nothing unwinds into the caller.
pub(crate) fn call(work: impl FnOnce() -> Outcome<c_int>) -> c_int {
    // What the work may leave half done lies behind locks that forgive a panic.
    let (text, errno) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return value,
        Ok(Err(Failure::Driver(error))) => (error.to_string(), error.errno()),
        Ok(Err(Failure::Argument(what))) => (what.to_owned(), Errno::INVAL.raw_os_error()),
        Err(_) => (
            "a bug in the library; its panic message is on standard error".to_owned(),
            Errno::IO.raw_os_error(),
        ),
    };
    remember(text);
    -errno.max(1)
}

fn remember(text: String) {
    let mut bytes = text.into_bytes();
    bytes.retain(|byte| *byte != 0);
    let text = CString::new(bytes).unwrap_or_default();
    // While a thread ends there is nowhere to keep it.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// The text of this thread's last failed call; valid until its next failed one.
pub(crate) fn last_error() -> *const c_char {
    LAST_ERROR
        .try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// A handle from the caller.
///
/// # Safety
/// `pointer` is null, or was given out by this library and not given back since; and no other thread gives it back
/// for as long as the reference lives.
pub(crate) unsafe fn handle<'a, T>(pointer: *const T) -> Outcome<&'a T> {
    // SAFETY: the caller's promise; what is behind it is never borrowed mutably.
    unsafe { pointer.as_ref() }.ok_or(Failure::Argument("the handle is a null pointer"))
}

/// Writes a result to where the caller wants it.
///
/// # Safety
/// `place` is null, or writable for a `T`.
pub(crate) unsafe fn put<T>(place: *mut T, value: T) -> Outcome<()> {
    if place.is_null() {
        return Err(Failure::Argument("the place for the result is a null pointer"));
    }
    // SAFETY: not null, and so the caller's promise; unaligned places are allowed.
    unsafe { place.write_unaligned(value) };
    Ok(())
}

/// Gives a value to the caller, as a handle.
///
/// # Safety
/// As [`put`].
pub(crate) unsafe fn give<T>(place: *mut *mut T, make: impl FnOnce() -> Outcome<T>) -> Outcome<()> {
    // SAFETY: the caller's promise.
    unsafe { put(place, std::ptr::null_mut()) }?;
    let value = Box::into_raw(Box::new(make()?));
    // SAFETY: the caller's promise.
    unsafe { put(place, value) }
}

/// Takes a handle back; null is nothing.
///
/// # Safety
/// As [`handle`], and nobody uses it any more.
pub(crate) unsafe fn take_back<T>(pointer: *mut T) {
    if !pointer.is_null() {
        // SAFETY: it came from `give`, and nobody else has it.
        drop(unsafe { Box::from_raw(pointer) });
    }
}

/// A string from the caller.
///
/// # Safety
/// `text` is null, or ends with a zero byte; it does not change during the call.
pub(crate) unsafe fn string<'a>(text: *const c_char) -> Outcome<&'a CStr> {
    if text.is_null() {
        return Err(Failure::Argument("the string is a null pointer"));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// Bytes of the caller's, to be read.
///
/// # Safety
/// `data` is null, or readable for `bytes` bytes, which do not change during the call.
pub(crate) unsafe fn bytes<'a>(data: *const u8, bytes: usize) -> Outcome<&'a [u8]> {
    check(data, bytes)?;
    // SAFETY: not null, not too long, and so the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(data, bytes) })
}

/// Bytes of the caller's, to be written.
///
/// # Safety
/// `data` is null, or writable for `bytes` bytes, which nobody else uses during the call. What they hold before does not
/// matter: memory that came from outside of Rust holds some byte or other.
pub(crate) unsafe fn bytes_mut<'a>(data: *mut u8, bytes: usize) -> Outcome<&'a mut [u8]> {
    check(data, bytes)?;
    // SAFETY: not null, not too long, and so the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(data, bytes) })
}

fn check(data: *const u8, bytes: usize) -> Outcome<()> {
    if data.is_null() {
        return Err(Failure::Argument("the data are a null pointer"));
    }
    if isize::try_from(bytes).is_err() {
        return Err(Failure::Argument("there can't be so many bytes"));
    }
    Ok(())
}
