//! Barriers against what one side could learn of, or train for, the other through the processor's predictors and buffers.
//!
//! Which a processor needs it says itself: CPUID.07H:EDX and IA32_ARCH_CAPABILITIES (SDM Vol. 4, table 2-2; Intel's
//! "Speculative Execution Side Channel Mitigations"). A processor that enumerates none of it, an emulator say, gets none.
//!
//! # IA32_SPEC_CTRL and IA32_PRED_CMD
//!
//! A guest may have both where the processor has them: what they do restrains only predictions, so an unknown guest can
//! use them to protect itself and harms nobody. CPUID shows IBRS, IBPB, STIBP and SSBD by default, and a
//! [`CpuidPolicy`](crate::CpuidPolicy) that hides them takes the MSRs away too: they come to the caller then. Until the
//! guest's first write of another value than 0, SPEC_CTRL exits, reads as 0, and the host's value stays in the
//! register, at no cost. From then on the guest uses the register itself, and each exit stores its value and loads the
//! host's, as it was when the vCPU was bound, before the host's first instruction ([`super::msr_areas`]). PRED_CMD
//! holds nothing, so its writes pass through.
//!
//! While a guest has not written SPEC_CTRL, an exit leaves the register alone. With enhanced IBRS that protects the host;
//! a host that relies on the older IBRS has to write it again after each run, as after any change of privilege.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::VmxVcpu;
use super::completion::{GP, Outcome};
use crate::msr::Msr;
use crate::vmx::processor::Processor;

/// The one command of IA32_PRED_CMD: an indirect-branch prediction barrier.
const IBPB: u64 = 1;

/// Which barriers are raised around a guest. The default is what this processor says that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeculationPolicy {
    /// An indirect-branch prediction barrier (IBPB) before the first entry of a vCPU on a processor that ran another one
    /// before, so that one guest does not train the predictors for another. Ignored on a processor without IBPB.
    pub barrier_between_guests: bool,
    /// VERW before each entry, which overwrites the buffers that a guest could sample (MDS, TAA, MMIO stale data).
    pub clear_buffers: bool,
    /// IA32_FLUSH_CMD before each entry, which empties the level-1 data cache, on processors with the L1 terminal fault. Costs
    /// a WRMSR and what the guest and host then miss. Ignored on a processor without that MSR.
    pub flush_l1_data_cache: bool,
    /// The return-stack buffer is filled with harmless entries after each exit, before the first return of the host.
    pub fill_return_stack: bool,
}

impl SpeculationPolicy {
    /// No barrier.
    pub const NONE: Self = Self {
        barrier_between_guests: false,
        clear_buffers: false,
        flush_l1_data_cache: false,
        fill_return_stack: false,
    };

    /// What the processor that executes this says that it needs.
    pub fn for_this_processor() -> Self {
        if __cpuid(0).eax < 7 {
            return Self::NONE;
        }
        let features = __cpuid_count(7, 0).edx;
        let has = |bit: u32| features & (1 << bit) != 0;
        // Bit 29: IA32_ARCH_CAPABILITIES exists.
        let capabilities = if has(29) { Msr::IA32_ARCH_CAPABILITIES.read() } else { 0 };
        let transactional = __cpuid_count(7, 0).ebx & (1 << 11) != 0;
        Self::decide(features, transactional, capabilities)
    }

