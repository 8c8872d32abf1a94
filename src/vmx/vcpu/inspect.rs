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
    /// Reads a field of the VMCS, bound or not.
    ///
    /// # Errors
    /// `Unsupported` for a field that the processor does not have; `BadState` where VMX is not enabled, for a field that
    /// has to be read from the processor.
    #[doc(alias("vmread", "snapshot"))]
    pub fn read_vmcs<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        self.backend.vmcs.read(Anywhere, field)
    }

    /// Writes a field of the guest-state area, as it is in the VMCS: CR0 and CR4 are the real ones there, without what
    /// the guest sees in the bits that the host owns. A value that the processor does not accept makes the next entry
    /// fail, after which another one may be written. What hangs on a field is done with it: EFER.LMA also sets the entry
    /// control for IA-32e mode, breakpoints in DR7 are loaded at entries, of IA32_DEBUGCTL only BTF is taken, and with RIP an instruction that waited to
    /// be completed is not completed any more.
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

    /// Calls `line` with every VMCS field that the processor has and its value, for a look at what it will check at the
    /// next entry. No value is given for a field that by its capabilities it should have, and refuses to read.
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
