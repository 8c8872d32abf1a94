//! VMX of one processor: turning it on and off.

use axerrno::{AxResult, ax_err};
use axvcpu::{AxArchPerCpu, AxVCpuHal};
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};

use super::capability::{Capabilities, RawCapabilities};
use super::enable::{self, EnableError};
use super::host::{PerCpuHostState, idt_gate};
use super::instructions::{vmxoff, vmxon};
use super::processor::Processor;
use super::structs::{VmxBasic, VmxRegion};
use super::translations::TlbFlushCounts;
use crate::error::bad_state;
use crate::msr::Msr;

/// VMX of one processor. It is on while this value lives: dropping the value turns VMX off.
///
/// A host makes one for each processor, calls [`enable`](Self::enable) there, and keeps it, in a per-CPU variable for
/// example. [`hardware_disable`](AxArchPerCpu::hardware_disable) turns VMX off; a drop of a value with VMX on does so too, and
/// logs a warning.
///
/// Every call must be made on the processor that the value is for. The crate reads what it has to know of a processor once,
/// when VMX is enabled. vCPUs that are bound later do not ask again.
#[doc(alias("vmxon", "vmxoff", "virtualization", "percpu"))]
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use axvcpu::AxArchPerCpu;
/// use x86_vcpu::{EnableError, PhysFrameHal, VmxPerCpuState};
///
/// /// On each processor, once its GDT, TSS and IDT are loaded. VMX is on for as long as what this gives lives, so keep it: in a
/// /// per-CPU variable, say.
/// fn enable(cpu: usize) -> AxResult<Option<VmxPerCpuState<PhysFrameHal>>> {
///     let mut state = VmxPerCpuState::new(cpu)?;
///     match state.enable() {
///         Ok(()) => Ok(Some(state)),
///         Err(EnableError::DisabledByFirmware(_)) => {
///             log::warn!("processor {cpu}: turn on VT-x in the firmware's setup");
///             Ok(None)
///         }
///         Err(error) => {
///             log::warn!("processor {cpu}: {error}");
///             Ok(None)
///         }
///     }
/// }
///
/// /// After the host changed registers that the crate read when VMX was enabled: a new IDT, another IA32_PAT, another LSTAR.
/// fn host_has_changed(state: &mut VmxPerCpuState<PhysFrameHal>) -> AxResult {
///     state.refresh_host_state()
/// }
/// ```
#[must_use = "dropping it turns VMX off"]
#[derive(Debug)]
pub struct VmxPerCpuState<H: AxVCpuHal> {
    cpu_id: usize,
    on: Option<On<H>>,
}

/// What turning VMX off needs.
struct On<H: AxVCpuHal> {
    processor: &'static Processor,
    region: VmxRegion<H>,
}

impl<H: AxVCpuHal> core::fmt::Debug for On<H> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "VMXON region {:#x}", self.region.phys_addr())
    }
}

impl<H: AxVCpuHal> VmxPerCpuState<H> {
    /// Enters VMX root operation on this processor.
    ///
    /// It sets IA32_FEATURE_CONTROL where the firmware left it unlocked, sets CR4.VMXE, and executes VMXON (SDM Vol. 3C, 24.7
    /// "Enabling and Entering VMX Operation"). While VMX is on, the processor blocks INIT signals. The host runs
    /// at CPL 0 in 64-bit mode, with a task register loaded and an IDT that has entries for NMI (2) and #MC (18).
    ///
    /// # Errors
    /// One for each thing that can be wrong, with the value that is wrong. The processor is then as it was before.
    pub fn enable(&mut self) -> Result<(), EnableError> {
        if self.on.is_some() {
            return Err(EnableError::AlreadyEnabled);
        }
        if !super::has_hardware_support() {
            return Err(EnableError::NoVmx);
        }
        // SAFETY: reading TR is allowed at CPL 0.
        if unsafe { x86::task::tr() }.bits() & !0b111 == 0 {
            return Err(EnableError::NoTaskRegister);
        }
        if Processor::known().is_some_and(Processor::is_enabled) {
            return Err(EnableError::AlreadyEnabled);
        }
        enable::idt(idt_gate)?;
        let cr4 = Cr4::read_raw();
        if cr4 & Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits() != 0 {
            return Err(if Processor::has_moved() {
                EnableError::TssDescriptorMoved
            } else {
                EnableError::VmxeSet(cr4)
            });
        }
        let feature_control = enable::feature_control(Msr::IA32_FEATURE_CONTROL.read())?;

        // The TRUE capability MSRs exist only if IA32_VMX_BASIC says so.
        let basic = VmxBasic::from_bits(Msr::IA32_VMX_BASIC.read());
        if !basic.vmx_flex_controls {
            return Err(EnableError::NoFlexibleControls);
        }
        let capabilities = Capabilities::decide(&read_capabilities()).map_err(EnableError::Unsupported)?;
        enable::cr0(Cr0::read_raw(), &capabilities.cr0)?;
        let cr4_on = cr4 | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits();
        enable::cr4(cr4_on, &capabilities.cr4)?;
        let region = VmxRegion::<H>::new(basic.revision_id, false).map_err(|_| EnableError::NoMemory)?;

        let processor = match Processor::known() {
            Some(cached) => {
                cached.host.refresh();
                cached
            }
            None => Processor::register(capabilities, PerCpuHostState::read_here()),
        };
        if let Some(value) = feature_control {
            // SAFETY: the MSR is unlocked, and the value sets bits that this processor with VMX has.
            unsafe { Msr::IA32_FEATURE_CONTROL.write(value) };
        }
        // SAFETY: VMXE is a bit that this processor allows, and sets nothing else.
        unsafe { Cr4::write_raw(cr4_on) };
        // SAFETY: CR4.VMXE is set, and the region holds the revision identifier and is kept until VMXOFF.
        if let Err(failure) = unsafe { vmxon(region.phys_addr().as_usize() as u64) } {
            // mutant survives: nothing here makes VMXON fail after the checks before it
            // SAFETY: the value that CR4 had.
            unsafe { Cr4::write_raw(cr4) };
            return Err(EnableError::Vmxon(failure));
        }
        processor.set_enabled(true);
        self.on = Some(On { processor, region });
        log::debug!("VMX enabled on processor {}", self.cpu_id);
        Ok(())
    }

