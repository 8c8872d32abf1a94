//! The mutations, as data: one for each line that moves a register between host and guest, takes over a host's value at a
//! bind, or gives a guest its state after reset.

mod debug;
mod extended;
mod guest;
mod host;
mod msrs;
mod run;
mod switch;

/// One way to break the crate.
pub struct Mutation {
    pub name: &'static str,
    /// Below the top of the repository.
    pub file: &'static str,
    /// A text that is in the file exactly once, and what stands there instead.
    pub find: &'static str,
    pub replace: &'static str,
    /// Cases, or beginnings of their names, as `cargo xtask test` prints them; the next is tried where one stays green.
    pub run: &'static [&'static str],
    /// What one of the failures must say: a mutation that breaks something else on the way is caught for the wrong reason.
    pub expect: Option<&'static str>,
    /// For a line that no case here can miss: why.
    pub survives: Option<&'static str>,
}

impl Mutation {
    const fn replace(name: &'static str, file: &'static str, find: &'static str, replace: &'static str) -> Self {
        Self { name, file, find, replace, run: ALONE, expect: None, survives: None }
    }

    const fn delete(name: &'static str, file: &'static str, find: &'static str) -> Self {
        Self::replace(name, file, find, "")
    }

    const fn run(mut self, run: &'static [&'static str]) -> Self {
        self.run = run;
        self
    }

    const fn expect(mut self, text: &'static str) -> Self {
        self.expect = Some(text);
        self
    }

    /// Whether one of the failures is what this breaks.
    pub fn is_named_by(&self, red: &[String]) -> bool {
        red.iter().any(|failure| self.expect.is_none_or(|text| failure.contains(text)))
    }

    const fn survives(mut self, why: &'static str) -> Self {
        self.survives = Some(why);
        self
    }
}

pub fn table() -> impl Iterator<Item = &'static Mutation> {
    [switch::TABLE, run::TABLE, extended::TABLE, debug::TABLE, msrs::TABLE, host::TABLE, guest::TABLE]
        .into_iter()
        .flatten()
}

/// Every register has a pattern on both sides.
const ALONE: &[&str] = &["cases/tigerlake/1/world.patterns_alone", "cases/tigerlake/1/world."];
const WORLD: &[&str] = &["cases/tigerlake/1/world.patterns_alone", "cases/tigerlake/1/world."];
/// What the processor reads of a register, and not the crate.
const USES: &[&str] = &["cases/tigerlake/1/world.guest_uses_", "cases/tigerlake/1/world."];
const REFUSED: &[&str] = &["cases/tigerlake/1/entry_"];
const OLD: &[&str] = &["cases/arrandale/1/world.patterns_alone"];
const RESET: &[&str] = &["cases/tigerlake/1/start."];
const DEBUG: &[&str] = &["cases/tigerlake/1/debug."];
const PROCESSORS: &[&str] = &["cases/tigerlake/4/world.patterns_migration"];
const NO_SSE: &[&str] = &["no-sse/tigerlake/4/world.patterns_", "no-sse/tigerlake/4/owners."];
const NO_SSE_OWNERS: &[&str] = &["no-sse/tigerlake/4/owners."];
const EPT_ROOT: &[&str] = &["cases/tigerlake/4/ept.drops_of_invalidation"];
const SELECTED: &[&str] = &["cases/tigerlake/1/selected.exception"];
const MSRS: &[&str] = &["cases/tigerlake/1/msr.read"];
const TRAPS: &[&str] =
    &["cases/tigerlake/1/debug.", "cases/tigerlake/1/blocked.trap", "cases/tigerlake/1/string_io.single"];
const NO_SSE_LOOKS: &[&str] =
    &["no-sse/tigerlake/4/registers.pkru", "no-sse/tigerlake/4/corners.device_write", "no-sse/tigerlake/4/mmio.avx_64"];
const NO_SSE_BARRIERS: &[&str] = &["no-sse/tigerlake/4/world.speculation_barriers"];
const NO_SSE_DROPS: &[&str] = &["no-sse/tigerlake/4/owners.dropped_gives_back"];
/// Two vCPUs that stay bound and take turns.
const BOUND_HERE: &[&str] = &["cases/tigerlake/1/world.patterns_both_bound", "cases/tigerlake/1/lifecycle."];
const TURNS: &[&str] = &["cases/tigerlake/1/world.patterns_take_turns", "cases/tigerlake/1/world.host_changes"];
const MOVES: &[&str] =
    &["cases/tigerlake/1/world.host_changes", "cases/tigerlake/1/world.patterns_", "cases/tigerlake/1/world.spec"];
