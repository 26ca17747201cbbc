//! The system calls that a confined worker may make: one table, and the filter that is made from it.
//!
//! The same table stands in the book ("Confinement"); a test compares them, another makes every call that is not in
//! it.

use std::collections::BTreeMap;

use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use uvfio_linux::vfio::request;

/// One call that is allowed.
#[derive(Debug)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number on this machine.
    pub number: i64,
    /// The arguments with which it is allowed.
    pub only: Only,
    /// What needs it.
    pub why: &'static str,
}

/// With which arguments a call is allowed.
#[derive(Clone, Copy, Debug)]
pub enum Only {
    /// With any.
    Any,
    /// Where an argument (counted from 0) has one of these values, leaving out the bits of `beside`.
    Argument {
        /// Which.
        index: u8,
        /// Bits that don't matter.
        beside: u64,
        /// The values.
        values: &'static [u64],
        /// The same in words.
        said: &'static str,
    },
    /// Where the first argument is this process.
    OwnProcess,
}

impl Only {
    /// The same in words; nothing where there is no condition.
    #[must_use]
    pub fn said(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Argument { said, .. } => said,
            Self::OwnProcess => "on the process itself",
        }
    }
}

/// A row; the name is that of `libc`'s constant.
macro_rules! call {
    ($number:ident, $why:literal) => {
        call!($number, Only::Any, $why)
    };
    ($number:ident, $only:expr, $why:literal) => {
        Call {
            name: match stringify!($number).split_at(4) {
                (_, name) => name,
            },
            number: libc::$number,
            only: $only,
            why: $why,
        }
    };
}

/// Where argument `index` has one of the values.
macro_rules! argument {
    ($index:literal, [$($value:expr),+], $said:literal) => {
        argument!($index, beside 0, [$($value),+], $said)
    };
    ($index:literal, beside $beside:expr, [$($value:expr),+], $said:literal) => {
        Only::Argument {
            index: $index,
            beside: $beside,
            values: &[$($value as u64),+],
            said: $said,
        }
    };
}

/// All bits of a mapping's protection but the right to execute.
const BESIDE_EXEC: u64 = !(libc::PROT_EXEC as u64);

/// How a thread is made: everything shared with its process, no namespace of its own.
const THREAD: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// The table.
pub const CALLS: &[Call] = &[
    // Descriptors that the process has.
    call!(SYS_read, "wake-ups of the worker's own threads"),
    call!(SYS_write, "interrupts (eventfds), the log"),
    call!(SYS_eventfd2, "doorbells, another for each user"),
    call!(SYS_close, "descriptors that the user sent and no longer needs"),
    call!(SYS_pread64, "the image"),
    call!(SYS_pwrite64, "the image; BAR memory of a device that is gone"),
    call!(SYS_preadv2, "taking back an eventfd without waiting"),
    call!(SYS_fdatasync, "flushing the image"),
    call!(SYS_fallocate, "discarding blocks of the image; BAR memory"),
    call!(SYS_fstat, "which file DMA memory is"),
    call!(SYS_fstatfs, "that DMA memory is shmem or hugetlbfs"),
    call!(
        SYS_readlinkat,
        "that an eventfd is one, by its link under /proc/self/fd"
    ),
    call!(
        SYS_fcntl,
        argument!(
            1,
            [
                libc::F_GETFD,
                libc::F_GETFL,
                libc::F_DUPFD_CLOEXEC,
                libc::F_GET_SEALS,
                libc::F_ADD_SEALS
            ],
            "F_GETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GET_SEALS, F_ADD_SEALS"
        ),
        "what a descriptor allows; duplicates; the size of BAR memory stays"
    ),
    call!(
        SYS_ioctl,
        argument!(1, [libc::FIONBIO], "FIONBIO"),
        "the user's socket is read blocking"
    ),
    // Sockets that the process was given.
    call!(SYS_recvmsg, "messages of the supervisor and of the user"),
    call!(
        SYS_recvmmsg,
        "messages of the user, their number of bytes noted by the kernel"
    ),
    call!(SYS_sendmsg, "messages to the supervisor and to the user"),
    call!(
        SYS_sendmmsg,
        "messages to the user, their number of bytes noted by the kernel"
    ),
    call!(SYS_shutdown, "the end of a user's connection"),
    call!(SYS_ppoll, "waiting for eventfds and for room in the socket"),
    // Memory.
    call!(
        SYS_mmap,
        argument!(2, beside BESIDE_EXEC, [0], "without PROT_EXEC"),
        "DMA memory; stacks; the heap"
    ),
    call!(
        SYS_mprotect,
        argument!(2, beside BESIDE_EXEC, [0], "without PROT_EXEC"),
        "stacks; the heap"
    ),
    call!(SYS_munmap, "DMA memory; stacks; the heap"),
    call!(SYS_memfd_create, "BAR memory, another for each user"),
    call!(SYS_mremap, "the heap"),
    call!(SYS_brk, "the heap"),
    call!(
        SYS_madvise,
        "DMA memory has no place in core dumps; stacks of threads that end"
    ),
    call!(
        SYS_process_vm_readv,
        Only::OwnProcess,
        "copies out of DMA memory that its user may cut short"
    ),
    call!(
        SYS_process_vm_writev,
        Only::OwnProcess,
        "copies into DMA memory that its user may cut short"
    ),
    // Threads.
    call!(SYS_futex, "locks"),
    call!(
        SYS_clone,
        // An old name of a flag that musl still sets; the kernel ignores it.
        argument!(0, beside libc::CLONE_DETACHED as u64, [THREAD], "a thread of the process itself"),
        "in the place of a thread whose user blocks it for good"
    ),
    call!(
        SYS_clone3,
        "answered ENOSYS by a second filter: its arguments can't be judged, and libc falls back to clone"
    ),
    call!(
        SYS_prctl,
        argument!(0, [libc::PR_SET_NAME], "PR_SET_NAME"),
        "names of threads"
    ),
    call!(SYS_set_robust_list, "a thread's start"),
    call!(SYS_rseq, "a thread's start"),
    call!(
        SYS_sched_getaffinity,
        "a thread's start: libc asks for it with the bounds of the stack"
    ),
    call!(SYS_sigaltstack, "a thread's start and end"),
    call!(SYS_rt_sigprocmask, "a thread's start and end"),
    call!(SYS_gettid, "a thread's start"),
    call!(SYS_getpid, "copies out of DMA memory"),
    call!(
        SYS_sched_yield,
        "taking back an eventfd from a user who keeps filling it"
    ),
    call!(SYS_clock_nanosleep, "time-outs"),
    call!(
        SYS_clock_gettime,
        "time-outs, where the machine's clock can't be read without a call"
    ),
    call!(SYS_getrandom, "hash tables that no user can crowd"),
    call!(SYS_restart_syscall, "a wait that was stopped and goes on"),
    call!(SYS_exit, "a thread's end"),
    call!(SYS_exit_group, "the end"),
];

