//! Completing the instruction that an exit interrupted: the one place that moves RIP.
//!
//! An exit that the crate handles completes its instruction at once. An exit that goes to the caller is completed at the
//! next entry, so that the caller may still give a value for a read, or a fault in place of the instruction. Until then
//! RIP is the instruction's.
//!
//! Either way it happens once, in one of two ways. The fast path skips the instruction, and may say that there is more to do.
//! The slow path completes it with all that this means.

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, Proof, blocking, rights};
use super::parts::completion::{Outcome, PendingCompletion, StepPolicy};
use super::parts::requests::Request;
use super::parts::string::StringEnd;
use crate::guest_memory::GuestException;
use crate::msr::Msr;
use crate::regs::{GeneralRegisters, rflags};
use crate::rules::control_registers::EFER_LMA;
use crate::rules::debug::{DEBUGCTL_BTF, DR6_BS};
use crate::rules::vector::FAULTS;

/// # Completing an instruction
///
/// An exit that the caller gets leaves RIP at the instruction. The next entry completes it, once.
impl<B: Backend> Vcpu<B> {
    /// Sets when a guest that single-steps its own code (RFLAGS.TF) gets the trap of an instruction that the crate executed.
    /// [`StepPolicy::Exact`] at first.
    #[doc(alias("single-step", "trap flag"))]
    pub fn set_step_policy(&mut self, policy: StepPolicy) {
        self.completion.set_step_policy(policy);
    }

    /// Moves RIP past an instruction of `instr_len` bytes, with all that completing one means. STI and MOV SS blocking
    /// end. A single-step trap becomes pending where TF asks for one. RIP wraps at 32 bits outside 64-bit mode.
    ///
    /// This is for callers of [`inner_run`](crate::VmxVcpu::inner_run). [`run`](axvcpu::AxArchVCpu::run) completes what it
    /// reports at the next entry. Where both are mixed, the instruction is still completed once.
    ///
    /// # Errors
    /// `BadState` where the guest's state cannot be read.
    #[doc(alias = "skip")]
    pub fn advance_rip(&mut self, instr_len: u8) -> AxResult {
        self.cancel_completion();
        self.advance(Anywhere, u32::from(instr_len))
    }

