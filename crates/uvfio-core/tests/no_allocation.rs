//! Region accesses, interrupts and DMA allocate nothing.

#![allow(clippy::unwrap_used)] // a test's helpers may
#![allow(unsafe_code)] // the allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use rustix::fs::{MemfdFlags, SealFlags};
use uvfio_core::{
    Backing, Device, DeviceError, DmaAccess, DmaMap, Host, IrqAction, IrqData, Policy, SetIrqs,
    VirtualDevice, Width,
};
use uvfio_pci::{Bar, BarSpan, Blueprint, Capability, Identity, ResetKind};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: as the system's, which does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(what: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    what();
    ALLOCATIONS.get() - before
}

#[derive(Default)]
struct Plain {
    host: Mutex<Option<Host>>,
}

impl Device for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn blueprint(&self) -> Blueprint<'_> {
        let mut bars = [Bar::None; 6];
        bars[0] = Bar::Memory32 {
            bytes: 0x4000,
            prefetchable: false,
        };
        Blueprint {
            identity: Identity {
                vendor: 1,
                device: 2,
                revision: 0,
                class: [0xff, 0, 0],
                subsystem_vendor: 0,
                subsystem: 0,
                interrupt_pin: 1,
            },
            bars,
            rom_bytes: 0,
            capabilities: &[Capability::MsiX {
                vectors: 32,
                table: BarSpan {
                    bar: 0,
                    offset: 0x1000,
                },
                pba: BarSpan {
                    bar: 0,
                    offset: 0x2000,
                },
            }],
            extended: &[],
        }
    }

    fn attach(&self, host: Host) {
        *self.host.lock().unwrap() = Some(host);
    }

    fn detach(&self) {}

    fn read(&self, _bar: u8, offset: u64, _width: Width) -> u64 {
        offset
    }

    fn write(&self, _bar: u8, _offset: u64, _width: Width, value: u64) {
        // As a doorbell that is answered at once.
        if let Some(host) = &*self.host.lock().unwrap() {
            host.signal(value as u16);
        }
    }

    fn reset(&self, _kind: ResetKind) -> Result<(), DeviceError> {
        Ok(())
    }
}

#[test]
fn accesses_interrupts_and_dma_allocate_nothing() {
    let device = Arc::new(Plain::default());
    let virt = VirtualDevice::new(device.clone(), &Policy::default()).unwrap();
    virt.attach(None);
    virt.write(7, 4, &[7, 0]).unwrap();
    let host = device.host.lock().unwrap().clone().unwrap();
    let event: OwnedFd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let eventfds = (0..32).map(|_| Some(event.try_clone().unwrap())).collect();
    virt.set_irqs(SetIrqs {
        index: 2,
        start: 0,
        count: 32,
        action: IrqAction::Trigger,
        data: IrqData::EventFd(eventfds),
    })
    .unwrap();
    for (iova, sealed) in [(0u64, true), (0x10_0000, false)] {
        let file =
            rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 1 << 20).unwrap();
        if sealed {
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
        }
        let access = DmaAccess::READ | DmaAccess::WRITE;
        virt.dma_map(DmaMap {
            iova,
            bytes: 1 << 20,
            access,
            backing: Some(Backing { file, offset: 0 }),
        })
        .unwrap();
    }
    let mut buffer = vec![0; 4096];
    let mut check = |what: &str, access: &mut dyn FnMut(&mut [u8])| {
        access(&mut buffer);
        let counted = allocations(|| (0..100).for_each(|_| access(&mut buffer)));
        assert_eq!(counted, 0, "{what}: allocations in 100 times");
    };
    check("configuration space read", &mut |data| {
        virt.read(7, 0, &mut data[..256]).unwrap();
    });
    check("configuration space write", &mut |_| {
        virt.write(7, 0x10, &[0xff; 4]).unwrap();
    });
    check("bus master switched", &mut |_| {
        virt.write(7, 4, &[3, 0]).unwrap();
        virt.write(7, 4, &[7, 0]).unwrap();
    });
    check("BAR read", &mut |data| virt.read(0, 0, &mut data[..256]).unwrap());
    check("BAR write, with an interrupt", &mut |_| {
        virt.write(0, 0, &[3; 8]).unwrap();
    });
    check("MSI-X table write", &mut |_| {
        virt.write(0, 0x1000, &[0; 16]).unwrap();
    });
    check("MSI-X table read", &mut |data| {
        virt.read(0, 0x1000, &mut data[..512]).unwrap();
    });
    check("interrupt from a device's thread", &mut |_| host.signal(5));
    check("INTx", &mut |_| host.set_intx(true));
    check("DMA by plain copies", &mut |data| {
        host.dma().write(0x800, data).unwrap();
        host.dma().read(0x800, data).unwrap();
    });
    check("DMA by checked copies", &mut |data| {
        host.dma().write(0x10_0800, data).unwrap();
        host.dma().read(0x10_0800, data).unwrap();
    });
}
