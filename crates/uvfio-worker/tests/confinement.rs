//! Every system call there is, each in a process confined as a worker is: those outside the list kill it.
//!
//! The test runs itself again for each: once confined, a process can't go back.
#![allow(clippy::expect_used, clippy::panic)] // A test whose ground gives way has failed.
#![allow(unsafe_code)] // Calls that no library would make.

use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use rustix::process::Signal;
use uvfio_worker::{CALLS, Call, HARDWARE_CALLS, Only, begin_confinement};

/// Where in the environment the call to be made stands: `NUMBER ARGUMENT...`.
const CALL: &str = "UVFIO_TEST_CALL";

/// Where in the environment the place of the [`TABLES`] in force stands; without it the first ones are.
const IN_FORCE: &str = "UVFIO_TEST_TABLES";

/// What a worker is confined to: one that serves a software device, and one that owns a PCI function.
const TABLES: [&[&[Call]]; 2] = [&[CALLS], &[CALLS, HARDWARE_CALLS]];

/// Beyond the last number that any kernel has had.
const LAST: i64 = 600;

/// Calls that Linux lets past every filter, for its own use: `uretprobe` and `uprobe` of x86-64. Outside the page that
/// the kernel makes for them they do nothing or raise SIGILL.
#[cfg(target_arch = "x86_64")]
const PAST_EVERY_FILTER: &[i64] = &[335, 336];
#[cfg(not(target_arch = "x86_64"))]
const PAST_EVERY_FILTER: &[i64] = &[];

/// How much more memory a confined process may have than it began with, bytes.
const MEMORY: u64 = 16 << 20;

/// Children at a time.
const AT_ONCE: usize = 4;

/// A call, with its arguments from the first on; the others are 0.
type Attempt = (i64, Vec<u64>);

