//! What one processor has cached of its guests' memory, and the instructions that flush it.
//!
//! `vcpu/tlb.rs` says why and when a vCPU requests them.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axerrno::{AxResult, ax_err};

use super::capability::Capabilities;
use super::instructions::{InvEptType, InvVpidType, VmResult, invept, invvpid};
use super::vpid::{Vpid, Vpids};
use crate::ept::EptVpidCaps;

/// How many TLB flushes a processor has executed since VMX was first enabled on it.
#[doc(alias("invept", "invvpid"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlbFlushCounts {
    /// INVEPT instructions.
    pub invept: u64,
    /// INVVPID instructions.
    pub invvpid: u64,
}

/// The cached translations of one processor. All calls are made on that processor, with VMX on.
#[derive(Debug)]
pub(crate) struct Translations {
    vpids: Vpids,
    invepts: AtomicU64,
    invvpids: AtomicU64,
}

impl Translations {
    pub(crate) const fn new() -> Self {
        Self { vpids: Vpids::new(), invepts: AtomicU64::new(0), invvpids: AtomicU64::new(0) }
    }

    /// VMX was turned on: what is tagged may be anybody's, because neither VMXOFF nor VMXON flushes it.
    pub(crate) fn vmx_enabled(&self) {
        self.vpids.end_generation();
    }

    /// Sets the highest VPID for vCPUs that ask from now on.
    pub(crate) fn set_vpid_limit(&self, limit: u16) {
        self.vpids.set_limit(limit);
    }

    /// A VPID under which nothing is cached; `None` where the processor has none or is not to use them.
    pub(crate) fn assign_vpid(&self, capabilities: &Capabilities) -> AxResult<Option<Vpid>> {
        if !capabilities.has_vpid() {
            return Ok(None);
        }
        let all = capabilities.ept_vpid.contains(EptVpidCaps::INVVPID_ALL_CONTEXTS);
        let given = self.vpids.give(|| if all { self.invvpid(InvVpidType::AllContexts, 0) } else { Ok(()) })?;
        if let (Some(vpid), false) = (given, all) {
            // Without a way to drop them all, each number is made clean when it is given.
            self.invvpid(InvVpidType::SingleContext, vpid.number)?;
        }
        Ok(given)
    }

    /// Whether a VPID that was given here still belongs to its vCPU.
    pub(crate) fn vpid_holds(&self, vpid: Vpid) -> bool {
        self.vpids.holds(vpid)
    }

    /// Flushes what is cached under a VPID, for all address spaces of the guest.
    pub(crate) fn flush_vpid(&self, capabilities: &Capabilities, vpid: Vpid) -> AxResult {
        let single = capabilities.ept_vpid.contains(EptVpidCaps::INVVPID_SINGLE_CONTEXT);
        let kind = if single { InvVpidType::SingleContext } else { InvVpidType::AllContexts };
        self.invvpid(kind, vpid.number)
    }

    /// Flushes what is cached of the EPT, under all VPIDs.
    pub(crate) fn flush_ept(&self, capabilities: &Capabilities, eptp: u64) -> AxResult {
        let single = capabilities.ept_vpid.contains(EptVpidCaps::INVEPT_SINGLE_CONTEXT);
        let kind = if single { InvEptType::SingleContext } else { InvEptType::AllContexts };
        count(&self.invepts);
        // SAFETY: VMX is on here, and the capabilities have one of the two types or VMX would not have been enabled.
        done("INVEPT", unsafe { invept(kind, eptp) })
    }

    pub(crate) fn flush_counts(&self) -> TlbFlushCounts {
        TlbFlushCounts { invept: self.invepts.load(Relaxed), invvpid: self.invvpids.load(Relaxed) }
    }

    fn invvpid(&self, kind: InvVpidType, vpid: u16) -> AxResult {
        count(&self.invvpids);
        // SAFETY: VMX is on here; `has_vpid` says that the processor has one of the two types, and the callers take the
        // other one only where it is reported.
        done("INVVPID", unsafe { invvpid(kind, vpid) })
    }
}

/// Only its own processor counts, so nothing comes between the load and the store.
fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

fn done(instruction: &str, result: VmResult) -> AxResult {
    match result {
        Ok(()) => Ok(()),
        Err(failure) => {
            log::warn!("{instruction}: {failure}");
            ax_err!(BadState)
        }
    }
}
