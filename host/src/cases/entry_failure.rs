//! VM entries that fail are errors with a reason. The vCPU runs when its state is corrected.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::StartState;

use super::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    guest::{Guest, Mode},
    layout::{ORIGIN, PML4},
};

cases! { "entry_failure":
    bad_cr3_then_corrected,
    bad_rip_then_corrected,
    bad_ept_root_then_corrected,
    twice,
    host_state_survives,
}

const HLT: &[u8] = &[0xF4];

/// Bits of CR3 beyond what any processor has.
fn bad_cr3_then_corrected() -> CaseResult {
    let bad = StartState::Long64 { entry: ORIGIN, cr3: 1 << 62 };
    fails_then_runs(bad, StartState::Long64 { entry: ORIGIN, cr3: PML4 })
}

/// EIP in protected mode is checked to have 32 bits, which it has; a long-mode RIP that is not canonical is refused.
fn bad_rip_then_corrected() -> CaseResult {
    let bad = StartState::Long64 { entry: 1 << 60, cr3: PML4 };
    fails_then_runs(bad, StartState::Long64 { entry: ORIGIN, cr3: PML4 })
}

/// The start state may be refused when it is set, at setup, or when the guest is entered.
fn fails_then_runs(bad: StartState, good: StartState) -> CaseResult {
    let mut guest = Guest::<crate::hal::HostHal>::with_hal(Mode::Long, HLT)?;
    guest.vcpu.unbind()?;
    let root = guest.memory.ept.root() as usize;
    let accepted = guest.vcpu.set_start_state(bad).is_ok() && guest.vcpu.setup(root.into(), 0.into()).is_ok();
    if accepted {
        guest.vcpu.bind()?;
        expect_failure(&mut guest)?;
        guest.vcpu.unbind()?;
    }
    guest.vcpu.set_start_state(good)?;
    guest.vcpu.setup(root.into(), 0.into())?;
    guest.vcpu.bind()?;
    guest.halt()?;
    is_true("no failure is reported after a good entry", guest.vcpu.entry_failure().is_none())
}

/// A failed entry loads the host's state as an exit does. Every run compares the host's registers.
fn host_state_survives() -> CaseResult {
    let _host = super::patterned::PatternedHost::new(super::patterned::Pattern(2))?;
    let mut guest = Guest::<crate::hal::HostHal>::unbound(StartState::Long64 { entry: ORIGIN, cr3: 1 << 62 }, HLT)?;
    guest.vcpu.bind()?;
    match guest.run_once()? {
        Exit::FailEntry { .. } => Ok(()),
        other => fail("an entry that fails", guest.describe(&other)),
    }
}

/// Beyond the width of any physical address: refused at setup, or by VMLAUNCH as an invalid control field (error 7).
fn bad_ept_root_then_corrected() -> CaseResult {
    const INVALID_CONTROL_FIELD: u32 = 7;
    let mut guest = Guest::long(HLT)?;
    guest.vcpu.unbind()?;
    if guest.vcpu.setup((1 << 60).into(), 0.into()).is_ok() {
        guest.vcpu.bind()?;
        is_error("a run with a bad EPT root", guest.vcpu.run())?;
        let number = guest.vcpu.entry_failure().and_then(|failure| failure.instruction_error());
        same("VM-instruction error", number.map(|error| error.number()), Some(INVALID_CONTROL_FIELD))?;
        guest.vcpu.unbind()?;
    }
    guest.vcpu.setup((guest.memory.ept.root() as usize).into(), 0.into())?;
    guest.vcpu.bind()?;
    guest.halt()
}

fn expect_failure(guest: &mut Guest) -> CaseResult {
    const FAILED: u64 = 1 << 31;
    match guest.vcpu.run() {
        Err(_) => {}
        Ok(Exit::FailEntry { hardware_entry_failure_reason }) => {
            equal("bit 31 of the reason", hardware_entry_failure_reason & FAILED, FAILED)?;
        }
        Ok(other) => return fail("a failed entry", guest.describe(&other)),
    }
    is_true("the failure has a text", guest.vcpu.entry_failure().is_some())
}

/// After a failed first entry the VMCS is still clear, so the next entry is a VMLAUNCH.
fn twice() -> CaseResult {
    let bad = StartState::Long64 { entry: ORIGIN, cr3: 1 << 62 };
    let mut guest = Guest::<crate::hal::HostHal>::with_hal(Mode::Long, HLT)?;
    guest.vcpu.unbind()?;
    let root = guest.memory.ept.root() as usize;
    if guest.vcpu.set_start_state(bad).is_err() || guest.vcpu.setup(root.into(), 0.into()).is_err() {
        return Ok(());
    }
    guest.vcpu.bind()?;
    expect_failure(&mut guest)?;
    expect_failure(&mut guest)
}
