//! Instructions are executed natively and in the guest. Registers, flags, memory, control and debug registers, MSRs and every
//! exception must be equal.
//!
//! A sequence runs with its own page tables, descriptor tables and stacks in a [`stage`], from a given state, to its first
//! fault or its end; breakpoints and single steps are written down on the way. Natively that is in place of the host, with
//! VMX off.

mod blob;
mod layout;
mod native;
pub mod regressions;
mod sequence;
mod stage;

use alloc::{format, string::String, vec::Vec};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::{StartState, VmxArchVCpu};

use super::{
    check::{CaseResult, Failure, fail},
    host_registers::HostState,
    layout::vector::{GP, UD},
};
use crate::{
    hal::HostHal,
    vm::ept::{Access, Ept},
    vmx,
};
use layout::{CODE, COMPARED, FX, LOG, OUT};
use sequence::{Kind, Sequence};
use stage::Stage;

cases! { "differential":
    plain_instructions.on_boot_cpu(),
    emulated_instructions.on_boot_cpu(),
}

/// Sequences between two changes of VMX. A change costs more than a sequence.
const BATCH: u64 = 50;
/// Exits until a sequence counts as one that does not end.
const EXITS: usize = 5000;
/// Sequences that a failure shows.
const SHOWN: usize = 12;

fn plain_instructions() -> CaseResult {
    run_all(Kind::Plain, 1, 150)
}

fn emulated_instructions() -> CaseResult {
    run_all(Kind::Emulated, 2, 700)
}

fn run_all(kind: Kind, seed: u64, count: u64) -> CaseResult {
    let mut different = Vec::new();
    for first in (0..count).step_by(BATCH as usize) {
        let sequences =
            || (first..count.min(first + BATCH)).map(|number| (number, Sequence::generate(kind, seed, number)));
        let mut stage = Stage::native()?;
        stage.write_tables();
        vmx::with_state(vmx::State::disable)?;
        let natively: Vec<Outcome> = sequences().map(|(_, sequence)| run_natively(&mut stage, &sequence)).collect();
        if let Err(error) = vmx::with_state(vmx::State::enable) {
            return fail("VMX on again", format!("{error}"));
        }
        let mut guest = GuestStage::new(&stage)?;
        for ((number, sequence), natively) in sequences().zip(natively) {
            let difference = match guest.run(&sequence) {
                Ok(in_the_guest) => natively.difference(&in_the_guest),
                Err(Failure { expected, got, .. }) => Some(format!("in the guest not {expected}: {got}")),
            };
            let start = stage.linear(CODE);
            different
                .extend(difference.map(|text| format!("sequence {number}: {text}; {sequence}, code at {start:#x}")));
        }
    }
    match different.as_slice() {
        [] => Ok(()),
        some => fail(
            format!("all sequences of seed {seed} natively and in the guest the same"),
            format!("{} others:\n{}", some.len(), some[..some.len().min(SHOWN)].join("\n")),
        ),
    }
}

fn run_natively(stage: &mut Stage, sequence: &Sequence) -> Outcome {
    stage.write(sequence, native::finish());
    native::run(stage, &sequence.state.msrs);
    Outcome(stage.outcome())
}

/// The guest's memory at the place of the native stage.
struct GuestStage {
    ept: Ept,
    stage: Stage,
}

impl GuestStage {
    fn new(native: &Stage) -> CaseResult<Self> {
        let mut stage = Stage::twin(native)?;
        let mut ept = Ept::new()?;
        ept.map_block(native.linear(0), stage.physical(), Access::ALL)?;
        stage.write_tables();
        Ok(Self { ept, stage })
    }

    fn run(&mut self, sequence: &Sequence) -> CaseResult<Outcome> {
        let halt = self.stage.linear(blob::halt());
        self.stage.write(sequence, halt);
        let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
        vcpu.set_start_state(StartState::Long64 { entry: self.stage.linear(0), cr3: self.stage.cr3() })?;
        vcpu.setup((self.ept.root() as usize).into(), 0.into())?;
        vcpu.set_time_slice(Some(1_000_000))?;
        vcpu.bind()?;
        let before = HostState::read();
        for _ in 0..EXITS {
            match vcpu.run()? {
                Exit::Nothing => {}
                Exit::SysRegRead { .. } | Exit::SysRegWrite { .. } => vcpu.complete_fault(GP, Some(0))?,
                // Natively VMX is off.
                Exit::Hypercall { .. } => vcpu.complete_fault(UD, None)?,
                Exit::Halt if vcpu.rip() as u64 == halt => {
                    HostState::read().expect(&before)?;
                    return Ok(Outcome(self.stage.outcome()));
                }
                other => return fail("the end of a sequence", format!("{other:x?}: {:?}, {vcpu:?}", vcpu.exit_info())),
            }
        }
        fail("the end of a sequence", format!("{EXITS} exits: {vcpu:?}"))
    }
}

/// The results of a sequence, word by word.
struct Outcome(Vec<u64>);

impl Outcome {
    fn events(&self) -> u64 {
        let place = offsets().position(|offset| offset == OUT + 0x80);
        place.map_or(0, |place| self.0[place])
    }

    /// The events tell more than what follows from them, so they come first.
    fn difference(&self, guest: &Self) -> Option<String> {
        let words = offsets().zip(self.0.iter().zip(&guest.0));
        let mut different: Vec<_> = words.filter(|(_, (native, guest))| native != guest).collect();
        if different.is_empty() {
            return None;
        }
        different.sort_by_key(|&(offset, _)| (!(LOG..FX).contains(&offset), offset));
        let differences: Vec<String> = different
            .iter()
            .take(6)
            .map(|&(offset, (native, guest))| format!("{} natively {native:#x}, guest {guest:#x}", name(offset)))
            .collect();
        Some(format!("{}; natively {} events, guest {}", differences.join("; "), self.events(), guest.events()))
    }
}

fn offsets() -> impl Iterator<Item = u64> {
    COMPARED.into_iter().flat_map(|range| range.step_by(8))
}

fn name(offset: u64) -> String {
    const REGISTERS: [&str; 17] = [
        "RAX",
        "RCX",
        "RDX",
        "RBX",
        "RSP",
        "RBP",
        "RSI",
        "RDI",
        "R8",
        "R9",
        "R10",
        "R11",
        "R12",
        "R13",
        "R14",
        "R15",
        "number of events",
    ];
    const CONTROL: [&str; 12] = ["CR0", "CR2", "CR3", "CR4", "CR8", "DR7", "DR0", "DR1", "DR2", "DR3", "SMSW", "XCR0"];
    const EVENT: [&str; 8] = ["vector", "error code", "RIP", "RFLAGS", "RSP", "CR2", "DR6", "RAX"];
    let word = |start: u64| ((offset - start) / 8) as usize;
    match offset {
        LOG.. if offset < LOG + 0x1000 => format!("{} of event {}", EVENT[word(LOG) % 8], word(LOG) / 8),
        OUT.. if word(OUT) < REGISTERS.len() => REGISTERS[word(OUT)].into(),
        OUT.. if (0x100..0x160).contains(&(offset - OUT)) => CONTROL[word(OUT + 0x100)].into(),
        OUT.. if (0x200..0x300).contains(&(offset - OUT)) => format!("MSR number {} of the list", word(OUT + 0x200)),
        FX.. => format!("x87 and SSE state at {:#x}", offset - FX),
        _ => format!("memory at {offset:#x}"),
    }
}
