//! The vCPU as text, for logs of a guest that went wrong.

use core::fmt;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;
use x86_64::instructions::interrupts::without_interrupts;

use super::fields::guest_field_at;
use super::{Vmx, VmxVcpu};
use crate::regs::GeneralRegisters;
use crate::vcpu::Vcpu;
use crate::vcpu::backend::Anywhere;
use crate::vcpu::parts::requests::Request;
use crate::vmx::vmcs::{
    FieldInfo, FieldValue, GuestStateField, VmcsField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW,
};

impl<H: AxVCpuHal> fmt::Debug for Vcpu<Vmx<H>> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("VmxVcpu");
        out.field("vm_id", &self.vm_id()).field("id", &self.id()).field("mode", &self.get_cpu_mode());
        for index in (0..16).filter(|index| *index != GeneralRegisters::RSP_INDEX) {
            let value = self.regs().get_reg_of_index(index);
            out.field(GeneralRegisters::register_name(index), &format_args!("{value:#x}"));
        }
        let mut field = |name: &str, value: Option<u64>| match value {
            Some(value) => {
                out.field(name, &format_args!("{value:#x}"));
            }
            None => {
                out.field(name, &"unknown");
            }
        };
        field("rsp", self.bits(VmcsGuestNW::RSP));
        field("rip", self.bits(VmcsGuestNW::RIP));
        field("rflags", self.bits(VmcsGuestNW::RFLAGS));
        field("cs", self.bits(VmcsGuest16::CS_SELECTOR));
        field("cs_base", self.bits(VmcsGuestNW::CS_BASE));
        field("ss", self.bits(VmcsGuest16::SS_SELECTOR));
        field("ds", self.bits(VmcsGuest16::DS_SELECTOR));
        field("fs_base", self.bits(VmcsGuestNW::FS_BASE));
        field("gs_base", self.bits(VmcsGuestNW::GS_BASE));
        field("tr", self.bits(VmcsGuest16::TR_SELECTOR));
        field("gdtr_base", self.bits(VmcsGuestNW::GDTR_BASE));
        field("idtr_base", self.bits(VmcsGuestNW::IDTR_BASE));
        field("idtr_limit", self.bits(VmcsGuest32::IDTR_LIMIT));
        field("cr0", self.backend.guest_cr0(Anywhere).ok());
        field("cr2", Some(self.backend.context.guest_cr2));
        field("cr3", self.bits(VmcsGuestNW::CR3));
        field("cr4", self.backend.guest_cr4(Anywhere).ok());
        field("efer", self.bits(VmcsGuest64::IA32_EFER));
        field("interruptibility", self.bits(VmcsGuest32::INTERRUPTIBILITY_STATE));
        out.finish()
    }
}

/// # Inspecting
///
/// VMCS fields by name.
impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Reads a field of the VMCS. The vCPU is bound here, or not bound at all.
    ///
    /// The value of a 16-bit field is a `u16`, of a 32-bit field a `u32`, of a 64-bit field a `u64`, and of a natural-width field a
    /// `usize`.
    ///
    /// # Errors
    /// `Unsupported` for a field that the processor does not have. `BadState` for a field that has to be read from the processor,
    /// where VMX is not enabled, or the vCPU is bound to another processor.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use x86_vcpu::vmx::{VmcsGuest64, VmcsGuestNW};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// CR3, the base of the TSS, and EFER.
    /// fn look(vcpu: &VmxVcpu<PhysFrameHal>) -> AxResult<(usize, usize, u64)> {
    ///     Ok((
    ///         vcpu.read_vmcs(VmcsGuestNW::CR3)?,
    ///         vcpu.read_vmcs(VmcsGuestNW::TR_BASE)?,
    ///         vcpu.read_vmcs(VmcsGuest64::IA32_EFER)?,
    ///     ))
    /// }
    /// ```
    #[doc(alias("vmread", "snapshot"))]
    pub fn read_vmcs<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        self.backend.vmcs.read(Anywhere, field)
    }

    /// Writes a field of the guest-state area, as it is in the VMCS (SDM Vol. 3C, 25.4 "Guest-State Area").
    ///
    /// CR0 and CR4 are the real ones, without what the guest sees in the bits that the host owns. A value that the processor does
    /// not accept makes the next entry fail, after which another one may be written. Some fields change more:
    ///
    /// - EFER.LMA also sets the entry control for IA-32e mode.
    /// - Breakpoints in DR7 are loaded at entries.
    /// - Of IA32_DEBUGCTL only BTF is written.
    /// - RIP cancels the completion of the instruction of the last exit, and ends a shutdown.
    #[doc(alias("vmwrite", "restore"))]
    pub fn write_guest_field<F: GuestStateField>(&mut self, field: F, value: F::Value) {
        if let Some(part) = guest_field_at(field.index()) {
            return self.write_for_caller(part, value.into_bits());
        }
        if field.encoding() == VmcsGuestNW::CR0.encoding() || field.encoding() == VmcsGuestNW::CR4.encoding() {
            self.requests().set(Request::FLUSH_LINEAR);
        }
        self.backend.vmcs.write(field, value);
    }

    /// Calls `line` with every VMCS field that the processor has, and its value. It shows what the processor checks at the
    /// next entry. The value is `None` for a field that the processor should have by its capabilities, and refuses to read.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound here.
    #[doc(alias("snapshot", "vmcs", "debug"))]
    pub fn dump_vmcs(&self, line: impl FnMut(&'static FieldInfo, Option<u64>)) -> AxResult {
        without_interrupts(|| {
            let current = self.backend.vmcs.current()?;
            self.backend.vmcs.dump(current, line);
            Ok(())
        })
    }

    fn bits<F: VmcsField>(&self, field: F) -> Option<u64> {
        self.backend.vmcs.read(Anywhere, field).ok().map(FieldValue::into_bits)
    }
}