/// What a worker that owns a PCI function may do beyond [`CALLS`]. A request of VFIO's goes to container, group or
/// device: these three are all that the process has of VFIO.
pub const HARDWARE_CALLS: &[Call] = &[call!(
    SYS_ioctl,
    argument!(
        1,
        [
            request::DEVICE_GET_INFO.opcode(),
            request::DEVICE_GET_REGION_INFO.opcode(),
            request::DEVICE_GET_IRQ_INFO.opcode(),
            request::DEVICE_SET_IRQS.opcode(),
            request::DEVICE_RESET.opcode(),
            request::CHECK_EXTENSION.opcode(),
            request::IOMMU_GET_INFO.opcode(),
            request::IOMMU_MAP_DMA.opcode(),
            request::IOMMU_UNMAP_DMA.opcode()
        ],
        "VFIO_DEVICE_GET_INFO, VFIO_DEVICE_GET_REGION_INFO, VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_SET_IRQS, \
             VFIO_DEVICE_RESET, VFIO_CHECK_EXTENSION, VFIO_IOMMU_GET_INFO, VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA"
    ),
    "the function's registers, interrupts and reset; its IOMMU"
)];

/// A filter, as the kernel takes it.
pub(super) type Program = seccompiler::BpfProgram;

/// The filter that kills the process at every call that is in none of the tables.
pub(super) fn filter(tables: &[&[Call]], own_process: u64) -> Result<Program, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in tables.iter().copied().flatten() {
        let more = alternatives(call.only, own_process)?;
        // A call that has rows in two tables has conditions in both: without any, a call is allowed in every way.
        rules.entry(call.number).or_default().extend(more);
    }
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, target()?)?.try_into()
}

/// The filter that says of `clone3` that there is no such call.
pub(super) fn no_clone3() -> Result<Program, seccompiler::BackendError> {
    let rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let nothing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, nothing, target()?)?.try_into()
}

fn target() -> Result<TargetArch, seccompiler::BackendError> {
    TargetArch::try_from(std::env::consts::ARCH)
}

/// One rule for each way in which the call is allowed; none where it is allowed in every way.
fn alternatives(only: Only, own_process: u64) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |index, op, value| {
        let condition = SeccompCondition::new(index, Length::Dword, op, value)?;
        SeccompRule::new(vec![condition])
    };
    match only {
        Only::Any => Ok(Vec::new()),
        Only::OwnProcess => Ok(vec![rule(0, Op::Eq, own_process)?]),
        Only::Argument {
            index,
            beside,
            values,
            ..
        } => values
            .iter()
            .map(|value| rule(index, Op::MaskedEq(u64::from(!(beside as u32))), *value))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_the_table() {
        let page = include_str!("../../../../docs/src/confinement.md");
        let has: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> = CALLS
            .iter()
            .chain(HARDWARE_CALLS)
            .map(|call| format!("| `{}` | {} | {} |", call.name, call.only.said(), call.why))
            .collect();
        let wanted_page = wanted.join("\n");
        assert_eq!(
            has, wanted,
            "docs/src/confinement.md must have these rows:\n{wanted_page}"
        );
    }

    #[test]
    fn a_call_in_two_tables_has_a_condition_in_both() {
        for call in HARDWARE_CALLS {
            for other in CALLS.iter().filter(|other| other.number == call.number) {
                let conditions = [call.only, other.only].map(Only::said);
                assert!(!conditions.contains(&""), "{}: {conditions:?}", call.name);
            }
        }
    }

    #[test]
    fn nothing_that_opens_connects_executes_traces_or_mounts_is_allowed() {
        for forbidden in [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_kill,
            libc::SYS_tgkill,
        ] {
            let found = CALLS
                .iter()
                .chain(HARDWARE_CALLS)
                .find(|call| call.number == forbidden);
            assert!(found.is_none(), "{forbidden}: {found:?}");
        }
    }
}
