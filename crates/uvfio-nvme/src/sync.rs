//! Locks that a panic elsewhere does not take away (what they guard is whole after every statement), and time.
//!
//! In this crate's own tests locks are those of a model checker, and work only inside a model; time passes when
//! somebody looks at the clock.

use std::sync::PoisonError;
use std::time::Duration;

#[cfg(test)]
pub(crate) use self::clock::Instant;
#[cfg(test)]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::yield_now,
};
#[cfg(not(test))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::yield_now,
    time::Instant,
};

/// Locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits.
pub(crate) fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// Waits for some time at most.
pub(crate) fn wait_for<'a, T>(
    condition: &Condvar,
    guard: MutexGuard<'a, T>,
    most: Duration,
) -> MutexGuard<'a, T> {
    let (guard, _) = condition
        .wait_timeout(guard, most)
        .unwrap_or_else(PoisonError::into_inner);
    guard
}

#[cfg(test)]
mod clock {
    use std::cell::Cell;
    use std::time::Duration;

    /// How much time passes at a look.
    const STEP: Duration = Duration::from_micros(5);

    thread_local! {
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// A moment on this thread's clock, which all threads of a model share.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Instant(Duration);

    impl Instant {
        pub(crate) fn now() -> Self {
            NOW.set(NOW.get() + STEP);
            Self(NOW.get())
        }

        pub(crate) fn elapsed(self) -> Duration {
            Self::now().0 - self.0
        }
    }
}
