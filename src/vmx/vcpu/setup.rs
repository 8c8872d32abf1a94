//! The control fields: decided once for a vCPU, from what the processor can do.

use axaddrspace::HostPhysAddr;
use axerrno::{AxError, AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuHal;

use super::Vmx;
use super::switch::barrier;
use crate::ept::{EPTPointer, EptFormat, InvalidEptRoot};
use crate::error::bad_state;
use crate::rules::cpuid::{CpuidFeature, CpuidPolicy, Support};
use crate::rules::vector;
use crate::vcpu::parts::intercepts::{ExitOn, Intercepts, MwaitPolicy};
use crate::vcpu::parts::requests::Request;
use crate::vcpu::parts::speculation::SpeculationPolicy;
use crate::vcpu::parts::time::Time;
use crate::vmx::capability::{
    Capabilities, EntryControls, ExitControls, MissingControl, PinControls, PrimaryControls, SecondaryControls,
    VmxMisc, required,
};
use crate::vmx::processor::Processor;
use crate::vmx::vmcs::{VmcsControl32, VmcsControl64, VmcsHostNW};

/// #MC exits, so that the host handles its machine checks. #DB and #AC exit because the delivery of one of them can raise
/// it again, for ever, without an interrupt or the end of a time slice getting in between; as exits they are separate
/// events. #DB also reports to the vCPU's DR6.
const EXCEPTIONS: u32 = 1 << vector::MC | 1 << vector::AC | 1 << vector::DB;

/// What `setup` decided for this vCPU and the vCPU looks up later.
#[derive(Debug, Default)]
pub(super) struct Controls {
    /// IA32_VMX_BASIC\[56\]: an exception may be injected with or without an error code, whatever its vector.
    pub(super) any_error_code: bool,
    /// IA32_VMX_BASIC\[54\]: exits for INS and OUTS say which segment and address size.
    pub(super) string_info: bool,
    /// There is a VMX-preemption timer.
    pub(super) has_timer: bool,
    /// The timer's rate.
    pub(super) timer: VmxMisc,
    /// The guest is shown fewer physical-address bits than the processor has.
    pub(super) reduced_maxphyaddr: bool,
    /// The bits of CR4 that the guest may set.
    pub(super) allowed_cr4: u64,
    /// CR4.MCE of the host.
    pub(super) host_mce: u64,
}

impl<H: AxVCpuHal> Vmx<H> {
    /// Writes the control fields.
    pub(super) fn setup_vmcs_control(
        &mut self,
        root: HostPhysAddr,
        format: EptFormat,
        policy: &CpuidPolicy,
        intercepts: &Intercepts,
        time: &Time,
    ) -> AxResult {
        let cpu = Processor::current()?;
        if self.vmcs.bound_cpu().is_some_and(|bound| !core::ptr::eq(bound, cpu)) {
            return bad_state("the vCPU is bound to another processor");
        }
        let capabilities = &cpu.capabilities;
        let eptp = eptp(capabilities, root, format).map_err(unusable)?;
        let reduced_maxphyaddr = policy.physical_address_bits() < capabilities.phys_addr_bits;
        let secondary = self.set_controls(capabilities, policy, intercepts, time, reduced_maxphyaddr)?;

        self.tlb.set_eptp(eptp);
        self.vmcs.write(VmcsControl32::CR3_TARGET_COUNT, 0);
        self.vmcs.write(VmcsControl64::EPTP, eptp);
        self.write_bitmap_addresses();
        if secondary.contains(SecondaryControls::ENCLS_EXITING) {
            self.vmcs.write(VmcsControl64::ENCLS_EXITING_BITMAP, u64::MAX);
        }
        if secondary.contains(SecondaryControls::XSAVES) {
            self.vmcs.write(VmcsControl64::XSS_EXITING_BITMAP, 0);
        }
        self.vmcs.write(VmcsHostNW::RIP, self.context.exit_address());

        let rdtscp = secondary.contains(SecondaryControls::RDTSCP);
        let xsaves = secondary.contains(SecondaryControls::XSAVES);
        self.msrs.set_present(rdtscp, xsaves, policy.spec_ctrl());
        self.binding.set_new_guest();
        self.entry.reset();
        self.controls = Controls {
            any_error_code: capabilities.basic.any_error_code,
            string_info: capabilities.basic.io_exit_info,
            has_timer: capabilities.has_preemption_timer(),
            timer: capabilities.misc,
            reduced_maxphyaddr,
            allowed_cr4: self.controls.allowed_cr4,
            host_mce: self.controls.host_mce,
        };
        // What is cached under its tag is the former guest's; it gets another.
        self.tlb.forget_vpid();
        self.vmcs.requests.set(Request::FLUSH_EPT);
        self.write_intercept_controls(intercepts);
        self.write_tsc_fields(time);
        self.write_timer_control(time);
        Ok(())
    }

    /// Writes the five control fields, each as the processor's capabilities allow what is wanted. Gives the secondary ones.
    fn set_controls(
        &self,
        capabilities: &Capabilities,
        policy: &CpuidPolicy,
        intercepts: &Intercepts,
        time: &Time,
        reduced_maxphyaddr: bool,
    ) -> AxResult<SecondaryControls> {
        let pin = capabilities.pin.decide(required::PIN, PinControls::empty()).map_err(missing)?;
        let cr3 = if reduced_maxphyaddr { PrimaryControls::CR3_LOAD_EXITING } else { PrimaryControls::empty() };
        let primary = required::PRIMARY
            | primary_of(intercepts)
            | cr3
            | PrimaryControls::RDPMC_EXITING
            | PrimaryControls::CR8_LOAD_EXITING
            | PrimaryControls::CR8_STORE_EXITING
            | PrimaryControls::MOV_DR_EXITING
            | PrimaryControls::TSC_OFFSETTING;
        let primary = capabilities.primary.decide(primary, PrimaryControls::empty()).map_err(missing)?;
        let scaling =
            if time.multiplier().is_some() { SecondaryControls::TSC_SCALING } else { SecondaryControls::empty() };
        let secondary = capabilities
            .secondary
            .decide(
                required::SECONDARY | secondary_of(intercepts) | scaling,
                SecondaryControls::ENCLS_EXITING | of_features(policy),
            )
            .map_err(missing)?;
        let exit = capabilities.exit.decide(required::EXIT, ExitControls::empty()).map_err(missing)?;
        let entry = capabilities.entry.decide(required::ENTRY, EntryControls::empty()).map_err(missing)?;
        self.vmcs.write(VmcsControl32::PINBASED_EXEC_CONTROLS, pin);
        self.vmcs.write(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS, primary);
        self.vmcs.write(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary);
        self.vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit);
        self.vmcs.write(VmcsControl32::VMENTRY_CONTROLS, entry);
        Ok(SecondaryControls::from_bits_retain(secondary))
    }

    fn write_bitmap_addresses(&self) {
        let (io_a, io_b) = self.io_bitmap.phys_addr();
        self.vmcs.write(VmcsControl64::IO_BITMAP_A_ADDR, io_a.as_usize() as u64);
        self.vmcs.write(VmcsControl64::IO_BITMAP_B_ADDR, io_b.as_usize() as u64);
        self.vmcs.write(VmcsControl64::MSR_BITMAPS_ADDR, self.msr_bitmap.phys_addr().as_usize() as u64);
    }

    /// Writes the host's per-CPU state to the host-state area, and sets the barriers that the policy wants and this processor has. An
    /// error where the guest's SPEC_CTRL cannot be loaded here.
    pub(super) fn setup_vmcs_host(&mut self, cpu: &Processor, policy: &SpeculationPolicy) -> AxResult {
        self.write_per_cpu_state(&cpu.host);
        self.context.set_host_tables(&cpu.host);
        if self.msrs.allowed_spec_ctrl() & !cpu.spec_ctrl != 0 {
            return ax_err!(Unsupported, "the guest was shown bits of IA32_SPEC_CTRL that this processor lacks");
        }
        let when = |condition: bool, barrier: u64| if condition { barrier } else { 0 };
        self.context.set_barriers(
            when(policy.clear_buffers, barrier::CLEAR_BUFFERS)
                | when(policy.flush_l1_data_cache && cpu.has_l1d_flush, barrier::FLUSH_L1D),
            when(policy.fill_return_stack, barrier::FILL_RETURN_STACK)
                | when(policy.write_ibrs && cpu.host.uses_ibrs(), barrier::WRITE_SPEC_CTRL)
                | when(policy.clear_history, barrier::CLEAR_HISTORY),
        );
        self.vmcs.write(VmcsHostNW::RIP, self.context.exit_address());
        self.write_spec_ctrl_intercept()?;
        self.msrs.load_per_cpu_state(&self.vmcs, &cpu.host);
        Ok(())
    }

    /// Writes what was selected to exit.
    pub(super) fn write_intercept_controls(&self, intercepts: &Intercepts) {
        let (primary, secondary) = (primary_of(intercepts).bits(), secondary_of(intercepts).bits());
        let vmcs = &self.vmcs;
        vmcs.change_control(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS, SELECTED_PRIMARY.bits(), primary);
        vmcs.change_control(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, SELECTED_SECONDARY.bits(), secondary);
        vmcs.write(VmcsControl32::EXCEPTION_BITMAP, EXCEPTIONS | intercepts.exceptions());
        // Where the bitmap does not select page faults, those that the filter does not match would exit.
        let (mask, value) = if intercepts.exception(vector::PF) { intercepts.page_fault_filter() } else { (0, 0) };
        vmcs.write(VmcsControl32::PAGE_FAULT_ERR_CODE_MASK, mask);
        vmcs.write(VmcsControl32::PAGE_FAULT_ERR_CODE_MATCH, value);
        if let Some((gap, window)) = intercepts.pause_loop() {
            vmcs.write(VmcsControl32::PLE_GAP, gap);
            vmcs.write(VmcsControl32::PLE_WINDOW, window);
        }
    }

    /// Turns the VMX-preemption timer on or off, and leaves the slice to the next entry. Exits do not save the timer, so
    /// each entry starts with the value that is in the VMCS.
    pub(super) fn write_timer_control(&self, time: &Time) {
        let timer = PinControls::PREEMPTION_TIMER.bits();
        let on = time.slice().is_some() && self.controls.has_timer;
        self.vmcs.change_control(VmcsControl32::PINBASED_EXEC_CONTROLS, timer, if on { timer } else { 0 });
        self.vmcs.requests.set_to(Request::TIME_SLICE, on);
    }

    /// Writes offset and multiplier of the TSC.
    pub(super) fn write_tsc_fields(&self, time: &Time) {
        self.vmcs.write(VmcsControl64::TSC_OFFSET, time.offset());
        if let Some(multiplier) = time.multiplier() {
            self.vmcs.write(VmcsControl64::TSC_MULTIPLIER, multiplier);
        }
        let scaling = SecondaryControls::TSC_SCALING.bits();
        let bits = if time.multiplier().is_some() { scaling } else { 0 };
        self.vmcs.change_control(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, scaling, bits);
    }

    /// Sets another EPT, where VMX is on, for a vCPU that may be set up.
    pub(super) fn change_eptp(
        &mut self,
        root: HostPhysAddr,
        format: EptFormat,
        is_set_up: bool,
    ) -> Result<(), InvalidEptRoot> {
        if let Some(processor) = Processor::known() {
            let eptp = eptp(&processor.capabilities, root, format)?;
            if is_set_up {
                self.tlb.set_eptp(eptp);
                self.vmcs.write(VmcsControl64::EPTP, eptp);
                self.vmcs.requests.set(Request::FLUSH_EPT);
            }
        }
        Ok(())
    }
}

