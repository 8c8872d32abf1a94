//! A caller that does what callers may do, at any time.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use guest_programs::{Program, Source};
use x86_vcpu::MsrPolicy;

use super::{Vcpu, checks, ram::Ram, start};
use crate::{
    arch::{
        interrupts::{self, WAKE_VECTOR},
        lapic,
    },
    cases::check::CaseResult,
    vm::ept::Access,
};

const PF: u8 = 14;
const GP: u8 = 13;
const UD: u8 = 6;
const NMI: u8 = 2;

pub struct Caller {
    source: Source,
    /// An NMI was injected, which leaves a trace in Bochs.
    pub used_nmi: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Run,
    End,
}

impl Caller {
    pub fn new(program: &Program) -> Self {
        // A mutated interruptibility state may say that NMIs are blocked, which leaves the same trace.
        Self { source: program.caller.clone(), used_nmi: !program.mutations.is_empty() }
    }

    /// After few programs, because it takes long.
    pub fn looks_at_everything(&mut self) -> bool {
        self.source.one_in(8)
    }

    /// What a host may do between two runs.
    pub fn before_entry(&mut self, vcpu: &mut Vcpu) -> CaseResult {
        let s = &mut self.source;
        match s.below(48) {
            0..3 => {
                let vector = s.byte();
                let vector = if s.one_in(2) { vector & 0x1F } else { vector };
                let code = s.one_in(2).then(|| s.bits() as u32);
                self.used_nmi |= vector == NMI;
                vcpu.queue_event(vector, code);
            }
            3..6 => vcpu.inject_interrupt(s.byte().into())?,
            6 => vcpu.set_interrupt_window(s.one_in(2))?,
            7 => {
                vcpu.unbind()?;
                vcpu.bind()?;
            }
            8 => vcpu.set_time_slice(Some(1 + s.below(2000)))?,
            9 => vcpu.set_gpr(s.below(16) as usize, s.bits() as usize),
            10 => vcpu.invalidate_ept(),
            11 => lapic::send_interrupt_to_self(WAKE_VECTOR),
            12 => {
                let msr = s.bits() as u32 & 0x1FFF;
                let policy = match s.below(2) {
                    0 => MsrPolicy::Exit,
                    _ => MsrPolicy::Keep { value: s.bits(), writable: s.bits() },
                };
                // The guest's own MSRs are refused.
                let _ = vcpu.set_msr_policy(msr..=msr + s.below(4) as u32, policy);
            }
            _ => {}
        }
        Ok(())
    }

    /// Answers an exit in one of the ways that there are.
    pub fn answer(&mut self, program: &Program, vcpu: &mut Vcpu, ram: &mut Ram, exit: &Exit) -> CaseResult<Next> {
        let s = &mut self.source;
        match exit {
            Exit::Nothing | Exit::IoWrite { .. } | Exit::SysRegWrite { .. } if !s.one_in(8) => {}
            Exit::IoWrite { .. } | Exit::SysRegWrite { .. } => vcpu.complete_fault(GP, Some(0))?,
            Exit::IoRead { .. } | Exit::SysRegRead { .. } => match s.below(4) {
                0 => vcpu.set_gpr(0, s.bits() as usize),
                1 => vcpu.complete_fault(GP, Some(0))?,
                2 => {}
                _ => vcpu.complete_read(s.bits())?,
            },
            Exit::Hypercall { .. } => match s.below(4) {
                0 => vcpu.complete_fault(UD, None)?,
                _ => vcpu.set_return_value(s.bits() as usize),
            },
            Exit::Halt => match s.below(4) {
                0 => return Ok(Next::End),
                1 => vcpu.inject_interrupt(0x20)?,
                _ => {}
            },
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(*vector as u8),
            Exit::NestedPageFault { addr, .. } => {
                let access = [Access::ALL, Access::READ | Access::WRITE, Access::READ, Access::READ | Access::EXECUTE];
                match s.below(5) {
                    0 => vcpu.queue_event(PF, Some(s.bits() as u32 & 7)),
                    1 => vcpu.queue_event(GP, Some(0)),
                    2 => self.skip(vcpu)?,
                    _ => {
                        ram.map_scratch(addr.as_usize() as u64, *s.pick(&access))?;
                        vcpu.invalidate_ept();
                    }
                }
            }
            Exit::SystemDown => return Ok(Next::End),
            exit if checks::entry_failed(exit) => {
                if s.one_in(2) {
                    return Ok(Next::End);
                }
                // Corrected, it runs.
                start::set_up(vcpu, program, ram)?;
            }
            // INS and OUTS, task switches, EPT misconfigurations and whatever else has no variant.
            Exit::FailEntry { .. } => match s.below(4) {
                0 => return Ok(Next::End),
                1 => vcpu.queue_event(GP, Some(0)),
                _ => self.skip(vcpu)?,
            },
            _ => {}
        }
        Ok(Next::Run)
    }

    /// Goes on behind the instruction, or somewhere near.
    fn skip(&mut self, vcpu: &mut Vcpu) -> CaseResult {
        Ok(vcpu.advance_rip(1 + self.source.below(8) as u8)?)
    }
}
