//! The events that wait for the guest, in the order in which they go.
//!
//! Exceptions belong to an instruction and go first, then NMI, then external interrupts (SDM Vol. 3A, 6.9 "Prioritization
//! of Concurrent Events"); within a class, one whose delivery an exit interrupted goes before those that came later.

use alloc::collections::VecDeque;

use axerrno::{AxResult, ax_err};

use crate::rules::double_fault::{Combined, combine};
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector;

/// The longest instruction, in bytes.
const LONGEST_INSTRUCTION: u8 = 15;

/// An event that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) info: VmxInterruptInfo,
    /// For software interrupts and exceptions: the length in bytes of the instruction that raises them.
    pub(crate) instruction_length: u32,
}

/// The order of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Exception,
    Nmi,
    Interrupt,
}

impl Event {
    pub(crate) fn new(info: VmxInterruptInfo) -> Self {
        // INT3 and INTO that somebody else injects have no instruction; 1 byte is the length of either.
        let instruction_length = if info.int_type.is_soft() { 1 } else { 0 };
        Self { info, instruction_length }
    }

    /// An external interrupt.
    pub(crate) fn interrupt(vector: u8) -> Self {
        Self::new(VmxInterruptInfo::external(vector))
    }

    /// An event that a processor can deliver.
    ///
    /// # Errors
    /// `InvalidInput` for any other: see [`VmxVcpu::inject_event`](crate::VmxVcpu::inject_event).
    pub(crate) fn checked(info: VmxInterruptInfo, instruction_length: u8) -> AxResult<Self> {
        use VmxInterruptionType::*;
        let possible = info.valid
            && match info.int_type {
                External | SoftIntr => true,
                NMI => info.vector == vector::NMI,
                HardException => info.vector <= 31 && info.vector != vector::NMI,
                PrivSoftException => info.vector == vector::DB,
                SoftException => matches!(info.vector, vector::BP | vector::OF),
                Reserved | Other => false,
            };
        if !possible {
            return ax_err!(InvalidInput, format_args!("no processor delivers {info:?}"));
        }
        let has_code = info.int_type == HardException && VmxInterruptionType::vector_has_error_code(info.vector);
        if info.err_code.is_some_and(|code| !has_code || code > 0x7FFF) {
            return ax_err!(InvalidInput, format_args!("an error code that {info:?} cannot have"));
        }
        let lengths = if info.int_type.is_soft() { 1..=LONGEST_INSTRUCTION } else { 0..=0 };
        if !lengths.contains(&instruction_length) {
            return ax_err!(InvalidInput, format_args!("{instruction_length} bytes of instruction for {info:?}"));
        }
        Ok(Self { info, instruction_length: instruction_length.into() })
    }

    pub(crate) fn class(&self) -> Class {
        match self.info.int_type {
            VmxInterruptionType::NMI => Class::Nmi,
            VmxInterruptionType::External => Class::Interrupt,
            _ => Class::Exception,
        }
    }
}

/// Events in the order in which they are to be injected.
///
/// It holds at most one NMI, as a processor latches one, and each interrupt vector once beside one that was interrupted,
/// as a local APIC does: whatever a guest holds off, the queue stays small.
#[derive(Debug)]
pub(crate) struct EventQueue {
    /// An external interrupt that came when nothing else waited, as most do: a quick entry can inject it. Nothing else waits
    /// beside it.
    lone: Option<u8>,
    waiting: VecDeque<Event>,
    /// The one that the last entry injected.
    injected: Option<Event>,
    /// The one whose delivery the last exit interrupted, until the next entry.
    interrupted: Option<Event>,
    /// The exception of the last exit was given to the guest.
    reflected: bool,
}

impl EventQueue {
    /// What is interrupted or raised in a run goes in without asking for memory.
    pub(crate) fn new() -> Self {
        Self { lone: None, waiting: VecDeque::with_capacity(16), injected: None, interrupted: None, reflected: false }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lone.is_none() && self.waiting.is_empty() && self.interrupted.is_none()
    }

    pub(crate) fn has(&self, class: Class) -> bool {
        self.lone.is_some() && class == Class::Interrupt
            || self.waiting.iter().chain(&self.interrupted).any(|event| event.class() == class)
    }

