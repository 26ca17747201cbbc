//! Nanoseconds a read and a write of the model, and whether they allocate.
//!
//! `cargo xtask bench model` runs this, holds the figures against limits and prints them beside the others. On its own
//! (`cargo bench -p uvfio-pci`) it prints a line a figure: `NAME = VALUE`. An argument says how many rounds to measure.
//!
//! Each figure is the worst register of its kind, so that no slow one hides behind fast ones.
#![allow(unsafe_code)] // A global allocator, which counts, can only be given by an unsafe trait.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use uvfio_pci::tables::header;
use uvfio_pci::{
    Bar, BarSpan, Blueprint, ByteEnables, Capability, Effects, Extended, Identity, Input, Interrupt, Layout,
    State, View, Window, next_delivery, read, step,
};

/// The system's allocator, which also counts.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps to the allocator's contract.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        // SAFETY: as above; `at` came from the system's allocator.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Accesses timed at a stretch.
const STRETCH: u32 = 20_000;
/// Stretches a round; the fastest counts, for what interrupts one is not the model's.
const STRETCHES: usize = 10;

/// A function with every structure that users meet.
fn blueprint() -> Blueprint<'static> {
    Blueprint {
        identity: Identity {
            vendor: 0x1234,
            device: 0x5678,
            revision: 0,
            class: [1, 8, 2],
            subsystem_vendor: 0,
            subsystem: 0,
            interrupt_pin: 1,
        },
        bars: [
            Bar::Memory64 {
                bytes: 1 << 20,
                prefetchable: false,
            },
            Bar::None,
            Bar::Memory32 {
                bytes: 4096,
                prefetchable: false,
            },
            Bar::None,
            Bar::None,
            Bar::None,
        ],
        rom_bytes: 0,
        capabilities: &[
            Capability::PowerManagement { no_soft_reset: true },
            Capability::Msi {
                messages: 32,
                wide: true,
                maskable: true,
            },
            Capability::MsiX {
                vectors: 2048,
                table: BarSpan {
                    bar: 0,
                    offset: 0x8000,
                },
                pba: BarSpan {
                    bar: 0,
                    offset: 0x4000,
                },
            },
            Capability::Express {
                flr: true,
                integrated: false,
            },
        ],
        extended: &[Extended::Aer, Extended::SerialNumber(1)],
    }
}

/// The model in a state like a driver's at work: memory and bus master on, MSI-X on, its vectors attached.
fn at_work(layout: &Layout) -> State {
    let mut state = State::new(layout);
    let mut effects = Effects::new();
    let command = header::MEMORY.mask() | header::BUS_MASTER.mask();
    let mut inputs = vec![
        write(Window::Config, header::MEMORY.register / 4, command, 0b0011),
        Input::Enable {
            kind: Interrupt::MsiX,
            vectors: 2048,
        },
    ];
    inputs.extend((0..2048).map(|vector| Input::Attach {
        kind: Interrupt::MsiX,
        vector,
    }));
    for input in inputs {
        step(layout, &mut state, input, &mut effects);
    }
    state
}

fn write(window: Window, register: u16, value: u32, enables: u8) -> Input {
    Input::Write {
        window,
        register,
        value,
        enables: ByteEnables(enables),
    }
}

