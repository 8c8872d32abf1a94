//! Small guest programs, and what must come out of each.
//!
//! A theme is a file with a list of [`Case`]s; [`THEMES`] has all of them. A case builds its [`guest`], runs it and
//! compares. Where a processor lacks what a case needs, the case is skipped with the reason.

pub mod callee_saved;
pub mod check;
pub mod code;
pub mod guest;
pub mod host_state;
mod modes;
mod need;
mod runner;

mod apic;
mod axvm;
mod blocked;
mod control_registers;
mod corners;
mod cost;
mod cpuid;
mod debug;
mod differential;
mod double_faults;
mod enable;
mod entry_failure;
mod entry_refused;
mod ept;
mod events;
mod exits;
mod host;
mod lifecycle;
mod machines;
mod mmio;
mod msr;
mod msr_policy;
mod paging;
mod quick;
mod quick_interrupt;
mod readme;
mod registers;
mod reset;
mod selected;
mod start;
mod startup;
mod string_io;
mod task_switches;
mod undefined;
mod vmcs;
mod walk;
pub mod world;
mod xsetbv;

pub use runner::run;

use check::CaseResult;
use need::Need;

const THEMES: &[&[Case]] = &[
    start::CASES,
    reset::CASES,
    registers::CASES,
    callee_saved::CASES,
    exits::CASES,
    cpuid::CASES,
    msr::CASES,
    msr_policy::CASES,
    xsetbv::CASES,
    debug::CASES,
    differential::CASES,
    differential::found::CASES,
    paging::CASES,
    control_registers::CASES,
    events::CASES,
    blocked::CASES,
    undefined::CASES,
    selected::CASES,
    double_faults::CASES,
    task_switches::CASES,
    startup::CASES,
    apic::CASES,
    machines::CASES,
    string_io::CASES,
    walk::CASES,
    mmio::compare::CASES,
    mmio::protocol::CASES,
    entry_failure::CASES,
    entry_refused::CASES,
    vmcs::CASES,
    lifecycle::CASES,
    enable::CASES,
    host::CASES,
    quick::CASES,
    quick_interrupt::CASES,
    readme::CASES,
    corners::CASES,
    axvm::CASES,
    cost::CASES,
    world::patterns::CASES,
    world::hostile::CASES,
    world::nmi::CASES,
    world::owners::CASES,
    world::moves::CASES,
    ept::drops::CASES,
    ept::stale::CASES,
    ept::isolation::CASES,
    ept::violations::CASES,
    ept::pages::CASES,
    world::uses::CASES,
    world::speculation::CASES,
    world::barriers::CASES,
];

pub struct Case {
    name: &'static str,
    place: Place,
    needs: &'static [Need],
    run: fn() -> CaseResult,
}

/// Where a case runs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On the first processor and on the last.
    Everywhere,
    /// On the first processor, from where it may use the others.
    First,
    /// On the first processor, in a boot of its own, after which it runs no guest.
    Alone,
}

impl Case {
    const fn new(name: &'static str, run: fn() -> CaseResult) -> Self {
        Self { name, place: Place::Everywhere, needs: &[], run }
    }

    const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    const fn on_first(mut self) -> Self {
        self.place = Place::First;
        self
    }

    const fn alone(mut self) -> Self {
        self.place = Place::Alone;
        self
    }
}
