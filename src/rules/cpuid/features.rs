//! The feature flags of CPUID that a guest can have: one table, with what each depends on.
//!
//! A flag that is not in the table is hidden from every guest and cannot be shown. So a newer processor shows a guest
//! nothing that the crate does not know. What needs state or controls that the crate does not virtualize (VMX, SMX, SGX,
//! CET, AMX, MPX, Processor Trace, ...) is hidden, because it is not in the table.

use core::fmt;

use super::xsave;
use super::{EAX, EBX, ECX, EDX, Registers, Support};
use crate::rules::control_registers::{
    CR4_DE, CR4_FSGSBASE, CR4_MCE, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_OSXSAVE, CR4_PAE, CR4_PCE, CR4_PCIDE, CR4_PGE,
    CR4_PKE, CR4_PSE, CR4_PVI, CR4_SMAP, CR4_SMEP, CR4_TSD, CR4_UMIP, CR4_VME, EFER_LME, EFER_NXE, EFER_SCE, xcr0,
};

/// One of the registers that CPUID answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuidRegister {
    /// EAX
    Eax = EAX as isize,
    /// EBX
    Ebx = EBX as isize,
    /// ECX
    Ecx = ECX as isize,
    /// EDX
    Edx = EDX as isize,
}

/// A feature flag: one bit of CPUID's answer to a leaf and subleaf. The constants are those that a guest can have, with
/// the names of the SDM (Vol. 2A, "CPUID—CPU Identification").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CpuidFeature {
    leaf: u32,
    subleaf: u32,
    register: CpuidRegister,
    bit: u8,
}

impl CpuidFeature {
    /// The flag in this place. `bit` counts from 0 to 31; higher numbers name no flag.
    pub const fn new(leaf: u32, subleaf: u32, register: CpuidRegister, bit: u8) -> Self {
        Self { leaf, subleaf, register, bit }
    }

    /// The flag with one of the names of the constants here: `"AVX2"`.
    pub fn by_name(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name).map(|row| row.feature)
    }

    /// The name of its constant; `None` for a flag that no guest can have.
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.name)
    }

    pub(super) fn row(self) -> Option<&'static Row> {
        TABLE.iter().find(|row| row.feature == self)
    }

    pub(super) fn place(self) -> (u32, u32) {
        (self.leaf, self.subleaf)
    }

    /// The leaf that a guest has to reach to use it.
    pub(super) fn last_leaf(self) -> u32 {
        if self == Self::XSAVE { xsave::LEAF } else { self.leaf }
    }

    pub(super) fn register(self) -> usize {
        self.register as usize
    }

    pub(super) fn mask(self) -> u32 {
        1u32.checked_shl(self.bit.into()).unwrap_or(0)
    }

    pub(super) fn is_in(self, registers: &Registers) -> bool {
        registers[self.register()] & self.mask() != 0
    }
}

impl fmt::Debug for CpuidFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            write!(f, "{name} (")?;
        }
        write!(f, "CPUID.{:X}H.{}:{:?}[{}]", self.leaf, self.subleaf, self.register, self.bit)?;
        if self.name().is_some() { f.write_str(")") } else { Ok(()) }
    }
}

/// Who makes a feature work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The processor, where it has it. Shown unless the caller hides it.
    Processor,
    /// The caller: its devices, or MSRs whose exits it answers. Hidden unless the caller shows it, on any processor.
    Caller,
}

/// A line of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) feature: CpuidFeature,
    pub(super) name: &'static str,
    pub(super) by: By,
    /// What it cannot be without.
    pub(super) needs: &'static [CpuidFeature],
}

macro_rules! by {
    () => {
        By::Processor
    };
    (caller) => {
        By::Caller
    };
}

macro_rules! features {
    ($(($leaf:literal, $subleaf:literal, $register:ident) {
        $($name:ident: $bit:literal $(, $by:ident)? $(, [$($need:ident),+])?;)+
    })+) => {
        #[allow(missing_docs, reason = "the names are the SDM's")]
        impl CpuidFeature {
            $($(pub const $name: Self = Self::new($leaf, $subleaf, CpuidRegister::$register, $bit);)+)+
        }

        /// All features that a guest can have.
        pub(super) static TABLE: &[Row] = &[$($(Row {
            feature: CpuidFeature::$name,
            name: stringify!($name),
            by: by!($($by)?),
            needs: &[$($(CpuidFeature::$need),+)?],
        }),+),+];
    };
}

