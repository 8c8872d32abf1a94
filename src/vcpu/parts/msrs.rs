//! The MSRs of a guest that are plain values, and what the caller decided of MSRs.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::msr::Msr;

/// What becomes of the guest's RDMSR and WRMSR of an MSR.
///
/// # The default
///
/// Nothing of the host's can be read or written by a guest that nobody has opened an MSR to.
///
/// An MSR of a feature that the guest's CPUID hides comes to the caller, whatever the table says: SYSENTER's without SEP,
/// PAT without PAT, EFER without SYSCALL, LM and NX, STAR, LSTAR, CSTAR and FMASK without SYSCALL, FS_BASE, GS_BASE and
/// KERNEL_GS_BASE without LM, TSC_AUX without RDTSCP and RDPID, XSS without XSAVES, SPEC_CTRL without all of its bits,
/// PRED_CMD without IBPB.
///
/// | MSR | default |
/// |---|---|
/// | FS_BASE, GS_BASE, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP | passed through; VMCS guest state |
/// | TIME_STAMP_COUNTER | reads passed through, with the TSC offset; writes to the caller |
/// | EFER, PAT, DEBUGCTL (BTF; LBR stays clear), XSS | the guest's own; checked as the processor does |
/// | STAR, LSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX | the guest's own, switched once it can use them; checked |
/// | CSTAR | the guest's own; checked, and never in the register, which Intel's processors do not use |
/// | SPEC_CTRL | the guest's own where CPUID shows one of its bits (IBRS, STIBP, SSBD, ...): kept until its first write of another value than 0, then switched, and passed through where the guest is shown all bits that the processor takes |
/// | PRED_CMD | writes passed through where CPUID shows IBPB, reads #GP |
/// | FEATURE_CONTROL | kept: 1, locked with VMX off; every write is #GP, as of a register that is locked |
/// | MISC_ENABLE | kept: fast strings on, no branch trace store, no PEBS; only fast strings can be written |
/// | BIOS_UPDT_TRIG, BIOS_SIGN_ID (microcode) | kept: written without effect, read back |
/// | APIC_BASE, x2APIC (800H to 8FFH) | to the caller, whose APIC it is |
/// | MTRRs, machine check, PMU, debug store, power, UMWAIT_CONTROL, ARCH_CAPABILITIES, FLUSH_CMD, and all others | to the caller, and hidden by CPUID |
///
/// # What the host's own use of the processor means while a guest runs
///
/// The performance counters are not switched: the host's go on counting, in the guest too, and an interrupt or NMI of
/// theirs is an exit. The guest reads none of them (RDPMC is #GP, CPUID.0AH is empty). A host that counts only itself, or
/// that writes PEBS records, which would go to its buffer's address in the guest's address space, stops its counters
/// around a run. Branch records stop at an entry, with IA32_DEBUGCTL.
///
/// The time-stamp counter is the host's, with what the caller adds ([`set_tsc_offset`](crate::VmxVcpu::set_tsc_offset)), and
/// not 0 at the guest's reset: guests take for granted that the counters of all their processors agree, and those of the
/// host do.
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
    /// The guest uses the processor's own register, without an exit. It shares it with the host, unless the crate
    /// switches it; the caller answers for that.
    PassThrough,
    /// The vCPU keeps a value of its own. A write that changes a bit outside `writable` is #GP; with none writable every
    /// write is, as of a register that is read-only or locked.
    Keep {
        /// The value until the guest writes another.
        value: u64,
        /// The bits that the guest may change.
        writable: u64,
    },
    /// The access exits to the caller, who completes it with a value or a fault.
    Exit,
}

/// The MSRs that a vCPU keeps as plain values.
#[derive(Debug, Default)]
pub(crate) struct EmulatedMsrs {
    /// In the order of their numbers.
    msrs: Vec<EmulatedMsr>,
    /// The bits of the guest's own MSRs, wherever they are kept: see [`EmulatedMsrs::may_be_virtualized`].
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
    /// The MSRs of the table above; `own` are those that are kept elsewhere.
    pub(crate) fn with_defaults(own: impl Iterator<Item = u32>) -> Self {
        /// Locked, VMX neither inside nor outside SMX.
        const LOCKED: u64 = 1;
        const FAST_STRINGS: u64 = 1;
        const NO_BTS_NO_PEBS: u64 = 0b11 << 11;
        let mut kept = Self::default();
        kept.insert(Msr::IA32_FEATURE_CONTROL.number(), LOCKED, 0);
        kept.insert(Msr::IA32_MISC_ENABLE.number(), FAST_STRINGS | NO_BTS_NO_PEBS, FAST_STRINGS);
        kept.insert(Msr::IA32_BIOS_UPDT_TRIG.number(), 0, u64::MAX);
        kept.insert(Msr::IA32_BIOS_SIGN_ID.number(), 0, u64::MAX);
        own.for_each(|msr| kept.remember(msr));
        kept
    }

    /// Back to the initial values.
    pub(crate) fn reset(&mut self) {
        self.msrs.iter_mut().for_each(|kept| kept.value = kept.initial);
    }

    pub(crate) fn read(&self, msr: u32) -> Option<u64> {
        self.place(msr).ok().map(|i| self.msrs[i].value)
    }

    /// `None` for an MSR that is not kept here; otherwise whether the guest may write this value, which it has then.
    pub(crate) fn write(&mut self, msr: u32, value: u64) -> Option<bool> {
        let place = self.place(msr).ok()?;
        let kept = &mut self.msrs[place];
        let accepted = kept.writable != 0 && (value ^ kept.value) & !kept.writable == 0;
        if accepted {
            kept.value = value;
        }
        Some(accepted)
    }

    pub(crate) fn insert(&mut self, msr: u32, value: u64, writable: u64) {
        self.remember(msr);
        let kept = EmulatedMsr { msr, initial: value, value, writable };
        match self.place(msr) {
            Ok(i) => self.msrs[i] = kept,
            Err(i) => self.msrs.insert(i, kept),
        }
    }

    /// An MSR of the guest's own that is kept elsewhere.
    fn remember(&mut self, msr: u32) {
        let bit = filter_bit(msr);
        self.filter[bit / 64] |= 1 << (bit % 64);
    }

    /// Whether the MSR may be one of the guest's own. Most that come to the caller are told by this.
    #[inline(always)]
    pub(crate) fn may_be_virtualized(&self, msr: u32) -> bool {
        let bit = filter_bit(msr);
        self.filter[bit / 64] & 1 << (bit % 64) != 0
    }

    pub(crate) fn remove(&mut self, msrs: &RangeInclusive<u32>) {
        self.msrs.retain(|kept| !msrs.contains(&kept.msr));
    }

    fn place(&self, msr: u32) -> Result<usize, usize> {
        self.msrs.binary_search_by_key(&msr, |kept| kept.msr)
    }
}

/// A number below 256 that MSRs rarely have in common.
#[inline(always)]
fn filter_bit(msr: u32) -> usize {
    (msr.wrapping_mul(0x27D4_EB2F) >> 24) as usize
}

/// What the vCPU keeps of MSRs itself.
#[derive(Debug)]
pub(crate) struct Msrs {
    emulated: EmulatedMsrs,
    caller_intercepts: CallerIntercepts,
}

impl Msrs {
    /// `virtualized` are those that are kept elsewhere.
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

        /// What is kept is found whatever was inserted and removed around it.
        #[test]
        fn kept_msrs_are_a_map(msrs: Vec<(u32, u64)>, gone: (u32, u32)) {
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
