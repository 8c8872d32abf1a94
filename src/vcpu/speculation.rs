//! Barriers against attacks of a guest, on the host or on another guest, through the processor's predictors and buffers.
//!
//! The processor says which it needs: CPUID.07H:EDX and IA32_ARCH_CAPABILITIES (SDM Vol. 4, table 2-2; Intel's
//! "Speculative Execution Side Channel Mitigations"). A processor that enumerates none of it, such as an emulator, gets none.
//!
//! # IA32_SPEC_CTRL and IA32_PRED_CMD
//!
//! A guest may have both where the processor has them: what they do restrains only predictions, so an unknown guest can
//! use them to protect itself and harms nobody. CPUID shows IBRS, IBPB, STIBP and SSBD by default, and a
//! [`CpuidPolicy`](crate::CpuidPolicy) that hides them takes the MSRs away too: then they exit to the caller. Until the
//! guest's first write of another value than 0, SPEC_CTRL exits, reads as 0, and the register holds the host's value,
//! at no cost. From then on the guest uses the register itself, and each exit stores its value and loads the
//! host's, as it was when the vCPU was bound, before the host's first instruction. Where the guest is not shown all the bits that
//! the processor accepts, its writes still exit, and are checked. PRED_CMD holds nothing, so its writes pass through.
//!
//! A vCPU does not run on a processor that lacks bits of SPEC_CTRL that its guest was shown.
//!
//! # What protects the host
//!
//! The guest can train the predictors of the host's branches, returns and loads.
//!
//! - SPEC_CTRL holds the host's value at the host's first instruction after an exit. So what the host has set there works for its
//!   code: enhanced IBRS, and BHI_DIS_S against branch histories. Setting them is up to the host.
//! - The older IBRS restricts only what was trained before the last write of the bit. So it must be written after each exit, and
//!   before any indirect branch or return. The switch does so under a host that had the bit set when VMX was enabled
//!   ([`SpeculationPolicy::write_ibrs`]).
//! - On a processor with enhanced IBRS but without BHI_DIS_S the switch makes the processor forget the guest's branches
//!   ([`SpeculationPolicy::clear_history`]). Where returns may still follow the guest, it fills the return stack. It does both only
//!   under a host that has set IBRS.
//! - Retpolines, and barriers between a guest and programs of the host, are up to the host.

use axerrno::AxResult;

use super::Vcpu;
use super::backend::Backend;
use super::parts::completion::Outcome;
use super::parts::requests::Request;
use super::parts::speculation::{IBPB, SpeculationPolicy};
use crate::msr::Msr;

/// # Speculation
impl<B: Backend> Vcpu<B> {
    /// Sets which barriers are raised around this guest, in place of those that the processor says it needs
    /// ([`SpeculationPolicy::for_this_processor`]).
    pub fn set_speculation_policy(&mut self, policy: SpeculationPolicy) {
        self.speculation = policy;
        self.backend.forget_processor();
        self.requests().set(Request::HOST_STATE);
    }

    /// Lets the guest use the two MSRs without an exit as far as it has them and the caller did not make them exit. PRED_CMD,
    /// which holds nothing, may be written. SPEC_CTRL may be used once it is switched, on a processor that takes only bits that
    /// the guest is shown.
    pub(crate) fn pass_speculation_control(&mut self) -> AxResult {
        let command = Msr::IA32_PRED_CMD.number();
        let intercept = self.is_absent(command) || self.msrs.caller_intercepts(command);
        self.backend.set_msr_intercept(command, None, Some(intercept))?;
        self.backend.pass_spec_ctrl(self.msrs.caller_intercepts(Msr::IA32_SPEC_CTRL.number()))
    }

    /// Whether this is IA32_PRED_CMD, and the guest has it.
    #[inline(always)]
    pub(crate) fn is_own_pred_cmd(&self, msr: u32) -> bool {
        msr == Msr::IA32_PRED_CMD.number() && !self.is_absent(msr)
    }

    /// A write to IA32_PRED_CMD that exited all the same.
    pub(crate) fn write_pred_cmd(&self, value: u64) -> Outcome {
        if value & !IBPB != 0 {
            return Outcome::PROTECTION;
        }
        // SAFETY: the guest is shown IBPB only where the processor has it; the write changes nothing but predictors.
        unsafe { Msr::IA32_PRED_CMD.write(value) };
        Outcome::Done
    }
}