    /// Nothing waits but perhaps a [lone interrupt](Self::lone_interrupt), and nothing is kept of the last exit.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.interrupted.is_none() && self.injected.is_none() && !self.reflected
    }

    /// The vector of an external interrupt that waits with nothing else beside it. It waits until
    /// [`lone_interrupt_was_injected`](Self::lone_interrupt_was_injected), or waits like any other from
    /// [`begin_entry`](Self::begin_entry) on.
    #[inline(always)]
    pub(crate) fn lone_interrupt(&self) -> Option<u8> {
        self.lone
    }

    #[inline(always)]
    pub(crate) fn lone_interrupt_was_injected(&mut self) {
        self.lone = None;
    }

    /// The guest was entered: what was to be injected was.
    pub(crate) fn entered(&mut self) {
        self.injected = None;
    }

    /// Nothing is injected yet for the next entry; what the last exit interrupted waits like the others.
    #[inline(always)]
    pub(crate) fn begin_entry(&mut self) {
        self.injected = None;
        self.reflected = false;
        self.join_lone();
        if let Some(event) = self.interrupted.take() {
            self.push_again(event);
        }
    }

    /// Takes in an event. Whether it is a [lone interrupt](Self::lone_interrupt) now.
    #[inline(always)]
    pub(crate) fn push(&mut self, event: Event) -> bool {
        let vector = event.info.vector;
        let is_lone = event.class() == Class::Interrupt && (self.is_empty() || self.lone == Some(vector));
        if is_lone {
            self.lone = Some(vector);
        } else {
            self.push_behind(event);
        }
        is_lone
    }

    fn push_behind(&mut self, event: Event) {
        self.join_lone();
        let class = event.class();
        let is_latched = match class {
            Class::Exception => false,
            Class::Nmi => self.waiting.iter().any(|waiting| waiting.class() == class),
            Class::Interrupt => self.waiting.contains(&event),
        };
        if is_latched {
            return;
        }
        let place = self.waiting.iter().position(|waiting| waiting.class() > class).unwrap_or(self.waiting.len());
        self.waiting.insert(place, event);
    }

    /// Takes in an event whose delivery this exit interrupted.
    pub(crate) fn interrupt(&mut self, event: Event) {
        self.interrupted = Some(event);
    }

    /// Takes out the event whose delivery this exit interrupted.
    pub(crate) fn take_interrupted(&mut self) -> Option<Event> {
        self.interrupted.take()
    }

    /// Takes in an exception that an exit kept from the guest, and that goes to the guest after all; once for each exit.
    pub(crate) fn reflect(&mut self, exception: Event) -> Option<Combined> {
        if core::mem::replace(&mut self.reflected, true) {
            return None;
        }
        let Some(first) = self.interrupted.take() else {
            // It belongs to where the guest is, before whatever else the caller has queued.
            self.push_again(exception);
            return Some(Combined::Second);
        };
        let combined = combine(&first.info, exception.info.vector);
        match combined {
            Combined::Second => {
                // What an instruction raises it raises again when it is executed again. An interrupt is gone unless it is
                // kept.
                if first.class() != Class::Exception {
                    self.push_again(first);
                }
                self.push_again(exception);
            }
            Combined::DoubleFault => self.push_again(Event::new(VmxInterruptInfo::from(vector::DF, Some(0)))),
            Combined::Shutdown => {}
        }
        Some(combined)
    }

    /// The first event of each class, in order. An NMI that is blocked does not hold off an interrupt, which has a
    /// blocking of its own.
    pub(crate) fn candidates(&self) -> [Option<Event>; 3] {
        [Class::Exception, Class::Nmi, Class::Interrupt]
            .map(|class| self.waiting.iter().find(|event| event.class() == class).copied())
    }

    /// Takes out one of the candidates: it is injected.
    pub(crate) fn take(&mut self, event: Event) {
        if self.waiting.front() == Some(&event) {
            self.injected = self.waiting.pop_front();
            return;
        }
        if let Some(place) = self.waiting.iter().position(|waiting| *waiting == event) {
            self.injected = self.waiting.remove(place);
        }
    }

    /// The last entry did not reach the guest: what it was to inject waits again.
    pub(crate) fn take_back_injected(&mut self) {
        if let Some(event) = self.injected.take() {
            self.push_again(event);
        }
    }

    /// Puts the interrupt that waits alone where others can come beside it.
    fn join_lone(&mut self) {
        if let Some(vector) = self.lone.take() {
            self.waiting.push_back(Event::interrupt(vector));
        }
    }

    /// Puts an event before all others of its class.
    fn push_again(&mut self, event: Event) {
        self.join_lone();
        let class = event.class();
        let place = self.waiting.iter().position(|waiting| waiting.class() >= class).unwrap_or(self.waiting.len());
        self.waiting.insert(place, event);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn event(vector: u8, int_type: VmxInterruptionType) -> Event {
        Event::new(VmxInterruptInfo { vector, int_type, err_code: None, valid: true })
    }

    fn any_event() -> impl Strategy<Value = Event> {
        (any::<u8>(), 0usize..3).prop_map(|(vector, kind)| {
            let kinds = [VmxInterruptionType::HardException, VmxInterruptionType::NMI, VmxInterruptionType::External];
            event(vector, kinds[kind])
        })
    }

    fn queue_of(events: &[Event]) -> EventQueue {
        let mut queue = EventQueue::new();
        for event in events {
            queue.push(*event);
        }
        queue
    }

    fn drain(queue: &mut EventQueue) -> Vec<Event> {
        let mut out = Vec::new();
        queue.begin_entry();
        while let Some(event) = queue.candidates().into_iter().flatten().next() {
            out.push(event);
            queue.take(event);
        }
        out
    }

    fn of(events: &[Event], class: Class) -> Vec<Event> {
        events.iter().filter(|event| event.class() == class).copied().collect()
    }

    proptest! {
        /// Exceptions before NMI before interrupts, each kind in the order in which it came, no more than one NMI and one
        /// interrupt of each vector, and nothing else is lost.
        #[test]
        fn order_of_injection(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut queue = queue_of(&events);
            let mut interrupts = Vec::new();
            for event in of(&events, Class::Interrupt) {
                if !interrupts.contains(&event) {
                    interrupts.push(event);
                }
            }
            let nmis = of(&events, Class::Nmi).into_iter().take(1);
            let expected: Vec<_> = of(&events, Class::Exception).into_iter().chain(nmis).chain(interrupts).collect();
            prop_assert_eq!(drain(&mut queue), expected);
        }

        /// Whatever waits, a class that the guest cannot take holds off none of the others.
        #[test]
        fn no_class_hides_another(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut queue = queue_of(&events);
            let before = [Class::Exception, Class::Nmi, Class::Interrupt].map(|class| queue.has(class));
            queue.begin_entry();
            prop_assert_eq!(before, queue.candidates().map(|candidate| candidate.is_some()));
            for (candidate, class) in queue.candidates().iter().zip([Class::Exception, Class::Nmi, Class::Interrupt]) {
                prop_assert_eq!(*candidate, of(&events, class).first().copied());
            }
        }

        /// An interrupt is alone exactly as long as nothing came beside it, and goes once, whichever way it is taken.
        #[test]
        fn lone_interrupts_go_once(events in proptest::collection::vec(any_event(), 0..4), quickly: bool) {
            let mut queue = queue_of(&events);
            let alone = events.first().is_some_and(|first| {
                first.class() == Class::Interrupt && events.iter().all(|event| event == first)
            });
            match queue.lone_interrupt() {
                Some(vector) => prop_assert_eq!(Event::interrupt(vector), events[0]),
                None => prop_assert!(!alone),
            }
            prop_assert_eq!(queue.is_empty(), events.is_empty());
            if alone && quickly && queue.lone_interrupt().is_some() {
                queue.lone_interrupt_was_injected();
                prop_assert!(queue.is_empty() && drain(&mut queue).is_empty());
            }
        }

        /// An event whose delivery was interrupted, or whose entry failed, is the first of its class again, and there once
        /// beside those that waited.
        #[test]
        fn interrupted_goes_first_of_its_class(
            waiting in proptest::collection::vec(any_event(), 0..10), interrupted in any_event(), failed_entry: bool,
        ) {
            let mut queue = queue_of(&waiting);
            let before = drain(&mut queue_of(&waiting)).len();
            if failed_entry {
                queue.injected = Some(interrupted);
                queue.take_back_injected();
            } else {
                queue.interrupt(interrupted);
            }
            let out = drain(&mut queue);
            prop_assert_eq!(of(&out, interrupted.class())[0], interrupted);
            prop_assert_eq!(out.len(), before + 1);
        }

        /// Whatever an exception is raised on top of: an interrupt or NMI is never lost, no exception is delivered that
        /// was not raised but a double fault, and a shutdown leaves none.
        #[test]
        fn reflecting_loses_no_interrupt(first in any_event(), raised in 0u8..32, later in any_event()) {
            let mut queue = EventQueue::new();
            queue.interrupt(first);
            let exception = event(raised, VmxInterruptionType::HardException);
            let combined = queue.reflect(exception);
            prop_assert_eq!(queue.reflect(exception), None);
            let Some(combined) = combined else { return Err(TestCaseError::fail("not taken")) };
            queue.push(later);
            let out = drain(&mut queue);
            for event in [first, later].iter().filter(|event| event.class() == Class::Interrupt) {
                prop_assert!(out.contains(event));
            }
            match combined {
                Combined::Second => prop_assert_eq!(out[0], exception),
                Combined::DoubleFault => prop_assert_eq!(out[0].info, VmxInterruptInfo::from(vector::DF, Some(0))),
                Combined::Shutdown => prop_assert_eq!(first.info.vector, vector::DF),
            }
            if first.class() != Class::Exception {
                prop_assert_eq!(combined, Combined::Second);
            }
        }

        /// What is let in is what a VM entry accepts (SDM Vol. 3C, 27.2.1.3 "VM-Entry Control Fields").
        #[test]
        fn checked_events_pass_an_entry(bits: u32, code: u32, length in 0u8..20) {
            let info = VmxInterruptInfo::from_bits(bits | VmxInterruptInfo::VALID, code & 0xFFFF);
            let Ok(event) = Event::checked(info, length) else { return Ok(()) };
            prop_assert!(event.info.int_type != VmxInterruptionType::NMI || event.info.vector == 2);
            prop_assert!(event.info.int_type != VmxInterruptionType::HardException || event.info.vector < 32);
            prop_assert!(event.info.err_code.is_none_or(|code| code <= 0x7FFF));
            prop_assert!(event.instruction_length <= 15);
        }
    }
}
