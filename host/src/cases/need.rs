//! What a processor must have for a case to make sense.

use core::fmt;

use raw_cpuid::CpuId;

use super::host_registers::{HOST_HAS_SSE, has_spec_ctrl, has_tsc_aux, has_xss};
use crate::{arch::lapic, smp};

#[derive(Clone, Copy)]
pub enum Need {
    Processors(usize),
    Xsave,
    Avx,
    Avx512,
    Rdtscp,
    Xsaves,
    /// IBRS, STIBP, SSBD and IBPB.
    SpeculationControl,
    /// The local APIC is used through its page.
    ApicPage,
    /// The processor sets accessed and dirty flags in the EPT.
    EptAccessedDirty,
    /// PCIDs.
    Pcid,
    /// The host is compiled with SSE, so that its extended state is its own after each run.
    HostSse,
}

impl Need {
    pub fn is_met(self) -> bool {
        let cpuid = CpuId::new();
        let basic = cpuid.get_feature_info();
        let extended = cpuid.get_extended_feature_info();
        match self {
            Self::Processors(count) => smp::count() >= count,
            Self::Xsave => basic.is_some_and(|info| info.has_xsave()),
            Self::Avx => basic.is_some_and(|info| info.has_avx()),
            Self::Rdtscp => has_tsc_aux(),
            Self::Xsaves => has_xss(),
            Self::SpeculationControl => has_spec_ctrl(),
            Self::ApicPage => lapic::has_page(),
            Self::HostSse => HOST_HAS_SSE,
            Self::Avx512 => extended.is_some_and(|info| info.has_avx512f()),
            Self::EptAccessedDirty => ept_capabilities() & 1 << 21 != 0,
            Self::Pcid => basic.is_some_and(|info| info.has_pcid()),
        }
    }
}

/// IA32_VMX_EPT_VPID_CAP of this processor, which has EPT.
pub fn ept_capabilities() -> u64 {
    const IA32_VMX_EPT_VPID_CAP: u32 = 0x48C;
    // SAFETY: the MSR exists where there is EPT; reading it has no effect.
    unsafe { x86_64::registers::model_specific::Msr::new(IA32_VMX_EPT_VPID_CAP).read() }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Processors(count) => write!(f, "needs {count} processors"),
            Self::Xsave => f.write_str("the processor has no XSAVE"),
            Self::Avx => f.write_str("the processor has no AVX"),
            Self::Rdtscp => f.write_str("the processor has no RDTSCP"),
            Self::Xsaves => f.write_str("the processor has no XSAVES"),
            Self::SpeculationControl => f.write_str("the processor has no IBRS, STIBP and SSBD"),
            Self::ApicPage => f.write_str("the firmware chose x2APIC"),
            Self::HostSse => f.write_str("the host is compiled without SSE"),
            Self::Avx512 => f.write_str("the processor has no AVX-512"),
            Self::EptAccessedDirty => f.write_str("the processor's EPT has no accessed and dirty flags"),
            Self::Pcid => f.write_str("the processor has no PCIDs"),
        }
    }
}
