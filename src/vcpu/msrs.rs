//! RDMSR and WRMSR exits: the crate emulates the MSR, or the caller does. [`super::msr_policy`] sets which.

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuExitReason;

use super::Vcpu;
use super::backend::{Backend, GuestField};
use super::parts::completion::Outcome;
use crate::msr::Msr;
use crate::rules::control_registers::GeneralProtection;
use crate::rules::debug::{DEBUGCTL_BTF, DEBUGCTL_LBR};

/// MSRs that the guest reads and writes without an exit: the processor switches them with the guest's state.
const PASSED_THROUGH: [Msr; 5] =
    [Msr::IA32_FS_BASE, Msr::IA32_GS_BASE, Msr::IA32_SYSENTER_CS, Msr::IA32_SYSENTER_ESP, Msr::IA32_SYSENTER_EIP];

/// MSRs that the processor switches with the guest's state, and whose writes are checked.
const CHECKED: [(Msr, GuestField); 3] =
    [(Msr::IA32_EFER, GuestField::EFER), (Msr::IA32_PAT, GuestField::PAT), (Msr::IA32_DEBUGCTL, GuestField::DEBUGCTL)];

/// The MSRs that exit though nobody has asked for it: all but those that are passed through.
pub(crate) fn intercept_defaults(backend: &mut impl Backend) -> AxResult {
    for msr in PASSED_THROUGH {
        backend.set_msr_intercept(msr.number(), Some(false), Some(false))?;
    }
    backend.set_msr_intercept(Msr::IA32_TIME_STAMP_COUNTER.number(), Some(false), None)
}

/// The MSRs that the crate switches or checks itself, whatever the policy.
pub(crate) fn virtualized_msrs<B: Backend>() -> impl Iterator<Item = u32> {
    let fields = PASSED_THROUGH.into_iter().chain(CHECKED.into_iter().map(|(msr, _)| msr));
    fields.chain([Msr::IA32_PRED_CMD]).map(Msr::number).chain(B::switched_msrs())
}

/// # MSR exits, one by one
///
/// The bits of the MSR bitmap. [`set_msr_policy`](Self::set_msr_policy) is for ranges, and says what else an access becomes.
impl<B: Backend> Vcpu<B> {
    /// Makes RDMSR and WRMSR of one MSR exit, or not. MSRs outside 0 to 1FFFH and C0000000H to C0001FFFH always exit.
    ///
    /// A call that cannot be carried out changes nothing and is logged; see
    /// [`try_set_msr_intercept`](Self::try_set_msr_intercept).
    pub fn set_msr_intercept_of_range(&mut self, msr: u32, intercept: bool) {
        if self.try_set_msr_intercept(msr, intercept).is_err() {
            log::warn!("MSR {msr:#x} cannot be passed through: it always exits");
        }
    }

    /// Makes RDMSR and WRMSR of one MSR exit, or not.
    ///
    /// The MSRs that the crate passes through by default (the first line of the table of [`MsrPolicy`](crate::MsrPolicy),
    /// SPEC_CTRL and PRED_CMD) exit from the call with `true` to one with `false`. An MSR that the table calls virtualized is
    /// answered by the crate all the same.
    ///
    /// # Errors
    /// `InvalidInput` for an MSR that always exits and is to be passed through, and for one that is virtualized and that the
    /// crate checks or switches.
    #[doc(alias = "bitmap")]
    pub fn try_set_msr_intercept(&mut self, msr: u32, intercept: bool) -> AxResult {
        let speculation = [Msr::IA32_SPEC_CTRL, Msr::IA32_PRED_CMD].iter().any(|own| own.number() == msr);
        let of_itself = speculation || PASSED_THROUGH.iter().any(|own| own.number() == msr);
        let free = !speculation && of_itself || self.msrs.caller_intercepts(msr);
        if !intercept && !free && self.is_virtualized_msr(msr) {
            return ax_err!(InvalidInput, "the MSR is virtualized and must exit");
        }
        if of_itself {
            self.msrs.set_caller_intercept(msr, intercept);
        }
        if speculation {
            return self.pass_speculation_control();
        }
        self.backend.set_msr_intercept(msr, Some(intercept), Some(intercept))
    }

    /// The MSR of the RDMSR or WRMSR that the guest is at. ECX is 32 bits wide in every mode.
    #[inline(always)]
    pub(crate) fn msr_number(&self) -> u32 {
        self.backend.regs().rcx as u32
    }

    /// Whether it may be one that the crate answers. `false` for most that come to the caller.
    #[inline(always)]
    pub(crate) fn may_be_virtualized_msr(&self) -> bool {
        self.msrs.emulated().may_be_virtualized(self.msr_number())
    }