    /// Reads the per-CPU state of the host again: what the crate reads when VMX is enabled ("State of host and guest" on the
    /// crate's page). A host that changes something of it calls this before it runs the next vCPU, bound already or not.
    ///
    /// # Errors
    /// `BadState` if VMX is not enabled, or this is another processor, or the host moved its GDT or its TSS descriptor. The crate
    /// tells processors apart by the address of that descriptor, so a host turns VMX off before it moves it, and on after that.
    #[doc(alias("lstar", "idt", "gdt"))]
    pub fn refresh_host_state(&mut self) -> AxResult {
        let processor = self.processor()?;
        processor.host.refresh();
        processor.forget_current();
        Ok(())
    }

    /// Sets the host's IA32_DEBUGCTL on this processor. An exit sets the MSR to 0 (SDM Vol. 3C, 28.5 "Loading Host State"); the
    /// crate writes this value after each exit from now on. 0 at first, for a host that does not use the MSR.
    ///
    /// # Errors
    /// `BadState` if VMX is not enabled, or this is another processor.
    pub fn set_host_debugctl(&mut self, value: u64) -> AxResult {
        let processor = self.processor()?;
        processor.host.set_debugctl(value);
        // mutant survives: Bochs has no IA32_DEBUGCTL
        processor.forget_current();
        Ok(())
    }

    /// Sets the highest virtual-processor identifier (VPID) that vCPUs get on this processor. FFFFH at first; 0 turns VPIDs
    /// off. A host turns them off to look for stale translations: without VPIDs each entry and exit flushes the TLB of a
    /// guest's linear addresses. A vCPU that is bound already obeys from its next run on.
    ///
    /// # Errors
    /// `BadState` if VMX is not enabled, or this is another processor.
    #[doc(alias("vpid", "tlb"))]
    pub fn set_vpid_limit(&mut self, limit: u16) -> AxResult {
        let processor = self.processor()?;
        processor.translations.set_vpid_limit(limit);
        processor.forget_current();
        Ok(())
    }

    /// How many TLB flushes, by INVEPT and INVVPID, the crate executed on this processor. An exit that changes nothing of
    /// memory adds none.
    ///
    /// # Errors
    /// `BadState` if VMX is not enabled, or this is another processor.
    #[doc(alias("invept", "invvpid"))]
    pub fn tlb_flush_counts(&self) -> AxResult<TlbFlushCounts> {
        Ok(self.processor()?.translations.flush_counts())
    }

    /// The former name of [`tlb_flush_counts`](Self::tlb_flush_counts).
    ///
    /// # Errors
    /// As there.
    #[deprecated(note = "renamed to `tlb_flush_counts`")]
    pub fn translation_drops(&self) -> AxResult<TlbFlushCounts> {
        self.tlb_flush_counts()
    }