    /// The decision, of CPUID.07H.0:EDX, CPUID.07H.0:EBX.RTM and IA32_ARCH_CAPABILITIES.
    fn decide(features: u32, transactional: bool, capabilities: u64) -> Self {
        let (ibrs_ibpb, md_clear, l1d_flush) =
            (features & (1 << 26) != 0, features & (1 << 10) != 0, features & (1 << 28) != 0);
        let says = |bit: u32| capabilities & (1 << bit) != 0;
        let (rdcl_no, ibrs_all, skip_l1d_flush, mds_no, taa_no) = (says(0), says(1), says(3), says(5), says(8));
        let (mmio_no, fb_clear, rfds_no, rfds_clear) = (says(13) && says(14) && says(15), says(17), says(27), says(28));
        let pbrsb_no = says(24);
        Self {
            barrier_between_guests: ibrs_ibpb,
            clear_buffers: md_clear && (!mds_no || (transactional && !taa_no))
                || (fb_clear && !mmio_no)
                || (rfds_clear && !rfds_no),
            flush_l1_data_cache: l1d_flush && !rdcl_no && !skip_l1d_flush,
            // With enhanced IBRS an exit does it, but for the first entry on processors that are not PBRSB_NO.
            fill_return_stack: ibrs_ibpb && !(ibrs_all && pbrsb_no),
        }
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Says which barriers are raised around this guest, in place of what the processor says that it needs.
    pub fn set_speculation_policy(&mut self, mut policy: SpeculationPolicy) {
        const LEAF7_EDX_L1D_FLUSH: u32 = 1 << 28;
        let has_command = __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & LEAF7_EDX_L1D_FLUSH != 0;
        policy.flush_l1_data_cache &= has_command;
        self.speculation = policy;
        self.context.set_barriers(policy.clear_buffers, policy.fill_return_stack);
    }

    /// Lets the guest use the two MSRs without an exit as far as it has them: PRED_CMD, which holds nothing, to be
    /// written; SPEC_CTRL once it is switched.
    pub(super) fn pass_speculation_control(&mut self) -> AxResult {
        let (command, control) = (Msr::IA32_PRED_CMD.number(), Msr::IA32_SPEC_CTRL.number());
        self.msr_bitmap.set_write_intercept(command, self.is_absent(command))?;
        let intercept = !self.msrs.switches_spec_ctrl();
        self.msr_bitmap.set_read_intercept(control, intercept)?;
        self.msr_bitmap.set_write_intercept(control, intercept)
    }

    /// Whether this is IA32_PRED_CMD, and the guest has it.
    pub(super) fn is_own_pred_cmd(&self, msr: u32) -> bool {
        msr == Msr::IA32_PRED_CMD.number() && !self.is_absent(msr)
    }

    /// A write to IA32_PRED_CMD that exited all the same.
    pub(super) fn write_pred_cmd(&self, value: u64) -> Outcome {
        if value & !IBPB != 0 {
            return Outcome::Fault(GP, Some(0));
        }
        // SAFETY: the guest is shown IBPB only where the processor has it; the write changes nothing but predictors.
        unsafe { Msr::IA32_PRED_CMD.write(value) };
        Outcome::Done
    }

    /// Right before an entry.
    #[inline(always)]
    pub(super) fn flush_l1_data_cache(&self) {
        const L1D_FLUSH: u64 = 1;
        if self.speculation.flush_l1_data_cache {
            // SAFETY: the policy has it only where the processor has the command; it changes nothing but the cache.
            unsafe { Msr::IA32_FLUSH_CMD.write(L1D_FLUSH) };
        }
    }

    /// Before an entry after another vCPU may have run here: the barrier between two guests.
    pub(super) fn separate_from_last_guest(&self, home: &Processor) {
        let another_ran = home.another_guest_ran(self.guest);
        if another_ran && self.speculation.barrier_between_guests && home.has_ibpb {
            // SAFETY: the processor has IBPB; the write changes nothing but predictors.
            unsafe { Msr::IA32_PRED_CMD.write(IBPB) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A processor that enumerates no mitigation gets none, whatever else it says; one that declares itself immune
        /// is not slowed down.
        #[test]
        fn needs_follow_the_enumeration(features: u32, rtm: bool, capabilities: u64) {
            const FEATURES: u32 = 1 << 26 | 1 << 10 | 1 << 28;
            const FIXED_BY_VERW: u64 = 1 << 17 | 1 << 28;
            let none = SpeculationPolicy::decide(features & !FEATURES, rtm, capabilities & !FIXED_BY_VERW);
            prop_assert_eq!(none, SpeculationPolicy::NONE);
            const IMMUNE: u64 = 0b11 | 1 << 3 | 1 << 5 | 1 << 8 | 0b111 << 13 | 1 << 24 | 1 << 27;
            let immune = SpeculationPolicy::decide(features, rtm, capabilities | IMMUNE);
            prop_assert!(!immune.clear_buffers && !immune.fill_return_stack && !immune.flush_l1_data_cache);
            let old = SpeculationPolicy::decide(features | FEATURES, rtm, 0);
            prop_assert!(old.clear_buffers && old.fill_return_stack && old.barrier_between_guests);
            prop_assert!(old.flush_l1_data_cache);
            // A processor that is safe from MDS alone still clears for what it is not safe from.
            let taa = SpeculationPolicy::decide(FEATURES, true, 1 << 5);
            let mmio = SpeculationPolicy::decide(FEATURES, false, 1 << 5 | 1 << 17);
            prop_assert!(taa.clear_buffers && mmio.clear_buffers);
        }
    }
}
