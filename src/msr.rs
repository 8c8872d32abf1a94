//! Model-specific registers that the crate reads, writes, switches or answers for, under one name each.
//!
//! Numbers and names are those of the SDM, Vol. 4, "Architectural MSRs" (table 2-2).

use core::arch::asm;

/// An MSR by its number.
///
/// RDMSR and WRMSR of an MSR that the processor does not have are #GP in the host. So whoever reads one of these
/// has first made sure that it exists: by CPUID, or by a VMX capability that implies it.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(
    non_camel_case_types,
    dead_code,
    reason = "the names are the manual's, and the list is complete where the crate needs only some of a group"
)]
pub enum Msr {
    /// Time-stamp counter.
    IA32_TIME_STAMP_COUNTER = 0x10,
    /// Local APIC: base address, enable bits, bootstrap processor.
    IA32_APIC_BASE = 0x1b,
    /// Lock and enable bits of VMX and SMX.
    IA32_FEATURE_CONTROL = 0x3a,
    /// What was added to the TSC since reset.
    IA32_TSC_ADJUST = 0x3b,
    /// Speculation controls: IBRS, STIBP, SSBD.
    IA32_SPEC_CTRL = 0x48,
    /// Prediction barriers; write-only.
    IA32_PRED_CMD = 0x49,
    /// Microcode update trigger; write-only.
    IA32_BIOS_UPDT_TRIG = 0x79,
    /// Microcode update signature.
    IA32_BIOS_SIGN_ID = 0x8b,
    /// Control of UMWAIT and TPAUSE.
    IA32_UMWAIT_CONTROL = 0xe1,
    /// Capabilities of the MTRRs.
    IA32_MTRRCAP = 0xfe,
    /// Immunities and mitigations.
    IA32_ARCH_CAPABILITIES = 0x10a,
    /// Cache flush; write-only.
    IA32_FLUSH_CMD = 0x10b,
    /// CS for SYSENTER.
    IA32_SYSENTER_CS = 0x174,
    /// RSP for SYSENTER.
    IA32_SYSENTER_ESP = 0x175,
    /// RIP for SYSENTER.
    IA32_SYSENTER_EIP = 0x176,
    /// Capabilities of machine check.
    IA32_MCG_CAP = 0x179,
    /// Status of machine check.
    IA32_MCG_STATUS = 0x17a,
    /// Features that firmware turns on and off.
    IA32_MISC_ENABLE = 0x1a0,
    /// Branch tracing, single-stepping on branches, last-branch records.
    IA32_DEBUGCTL = 0x1d9,
    /// First variable MTRR: base. Base and mask of the others follow.
    IA32_MTRR_PHYSBASE0 = 0x200,
    /// First variable MTRR: mask.
    IA32_MTRR_PHYSMASK0 = 0x201,
    /// Fixed MTRR: 512 KiB from 0.
    IA32_MTRR_FIX64K_00000 = 0x250,
    /// Fixed MTRR: 128 KiB from 80000H.
    IA32_MTRR_FIX16K_80000 = 0x258,
    /// Fixed MTRR: 128 KiB from A0000H.
    IA32_MTRR_FIX16K_A0000 = 0x259,
    /// Fixed MTRR: 32 KiB from C0000H. Those up to F8000H follow.
    IA32_MTRR_FIX4K_C0000 = 0x268,
    /// Page attribute table.
    IA32_PAT = 0x277,
    /// Default memory type and enable bits of the MTRRs.
    IA32_MTRR_DEF_TYPE = 0x2ff,
    /// Enable bits of the performance counters.
    IA32_PERF_GLOBAL_CTRL = 0x38f,
    /// VMCS revision, region size and memory type.
    IA32_VMX_BASIC = 0x480,
    /// Allowed pin-based controls.
    IA32_VMX_PINBASED_CTLS = 0x481,
    /// Allowed primary processor-based controls.
    IA32_VMX_PROCBASED_CTLS = 0x482,
    /// Allowed VM-exit controls.
    IA32_VMX_EXIT_CTLS = 0x483,
    /// Allowed VM-entry controls.
    IA32_VMX_ENTRY_CTLS = 0x484,
    /// Preemption-timer rate, activity states and more.
    IA32_VMX_MISC = 0x485,
    /// CR0 bits that must be 1.
    IA32_VMX_CR0_FIXED0 = 0x486,
    /// CR0 bits that may be 1.
    IA32_VMX_CR0_FIXED1 = 0x487,
    /// CR4 bits that must be 1.
    IA32_VMX_CR4_FIXED0 = 0x488,
    /// CR4 bits that may be 1.
    IA32_VMX_CR4_FIXED1 = 0x489,
    /// Highest index of a VMCS field.
    IA32_VMX_VMCS_ENUM = 0x48a,
    /// Allowed secondary processor-based controls.
    IA32_VMX_PROCBASED_CTLS2 = 0x48b,
    /// EPT and VPID.
    IA32_VMX_EPT_VPID_CAP = 0x48c,
    /// Allowed pin-based controls, where default-1 bits may be 0.
    IA32_VMX_TRUE_PINBASED_CTLS = 0x48d,
    /// Allowed primary processor-based controls, where default-1 bits may be 0.
    IA32_VMX_TRUE_PROCBASED_CTLS = 0x48e,
    /// Allowed VM-exit controls, where default-1 bits may be 0.
    IA32_VMX_TRUE_EXIT_CTLS = 0x48f,
    /// Allowed VM-entry controls, where default-1 bits may be 0.
    IA32_VMX_TRUE_ENTRY_CTLS = 0x490,
    /// Allowed VM functions.
    IA32_VMX_VMFUNC = 0x491,
    /// Allowed tertiary processor-based controls.
    IA32_VMX_PROCBASED_CTLS3 = 0x492,
    /// Allowed secondary VM-exit controls.
    IA32_VMX_EXIT_CTLS2 = 0x493,
    /// Shadow stacks and indirect-branch tracking at CPL 3.
    IA32_U_CET = 0x6a0,
    /// Shadow stacks and indirect-branch tracking at CPL 0 to 2.
    IA32_S_CET = 0x6a2,
    /// Deadline of the local APIC's timer.
    IA32_TSC_DEADLINE = 0x6e0,
    /// Protection keys of supervisor pages.
    IA32_PKRS = 0x6e1,
    /// First MSR of the x2APIC.
    IA32_X2APIC_FIRST = 0x800,
    /// Last MSR of the x2APIC.
    IA32_X2APIC_LAST = 0x8ff,
    /// Supervisor state components that XSAVES and XRSTORS manage.
    IA32_XSS = 0xda0,
    /// Extended features: SYSCALL, long mode, execute-disable.
    IA32_EFER = 0xc000_0080,
    /// Segments of SYSCALL and SYSRET.
    IA32_STAR = 0xc000_0081,
    /// RIP for SYSCALL in 64-bit mode.
    IA32_LSTAR = 0xc000_0082,
    /// RIP for SYSCALL in compatibility mode. Intel's processors hold a value and do not use it; AMD's use it.
    IA32_CSTAR = 0xc000_0083,
    /// RFLAGS bits that SYSCALL clears.
    IA32_FMASK = 0xc000_0084,
    /// Base of FS.
    IA32_FS_BASE = 0xc000_0100,
    /// Base of GS.
    IA32_GS_BASE = 0xc000_0101,
    /// What SWAPGS puts into the base of GS.
    IA32_KERNEL_GSBASE = 0xc000_0102,
    /// What RDTSCP and RDPID return besides the time.
    IA32_TSC_AUX = 0xc000_0103,
}

