//! A virtual CPU, whoever runs it.
//!
//! A [`Vcpu`] consists of about fifteen parts, each with its own file, state and interface:
//!
//! - [`run`] makes one entry and one exit. [`requests`](parts::requests) say why an entry takes the slow path.
//! - [`exits`] is the one table of exits. Each subject of an exit has a file of its name.
//! - [`events`] injects what the [`event_slots`](parts::event_slots) hold.
//! - [`completion`] is the one mover of RIP.
//! - [`backend`] is the seam to the processor's virtualization. No other file here knows which kind it is.

// rustdoc shows the methods of a vCPU in the order of these declarations: the order of use.
pub(crate) mod start;

pub(crate) mod init;

pub(crate) mod ept;

pub(crate) mod cpuid;

pub(crate) mod msr_policy;

pub(crate) mod msrs;

pub(crate) mod io;

pub(crate) mod mmio;

pub(crate) mod intercepts;

pub(crate) mod time;

pub(crate) mod speculation;

pub(crate) mod xstate;

pub(crate) mod completion;

pub(crate) mod string_io;

pub(crate) mod events;

pub(crate) mod guest_memory;

pub(crate) mod mode;

pub(crate) mod control_registers;
pub(crate) mod segments;

pub(crate) mod backend;
pub(crate) mod debug;
pub(crate) mod exits;
pub(crate) mod parts;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod written;

use axerrno::AxResult;

use self::backend::Backend;
use self::control_registers::ControlRegisters;
use self::cpuid::GuestCpuid;
use self::ept::EptRoot;
use self::mmio::Mmio;
use self::parts::completion::Completion;
use self::parts::debug::DebugRegisters;
use self::parts::event_slots::EventSlots;
use self::parts::intercepts::Intercepts;
use self::parts::msrs::Msrs;
use self::parts::requests::Requests;
use self::parts::speculation::SpeculationPolicy;
use self::parts::string::StringInstruction;
use self::parts::time::Time;
use self::parts::xstate::XState;
use self::start::Start;
use crate::guest_memory::PagingSupport;
use crate::regs::GeneralRegisters;

