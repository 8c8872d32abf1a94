//! The MSRs of a guest that are plain values, and what the caller decided of MSRs.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::msr::Msr;

/// What becomes of the guest's RDMSR and WRMSR of an MSR.
///
/// # The default
///
/// By default the guest reads and writes no MSR of the host. A *virtualized* MSR has a value for the guest that the crate switches
/// or checks. An *emulated* MSR is a plain value in the vCPU.
///
/// An MSR of a feature that the guest's CPUID hides exits to the caller, whatever the table says:
///
/// - those of SYSENTER without SEP, PAT without PAT, and EFER without SYSCALL, LM and NX;
/// - STAR, LSTAR, CSTAR and FMASK without SYSCALL, and FS_BASE, GS_BASE and KERNEL_GS_BASE without LM;
/// - TSC_AUX without RDTSCP and RDPID, and XSS without XSAVES;
/// - SPEC_CTRL without all of its bits, and PRED_CMD without IBPB.
///
/// | MSR | default |
/// |---|---|
/// | FS_BASE, GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP | passed through; VMCS guest state |
/// | TIME_STAMP_COUNTER | reads passed through, with the TSC offset; writes exit to the caller |
/// | EFER, PAT, DEBUGCTL (BTF; LBR is always clear), XSS | virtualized; checked as the processor does |
/// | STAR, LSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX | virtualized, switched once the guest can use them; checked |
/// | CSTAR | virtualized; checked, and never in the register, which Intel's processors do not use |
/// | SPEC_CTRL | virtualized where CPUID shows one of its bits (IBRS, STIBP, SSBD, ...): emulated until its first write of another value than 0, then switched, and passed through where the guest is shown all bits that the processor takes |
/// | PRED_CMD | writes passed through where CPUID shows IBPB, reads #GP |
/// | FEATURE_CONTROL | emulated: 1, locked with VMX off; every write is #GP, as of a register that is locked |
/// | MISC_ENABLE | emulated: fast strings on, no branch trace store, no PEBS; only fast strings can be written |
/// | BIOS_UPDT_TRIG, BIOS_SIGN_ID (microcode) | emulated: a write has no effect but to be read back |
/// | APIC_BASE, x2APIC (800H to 8FFH) | exit to the caller, who emulates the APIC |
/// | MTRRs, machine check, PMU, debug store, power, UMWAIT_CONTROL, ARCH_CAPABILITIES, FLUSH_CMD, and all others | exit to the caller, and hidden by CPUID |
///
/// # What the host's own use of the processor means while a guest runs
///
/// The performance counters are not switched. The host's counters count in the guest too, and an interrupt or NMI of a counter is
/// an exit. The guest reads none of them (RDPMC is #GP, CPUID.0AH is empty). A host stops its counters around a run if it counts
/// only itself, or writes PEBS records: those would go to the address of its buffer in the guest's address space. Branch records
/// stop at an entry, with IA32_DEBUGCTL.
///
/// The time-stamp counter is the host's, plus what the caller adds ([`set_tsc_offset`](crate::VmxVcpu::set_tsc_offset)). It is
/// not 0 at the guest's reset: guests assume that the counters of all their processors agree, and those of the host do.
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use x86_vcpu::{MsrPolicy, PhysFrameHal, VmxVcpu};
///
/// const IA32_MTRRCAP: u32 = 0xFE;
/// const IA32_PLATFORM_INFO: u32 = 0xCE;
/// const MTRRS: core::ops::RangeInclusive<u32> = 0x200..=0x21F;
/// const IA32_APERF: u32 = 0xE8;
///
/// fn decide_msrs(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
///     // The vCPU has the value by itself, without an exit to the caller. No bit can be written: WRMSR is #GP.
///     vcpu.set_msr_policy(IA32_MTRRCAP..=IA32_MTRRCAP, MsrPolicy::Keep { value: 0x508, writable: 0 })?;
///     // A range whose registers the guest may write as it likes, and reads back.
///     vcpu.set_msr_policy(MTRRS, MsrPolicy::Keep { value: 0, writable: u64::MAX })?;
///     // The host's own register. The guest shares it with the host.
///     vcpu.set_msr_policy(IA32_APERF..=IA32_APERF, MsrPolicy::PassThrough)?;
///     // To the caller, as SysRegRead and SysRegWrite. This is the default.
///     vcpu.set_msr_policy(IA32_PLATFORM_INFO..=IA32_PLATFORM_INFO, MsrPolicy::Exit)
/// }
/// ```
#[doc(alias("rdmsr", "wrmsr", "lstar", "efer"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrPolicy {
    /// The guest uses the processor's own register, without an exit. Unless the crate switches the register, guest and host share
    /// it, which the caller answers for.
    PassThrough,
    /// The MSR is emulated: the vCPU has a value of its own, and no access exits to the caller. A write that changes a bit outside
    /// `writable` is #GP. With none writable every write is #GP, as of a register that is read-only or locked.
    Keep {
        /// The value until the guest writes another.
        value: u64,
        /// The bits that the guest may change.
        writable: u64,
    },
    /// The access exits to the caller, who completes it with a value or a fault.
    Exit,
}

