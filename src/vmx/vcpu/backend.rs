//! VMX under the seam: one line or two for each thing that a [`Vcpu`](crate::vcpu::Vcpu) asks.

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use super::Vmx;
use super::entry::is_entry_failure;
use super::exit_data::kind_of;
use super::msr_areas::GuestMsrs;
use crate::ept::{EptFormat, EptRules, EptViolation, InvalidEptRoot};
use crate::error::bad_state;
use crate::regs::GeneralRegisters;
use crate::rules::cpuid::{CpuidPolicy, Support};
use crate::rules::interruption::VmxInterruptInfo;
use crate::vcpu::backend::{Backend, GuestField, ProcessorParts, Proof};
use crate::vcpu::parts::event_slots::Event;
use crate::vcpu::parts::exit_kind::{ControlAccess, DebugAccess, ExitKind, PortAccess, StringOperand};
use crate::vcpu::parts::fpu::XStateSwitch;
use crate::vcpu::parts::intercepts::{ExitOn, Intercepts};
use crate::vcpu::parts::requests::{Request, Requests};
use crate::vcpu::parts::time::Time;
use crate::vmx::capability::{PrimaryControls, SecondaryControls};
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::exit::{ExitFields, VmExit};
use crate::vmx::processor::Processor;
use crate::vmx::vmcs::{Current, VmcsGuest32, VmcsGuest64, VmcsGuestNW, VmcsReadOnly32, VmcsReadOnlyNW};

impl<H: AxVCpuHal> Backend for Vmx<H> {
    type Hal = H;
    type Current = Current;
    type Reason = VmxExitReason;

    const TRIPLE_FAULT: VmxExitReason = VmxExitReason::TRIPLE_FAULT;
    const NESTED_PAGE_FAULT: VmxExitReason = VmxExitReason::EPT_VIOLATION;

    #[inline(always)]
    fn current(&self) -> AxResult<Current> {
        self.make_current()
    }

    fn is_bound(&self) -> bool {
        self.vmcs.bound_cpu().is_some()
    }

    #[inline(always)]
    fn requests(&self) -> &Requests {
        &self.vmcs.requests
    }

    #[inline(always)]
    fn regs(&self) -> &GeneralRegisters {
        &self.context.guest
    }