/// The controls that a caller's selections can set.
const SELECTED_PRIMARY: PrimaryControls = PrimaryControls::HLT_EXITING
    .union(PrimaryControls::PAUSE_EXITING)
    .union(PrimaryControls::RDTSC_EXITING)
    .union(PrimaryControls::MWAIT_EXITING)
    .union(PrimaryControls::MONITOR_EXITING);
const SELECTED_SECONDARY: SecondaryControls = SecondaryControls::WBINVD_EXITING
    .union(SecondaryControls::RDRAND_EXITING)
    .union(SecondaryControls::RDSEED_EXITING)
    .union(SecondaryControls::PAUSE_LOOP_EXITING);

fn primary_of(intercepts: &Intercepts) -> PrimaryControls {
    let instructions = intercepts.instructions();
    let mut controls = PrimaryControls::empty();
    controls.set(PrimaryControls::HLT_EXITING, instructions.contains(ExitOn::HLT));
    controls.set(PrimaryControls::PAUSE_EXITING, instructions.contains(ExitOn::PAUSE));
    controls.set(PrimaryControls::RDTSC_EXITING, instructions.contains(ExitOn::RDTSC));
    let mwait = PrimaryControls::MWAIT_EXITING | PrimaryControls::MONITOR_EXITING;
    controls.set(mwait, intercepts.mwait() != MwaitPolicy::PassThrough);
    controls
}

