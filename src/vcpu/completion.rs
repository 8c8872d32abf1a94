//! Completing the instruction that an exit interrupted: the one mechanism that moves RIP.
//!
//! An exit that the crate handles completes its instruction at once. An exit that goes to the caller is completed at the
//! next entry, so that the caller may still give a value for a read, or a fault in place of the instruction; until then
//! RIP is the instruction's. Either way it happens once.

use axaddrspace::device::AccessWidth;
use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use crate::guest_memory::GuestException;
use crate::msr::Msr;
use crate::regs::{GeneralRegisters, rflags};
use crate::rules::control_registers::{EFER_LMA, GeneralProtection};
use crate::vcpu::events::FAULTS;
use crate::vcpu::exits::Handled;
use crate::vcpu::string_io::StringEnd;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmcsReadOnly32};

/// IA32_DEBUGCTL.BTF: TF traps on branches only.
pub(crate) const DEBUGCTL_BTF: u64 = 1 << 1;
/// Pending debug exceptions, BS: a single-step trap is due.
const PENDING_BS: usize = 1 << 14;
pub(crate) use crate::rules::vector::{GP, UD};

/// How an instruction that the crate emulates ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done.
    Done,
    /// It faults: vector and error code.
    Fault(u8, Option<u32>),
}

impl From<Result<(), GeneralProtection>> for Outcome {
    fn from(result: Result<(), GeneralProtection>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(GeneralProtection) => Self::Fault(GP, Some(0)),
        }
    }
}

/// What the caller is to give for an instruction whose exit it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    Nothing,
    /// IN: the value for AL, AX or EAX.
    Port(AccessWidth),
    /// RDMSR, RDTSC: the value for EDX:EAX.
    EdxEax,
    /// RDTSCP: the same, and ECX gets TSC_AUX.
    EdxEaxAndAux,
    /// RDRAND, RDSEED: the value for a register.
    Random {
        gpr: u8,
        size: u8,
    },
    /// INS: the value for its element.
    StringInput,
    /// Nothing, and the instruction is an INS or OUTS.
    StringEnd,
    /// An instruction that reads a device in memory: the value of that access.
    Mmio,
    /// Nothing: the instruction, of so many bytes, was executed for the guest.
    Executed {
        length: u8,
    },
}

/// When a guest that steps through its own code (RFLAGS.TF) gets the trap of an instruction that was executed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StepPolicy {
    /// Behind that instruction, as on a processor.
    #[default]
    Exact,
    /// Perhaps only behind the next one, so that a debugger in the guest sees the two as one step. Saves the VMREAD of RFLAGS
    /// at each such instruction, which is the only way to know.
    Late,
}

