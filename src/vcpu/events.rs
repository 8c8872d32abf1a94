//! Events for the guest: the one place where they are injected, and what an exit interrupted.
//!
//! One event can be injected at an entry. The [`event_slots`](super::parts::event_slots) have the order. An event that the
//! guest cannot take yet waits, and the vCPU asks for a window exit.

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, blocking};
use super::parts::event_slots::{Class, Event};
use super::parts::exit_kind::ExitKind;
use super::parts::requests::Request;
use crate::guest_memory::GuestException;
use crate::regs::rflags;
use crate::rules::debug::DR6_BS;
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector::{self, FAULTS};

/// # Events
///
/// Interrupts, NMIs and exceptions. Each waits in the vCPU until the guest can take it.
impl<B: Backend> Vcpu<B> {
    /// Queues an event for the guest: an exception for vectors 0 to 31 (2 is NMI), an external interrupt for those
    /// above. An entry injects it as soon as the guest can take it.
    ///
    /// An error code is pushed for the vectors that have one, where the mode pushes them. One given for another vector is
    /// dropped, and one not given is 0. [`queue_interrupt`](Self::queue_interrupt) is for an external interrupt with a vector
    /// below 32, as an 8259 in real mode uses. Where eight exceptions wait already, another one is dropped and logged;
    /// [`inject_event`](Self::inject_event) gives an error for that.
    pub fn queue_event(&mut self, vector: u8, err_code: Option<u32>) {
        let event = Event::new(VmxInterruptInfo::from(vector, err_code));
        if self.queue(event).is_err() {
            log::warn!("vCPU {}: {event:?} is dropped", self.id());
        }
    }

    /// Queues an external interrupt with any vector, 0 to 255. A vector that waits already waits once, as in a local APIC.
    ///
    /// # Errors
    /// `InvalidInput` for a vector above 255.
    pub fn queue_interrupt(&mut self, vector: usize) -> AxResult {
        let Ok(vector) = u8::try_from(vector) else {
            return ax_err!(InvalidInput, "an interrupt vector has 8 bits");
        };
        self.queue(Event::interrupt(vector))
    }

    /// Queues an event of any type: an interrupt, an NMI, an exception, or what an instruction raises (INT *n*, INT1, INT3, INTO).
    ///
    /// `instruction_length` is the length in bytes, 1 to 15, of the instruction that raises the event, and 0 for other types. RIP
    /// is the instruction's, and the guest's handler returns to the instruction after it. An exception that has an error code,
    /// and comes without one, gets 0.
    ///
    /// # Errors
    /// `ResourceBusy` where eight exceptions wait already. `InvalidInput` for what an entry refuses (SDM Vol. 3C, 27.2.1.3 "VM-Entry
    /// Control Fields"):
    ///
    /// - an NMI with another vector than 2, an exception above 31, or a type without meaning;
    /// - an error code of more than 15 bits, or of an event that has none;
    /// - a software exception that is not INT1, INT3 or INTO.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use x86_vcpu::vmx::{VmxInterruptInfo, VmxInterruptionType};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// Each of these waits in the vCPU until the guest can take it.
    /// fn inject_all_sorts(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
    ///     vcpu.queue_interrupt(0x30)?;          // an external interrupt, when RFLAGS.IF allows it
    ///     vcpu.queue_event(2, None);            // an NMI, when none is blocked
    ///     vcpu.queue_event(13, Some(0));        // #GP(0), at the next entry
    ///     // INT3, one byte long, as if the guest had executed it.
    ///     let breakpoint = VmxInterruptInfo { vector: 3, int_type: VmxInterruptionType::SoftException, err_code: None, valid: true };
    ///     vcpu.inject_event(breakpoint, 1)
    /// }
    /// ```
    #[doc(alias("interrupt", "exception", "nmi", "int3"))]
    pub fn inject_event(&mut self, event: VmxInterruptInfo, instruction_length: u8) -> AxResult {
        self.queue(Event::checked(event, instruction_length)?)
    }