fn secondary_of(intercepts: &Intercepts) -> SecondaryControls {
    let instructions = intercepts.instructions();
    let mut controls = SecondaryControls::empty();
    controls.set(SecondaryControls::WBINVD_EXITING, instructions.contains(ExitOn::WBINVD));
    controls.set(SecondaryControls::RDRAND_EXITING, instructions.contains(ExitOn::RDRAND));
    controls.set(SecondaryControls::RDSEED_EXITING, instructions.contains(ExitOn::RDSEED));
    controls.set(SecondaryControls::PAUSE_LOOP_EXITING, intercepts.pause_loop().is_some());
    controls
}

/// Whether the processor has the controls that the selections need.
pub(super) fn intercepts_supported(capabilities: &Capabilities, intercepts: &Intercepts) -> bool {
    capabilities.primary.can_set(primary_of(intercepts)) && capabilities.secondary.can_set(secondary_of(intercepts))
}

/// The instructions that a processor can make exit, of those that are hidden by that.
pub(super) fn instructions_that_can_exit(capabilities: &Capabilities) -> ExitOn {
    let mut instructions = ExitOn::empty();
    instructions.set(ExitOn::RDRAND, capabilities.secondary.can_set(SecondaryControls::RDRAND_EXITING));
    instructions.set(ExitOn::RDSEED, capabilities.secondary.can_set(SecondaryControls::RDSEED_EXITING));
    instructions
}