impl WaitsFor {
    /// Completing the instruction means nothing but to move RIP, by the length that the exit says.
    const fn is_plain(self) -> bool {
        matches!(self, Self::Nothing | Self::Port(_) | Self::EdxEax | Self::EdxEaxAndAux)
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Says when a guest that steps through its own code gets the trap of an instruction that was executed for it.
    pub fn set_step_policy(&mut self, policy: StepPolicy) {
        self.step_policy = policy;
    }

    /// Moves RIP past an instruction of `instr_len` bytes, with all that completing one means: STI and MOV SS blocking
    /// end, a single-step trap becomes due where TF asks for one, and RIP wraps at 32 bits outside 64-bit mode.
    ///
    /// Not needed after [`run`](axvcpu::AxArchVCpu::run), which completes what it reports at the next entry; it is for
    /// callers of [`inner_run`](Self::inner_run). Where both are mixed, the instruction is still completed once.
    pub fn advance_rip(&mut self, instr_len: u8) -> AxResult {
        self.completion = None;
        self.advance(None, u32::from(instr_len))
    }

    /// Gives the value that an instruction of the guest waits for: IN, RDMSR, or an RDTSC, RDTSCP, RDRAND or RDSEED that the
    /// caller selected to exit. The width merge into AL, AX or EAX, the split into EDX:EAX and flags are done here; bits
    /// beyond the width are ignored. An RDRAND or RDSEED that gets no value says so by CF.
    ///
    /// # Errors
    /// `BadState` if no read waits.
    #[inline]
    pub fn complete_read(&mut self, value: u64) -> AxResult {
        match self.completion {
            Some(WaitsFor::Port(width)) => {
                self.context.guest.rax = GeneralRegisters::merge(self.context.guest.rax, width, value);
            }
            Some(WaitsFor::EdxEax) => self.context.guest.set_edx_eax(value),
            _ => return self.complete_rare_read(value),
        }
        self.completion = Some(WaitsFor::Nothing);
        Ok(())
    }

    #[inline(never)]
    fn complete_rare_read(&mut self, value: u64) -> AxResult {
        let Some(waits_for) = &mut self.completion else {
            return ax_err!(BadState, "no read of the guest waits for a value");
        };
        let regs = &mut self.context.guest;
        match core::mem::replace(waits_for, WaitsFor::Nothing) {
            WaitsFor::EdxEaxAndAux => {
                regs.set_edx_eax(value);
                regs.rcx = self.msrs.read(Msr::IA32_TSC_AUX.number()).unwrap_or(0);
            }
            WaitsFor::Random { gpr, size } => return self.set_random(gpr, size, Some(value)),
            WaitsFor::StringInput => {
                *waits_for = WaitsFor::StringInput;
                return self.complete_string_input(value);
            }
            WaitsFor::Mmio => self.mmio.answer(value),
            done => {
                *waits_for = done;
                return ax_err!(BadState, "no read of the guest waits for a value");
            }
        }
        Ok(())
    }

    /// The end of a RDRAND or RDSEED: a value, or 0 with CF clear.
    fn set_random(&mut self, gpr: u8, size: u8, value: Option<u64>) -> AxResult {
        const CF: usize = 1;
        /// CF, PF, AF, ZF, SF and OF.
        const STATUS: usize = CF | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;
        let random = value.unwrap_or(0);
        let merged = match size {
            2 => self.general_register(gpr)? & !0xFFFF | random & 0xFFFF,
            4 => random & 0xFFFF_FFFF,
            _ => random,
        };
        self.set_general_register(gpr, merged);
        let carry = if value.is_some() { CF } else { 0 };
        let flags = self.vmcs.read(VmcsGuestNW::RFLAGS)?;
        self.vmcs.write(VmcsGuestNW::RFLAGS, flags & !STATUS | carry);
        Ok(())
    }

    /// Gives the guest a fault in place of the effect of the instruction that the last exit reported: a RDMSR of an MSR
    /// that it does not have, say, with vector 13 and error code 0. RIP stays at the instruction.
    ///
    /// # Errors
    /// `BadState` if no instruction waits to be completed; `InvalidInput` for a vector that is not a fault's.
    pub fn complete_fault(&mut self, vector: u8, err_code: Option<u32>) -> AxResult {
        self.complete_exception(GuestException { vector, error_code: err_code, cr2: None })
    }

    /// The same for an exception that an access to guest memory gave, with the address for CR2.
    ///
    /// # Errors
    /// As [`complete_fault`](Self::complete_fault).
    pub fn complete_exception(&mut self, exception: GuestException) -> AxResult {
        if FAULTS.unbounded_shr(exception.vector.into()) & 1 == 0 {
            return ax_err!(InvalidInput, "not the vector of a fault");
        }
        if exception.error_code.is_some_and(|code| code > 0x7FFF) {
            return ax_err!(InvalidInput, "an entry takes error codes of 15 bits");
        }
        if self.completion.take().is_none() {
            return ax_err!(BadState, "no instruction of the guest waits to be completed");
        }
        self.raise(exception);
        Ok(())
    }

    /// Whether a read waits for its value, and [`set_gpr`](axvcpu::AxArchVCpu::set_gpr) of this register is taken for
    /// that: the one that was reported.
    pub(crate) fn read_waits_for(&self, register: usize) -> bool {
        match self.completion {
            None | Some(WaitsFor::Nothing | WaitsFor::StringEnd | WaitsFor::Executed { .. }) => false,
            Some(WaitsFor::Mmio) => register == self.mmio.register(),
            Some(_) => register == 0,
        }
    }

    /// Leaves the instruction of this exit to be completed at the next entry.
    #[inline(always)]
    pub(crate) fn complete_later(&mut self, waits_for: WaitsFor) {
        self.completion = Some(waits_for);
        if !waits_for.is_plain() {
            self.take_care();
        }
    }

    /// Completes what was left, at an entry.
    pub(crate) fn complete_pending(&mut self, here: Here) -> AxResult {
        let Some(waits_for) = self.completion else { return Ok(()) };
        match waits_for {
            WaitsFor::StringInput | WaitsFor::StringEnd => {
                // What can fail comes first: registers that have moved would be moved again.
                self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)?;
                self.vmcs.get(here, VmcsGuestNW::RIP)?;
                self.vmcs.get(here, VmcsGuestNW::RFLAGS)?;
                match self.end_of_string()? {
                    StringEnd::Over => self.end_exit_with_care(here)?,
                    StringEnd::Element => self.end_instruction(Some(here))?,
                    StringEnd::NotYet => {}
                }
            }
            WaitsFor::Random { gpr, size } => {
                self.set_random(gpr, size, None)?;
                self.end_exit(here)?;
            }
            WaitsFor::Executed { length } => self.advance(Some(here), length.into())?,
            // What waits for the guest asks for RFLAGS too, and finds it read.
            _ if !self.events.is_empty() => self.end_exit_with_care(here)?,
            WaitsFor::Nothing | WaitsFor::Port(_) | WaitsFor::EdxEax | WaitsFor::EdxEaxAndAux | WaitsFor::Mmio => {
                self.end_exit(here)?;
            }
        }
        self.completion = None;
        Ok(())
    }