    /// Gives the value that an instruction of the guest waits for.
    ///
    /// The instruction is an IN, an INS, an RDMSR, a read of a device in memory, or an RDTSC, RDTSCP, RDRAND or RDSEED that the
    /// caller selected to exit. The vCPU merges the value into AL, AX or EAX by the width, splits it into EDX:EAX, and sets
    /// flags. Bits beyond the width are ignored.
    ///
    /// An IN or RDMSR that gets no value leaves its registers as they were. An RDRAND or RDSEED that gets none clears CF. An INS
    /// or a read of a device is reported again.
    ///
    /// # Errors
    /// `BadState` if no read waits.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axaddrspace::device::Port;
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// const COM1: u16 = 0x3F8;
    /// const LINE_STATUS: u16 = COM1 + 5;
    ///
    /// /// A guest with nothing but a serial port. Before the first run all ports were made to exit:
    /// /// `vcpu.set_io_intercept_of_range(0, 0x1_0000, true)`.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, mut send: impl FnMut(u8)) -> AxResult {
    ///     match vcpu.run()? {
    ///         // IN waits for a value, for AL, AX or EAX by its width. Bits beyond the width are ignored.
    ///         Exit::IoRead { port: Port(LINE_STATUS), .. } => vcpu.complete_read(0x60)?, // ready to send
    ///         Exit::IoRead { .. } => vcpu.complete_read(u64::MAX)?,                      // no device: all ones
    ///         // OUT waits for nothing. The next entry continues after it.
    ///         Exit::IoWrite { port: Port(COM1), data, .. } => send(data as u8),
    ///         Exit::IoWrite { .. } => {}
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("in", "rdmsr"))]
    #[inline]
    pub fn complete_read(&mut self, value: u64) -> AxResult {
        match self.completion.pending() {
            Some(PendingCompletion::Port(width)) => {
                let regs = self.backend.regs_mut();
                regs.rax = GeneralRegisters::merge(regs.rax, width, value);
            }
            Some(PendingCompletion::EdxEax) => self.backend.regs_mut().set_edx_eax(value),
            _ => return self.complete_rare_read(value),
        }
        self.completion.given();
        Ok(())
    }

    #[inline(never)]
    fn complete_rare_read(&mut self, value: u64) -> AxResult {
        match self.completion.pending() {
            Some(PendingCompletion::EdxEaxAndAux) => {
                let aux = self.backend.switched_msr(Msr::IA32_TSC_AUX.number()).unwrap_or(0);
                let regs = self.backend.regs_mut();
                regs.set_edx_eax(value);
                regs.rcx = aux;
            }
            Some(PendingCompletion::Random { gpr, size }) => {
                self.completion.given();
                return self.set_random(gpr, size, Some(value));
            }
            Some(PendingCompletion::StringInput) => return self.complete_string_input(value),
            Some(PendingCompletion::Mmio) => self.mmio.answer(value),
            _ => return ax_err!(BadState, "no read of the guest waits for a value"),
        }
        self.completion.given();
        Ok(())
    }

    /// Gives the guest a fault in place of the effect of the instruction that the last exit reported. RIP stays at the
    /// instruction. A RDMSR of an MSR that the guest does not have gets vector 13 (#GP) with error code 0.
    ///
    /// # Errors
    /// `BadState` if no instruction waits to be completed; `InvalidInput` for a vector that is not a fault's, and for an error
    /// code of more than 15 bits (SDM Vol. 3C, 27.2.1.3 "VM-Entry Control Fields").
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// const GENERAL_PROTECTION: u8 = 13;
    /// const IA32_PLATFORM_INFO: usize = 0xCE;
    ///
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
    ///     match vcpu.run()? {
    ///         // The value goes to EDX:EAX.
    ///         Exit::SysRegRead { addr, .. } if addr.0 == IA32_PLATFORM_INFO => vcpu.complete_read(0)?,
    ///         // Any other MSR does not exist. The guest gets #GP(0) in place of the effect of its RDMSR or WRMSR.
    ///         Exit::SysRegRead { addr, .. } => {
    ///             log::debug!("RDMSR of {:#x}", addr.0);
    ///             vcpu.complete_fault(GENERAL_PROTECTION, Some(0))?;
    ///         }
    ///         Exit::SysRegWrite { addr, value } => {
    ///             log::debug!("WRMSR of {:#x}: {value:#x}", addr.0);
    ///             vcpu.complete_fault(GENERAL_PROTECTION, Some(0))?;
    ///         }
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn complete_fault(&mut self, vector: u8, err_code: Option<u32>) -> AxResult {
        self.complete_exception(GuestException { vector, error_code: err_code, cr2: None })
    }

    /// Gives the guest the exception of an access to guest memory, in place of the effect of the instruction that the last
    /// exit reported. A page fault sets CR2.
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
        if !self.completion.is_pending() {
            return ax_err!(BadState, "no instruction of the guest waits to be completed");
        }
        self.cancel_completion();
        self.raise(exception)
    }

    /// Whether a read waits for its value, and `register` is the one that was reported, so that
    /// [`set_gpr`](axvcpu::AxArchVCpu::set_gpr) of it gives that value.
    pub(crate) fn read_waits_for(&self, register: usize) -> bool {
        match self.completion.pending() {
            None
            | Some(PendingCompletion::Nothing | PendingCompletion::StringEnd | PendingCompletion::Executed { .. }) => {
                false
            }
            Some(PendingCompletion::Mmio) => register == self.mmio.register(),
            Some(_) => register == 0,
        }
    }
}

/// How the crate completes an instruction.
impl<B: Backend> Vcpu<B> {
    /// Leaves the instruction of this exit to be completed at the next entry.
    #[inline(always)]
    pub(crate) fn defer_completion(&mut self, pending: PendingCompletion) {
        self.completion.defer(pending, self.backend.requests());
    }

    /// The instruction of the last exit is not completed any more.
    pub(crate) fn cancel_completion(&mut self) {
        self.completion.clear(self.backend.requests());
    }