/// Nanoseconds a call of `one`, in the fastest of several stretches.
fn nanoseconds(mut one: impl FnMut(u32)) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..STRETCHES {
        let start = Instant::now();
        for n in 0..STRETCH {
            one(n);
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    best * 1e9 / f64::from(STRETCH)
}

/// The slowest of some calls, and what it was.
fn worst(calls: impl Iterator<Item = (String, f64)>) -> (String, f64) {
    calls.fold(
        (String::new(), 0.0),
        |worst, call| if call.1 > worst.1 { call } else { worst },
    )
}

fn reads(layout: &Layout, state: &State, window: Window, registers: &[u16]) -> (String, f64) {
    worst(registers.iter().map(|register| {
        let time = nanoseconds(|_| {
            black_box(read(
                black_box(layout),
                black_box(state),
                window,
                black_box(*register),
            ));
        });
        (format!("{window:?} {:#05x}", register * 4), time)
    }))
}

/// Writes each register with changing values. What a write starts that takes time outside (reset, power, VPD) is not
/// the model's time, and these registers are left out by the caller.
fn writes(layout: &Layout, state: &State, window: Window, registers: &[u16]) -> (String, f64) {
    worst(registers.iter().map(|register| {
        let mut state = state.clone();
        let mut effects = Effects::new();
        let time = nanoseconds(|n| {
            let input = write(window, black_box(*register), n.wrapping_mul(0x0101_0101), 0b1111);
            step(black_box(layout), &mut state, input, &mut effects);
            black_box(&effects);
        });
        (format!("{window:?} {:#05x}", register * 4), time)
    }))
}

/// Registers of configuration space that have a table, and of these the ones whose write starts nothing slow.
fn registers(layout: &Layout) -> (Vec<u16>, Vec<u16>) {
    use uvfio_pci::Action;
    let all: Vec<u16> = (0..layout.config_bytes() / 4)
        .filter(|r| layout.fields_at(r * 4).next().is_some())
        .collect();
    let slow = |register: &u16| {
        (0..4)
            .flat_map(|byte| layout.fields_at(register * 4 + byte))
            .any(|(_, field)| {
                matches!(
                    field.action,
                    Action::PowerState | Action::Vpd | Action::FunctionLevelReset
                )
            })
    };
    let quick = all.iter().copied().filter(|register| !slow(register)).collect();
    (all, quick)
}

fn main() {
    let rounds = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(1);
    let Ok(layout) = Layout::compile(&blueprint(), View::Virtual) else {
        println!("the blueprint can't be laid out");
        std::process::exit(1);
    };
    let state = at_work(&layout);
    let (all, quick) = registers(&layout);
    let entries: Vec<u16> = (0..16).chain(2047 * 4..2048 * 4).collect();
    for _ in 0..rounds {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut nothing = 0.0;
        for _ in 0..1000 {
            nothing += f64::from(read(&layout, &state, Window::Config, 0));
            let mut state_of_one = black_box(&state).clone();
            let mut effects = Effects::new();
            step(
                &layout,
                &mut state_of_one,
                write(Window::Config, 1, u32::MAX, 1),
                &mut effects,
            );
            step(
                &layout,
                &mut state_of_one,
                Input::VectorFired { vector: 7 },
                &mut effects,
            );
            black_box(next_delivery(&layout, &mut state_of_one));
        }
        black_box(nothing);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        let figures = [
            (
                "read, configuration space",
                reads(&layout, &state, Window::Config, &all),
            ),
            (
                "read, MSI-X table",
                reads(&layout, &state, Window::MsixTable, &entries),
            ),
            (
                "read, MSI-X pending bits",
                reads(&layout, &state, Window::MsixPba, &[0, 1, 63]),
            ),
            (
                "write, configuration space",
                writes(&layout, &state, Window::Config, &quick),
            ),
            (
                "write, MSI-X table",
                writes(&layout, &state, Window::MsixTable, &entries),
            ),
            (
                "interrupt, fired and delivered",
                ("".to_owned(), fired(&layout, &state)),
            ),
        ];
        for (name, (register, time)) in figures {
            if !register.is_empty() {
                eprintln!("{name}: the slowest is {register}");
            }
            println!("{name} = {time:.2}");
        }
        println!("allocations = {allocations}");
    }
    eprintln!(
        "Layout has {} bytes, State {}",
        size_of::<Layout>(),
        size_of::<State>()
    );
}

/// Nanoseconds from a vector that fires to its delivery.
fn fired(layout: &Layout, state: &State) -> f64 {
    let mut state = state.clone();
    let mut effects = Effects::new();
    nanoseconds(|n| {
        let vector = (n % 2048) as u16;
        step(
            black_box(layout),
            &mut state,
            Input::VectorFired { vector },
            &mut effects,
        );
        black_box(next_delivery(layout, &mut state));
    })
}
