//! The virtual CPU.
//!
//! One idea a file: [`run`] is one entry and one exit, [`bind`] what comes before the first of them on a processor;
//! [`switch`] goes into the guest and back, with [`xstate`], [`debug`] and [`msr_areas`] for the state that has rules of its
//! own, and [`speculation`] for barriers; [`setup`] decides the control fields and [`start`] the guest's first state;
//! [`exits`] handles what needs no caller, with [`cpuid`], [`msrs`] and [`control_registers`] for what they are named after;
//! [`msr_policy`], [`io`] and [`timer`] are what the caller decides; [`string_io`] is INS and OUTS; [`completion`] moves RIP,
//! and [`shadow`] tells what that ends; [`events`] injects what [`event_queue`] has in order; [`intercepts`] and [`tsc`] are what the caller selects; [`init`] is INIT and
//! SIPI; [`memory`] knows the guest's mode, [`guest_memory`] how it sees memory, [`mmio`] what is a device there, [`ept`]
//! what its memory is, and [`translations`] what processors cache of it; [`inspect`] shows a guest that went wrong;
//! [`arch`] is the adapter to axvcpu.

pub(crate) mod bind;
pub(crate) mod ept;
pub(crate) mod inspect;
pub(crate) mod msr_areas;
pub(crate) mod setup;
pub(crate) mod speculation;
pub(crate) mod switch;
pub(crate) mod translations;

use core::sync::atomic::{AtomicU64, Ordering};

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::AxResult;
use axvcpu::AxVCpuHal;

pub use crate::vcpu::completion::StepPolicy;
pub use crate::vcpu::guest_memory::EptMemory;
pub use crate::vcpu::intercepts::{ExitOn, HypercallPolicy, MwaitPolicy, Reflected};
pub use crate::vcpu::memory::VmCpuMode;
pub use crate::vcpu::mmio::{MmioAccess, MmioUndecoded};
pub use crate::vcpu::msr_policy::MsrPolicy;
pub use crate::vcpu::start::StartState;
pub use crate::vcpu::string_io::StringIo;
pub use crate::vcpu::xstate::FpuPolicy;
pub use bind::UnbindPolicy;
pub use speculation::SpeculationPolicy;
pub use translations::EptInvalidator;

use self::bind::Stays;
use self::msr_areas::GuestMsrs;
use self::setup::Controls;
use self::switch::SwitchContext;
use super::exit_info::EntryFailure;
use super::host::HostVariables;
use super::processor::Stay;
use super::structs::{IOBitmap, MsrBitmap};
use super::vmcs::Vmcs;
use super::vpid::Vpid;
use crate::ept::EptFormat;
use crate::guest_memory::PagingSupport;
use crate::regs::GeneralRegisters;
use crate::rules::cpuid::{CpuidPolicy, CpuidTable};
use crate::vcpu::completion::WaitsFor;
use crate::vcpu::debug::DebugRegisters;
use crate::vcpu::event_queue::EventQueue;
use crate::vcpu::intercepts::Intercepts;
use crate::vcpu::mmio::Mmio;
use crate::vcpu::msr_policy::KeptMsrs;
use crate::vcpu::msrs::CallersExits;
use crate::vcpu::shadow::ShadowEnd;
use crate::vcpu::string_io::Element;
use crate::vcpu::tsc::TscControl;
use crate::vcpu::xstate::XState;