/// The MSRs that a vCPU emulates as plain values.
#[derive(Debug, Default)]
pub(crate) struct EmulatedMsrs {
    /// In the order of their numbers.
    msrs: Vec<EmulatedMsr>,
    /// A filter of the virtualized and emulated MSRs: see [`EmulatedMsrs::may_be_virtualized`].
    filter: [u64; 4],
}

#[derive(Clone, Copy, Debug)]
struct EmulatedMsr {
    msr: u32,
    initial: u64,
    value: u64,
    writable: u64,
}

impl EmulatedMsrs {
    /// The emulated MSRs of the table above. `virtualized` are those whose value is elsewhere.
    pub(crate) fn with_defaults(virtualized: impl Iterator<Item = u32>) -> Self {
        /// Locked, VMX neither inside nor outside SMX.
        const LOCKED: u64 = 1;
        const FAST_STRINGS: u64 = 1;
        const NO_BTS_NO_PEBS: u64 = 0b11 << 11;
        let mut emulated = Self::default();
        emulated.insert(Msr::IA32_FEATURE_CONTROL.number(), LOCKED, 0);
        emulated.insert(Msr::IA32_MISC_ENABLE.number(), FAST_STRINGS | NO_BTS_NO_PEBS, FAST_STRINGS);
        emulated.insert(Msr::IA32_BIOS_UPDT_TRIG.number(), 0, u64::MAX);
        emulated.insert(Msr::IA32_BIOS_SIGN_ID.number(), 0, u64::MAX);
        virtualized.for_each(|msr| emulated.remember(msr));
        emulated
    }

    /// Back to the initial values.
    pub(crate) fn reset(&mut self) {
        self.msrs.iter_mut().for_each(|emulated| emulated.value = emulated.initial);
    }

    pub(crate) fn read(&self, msr: u32) -> Option<u64> {
        self.place(msr).ok().map(|i| self.msrs[i].value)
    }

    /// `None` for an MSR that is not emulated here; otherwise whether the guest may write this value, which it has then.
    pub(crate) fn write(&mut self, msr: u32, value: u64) -> Option<bool> {
        let place = self.place(msr).ok()?;
        let emulated = &mut self.msrs[place];
        let accepted = emulated.writable != 0 && (value ^ emulated.value) & !emulated.writable == 0;
        if accepted {
            emulated.value = value;
        }
        Some(accepted)
    }

    pub(crate) fn insert(&mut self, msr: u32, value: u64, writable: u64) {
        self.remember(msr);
        let emulated = EmulatedMsr { msr, initial: value, value, writable };
        match self.place(msr) {
            Ok(i) => self.msrs[i] = emulated,
            Err(i) => self.msrs.insert(i, emulated),
        }
    }