impl Msr {
    /// The number that RDMSR and WRMSR take in ECX.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// Reads the MSR on this processor.
    ///
    /// Needs CPL 0 and an MSR that exists; otherwise the instruction is #GP. Reading any of the MSRs above
    /// changes nothing.
    #[inline(always)]
    pub fn read(self) -> u64 {
        // Of each register RDMSR clears the upper half.
        let (low, high): (u64, u64);
        // SAFETY: none of the MSRs of the list changes anything when read.
        unsafe {
            asm!(
                "rdmsr",
                in("ecx") self.number(), out("rax") low, out("rdx") high,
                options(nomem, nostack, preserves_flags),
            );
        }
        high << 32 | low
    }

    /// Writes the MSR on this processor.
    ///
    /// # Safety
    ///
    /// The MSR must exist and accept the value, and what the value changes (where SYSCALL goes, what the bases of
    /// segments are, how memory is cached) must be what the running code expects from then on.
    #[inline(always)]
    pub unsafe fn write(self, value: u64) {
        // SAFETY: the caller answers for the effect. Memory is not marked as untouched, because an MSR can change
        // how it is accessed.
        unsafe {
            asm!(
                "wrmsr",
                in("ecx") self.number(), in("eax") value as u32, in("edx") (value >> 32) as u32,
                options(nostack, preserves_flags),
            );
        }
    }
}
