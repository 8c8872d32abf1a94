//! Barriers against what one side could learn of, or train for, the other through the processor's predictors and buffers.
//!
//! Which a processor needs it says itself: CPUID.07H:EDX and IA32_ARCH_CAPABILITIES (SDM Vol. 4, table 2-2; Intel's
//! "Speculative Execution Side Channel Mitigations"). A processor that enumerates none of it, an emulator say, gets none.
//! Guests are shown none of these features, and their accesses to IA32_SPEC_CTRL and IA32_PRED_CMD exit, so the host's
//! IA32_SPEC_CTRL (with IBRS, where the host uses it) holds for host and guest alike and is never written here.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use axvcpu::AxVCpuHal;

use super::VmxVcpu;
use crate::msr::Msr;
use crate::vmx::processor::Processor;

/// Which barriers are raised around a guest. The default is what this processor says that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeculationPolicy {
    /// An indirect-branch prediction barrier (IBPB) before the first entry of a vCPU on a processor that ran another one
    /// before, so that one guest does not train the predictors for another. Ignored on a processor without IBPB.
    pub barrier_between_guests: bool,
    /// VERW before each entry, which overwrites the buffers that a guest could sample (MDS, TAA, MMIO stale data).
    pub clear_buffers: bool,
    /// The return-stack buffer is filled with harmless entries after each exit, before the first return of the host.
    pub fill_return_stack: bool,
}

impl SpeculationPolicy {
    /// No barrier.
    pub const NONE: Self = Self { barrier_between_guests: false, clear_buffers: false, fill_return_stack: false };

    /// What the processor that executes this says that it needs.
    pub fn for_this_processor() -> Self {
        if __cpuid(0).eax < 7 {
            return Self::NONE;
        }
        let features = __cpuid_count(7, 0).edx;
        let has = |bit: u32| features & (1 << bit) != 0;
        // Bit 29: IA32_ARCH_CAPABILITIES exists.
        let capabilities = if has(29) { Msr::IA32_ARCH_CAPABILITIES.read() } else { 0 };
        Self::decide(features, capabilities)
    }

    /// The decision, of CPUID.07H.0:EDX and IA32_ARCH_CAPABILITIES.
    fn decide(features: u32, capabilities: u64) -> Self {
        let (ibrs_ibpb, md_clear) = (features & (1 << 26) != 0, features & (1 << 10) != 0);
        let (ibrs_all, mds_no, pbrsb_no) =
            (capabilities & (1 << 1) != 0, capabilities & (1 << 5) != 0, capabilities & (1 << 24) != 0);
        Self {
            barrier_between_guests: ibrs_ibpb,
            clear_buffers: md_clear && !mds_no,
            // With enhanced IBRS an exit does it, but for the first entry on processors that are not PBRSB_NO.
            fill_return_stack: ibrs_ibpb && !(ibrs_all && pbrsb_no),
        }
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Says which barriers are raised around this guest, in place of what the processor says that it needs.
    pub fn set_speculation_policy(&mut self, policy: SpeculationPolicy) {
        self.speculation = policy;
        self.context.set_barriers(policy.clear_buffers, policy.fill_return_stack);
    }

    /// Before an entry after another vCPU may have run here: the barrier between two guests.
    pub(super) fn separate_from_last_guest(&self, home: &Processor) {
        const IBPB: u64 = 1;
        let another_ran = home.another_guest_ran(self.vmcs.address());
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
        fn needs_follow_the_enumeration(features: u32, capabilities: u64) {
            prop_assert_eq!(SpeculationPolicy::decide(features & !(1 << 26 | 1 << 10), capabilities), SpeculationPolicy::NONE);
            let immune = SpeculationPolicy::decide(features, capabilities | 1 << 1 | 1 << 5 | 1 << 24);
            prop_assert!(!immune.clear_buffers && !immune.fill_return_stack);
            let plain = SpeculationPolicy::decide(features | 1 << 26 | 1 << 10, 0);
            prop_assert!(plain.clear_buffers && plain.fill_return_stack && plain.barrier_between_guests);
        }
    }
}
