//! The virtual CPU.
//!
//! One idea a file: [`switch`] goes into the guest and back, with [`xstate`], [`debug`] and [`msr_areas`] for the state that
//! has rules of its own, and [`speculation`] for barriers; [`setup`] decides the control fields and [`start`] the guest's
//! first state; [`exits`] handles what needs no caller, with [`cpuid`], [`msrs`] and [`control_registers`] for what they
//! are named after; [`msr_policy`], [`io`] and [`timer`] are what the caller decides; [`string_io`] is INS and OUTS; [`completion`] moves RIP; [`events`]
//! injects what [`event_queue`] has in order; [`intercepts`] and [`tsc`] are what the caller selects; [`init`] is INIT and
//! SIPI; [`memory`] knows the guest's mode, [`guest_memory`] how it sees memory, [`mmio`] what is a device there, [`ept`]
//! what its memory is, and [`translations`] what processors cache of it; [`inspect`] shows a guest that went wrong;
//! [`arch`] is the adapter to axvcpu.

mod arch;
mod completion;
mod control_registers;
mod cpuid;
mod debug;
mod ept;
mod event_queue;
mod events;
mod exits;
mod guest_memory;
mod init;
mod inspect;
mod intercepts;
mod io;
mod memory;
mod mmio;
mod msr_areas;
mod msr_policy;
mod msrs;
mod setup;
mod speculation;
mod start;
mod string_io;
mod switch;
mod timer;
mod translations;
mod tsc;
mod xstate;

use core::sync::atomic::{AtomicU64, Ordering};

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::{AxVCpuExitReason, AxVCpuHal};
use x86_64::instructions::interrupts;

pub use guest_memory::EptMemory;
pub use intercepts::{ExitOn, HypercallPolicy, MwaitPolicy, Reflected};
pub use memory::VmCpuMode;
pub use mmio::{MmioAccess, MmioUndecoded};
pub use msr_policy::MsrPolicy;
pub use speculation::SpeculationPolicy;
pub use start::StartState;
pub use string_io::StringIo;
pub use translations::EptInvalidator;
pub use xstate::FpuPolicy;

use self::completion::Completion;
use self::debug::DebugRegisters;
use self::event_queue::EventQueue;
use self::exits::Handled;
use self::intercepts::Intercepts;
use self::mmio::Mmio;
use self::msr_areas::GuestMsrs;
use self::msr_policy::KeptMsrs;
use self::msrs::CallersExits;
use self::setup::Controls;
use self::string_io::Element;
use self::switch::{EXITED, SwitchContext, vmx_launch, vmx_resume};
use self::tsc::TscControl;
use self::xstate::XState;
use super::definitions::VmxExitReason;
use super::exit_info::{EntryFailure, VmxExitInfo};
use super::guest_cpuid::{CpuidPolicy, CpuidTable};
use super::host;
use super::instructions::{self, VmFail};
use super::processor::{Processor, Stay};
use super::structs::{IOBitmap, MsrBitmap};
use super::vmcs::{Here, Vmcs, VmcsControl32, VmcsReadOnly32, VmcsReadOnlyNW, due};
use super::vpid::Vpid;
use crate::ept::EptFormat;
use crate::guest_memory::PagingSupport;
use crate::regs::GeneralRegisters;

