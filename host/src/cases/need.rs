//! What a processor must have for a case to make sense.

use core::fmt;

use raw_cpuid::CpuId;

use super::host_state::{HOST_HAS_SSE, has_tsc_aux};
use crate::{arch::lapic, smp};

#[derive(Clone, Copy)]
pub enum Need {
    Processors(usize),
    Xsave,
    Avx,
    Avx512,
    Rdtscp,
    /// The local APIC is used through its page.
    ApicPage,
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
            Self::ApicPage => lapic::has_page(),
            Self::HostSse => HOST_HAS_SSE,
            Self::Avx512 => extended.is_some_and(|info| info.has_avx512f()),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Processors(count) => write!(f, "needs {count} processors"),
            Self::Xsave => f.write_str("the processor has no XSAVE"),
            Self::Avx => f.write_str("the processor has no AVX"),
            Self::Rdtscp => f.write_str("the processor has no RDTSCP"),
            Self::ApicPage => f.write_str("the firmware chose x2APIC"),
            Self::HostSse => f.write_str("the host is compiled without SSE"),
            Self::Avx512 => f.write_str("the processor has no AVX-512"),
        }
    }
}
