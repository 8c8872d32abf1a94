//! RDMSR and WRMSR of the guest.
//!
//! | MSR | kept where | exits |
//! |---|---|---|
//! | FS_BASE, GS_BASE, SYSENTER_CS, ESP and EIP | VMCS guest state | no |
//! | EFER, PAT, DEBUGCTL | VMCS guest state | yes, handled here with the #GP rules |
//! | STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX | [`super::msr_areas`] | yes, handled here |
//! | TIME_STAMP_COUNTER, read | the processor's, plus the TSC offset | no |
//! | every other one | the caller | yes, to the caller |
//!
//! So no MSR of the host can be read or written by default. The caller opens others one by one with
//! [`set_msr_intercept_of_range`](VmxVcpu::set_msr_intercept_of_range), and answers for what that shares.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::completion::{GP, Outcome};
use super::exits::Handled;
use super::{Here, VmxVcpu};
use crate::msr::Msr;
use crate::vmx::guest_cr::GeneralProtection;
use crate::vmx::structs::MsrBitmap;
use crate::vmx::vmcs::{VmcsGuest64, WritableVmcsField};

/// MSRs that the guest reads and writes without an exit: their values are VMCS guest state.
const PASSED_THROUGH: [Msr; 5] =
    [Msr::IA32_FS_BASE, Msr::IA32_GS_BASE, Msr::IA32_SYSENTER_CS, Msr::IA32_SYSENTER_ESP, Msr::IA32_SYSENTER_EIP];

/// The bitmap of a vCPU that nobody has changed.
pub(super) fn default_bitmap<H: AxVCpuHal>() -> AxResult<MsrBitmap<H>> {
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

    /// The same, with an error for an MSR that always exits and is to be passed through.
    pub fn try_set_msr_intercept(&mut self, msr: u32, intercept: bool) -> AxResult {
        self.msr_bitmap.set_read_intercept(msr, intercept)?;
        self.msr_bitmap.set_write_intercept(msr, intercept)
    }

    pub(super) fn handle_msr_read(&mut self, here: Here) -> AxResult<Handled> {
        let msr = self.context.guest.rcx as u32;
        let Some(value) = self.kept_msr(msr)? else {
            return Ok(Handled::No);
        };
        self.context.guest.set_edx_eax(value);
        self.complete(here, Outcome::Done)
    }

    pub(super) fn handle_msr_write(&mut self, here: Here) -> AxResult<Handled> {
        let (msr, value) = (self.context.guest.rcx as u32, self.context.guest.get_edx_eax());
        match self.set_kept_msr(msr, value)? {
            Some(outcome) => self.complete(here, outcome),
            None => Ok(Handled::No),
        }
    }

    fn kept_msr(&self, msr: u32) -> AxResult<Option<u64>> {
        if let Some(value) = self.msrs.read(msr) {
            return Ok(Some(value));
        }
        let field = match msr {
            msr if msr == Msr::IA32_EFER.number() => VmcsGuest64::IA32_EFER,
            msr if msr == Msr::IA32_PAT.number() => VmcsGuest64::IA32_PAT,
            msr if msr == Msr::IA32_DEBUGCTL.number() => VmcsGuest64::IA32_DEBUGCTL,
            _ => return Ok(None),
        };
        self.vmcs.read(field).map(Some)
    }

    fn set_kept_msr(&mut self, msr: u32, value: u64) -> AxResult<Option<Outcome>> {
        if let Some(result) = self.msrs.write(&self.vmcs, msr, value) {
            return Ok(Some(if result.is_ok() { Outcome::Done } else { Outcome::Fault(GP, Some(0)) }));
        }
        let result = match msr {
            msr if msr == Msr::IA32_EFER.number() => self.write_efer(value)?,
            msr if msr == Msr::IA32_PAT.number() => self.write_if(VmcsGuest64::IA32_PAT, value, is_pat(value)),
            // LBR and BTF; the rest is about tracing to memory of the host's.
            msr if msr == Msr::IA32_DEBUGCTL.number() => {
                self.write_if(VmcsGuest64::IA32_DEBUGCTL, value, value & !0b11 == 0)
            }
            _ => return Ok(None),
        };
        Ok(Some(result.into()))
    }

    fn write_efer(&mut self, value: u64) -> AxResult<Result<(), GeneralProtection>> {
        match self.control_state()?.with_efer(value, self.cpuid.allowed_efer()) {
            Ok(after) => {
                self.write_guest_efer(after.efer)?;
                Ok(Ok(()))
            }
            Err(fault) => Ok(Err(fault)),
        }
    }

    fn write_if<F: WritableVmcsField<Value = u64>>(
        &self,
        field: F,
        value: u64,
        accepted: bool,
    ) -> Result<(), GeneralProtection> {
        if !accepted {
            return Err(GeneralProtection);
        }
        self.vmcs.write(field, value);
        Ok(())
    }
}

/// Whether each of the eight entries of IA32_PAT is a memory type: UC, WC, WT, WP, WB or UC-.
fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7))
}
