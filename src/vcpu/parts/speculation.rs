//! Which barriers are raised around a guest, and which of them a processor needs.

use core::arch::x86_64::{__cpuid, __cpuid_count};

use crate::msr::Msr;

/// The one command of IA32_PRED_CMD: an indirect-branch prediction barrier.
pub(crate) const IBPB: u64 = 1;

/// Which barriers are raised around a guest. The default is what this processor says that it needs.
#[doc(alias("spectre", "mitigations", "ibrs", "ibpb"))]
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
    /// The return-stack buffer is filled with harmless entries after each exit, before the first return of the host. The shadow
    /// stack of a host that has one is as before. By default only under a host that has set IBRS of either kind: where the
    /// guest can train other branches, closing this one way protects nobody. A host that is compiled with
    /// retpolines asks for it.
    pub fill_return_stack: bool,
    /// IA32_SPEC_CTRL is written after each exit, with what the host had there at the bind, before its first indirect branch
    /// or return: what a host needs that relies on IBRS where that is not the enhanced one. Ignored under a host that had
    /// IBRS clear when VMX was enabled, or at its last
    /// [`refresh_host_state`](crate::VmxPerCpuState::refresh_host_state).
    pub write_ibrs: bool,
    /// 200 jumps after each exit, so that no branch of the guest is left in the history by which the host's indirect
    /// branches are predicted. By default, like the return stack, only under a host that has set IBRS.
    pub clear_history: bool,
}

impl SpeculationPolicy {
    /// No barrier.
    pub const NONE: Self = Self {
        barrier_between_guests: false,
        clear_buffers: false,
        flush_l1_data_cache: false,
        fill_return_stack: false,
        write_ibrs: false,
        clear_history: false,
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
        let more_features = if __cpuid_count(7, 0).eax >= 2 { __cpuid_count(7, 2).edx } else { 0 };
        const IBRS: u64 = 1;
        let host_ibrs = has(26) && Msr::IA32_SPEC_CTRL.read() & IBRS != 0;
        Self::decide(features, more_features, transactional, capabilities, host_ibrs)
    }

    /// The decision, of CPUID.07H.0:EDX, CPUID.07H.2:EDX, CPUID.07H.0:EBX.RTM and IA32_ARCH_CAPABILITIES, and of whether the
    /// host has set IBRS.
    fn decide(features: u32, more_features: u32, transactional: bool, capabilities: u64, host_ibrs: bool) -> Self {
        let (ibrs_ibpb, md_clear, l1d_flush) =
            (features & (1 << 26) != 0, features & (1 << 10) != 0, features & (1 << 28) != 0);
        let says = |bit: u32| capabilities & (1 << bit) != 0;
        let (rdcl_no, ibrs_all, skip_l1d_flush, mds_no, taa_no) = (says(0), says(1), says(3), says(5), says(8));
        let (mmio_no, fb_clear, rfds_no, rfds_clear) = (says(13) && says(14) && says(15), says(17), says(27), says(28));
        let (bhi_no, pbrsb_no) = (says(20), says(24));
        let bhi_dis_s = more_features & (1 << 4) != 0;
        Self {
            barrier_between_guests: ibrs_ibpb,
            clear_buffers: md_clear && (!mds_no || (transactional && !taa_no))
                || (fb_clear && !mmio_no)
                || (rfds_clear && !rfds_no),
            flush_l1_data_cache: l1d_flush && !rdcl_no && !skip_l1d_flush,
            // With enhanced IBRS an exit does it, but for the first entry on processors that are not PBRSB_NO.
            fill_return_stack: ibrs_ibpb && host_ibrs && !(ibrs_all && pbrsb_no),
            write_ibrs: ibrs_ibpb && !ibrs_all,
            // Without enhanced IBRS the host prevents the training itself.
            clear_history: ibrs_ibpb && host_ibrs && ibrs_all && !bhi_no && !bhi_dis_s,
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
        fn needs_follow_the_enumeration(features: u32, more: u32, rtm: bool, capabilities: u64, ibrs: bool) {
            const FEATURES: u32 = 1 << 26 | 1 << 10 | 1 << 28;
            const FIXED_BY_VERW: u64 = 1 << 17 | 1 << 28;
            let none = SpeculationPolicy::decide(features & !FEATURES, more, rtm, capabilities & !FIXED_BY_VERW, ibrs);
            prop_assert_eq!(none, SpeculationPolicy::NONE);
            const IMMUNE: u64 = 0b11 | 1 << 3 | 1 << 5 | 1 << 8 | 0b111 << 13 | 1 << 20 | 1 << 24 | 1 << 27;
            let immune = SpeculationPolicy::decide(features, more, rtm, capabilities | IMMUNE, ibrs);
            prop_assert!(!immune.clear_buffers && !immune.fill_return_stack && !immune.flush_l1_data_cache);
            prop_assert!(!immune.write_ibrs && !immune.clear_history);
            let old = SpeculationPolicy::decide(features | FEATURES, more, rtm, 0, ibrs);
            prop_assert!(old.write_ibrs && !old.clear_history);
            // Enhanced IBRS, and then BHI_DIS_S too.
            prop_assert_eq!(SpeculationPolicy::decide(FEATURES, 0, rtm, 0b10, ibrs).clear_history, ibrs);
            prop_assert!(!SpeculationPolicy::decide(FEATURES, 1 << 4, rtm, 0b10, ibrs).clear_history);
            prop_assert!(old.clear_buffers && old.barrier_between_guests);
            prop_assert_eq!(old.fill_return_stack, ibrs);
            prop_assert!(old.flush_l1_data_cache);
            // A processor that is safe from MDS alone still clears for what it is not safe from.
            let taa = SpeculationPolicy::decide(FEATURES, more, true, 1 << 5, ibrs);
            let mmio = SpeculationPolicy::decide(FEATURES, more, false, 1 << 5 | 1 << 17, ibrs);
            prop_assert!(taa.clear_buffers && mmio.clear_buffers);
        }
    }
}
