//! CR0, CR4 and EFER in the VMCS: which bits are the guest's, and which the host's.
//!
//! With unrestricted guest the guest owns most of CR0 and CR4 and changes them without an exit. The host owns, by the
//! guest/host masks, the bits that need work beyond the register: CR0.PG, on which LMA and the IA-32e-mode control
//! depend; CR0.NE, CD and NW, which the guest may set and clear as it likes but whose real values are 1, 0 and 0; CR4
//! bits that this guest does not have, for #GP; and CR4.VMXE and MCE, whose real values are the host's. The guest reads
//! what it wrote from the read shadows.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;
use x86_64::registers::control::Cr4Flags;

use super::Vmx;
use crate::rules::control_registers::{
    CR0_AM, CR0_EM, CR0_ET, CR0_MP, CR0_NE, CR0_PE, CR0_PG, CR0_TS, CR0_WP, CR4_MCE, CR4_PAE, CR4_PGE, CR4_PSE,
    CR4_SMEP, EFER_LMA,
};
use crate::vcpu::backend::{Anywhere, Proof};
use crate::vmx::capability::EntryControls;
use crate::vmx::vmcs::{Current, VmcsControl32, VmcsControlNW, VmcsGuest64, VmcsGuestNW};

/// The bits of CR0 that the guest changes without an exit.
const CR0_GUEST_OWNED: u64 = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_WP | CR0_AM;

impl<H: AxVCpuHal> Vmx<H> {
    /// CR0 as the guest sees it.
    pub(super) fn guest_cr0(&self, proof: impl Proof<Current>) -> AxResult<u64> {
        let real = self.vmcs.read(proof, VmcsGuestNW::CR0)? as u64;
        let shadow = self.vmcs.read(proof, VmcsControlNW::CR0_READ_SHADOW)? as u64;
        Ok(real & CR0_GUEST_OWNED | shadow & !CR0_GUEST_OWNED)
    }

    /// Writes CR0 as the guest is to see it.
    pub(super) fn write_guest_cr0(&self, seen: u64) {
        let real = seen & (CR0_GUEST_OWNED | CR0_PG) | CR0_ET | CR0_NE;
        self.vmcs.write(VmcsControlNW::CR0_GUEST_HOST_MASK, !CR0_GUEST_OWNED as usize);
        self.vmcs.write(VmcsGuestNW::CR0, real as usize);
        self.vmcs.write(VmcsControlNW::CR0_READ_SHADOW, seen as usize);
    }

    /// CR4 as the guest sees it.
    pub(super) fn guest_cr4(&self, proof: impl Proof<Current>) -> AxResult<u64> {
        let real = self.vmcs.read(proof, VmcsGuestNW::CR4)? as u64;
        let shadow = self.vmcs.read(proof, VmcsControlNW::CR4_READ_SHADOW)? as u64;
        let mask = self.vmcs.read(proof, VmcsControlNW::CR4_GUEST_HOST_MASK)? as u64;
        Ok(real & !mask | shadow & mask)
    }

    /// Writes CR4 as the guest is to see it. `allowed` are the bits that it may set.
    pub(super) fn write_guest_cr4(&mut self, seen: u64, allowed: u64) {
        self.controls.allowed_cr4 = allowed;
        let host = Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits() | self.controls.host_mce;
        let checked = if self.controls.reduced_maxphyaddr { CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP } else { 0 };
        self.vmcs.write(VmcsControlNW::CR4_GUEST_HOST_MASK, !(allowed & !CR4_MCE & !checked) as usize);
        self.vmcs.write(VmcsGuestNW::CR4, (seen & !CR4_MCE | host) as usize);
        self.vmcs.write(VmcsControlNW::CR4_READ_SHADOW, seen as usize);
    }

    /// Loads the host's CR4.MCE, which the guest has too, so that a machine check reaches the host.
    pub(super) fn bind_cr4(&mut self, host_mce: u64) -> AxResult {
        if host_mce != self.controls.host_mce {
            let seen = self.guest_cr4(Anywhere)?;
            self.controls.host_mce = host_mce;
            self.write_guest_cr4(seen, self.controls.allowed_cr4);
        }
        Ok(())
    }

    /// Writes EFER, and what follows from it: the IA-32e-mode control, and the MSRs that are switched from now on.
    pub(super) fn write_guest_efer(&mut self, value: u64) {
        self.vmcs.write(VmcsGuest64::IA32_EFER, value);
        let ia32e = EntryControls::IA32E_MODE_GUEST.bits();
        let bits = if value & EFER_LMA != 0 { ia32e } else { 0 };
        self.vmcs.change_control(VmcsControl32::VMENTRY_CONTROLS, ia32e, bits);
        self.msrs.efer_changed(&self.vmcs, value);
    }
}