    /// Completes what the last exit left, if that means nothing but to move RIP. An entry follows at once if it does.
    #[inline(always)]
    pub(crate) fn complete_by_skip(&mut self, current: B::Current) -> bool {
        if !self.completion.is_pending() {
            self.completion.enter();
            return true;
        }
        let skipped = self.skip(current);
        if skipped {
            self.completion.skipped_before_entry();
        }
        skipped
    }

    /// Completes what the last exit left, in full. An entry follows.
    pub(crate) fn complete_pending(&mut self, current: B::Current) -> AxResult {
        let Some(pending) = self.completion.pending() else { return Ok(()) };
        match pending {
            PendingCompletion::StringInput | PendingCompletion::StringEnd => {
                // What can fail comes first: registers that have moved would be moved again.
                self.backend.instruction_length(current)?;
                self.backend.read(current, GuestField::RIP)?;
                self.backend.read(current, GuestField::RFLAGS)?;
                match self.end_of_string()? {
                    StringEnd::Over => self.advance_by_exit(current)?,
                    StringEnd::Element => self.end_instruction(current)?,
                    StringEnd::NotYet => {}
                }
            }
            PendingCompletion::Random { gpr, size } => {
                self.set_random(gpr, size, None)?;
                self.advance_by_exit(current)?;
            }
            PendingCompletion::Executed { length } => self.advance(current, length.into())?,
            PendingCompletion::Nothing
            | PendingCompletion::Port(_)
            | PendingCompletion::EdxEax
            | PendingCompletion::EdxEaxAndAux
            | PendingCompletion::Mmio => {
                // An event that waits asks for RFLAGS too, and finds it read.
                if self.events.is_empty() { self.complete_done(current)? } else { self.advance_by_exit(current)? }
            }
        }
        self.cancel_completion();
        Ok(())
    }

    /// Ends the instruction of this exit, which the crate has handled.
    #[inline(always)]
    pub(crate) fn complete(&mut self, current: B::Current, outcome: impl Into<Outcome>) -> AxResult {
        match outcome.into() {
            Outcome::Done => self.complete_done(current),
            Outcome::Fault(vector, err_code) => self.inject_fault(vector, err_code),
        }
    }

    /// Moves past the instruction of this exit, which the crate has executed.
    #[inline(always)]
    pub(crate) fn complete_done(&mut self, current: B::Current) -> AxResult {
        // A field that was written may be RIP or RFLAGS, and breakpoints trap after an instruction.
        if !self.requests().has(Request::FIELDS | Request::DEBUG) && self.skip(current) {
            self.completion.end_shadow();
            self.backend.forget_rip();
            return Ok(());
        }
        self.advance_by_exit(current)
    }

    /// Moves RIP past the instruction of the last exit, where that is all that its end means.
    #[inline(always)]
    fn skip(&self, current: B::Current) -> bool {
        match self.completion.step_policy() {
            StepPolicy::Exact => self.backend.skip_instruction::<true>(current),
            StepPolicy::Deferred => self.backend.skip_instruction::<false>(current),
        }
    }

    /// Skips the instruction of the last exit where RFLAGS is known to have TF clear.
    pub(crate) fn complete_by_skip_without_tf(&mut self, current: B::Current) -> bool {
        if self.completion.is_pending() {
            if !self.backend.skip_instruction::<false>(current) {
                return false;
            }
            self.backend.forget_rip();
            self.completion.skipped();
        }
        true
    }

    #[inline(never)]
    fn advance_by_exit(&mut self, current: B::Current) -> AxResult {
        let length = self.backend.instruction_length(current)?;
        self.advance(current, length)
    }

    #[inline(always)]
    fn advance(&mut self, proof: impl Proof<B::Current>, length: u32) -> AxResult {
        let rip = self.backend.read(proof, GuestField::RIP)?;
        let mut next = rip.wrapping_add(length.into());
        if (rip ^ next) >> 32 != 0 && !self.in_64_bit_mode(proof)? {
            next &= 0xFFFF_FFFF;
        }
        // RIP goes last: should something fail before it, all of this is done again.
        self.end_instruction(proof)?;
        self.backend.write(GuestField::RIP, next);
        Ok(())
    }