/// A virtual CPU. On Intel's processors it is [`VmxVcpu`](crate::VmxVcpu).
///
/// # Life
///
/// 1. [`new`](crate::VmxVcpu::new) makes it.
/// 2. The caller decides what the guest has: [start](#setting-up), [CPUID](#cpuid), [MSRs](#msrs), [ports](#ports),
///    [devices in memory](#devices-in-memory), [other exits](#selected-exits), [time](#time).
/// 3. [`setup`](Self::setup) gives it the [EPT](#ept) and writes the first state of the guest. VMX is on by then.
/// 4. [`bind_to_current_processor`](crate::VmxVcpu::bind_to_current_processor) [binds](#binding) it to a processor.
/// 5. [`run`](axvcpu::AxArchVCpu::run) enters the guest and returns at an exit, any number of times. The caller
///    [completes](#completing-an-instruction) what an exit asks for, queues [events](#events), and reads
///    [what the exit says](#running-and-what-an-exit-says).
/// 6. [`unbind_from_current_processor`](crate::VmxVcpu::unbind_from_current_processor) ends that. Now it may move to another
///    processor, unless it is [kept loaded](crate::UnbindPolicy::KeepLoaded).
///
/// It may move in memory at any time that it does not run.
///
/// # Rules
///
/// - While it is bound, everything that touches the guest's state is done on the processor that it is bound to. A call on
///   another one is an error.
/// - The host does not preempt the code that runs a vCPU in favour of code that binds another one on the same processor,
///   unless it unbinds this one first. Interrupts may come at any time.
/// - An exit that the caller does not complete is completed by the next entry. IN and RDMSR then leave their registers as
///   they were. INS and a read of a device are reported again, until they get a value.
/// - Where the guest cannot go on, each run says so: `SystemDown` after a shutdown, `CpuDown` while it waits for a start-up
///   IPI. An entry that failed is tried again by the next run, and fails again until the caller corrects the guest's state.
///
/// # The manual
///
/// "SDM" is the Intel 64 and IA-32 Architectures Software Developer's Manual, order number 325462-080US (June 2023). Later
/// editions count chapters otherwise; the titles of sections stay.
///
/// # Example
///
/// ```no_run
/// use axaddrspace::{GuestPhysAddr, HostPhysAddr};
/// use axerrno::AxResult;
/// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
/// use x86_vcpu::{PhysFrameHal, StartState, VmxVcpu};
///
/// /// VMX is enabled on this processor. `ept_root` is the EPT that maps the guest's memory.
/// fn run_to_the_end(ept_root: HostPhysAddr) -> AxResult {
///     let mut vcpu = VmxVcpu::<PhysFrameHal>::new(0, 0)?;
///     vcpu.set_start_state(StartState::Protected32 { entry: 0x10_0000 })?;
///     vcpu.setup(ept_root, GuestPhysAddr::from(0))?;
///     vcpu.bind()?; // from here to `unbind` it is this processor's
///     loop {
///         match vcpu.run()? {
///             Exit::Nothing => {}                // handled in the crate, or the end of a time slice
///             Exit::Halt | Exit::SystemDown => break, // HLT; shutdown
///             other => {
///                 log::error!("{other:?}: {:?} in {vcpu:?}", vcpu.exit());
///                 break;
///             }
///         }
///     }
///     vcpu.unbind()
/// }
/// ```
#[doc(alias("shutdown", "guest", "vcpu"))]
pub struct Vcpu<B: Backend> {
    pub(crate) backend: B,
    identity: Identity,
    pub(crate) start: Start,
    ept: EptRoot,
    events: EventSlots,
    completion: Completion,
    string: StringInstruction,
    mmio: Mmio,
    cpuid: GuestCpuid,
    msrs: Msrs,
    control_registers: ControlRegisters,
    debug: DebugRegisters,
    pub(crate) xstate: XState,
    pub(crate) intercepts: Intercepts,
    time: Time,
    pub(crate) speculation: SpeculationPolicy,
    /// What the processor's walks through the guest's page tables take from CPUID.
    paging_support: PagingSupport,
}

#[derive(Debug)]
struct Identity {
    vm_id: usize,
    id: usize,
}

// SAFETY: the backend checks that every access to the guest's state is made on the right processor.
unsafe impl<B: Backend> Send for Vcpu<B> {}

/// # General registers and identity
impl<B: Backend> Vcpu<B> {
    /// Puts a vCPU together.
    pub(crate) fn with_backend(mut backend: B, vm_id: usize, vcpu_id: usize) -> AxResult<Self> {
        io::intercept_defaults(&mut backend)?;
        msrs::intercept_defaults(&mut backend)?;
        Ok(Self {
            msrs: Msrs::with_defaults(msrs::virtualized_msrs::<B>()),
            backend,
            identity: Identity { vm_id, id: vcpu_id },
            start: Start::default(),
            ept: EptRoot::default(),
            events: EventSlots::default(),
            completion: Completion::default(),
            string: StringInstruction::default(),
            mmio: Mmio::default(),
            cpuid: GuestCpuid::default(),
            control_registers: ControlRegisters::default(),
            debug: DebugRegisters::default(),
            xstate: XState::new()?,
            intercepts: Intercepts::default(),
            time: Time::default(),
            speculation: SpeculationPolicy::for_this_processor(),
            paging_support: PagingSupport::of_this_processor(),
        })
    }

    /// What the next entry must do first.
    #[inline(always)]
    pub(crate) fn requests(&self) -> &Requests {
        self.backend.requests()
    }

    /// The general registers but RSP, for which see [`stack_pointer`](Self::stack_pointer).
    pub fn regs(&self) -> &GeneralRegisters {
        self.backend.regs()
    }

    /// The general registers but RSP, to be changed. What is written is what the guest has from its next entry on.
    pub fn regs_mut(&mut self) -> &mut GeneralRegisters {
        self.backend.regs_mut()
    }

    /// The vCPU's id, as it was made with.
    pub fn id(&self) -> usize {
        self.identity.id
    }

    /// The id of the vCPU's VM.
    pub fn vm_id(&self) -> usize {
        self.identity.vm_id
    }
}
