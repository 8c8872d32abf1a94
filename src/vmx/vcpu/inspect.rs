//! The vCPU as text, for logs of a guest that went wrong.

use core::fmt;

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use crate::regs::GeneralRegisters;
use crate::vcpu::completion::DEBUGCTL_BTF;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::{
    FieldInfo, FieldValue, GuestStateField, VmcsField, VmcsGuest16, VmcsGuest32, VmcsGuest64, VmcsGuestNW,
};

/// Fields on which it depends where a linear address leads.
const PAGING_FIELDS: [u32; 8] = [
    VmcsGuestNW::CR0.encoding(),
    VmcsGuestNW::CR3.encoding(),
    VmcsGuestNW::CR4.encoding(),
    VmcsGuest64::IA32_EFER.encoding(),
    VmcsGuest64::PDPTE0.encoding(),
    VmcsGuest64::PDPTE1.encoding(),
    VmcsGuest64::PDPTE2.encoding(),
    VmcsGuest64::PDPTE3.encoding(),
];

impl<H: AxVCpuHal> fmt::Debug for VmxVcpu<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("VmxVcpu");
        out.field("vm_id", &self.vm_id).field("id", &self.id).field("mode", &self.get_cpu_mode());
        for index in (0..16).filter(|index| *index != GeneralRegisters::RSP_INDEX) {
            let value = self.context.guest.get_reg_of_index(index);
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
        field("cr0", self.guest_cr0().ok());
        field("cr2", Some(self.context.guest_cr2));
        field("cr3", self.bits(VmcsGuestNW::CR3));
        field("cr4", self.guest_cr4().ok());
        field("efer", self.bits(VmcsGuest64::IA32_EFER));
        field("interruptibility", self.bits(VmcsGuest32::INTERRUPTIBILITY_STATE));
        out.finish()
    }
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Reads a field of the VMCS, bound or not.
    ///
    /// # Errors
    /// `Unsupported` for a field that the processor does not have; `BadState` where VMX is not enabled, for a field that
    /// has to be read from the processor.
    pub fn read_vmcs<F: VmcsField>(&self, field: F) -> AxResult<F::Value> {
        self.vmcs.read(field)
    }

    /// Writes a field of the guest-state area, as it is in the VMCS: CR0 and CR4 are the real ones there, without what
    /// the guest sees in the bits that the host owns. A value that the processor does not accept makes the next entry
    /// fail, after which another one may be written. What hangs on a field is done with it: EFER.LMA also sets the entry
    /// control for IA-32e mode, breakpoints in DR7 are loaded at entries, of IA32_DEBUGCTL only BTF is taken, and with RIP an instruction that waited to
    /// be completed is not completed any more.
    pub fn write_guest_field<F: GuestStateField>(&mut self, field: F, value: F::Value) {
        if field.encoding() == VmcsGuest32::ACTIVITY_STATE.encoding() {
            self.may_be_inactive = true;
        }
        if PAGING_FIELDS.contains(&field.encoding()) {
            self.linear_mappings_changed();
        }
        let (encoding, bits) = (field.encoding(), value.into_bits());
        if encoding == VmcsGuest64::IA32_EFER.encoding() {
            return self.write_guest_efer(bits);
        }
        if encoding == VmcsGuest64::IA32_DEBUGCTL.encoding() {
            return self.vmcs.write(VmcsGuest64::IA32_DEBUGCTL, bits & DEBUGCTL_BTF);
        }
        if encoding == VmcsGuestNW::RIP.encoding() {
            // As `set_rip`: the guest goes on there, and not behind the instruction there.
            self.completion = None;
        }
        if encoding == VmcsGuestNW::DR7.encoding() {
            self.debug.dr7_written(bits);
        }
        if encoding == VmcsGuest32::INTERRUPTIBILITY_STATE.encoding() {
            // A shadow that is written now is not the one that the last instruction ended.
            self.shadow_end.forget();
        }
        self.vmcs.write(field, value);
    }

    /// Calls `line` with every VMCS field that the processor has and its value, for a look at what it will check at the
    /// next entry. No value is given for a field that by its capabilities it should have, and refuses to read.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound here.
    pub fn dump_vmcs(&self, line: impl FnMut(&'static FieldInfo, Option<u64>)) -> AxResult {
        x86_64::instructions::interrupts::without_interrupts(|| {
            let here = self.vmcs.current()?;
            self.vmcs.dump(here, line);
            Ok(())
        })
    }

    fn bits<F: VmcsField>(&self, field: F) -> Option<u64> {
        self.vmcs.read(field).ok().map(FieldValue::into_bits)
    }
}
