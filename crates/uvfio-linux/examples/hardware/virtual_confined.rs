//! A user of the virtual view in a process that is confined once the device is taken over: everything that a user can
//! have done is done with reads, writes, mappings of memory and the requests of VFIO that `uvfio_linux::device` names.

use std::collections::BTreeMap;

use anyhow::Result;
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use uvfio_core::{DmaAccess, IrqIndex};

use crate::edu::{Edu, IOVA, MEMORY};
use crate::owned::Eventfds;
use crate::report::Report;
use crate::virtual_view::{BUS_MASTER, COMMAND, MEMORY as MEMORY_SPACE, User, UserMemory};

const BOTH: DmaAccess = DmaAccess::READ.union(DmaAccess::WRITE);
/// More than one request maps.
const LARGE: u64 = (1 << 30) + 4096;

/// System calls of the user's side and the device's.
const CALLS: [i64; 31] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv2,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_readlinkat,
    libc::SYS_fcntl,
    libc::SYS_ppoll,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_futex,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_sched_yield,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// VFIO's requests (vfio.h): CHECK_EXTENSION, GET_IRQ_INFO, SET_IRQS, RESET, IOMMU_GET_INFO, MAP_DMA, UNMAP_DMA.
const REQUESTS: [u64; 7] = [0x3b65, 0x3b6d, 0x3b6e, 0x3b6f, 0x3b70, 0x3b71, 0x3b72];

pub(crate) fn run(address: &str, report: &mut Report) -> Result<()> {
    let edu = Edu(User::attach(address)?);
    let user = &edu.0;
    let memory = UserMemory::new(MEMORY)?;
    let large = UserMemory::new(LARGE)?;
    let eventfds = Eventfds::new(1)?;
    limit_locked_memory(MEMORY)?;
    confine()?;

    user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
    memory.map(user, IOVA, BOTH)?;
    report.same(
        "confined, DMA reaches the user's memory",
        &Some(0),
        &edu.touched(&memory.memory)?,
    )?;
    for (what, result) in [
        ("more memory than may be locked", memory.map(user, 2 * IOVA, BOTH)),
        ("far more", large.map(user, 2 * IOVA, BOTH)),
    ] {
        match result {
            Ok(()) => report.fail(&format!("{what}: expected a refusal got success"))?,
            Err(error) => report.ok(&format!("{what}: {error}"))?,
        }
    }
    report.same(
        "a range that is missing holds DMA back",
        &None,
        &edu.touched(&memory.memory)?,
    )?;
    user.virt.dma_unmap(2 * IOVA, 0x1000 * (LARGE / 0x1000 + 1))?;
    report.same("until it is unmapped", &Some(0), &edu.touched(&memory.memory)?)?;
    user.signal(IrqIndex::Msi, &eventfds)?;
    edu.message("a message comes", &eventfds, report)?;
    user.reset()?;
    edu.message("after a reset, too", &eventfds, report)?;
    user.next()?;
    user.set_config(COMMAND, MEMORY_SPACE | BUS_MASTER)?;
    report.same(
        "the next user's device does not reach it",
        &None,
        &edu.touched(&memory.memory)?,
    )?;
    memory.map(user, IOVA, BOTH)?;
    report.same("until that user maps it", &Some(0), &edu.touched(&memory.memory)?)?;
    user.signal(IrqIndex::Msi, &eventfds)?;
    edu.message("and the next user's messages come", &eventfds, report)?;
    user.virt.detach()?;
    report.same("that user leaves as the first did", &false, &user.virt.is_gone())
}

/// Root is exempt from the limit until it gives that right up.
fn limit_locked_memory(bytes: u64) -> Result<()> {
    let mut sets = capabilities(None)?;
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets)?;
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    Ok(setrlimit(Resource::Memlock, limit)?)
}

/// From now on another call, or another request, ends the process.
fn confine() -> Result<()> {
    let request = |request| {
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, request)?;
        SeccompRule::new(vec![condition])
    };
    let requests = REQUESTS.into_iter().map(request).collect::<Result<Vec<_>, _>>()?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.into_iter().map(|call| (call, Vec::new())).collect();
    rules.insert(libc::SYS_ioctl, requests);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        architecture,
    )?;
    let program: seccompiler::BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter_all_threads(&program)?)
}
