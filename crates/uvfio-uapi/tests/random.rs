//! Whatever a program asks, it gets an answer: no argument panics, hangs, or takes memory without bound.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.

mod common;

use common::{Kind, Memory, Program, sys};
use proptest::prelude::*;
use uvfio_uapi::Node;

/// Words that mean something, and words that mean nothing.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0..64_u32,
        1 => any::<u32>(),
        1 => (0..32_u32).prop_map(|bit| 1 << bit),
        1 => (0..8_u32).prop_map(|less| u32::MAX - less),
        1 => Just(4096),
        1 => (0..=7_u32).prop_map(|flag| sys::FEATURE_SET | flag),
        // Descriptors that there are.
        2 => 100..116_u32,
    ]
}

#[derive(Clone, Debug)]
enum Call {
    /// To one of the files, with a structure that says how long it is, or not.
    Ioctl {
        file: usize,
        request: u32,
        words: Vec<u32>,
        honest: bool,
    },
    Value {
        file: usize,
        request: u32,
        argument: u64,
    },
    Read {
        file: usize,
        offset: u64,
        bytes: usize,
    },
    Write {
        file: usize,
        offset: u64,
        data: Vec<u8>,
    },
    Store {
        file: usize,
        offset: u64,
        data: Vec<u8>,
    },
    Map {
        file: usize,
        offset: u64,
        bytes: u64,
    },
    Open {
        node: Node,
    },
    Close {
        file: usize,
    },
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => (0..10_u64, 0..20_000_u64).prop_map(|(region, at)| region << 40 | at),
        1 => any::<u64>(),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let request = || prop_oneof![9 => 0x3b64..0x3b7c_u32, 2 => 0x3b80..0x3b9a_u32, 1 => any::<u32>()];
    let data = || prop::collection::vec(any::<u8>(), 0..64);
    let node = prop_oneof![
        Just(Node::Container),
        (6..10_u32).prop_map(Node::Group),
        (0..3_u32).prop_map(Node::Device),
        Just(Node::Iommu),
    ];
    let file = || 0..16_usize;
    prop_oneof![
        12 => (file(), request(), prop::collection::vec(word(), 1..24), prop::bool::weighted(0.9))
            .prop_map(|(file, request, words, honest)| Call::Ioctl { file, request, words, honest }),
        2 => (file(), request(), prop_oneof![0..16_u64, any::<u64>()])
            .prop_map(|(file, request, argument)| Call::Value { file, request, argument }),
        2 => (file(), offset(), 0..100_usize).prop_map(|(file, offset, bytes)| Call::Read { file, offset, bytes }),
        2 => (file(), offset(), data()).prop_map(|(file, offset, data)| Call::Write { file, offset, data }),
        1 => (file(), offset(), data()).prop_map(|(file, offset, data)| Call::Store { file, offset, data }),
        1 => (file(), offset(), prop_oneof![0..20_000_u64, any::<u64>()])
            .prop_map(|(file, offset, bytes)| Call::Map { file, offset, bytes }),
        1 => node.prop_map(|node| Call::Open { node }),
        1 => file().prop_map(|file| Call::Close { file }),
    ]
}

fn run(program: &Program, memory: &Memory, calls: Vec<Call>) {
    let (container, group) = program.container(7, sys::TYPE1V2);
    let device = program.device_fd(group, "0000:01:00.0").expect("opened");
    let mut files = vec![container, group, device];
    // Eventfds, which have numbers that calls may hit on.
    for _ in 0..4 {
        program.eventfd();
    }
    program
        .map(container, 0, memory.address(), 1 << 16, sys::READ | sys::WRITE)
        .expect("mapped");
    for call in calls {
        let at = |file: usize, files: &[i32]| files[file % files.len()];
        match call {
            Call::Ioctl {
                file,
                request,
                words,
                honest,
            } => {
                let mut argument = sys::words(&words);
                if honest {
                    sys::seal(&mut argument);
                }
                let _ = program.ioctl(at(file, &files), request, &mut argument);
            }
            Call::Value {
                file,
                request,
                argument,
            } => {
                let _ = program.ioctl_value(at(file, &files), request, argument);
            }
            Call::Read { file, offset, bytes } => {
                let _ = program
                    .uapi
                    .read(program.file(at(file, &files)), offset, &mut vec![0; bytes]);
                let _ = program
                    .uapi
                    .load(program.file(at(file, &files)), offset, &mut vec![0; bytes]);
            }
            Call::Write { file, offset, data } => {
                let _ = program.uapi.write(program.file(at(file, &files)), offset, &data);
            }
            Call::Store { file, offset, data } => {
                let _ = program.uapi.store(program.file(at(file, &files)), offset, &data);
            }
            Call::Map { file, offset, bytes } => {
                let _ = program
                    .uapi
                    .mappings(program.file(at(file, &files)), offset, bytes);
            }
            Call::Open { node } => files.extend(program.try_open(node).ok()),
            Call::Close { file } if files.len() > 1 => {
                let number = files.remove(file % files.len());
                program.close(number);
            }
            Call::Close { .. } => {}
        }
    }
    for file in files {
        program.close(file);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_calls_is_answered(kind in 0..3_usize, calls in prop::collection::vec(call(), 1..60)) {
        let kind = match kind {
            0 => Kind::Edu,
            1 => Kind::Odd,
            _ => Kind::Nvme,
        };
        let program = Program::with(&[("0000:01:00.0", 7, kind), ("0000:01:00.1", 8, Kind::Odd)]);
        let memory = Memory::new(1 << 16);
        run(&program, &memory, calls);
        // Whatever it was, the next program finds everything free.
        let (_, group) = program.container(7, sys::TYPE1V2);
        prop_assert!(program.device_fd(group, "0000:01:00.0").is_ok());
    }
}