    /// Takes the event whose delivery the last exit interrupted out of the queue. This is for a caller that delivers it itself,
    /// as in a task switch through a task gate. Otherwise the next entry delivers it again.
    pub fn take_interrupted_event(&mut self) -> Option<VmxInterruptInfo> {
        let event = self.events.take_requeued(self.backend.requests())?;
        if event.class() == Class::Nmi
            && let Ok(state) = self.backend.read(Anywhere, GuestField::INTERRUPTIBILITY)
        {
            // For its injection it was unblocked; whoever delivers it otherwise is in the NMI's handler then.
            self.backend.write(GuestField::INTERRUPTIBILITY, state | blocking::BY_NMI);
        }
        Some(event.info)
    }

    /// Whether the guest would take an external interrupt at once: RFLAGS.IF is set, no STI or MOV SS blocks it, and no
    /// other event waits before it. A caller with an interrupt controller asks this before it acknowledges an interrupt, and
    /// calls [`set_interrupt_window`](Self::set_interrupt_window) if the answer is no.
    ///
    /// # Errors
    /// `BadState` where the guest's state cannot be read.
    pub fn ready_for_interrupt(&self) -> AxResult<bool> {
        if self.events.has(Class::Exception) || self.events.has(Class::Interrupt) {
            return Ok(false);
        }
        let state = |field| self.backend.read(Anywhere, field);
        if self.events.has(Class::Nmi) && state(GuestField::INTERRUPTIBILITY)? & blocking::BY_NMI == 0 {
            return Ok(false);
        }
        if state(GuestField::RFLAGS)? & rflags::IF == 0 {
            return Ok(false);
        }
        // A shadow is over once an instruction is completed.
        let over = self.completion.has_ended_shadow() || self.completion.is_pending();
        Ok(over || state(GuestField::INTERRUPTIBILITY)? & blocking::BY_SHADOW == 0)
    }

    /// Opens or closes the interrupt window: while it is open, the guest exits as soon as it can take an external interrupt. `run`
    /// reports that exit as `Nothing`, and the window is closed again.
    ///
    /// # Errors
    /// None at present.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// An interrupt controller of the caller's, such as a pair of 8259.
    /// trait Controller {
    ///     /// Whether a line is asserted that the guest has not masked.
    ///     fn is_pending(&self) -> bool;
    ///     /// What the processor's acknowledge cycle does: the interrupt is in service now, and this is its vector.
    ///     fn acknowledge(&mut self) -> u8;
    /// }
    ///
    /// /// The controller is asked for its vector only when the guest takes the interrupt at once.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, controller: &mut impl Controller) -> AxResult<AxVCpuExitReason> {
    ///     if controller.is_pending() && vcpu.ready_for_interrupt()? {
    ///         let vector = controller.acknowledge();
    ///         vcpu.queue_interrupt(vector.into())?;
    ///     }
    ///     // One that still waits: exit, as `Nothing`, when the guest can take it.
    ///     vcpu.set_interrupt_window(controller.is_pending())?;
    ///     vcpu.run()
    /// }
    /// ```
    #[doc(alias("pic", "8259"))]
    pub fn set_interrupt_window(&mut self, enable: bool) -> AxResult {
        self.backend.set_interrupt_window(enable);
        self.update_window_request();
        Ok(())
    }
}

// How the crate injects them.
impl<B: Backend> Vcpu<B> {
    /// Puts the next event that the guest can take where the entry injects it, and asks for a window for one that it cannot.
    pub(crate) fn inject_pending_events(&mut self, current: B::Current) -> AxResult {
        let nmis_blocked = self.events.has_second_nmi()
            && self.backend.read(current, GuestField::INTERRUPTIBILITY)? & blocking::BY_NMI != 0;
        self.events.begin_entry(nmis_blocked);
        self.events.update(self.backend.requests());
        if self.events.is_empty() {
            if self.backend.has_open_window() {
                self.sync_interrupt_shadow(current)?;
            }
            return Ok(());
        }
        self.sync_interrupt_shadow(current)?;
        let candidates = self.events.candidates();
        let is_debug_exception = candidates[0].is_some_and(|event| event.info.vector == vector::DB);
        if self.is_trap_due() && !is_debug_exception {
            // The debug trap of the instruction before goes first, and an injected event would take its place (SDM Vol. 3C,
            // 27.7.3 "Delivery of Pending Debug Exceptions after VM Entry"). It exits, and the others follow it.
            return Ok(());
        }
        for event in candidates.into_iter().flatten() {
            if self.is_deliverable(current, &event)? && self.activate_for(current, &event)? {
                self.inject(current, event)?;
                break;
            }
        }
        self.events.update(self.backend.requests());
        self.open_windows(current)
    }