fn main() -> ExitCode {
    if let Ok(call) = std::env::var(CALL) {
        make(&call);
    }
    let checks: &[(&str, fn())] = &[
        (
            "every_call_outside_the_list_kills_a_confined_process",
            every_call_outside_the_list_kills_a_confined_process,
        ),
        (
            "a_call_with_a_condition_is_allowed_under_it_alone",
            a_call_with_a_condition_is_allowed_under_it_alone,
        ),
        (
            "requests_of_vfio_are_for_the_owner_of_a_function_alone_and_only_those_listed",
            requests_of_vfio_are_for_the_owner_of_a_function_alone_and_only_those_listed,
        ),
        (
            "clone3_is_answered_as_if_it_did_not_exist",
            clone3_is_answered_as_if_it_did_not_exist,
        ),
        (
            "a_thread_can_be_started_in_a_confined_process",
            a_thread_can_be_started_in_a_confined_process,
        ),
        (
            "a_thread_made_before_is_confined_too",
            a_thread_made_before_is_confined_too,
        ),
        (
            "memory_of_its_own_ends_at_the_limit_and_shared_memory_does_not_count",
            memory_of_its_own_ends_at_the_limit_and_shared_memory_does_not_count,
        ),
        (
            "no_file_can_be_opened_once_confinement_has_begun",
            no_file_can_be_opened_once_confinement_has_begun,
        ),
    ];
    // So that a run of chosen tests works as with others.
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    for (name, check) in checks {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted)) {
            check();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// In the child: confines itself, makes the call, and ends with a status that tells what came of it.
fn make(call: &str) -> ! {
    let place = std::env::var(IN_FORCE).map_or(0, |place| place.parse().expect("a number"));
    let tables: &[&[Call]] = TABLES[place];
    let begun = begin_confinement().expect("confinement begins");
    match call {
        "open" => {
            let opened = std::fs::File::open("/proc/self/status").is_ok();
            std::process::exit(i32::from(opened));
        }
        "thread" => {
            // As in every worker: with the first one libc does what it does once.
            std::thread::spawn(|| ()).join().expect("a first thread");
            begun.finish(0, MEMORY, tables).expect("confined");
            let answer = std::thread::Builder::new()
                .name("late".into())
                .spawn(|| 7)
                .map(|thread| thread.join().ok());
            std::process::exit(i32::from(!matches!(answer, Ok(Some(7)))));
        }
        "memory" => {
            let shared =
                rustix::fs::memfd_create("shared", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
            begun.finish(0, MEMORY, tables).expect("confined");
            let within = Vec::<u8>::new().try_reserve_exact(MEMORY as usize / 2).is_ok();
            let beyond = Vec::<u8>::new().try_reserve_exact(MEMORY as usize * 2).is_ok();
            // Four times as much, shared, of a file that need not be so long.
            let write = (libc::PROT_READ | libc::PROT_WRITE) as u64;
            let file = shared.as_raw_fd().cast_unsigned().into();
            let arguments = [0, MEMORY * 4, write, libc::MAP_SHARED as u64, file];
            let mapped = raw(libc::SYS_mmap, &arguments) > 0;
            let status = i32::from(within) | i32::from(beyond) << 1 | i32::from(mapped) << 2;
            std::process::exit(status);
        }
        "early thread" => {
            let (send, receive) = std::sync::mpsc::channel();
            let thread = std::thread::spawn(move || {
                receive.recv().expect("told to go on");
                raw(libc::SYS_getppid, &[])
            });
            begun.finish(0, MEMORY, tables).expect("confined");
            send.send(()).expect("it waits");
            let _ = thread.join();
            std::process::exit(0);
        }
        _ => {}
    }
    let mut words = call.split(' ');
    let number = words
        .next()
        .and_then(|word| word.parse::<i64>().ok())
        .expect("a number");
    let arguments: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
    begun.finish(0, MEMORY, tables).expect("confined");
    let result = raw(number, &arguments);
    std::process::exit(if result == i64::from(-libc::ENOSYS) { 38 } else { 0 });
}

fn raw(number: i64, arguments: &[u64]) -> i64 {
    let argument = |at: usize| arguments.get(at).copied().unwrap_or(0);
    // SAFETY: not safe for all numbers, and nothing but the process's end depends on what comes of it: with zeroes
    // for arguments, the calls that the filter lets through do nothing to memory that Rust knows of.
    let result = unsafe {
        libc::syscall(
            number,
            argument(0),
            argument(1),
            argument(2),
            argument(3),
            argument(4),
            argument(5),
        )
    };
    if result == -1 {
        -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

fn start(call: &str, place: usize) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .env(CALL, call)
        .env(IN_FORCE, place.to_string())
        .env("MALLOC_ARENA_MAX", "1")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child starts")
}

fn run(call: &str) -> ExitStatus {
    start(call, 0).wait().expect("its end")
}

/// What becomes of a confined process for each of the calls.
fn run_all(attempts: &[Attempt], place: usize) -> Vec<(Attempt, ExitStatus)> {
    let mut results = Vec::new();
    for some in attempts.chunks(AT_ONCE) {
        let running: Vec<(Attempt, Child)> = some
            .iter()
            .map(|(number, arguments)| {
                let words: Vec<String> = std::iter::once(number.to_string())
                    .chain(arguments.iter().map(u64::to_string))
                    .collect();
                ((*number, arguments.clone()), start(&words.join(" "), place))
            })
            .collect();
        for (attempt, mut child) in running {
            results.push((attempt, child.wait().expect("its end")));
        }
    }
    results
}

fn killed_for_it(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SYS.as_raw())
}

/// Whether the tables let a call with these arguments through.
fn allowed((number, arguments): &Attempt, tables: &[&[Call]]) -> bool {
    let argument = |index: u8| arguments.get(usize::from(index)).copied().unwrap_or(0);
    tables.iter().copied().flatten().any(|call| {
        call.number == *number
            && match call.only {
                Only::Any => true,
                // The child's number is never 0, nor this one's.
                Only::OwnProcess => false,
                Only::Argument {
                    index,
                    beside,
                    values,
                    ..
                } => values.contains(&(argument(index) & !beside & 0xffff_ffff)),
            }
    })
}

fn check(attempts: &[Attempt]) {
    (0..TABLES.len()).for_each(|place| check_in(attempts, place));
}

/// The same for one of [`TABLES`].
fn check_in(attempts: &[Attempt], place: usize) {
    let tables = TABLES[place];
    let wrong: Vec<String> = run_all(attempts, place)
        .into_iter()
        .filter(|(attempt, status)| killed_for_it(*status) == allowed(attempt, tables))
        .map(|(attempt, status)| {
            let expected = if allowed(&attempt, tables) {
                "let through"
            } else {
                "killed by SIGSYS"
            };
            format!(
                "tables {place}: system call {} with {:?}: expected to be {expected}, ended with {status}",
                attempt.0, attempt.1
            )
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn every_call_outside_the_list_kills_a_confined_process() {
    let arguments = |number| match number {
        // Without any it would wait for ever.
        libc::SYS_ppoll => vec![0, u64::MAX],
        _ => Vec::new(),
    };
    let numbers = (0..=LAST).filter(|number| !PAST_EVERY_FILTER.contains(number));
    let mut attempts: Vec<Attempt> = numbers.map(|number| (number, arguments(number))).collect();
    // The numbers of x86-64's other call table, and nonsense.
    for beside in [
        0x4000_0000,
        0x4000_0001,
        0x4000_0000 + 59,
        0x4000_0000 + 520,
        0x7fff_ffff,
        -1,
    ] {
        attempts.push((beside, Vec::new()));
    }
    check(&attempts);
}

fn a_call_with_a_condition_is_allowed_under_it_alone() {
    let exec = libc::PROT_EXEC as u64;
    let read = libc::PROT_READ as u64;
    let nothing = u64::from(u32::MAX);
    let mut attempts = vec![
        (libc::SYS_mmap, vec![0, 4096, read]),
        (libc::SYS_mmap, vec![0, 4096, read | exec]),
        (libc::SYS_mmap, vec![0, 4096, exec]),
        (libc::SYS_mprotect, vec![0, 0, read]),
        (libc::SYS_mprotect, vec![0, 0, read | exec]),
        (libc::SYS_clone, vec![libc::SIGCHLD as u64]),
        (libc::SYS_clone, vec![(libc::CLONE_VM | libc::CLONE_VFORK) as u64]),
        (libc::SYS_clone, vec![libc::CLONE_NEWUSER as u64]),
        (libc::SYS_process_vm_readv, vec![1]),
        (libc::SYS_process_vm_writev, vec![1]),
    ];
    for command in [
        libc::F_DUPFD,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_SETOWN,
    ] {
        attempts.push((libc::SYS_fcntl, vec![nothing, command as u64]));
    }
    for command in [
        libc::F_DUPFD_CLOEXEC,
        libc::F_ADD_SEALS,
        libc::F_GET_SEALS,
        libc::F_SETLK,
    ] {
        attempts.push((libc::SYS_fcntl, vec![nothing, command as u64]));
    }
    for request in [libc::FIONBIO, libc::TIOCSTI, libc::FIONREAD, libc::FIOCLEX] {
        attempts.push((libc::SYS_ioctl, vec![nothing, request]));
    }
    for option in [
        libc::PR_SET_NAME,
        libc::PR_SET_DUMPABLE,
        libc::PR_SET_SECCOMP,
        libc::PR_SET_PTRACER,
    ] {
        attempts.push((libc::SYS_prctl, vec![option as u64]));
    }
    check(&attempts);
}

fn requests_of_vfio_are_for_the_owner_of_a_function_alone_and_only_those_listed() {
    let nothing = u64::from(u32::MAX);
    // All of VFIO's numbers and one beyond each end; `;` is its type.
    let requests = (99..=121).map(|number| u64::from(b';') << 8 | number);
    let mut attempts: Vec<Attempt> = requests
        .map(|request| (libc::SYS_ioctl, vec![nothing, request]))
        .collect();
    let counted = |place: usize| {
        let tables = TABLES[place];
        attempts.iter().filter(|attempt| allowed(attempt, tables)).count()
    };
    assert_eq!(
        (counted(0), counted(1)),
        (0, 9),
        "requests of VFIO that are allowed"
    );
    // The same with a direction, as other drivers' requests have one.
    attempts.push((libc::SYS_ioctl, vec![nothing, 0x4000_3b6e]));
    check(&attempts);
}

fn clone3_is_answered_as_if_it_did_not_exist() {
    let status = run(&libc::SYS_clone3.to_string());
    assert_eq!(status.code(), Some(38), "clone3: {status}, expected ENOSYS");
}

fn a_thread_can_be_started_in_a_confined_process() {
    let status = run("thread");
    assert!(status.success(), "a late thread: {status}");
}

fn a_thread_made_before_is_confined_too() {
    let status = run("early thread");
    assert!(
        killed_for_it(status),
        "getppid on an early thread: {status}, expected SIGSYS"
    );
}

fn memory_of_its_own_ends_at_the_limit_and_shared_memory_does_not_count() {
    let status = run("memory");
    assert_eq!(
        status.code(),
        Some(0b101),
        "1: half of the limit, 2: twice the limit, 4: more, but shared: {status}"
    );
}

fn no_file_can_be_opened_once_confinement_has_begun() {
    let status = run("open");
    assert_eq!(
        status.code(),
        Some(0),
        "opening a file before the list is in force: {status}"
    );
}
