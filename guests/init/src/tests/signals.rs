//! Signals, sent and raised by faults. A fault's signal needs the right exception with the right details in the guest.

use std::{
    arch::asm,
    sync::atomic::{AtomicUsize, Ordering},
};

use nix::{
    libc,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, Pid, fork, getpid},
};

use super::{Outcome, ensure};

static CAUGHT: AtomicUsize = AtomicUsize::new(0);
static FAULT_ADDRESS: AtomicUsize = AtomicUsize::new(0);

const SENT: usize = 100;
/// Not mapped in any process.
const NOWHERE: usize = 0x1230;

pub fn run() -> Outcome {
    caught()?;
    for (name, signal, fault) in FAULTS {
        let status = in_child(fault)?;
        let expected = matches!(status, WaitStatus::Signaled(_, got, _) if got == signal);
        ensure(expected, || format!("{name}: {status:?}, expected {signal}"))?;
    }
    let status = in_child(look_at_fault_address)?;
    ensure(matches!(status, WaitStatus::Exited(_, 0)), || format!("the address of a page fault: {status:?}"))?;
    Ok(format!("{SENT} caught, {} kinds of fault", FAULTS.len()))
}

fn caught() -> Result<(), Box<dyn std::error::Error>> {
    handle(Signal::SIGUSR1, SigHandler::Handler(count), SaFlags::empty())?;
    for _ in 0..SENT {
        kill(getpid(), Signal::SIGUSR1)?;
    }
    let caught = CAUGHT.load(Ordering::SeqCst);
    ensure(caught == SENT, || format!("{caught} of {SENT} signals came"))
}

extern "C" fn count(_: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

const FAULTS: [(&str, Signal, fn()); 6] = [
    ("division by zero", Signal::SIGFPE, || {
        // SAFETY: faults, and the process ends.
        unsafe { asm!("div {0:e}", in(reg) 0, out("eax") _, out("edx") _) }
    }),
    ("undefined instruction", Signal::SIGILL, || {
        // SAFETY: faults, and the process ends.
        unsafe { asm!("ud2") }
    }),
    ("breakpoint", Signal::SIGTRAP, || {
        // SAFETY: traps, and the process ends.
        unsafe { asm!("int3") }
    }),
    ("privileged instruction", Signal::SIGSEGV, || {
        // SAFETY: faults, and the process ends.
        unsafe { asm!("hlt") }
    }),
    ("page fault", Signal::SIGSEGV, || {
        // SAFETY: faults, and the process ends.
        unsafe { asm!("mov byte ptr [{0}], 1", in(reg) NOWHERE) }
    }),
    ("floating-point exception", Signal::SIGFPE, || {
        // SAFETY: unmasks division by zero, and divides; the process ends.
        unsafe {
            asm!(
                "push 0x1D80",
                "ldmxcsr [rsp]",
                "xorps xmm1, xmm1",
                "divss xmm0, xmm1",
                "pop rax",
                in("xmm0") 1.0_f32,
                out("xmm1") _,
                out("rax") _,
            );
        }
    }),
];

/// Ends well if the signal handler gets the address that was touched, which the kernel has from CR2.
fn look_at_fault_address() {
    let installed = handle(Signal::SIGSEGV, SigHandler::SigAction(note_address), SaFlags::SA_SIGINFO);
    if installed.is_ok() {
        // SAFETY: faults; the handler ends the process.
        unsafe { asm!("mov {0:l}, [{1}]", out(reg) _, in(reg) NOWHERE) }
    }
}

extern "C" fn note_address(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid pointer, and SIGSEGV has an address.
    FAULT_ADDRESS.store(unsafe { (*info).si_addr() } as usize, Ordering::SeqCst);
    let code = if FAULT_ADDRESS.load(Ordering::SeqCst) == NOWHERE { 0 } else { 2 };
    // SAFETY: allowed in a signal handler.
    unsafe { libc::_exit(code) }
}

fn handle(signal: Signal, handler: SigHandler, flags: SaFlags) -> nix::Result<()> {
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: the handlers of this file only touch atomics and end the process.
    unsafe { sigaction(signal, &action) }.map(|_| ())
}

fn in_child(act: fn()) -> nix::Result<WaitStatus> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            act();
            std::process::exit(1)
        }
        ForkResult::Parent { child } => wait(child),
    }
}

fn wait(child: Pid) -> nix::Result<WaitStatus> {
    waitpid(child, None)
}
