//! The other processors: started once, then waiting in HLT for functions to run.

mod trampoline;

use alloc::{boxed::Box, vec::Vec};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use spin::Once;
use x86_64::instructions::interrupts;

use crate::arch::{self, lapic, paging, processor, time, vectors::WAKE_VECTOR};

const STACK_SIZE: usize = 256 * 1024;
const MILLISECOND: u64 = 1_000_000;

static WORKERS: Once<Vec<Worker>> = Once::new();
static ONLINE: AtomicUsize = AtomicUsize::new(1);
static FIRST_APIC_ID: AtomicU32 = AtomicU32::new(0);

/// Where the first processor leaves work for another one.
struct Worker {
    apic_id: AtomicU32,
    busy: AtomicBool,
    work: UnsafeCell<Option<*const (dyn Fn() + Sync)>>,
}

// SAFETY: `work` is written by the first processor while `busy` is false, and read by the other while it is true.
unsafe impl Sync for Worker {}
// SAFETY: the pointer in it is to something that is `Sync`.
unsafe impl Send for Worker {}

/// Number of processors that run.
pub fn count() -> usize {
    ONLINE.load(Ordering::SeqCst)
}

/// Starts processors until `expected` run, the first one included.
pub fn start_others(expected: usize) {
    WORKERS.call_once(|| (1..expected).map(|_| Worker::new()).collect());
    if expected <= 1 {
        return;
    }
    FIRST_APIC_ID.store(processor::apic_id(), Ordering::SeqCst);
    let stacks = (1..expected).map(|_| processor::leak_stack(STACK_SIZE).as_u64()).collect();
    let page = trampoline::install(Box::leak(stacks));
    lapic::send_init();
    time::wait(10 * MILLISECOND);
    // Twice: the first may get lost on old processors, the second does nothing to one that runs.
    for _ in 0..2 {
        lapic::send_startup(page);
        time::wait(MILLISECOND);
    }
    let deadline = time::now() + 1000 * MILLISECOND;
    while count() < expected && time::now() < deadline {
        core::hint::spin_loop();
    }
    assert!(count() == expected, "{} of {expected} processors started", count());
}

/// Runs `work` on the given processor and waits for its end. Only the first processor may ask another.
pub fn run_on(processor: usize, work: &(dyn Fn() + Sync)) {
    if processor == processor::index() {
        return work();
    }
    assert!(processor::index() == 0, "only the first processor gives out work");
    let worker = start_on(processor, work);
    wait_until(|| !worker.busy.load(Ordering::SeqCst));
}

/// Runs `work` on all processors at the same time and waits for the last.
pub fn run_on_all(work: &(dyn Fn() + Sync)) {
    let workers: Vec<_> = (1..count()).map(|processor| start_on(processor, work)).collect();
    work();
    wait_until(|| workers.iter().all(|worker| !worker.busy.load(Ordering::SeqCst)));
}

/// Interrupts another processor, with a vector that asks nothing of it.
pub fn interrupt(processor: usize) {
    let apic_id = match processor.checked_sub(1) {
        Some(worker) => &workers()[worker].apic_id,
        None => &FIRST_APIC_ID,
    };
    lapic::send_interrupt(apic_id.load(Ordering::SeqCst), WAKE_VECTOR);
}

fn start_on(processor: usize, work: &(dyn Fn() + Sync)) -> &'static Worker {
    let worker = &workers()[processor - 1];
    // SAFETY: only the lifetime changes. Both callers wait for the end of the work before they return.
    let work: *const (dyn Fn() + Sync + 'static) = unsafe { core::mem::transmute(work) };
    // SAFETY: the worker is not busy, so it does not look.
    unsafe { *worker.work.get() = Some(work) };
    worker.busy.store(true, Ordering::SeqCst);
    lapic::send_interrupt(worker.apic_id.load(Ordering::SeqCst), WAKE_VECTOR);
    worker
}

/// Sleeps between interrupts until the condition holds: a processor that spins slows an emulator down for the others.
fn wait_until(condition: impl Fn() -> bool) {
    let were_on = interrupts::are_enabled();
    interrupts::disable();
    while !condition() {
        interrupts::enable_and_hlt();
        interrupts::disable();
    }
    if were_on {
        interrupts::enable();
    }
}

impl Worker {
    fn new() -> Self {
        Self { apic_id: AtomicU32::new(0), busy: AtomicBool::new(false), work: UnsafeCell::new(None) }
    }
}

fn workers() -> &'static [Worker] {
    WORKERS.get().expect("the processors were started")
}

/// Where the trampoline leads a processor, on its own stack. Interrupts are off.
#[unsafe(no_mangle)]
extern "C" fn other_processor_main(worker: usize) -> ! {
    paging::load();
    arch::init_this_processor(worker + 1);
    let this = &workers()[worker];
    this.apic_id.store(processor::apic_id(), Ordering::SeqCst);
    ONLINE.fetch_add(1, Ordering::SeqCst);
    loop {
        wait_until(|| this.busy.load(Ordering::SeqCst));
        // SAFETY: `busy` says that the pointer is there and valid until it is false again.
        if let Some(work) = unsafe { (*this.work.get()).take() } {
            // SAFETY: as above.
            unsafe { (*work)() };
        }
        this.busy.store(false, Ordering::SeqCst);
        lapic::send_interrupt(FIRST_APIC_ID.load(Ordering::SeqCst), WAKE_VECTOR);
    }
}