    /// Ends the instruction of this exit.
    pub(crate) fn complete(&mut self, here: Here, outcome: impl Into<Outcome>) -> AxResult<Handled> {
        match outcome.into() {
            Outcome::Done => self.end_exit(here)?,
            Outcome::Fault(vector, err_code) => self.inject_fault(vector, err_code),
        }
        Ok(Handled::Yes)
    }

    /// Moves past the instruction of the last exit.
    pub(crate) fn end_exit(&mut self, here: Here) -> AxResult {
        let written = self.vmcs.is_written(VmcsGuestNW::RIP) || self.vmcs.is_written(VmcsGuestNW::RFLAGS);
        if written { self.end_exit_with_care(here) } else { self.end_exit_quickly(here) }
    }

    /// The same where neither RIP nor RFLAGS was written since the exit.
    #[inline(always)]
    pub(crate) fn end_exit_quickly(&mut self, here: Here) -> AxResult {
        let skipped = !self.debug.has_breakpoints()
            && match self.step_policy {
                StepPolicy::Exact => self.vmcs.skip_instruction::<true>(here),
                StepPolicy::Late => self.vmcs.skip_instruction::<false>(here),
            };
        if !skipped {
            return self.end_exit_with_care(here);
        }
        self.shadow_end.note();
        Ok(())
    }

    #[inline(never)]
    fn end_exit_with_care(&mut self, here: Here) -> AxResult {
        let length = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)?;
        self.advance(Some(here), length)
    }

    #[inline(always)]
    fn advance(&mut self, here: Option<Here>, length: u32) -> AxResult {
        let rip = self.vmcs.read_with(here, VmcsGuestNW::RIP)?;
        let mut next = rip.wrapping_add(length as usize);
        if (rip ^ next) >> 32 != 0 && !self.in_64_bit_mode()? {
            next &= 0xFFFF_FFFF;
        }
        // RIP goes last: should something fail before it, all of this is done again.
        self.end_instruction(here)?;
        self.vmcs.write(VmcsGuestNW::RIP, next);
        Ok(())
    }

    /// What the end of an instruction means beside RIP, also of one element of a string instruction. May be done again where it
    /// failed.
    #[inline(always)]
    fn end_instruction(&mut self, here: Option<Here>) -> AxResult {
        self.shadow_end.note();
        let single_step = self.vmcs.read_with(here, VmcsGuestNW::RFLAGS)? & rflags::TF != 0;
        if single_step || self.debug.has_breakpoints() {
            self.make_traps_due(single_step)?;
        }
        Ok(())
    }

    /// TF is set, or a breakpoint: the traps that the processor would raise after this instruction are due. MOV SS holds
    /// off those of its own instruction until now.
    #[cold]
    pub(crate) fn make_traps_due(&mut self, single_step: bool) -> AxResult {
        let state = self.vmcs.read(VmcsGuest32::INTERRUPTIBILITY_STATE)?;
        self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state & !crate::vcpu::events::blocking::BY_SHADOW);
        self.shadow_end.forget();
        let pending = self.vmcs.read(VmcsGuestNW::PENDING_DBG_EXCEPTIONS)?;
        if single_step && self.vmcs.read(VmcsGuest64::IA32_DEBUGCTL)? & DEBUGCTL_BTF == 0 {
            self.vmcs.write(VmcsGuestNW::PENDING_DBG_EXCEPTIONS, pending | PENDING_BS);
        }
        Ok(())
    }

    /// TF is set where an exit left STI or MOV SS blocking: the trap of this instruction has to be pending.
    pub(crate) fn make_single_step_consistent(&mut self, here: Here) -> AxResult {
        let single_step = self.vmcs.get(here, VmcsGuestNW::RFLAGS)? & rflags::TF != 0;
        if single_step && self.vmcs.get(here, VmcsGuest64::IA32_DEBUGCTL)? & DEBUGCTL_BTF == 0 {
            let pending = self.vmcs.get(here, VmcsGuestNW::PENDING_DBG_EXCEPTIONS)?;
            self.vmcs.write(VmcsGuestNW::PENDING_DBG_EXCEPTIONS, pending | PENDING_BS);
        }
        Ok(())
    }

    pub(crate) fn in_64_bit_mode(&self) -> AxResult<bool> {
        Ok(self.vmcs.read(VmcsGuest64::IA32_EFER)? & EFER_LMA != 0
            && self.vmcs.read(VmcsGuest32::CS_ACCESS_RIGHTS)? & (1 << 13) != 0)
    }
}
