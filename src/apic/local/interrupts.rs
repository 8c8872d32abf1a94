//! The interrupts that wait and those that are served.
//!
//! SDM Vol. 3A, 11.8.3 "Interrupt, Task, and Processor Priority", 11.8.4 "Interrupt Acceptance for Fixed Interrupts", and
//! 11.8.5 "Signaling Interrupt Servicing Completion".

use super::LocalApic;
use super::errors::RECEIVE_ILLEGAL_VECTOR;
use super::lvt::Entry;
use super::register::SPURIOUS_NO_BROADCAST;
use crate::apic::effect::Effect;
use crate::apic::message::{Delivery, Trigger};

/// Vectors below are the processor's exceptions; an APIC delivers none of them.
pub(super) const FIRST_VECTOR: u8 = 16;

impl LocalApic {
    /// The vector of the interrupt that the processor is to take next; `None` while its priority does not allow any.
    pub fn pending(&self) -> Option<u8> {
        if !self.is_present() {
            return None;
        }
        self.requested.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// The processor takes the interrupt that [`pending`](Self::pending) says; it is served from now on, until its end is
    /// signalled.
    ///
    /// To be called when the vCPU can take it ([`VmxVcpu::ready_for_interrupt`](crate::VmxVcpu::ready_for_interrupt)): until
    /// then, one with a higher priority can come.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.set(vector, false);
        self.in_service.set(vector, true);
        Some(vector)
    }

    /// An interrupt for this APIC. It is ignored while the APIC is disabled.
    pub fn receive(&mut self, vector: u8, trigger: Trigger) {
        if !self.is_enabled() {
            return;
        }
        if vector < FIRST_VECTOR {
            return self.note_error(RECEIVE_ILLEGAL_VECTOR);
        }
        self.requested.set(vector, true);
        self.level.set(vector, trigger == Trigger::Level);
    }

    /// PPR.
    pub(super) fn processor_priority(&self) -> u8 {
        let served = self.in_service.highest().unwrap_or(0);
        if self.task_priority >> 4 >= served >> 4 { self.task_priority } else { served & 0xF0 }
    }

    /// The guest has written EOI.
    pub(super) fn end_interrupt(&mut self) -> Option<Effect> {
        let vector = self.in_service.highest()?;
        self.in_service.set(vector, false);
        let tells = self.level.contains(vector) && self.spurious & SPURIOUS_NO_BROADCAST == 0;
        tells.then_some(Effect::EndOfInterrupt { vector })
    }

    /// Keeps what the local vector table delivers, if it is an interrupt.
    pub(super) fn receive_local(&mut self, delivery: Delivery) -> Option<Delivery> {
        let Delivery::Fixed { vector, trigger } = delivery else { return Some(delivery) };
        self.receive(vector, trigger);
        None
    }

    pub(super) fn note_error(&mut self, error: u32) {
        if self.errors.note(error)
            && let Some(delivery) = self.lvt.delivery(Entry::Error)
        {
            self.receive_local(delivery);
        }
    }
}
