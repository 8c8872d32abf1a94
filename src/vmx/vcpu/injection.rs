//! The fields by which an event gets into the guest, and those that ask for a window.

use axerrno::AxResult;
use axvcpu::AxVCpuHal;

use super::Vmx;
use crate::rules::control_registers::CR0_PE;
use crate::rules::interruption::{ErrorCode, VmxInterruptInfo, VmxInterruptionType};
use crate::vcpu::parts::event_slots::Event;
use crate::vmx::capability::PrimaryControls;
use crate::vmx::vmcs::{Current, VmcsControl32, VmcsGuestNW};

impl<H: AxVCpuHal> Vmx<H> {
    pub(super) fn inject_event(&self, current: Current, event: &Event) -> AxResult {
        let mut info = event.info;
        if info.int_type == VmxInterruptionType::HardException || info.err_code.is_some() {
            let protected = self.vmcs.read(current, VmcsGuestNW::CR0)? as u64 & CR0_PE != 0;
            let rule = ErrorCode::rule(info.int_type, info.vector, protected, self.controls.any_error_code);
            let wanted = VmxInterruptionType::vector_has_error_code(info.vector) && rule != ErrorCode::Forbidden;
            // The field takes 15 bits (SDM Vol. 3C, section 27.2.1.3, "VM-Entry Control Fields").
            info.err_code = wanted.then(|| info.err_code.unwrap_or(0) & 0x7FFF);
        }
        if let Some(code) = info.err_code {
            self.vmcs.write(VmcsControl32::VMENTRY_EXCEPTION_ERR_CODE, code);
        }
        if info.int_type.is_soft() {
            self.vmcs.write(VmcsControl32::VMENTRY_INSTRUCTION_LEN, event.instruction_length);
        }
        self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, info.bits());
        Ok(())
    }

    #[inline(always)]
    pub(super) fn inject_external_now(&self, current: Current, vector: u8) -> bool {
        let event = VmxInterruptInfo::external(vector).bits();
        self.vmcs.write_now(current, VmcsControl32::VMENTRY_INTERRUPTION_INFO, event)
    }

    /// Has the next entry inject nothing.
    pub(super) fn clear_injection(&self) {
        self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, 0);
    }

    pub(super) fn set_window(&self, window: PrimaryControls, open: bool) {
        let bits = if open { window.bits() } else { 0 };
        self.vmcs.change_control(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS, window.bits(), bits);
    }

    /// Whether an exit was asked for, when the guest can take an interrupt or NMI.
    pub(super) fn window_is_open(&self) -> bool {
        let primary = self.vmcs.cached(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS).unwrap_or_default();
        let windows = PrimaryControls::INTERRUPT_WINDOW_EXITING | PrimaryControls::NMI_WINDOW_EXITING;
        primary & windows.bits() != 0
    }
}
