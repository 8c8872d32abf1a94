//! A caller that does at random what callers may do.

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use guest_programs::{Program, Source, layout};
use x86_vcpu::{ExitOn, HypercallPolicy, MsrPolicy, Reflected, VmxInterruptInfo, VmxInterruptionType};

use super::{Vcpu, checks, ram::Ram, start};
use crate::{
    arch::{interrupts, lapic, vectors::WAKE_VECTOR},
    cases::check::CaseResult,
    vm::ept::Access,
};

const PF: u8 = 14;
const GP: u8 = 13;
const UD: u8 = 6;
const NMI: u8 = 2;
/// Number of the exit for exceptions.
const EXCEPTION: u64 = 0;

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
        match s.below(80) {
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
            12 => self.choose_exits(vcpu),
            13 => {
                // What no processor delivers is refused.
                let event = any_event(s);
                self.used_nmi |= event.int_type == VmxInterruptionType::NMI;
                let _ = vcpu.inject_event(event, s.below(17) as u8);
            }
            14 => {
                vcpu.set_tsc_offset(s.bits());
                // Few processors can scale it.
                let _ = vcpu.set_tsc_multiplier(s.one_in(2).then(|| s.bits()));
            }
            15 if s.one_in(4) => {
                vcpu.receive_init(s.one_in(2))?;
                vcpu.receive_startup((layout::CODE >> 12) as u8);
            }
            16 => {
                // Where the guest itself could not write, neither can this.
                let bytes = s.bits().to_le_bytes();
                let _ = vcpu.write_guest(layout::DATA + s.below(0x6000), &bytes[..1 + s.below(8) as usize])?;
            }
            17 => {
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

    /// Which of the guest's instructions and exceptions exit from now on.
    fn choose_exits(&mut self, vcpu: &mut Vcpu) {
        let s = &mut self.source;
        // Errors where the processor has no such control, or for a vector that is the host's.
        let _ = vcpu.set_exit_on(ExitOn::from_bits_truncate(s.bits() as u32), s.one_in(2));
        let _ = vcpu.set_exception_intercept(s.below(33) as u8, s.one_in(2));
        let _ = vcpu.set_page_fault_filter(s.bits() as u32 & 0xFF, s.bits() as u32 & 0xFF);
        let _ = vcpu.set_pause_loop_exiting(s.one_in(2).then(|| (s.below(64) as u32, s.below(64) as u32)));
        vcpu.set_hypercall_policy(*s.pick(&[HypercallPolicy::Allow, HypercallPolicy::default()]));
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
                let is_ram = (addr.as_usize() as u64) < layout::RAM;
                match s.below(if is_ram { 3 } else { 6 }) {
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
            Exit::CpuDown { .. } => _ = vcpu.receive_startup((layout::CODE >> 12) as u8),
            exit if checks::entry_failed(exit) => {
                if s.one_in(2) {
                    return Ok(Next::End);
                }
                // Corrected, it runs.
                start::set_up(vcpu, program, ram)?;
            }
            Exit::FailEntry { hardware_entry_failure_reason: EXCEPTION } => match s.below(8) {
                0 => {}
                _ if vcpu.reflect_exception()? == Reflected::TripleFault => return Ok(Next::End),
                _ => {}
            },
            // INS and OUTS, task switches, EPT misconfigurations and whatever else has no variant.
            Exit::FailEntry { .. } => match s.below(4) {
                0 => return Ok(Next::End),
                1 => {
                    vcpu.take_interrupted_event();
                    vcpu.queue_event(GP, Some(0));
                }
                _ => self.skip(vcpu)?,
            },
            _ => {}
        }
        Ok(Next::Run)
    }

    /// Goes on after the instruction, or somewhere near.
    fn skip(&mut self, vcpu: &mut Vcpu) -> CaseResult {
        Ok(vcpu.advance_rip(1 + self.source.below(8) as u8)?)
    }
}

fn any_event(s: &mut Source) -> VmxInterruptInfo {
    use VmxInterruptionType as Type;
    let types =
        [Type::External, Type::NMI, Type::HardException, Type::SoftIntr, Type::PrivSoftException, Type::SoftException];
    let int_type = *s.pick(&types);
    let vector = match int_type {
        Type::NMI => NMI,
        Type::SoftException => *s.pick(&[3, 4]),
        Type::PrivSoftException => 1,
        _ => s.byte() & if s.one_in(2) { 0x1F } else { 0xFF },
    };
    VmxInterruptInfo { vector, int_type, err_code: s.one_in(2).then(|| s.bits() as u32 & 0xFFFF), valid: true }
}