/// A virtual CPU on VMX.
///
/// Its life: [`new`](Self::new), [`setup`](Self::setup), then any number of times
/// [`bind_to_current_processor`](Self::bind_to_current_processor), runs, and
/// [`unbind_from_current_processor`](Self::unbind_from_current_processor). Between unbind and bind it may move to
/// another processor; it may move in memory at any time that it does not run.
///
/// While it is bound, everything that touches the guest's state is done on the processor that it is bound to; a call on
/// another one is an error. The host does not preempt the code that runs a vCPU in favour of code that binds another
/// one on the same processor, unless it unbinds this one first; interrupts may come at any time.
pub struct VmxVcpu<H: AxVCpuHal> {
    context: SwitchContext,
    vmcs: Vmcs<H>,
    io_bitmap: IOBitmap<H>,
    msr_bitmap: MsrBitmap<H>,
    msrs: GuestMsrs<H>,
    kept: KeptMsrs,
    callers_msr_exits: CallersExits,
    xstate: XState,
    debug: DebugRegisters,
    events: EventQueue,
    completion: Option<Completion>,
    /// The INS or OUTS that it is about.
    string: Option<Element>,
    mmio: Mmio,
    /// An instruction was completed since the last entry, which ends STI and MOV SS blocking.
    shadow_ended: bool,
    cpuid: CpuidTable,
    /// What the caller decided that CPUID tells, from the next `setup` on.
    cpuid_policy: Option<CpuidPolicy>,
    controls: Controls,
    intercepts: Intercepts,
    tsc: TscControl,
    /// The guest may be in another activity state than active after an exit.
    may_be_inactive: bool,
    /// It had an INIT, and waits for a start-up IPI.
    waits_for_startup: bool,
    speculation: SpeculationPolicy,
    /// What the processor's walks through the guest's page tables take from CPUID.
    paging_support: PagingSupport,
    time_slice: Option<u64>,
    /// CR8, which the guest does not share with the host.
    cr8: u8,
    /// Its local APIC is disabled.
    apic_off: bool,
    /// CR4.MCE of the host.
    host_mce: u64,
    /// A number that no other guest has: the vCPU's, from one `setup` to the next.
    guest: u64,
    /// Why the last entry did not reach the guest.
    entry_failure: Option<EntryFailure>,
    /// Where it ran last, and which generation of that processor's constant state the VMCS holds.
    last_stay: Stay,
    host_generation: u64,
    /// Its tag on that processor.
    vpid: Option<Vpid>,
    start: Option<StartState>,
    entry: Option<GuestPhysAddr>,
    ept_root: Option<HostPhysAddr>,
    ept_format: EptFormat,
    vm_id: usize,
    id: usize,
}

/// The next number for a guest.
fn new_guest() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