    fn processor(&self) -> AxResult<&'static Processor> {
        match &self.on {
            Some(on) if on.processor.is_here() => Ok(on.processor),
            Some(on) if on.processor.is_this_apic() => bad_state(enable::TSS_DESCRIPTOR_MOVED),
            Some(_) => bad_state("this is the state of another processor"),
            None => bad_state("VMX is not enabled on this processor"),
        }
    }
}

impl<H: AxVCpuHal> AxArchPerCpu for VmxPerCpuState<H> {
    fn new(cpu_id: usize) -> AxResult<Self> {
        Ok(Self { cpu_id, on: None })
    }

    fn is_enabled(&self) -> bool {
        self.on.is_some()
    }

    /// [`enable`](Self::enable), with the reason logged and reduced to a code.
    fn hardware_enable(&mut self) -> AxResult {
        self.enable().map_err(|error| {
            log::error!("VMX on processor {}: {error}", self.cpu_id);
            error.as_ax_error()
        })
    }

    /// Leaves VMX operation (SDM Vol. 3C, 24.7 "Enabling and Entering VMX Operation"). It unbinds the vCPUs that are still bound
    /// here: their state is written to memory, and they can be bound again wherever VMX is on. This works also after the host
    /// moved its GDT.
    ///
    /// # Errors
    /// `BadState` if VMX is not enabled by this value, this is another processor, or VMXOFF fails.
    fn hardware_disable(&mut self) -> AxResult {
        let Some(on) = &self.on else {
            return ax_err!(BadState, "VMX is not enabled on this processor");
        };
        if !on.processor.is_here() && !on.processor.is_this_apic() {
            return ax_err!(BadState, "VMX must be turned off on the processor that it was turned on");
        }
        on.processor.fpu.evict();
        on.processor.clear_all()?;
        // SAFETY: VMX is on, and no VMCS is active any more.
        if let Err(failure) = unsafe { vmxoff() } {
            log::error!("VMXOFF: {failure}");
            return ax_err!(BadState);
        }
        on.processor.set_enabled(false);
        // SAFETY: outside VMX operation VMXE may be cleared; enabling found it clear.
        unsafe { Cr4::write_raw(Cr4::read_raw() & !Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits()) };
        self.on = None;
        Ok(())
    }
}

impl<H: AxVCpuHal> Drop for VmxPerCpuState<H> {
    fn drop(&mut self) {
        if self.on.is_none() {
            return;
        }
        log::warn!("VMX is turned off on processor {}: its VmxPerCpuState was dropped", self.cpu_id);
        if self.hardware_disable().is_err() {
            log::error!("VMX is left on, on processor {}; its VMXON region is leaked", self.cpu_id);
            core::mem::forget(self.on.take());
        }
    }
}

/// Reads every capability MSR that exists here. Only what IA32_VMX_BASIC and the controls announce may be read.
fn read_capabilities() -> RawCapabilities {
    // Bits 63:32 of a capability MSR are the controls that may be 1.
    let may_set = |capability: u64, bit: u32| capability >> 32 & (1 << bit) != 0;
    let when = |exists: bool, msr: Msr| if exists { msr.read() } else { 0 };

    let proc = Msr::IA32_VMX_TRUE_PROCBASED_CTLS.read();
    let proc2 = when(may_set(proc, 31), Msr::IA32_VMX_PROCBASED_CTLS2);
    let (ept, vpid, vmfunc) = (may_set(proc2, 1), may_set(proc2, 5), may_set(proc2, 13));
    RawCapabilities {
        basic: Msr::IA32_VMX_BASIC.read(),
        pin: Msr::IA32_VMX_TRUE_PINBASED_CTLS.read(),
        proc,
        proc2,
        proc3: when(may_set(proc, 17), Msr::IA32_VMX_PROCBASED_CTLS3),
        exit: Msr::IA32_VMX_TRUE_EXIT_CTLS.read(),
        entry: Msr::IA32_VMX_TRUE_ENTRY_CTLS.read(),
        misc: Msr::IA32_VMX_MISC.read(),
        cr0_fixed0: Msr::IA32_VMX_CR0_FIXED0.read(),
        cr0_fixed1: Msr::IA32_VMX_CR0_FIXED1.read(),
        cr4_fixed0: Msr::IA32_VMX_CR4_FIXED0.read(),
        cr4_fixed1: Msr::IA32_VMX_CR4_FIXED1.read(),
        ept_vpid: when(ept || vpid, Msr::IA32_VMX_EPT_VPID_CAP),
        vmfunc: when(vmfunc, Msr::IA32_VMX_VMFUNC),
        phys_addr_bits: raw_cpuid::CpuId::new()
            .get_processor_capacity_feature_info()
            .map_or(36, |info| info.physical_address_bits()),
    }
}
