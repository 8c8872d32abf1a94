//! What becomes of the guest's RDMSR and WRMSR, MSR by MSR.

use core::ops::RangeInclusive;

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::Backend;
use super::msrs::virtualized_msrs;
use super::parts::msrs::MsrPolicy;

/// # MSRs
impl<B: Backend> Vcpu<B> {
    /// Decides what becomes of the guest's accesses to a range of MSRs. The MSRs that the table of [`MsrPolicy`] calls
    /// the guest's own stay so: asking for another policy for one of them is an error, but for
    /// [`Exit`](MsrPolicy::Exit), which changes nothing for them.
    ///
    /// # Errors
    /// `InvalidInput` for an empty range, for [`PassThrough`](MsrPolicy::PassThrough) of MSRs outside 0 to 1FFFH and
    /// C0000000H to C0001FFFH, which always exit, for [`Keep`](MsrPolicy::Keep) of more than 4096 MSRs, and for the
    /// guest's own MSRs. Nothing is changed then.
    pub fn set_msr_policy(&mut self, msrs: RangeInclusive<u32>, policy: MsrPolicy) -> AxResult {
        const MOST_KEPT: u32 = 4096;
        if msrs.is_empty() {
            return ax_err!(InvalidInput, "an empty range of MSRs");
        }
        if policy != MsrPolicy::Exit && virtualized_msrs::<B>().any(|own| msrs.contains(&own)) {
            return ax_err!(InvalidInput, "the range holds an MSR that is the guest's own");
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
                if msrs.end() - msrs.start() >= MOST_KEPT {
                    return ax_err!(InvalidInput, "too many MSRs to keep");
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