// SAFETY: every access to the VMCS checks that it is made on the right processor.
unsafe impl<H: AxVCpuHal> Send for VmxVcpu<H> {}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Makes a vCPU: allocates its VMCS, bitmaps, and areas for MSRs and extended state. Touches no VMX state of the
    /// processor, so it works before VMX is enabled.
    ///
    /// # Errors
    /// `NoMemory`.
    pub fn new(vm_id: usize, vcpu_id: usize) -> AxResult<Self> {
        let mut io_bitmap = IOBitmap::passthrough_all()?;
        io_bitmap.set_intercept(u32::from(io::POWER_OFF_PORT), true)?;
        Ok(Self {
            context: SwitchContext::default(),
            vmcs: Vmcs::new()?,
            io_bitmap,
            msr_bitmap: msrs::default_bitmap()?,
            msrs: GuestMsrs::new()?,
            kept: KeptMsrs::with_defaults(),
            callers_msr_exits: CallersExits::default(),
            xstate: XState::new()?,
            debug: DebugRegisters::default(),
            events: EventQueue::default(),
            completion: None,
            string: None,
            mmio: Mmio::default(),
            shadow_ended: false,
            cpuid: CpuidTable::default(),
            cpuid_policy: None,
            controls: Controls::default(),
            intercepts: Intercepts::default(),
            tsc: TscControl::default(),
            may_be_inactive: false,
            waits_for_startup: false,
            speculation: SpeculationPolicy::for_this_processor(),
            paging_support: PagingSupport::of_this_processor(),
            time_slice: None,
            cr8: 0,
            apic_off: false,
            host_mce: 0,
            guest: new_guest(),
            entry_failure: None,
            last_stay: Stay::default(),
            host_generation: 0,
            vpid: None,
            start: None,
            entry: None,
            ept_root: None,
            ept_format: EptFormat::default(),
            vm_id,
            id: vcpu_id,
        })
    }

    /// Binds the vCPU to the processor that executes this: its VMCS becomes active and current there. Binding it again
    /// there is not an error.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled, or for a vCPU that is bound to another processor.
    pub fn bind_to_current_processor(&self) -> AxResult {
        self.vmcs.bind()?;
        self.vmcs.set_due(due::HOST_STATE);
        Ok(())
    }

    /// Unbinds the vCPU, which may then be bound to any processor: its VMCS is written back to memory, and extended
    /// state that was left in the registers is taken out of them.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound, or is bound to another processor.
    pub fn unbind_from_current_processor(&self) -> AxResult {
        self.xstate.unbind();
        // Should the VMCS stay here, its extended state has to come back.
        self.vmcs.set_due(due::SWITCHED);
        self.vmcs.unbind()
    }

    /// Enters the guest once and comes back at its next exit. `None` if the crate has handled the exit: the caller may
    /// look after other things and run again. `Some` for an exit that the caller has to handle, and for an entry that
    /// failed ([`entry_failure`](Self::entry_failure) says how).
    pub fn inner_run(&mut self) -> Option<VmxExitInfo> {
        match self.run_once() {
            Ok(None) => None,
            Ok(Some(_)) => Some(self.exit_info().unwrap_or(self.failed_entry())),
            Err(_) => Some(self.failed_entry()),
        }
    }

    /// The same, with the reason alone, and an error for an entry that the processor refused.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not set up or not bound here, and if VMLAUNCH or VMRESUME fails; in the second case
    /// [`entry_failure`](Self::entry_failure) has the number and text. The vCPU may be corrected and run again.
    pub fn run_once(&mut self) -> AxResult<Option<VmxExitReason>> {
        let described = |exit| match exit {
            AxVCpuExitReason::Nothing => None,
            _ => Some(VmxExitReason::EPT_VIOLATION),
        };
        self.run_then(|| None, described, |_, _, reason| Ok(Some(reason)))
    }

    /// One entry and one exit. Gives `handled` for an exit that the crate has handled, and for one of the caller's what
    /// `describe` makes of it while the VMCS is known to be current. Without an entry `described`, of what an instruction
    /// that accesses a device wants next.
    #[inline(always)]
    fn run_then<T>(
        &mut self,
        handled: impl FnOnce() -> T,
        described: impl FnOnce(AxVCpuExitReason) -> T,
        describe: impl FnOnce(&mut Self, Here, VmxExitReason) -> AxResult<T>,
    ) -> AxResult<T> {
        if !self.controls.done || self.waits_for_startup {
            return ax_err!(BadState, "the vCPU is not set up, or waits for a start-up IPI");
        }
        // From the check that the VMCS is current until the exit is described, nothing may bind another one here.
        let interrupts_were_on = interrupts::are_enabled();
        interrupts::disable();
        let result = self.run_undisturbed(handled, described, describe);
        if interrupts_were_on {
            interrupts::enable();
        }
        result
    }

    #[inline(always)]
    fn run_undisturbed<T>(
        &mut self,
        handled: impl FnOnce() -> T,
        described: impl FnOnce(AxVCpuExitReason) -> T,
        describe: impl FnOnce(&mut Self, Here, VmxExitReason) -> AxResult<T>,
    ) -> AxResult<T> {
        let here = self.vmcs.current()?;
        if self.mmio.is_pending()
            && let Some(exit) = self.continue_mmio(here)?
        {
            return Ok(described(exit));
        }
        self.prepare_entry(here)?;
        self.enter(here)?;
        match self.handle_exit(here)? {
            Some(reason) => describe(self, here, reason),
            None => Ok(handled()),
        }
    }

    /// What has to be in the VMCS and in the registers before an entry.
    #[inline(always)]
    fn prepare_entry(&mut self, here: Here) -> AxResult {
        if self.vmcs.is_due() {
            self.do_what_is_due()?;
        }
        self.complete_pending(here)?;
        self.inject_pending_events(here)?;
        self.shadow_ended = false;
        match self.vmcs.flush(here) {
            Ok(()) => Ok(()),
            Err((field, failure)) => self.not_entered(field, failure),
        }
    }

    /// The entry itself.
    #[inline(always)]
    fn enter(&mut self, here: Here) -> AxResult {
        let debug_idle = self.debug.is_idle();
        if !debug_idle {
            self.debug.load_guest();
        }
        let context = &raw mut self.context;
        let launch = self.vmcs.needs_launch(here);
        // SAFETY: the VMCS is current, has HOST_RIP from `setup`, and the launch state that `needs_launch` says;
        // interrupts are off. What the EPT maps is the caller's to decide.
        let result = unsafe { if launch { vmx_launch(context) } else { vmx_resume(context) } };
        if !debug_idle {
            self.debug.load_host();
        }
        if result == EXITED { Ok(()) } else { self.refused() }
    }

    /// What is common to all exits, then the handler of this one.
    #[inline(always)]
    fn handle_exit(&mut self, here: Here) -> AxResult<Option<VmxExitReason>> {
        self.vmcs.exit_happened(here);
        self.restore_host_segments();
        self.entry_failure = None;
        let bits = self.vmcs.get(here, VmcsReadOnly32::EXIT_REASON)?;
        let reason = VmxExitReason::from_exit_reason_field(bits);
        if bits & (1 << 31) != 0 {
            return self.guest_state_refused(here, reason);
        }
        self.vmcs.guest_ran(here);
        self.keep_interrupted_event(here, reason)?;
        match self.builtin_vmexit_handler(here, reason)? {
            Handled::Yes => Ok(None),
            Handled::No => Ok(Some(reason)),
        }
    }

    /// What an entry needs only after a bind, after another vCPU ran here, or after a change of the EPT.
    #[cold]
    fn do_what_is_due(&mut self) -> AxResult {
        let home = self.vmcs.home().ok_or_else(|| ax_err_type!(BadState, "the vCPU is not bound"))?;
        let due = self.vmcs.take_due();
        let result = self.do_work(home, due);
        if result.is_err() {
            self.vmcs.set_due(due);
        }
        result
    }

    fn do_work(&mut self, home: &'static Processor, due: u8) -> AxResult {
        let moved = self.last_stay != home.stay();
        if due & due::HOST_STATE != 0 {
            self.take_over_host(home, moved)?;
        }
        self.xstate.take_over(&mut self.context.xstate, home, moved)?;
        self.renew_translations(home, moved, due)?;
        self.separate_from_last_guest(home);
        self.last_stay = home.stay();
        Ok(())
    }

    /// Reads the host's state that the vCPU has to give back, after a bind.
    fn take_over_host(&mut self, home: &Processor, moved: bool) -> AxResult {
        let generation = home.host.generation();
        if moved || generation != self.host_generation {
            home.host.write_to(&self.vmcs);
            self.context.set_host_tables(&home.host);
            self.take_over_speculation_control(home)?;
            self.host_generation = generation;
        }
        host::write_variable_state(&self.vmcs)?;
        self.context.take_over_spec_ctrl();
        self.msrs.bind(&self.vmcs, &home.host);
        self.bind_cr4()?;
        self.debug.bind(home.host.debugctl());
        Ok(())
    }

    /// An exit has changed LDTR and the limit of TR; few hosts have others.
    #[inline(always)]
    fn restore_host_segments(&mut self) {
        if self.context.reload_segments()
            && let Some(home) = self.vmcs.home()
        {
            // SAFETY: right after an exit on that processor; its GDT was loaded again by the switch.
            unsafe { home.host.reload_segments() };
        }
    }

    /// A field could not be written, so there was no entry.
    #[cold]
    fn not_entered(&mut self, field: &str, failure: VmFail) -> AxResult {
        self.entry_failure = Some(EntryFailure::Refused(failure));
        self.take_back_event();
        log::warn!("VMWRITE of {field}: {failure}");
        ax_err!(BadState)
    }

    /// VMLAUNCH or VMRESUME failed.
    #[cold]
    fn refused(&mut self) -> AxResult {
        let why = instructions::failure();
        self.vmcs.entry_refused(why);
        let failure = EntryFailure::Refused(why);
        self.entry_failure = Some(failure);
        self.context.forget_host_stack();
        self.take_back_event();
        ax_err!(BadState, format_args!("vCPU {}: {failure}", self.id))
    }

    /// The processor began the entry and found guest state that it refuses.
    #[cold]
    fn guest_state_refused(&mut self, here: Here, reason: VmxExitReason) -> AxResult<Option<VmxExitReason>> {
        let qualification = self.vmcs.get(here, VmcsReadOnlyNW::EXIT_QUALIFICATION)? as u64;
        self.entry_failure = Some(EntryFailure::GuestState { reason, qualification });
        self.take_back_event();
        if reason == VmxExitReason::MCE_DURING_VMENTRY {
            exits::deliver_machine_check();
        }
        Ok(Some(reason))
    }

    /// An event that a failed entry was to inject is injected by the next one, which may be after other corrections.
    fn take_back_event(&mut self) {
        self.events.take_back_injected();
        self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, 0);
    }

    fn failed_entry(&self) -> VmxExitInfo {
        VmxExitInfo {
            entry_failure: true,
            exit_reason: VmxExitReason::INVALID_GUEST_STATE,
            exit_instruction_length: 0,
            guest_rip: self.rip(),
        }
    }

    /// The general registers but RSP, which is in the VMCS ([`stack_pointer`](Self::stack_pointer)).
    pub fn regs(&self) -> &GeneralRegisters {
        &self.context.guest
    }

    /// The same, to be changed.
    pub fn regs_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.context.guest
    }

    /// The id that it was made with.
    pub fn id(&self) -> usize {
        self.id
    }

    /// The id of its VM.
    pub fn vm_id(&self) -> usize {
        self.vm_id
    }
}