const VMX_OFF: &[&str] = &["cases/tigerlake/1/world.vmx_off"];
const STAYS: &[&str] =
    &["cases/tigerlake/4/world.stays", "cases/tigerlake/4/world.used_on", "cases/tigerlake/4/lifecycle."];
const STAYS_VMX_OFF: &[&str] = &["cases/tigerlake/1/world.stays_through"];
const CONTROL_REGISTERS: &[&str] = &["cases/tigerlake/1/world.host_changes_control"];
const BREAKPOINT: &[&str] = &["cases/tigerlake/1/quick.host_with", "cases/tigerlake/1/world.patterns_"];
const HOSTS: &[&str] = &["cases/tigerlake/1/owners.host_without"];
const NO_SSE_OLD: &[&str] = &["no-sse/arrandale/4/world.patterns_"];
const NO_SSE_XSETBV: &[&str] = &["no-sse/tigerlake/4/xsetbv."];
const NO_SSE_SETUP: &[&str] = &["no-sse/tigerlake/4/corners.setup_resets_"];
const OWNERS: &[&str] = &["no-sse/tigerlake/4/owners.two_policies"];
const BOUND: &[&str] = &["no-sse/tigerlake/4/owners.both_bound"];
const ENABLE: &[&str] = &["cases/tigerlake/1/enable."];
const PAGING: &[&str] = &["cases/tigerlake/1/paging."];
const CR4: &[&str] = &["cases/tigerlake/1/control.cr4", "cases/tigerlake/1/cpuid.shown_machine_check_gives_cr4_mce"];
const CORNERS: &[&str] = &["cases/tigerlake/1/corners."];
const LIFECYCLE: &[&str] = &["cases/tigerlake/1/lifecycle."];
const SPECULATION: &[&str] = &["cases/tigerlake/1/world.spec", "cases/tigerlake/1/world.pred"];
const BARRIERS: &[&str] = &["cases/tigerlake/1/world.speculation_barriers"];
const TASK: &[&str] = &["cases/tigerlake/1/world.host_task_register"];
const EPT: &[&str] =
    &["cases/tigerlake/4/ept.drops_", "cases/tigerlake/4/ept.remapped_by", "cases/tigerlake/4/ept.host_writes_cr3"];
/// Guests whose exits are of one kind, again and again.
const REPEATED: &[&str] = &["cases/tigerlake/1/quick.", "cases/tigerlake/1/exits."];
/// Interrupts that come when nothing else waits.
const INTERRUPTS: &[&str] = &["cases/tigerlake/1/quick.interrupt", "cases/tigerlake/1/entry_refused."];
/// A model where a vCPU stays with a look alone: its guests have no SPEC_CTRL.
const VMX_OFF_HASWELL: &[&str] = &["cases/haswell/1/world.vmx_off"];
const VPIDS: &[&str] = &["cases/tigerlake/4/ept.vpids"];
const MOVED: &[&str] = &["cases/tigerlake/4/world.vmx_off_behind", "cases/tigerlake/4/world.patterns_migration"];
const SLICES: &[&str] = &["cases/tigerlake/1/exits.time_slice"];
/// Instructions whose end is more than a step.
const COMPLETION: &[&str] = &[
    "cases/tigerlake/1/quick.",
    "cases/tigerlake/1/debug.",
    "cases/tigerlake/1/string",
    "cases/tigerlake/1/blocked.",
    "cases/tigerlake/1/msr",
];
const EVENTS: &[&str] = &[
    "cases/tigerlake/1/quick.",
    "cases/tigerlake/1/events.",
    "cases/tigerlake/1/corners.",
    "cases/tigerlake/1/double",
];
const WINDOWS: &[&str] = &["cases/tigerlake/1/quick.", "cases/tigerlake/1/blocked.", "cases/tigerlake/1/events."];
const MMIO: &[&str] = &["cases/tigerlake/1/quick.", "cases/tigerlake/1/mmio"];
const STARTUP: &[&str] = &["cases/tigerlake/1/startup."];
const SHADOW: &[&str] = &["cases/tigerlake/1/blocked.", "cases/tigerlake/1/events.", "cases/tigerlake/1/debug."];
const HOST_REGISTERS: &[&str] = &["cases/tigerlake/1/switch.host_registers_behind_an_exit"];
const REFUSED_REGISTERS: &[&str] = &["cases/tigerlake/1/switch.host_registers_behind_a_refusal"];
