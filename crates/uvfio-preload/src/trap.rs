//! Loads and stores of registers: the handler in which they end, and the program's own handler of the same signal.
//!
//! A register's page can't be accessed. The processor then stops before the instruction, with nothing of it done; the
//! handler has the supervisor do its load or store, and goes on behind it. So each access has its width, its order, and
//! its value, as over a bus.
//!
//! Any other SIGSEGV is the program's: its handler gets it, or it ends the program where the program would have ended.
#![allow(unsafe_code)] // A signal's handler, and what it changes of the program's registers.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use libc::{ENOSYS, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_SIGINFO, SIG_DFL, SIG_IGN, SIGBUS, SIGSEGV};
use libc::{SYS_rt_tgsigqueueinfo, sighandler_t, siginfo_t};

use crate::instruction::{self, Outcome};
use crate::next::Next;
use crate::raw::{errno, set_errno, system_call};

type Sigaction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;

/// libc's own.
pub(crate) static SIGACTION: Next = Next::new(c"sigaction");

/// Whether our handler stands for SIGSEGV.
static ARMED: AtomicBool = AtomicBool::new(false);

/// What the program wants done at SIGSEGV while our handler stands. Set and read one by one: who changes the action while
/// another thread faults has no promise of the kernel's either as to which it gets.
static HANDLER: AtomicUsize = AtomicUsize::new(SIG_DFL);
static FLAGS: AtomicUsize = AtomicUsize::new(0);
static MASK: AtomicU64 = AtomicU64::new(0);

/// Has SIGSEGV come to us, once there are registers that are mapped.
pub(crate) fn arm() -> Result<(), c_int> {
    if !cfg!(target_arch = "x86_64") {
        return Err(ENOSYS);
    }
    instruction::prepare();
    if ARMED.swap(true, Ordering::AcqRel) {
        return Ok(());
    }
    let mut ours = nothing();
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = faulted;
    ours.sa_sigaction = handler as sighandler_t;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    let mut theirs = nothing();
    if next(SIGSEGV, &raw const ours, &raw mut theirs) != 0 {
        ARMED.store(false, Ordering::Release);
        return Err(errno());
    }
    remember(&theirs);
    Ok(())
}

fn nothing() -> libc::sigaction {
    // SAFETY: integers, and a pointer that may be null: all zeroes is a value of it.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn next(signal: c_int, action: *const libc::sigaction, before: *mut libc::sigaction) -> c_int {
    let next = SIGACTION.address();
    if next.is_null() {
        set_errno(ENOSYS);
        return -1;
    }
    // SAFETY: the address of libc's function of this type.
    let next = unsafe { core::mem::transmute::<*mut c_void, Sigaction>(next) };
    // SAFETY: pointers as libc's function takes them, from its caller.
    unsafe { next(signal, action, before) }
}

exported!([sigaction](signal: c_int, action: *const libc::sigaction, before: *mut libc::sigaction) -> c_int {
    if signal != SIGSEGV || !ARMED.load(Ordering::Acquire) {
        return next(signal, action, before);
    }
    let known = remembered();
    // SAFETY: null, or the caller's own.
    if let Some(action) = unsafe { action.as_ref() } {
        remember(action);
    }
    // SAFETY: as above; what was there need not be valid.
    if let Some(before) = unsafe { before.cast::<MaybeUninit<libc::sigaction>>().as_mut() } {
        before.write(known);
    }
    0
});

exported!([signal](signal: c_int, handler: sighandler_t) -> sighandler_t {
    let mut action = nothing();
    action.sa_sigaction = handler;
    action.sa_flags = SA_RESTART;
    let mut before = nothing();
    // SAFETY: both are valid.
    match unsafe { sigaction(signal, &raw const action, &raw mut before) } {
        0 => before.sa_sigaction,
        _ => libc::SIG_ERR,
    }
});

fn remember(action: &libc::sigaction) {
    FLAGS.store(action.sa_flags as usize, Ordering::Relaxed);
    // SAFETY: a set of signals begins with the 64 that there are.
    MASK.store(
        unsafe { (&raw const action.sa_mask).cast::<u64>().read() },
        Ordering::Relaxed,
    );
    HANDLER.store(action.sa_sigaction, Ordering::Release);
}

fn remembered() -> libc::sigaction {
    let mut action = nothing();
    action.sa_sigaction = HANDLER.load(Ordering::Acquire);
    action.sa_flags = FLAGS.load(Ordering::Relaxed) as c_int;
    let mask = MASK.load(Ordering::Relaxed);
    // SAFETY: as in `remember`.
    unsafe { (&raw mut action.sa_mask).cast::<u64>().write(mask) };
    action
}

extern "C" fn faulted(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let before = errno();
    // SAFETY: the kernel's, for this handler, and nobody else's; the flag SA_SIGINFO is set.
    let Some(told) = (unsafe { info.as_mut() }) else {
        return;
    };
    // SAFETY: as above.
    let Some(state) = (unsafe { context.cast::<libc::ucontext_t>().as_mut() }) else {
        return;
    };
    // Codes above 0 are the kernel's: the address is one then.
    let outcome = if told.si_code > 0 {
        // SAFETY: of a fault.
        let address = unsafe { told.si_addr() };
        instruction::run(address.addr(), state)
    } else {
        Outcome::NotOurs
    };
    match outcome {
        Outcome::Done => {}
        // As the kernel does where memory decoding is off.
        Outcome::Refused => again(SIGBUS, told),
        Outcome::NotOurs => give(signal, told, context),
    }
    set_errno(before);
}

/// Sends a signal to this very thread, as the kernel would; it arrives when the handler returns.
fn again(signal: c_int, info: &mut siginfo_t) {
    info.si_signo = signal;
    if signal == SIGBUS {
        info.si_code = BUS_ADRERR;
    }
    let (process, thread) = (rustix::process::getpid(), rustix::thread::gettid());
    let arguments = [
        process.as_raw_pid() as usize,
        thread.as_raw_pid() as usize,
        signal as usize,
        (&raw mut *info).expose_provenance(),
        0,
        0,
    ];
    let _ = system_call(SYS_rt_tgsigqueueinfo, arguments);
}

/// "Nonexistent physical address".
const BUS_ADRERR: c_int = 2;

/// Gives the program its signal.
fn give(signal: c_int, info: &mut siginfo_t, context: *mut c_void) {
    let action = remembered();
    match action.sa_sigaction {
        SIG_IGN if info.si_code <= 0 => {}
        SIG_DFL | SIG_IGN => {
            // The instruction faults again, or what was sent is sent again; then it ends as it would have.
            let default = nothing();
            ARMED.store(false, Ordering::Release);
            next(signal, &raw const default, core::ptr::null_mut());
            if info.si_code <= 0 {
                again(signal, info);
            }
        }
        handler => {
            if action.sa_flags & SA_RESETHAND != 0 {
                HANDLER.store(SIG_DFL, Ordering::Release);
            }
            if action.sa_flags & SA_SIGINFO != 0 {
                // SAFETY: the program's handler, which takes three arguments, as its flag says.
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                    unsafe { core::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: the program's handler, which takes one.
                let handler: extern "C" fn(c_int) = unsafe { core::mem::transmute(handler) };
                handler(signal);
            }
        }
    }
}
