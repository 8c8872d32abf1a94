//! The README's example does what it says.

use alloc::vec;

use axvcpu::AxArchPerCpu;

use super::{
    check::{CaseResult, is_true, same},
    code::guest_code,
    layout::ORIGIN,
};
use crate::{arch::processor, readme, vm::memory::Memory, vmx};

cases! { "readme":
    runs_a_guest,
}

guest_code!(
    /// Reads a port, and writes one more to another.
    ports,
    "code32",
    "in al, 0x21",
    "inc al",
    "out REPORT_PORT, al",
    "hlt",
);

fn runs_a_guest() -> CaseResult {
    let mut memory = Memory::new(2)?;
    memory.write(ORIGIN, ports())?;
    readme::WRITTEN.lock().clear();
    vmx::with_state(|state| {
        state.disable()?;
        let result = run(&memory);
        let enabled = state.enable();
        result?;
        is_true("VMX on again", enabled.is_ok())
    })?;
    same("what the guest wrote", readme::WRITTEN.lock().clone(), vec![(0x99, 0x22)])
}

fn run(memory: &Memory) -> CaseResult {
    let mut state = readme::enable(processor::index())?;
    readme::run((memory.ept.root() as usize).into(), ORIGIN as u32)?;
    is_true("is_enabled", state.is_enabled())?;
    Ok(state.hardware_disable()?)
}
