//! The control fields: decided once for a vCPU, from what the processor can do.

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::{AxError, AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuHal;

use crate::ept::InvalidEptRoot;
use crate::rules::cpuid::{CpuidFeature, CpuidPolicy, CpuidTable};
use crate::vcpu::start::StartState;
use crate::vmx::capability::{
    Capabilities, EntryControls, ExitControls, MissingControl, PinControls, PrimaryControls, SecondaryControls,
    VmxMisc, required,
};
use crate::vmx::processor::Processor;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vcpu::ept::eptp;
use crate::vmx::vcpu::new_guest;
use crate::vmx::vmcs::{VmcsControl32, VmcsControl64, VmcsHostNW, due};

/// #MC exits, so that the host handles its machine checks. #DB and #AC exit because the delivery of one of them can raise
/// it again, for ever, without an interrupt or the end of a time slice getting in between; as exits they are separate
/// events. #DB also reports to the vCPU's DR6.
pub(crate) const EXCEPTIONS: u32 = 1 << 18 | 1 << 17 | 1 << 1;

/// What was decided for this vCPU and is asked about later.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    /// IA32_VMX_BASIC\[56\]: an exception may be injected with or without an error code, whatever its vector.
    pub(crate) any_error_code: bool,
    /// IA32_VMX_BASIC\[54\]: exits for INS and OUTS say which segment and address size.
    pub(crate) string_info: bool,
    /// There is a VMX-preemption timer.
    pub(crate) has_timer: bool,
    /// The timer's rate.
    pub(crate) timer: VmxMisc,
    /// EPTP as the VMCS has it.
    pub(crate) eptp: u64,
    /// The guest was told of smaller physical addresses than the processor has.
    pub(crate) narrow_addresses: bool,
    /// It is set up.
    pub(crate) done: bool,
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Makes the vCPU ready for its guest: control fields by the capabilities of this processor, and guest state as the
    /// start state says. May be called again at any time, and then starts the guest anew.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled on this processor; `InvalidInput` for an EPT root or an entry that cannot be
    /// used; `Unsupported` if the processor lacks a control.
    pub fn setup(&mut self, ept_root: HostPhysAddr, entry: GuestPhysAddr) -> AxResult {
        self.ept_root = Some(ept_root);
        self.entry = Some(entry);
        self.setup_vmcs()
    }

    pub(crate) fn setup_vmcs(&mut self) -> AxResult {
        let root = self.ept_root.ok_or_else(|| ax_err_type!(InvalidInput, "the vCPU has no EPT root"))?;
        let start = match (self.start, self.entry) {
            (Some(start), _) => start,
            (None, Some(entry)) => StartState::real_mode(entry)?,
            (None, None) => return ax_err!(InvalidInput, "the vCPU has neither an entry nor a start state"),
        };
        let here = Processor::here()?;
        if self.vmcs.home().is_some_and(|home| !core::ptr::eq(home, here)) {
            return ax_err!(BadState, "the vCPU is bound to another processor");
        }
        let capabilities = &here.capabilities;
        let policy = self.cpuid_policy_for(here)?;
        self.intercepts.hide_instructions(&policy, |control| capabilities.secondary.can_set(control));
        self.write_controls(capabilities, &policy, root)?;
        self.cpuid = CpuidTable::new(&policy);
        self.write_start_state(start);
        self.pass_speculation_control()?;
        self.controls.done = true;
        Ok(())
    }

    fn write_controls(&mut self, capabilities: &Capabilities, policy: &CpuidPolicy, root: HostPhysAddr) -> AxResult {
        let eptp = eptp(capabilities, root, self.ept_format).map_err(unusable)?;

        let pin = capabilities.pin.decide(required::PIN, PinControls::empty()).map_err(missing)?;
        let narrow_addresses = policy.physical_address_bits() < capabilities.phys_addr_bits;
        let cr3 = if narrow_addresses { PrimaryControls::CR3_LOAD_EXITING } else { PrimaryControls::empty() };
        let primary = capabilities
            .primary
            .decide(
                required::PRIMARY
                    | self.intercepts.primary()
                    | cr3
                    | PrimaryControls::RDPMC_EXITING
                    | PrimaryControls::CR8_LOAD_EXITING
                    | PrimaryControls::CR8_STORE_EXITING
                    | PrimaryControls::MOV_DR_EXITING
                    | PrimaryControls::TSC_OFFSETTING,
                PrimaryControls::empty(),
            )
            .map_err(missing)?;
        let secondary = capabilities
            .secondary
            .decide(
                required::SECONDARY | self.intercepts.secondary() | self.tsc_controls(),
                SecondaryControls::ENCLS_EXITING | of_features(policy),
            )
            .map_err(missing)?;
        let exit = capabilities.exit.decide(required::EXIT, ExitControls::empty()).map_err(missing)?;
        let entry = capabilities.entry.decide(required::ENTRY, EntryControls::empty()).map_err(missing)?;

        let vmcs = &self.vmcs;
        vmcs.write(VmcsControl32::PINBASED_EXEC_CONTROLS, pin);
        vmcs.write(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS, primary);
        vmcs.write(VmcsControl32::SECONDARY_PROCBASED_EXEC_CONTROLS, secondary);
        vmcs.write(VmcsControl32::VMEXIT_CONTROLS, exit);
        vmcs.write(VmcsControl32::VMENTRY_CONTROLS, entry);
        vmcs.write(VmcsControl32::CR3_TARGET_COUNT, 0);
        vmcs.write(VmcsControl64::EPTP, eptp);
        let (io_a, io_b) = self.io_bitmap.phys_addr();
        vmcs.write(VmcsControl64::IO_BITMAP_A_ADDR, io_a.as_usize() as u64);
        vmcs.write(VmcsControl64::IO_BITMAP_B_ADDR, io_b.as_usize() as u64);
        vmcs.write(VmcsControl64::MSR_BITMAPS_ADDR, self.msr_bitmap.phys_addr().as_usize() as u64);
        if secondary & SecondaryControls::ENCLS_EXITING.bits() != 0 {
            vmcs.write(VmcsControl64::ENCLS_EXITING_BITMAP, u64::MAX);
        }
        if secondary & SecondaryControls::XSAVES.bits() != 0 {
            vmcs.write(VmcsControl64::XSS_EXITING_BITMAP, 0);
        }
        vmcs.write(VmcsHostNW::RIP, self.context.exit_address());

        let set = |controls: u32, control: SecondaryControls| controls & control.bits() != 0;
        let rdtscp = set(secondary, SecondaryControls::RDTSCP);
        let xsaves = set(secondary, SecondaryControls::XSAVES);
        self.msrs.set_present(rdtscp, xsaves, policy.spec_ctrl());
        self.guest = new_guest();
        self.controls = Controls {
            any_error_code: capabilities.basic.any_error_code,
            string_info: capabilities.basic.io_exit_info,
            has_timer: capabilities.has_preemption_timer(),
            timer: capabilities.misc,
            eptp,
            narrow_addresses,
            done: false,
        };
        // What is cached under its tag is the former guest's; it gets another.
        self.vpid = None;
        self.vmcs.set_due(due::EPT);
        self.may_be_inactive = false;
        self.write_intercepts();
        self.apply_tsc();
        self.apply_time_slice();
        Ok(())
    }
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