/// A virtual CPU on VMX.
///
/// Its life: [`new`](Self::new), [`setup`](Self::setup), then any number of times
/// [`bind_to_current_processor`](Self::bind_to_current_processor), runs, and
/// [`unbind_from_current_processor`](Self::unbind_from_current_processor). Between unbind and bind it may move to
/// another processor, unless it was told to [stay](UnbindPolicy::Stay); it may move in memory at any time that it does not run.
///
/// While it is bound, everything that touches the guest's state is done on the processor that it is bound to; a call on
/// another one is an error. The host does not preempt the code that runs a vCPU in favour of code that binds another
/// one on the same processor, unless it unbinds this one first; interrupts may come at any time.
pub struct VmxVcpu<H: AxVCpuHal> {
    pub(crate) context: SwitchContext,
    pub(crate) vmcs: Vmcs<H>,
    pub(crate) io_bitmap: IOBitmap<H>,
    pub(crate) msr_bitmap: MsrBitmap<H>,
    pub(crate) msrs: GuestMsrs<H>,
    pub(crate) kept: KeptMsrs,
    pub(crate) callers_msr_exits: CallersExits,
    pub(crate) xstate: XState,
    pub(crate) debug: DebugRegisters,
    pub(crate) events: EventQueue,
    /// What the instruction of the last exit waits for, if the next entry completes it.
    pub(crate) completion: Option<WaitsFor>,
    pub(crate) step_policy: StepPolicy,
    /// The INS or OUTS that it is about.
    pub(crate) string: Option<Element>,
    pub(crate) mmio: Mmio,
    /// Whether STI and MOV SS blocking is over.
    pub(crate) shadow_end: ShadowEnd,
    pub(crate) cpuid: CpuidTable,
    /// What the caller decided that CPUID tells, from the next `setup` on.
    pub(crate) cpuid_policy: Option<CpuidPolicy>,
    pub(crate) controls: Controls,
    pub(crate) intercepts: Intercepts,
    pub(crate) tsc: TscControl,
    /// The guest may be in another activity state than active after an exit.
    pub(crate) may_be_inactive: bool,
    /// It had an INIT, and waits for a start-up IPI.
    pub(crate) waits_for_startup: bool,
    pub(crate) speculation: SpeculationPolicy,
    /// What the processor's walks through the guest's page tables take from CPUID.
    pub(crate) paging_support: PagingSupport,
    pub(crate) time_slice: Option<u64>,
    /// CR8, which the guest does not share with the host.
    pub(crate) cr8: u8,
    /// Its local APIC is disabled.
    pub(crate) apic_off: bool,
    /// CR4.MCE of the host.
    pub(crate) host_mce: u64,
    /// A number that no other guest has: the vCPU's, from one `setup` to the next.
    pub(crate) guest: u64,
    /// Why the last entry did not reach the guest.
    pub(crate) entry_failure: Option<EntryFailure>,
    /// Where it ran last, and which generation of that processor's constant state the VMCS holds.
    pub(crate) last_stay: Stay,
    pub(crate) host_generation: u64,
    /// What the VMCS has of the host's state that may change between two binds.
    pub(crate) host: HostVariables,
    pub(crate) unbind_policy: UnbindPolicy,
    pub(crate) stays: Stays,
    /// Its tag on that processor.
    pub(crate) vpid: Option<Vpid>,
    pub(crate) start: Option<StartState>,
    pub(crate) entry: Option<GuestPhysAddr>,
    pub(crate) ept_root: Option<HostPhysAddr>,
    pub(crate) ept_format: EptFormat,
    pub(crate) vm_id: usize,
    pub(crate) id: usize,
}

/// The next number for a guest.
pub(crate) fn new_guest() -> u64 {
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
        io_bitmap.set_intercept(u32::from(crate::vcpu::io::POWER_OFF_PORT), true)?;
        Ok(Self {
            context: SwitchContext::default(),
            vmcs: Vmcs::new()?,
            io_bitmap,
            msr_bitmap: crate::vcpu::msrs::default_bitmap()?,
            msrs: GuestMsrs::new()?,
            kept: KeptMsrs::with_defaults(Self::guests_own()),
            callers_msr_exits: CallersExits::default(),
            xstate: XState::new()?,
            debug: DebugRegisters::default(),
            events: EventQueue::new(),
            completion: None,
            step_policy: StepPolicy::default(),
            string: None,
            mmio: Mmio::default(),
            shadow_end: ShadowEnd::default(),
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
            host: HostVariables::default(),
            unbind_policy: UnbindPolicy::default(),
            stays: Stays::no(),
            vpid: None,
            start: None,
            entry: None,
            ept_root: None,
            ept_format: EptFormat::default(),
            vm_id,
            id: vcpu_id,
        })
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