    /// Adds a virtualized MSR, whose value is elsewhere, to the filter.
    fn remember(&mut self, msr: u32) {
        let bit = filter_bit(msr);
        self.filter[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether the MSR may be virtualized or emulated. `false` for most that exit to the caller.
    #[inline(always)]
    pub(crate) fn may_be_virtualized(&self, msr: u32) -> bool {
        let bit = filter_bit(msr);
        self.filter[bit / 64] & 1 << (bit % 64) != 0
    }

    pub(crate) fn remove(&mut self, msrs: &RangeInclusive<u32>) {
        self.msrs.retain(|emulated| !msrs.contains(&emulated.msr));
    }

    fn place(&self, msr: u32) -> Result<usize, usize> {
        self.msrs.binary_search_by_key(&msr, |emulated| emulated.msr)
    }
}

/// A number below 256 that MSRs rarely have in common.
#[inline(always)]
fn filter_bit(msr: u32) -> usize {
    (msr.wrapping_mul(0x27D4_EB2F) >> 24) as usize
}

/// The emulated MSRs, and what the caller made exit.
#[derive(Debug)]
pub(crate) struct Msrs {
    emulated: EmulatedMsrs,
    caller_intercepts: CallerIntercepts,
}

impl Msrs {
    /// `virtualized` are those whose value is elsewhere.
    pub(crate) fn with_defaults(virtualized: impl Iterator<Item = u32>) -> Self {
        Self { emulated: EmulatedMsrs::with_defaults(virtualized), caller_intercepts: CallerIntercepts::default() }
    }

    pub(crate) fn reset(&mut self) {
        self.emulated.reset();
    }

    pub(crate) fn emulated_mut(&mut self) -> &mut EmulatedMsrs {
        &mut self.emulated
    }

    pub(crate) fn emulated(&self) -> &EmulatedMsrs {
        &self.emulated
    }

    pub(crate) fn set_caller_intercept(&mut self, msr: u32, exits: bool) {
        self.caller_intercepts.set(msr, exits);
    }

    /// The caller made an MSR exit that the crate passes through of itself.
    pub(crate) fn caller_intercepts(&self, msr: u32) -> bool {
        self.caller_intercepts.contains(msr)
    }
}

/// Of the MSRs that the crate passes through of itself, those that the caller made exit.
#[derive(Debug, Default)]
struct CallerIntercepts(Vec<u32>);

impl CallerIntercepts {
    fn contains(&self, msr: u32) -> bool {
        self.0.contains(&msr)
    }

    fn set(&mut self, msr: u32, exits: bool) {
        self.0.retain(|other| *other != msr);
        if exits {
            self.0.push(msr);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A guest never changes a bit that it may not change, and reads what it wrote.
        #[test]
        fn only_writable_bits_change(initial: u64, writable: u64, writes: Vec<u64>) {
            let mut kept = EmulatedMsrs::default();
            kept.insert(7, initial, writable);
            for write in writes {
                let before = kept.read(7);
                match kept.write(7, write) {
                    Some(true) => prop_assert_eq!(kept.read(7), Some(write)),
                    _ => prop_assert_eq!(kept.read(7), before),
                }
                prop_assert_eq!((kept.read(7).unwrap() ^ initial) & !writable, 0);
            }
            kept.reset();
            prop_assert_eq!(kept.read(7), Some(initial));
        }

        /// An emulated MSR is found whatever was inserted and removed around it.
        #[test]
        fn emulated_msrs_are_a_map(msrs: Vec<(u32, u64)>, gone: (u32, u32)) {
            let mut kept = EmulatedMsrs::default();
            let mut model = alloc::collections::BTreeMap::new();
            for (msr, value) in &msrs {
                kept.insert(*msr, *value, 0);
                model.insert(*msr, *value);
            }
            let gone = gone.0.min(gone.1)..=gone.0.max(gone.1);
            kept.remove(&gone);
            model.retain(|msr, _| !gone.contains(msr));
            for (msr, _) in msrs {
                prop_assert_eq!(kept.read(msr), model.get(&msr).copied());
                prop_assert!(kept.may_be_virtualized(msr) || !model.contains_key(&msr));
            }
        }
    }
}