    /// Injects an external interrupt that waits with no other event, if the guest takes it now. Completes the instruction
    /// of the last exit, if that means nothing but to move RIP. `false` if the event is left to
    /// [`inject_pending_events`](Self::inject_pending_events), which continues where this stopped.
    ///
    /// The caller makes sure that nothing else is [requested](super::parts::requests), so that no field was written since the
    /// exit.
    #[inline(always)]
    pub(crate) fn inject_interrupt_by_skip(&mut self, current: B::Current) -> bool {
        let Some(vector) = self.events.only_interrupt() else { return false };
        let flags = self.backend.read_now(current, GuestField::RFLAGS);
        if self.start.may_be_inactive() || flags & (rflags::IF | rflags::TF) != rflags::IF {
            return false;
        }
        let state = self.backend.read_now(current, GuestField::INTERRUPTIBILITY);
        if !self.complete_by_skip_without_tf(current) {
            return false;
        }
        let blocked = state & blocking::BY_SHADOW != 0;
        if blocked && !self.completion.has_ended_shadow() {
            return false;
        }
        let unblocked =
            !blocked || self.backend.write_now(current, GuestField::INTERRUPTIBILITY, state & !blocking::BY_SHADOW);
        let injected = unblocked && self.backend.inject_interrupt_now(current, vector);
        if injected {
            self.events.inject_only_interrupt(self.backend.requests(), vector);
        }
        injected
    }

    /// Injects an event at the next entry.
    fn inject(&mut self, current: B::Current, event: Event) -> AxResult {
        if event.info.int_type == VmxInterruptionType::HardException
            && FAULTS.unbounded_shr(event.info.vector.into()) & 1 != 0
        {
            // A fault pushes RFLAGS with RF set, so that a breakpoint on its instruction is not hit twice; an injected one
            // pushes what the guest's state holds (SDM Vol. 3C, section 27.6.1.1, "Details of Vectored-Event Injection").
            let flags = self.backend.read(current, GuestField::RFLAGS)?;
            self.backend.write(GuestField::RFLAGS, flags | rflags::RF);
        }
        self.backend.inject(current, &event)?;
        self.events.inject(event);
        Ok(())
    }

    /// Opens windows for the events that still wait. An exception needs none: the next entry injects it.
    fn open_windows(&mut self, current: B::Current) -> AxResult {
        if self.events.has(Class::Nmi) {
            // STI can hold off an NMI, but not the exit of its window, which would come again and again; the window for
            // interrupts opens when STI's effect ends, and STI has set IF.
            match self.backend.read(current, GuestField::INTERRUPTIBILITY)? & blocking::BY_STI {
                0 => self.backend.set_nmi_window(true),
                _ => self.backend.set_interrupt_window(true),
            }
        }
        if self.events.has(Class::Interrupt) {
            self.backend.set_interrupt_window(true);
        }
        self.update_window_request();
        Ok(())
    }

    /// An exit for an open window: closes it.
    pub(crate) fn close_window(&mut self, kind: ExitKind) {
        match kind {
            ExitKind::NmiWindow => self.backend.set_nmi_window(false),
            _ => self.backend.set_interrupt_window(false),
        }
        self.update_window_request();
    }

    pub(crate) fn update_window_request(&self) {
        self.requests().set_to(Request::WINDOW, self.backend.has_open_window());
    }

