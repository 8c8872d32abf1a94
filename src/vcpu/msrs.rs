//! RDMSR and WRMSR exits: answered from what the vCPU keeps, or left to the caller. [`super::msr_policy`] has the table.

use alloc::vec::Vec;

use axerrno::{AxResult, ax_err};
use axvcpu::{AxVCpuExitReason, AxVCpuHal};

use crate::msr::Msr;
use crate::rules::control_registers::GeneralProtection;
use crate::vcpu::completion::{GP, Outcome};
use crate::vcpu::exits::Handled;
use crate::vmx::structs::MsrBitmap;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vcpu::msr_areas::GuestMsrs;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::VmcsGuest64;

/// MSRs that the guest reads and writes without an exit: their values are VMCS guest state.
const PASSED_THROUGH: [Msr; 5] =
    [Msr::IA32_FS_BASE, Msr::IA32_GS_BASE, Msr::IA32_SYSENTER_CS, Msr::IA32_SYSENTER_ESP, Msr::IA32_SYSENTER_EIP];

/// MSRs whose value is VMCS guest state, and whose writes are checked.
const VMCS_KEPT: [(Msr, VmcsGuest64); 3] = [
    (Msr::IA32_EFER, VmcsGuest64::IA32_EFER),
    (Msr::IA32_PAT, VmcsGuest64::IA32_PAT),
    (Msr::IA32_DEBUGCTL, VmcsGuest64::IA32_DEBUGCTL),
];

const DEBUGCTL_LBR: u64 = 1;

/// Of the MSRs that the crate passes through of itself, those that the caller made exit.
#[derive(Debug, Default)]
pub(crate) struct CallersExits(Vec<u32>);

impl CallersExits {
    pub(crate) fn contains(&self, msr: u32) -> bool {
        self.0.contains(&msr)
    }

    fn set(&mut self, msr: u32, exits: bool) {
        self.0.retain(|other| *other != msr);
        if exits {
            self.0.push(msr);
        }
    }
}