features! {
    (1, 0, Edx) {
        FPU: 0;
        VME: 1;
        DE: 2;
        PSE: 3;
        TSC: 4;
        MSR: 5;
        PAE: 6;
        MCE: 7, caller;
        CX8: 8;
        APIC: 9, caller;
        SEP: 11, [MSR];
        MTRR: 12, caller, [MSR];
        PGE: 13;
        MCA: 14, caller, [MSR, MCE];
        CMOV: 15;
        PAT: 16, [MSR];
        PSE_36: 17, [PSE];
        CLFSH: 19;
        ACPI: 22, caller, [MSR];
        MMX: 23, [FPU];
        FXSR: 24, [FPU];
        SSE: 25, [FXSR, MMX];
        SSE2: 26, [SSE];
        SS: 27;
        HTT: 28, caller;
    }
    (1, 0, Ecx) {
        SSE3: 0, [SSE2];
        PCLMULQDQ: 1, [SSE2];
        MONITOR: 3;
        SSSE3: 9, [SSE3];
        FMA: 12, [AVX];
        CX16: 13, [LM];
        PCID: 17, [LM];
        SSE4_1: 19, [SSSE3];
        SSE4_2: 20, [SSE4_1];
        X2APIC: 21, caller, [APIC, MSR];
        MOVBE: 22;
        POPCNT: 23;
        TSC_DEADLINE: 24, caller, [APIC, MSR, TSC];
        AESNI: 25, [SSE2];
        XSAVE: 26, [FXSR];
        AVX: 28, [XSAVE, SSE2];
        F16C: 29, [AVX];
        RDRAND: 30;
        HYPERVISOR: 31, caller;
    }
    // Always running APIC timer.
    (6, 0, Eax) {
        ARAT: 2, caller, [APIC];
    }
    (7, 0, Ebx) {
        FSGSBASE: 0, [LM];
        TSC_ADJUST: 1, caller, [MSR, TSC];
        BMI1: 3;
        AVX2: 5, [AVX];
        FDP_EXCPTN_ONLY: 6;
        SMEP: 7;
        BMI2: 8;
        ERMS: 9;
        INVPCID: 10, [PCID];
        FCS_FDS_DEPRECATED: 13;
        AVX512F: 16, [AVX2, FMA];
        AVX512DQ: 17, [AVX512F];
        RDSEED: 18;
        ADX: 19;
        SMAP: 20;
        AVX512_IFMA: 21, [AVX512F];
        CLFLUSHOPT: 23, [CLFSH];
        CLWB: 24, [CLFSH];
        AVX512PF: 26, [AVX512F];
        AVX512ER: 27, [AVX512F];
        AVX512CD: 28, [AVX512F];
        SHA: 29, [SSE2];
        AVX512BW: 30, [AVX512F];
        AVX512VL: 31, [AVX512F];
    }
    (7, 0, Ecx) {
        AVX512_VBMI: 1, [AVX512F];
        UMIP: 2;
        PKU: 3, [XSAVE, LM];
        AVX512_VBMI2: 6, [AVX512F];
        GFNI: 8, [SSE2];
        VAES: 9, [AVX, AESNI];
        VPCLMULQDQ: 10, [AVX, PCLMULQDQ];
        AVX512_VNNI: 11, [AVX512F];
        AVX512_BITALG: 12, [AVX512F];
        AVX512_VPOPCNTDQ: 14, [AVX512F];
        RDPID: 22, [MSR];
        CLDEMOTE: 25;
        MOVDIRI: 27;
        MOVDIR64B: 28;
    }
    (7, 0, Edx) {
        AVX512_4VNNIW: 2, [AVX512F];
        AVX512_4FMAPS: 3, [AVX512F];
        FSRM: 4, [ERMS];
        AVX512_VP2INTERSECT: 8, [AVX512F];
        // About VERW, which needs no MSR.
        MD_CLEAR: 10;
        SERIALIZE: 14;
        AVX512_FP16: 23, [AVX512BW];
        IBRS_IBPB: 26, [MSR];
        STIBP: 27, [MSR];
        SSBD: 31, [MSR];
    }
    (7, 1, Eax) {
        AVX_VNNI: 4, [AVX2];
        AVX512_BF16: 5, [AVX512BW];
        CMPCCXADD: 7, [LM];
        FZRM: 10;
        FSRS: 11;
        FSRC: 12;
        AVX_IFMA: 23, [AVX2];
    }
    // Bits of IA32_SPEC_CTRL, each of these.
    (7, 2, Edx) {
        PSFD: 0, [MSR];
        IPRED_CTRL: 1, [MSR];
        RRSBA_CTRL: 2, [MSR];
        DDPD_U: 3, [MSR];
        BHI_CTRL: 4, [MSR];
    }
    (0xD, 1, Eax) {
        XSAVEOPT: 0, [XSAVE];
        XSAVEC: 1, [XSAVE];
        XGETBV_ECX_1: 2, [XSAVE];
        XSAVES: 3, [XSAVEC, MSR];
    }
    (0x8000_0001, 0, Ecx) {
        LAHF_64: 0, [LM];
        LZCNT: 5;
        PREFETCHW: 8;
    }
    (0x8000_0001, 0, Edx) {
        SYSCALL: 11, [LM];
        NX: 20, [PAE, MSR];
        PAGE_1GB: 26, [LM];
        RDTSCP: 27, [TSC, MSR];
        LM: 29, [PAE, MSR];
    }
    (0x8000_0007, 0, Edx) {
        INVARIANT_TSC: 8, [TSC];
    }
}