    /// A RDMSR of what may be an MSR that the crate answers.
    #[inline(never)]
    pub(crate) fn handle_msr_read<const REPORT: bool>(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let msr = self.msr_number();
        if self.is_own_pred_cmd(msr) {
            return self.handled(current, Outcome::PROTECTION);
        }
        let Some(value) = self.emulated_msr(current, msr) else {
            return self.report::<REPORT>(Self::report_msr_read);
        };
        self.backend.regs_mut().set_edx_eax(value);
        self.handled(current, Outcome::Done)
    }

    /// A WRMSR of what may be an MSR that the crate answers.
    #[inline(never)]
    pub(crate) fn handle_msr_write<const REPORT: bool>(&mut self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let (msr, value) = (self.msr_number(), self.backend.regs().get_edx_eax());
        if self.is_own_pred_cmd(msr) {
            let outcome = self.write_pred_cmd(value);
            return self.handled(current, outcome);
        }
        match self.set_emulated_msr(current, msr, value)? {
            Some(outcome) => self.handled(current, outcome),
            None => self.report::<REPORT>(Self::report_msr_write),
        }
    }

    /// Whether the crate switches or checks this MSR itself, whatever the policy.
    pub(crate) fn is_virtualized_msr(&self, msr: u32) -> bool {
        virtualized_msrs::<B>().any(|own| own == msr)
    }

    /// Makes the MSRs of [`PASSED_THROUGH`] exit where they belong to a feature that the guest does not have, or where the caller
    /// made them exit. The others are passed through.
    pub(crate) fn pass_through_msrs_but(&mut self, absent: &[u32]) -> AxResult {
        for msr in PASSED_THROUGH.map(Msr::number) {
            let exits = absent.contains(&msr) || self.msrs.caller_intercepts(msr);
            self.backend.set_msr_intercept(msr, Some(exits), Some(exits))?;
        }
        Ok(())
    }

    /// Whether the MSR belongs to a feature that the guest does not have, so that it exits to the caller.
    pub(crate) fn is_absent(&self, msr: u32) -> bool {
        let absent = self.cpuid.table().absent_msrs();
        // Mostly there are none, and a search of nothing costs a dozen instructions.
        !absent.is_empty() && absent.contains(&msr)
    }

    #[inline(always)]
    fn emulated_msr(&self, current: B::Current, msr: u32) -> Option<u64> {
        if self.is_absent(msr) {
            return None;
        }
        match checked_field(msr) {
            Some(field) => Some(self.backend.read_now(current, field)),
            None => self.backend.switched_msr(msr).or_else(|| self.msrs.emulated().read(msr)),
        }
    }

    fn set_emulated_msr(&mut self, current: B::Current, msr: u32, value: u64) -> AxResult<Option<Outcome>> {
        if self.is_absent(msr) {
            return Ok(None);
        }
        let Some(field) = checked_field(msr) else {
            return self.write_emulated_msr(msr, value);
        };
        let result = match field {
            GuestField::EFER => self.write_efer(value)?,
            GuestField::PAT => self.write_if(current, field, value, is_pat(value)),
            // BTF works. LBR would record into the host's registers, so a write of it is accepted and changes nothing. The rest
            // is about tracing to memory of the host.
            _ => {
                let accepted = value & !(DEBUGCTL_LBR | DEBUGCTL_BTF) == 0;
                self.write_if(current, field, value & !DEBUGCTL_LBR, accepted)
            }
        };
        Ok(Some(result.into()))
    }

    /// A write of an MSR that is no field of the guest's state.
    fn write_emulated_msr(&mut self, msr: u32, value: u64) -> AxResult<Option<Outcome>> {
        let switched = self.backend.write_switched_msr(msr, value);
        let Some(accepted) = switched.or_else(|| self.msrs.emulated_mut().write(msr, value)) else {
            return Ok(None);
        };
        if msr == Msr::IA32_SPEC_CTRL.number() {
            self.pass_speculation_control()?;
        }
        Ok(Some(if accepted { Outcome::Done } else { Outcome::PROTECTION }))
    }

    fn write_efer(&mut self, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        let before = self.control_state()?;
        match before.with_efer(value, self.cpuid.table().allowed_efer()) {
            Ok(after) => {
                self.backend.write_efer(after.efer);
                self.control_state_changed(&before, &after);
                Ok(Ok(()))
            }
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn write_if(
        &self,
        current: B::Current,
        field: GuestField,
        value: u64,
        accepted: bool,
    ) -> Result<(), GeneralProtection> {
        if !accepted {
            return Err(GeneralProtection);
        }
        // At once, so that the next entry may take the fast path. What the processor refuses is left to that entry.
        if !self.backend.write_now(current, field, value) {
            self.backend.write(field, value);
        }
        Ok(())
    }
}

/// The field that has the value of an MSR, if one has.
fn checked_field(msr: u32) -> Option<GuestField> {
    CHECKED.iter().find(|(own, _)| own.number() == msr).map(|&(_, field)| field)
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
