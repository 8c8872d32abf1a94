//! Small guest programs, and what must come out of each.
//!
//! A suite is a list of cases about one subject. [`SUITES`] has all of them. A case builds its [`guest`], runs it and
//! compares. A case is skipped, with the reason, where the processor lacks what the case needs.

#[macro_use]
mod case;

pub mod check;
pub mod code;
pub mod guest;
pub mod layout;

pub mod callee_saved;
pub mod host_registers;
mod modes;
mod need;
mod on_cpu;
pub mod patterned;
mod runner;

mod apic;
mod axvm;
mod control_registers;
mod cost;
mod cpuid;
mod debug;
mod differential;
mod double_faults;
mod enable;
mod entry_failure;
mod entry_refused;
mod ept;
mod event_blocking;
mod events;
mod exits;
mod fast_path;
mod fpu_owner;
mod hidden_instructions;
mod host_state;
mod intercepts;
mod lifecycle;
mod machines;
mod migration;
mod mmio;
mod msr;
mod msr_policy;
mod nmi;
mod paging;
mod readme;
mod registers;
mod speculation;
mod start;
mod startup;
mod string_io;
mod task_switches;
mod vmcs;
mod walk;
mod xsetbv;

pub use runner::run;

use case::Case;

const SUITES: &[&[Case]] = &[
    start::CASES,
    start::reset::CASES,
    registers::CASES,
    exits::CASES,
    cpuid::CASES,
    cpuid::features::CASES,
    msr::CASES,
    msr_policy::CASES,
    xsetbv::CASES,
    debug::CASES,
    debug::single_step::CASES,
    differential::CASES,
    differential::regressions::CASES,
    paging::CASES,
    control_registers::CASES,
    control_registers::user_mode::CASES,
    events::CASES,
    event_blocking::CASES,
    hidden_instructions::CASES,
    intercepts::CASES,
    double_faults::CASES,
    task_switches::CASES,
    startup::CASES,
    apic::CASES,
    machines::CASES,
    machines::timers::CASES,
    string_io::CASES,
    string_io::at_once::CASES,
    walk::CASES,
    mmio::compare::CASES,
    mmio::protocol::CASES,
    entry_failure::CASES,
    entry_refused::CASES,
    vmcs::CASES,
    lifecycle::CASES,
    enable::CASES,
    fast_path::CASES,
    fast_path::injection::CASES,
    readme::CASES,
    axvm::CASES,
    cost::CASES,
    host_state::changes::CASES,
    host_state::entry_assembly::CASES,
    host_state::guest_uses::CASES,
    host_state::hostile::CASES,
    host_state::large_registers::CASES,
    host_state::patterns::CASES,
    nmi::CASES,
    fpu_owner::CASES,
    migration::CASES,
    ept::flushes::CASES,
    ept::stale::CASES,
    ept::isolation::CASES,
    ept::violations::CASES,
    ept::pages::CASES,
    speculation::CASES,
    speculation::barriers::CASES,
];