/// The bits that a feature adds to CR4.
const CR4: &[(CpuidFeature, u64)] = &[
    (CpuidFeature::VME, CR4_VME | CR4_PVI),
    (CpuidFeature::TSC, CR4_TSD),
    (CpuidFeature::DE, CR4_DE),
    (CpuidFeature::PSE, CR4_PSE),
    (CpuidFeature::PAE, CR4_PAE),
    (CpuidFeature::MCE, CR4_MCE),
    (CpuidFeature::PGE, CR4_PGE),
    // PCE only lets user code reach RDPMC, which exits; it is there on every processor with MMX.
    (CpuidFeature::MMX, CR4_PCE),
    (CpuidFeature::FXSR, CR4_OSFXSR),
    (CpuidFeature::SSE, CR4_OSXMMEXCPT),
    (CpuidFeature::UMIP, CR4_UMIP),
    (CpuidFeature::FSGSBASE, CR4_FSGSBASE),
    (CpuidFeature::PCID, CR4_PCIDE),
    (CpuidFeature::XSAVE, CR4_OSXSAVE),
    (CpuidFeature::SMEP, CR4_SMEP),
    (CpuidFeature::SMAP, CR4_SMAP),
    (CpuidFeature::PKU, CR4_PKE),
];

/// The bits that a feature adds to EFER.
const EFER: &[(CpuidFeature, u64)] =
    &[(CpuidFeature::SYSCALL, EFER_SCE), (CpuidFeature::LM, EFER_LME), (CpuidFeature::NX, EFER_NXE)];

/// The bits that a feature adds to IA32_SPEC_CTRL. A processor with IBRS but without STIBP, or the other way round, takes
/// both bits.
const SPEC_CTRL: &[(CpuidFeature, u64)] = &[
    (CpuidFeature::IBRS_IBPB, 0b011),
    (CpuidFeature::STIBP, 0b011),
    (CpuidFeature::SSBD, 1 << 2),
    (CpuidFeature::IPRED_CTRL, 0b11 << 3),
    (CpuidFeature::RRSBA_CTRL, 0b11 << 5),
    (CpuidFeature::PSFD, 1 << 7),
    (CpuidFeature::DDPD_U, 1 << 8),
    (CpuidFeature::BHI_CTRL, 1 << 10),
];

