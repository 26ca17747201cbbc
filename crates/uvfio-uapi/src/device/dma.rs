//! The way from a device to the memory that its user has mapped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use uvfio_core::{DmaError, DmaMessages, DmaTicket};

use crate::space::{Copy, Fault, Space};

/// What a device reaches, at any moment.
#[derive(Debug)]
pub(super) struct Way {
    /// Which device, for the log.
    name: String,
    space: RwLock<Option<Arc<Space>>>,
    /// Accesses begun under another number have been abandoned.
    generation: AtomicU64,
}

impl Way {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            space: RwLock::new(None),
            generation: AtomicU64::new(0),
        }
    }

    /// Leads elsewhere from now on; accesses under way are abandoned.
    pub(super) fn set_space(&self, space: Option<Arc<Space>>) {
        let before = {
            let mut place = self.space.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *place, space)
        };
        self.stop(before.as_deref());
    }

    pub(super) fn space(&self) -> Option<Arc<Space>> {
        self.space.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// On return no copy into `space` is under way, and none that was begun goes on.
    fn stop(&self, space: Option<&Space>) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        if let Some(space) = space {
            drop(space.change());
        }
    }

    fn copy(&self, ticket: DmaTicket, iova: u64, data: Copy<'_>) -> Result<(), DmaError> {
        let (bytes, write) = match &data {
            Copy::Read(into) => (into.len() as u64, false),
            Copy::Write(from) => (from.len() as u64, true),
        };
        let not_mapped = DmaError::NotMapped { iova, bytes, write };
        let goes_on = || self.generation.load(Ordering::SeqCst) == ticket.0;
        let Some(space) = self.space() else {
            return Err(not_mapped);
        };
        let Err((at, fault)) = space.copy(iova, data, goes_on) else {
            return Ok(());
        };
        let device = &self.name;
        let error = match fault {
            Fault::NotMapped => DmaError::NotMapped {
                iova: at,
                bytes: bytes.saturating_sub(at.wrapping_sub(iova)),
                write,
            },
            Fault::Abandoned => DmaError::Message {
                iova: at,
                why: "the access was abandoned: a reset, a detach, or bus mastering off",
            },
            Fault::Moving => DmaError::Message {
                iova: at,
                why: "its address in the process has been taken away, and no new one given yet",
            },
            Fault::Process { address, errno } => {
                tracing::warn!(
                    target: "uapi",
                    device,
                    iova = format_args!("{at:#x}"),
                    address = format_args!("{address:#x}"),
                    %errno,
                    "DMA to memory that is mapped, but no longer there in the process: unmap it before munmap or exit"
                );
                DmaError::Message {
                    iova: at,
                    why: "the process has no memory there any more",
                }
            }
        };
        tracing::info!(target: "uapi", device, %error, "DMA failed");
        Err(error)
    }
}

impl DmaMessages for Way {
    fn begin(&self, _first: u64, _last: u64) -> DmaTicket {
        DmaTicket(self.generation.load(Ordering::SeqCst))
    }

    fn read(&self, ticket: DmaTicket, iova: u64, data: &mut [u8]) -> Result<(), DmaError> {
        self.copy(ticket, iova, Copy::Read(data))
    }

    fn write(&self, ticket: DmaTicket, iova: u64, data: &[u8]) -> Result<(), DmaError> {
        self.copy(ticket, iova, Copy::Write(data))
    }

    fn abandon(&self) {
        self.stop(self.space().as_deref());
    }
}

#[cfg(test)]
mod tests {
    use uvfio_core::DmaAccess;

    use super::*;
    use crate::ProcessMemory;
    use crate::space::Mapped;

    #[derive(Debug)]
    struct Zeros;

    impl ProcessMemory for Zeros {
        fn read(&self, _: u64, data: &mut [u8]) -> Result<(), rustix::io::Errno> {
            data.fill(0);
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), rustix::io::Errno> {
            Ok(())
        }
    }

    #[test]
    fn an_access_begun_before_it_is_abandoned_fails_and_one_begun_later_does_not() {
        let space = Arc::new(Space::default());
        let range = Mapped {
            last: 4095,
            access: DmaAccess::all(),
            address: Some(0),
            memory: Arc::new(Zeros),
            writable: true,
            locked: None,
        };
        space.change().insert(0, range);
        let way = Way::new("0000:01:00.0".to_owned());
        way.set_space(Some(Arc::clone(&space)));
        let before = way.begin(0, 7);
        assert_eq!(way.read(before, 0, &mut [0; 8]), Ok(()));
        way.abandon();
        assert!(way.read(before, 0, &mut [0; 8]).is_err());
        assert!(way.write(before, 0, &[0; 8]).is_err());
        let after = way.begin(0, 7);
        assert_eq!(way.write(after, 0, &[0; 8]), Ok(()));
        way.set_space(Some(space));
        assert!(way.read(after, 0, &mut [0; 8]).is_err(), "it leads elsewhere now");
    }
}