/// What a vCPU can show a guest on a processor; the caller knows of XCR0 and MONITOR.
pub(super) fn cpuid_support(capabilities: &Capabilities) -> Support {
    let can_set = |control| capabilities.secondary.can_set(control);
    Support {
        xcr0: 0,
        rdtscp: can_set(SecondaryControls::RDTSCP),
        invpcid: can_set(SecondaryControls::INVPCID),
        xsaves: can_set(SecondaryControls::XSAVES),
        monitor: false,
        cr4: capabilities.cr4.allowed,
    }
}

/// The EPTP for a root.
fn eptp(capabilities: &Capabilities, root: HostPhysAddr, format: EptFormat) -> Result<u64, InvalidEptRoot> {
    let pointer = EPTPointer::new(root, format, capabilities.ept_vpid, capabilities.phys_addr_bits)?;
    Ok(pointer.bits())
}

/// The controls without which instructions are undefined, for the features that the guest is shown.
fn of_features(policy: &CpuidPolicy) -> SecondaryControls {
    let when =
        |condition: bool, control: SecondaryControls| if condition { control } else { SecondaryControls::empty() };
    when(policy.has(CpuidFeature::RDTSCP) || policy.has(CpuidFeature::RDPID), SecondaryControls::RDTSCP)
        | when(policy.has(CpuidFeature::INVPCID), SecondaryControls::INVPCID)
        | when(policy.has(CpuidFeature::XSAVES), SecondaryControls::XSAVES)
}

pub(crate) fn unusable(root: InvalidEptRoot) -> AxError {
    log::warn!("{root}");
    root.into()
}

fn missing(control: MissingControl) -> AxError {
    ax_err_type!(Unsupported, format_args!("{control}"))
}