    /// Does what the end of an instruction, or of one element of a string instruction, means beside RIP. Where it fails, it may
    /// be done again.
    #[inline(always)]
    fn end_instruction(&mut self, proof: impl Proof<B::Current>) -> AxResult {
        self.completion.end_shadow();
        let single_step = self.backend.read(proof, GuestField::RFLAGS)? & rflags::TF != 0;
        if single_step || self.debug.has_breakpoints() {
            self.set_pending_debug_exceptions(single_step)?;
        }
        Ok(())
    }

    /// Makes the traps pending that the processor would raise after this instruction: TF or a breakpoint is set. MOV SS holds
    /// off those of its own instruction until now.
    #[cold]
    pub(crate) fn set_pending_debug_exceptions(&mut self, single_step: bool) -> AxResult {
        let state = self.backend.read(Anywhere, GuestField::INTERRUPTIBILITY)?;
        self.backend.write(GuestField::INTERRUPTIBILITY, state & !blocking::BY_SHADOW);
        self.completion.forget_shadow();
        let pending = self.backend.read(Anywhere, GuestField::PENDING_DEBUG)?;
        if single_step && self.backend.read(Anywhere, GuestField::DEBUGCTL)? & DEBUGCTL_BTF == 0 {
            self.backend.write(GuestField::PENDING_DEBUG, pending | DR6_BS);
        }
        Ok(())
    }

    /// Where TF is set and an exit left STI or MOV SS blocking, the trap of this instruction has to be pending.
    pub(crate) fn set_pending_single_step(&mut self, current: B::Current) -> AxResult {
        let single_step = self.backend.read(current, GuestField::RFLAGS)? & rflags::TF != 0;
        if single_step && self.backend.read(current, GuestField::DEBUGCTL)? & DEBUGCTL_BTF == 0 {
            let pending = self.backend.read(current, GuestField::PENDING_DEBUG)?;
            self.backend.write(GuestField::PENDING_DEBUG, pending | DR6_BS);
        }
        Ok(())
    }

    /// Writes the end of an interrupt shadow to the guest's state.
    pub(crate) fn sync_interrupt_shadow(&mut self, current: B::Current) -> AxResult {
        if self.completion.has_ended_shadow() {
            self.completion.forget_shadow();
            let state = self.backend.read(current, GuestField::INTERRUPTIBILITY)?;
            self.backend.write(GuestField::INTERRUPTIBILITY, state & !blocking::BY_SHADOW);
        }
        Ok(())
    }

    /// Writes RFLAGS. With IF clear or TF set, the entry would refuse a shadow that is over.
    pub(crate) fn write_rflags(&self, value: u64) {
        if self.backend.cached(GuestField::RFLAGS) != Some(value) {
            self.backend.write(GuestField::RFLAGS, value);
            self.requests().set(Request::SHADOW);
        }
    }

    /// Moves the guest to another RIP, in place of completing an instruction.
    pub(crate) fn jump(&mut self, rip: u64) {
        self.cancel_completion();
        self.requests().clear(Request::SHUTDOWN);
        self.backend.write(GuestField::RIP, rip);
    }

    /// The end of an RDRAND or RDSEED: a value, or 0 with CF clear.
    fn set_random(&mut self, gpr: u8, size: u8, value: Option<u64>) -> AxResult {
        const CF: u64 = 1;
        /// CF, PF, AF, ZF, SF and OF.
        const STATUS: u64 = CF | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;
        let random = value.unwrap_or(0);
        let merged = match size {
            2 => self.general_register(gpr)? & !0xFFFF | random & 0xFFFF,
            4 => random & 0xFFFF_FFFF,
            _ => random,
        };
        self.set_general_register(gpr, merged);
        let carry = if value.is_some() { CF } else { 0 };
        let flags = self.backend.read(Anywhere, GuestField::RFLAGS)?;
        self.write_rflags(flags & !STATUS | carry);
        Ok(())
    }

    pub(crate) fn in_64_bit_mode(&self, proof: impl Proof<B::Current>) -> AxResult<bool> {
        Ok(self.backend.read(proof, GuestField::EFER)? & EFER_LMA != 0
            && self.backend.read(proof, GuestField::CS_RIGHTS)? & rights::LONG != 0)
    }
}
