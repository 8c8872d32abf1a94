//! VPIDs on and off, and the counts of TLB flushes. In Bochs every entry and exit empties the TLB. So a missing flush does not
//! show in memory, and a needless one never would.

use x86_vcpu::TlbFlushCounts;

use super::super::check::CaseResult;
use crate::vmx::{self, State};

/// Limits the VPIDs of this CPU, until it is dropped there.
pub struct VpidLimit(());

impl VpidLimit {
    #[track_caller]
    pub fn set(limit: u16) -> CaseResult<Self> {
        vmx::with_state(|state| state.set_vpid_limit(limit))?;
        Ok(Self(()))
    }

    #[track_caller]
    pub fn none() -> CaseResult<Self> {
        Self::set(0)
    }
}

impl Drop for VpidLimit {
    fn drop(&mut self) {
        // VMX is on here, as it was.
        let _ = vmx::with_state(|state| state.set_vpid_limit(u16::MAX));
    }
}

/// Runs the case with VPIDs and without.
pub fn with_and_without(case: impl Fn(bool) -> CaseResult) -> CaseResult {
    case(true)?;
    let _limit = VpidLimit::none()?;
    case(false)
}

/// INVEPTs and INVVPIDs that `f` makes on this processor.
#[track_caller]
pub fn flushes_of<T>(f: impl FnOnce() -> CaseResult<T>) -> CaseResult<(T, TlbFlushCounts)> {
    let before = vmx::with_state(State::tlb_flush_counts)?;
    let result = f()?;
    let after = vmx::with_state(State::tlb_flush_counts)?;
    Ok((result, TlbFlushCounts { invept: after.invept - before.invept, invvpid: after.invvpid - before.invvpid }))
}