    #[inline(always)]
    fn regs_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.context.guest
    }

    fn set_cr2(&mut self, address: u64) {
        self.context.guest_cr2 = address;
    }

    #[inline(always)]
    fn xstate_switch(&self) -> &XStateSwitch {
        &self.context.xstate
    }

    #[inline(always)]
    fn xstate_switch_mut(&mut self) -> &mut XStateSwitch {
        &mut self.context.xstate
    }

    #[inline(always)]
    fn read(&self, proof: impl Proof<Current>, field: GuestField) -> AxResult<u64> {
        self.vmcs.read(proof, field)
    }

    #[inline(always)]
    fn read_now(&self, current: Current, field: GuestField) -> u64 {
        self.vmcs.vmread(current, field)
    }

    #[inline(always)]
    fn write(&self, field: GuestField, value: u64) {
        self.vmcs.write(field, value);
    }

    #[inline(always)]
    fn write_now(&self, current: Current, field: GuestField, value: u64) -> bool {
        self.vmcs.write_now(current, field, value)
    }

    #[inline(always)]
    fn cached(&self, field: GuestField) -> Option<u64> {
        self.vmcs.cached(field)
    }

    fn cr0(&self, proof: impl Proof<Current>) -> AxResult<u64> {
        self.guest_cr0(proof)
    }

    fn write_cr0(&self, seen: u64) {
        self.write_guest_cr0(seen);
    }

    fn cr4(&self, proof: impl Proof<Current>) -> AxResult<u64> {
        self.guest_cr4(proof)
    }

    fn real_cr4(&self, current: Current) -> AxResult<u64> {
        Ok(self.vmcs.read(current, VmcsGuestNW::CR4)? as u64)
    }

    fn write_cr4(&mut self, seen: u64, allowed: u64) {
        self.write_guest_cr4(seen, allowed);
    }

    fn write_efer(&mut self, value: u64) {
        self.write_guest_efer(value);
    }

    fn reset_msrs(&mut self) {
        self.msrs.reset();
    }

    fn reset_fields(&self) {
        // mutant survives: nothing changes it, and a new VMCS of Bochs has 0 there
        self.vmcs.write(VmcsGuest32::SMBASE, 0);
        self.vmcs.write(VmcsGuest64::LINK_PTR, u64::MAX);
        self.clear_injection();
    }

    fn setup_vmcs(
        &mut self,
        (root, format): (HostPhysAddr, EptFormat),
        policy: &CpuidPolicy,
        intercepts: &Intercepts,
        time: &Time,
    ) -> AxResult {
        self.setup_vmcs_control(root, format, policy, intercepts, time)
    }

    fn instructions_that_can_exit() -> AxResult<ExitOn> {
        Ok(super::setup::instructions_that_can_exit(&Processor::current()?.capabilities))
    }

    fn cpuid_support() -> AxResult<Support> {
        Ok(super::setup::cpuid_support(&Processor::current()?.capabilities))
    }

    fn change_ept(&mut self, root: HostPhysAddr, format: EptFormat, is_set_up: bool) -> Result<(), InvalidEptRoot> {
        self.change_eptp(root, format, is_set_up)
    }

    fn ept_rules(&self, format: EptFormat) -> AxResult<EptRules> {
        let Some(cpu) = self.vmcs.bound_cpu() else {
            return bad_state("the vCPU is not bound");
        };
        Ok(EptRules::new(cpu.capabilities.ept_vpid, cpu.capabilities.phys_addr_bits, format.levels))
    }

    #[inline(always)]
    fn load_processor(&mut self, current: Current, requests: Request, parts: ProcessorParts<'_>) -> AxResult {
        let cpu = self.vmcs.current_cpu(current)?;
        self.load(cpu, requests, parts)
    }

    fn forget_processor(&mut self) {
        self.binding.forget_processor();
    }

    #[inline(always)]
    fn flush_fields(&mut self, current: Current) -> AxResult {
        self.flush(current)
    }

    #[inline(always)]
    fn resume(&mut self, current: Current) -> u32 {
        self.enter_launched(current)
    }

    #[inline(always)]
    fn enter(&mut self, current: Current) -> u32 {
        self.enter_any(current)
    }

    #[cold]
    fn restore_host_segments(&self) {
        if let Some(cpu) = self.vmcs.bound_cpu() {
            // SAFETY: right after an exit on that processor; its GDT was loaded again by the switch.
            unsafe { cpu.host.reload_segments() };
        }
    }

    fn entry_refused<T>(&mut self, id: usize) -> AxResult<T> {
        self.refused(id)
    }

    fn entry_failed(&mut self, current: Current, bits: u32) -> AxResult {
        self.guest_state_refused(current, bits)
    }

    fn clear_entry_failure(&mut self) {
        self.entry.clear_failure();
    }

    #[inline(always)]
    fn exit_kind(bits: u32) -> ExitKind {
        kind_of(bits)
    }

    #[inline(always)]
    fn is_entry_failure(bits: u32) -> bool {
        is_entry_failure(bits)
    }

    fn reason(bits: u32) -> VmxExitReason {
        VmxExitReason::from_exit_reason_field(bits)
    }

    fn reason_number(&self, current: Current) -> AxResult<u32> {
        self.vmcs.read(current, VmcsReadOnly32::EXIT_REASON)
    }

    fn exited_by(&self, current: Current, kind: ExitKind) -> AxResult<bool> {
        Ok(self.entry.has_exited() && kind_of(self.reason_number(current)?) == kind)
    }

    fn instruction_length(&self, current: Current) -> AxResult<u32> {
        self.vmcs.read(current, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)
    }

    #[inline(always)]
    fn port_access(&self, current: Current) -> PortAccess {
        self.decode_port_access(current)
    }

    fn string_operand(&self, current: Current) -> AxResult<Option<StringOperand>> {
        self.decode_string_operand(current)
    }

    fn control_access(&self, current: Current) -> AxResult<ControlAccess> {
        self.decode_control_access(current)
    }

    fn debug_access(&self, current: Current) -> AxResult<DebugAccess> {
        self.decode_debug_access(current)
    }

    #[inline(always)]
    fn nested_fault(&self, current: Current) -> AxResult<(GuestPhysAddr, EptViolation)> {
        self.ept_violation(current)
    }

    fn nested_fault_linear(&self, current: Current) -> AxResult<u64> {
        Ok(self.vmcs.read(current, VmcsReadOnlyNW::GUEST_LINEAR_ADDR)? as u64)
    }

    #[inline(always)]
    fn interrupt_vector(&self, current: Current) -> u8 {
        self.vmcs.vmread(current, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO) as u8
    }

    fn exit_event(&self, current: Current) -> AxResult<VmxInterruptInfo> {
        let bits = self.vmcs.read(current, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
        Ok(VmxInterruptInfo::from_bits(bits, 0))
    }

    fn exit_exception(&self, current: Current) -> AxResult<Event> {
        self.decode_exception(current)
    }

    fn page_fault_address(&self, current: Current) -> AxResult<u64> {
        self.qualification(current)
    }

    fn debug_conditions(&self, current: Current) -> AxResult<u64> {
        Ok(self.qualification(current)? & crate::rules::debug::DR6_CONDITIONS)
    }

    fn random_destination(&self, _: Current) -> AxResult<(u8, u8)> {
        let reason = VmxExitReason::from_exit_reason_field(self.field_32(VmcsReadOnly32::EXIT_REASON)?);
        match VmExit::decode(reason, self)? {
            VmExit::Random { gpr, size, .. } => Ok((gpr, size)),
            other => ax_err!(BadState, format_args!("{other:?} has no destination")),
        }
    }

    #[inline(always)]
    fn interrupted_event(&self, current: Current) -> AxResult<Option<Event>> {
        self.decode_interrupted_event(current)
    }

    #[inline(always)]
    fn iret_unblocked_nmis(&self, current: Current, kind: ExitKind) -> AxResult<bool> {
        self.decode_iret_unblocking(current, kind)
    }

    #[inline(always)]
    fn skip_instruction<const CHECK_TF: bool>(&self, current: Current) -> bool {
        self.vmcs.skip_instruction::<CHECK_TF>(current)
    }

    #[inline(always)]
    fn forget_rip(&self) {
        self.vmcs.forget(VmcsGuestNW::RIP);
    }

    fn inject(&self, current: Current, event: &Event) -> AxResult {
        self.inject_event(current, event)
    }

    #[inline(always)]
    fn inject_interrupt_now(&self, current: Current, vector: u8) -> bool {
        self.inject_external_now(current, vector)
    }

    fn cancel_injection(&self) {
        self.clear_injection();
    }

    fn set_interrupt_window(&self, open: bool) {
        self.set_window(PrimaryControls::INTERRUPT_WINDOW_EXITING, open);
    }

    fn set_nmi_window(&self, open: bool) {
        self.set_window(PrimaryControls::NMI_WINDOW_EXITING, open);
    }

    fn has_open_window(&self) -> bool {
        self.window_is_open()
    }

    fn intercepts_supported(&self, intercepts: &Intercepts) -> AxResult<bool> {
        Ok(super::setup::intercepts_supported(&Processor::current()?.capabilities, intercepts))
    }

    fn write_intercepts(&self, intercepts: &Intercepts) {
        self.write_intercept_controls(intercepts);
    }

    fn set_port_intercepts(&mut self, port: u32, count: u32, intercept: bool) -> AxResult {
        self.io_bitmap.set_intercept_of_range(port, count, intercept)
    }

    fn set_msr_intercept(&mut self, msr: u32, read: Option<bool>, write: Option<bool>) -> AxResult {
        if let Some(read) = read {
            self.msr_bitmap.set_read_intercept(msr, read)?;
        }
        write.map_or(Ok(()), |write| self.msr_bitmap.set_write_intercept(msr, write))
    }

    fn pass_spec_ctrl(&mut self, exits_for_caller: bool) -> AxResult {
        self.msrs.set_spec_ctrl_exits_for_caller(exits_for_caller);
        self.write_spec_ctrl_intercept()
    }

    fn switched_msrs() -> impl Iterator<Item = u32> {
        GuestMsrs::<H>::all()
    }

    fn switched_msr(&self, msr: u32) -> Option<u64> {
        self.msrs.read(msr)
    }

    fn write_switched_msr(&mut self, msr: u32, value: u64) -> Option<bool> {
        self.write_guest_msr(msr, value)
    }

    fn check_time_slice(&self) -> AxResult {
        if self.controls.has_timer {
            return Ok(());
        }
        ax_err!(Unsupported, "this processor has no VMX-preemption timer")
    }

    fn apply_time_slice(&self, time: &Time) {
        self.write_timer_control(time);
    }

    #[inline(always)]
    fn write_time_slice(&self, current: Current, time: &Time) {
        let Some(ticks) = time.slice() else { return };
        let value = self.controls.timer.preemption_timer_value(ticks);
        if !self.vmcs.write_now(current, VmcsGuest32::VMX_PREEMPTION_TIMER_VALUE, value) {
            // There is no current VMCS after all; the entry says so.
            self.vmcs.requests.set(Request::TIME_SLICE);
        }
    }

    fn check_tsc_scaling() -> AxResult {
        if Processor::current()?.capabilities.secondary.can_set(SecondaryControls::TSC_SCALING) {
            return Ok(());
        }
        ax_err!(Unsupported, "this processor cannot scale the TSC")
    }

    fn apply_tsc(&self, time: &Time) {
        self.write_tsc_fields(time);
    }
}