/// CPUID.07H.2:EDX: the flags that are known, which are those of the table and three that bring no bit of IA32_SPEC_CTRL:
/// MCDT_NO, UC-lock disable and MONITOR_MITG_NO.
const KNOWN_OF_LEAF_7_2: u32 = 0xFF;
/// In place of bits of IA32_SPEC_CTRL that are not known.
const UNKNOWN_SPEC_CTRL: u64 = 1 << 63;

/// The state components that a feature adds to XCR0. x87 is there with XSAVE itself.
const XCR0: &[(CpuidFeature, u64)] = &[
    (CpuidFeature::XSAVE, xcr0::X87),
    (CpuidFeature::SSE, xcr0::SSE),
    (CpuidFeature::AVX, xcr0::AVX),
    (CpuidFeature::AVX512F, xcr0::AVX512),
    (CpuidFeature::PKU, xcr0::PKRU),
];

/// The bits that CR4 has on a processor with these features.
pub(super) fn cr4(has: impl Fn(CpuidFeature) -> bool) -> u64 {
    union(CR4, has)
}

/// The bits that can be written to EFER there.
pub(super) fn efer(has: impl Fn(CpuidFeature) -> bool) -> u64 {
    union(EFER, has)
}

/// The bits that can be written to IA32_SPEC_CTRL there; 0 where there is none.
pub(super) fn spec_ctrl(has: impl Fn(CpuidFeature) -> bool) -> u64 {
    union(SPEC_CTRL, has)
}

/// The bits that a processor takes in IA32_SPEC_CTRL, and one more if it may take some that no guest can be shown.
pub(crate) fn accepted_spec_ctrl(native: impl Fn(u32, u32) -> Registers) -> u64 {
    if native(0, 0)[EAX] < 7 {
        return 0;
    }
    let last = native(7, 0)[EAX];
    let known = spec_ctrl(|feature| feature.subleaf <= last && feature.is_in(&native(feature.leaf, feature.subleaf)));
    let unknown = last >= 2 && native(7, 2)[EDX] & !KNOWN_OF_LEAF_7_2 != 0;
    if unknown { known | UNKNOWN_SPEC_CTRL } else { known }
}

/// The bits that XCR0 has there; 0 without XSAVE.
pub(super) fn xcr0(has: impl Fn(CpuidFeature) -> bool) -> u64 {
    if has(CpuidFeature::XSAVE) { union(XCR0, has) } else { 0 }
}

fn union(bits: &[(CpuidFeature, u64)], has: impl Fn(CpuidFeature) -> bool) -> u64 {
    bits.iter().filter(|(feature, _)| has(*feature)).fold(0, |all, (_, bits)| all | bits)
}

/// Whether the vCPU can do its part for a feature that the processor has: state, controls, bits of CR4.
pub(super) fn is_supported(feature: CpuidFeature, support: &Support) -> bool {
    let all_of = |table: &[(CpuidFeature, u64)], there: u64| {
        table.iter().filter(|(own, _)| *own == feature).all(|(_, bits)| bits & !there == 0)
    };
    // SSE is there without XSAVE too.
    let state = feature == CpuidFeature::SSE || all_of(XCR0, support.xcr0);
    let control = match feature {
        CpuidFeature::RDTSCP | CpuidFeature::RDPID => support.rdtscp,
        CpuidFeature::INVPCID => support.invpcid,
        CpuidFeature::XSAVES => support.xsaves,
        CpuidFeature::MONITOR => support.monitor,
        _ => true,
    };
    state && control && all_of(CR4, support.cr4 | CR4_MCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No two features are one bit, and what a feature needs is in the table; needs do not go in circles.
    #[test]
    fn table_is_sound() {
        fn depth(feature: CpuidFeature, limit: usize) -> usize {
            assert!(limit > 0, "{feature:?} needs itself");
            let row = feature.row().expect("in the table");
            row.needs.iter().map(|need| depth(*need, limit - 1) + 1).max().unwrap_or(0)
        }
        for (i, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|other| other.feature != row.feature && other.name != row.name), "{row:?}");
            depth(row.feature, 12);
        }
    }
}