    /// The completion of an instruction has left a debug trap to be delivered by the entry, which it has looked for then:
    /// its own, or one that MOV SS held off until its end. After other exits there is none, but in the shadow of MOV SS, where
    /// it waits on.
    fn is_trap_due(&self) -> bool {
        /// BS, and a breakpoint that is enabled.
        const TRAPS: u64 = DR6_BS | 1 << 12;
        self.backend.cached(GuestField::PENDING_DEBUG).is_some_and(|pending| pending & TRAPS != 0)
    }

    fn is_deliverable(&self, current: B::Current, event: &Event) -> AxResult<bool> {
        let blocked_by = match event.class() {
            Class::Interrupt => {
                if self.backend.read(current, GuestField::RFLAGS)? & rflags::IF == 0 {
                    return Ok(false);
                }
                blocking::BY_SHADOW
            }
            Class::Nmi => blocking::BY_SHADOW | blocking::BY_NMI,
            Class::Exception => return Ok(true),
        };
        Ok(self.backend.read(current, GuestField::INTERRUPTIBILITY)? & blocked_by == 0)
    }

    /// Whether the guest's activity state lets it take the event, after it was woken from HLT where only some events may be
    /// injected (SDM Vol. 3C, 27.3.1.5 "Checks on Guest Non-Register State").
    ///
    /// A guest is active after each exit, unless HLT does not exit or the caller has written the field.
    fn activate_for(&mut self, current: B::Current, event: &Event) -> AxResult<bool> {
        const ACTIVE: u64 = 0;
        const HLT: u64 = 1;
        if !self.start.may_be_inactive() {
            return Ok(true);
        }
        let activity = self.backend.read(current, GuestField::ACTIVITY)?;
        if activity == HLT && event.class() != Class::Interrupt {
            self.backend.write(GuestField::ACTIVITY, ACTIVE);
        }
        Ok(matches!(activity, ACTIVE | HLT))
    }

    /// Queues an event whose delivery this exit interrupted, for the next entry.
    #[inline(always)]
    pub(crate) fn requeue_vectoring_event(&mut self, current: B::Current, kind: ExitKind) -> AxResult {
        let Some(event) = self.backend.interrupted_event(current)? else {
            return self.restore_nmi_blocking(current, kind);
        };
        if event.class() == Class::Nmi {
            // The NMI's delivery set the blocking; injecting it again wants it clear, and sets it again.
            let state = self.backend.read(current, GuestField::INTERRUPTIBILITY)?;
            self.backend.write(GuestField::INTERRUPTIBILITY, state & !blocking::BY_NMI);
        }
        self.events.requeue(self.backend.requests(), event);
        Ok(())
    }

    /// An IRET that faulted or exited after it had unblocked NMIs is executed again, with NMIs blocked as before (SDM Vol.
    /// 3C, section 28.2.3, "Information About NMI Unblocking Due to IRET").
    #[inline(always)]
    fn restore_nmi_blocking(&mut self, current: B::Current, kind: ExitKind) -> AxResult {
        if self.backend.iret_unblocked_nmis(current, kind)? {
            let state = self.backend.read(current, GuestField::INTERRUPTIBILITY)?;
            self.backend.write(GuestField::INTERRUPTIBILITY, state | blocking::BY_NMI);
        }
        Ok(())
    }

    /// Gives the guest a fault of the instruction that it is at.
    pub(crate) fn inject_fault(&mut self, vector: u8, err_code: Option<u32>) -> AxResult {
        let int_type = VmxInterruptionType::HardException;
        self.queue(Event::new(VmxInterruptInfo { vector, int_type, err_code, valid: true }))
    }

    /// Gives the guest an exception in place of an instruction that is not completed.
    pub(crate) fn raise(&mut self, exception: GuestException) -> AxResult {
        self.inject_fault(exception.vector, exception.error_code)?;
        // An injected #PF does not write CR2.
        if let Some(address) = exception.cr2 {
            self.backend.set_cr2(address);
        }
        Ok(())
    }

    #[inline(always)]
    fn queue(&mut self, event: Event) -> AxResult {
        self.events.push(self.backend.requests(), event)
    }
}