/// The bitmap of a vCPU that nobody has changed.
pub(crate) fn default_bitmap<H: AxVCpuHal>() -> AxResult<MsrBitmap<H>> {
    let mut bitmap = MsrBitmap::intercept_all()?;
    for msr in PASSED_THROUGH {
        bitmap.set_read_intercept(msr.number(), false)?;
        bitmap.set_write_intercept(msr.number(), false)?;
    }
    bitmap.set_read_intercept(Msr::IA32_TIME_STAMP_COUNTER.number(), false)?;
    Ok(bitmap)
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Makes RDMSR and WRMSR of one MSR exit, or not. MSRs outside 0 to 1FFFH and C0000000H to C0001FFFH always exit.
    ///
    /// A call that cannot be carried out changes nothing and is logged; see
    /// [`try_set_msr_intercept`](Self::try_set_msr_intercept).
    pub fn set_msr_intercept_of_range(&mut self, msr: u32, intercept: bool) {
        if self.try_set_msr_intercept(msr, intercept).is_err() {
            log::warn!("MSR {msr:#x} cannot be passed through: it always exits");
        }
    }

    /// The same, with an error for an MSR that always exits and is to be passed through, and for one that is the guest's
    /// own and is checked or switched by the crate (see [`MsrPolicy`](crate::MsrPolicy)).
    ///
    /// Those that the crate passes through of itself (the first line of the table there, SPEC_CTRL and PRED_CMD) exit
    /// once the caller has said so, until the caller says otherwise. What the table calls the guest's own is answered by the
    /// crate all the same.
    pub fn try_set_msr_intercept(&mut self, msr: u32, intercept: bool) -> AxResult {
        let speculation = [Msr::IA32_SPEC_CTRL, Msr::IA32_PRED_CMD].iter().any(|own| own.number() == msr);
        let of_itself = speculation || PASSED_THROUGH.iter().any(|own| own.number() == msr);
        let free = !speculation && of_itself || self.callers_msr_exits.contains(msr);
        if !intercept && !free && self.is_guests_own(msr) {
            return ax_err!(InvalidInput, "the MSR is the guest's own and must exit");
        }
        if of_itself {
            self.callers_msr_exits.set(msr, intercept);
        }
        if speculation {
            return self.pass_speculation_control();
        }
        self.msr_bitmap.set_read_intercept(msr, intercept)?;
        self.msr_bitmap.set_write_intercept(msr, intercept)
    }

    /// A RDMSR of what may be one of the guest's own.
    #[inline(never)]
    pub(crate) fn take_msr_read(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        Ok(match self.handle_msr_read(here)? {
            Handled::Yes => AxVCpuExitReason::Nothing,
            Handled::No => self.describe_msr_read(),
        })
    }

    /// The same for WRMSR.
    #[inline(never)]
    pub(crate) fn take_msr_write(&mut self, here: Here) -> AxResult<AxVCpuExitReason> {
        Ok(match self.handle_msr_write(here)? {
            Handled::Yes => AxVCpuExitReason::Nothing,
            Handled::No => self.describe_msr_write(),
        })
    }

    #[inline(always)]
    pub(crate) fn handle_msr_read(&mut self, here: Here) -> AxResult<Handled> {
        let msr = self.context.guest.rcx as u32;
        if self.is_own_pred_cmd(msr) {
            return self.complete(here, Outcome::Fault(GP, Some(0)));
        }
        let Some(value) = self.kept_msr(here, msr)? else {
            return Ok(Handled::No);
        };
        self.context.guest.set_edx_eax(value);
        self.complete(here, Outcome::Done)
    }

    #[inline(always)]
    pub(crate) fn handle_msr_write(&mut self, here: Here) -> AxResult<Handled> {
        let (msr, value) = (self.context.guest.rcx as u32, self.context.guest.get_edx_eax());
        if self.is_own_pred_cmd(msr) {
            let outcome = self.write_pred_cmd(value);
            return self.complete(here, outcome);
        }
        match self.set_kept_msr(here, msr, value)? {
            Some(outcome) => self.complete(here, outcome),
            None => Ok(Handled::No),
        }
    }

    /// Whether the crate switches or checks this MSR itself, whatever the policy.
    pub(crate) fn is_guests_own(&self, msr: u32) -> bool {
        Self::guests_own().any(|own| own == msr)
    }

    pub(crate) fn guests_own() -> impl Iterator<Item = u32> {
        let in_vmcs = PASSED_THROUGH.into_iter().chain(VMCS_KEPT.into_iter().map(|(msr, _)| msr));
        in_vmcs.chain([Msr::IA32_PRED_CMD]).map(Msr::number).chain(GuestMsrs::<H>::all())
    }

    /// Lets the MSRs that are passed through exit where they belong to a feature that the guest does not have, or the
    /// caller made them exit, and only there.
    pub(crate) fn pass_through_msrs_but(&mut self, absent: &[u32]) -> AxResult {
        for msr in PASSED_THROUGH.map(Msr::number) {
            let exits = absent.contains(&msr) || self.callers_msr_exits.contains(msr);
            self.msr_bitmap.set_read_intercept(msr, exits)?;
            self.msr_bitmap.set_write_intercept(msr, exits)?;
        }
        Ok(())
    }

    /// The MSR belongs to a feature that the guest does not have, so it is the caller's, as any other.
    pub(crate) fn is_absent(&self, msr: u32) -> bool {
        let absent = self.cpuid.absent_msrs();
        // Mostly there are none, and a search of nothing costs a dozen instructions.
        !absent.is_empty() && absent.contains(&msr)
    }

    #[inline(always)]
    fn kept_msr(&self, here: Here, msr: u32) -> AxResult<Option<u64>> {
        if self.is_absent(msr) {
            return Ok(None);
        }
        match vmcs_field(msr) {
            Some(field) => Ok(Some(self.vmcs.peek(here, field))),
            None => Ok(self.msrs.read(msr).or_else(|| self.kept.read(msr))),
        }
    }

    fn set_kept_msr(&mut self, here: Here, msr: u32, value: u64) -> AxResult<Option<Outcome>> {
        if self.is_absent(msr) {
            return Ok(None);
        }
        let Some(field) = vmcs_field(msr) else {
            return self.write_kept_msr(msr, value);
        };
        let result = match field {
            VmcsGuest64::IA32_EFER => self.write_efer(value)?,
            VmcsGuest64::IA32_PAT => self.put_if(here, field, value, is_pat(value)),
            // BTF works. LBR would record into the host's registers, so it is accepted and stays clear; the rest is about
            // tracing to memory of the host's.
            _ => self.put_if(here, field, value & !DEBUGCTL_LBR, value & !0b11 == 0),
        };
        Ok(Some(result.into()))
    }

    /// A write of an MSR that no field of the VMCS has.
    fn write_kept_msr(&mut self, msr: u32, value: u64) -> AxResult<Option<Outcome>> {
        let Some(accepted) = self.msrs.write(&self.vmcs, msr, value).or_else(|| self.kept.write(msr, value)) else {
            return Ok(None);
        };
        if msr == Msr::IA32_SPEC_CTRL.number() {
            // From now on a bind has to look at the host's.
            self.stays.end();
            self.pass_speculation_control()?;
        }
        Ok(Some(if accepted { Outcome::Done } else { Outcome::Fault(GP, Some(0)) }))
    }

    fn write_efer(&mut self, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let before = self.control_state()?;
        match before.with_efer(value, self.cpuid.allowed_efer()) {
            Ok(after) => {
                self.write_guest_efer(after.efer);
                self.control_state_changed(&before, &after);
                Ok(Ok(()))
            }
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn put_if(&self, here: Here, field: VmcsGuest64, value: u64, accepted: bool) -> Result<(), GeneralProtection> {
        if !accepted {
            return Err(GeneralProtection);
        }
        self.vmcs.put(here, field, value);
        Ok(())
    }
}

/// The field that has the value of an MSR, if one has.
fn vmcs_field(msr: u32) -> Option<VmcsGuest64> {
    VMCS_KEPT.iter().find(|(own, _)| own.number() == msr).map(|&(_, field)| field)
}

/// Whether each of the eight entries of IA32_PAT is a memory type: UC (0), WC (1), WT (4), WP (5), WB (6) or UC- (7). Those are
/// the numbers of three bits of which bit 1 is set only where bit 2 is.
fn is_pat(value: u64) -> bool {
    const BIT_0_OF_EACH: u64 = 0x0101_0101_0101_0101;
    let (bit_1, bit_2) = (value >> 1 & BIT_0_OF_EACH, value >> 2 & BIT_0_OF_EACH);
    value & !(BIT_0_OF_EACH * 0b111) == 0 && bit_1 & !bit_2 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// SDM Vol. 3A, table 12-10, "Memory Types That Can Be Encoded With PAT": 2, 3 and all above 7 are reserved.
        #[test]
        fn a_pat_has_memory_types_only(types in prop::array::uniform8(prop_oneof![8 => 0u8..8, 1 => any::<u8>()])) {
            let reserved = types.iter().any(|entry| matches!(entry, 2 | 3 | 8..));
            prop_assert_eq!(is_pat(u64::from_le_bytes(types)), !reserved);
        }
    }
}
