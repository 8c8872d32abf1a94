//! Events for the guest: what waits, in which order it goes, and what an exit interrupted.
//!
//! One event can be injected at an entry; [`event_queue`](super::event_queue) has the order. What the guest cannot take yet
//! is kept, and a window exit asked for.

use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuHal;

use crate::ept::EptViolation;
use crate::regs::rflags;
use crate::rules::control_registers::CR0_PE;
use crate::rules::interruption::{ErrorCode, VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector;
use crate::vcpu::event_queue::{Class, Event};
use crate::vmx::capability::PrimaryControls;
use crate::vmx::definitions::VmxExitReason;
use crate::vmx::vcpu::VmxVcpu;
use crate::vmx::vmcs::Here;
use crate::vmx::vmcs::{VmcsControl32, VmcsGuest32, VmcsGuestNW, VmcsReadOnly32, due};

/// The exceptions that are faults whatever raised them: #DE, #BR, #UD, #NM, #TS, #NP, #SS, #GP, #PF, #MF, #AC, #XM, #VE, #CP.
pub(crate) const FAULTS: u32 = 0x003B_7CE1;

/// Bits of the guest's interruptibility state (SDM Vol. 3C, table 25-3, "Format of Interruptibility State").
pub(crate) mod blocking {
    pub(crate) const BY_STI: u32 = 1 << 0;
    pub(crate) const BY_MOV_SS: u32 = 1 << 1;
    pub(crate) const BY_NMI: u32 = 1 << 3;
    pub(crate) const BY_SHADOW: u32 = BY_STI | BY_MOV_SS;
}

impl<H: AxVCpuHal> VmxVcpu<H> {
    /// Queues an event for the guest: an exception for vectors 0 to 31 (2 is NMI), an external interrupt for those
    /// above. It is injected before a later entry, as soon as the guest can take it.
    ///
    /// An error code is pushed for the vectors that have one and where the mode pushes them; one given for another
    /// vector is dropped, and one not given is 0. For an external interrupt with a vector below 32, as a 8259 in real
    /// mode uses, see [`inject_interrupt`](axvcpu::AxArchVCpu::inject_interrupt).
    pub fn queue_event(&mut self, vector: u8, err_code: Option<u32>) {
        let info = VmxInterruptInfo::from(vector, err_code);
        self.queue(Event::new(info));
    }

    /// Queues an external interrupt with any vector. One with a vector that waits already is the same, as in a local APIC.
    ///
    /// # Errors
    /// `InvalidInput` for a vector above 255.
    pub fn queue_interrupt(&mut self, vector: usize) -> AxResult {
        let Ok(vector) = u8::try_from(vector) else {
            return ax_err!(InvalidInput, "an interrupt vector has 8 bits");
        };
        self.queue(Event::interrupt(vector));
        Ok(())
    }

    /// Queues an event of any type: interrupts, NMI, exceptions, and those that an instruction raises (INT *n*, INT1, INT3,
    /// INTO), for which `instruction_length` is the length of the instruction in bytes, 1 to 15; RIP is the instruction's,
    /// and the guest's handler returns behind it. For other types it is 0. An exception that has an error code, and comes
    /// without one, gets 0.
    ///
    /// # Errors
    /// `InvalidInput` for what no processor delivers, and an entry would refuse: an NMI with another vector than 2, an
    /// exception above 31, an error code of an event that has none or of more than 15 bits, a software exception that is
    /// not INT1, INT3 or INTO, a type without meaning.
    pub fn inject_event(&mut self, event: VmxInterruptInfo, instruction_length: u8) -> AxResult {
        self.queue(Event::checked(event, instruction_length)?);
        Ok(())
    }

    /// The event whose delivery the last exit interrupted, taken out of the queue: for a caller that delivers it itself,
    /// as in a task switch through a task gate. Otherwise it is delivered again at the next entry.
    pub fn take_interrupted_event(&mut self) -> Option<VmxInterruptInfo> {
        let event = self.events.take_interrupted()?;
        if event.info.int_type == VmxInterruptionType::NMI
            && let Ok(state) = self.vmcs.read(VmcsGuest32::INTERRUPTIBILITY_STATE)
        {
            // For its injection it was unblocked; whoever delivers it otherwise is in the NMI's handler then.
            self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state | blocking::BY_NMI);
        }
        Some(event.info)
    }

    /// Whether the guest would take an external interrupt at once: RFLAGS.IF is set, no STI or MOV SS holds it off, and
    /// nothing waits before it. A host with an interrupt controller asks this before it acknowledges an interrupt, and
    /// calls [`set_interrupt_window`](Self::set_interrupt_window) if the answer is no.
    pub fn ready_for_interrupt(&self) -> AxResult<bool> {
        if self.events.has(Class::Exception) || self.events.has(Class::Interrupt) {
            return Ok(false);
        }
        if self.events.has(Class::Nmi) && self.vmcs.read(VmcsGuest32::INTERRUPTIBILITY_STATE)? & blocking::BY_NMI == 0 {
            return Ok(false);
        }
        let open = self.vmcs.read(VmcsGuestNW::RFLAGS)? & rflags::IF != 0;
        Ok(open && self.interrupt_shadow()? == 0)
    }

    /// Asks for an exit as soon as the guest can take an external interrupt, or takes that back. The exit itself comes
    /// back as handled, with the window closed again.
    pub fn set_interrupt_window(&mut self, enable: bool) -> AxResult {
        self.set_primary(PrimaryControls::INTERRUPT_WINDOW_EXITING, enable);
        Ok(())
    }

    /// The same for NMIs.
    pub(crate) fn set_nmi_window(&mut self, enable: bool) {
        self.set_primary(PrimaryControls::NMI_WINDOW_EXITING, enable);
    }

    fn set_primary(&mut self, control: PrimaryControls, enable: bool) {
        let old = self.vmcs.known(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS).unwrap_or_default();
        let new = if enable { old | control.bits() } else { old & !control.bits() };
        self.vmcs.write_changed(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS, new);
    }

    /// STI and MOV SS blocking that holds at the next entry: none if an instruction is completed by then.
    fn interrupt_shadow(&self) -> AxResult<u32> {
        if self.shadow_end.is_noted() || self.completion.is_some() {
            return Ok(0);
        }
        Ok(self.vmcs.read(VmcsGuest32::INTERRUPTIBILITY_STATE)? & blocking::BY_SHADOW)
    }

    /// Makes the end of an interrupt shadow known to the processor, where it matters.
    pub(crate) fn settle_shadow(&mut self, here: Here) -> AxResult {
        if self.shadow_end.is_noted() {
            self.shadow_end.forget();
            let state = self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)?;
            if state & blocking::BY_SHADOW != 0 {
                self.vmcs.write(VmcsGuest32::INTERRUPTIBILITY_STATE, state & !blocking::BY_SHADOW);
            }
        }
        Ok(())
    }

    /// Puts an external interrupt that waits alone into the VMCS, if the guest takes it now, and completes the instruction of
    /// the last exit, if that means nothing but to move RIP. `false` if it is for the careful way, which goes on where this
    /// stopped. To be called where nothing else is [due], so that no field was written since the exit.
    pub(crate) fn inject_quickly(&mut self, here: Here) -> bool {
        let Some(vector) = self.events.lone_interrupt() else { return false };
        let flags = self.vmcs.peek(here, VmcsGuestNW::RFLAGS);
        if self.may_be_inactive || flags & (rflags::IF | rflags::TF) != rflags::IF {
            return false;
        }
        let state = self.vmcs.peek(here, VmcsGuest32::INTERRUPTIBILITY_STATE);
        if self.completion.is_some() {
            if !self.vmcs.skip_instruction::<false>(here) {
                return false;
            }
            self.completion = None;
            self.shadow_end.note();
        }
        let blocked = state & blocking::BY_SHADOW != 0;
        if blocked && !self.shadow_end.is_noted() {
            return false;
        }
        let unblocked = !blocked
            || self.vmcs.write_through(here, VmcsGuest32::INTERRUPTIBILITY_STATE, state & !blocking::BY_SHADOW);
        let event = VmxInterruptInfo::external(vector).bits();
        unblocked && self.vmcs.write_through(here, VmcsControl32::VMENTRY_INTERRUPTION_INFO, event)
    }

    /// Puts the next event that the guest can take into the VMCS, and asks for a window for one that it cannot.
    pub(crate) fn inject_pending_events(&mut self, here: Here) -> AxResult {
        self.events.begin_entry();
        if self.events.is_empty() {
            if self.has_open_window() {
                self.settle_shadow(here)?;
            }
            return Ok(());
        }
        self.settle_shadow(here)?;
        let candidates = self.events.candidates();
        let is_debug_exception = candidates[0].is_some_and(|event| event.info.vector == vector::DB);
        if self.is_trap_due() && !is_debug_exception {
            // The debug trap of the instruction before goes first, and an injected event would take its place (SDM Vol. 3C,
            // 27.7.3 "Delivery of Pending Debug Exceptions after VM Entry"). It exits, and the others follow it.
            return Ok(());
        }
        for event in candidates.into_iter().flatten() {
            if self.is_deliverable(here, &event)? && self.activate_for(here, &event)? {
                self.inject(here, event)?;
                self.events.take(event);
                break;
            }
        }
        self.open_windows(here)
    }

    /// Whether an exit was asked for, when the guest can take an interrupt or NMI.
    pub(crate) fn has_open_window(&self) -> bool {
        let primary = self.vmcs.known(VmcsControl32::PRIMARY_PROCBASED_EXEC_CONTROLS).unwrap_or_default();
        let windows = PrimaryControls::INTERRUPT_WINDOW_EXITING | PrimaryControls::NMI_WINDOW_EXITING;
        primary & windows.bits() != 0
    }

    /// What still waits gets its window. An exception needs none: it is injected at the next entry.
    fn open_windows(&mut self, here: Here) -> AxResult {
        if self.events.has(Class::Nmi) {
            // STI can hold off an NMI, but not the exit of its window, which would come again and again; the window for
            // interrupts opens when STI's effect ends, and STI has set IF.
            match self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)? & blocking::BY_STI {
                0 => self.set_nmi_window(true),
                _ => self.set_interrupt_window(true)?,
            }
        }
        if self.events.has(Class::Interrupt) {
            self.set_interrupt_window(true)?;
        }
        Ok(())
    }

    /// The completion of an instruction has left a debug trap to be delivered by the entry, which it has looked for then:
    /// its own, or one that MOV SS held off until its end. Behind other exits there is none, but in the shadow of MOV SS, where
    /// it waits on.
    fn is_trap_due(&self) -> bool {
        /// BS, and a breakpoint that is enabled.
        const TRAPS: usize = 1 << 14 | 1 << 12;
        self.vmcs.known(VmcsGuestNW::PENDING_DBG_EXCEPTIONS).is_some_and(|pending| pending & TRAPS != 0)
    }

    fn is_deliverable(&self, here: Here, event: &Event) -> AxResult<bool> {
        let blocked_by = match event.info.int_type {
            VmxInterruptionType::External => {
                if self.vmcs.get(here, VmcsGuestNW::RFLAGS)? & rflags::IF == 0 {
                    return Ok(false);
                }
                blocking::BY_SHADOW
            }
            VmxInterruptionType::NMI => blocking::BY_SHADOW | blocking::BY_NMI,
            _ => return Ok(true),
        };
        Ok(self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)? & blocked_by == 0)
    }

    /// Whether the guest's activity state lets it take the event, after it was woken from HLT where only some events may be
    /// injected (SDM Vol. 3C, 27.3.1.5 "Checks on Guest Non-Register State").
    ///
    /// A guest is active after each exit, unless HLT does not exit or the caller has written the field.
    fn activate_for(&mut self, here: Here, event: &Event) -> AxResult<bool> {
        const ACTIVE: u32 = 0;
        const HLT: u32 = 1;
        if !self.may_be_inactive {
            return Ok(true);
        }
        let activity = self.vmcs.get(here, VmcsGuest32::ACTIVITY_STATE)?;
        if activity == HLT && event.info.int_type != VmxInterruptionType::External {
            self.vmcs.write(VmcsGuest32::ACTIVITY_STATE, ACTIVE);
        }
        Ok(matches!(activity, ACTIVE | HLT))
    }

    fn inject(&mut self, here: Here, mut event: Event) -> AxResult {
        let info = &mut event.info;
        if info.int_type == VmxInterruptionType::HardException || info.err_code.is_some() {
            let protected = self.vmcs.get(here, VmcsGuestNW::CR0)? as u64 & CR0_PE != 0;
            let rule = ErrorCode::rule(info.int_type, info.vector, protected, self.controls.any_error_code);
            let wanted = VmxInterruptionType::vector_has_error_code(info.vector) && rule != ErrorCode::Forbidden;
            // The field takes 15 bits (SDM Vol. 3C, section 27.2.1.3, "VM-Entry Control Fields").
            info.err_code = wanted.then(|| info.err_code.unwrap_or(0) & 0x7FFF);
        }
        if event.info.int_type == VmxInterruptionType::HardException
            && FAULTS.unbounded_shr(event.info.vector.into()) & 1 != 0
        {
            // A fault pushes RFLAGS with RF set, so that a breakpoint on its instruction is not hit twice; an injected one
            // pushes what the VMCS holds (SDM Vol. 3C, section 27.6.1.1, "Details of Vectored-Event Injection").
            let flags = self.vmcs.get(here, VmcsGuestNW::RFLAGS)?;
            self.vmcs.write_changed(VmcsGuestNW::RFLAGS, flags | rflags::RF);
        }
        if let Some(code) = event.info.err_code {
            self.vmcs.write_changed(VmcsControl32::VMENTRY_EXCEPTION_ERR_CODE, code);
        }
        if event.info.int_type.is_soft() {
            self.vmcs.write_changed(VmcsControl32::VMENTRY_INSTRUCTION_LEN, event.instruction_length);
        }
        self.vmcs.write(VmcsControl32::VMENTRY_INTERRUPTION_INFO, event.info.bits());
        Ok(())
    }

    /// Keeps an event whose delivery this exit interrupted, for the next entry.
    ///
    /// Only some exits can come in the middle of event delivery (SDM Vol. 3C, section 28.2.4, "Information for VM Exits
    /// During Event Delivery"); for the others the field is not valid and is not read. The field has the layout of the
    /// one for injection, but for bit 12.
    pub(crate) fn keep_interrupted_event(&mut self, here: Here, reason: VmxExitReason) -> AxResult {
        let possible = matches!(
            reason,
            VmxExitReason::EXCEPTION_NMI
                | VmxExitReason::TASK_SWITCH
                | VmxExitReason::APIC_ACCESS
                | VmxExitReason::EPT_VIOLATION
                | VmxExitReason::EPT_MISCONFIG
                | VmxExitReason::PML_FULL
                | VmxExitReason::SPP_EVENT
        );
        if !possible {
            return Ok(());
        }
        let bits = self.vmcs.get(here, VmcsReadOnly32::IDT_VECTORING_INFO)?;
        if bits & VmxInterruptInfo::VALID == 0 {
            return self.block_nmis_again(here, reason);
        }
        let code = match bits & VmxInterruptInfo::ERROR_CODE_VALID {
            0 => 0,
            _ => self.vmcs.get(here, VmcsReadOnly32::IDT_VECTORING_ERR_CODE)?,
        };
        let info = VmxInterruptInfo::from_bits(bits, code);
        let instruction_length =
            if info.int_type.is_soft() { self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INSTRUCTION_LEN)? } else { 0 };
        if info.int_type == VmxInterruptionType::NMI {
            // The NMI's delivery set the blocking; injecting it again wants it clear, and sets it again.
            let state = self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)?;
            self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state & !blocking::BY_NMI);
        }
        self.events.interrupt(Event { info, instruction_length });
        self.take_care();
        Ok(())
    }

    /// An IRET that faulted or exited after it had unblocked NMIs is executed again, with NMIs blocked as before (SDM Vol.
    /// 3C, section 28.2.3, "Information About NMI Unblocking Due to IRET").
    fn block_nmis_again(&mut self, here: Here, reason: VmxExitReason) -> AxResult {
        let unblocked = match reason {
            VmxExitReason::EPT_VIOLATION | VmxExitReason::PML_FULL | VmxExitReason::SPP_EVENT => {
                let qualification = EptViolation::from_qualification(self.qualification(here)?);
                qualification.contains(EptViolation::NMI_UNBLOCKING)
            }
            VmxExitReason::EXCEPTION_NMI => {
                const DOUBLE_FAULT: u32 = 8;
                let bits = self.vmcs.get(here, VmcsReadOnly32::VMEXIT_INTERRUPTION_INFO)?;
                bits & VmxInterruptInfo::NMI_UNBLOCKING != 0 && bits & 0xFF != DOUBLE_FAULT
            }
            _ => false,
        };
        if unblocked {
            let state = self.vmcs.get(here, VmcsGuest32::INTERRUPTIBILITY_STATE)?;
            self.vmcs.write_changed(VmcsGuest32::INTERRUPTIBILITY_STATE, state | blocking::BY_NMI);
        }
        Ok(())
    }

    /// Gives the guest a fault of the instruction that it is at.
    pub(crate) fn inject_fault(&mut self, vector: u8, err_code: Option<u32>) {
        self.queue(Event::new(VmxInterruptInfo {
            vector,
            int_type: VmxInterruptionType::HardException,
            err_code,
            valid: true,
        }));
    }

    #[inline(always)]
    fn queue(&mut self, event: Event) {
        if self.events.push(event) {
            self.vmcs.set_due(due::INTERRUPT);
        } else {
            self.take_care();
        }
    }
}
