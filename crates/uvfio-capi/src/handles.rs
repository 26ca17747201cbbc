//! What a pointer of the caller's stands for.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use uvfio_driver::{Bar, DmaBuffer, DriverError, Events, Function, Interrupts, Result};

/// `struct uvfio_function`.
pub struct FunctionHandle {
    pub(crate) function: Function,
    bars: [OnceLock<Bar>; 6],
    interrupts: Mutex<Option<Arc<Interrupts>>>,
    events: Mutex<Option<Arc<Events>>>,
}

/// `struct uvfio_buffer`.
pub struct BufferHandle {
    pub(crate) buffer: DmaBuffer,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FunctionHandle {
    pub(crate) fn new(function: Function) -> Self {
        Self {
            function,
            bars: [const { OnceLock::new() }; 6],
            interrupts: Mutex::default(),
            events: Mutex::default(),
        }
    }

    /// A BAR; opened at its first use.
    pub(crate) fn bar(&self, index: u32) -> Result<&Bar> {
        let number = u8::try_from(index).unwrap_or(u8::MAX);
        let place = self
            .bars
            .get(usize::from(number))
            .ok_or(DriverError::NoBar(number))?;
        if let Some(bar) = place.get() {
            return Ok(bar);
        }
        let bar = self.function.bar(number)?;
        Ok(place.get_or_init(|| bar))
    }

    /// The enabled interrupts, or what they are not.
    pub(crate) fn interrupts(&self) -> Result<Arc<Interrupts>> {
        lock(&self.interrupts).clone().ok_or(DriverError::NoVector {
            vector: 0,
            enabled: 0,
        })
    }

    /// Keeps interrupts; those before are disabled first.
    pub(crate) fn set_interrupts(&self, make: impl FnOnce() -> Result<Option<Interrupts>>) -> Result<()> {
        let mut place = lock(&self.interrupts);
        *place = None;
        *place = make()?.map(Arc::new);
        Ok(())
    }

    /// The function's events; enabled at their first use.
    pub(crate) fn events(&self) -> Result<Arc<Events>> {
        let mut place = lock(&self.events);
        if let Some(events) = &*place {
            return Ok(Arc::clone(events));
        }
        let events = Arc::new(self.function.events()?);
        *place = Some(Arc::clone(&events));
        Ok(events)
    }
}
