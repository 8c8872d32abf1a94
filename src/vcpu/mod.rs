//! A virtual CPU, whoever runs it.
//!
//! A [`Vcpu`] is about fifteen things, each with its own file, state and interface. [`run`] is one entry and one exit,
//! [`requests`](parts::requests) say why an entry is slow, [`exits`] is the one table of exits, [`events`] injects what the [`event_slots`](parts::event_slots)
//! hold, [`completion`] is the one mover of RIP. What an exit may be about has a file of its name. [`backend`] is the seam to
//! the processor's virtualization; no other file here knows which one it is.

pub(crate) mod backend;
pub(crate) mod completion;
pub(crate) mod control_registers;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod ept;
pub(crate) mod events;
pub(crate) mod exits;
pub(crate) mod guest_memory;
pub(crate) mod init;
pub(crate) mod intercepts;
pub(crate) mod io;
pub(crate) mod mmio;
pub(crate) mod mode;
pub(crate) mod msr_policy;
pub(crate) mod msrs;
pub(crate) mod parts;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod segments;
pub(crate) mod speculation;
pub(crate) mod start;
pub(crate) mod string_io;
pub(crate) mod time;
pub(crate) mod written;
pub(crate) mod xstate;

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
/// Its life: `new`, [`setup`](Self::setup), then any number of times `bind_to_current_processor`, runs, and
/// `unbind_from_current_processor`. Between unbind and bind it may move to another processor, unless it is
/// [kept loaded](crate::UnbindPolicy::KeepLoaded); it may move in memory at any time that it does not run.
///
/// While it is bound, everything that touches the guest's state is done on the processor that it is bound to; a call on
/// another one is an error. The host does not preempt the code that runs a vCPU in favour of code that binds another
/// one on the same processor, unless it unbinds this one first; interrupts may come at any time.
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
