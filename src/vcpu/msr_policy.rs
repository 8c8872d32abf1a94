//! What becomes of the guest's RDMSR and WRMSR, MSR by MSR.

use core::ops::RangeInclusive;

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::Backend;
use super::msrs::virtualized_msrs;
use super::parts::msrs::MsrPolicy;

/// # MSRs
impl<B: Backend> Vcpu<B> {
    /// Sets what becomes of the guest's accesses to a range of MSRs.
    ///
    /// The MSRs that the table of [`MsrPolicy`] calls virtualized remain so. [`Exit`](MsrPolicy::Exit) changes nothing for them,
    /// and another policy is an error.
    ///
    /// # Errors
    /// `InvalidInput` for an empty range, for [`PassThrough`](MsrPolicy::PassThrough) of MSRs outside 0 to 1FFFH and
    /// C0000000H to C0001FFFH, which always exit (SDM Vol. 3C, 25.6.9 "MSR-Bitmap Address"), for [`Keep`](MsrPolicy::Keep) of
    /// more than 4096 MSRs, and for virtualized MSRs. Nothing is changed then.
    pub fn set_msr_policy(&mut self, msrs: RangeInclusive<u32>, policy: MsrPolicy) -> AxResult {
        const MOST_EMULATED: u32 = 4096;
        if msrs.is_empty() {
            return ax_err!(InvalidInput, "an empty range of MSRs");
        }
        if policy != MsrPolicy::Exit && virtualized_msrs::<B>().any(|own| msrs.contains(&own)) {
            return ax_err!(InvalidInput, "the range holds an MSR that is virtualized");
        }
        match policy {
            MsrPolicy::PassThrough => {
                let passable = |msr| matches!(msr, 0..=0x1FFF | 0xC000_0000..=0xC000_1FFF);
                let one_block = (msrs.start() ^ msrs.end()) >> 13 == 0;
                if !passable(*msrs.start()) || !passable(*msrs.end()) || !one_block {
                    return ax_err!(InvalidInput, "the range holds an MSR that always exits");
                }
            }
            MsrPolicy::Keep { value, writable } => {
                if msrs.end() - msrs.start() >= MOST_EMULATED {
                    return ax_err!(InvalidInput, "too many MSRs to emulate");
                }
                msrs.clone().for_each(|msr| self.msrs.emulated_mut().insert(msr, value, writable));
            }
            MsrPolicy::Exit => {}
        }
        if !matches!(policy, MsrPolicy::Keep { .. }) {
            self.msrs.emulated_mut().remove(&msrs);
        }
        let intercept = policy != MsrPolicy::PassThrough;
        // MSRs that no bitmap covers exit as they are, so of a large range only two parts have bits.
        for covered in [0..=0x1FFF, 0xC000_0000..=0xC000_1FFFu32] {
            for msr in *msrs.start().max(covered.start())..=*msrs.end().min(covered.end()) {
                if !self.is_virtualized_msr(msr) {
                    self.try_set_msr_intercept(msr, intercept)?;
                }
            }
        }
        Ok(())
    }
}
