//! What exits cost. Nothing here fails for being slow: the numbers are notes under the case.
//!
//! In Bochs the time stamp counter counts instructions, so the numbers are exact and the same in every run.

use alloc::format;

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{
    Case,
    check::{CaseResult, fail},
    code::guest_code,
    guest::Guest,
    runner::note,
};
use crate::arch::time;

pub const CASES: &[Case] =
    &[Case::new("cost.cpuid_exit", cpuid_exit).on_first(), Case::new("cost.port_exit", port_exit).on_first()];

const ROUNDS: u64 = 1000;

guest_code!(cpuids, "code64", "mov r8d, 1001", "2: xor eax, eax", "cpuid", "dec r8d", "jnz 2b", "hlt");
guest_code!(outs, "code64", "mov r8d, 1001", "2: out 0x99, al", "dec r8d", "jnz 2b", "hlt");

fn cpuid_exit() -> CaseResult {
    measure("CPUID", cpuids())
}

fn port_exit() -> CaseResult {
    measure("OUT", outs())
}

/// Entry, guest instruction and exit, as often as the program says, once to warm up.
fn measure(what: &str, code: &[u8]) -> CaseResult {
    let mut guest = Guest::long(code)?;
    guest.vcpu.run()?;
    let start = time::tsc();
    for _ in 0..ROUNDS {
        match guest.vcpu.run()? {
            Exit::Nothing | Exit::IoWrite { .. } => {}
            other => return fail("an exit of the loop", guest.describe(&other)),
        }
    }
    let ticks = (time::tsc() - start) / ROUNDS;
    note(format!("{what}: {ticks} ticks of the time stamp counter for run() and three instructions of the guest"));
    guest.run_to_halt().map(drop)
}
