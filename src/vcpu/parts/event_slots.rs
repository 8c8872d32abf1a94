//! The events that wait for the guest, each in the slot of its kind.
//!
//! Exceptions belong to an instruction and go first, then NMIs, then external interrupts (SDM Vol. 3A, 6.9 "Prioritization
//! of Concurrent Events"); within a class, an event whose delivery an exit interrupted goes before those that came later.
//!
//! Nothing here asks for memory or searches. One place decides which [requests](super::requests) the slots make: the guest
//! takes an external interrupt on the fast path, so it has a request of its own.

use axerrno::{AxResult, ax_err};

use super::requests::{Request, Requests};
use crate::rules::double_fault::{Combined, combine};
use crate::rules::interruption::{VmxInterruptInfo, VmxInterruptionType};
use crate::rules::vector;

/// The longest instruction, in bytes.
const LONGEST_INSTRUCTION: u8 = 15;

/// How many exceptions wait at most. An instruction raises one; a caller may queue some more before the guest runs.
const EXCEPTIONS: usize = 8;

/// Two NMIs may be pending while none is blocked: a processor latches one while it delivers another.
const NMIS: u8 = 2;

/// An event for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
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

/// Values in the order in which they came, at most `N`.
#[derive(Debug)]
struct Fifo<T, const N: usize> {
    items: [T; N],
    first: usize,
    len: usize,
}

impl<T: Copy, const N: usize> Fifo<T, N> {
    fn new(filler: T) -> Self {
        Self { items: [filler; N], first: 0, len: 0 }
    }

    #[inline(always)]
    fn front(&self) -> Option<T> {
        (self.len > 0).then(|| self.items[self.first % N])
    }

    /// `false` where it is full.
    #[inline(always)]
    fn push_back(&mut self, item: T) -> bool {
        let fits = self.len < N;
        if fits {
            self.items[(self.first + self.len) % N] = item;
            self.len += 1;
        }
        fits
    }

    /// Where it is full, the last one is dropped.
    fn push_front(&mut self, item: T) {
        self.first = (self.first + N - 1) % N;
        self.items[self.first] = item;
        self.len = (self.len + 1).min(N);
    }

    #[inline(always)]
    fn pop_front(&mut self) {
        if self.len > 0 {
            self.first = (self.first + 1) % N;
            self.len -= 1;
        }
    }
}

/// External interrupts, each vector once as in a local APIC, in the order in which they came.
///
/// Mostly there is one, so the first stands apart from the others.
#[derive(Debug)]
struct InterruptSet {
    first: Option<u8>,
    others: Fifo<u8, 256>,
    /// A bit for each of the others.
    pending: [u64; 4],
}

impl InterruptSet {
    fn new() -> Self {
        Self { first: None, others: Fifo::new(0), pending: [0; 4] }
    }

    #[inline(always)]
    fn first(&self) -> Option<u8> {
        self.first
    }

    /// The first, if no other waits.
    #[inline(always)]
    fn only(&self) -> Option<u8> {
        if self.others.len == 0 { self.first } else { None }
    }

    #[inline(always)]
    fn insert(&mut self, vector: u8) {
        match self.first {
            None => self.first = Some(vector),
            Some(first) if first == vector => {}
            Some(_) => self.insert_other(vector, Fifo::push_back),
        }
    }

    /// Puts one before the others, unless it waits already.
    fn insert_first(&mut self, vector: u8) {
        if self.is_pending(vector) {
            return;
        }
        if let Some(second) = self.first.replace(vector)
            && second != vector
        {
            self.insert_other(second, |others, second| {
                others.push_front(second);
                true
            });
        }
    }

    #[inline(always)]
    fn remove_first(&mut self) {
        self.first = None;
        if self.others.len > 0 {
            self.move_up();
        }
    }

    #[cold]
    fn move_up(&mut self) {
        self.first = self.others.front();
        self.others.pop_front();
        if let Some(vector) = self.first {
            self.pending[usize::from(vector >> 6)] &= !(1 << (vector & 63));
        }
    }

    #[inline(never)]
    fn insert_other(&mut self, vector: u8, insert: impl FnOnce(&mut Fifo<u8, 256>, u8) -> bool) {
        if !self.is_pending(vector) && insert(&mut self.others, vector) {
            self.pending[usize::from(vector >> 6)] |= 1 << (vector & 63);
        }
    }

    /// Whether it is among the others.
    fn is_pending(&self, vector: u8) -> bool {
        self.pending[usize::from(vector >> 6)] & 1 << (vector & 63) != 0
    }
}

/// What was taken out of a slot for the next entry.
#[derive(Clone, Copy, Debug)]
enum Injected {
    Nothing,
    Interrupt(u8),
    /// And whether it is injected again.
    Event(Event, bool),
}

/// The slots.
#[derive(Debug)]
pub(crate) struct EventSlots {
    exceptions: Fifo<Event, EXCEPTIONS>,
    nmis: u8,
    interrupts: InterruptSet,
    /// What is to be injected again: an exit interrupted its delivery, or its entry failed.
    reinjected: Option<Event>,
    /// What the next entry injects, until that entry is known to have reached the guest.
    injected: Injected,
    /// The exit that interrupted it is the last one.
    is_reinjected_since_exit: bool,
    /// The exception of the last exit was given to the guest.
    reflected: bool,
}

impl Default for EventSlots {
    fn default() -> Self {
        Self {
            exceptions: Fifo::new(Event::interrupt(0)),
            nmis: 0,
            interrupts: InterruptSet::new(),
            reinjected: None,
            is_reinjected_since_exit: false,
            injected: Injected::Nothing,
            reflected: false,
        }
    }
}

impl EventSlots {
    pub(crate) fn clear(&mut self, requests: &Requests) {
        *self = Self::default();
        self.update(requests);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.interrupts.first().is_none() && !self.needs_slow_path()
    }

    pub(crate) fn has(&self, class: Class) -> bool {
        let waits = match class {
            Class::Exception => self.exceptions.front().is_some(),
            Class::Nmi => self.nmis > 0,
            Class::Interrupt => self.interrupts.first().is_some(),
        };
        waits || self.reinjected.is_some_and(|event| event.class() == class)
    }

    /// Takes in an event.
    ///
    /// # Errors
    /// `ResourceBusy` where too many exceptions wait already.
    #[inline(always)]
    pub(crate) fn push(&mut self, requests: &Requests, event: Event) -> AxResult {
        match event.class() {
            Class::Interrupt => {
                self.interrupts.insert(event.info.vector);
                requests.set(Request::INTERRUPT);
                return Ok(());
            }
            Class::Nmi => self.nmis = (self.nmis + 1).min(NMIS),
            Class::Exception if self.exceptions.push_back(event) => {}
            Class::Exception => return ax_err!(ResourceBusy, "too many exceptions wait for the guest"),
        }
        requests.set(Request::EVENT);
        Ok(())
    }

    /// Takes in an event whose delivery this exit interrupted.
    pub(crate) fn requeue(&mut self, requests: &Requests, event: Event) {
        if let Some(earlier) = self.reinjected.replace(event) {
            // It had to wait when this one was injected.
            self.put_back(earlier);
        }
        self.is_reinjected_since_exit = true;
        self.update(requests);
    }

    /// Takes out the event whose delivery this exit interrupted.
    pub(crate) fn take_requeued(&mut self, requests: &Requests) -> Option<Event> {
        let event = if self.is_reinjected_since_exit { self.reinjected.take() } else { None };
        self.update(requests);
        event
    }

    /// Takes in an exception that exited and that the guest is to get, once for each exit.
    pub(crate) fn reflect(&mut self, requests: &Requests, exception: Event) -> Option<Combined> {
        if core::mem::replace(&mut self.reflected, true) {
            return None;
        }
        let interrupted = self.reinjected.filter(|_| self.is_reinjected_since_exit);
        let combined = match interrupted {
            // It belongs to where the guest is, before whatever else the caller has queued.
            None => Combined::Second,
            Some(first) => combine(&first.info, exception.info.vector),
        };
        let first_is_exception = interrupted.is_some_and(|first| first.class() == Class::Exception);
        match combined {
            Combined::Second => {
                // An instruction raises its exception again when it is executed again. An interrupt is lost unless it is
                // queued.
                if first_is_exception {
                    self.reinjected = None;
                }
                self.exceptions.push_front(exception);
            }
            Combined::DoubleFault => {
                self.reinjected = None;
                self.exceptions.push_front(Event::new(VmxInterruptInfo::from(vector::DF, Some(0))));
            }
            Combined::Shutdown => self.reinjected = None,
        }
        self.update(requests);
        Some(combined)
    }

    /// The external interrupt that waits, if it is the only one. A second one needs a window after the first.
    #[inline(always)]
    pub(crate) fn only_interrupt(&self) -> Option<u8> {
        self.interrupts.only()
    }

    /// The only interrupt was put where the next entry injects it.
    #[inline(always)]
    pub(crate) fn inject_only_interrupt(&mut self, requests: &Requests, vector: u8) {
        self.injected = Injected::Interrupt(vector);
        self.interrupts.first = None;
        requests.clear(Request::INTERRUPT);
    }

    /// A new entry is prepared: nothing is injected yet. `nmis_blocked` limits the NMIs to the one that a processor latches
    /// then.
    pub(crate) fn begin_entry(&mut self, nmis_blocked: bool) {
        self.injected = Injected::Nothing;
        self.reflected = false;
        self.is_reinjected_since_exit = false;
        if let Some(event) = self.reinjected.filter(|event| event.class() == Class::Exception) {
            // A later exception, of an exit before this one is injected, goes before it.
            self.reinjected = None;
            self.put_back(event);
        }
        let delivers_nmi = self.reinjected.is_some_and(|event| event.class() == Class::Nmi);
        if nmis_blocked || delivers_nmi {
            self.nmis = self.nmis.min(1);
        }
    }

    /// More than one NMI waits, so that it matters whether NMIs are blocked.
    pub(crate) fn has_second_nmi(&self) -> bool {
        self.nmis > 1
    }

    /// The first event of each class, in order. An NMI that is blocked does not hold off an interrupt, which has a
    /// blocking of its own.
    pub(crate) fn candidates(&self) -> [Option<Event>; 3] {
        let reinjected = |class| self.reinjected.filter(|event| event.class() == class);
        [
            reinjected(Class::Exception).or(self.exceptions.front()),
            reinjected(Class::Nmi).or((self.nmis > 0).then(|| Event::new(VmxInterruptInfo::from(vector::NMI, None)))),
            reinjected(Class::Interrupt).or(self.interrupts.first().map(Event::interrupt)),
        ]
    }

    /// One of the candidates was put where the next entry injects it.
    pub(crate) fn inject(&mut self, event: Event) {
        let class = event.class();
        let again = self.reinjected.is_some_and(|reinjected| reinjected.class() == class);
        match class {
            _ if again => self.reinjected = None,
            Class::Exception => self.exceptions.pop_front(),
            Class::Nmi => self.nmis -= u8::from(self.nmis > 0),
            Class::Interrupt => self.interrupts.remove_first(),
        }
        self.injected = Injected::Event(event, again);
    }

    /// The guest was entered: what was to be injected was.
    #[inline(always)]
    pub(crate) fn entered(&mut self) {
        self.injected = Injected::Nothing;
    }

    /// The entry failed: what it was to inject waits again, before the others of its class.
    pub(crate) fn cancel_injection(&mut self, requests: &Requests) {
        match core::mem::replace(&mut self.injected, Injected::Nothing) {
            Injected::Nothing => {}
            Injected::Interrupt(vector) => self.interrupts.insert_first(vector),
            Injected::Event(event, true) => self.reinjected = Some(event),
            Injected::Event(event, false) => self.put_back(event),
        }
        self.update(requests);
    }

    fn put_back(&mut self, event: Event) {
        match event.class() {
            Class::Exception => self.exceptions.push_front(event),
            Class::Nmi => self.nmis = (self.nmis + 1).min(NMIS),
            Class::Interrupt => self.interrupts.insert_first(event.info.vector),
        }
    }

    #[inline(always)]
    fn needs_slow_path(&self) -> bool {
        self.exceptions.len > 0 || self.nmis > 0 || self.reinjected.is_some() || self.reflected
    }

    /// Says what still waits.
    pub(crate) fn update(&self, requests: &Requests) {
        requests.set_to(Request::EVENT, self.needs_slow_path());
        requests.set_to(Request::INTERRUPT, self.interrupts.first().is_some());
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
        (any::<u8>(), 0usize..3).prop_map(|(vector, kind)| match kind {
            0 => event(vector % 32, VmxInterruptionType::HardException),
            1 => event(vector::NMI, VmxInterruptionType::NMI),
            _ => event(vector, VmxInterruptionType::External),
        })
    }

    struct Guest {
        slots: EventSlots,
        requests: Requests,
    }

    impl Guest {
        fn with(events: &[Event]) -> Self {
            let mut guest = Self { slots: EventSlots::default(), requests: Requests::new(Request::empty()) };
            for event in events {
                // More exceptions than there are slots for are refused.
                let _ = guest.slots.push(&guest.requests, *event);
            }
            guest
        }

        /// One entry after the other, each of which injects the first candidate.
        fn drain(&mut self) -> Vec<Event> {
            let mut out = Vec::new();
            loop {
                self.slots.begin_entry(false);
                let Some(event) = self.slots.candidates().into_iter().flatten().next() else { break };
                self.slots.inject(event);
                self.slots.entered();
                out.push(event);
            }
            self.slots.update(&self.requests);
            out
        }
    }

    fn of(events: &[Event], class: Class) -> Vec<Event> {
        events.iter().filter(|event| event.class() == class).copied().collect()
    }

    fn expected(events: &[Event]) -> Vec<Event> {
        let mut interrupts = Vec::new();
        for event in of(events, Class::Interrupt) {
            if !interrupts.contains(&event) {
                interrupts.push(event);
            }
        }
        let exceptions = of(events, Class::Exception).into_iter().take(EXCEPTIONS);
        let nmis = of(events, Class::Nmi).into_iter().take(NMIS.into());
        exceptions.chain(nmis).chain(interrupts).collect()
    }

    proptest! {
        /// Exceptions before NMIs before interrupts, each kind in the order in which it came, no more than two NMIs and one
        /// interrupt of each vector, and nothing else is lost.
        #[test]
        fn order_of_injection(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut guest = Guest::with(&events);
            prop_assert_eq!(guest.requests.is_empty(), events.is_empty());
            prop_assert_eq!(guest.drain(), expected(&events));
            prop_assert!(guest.slots.is_empty() && guest.requests.is_empty());
        }

        /// Whatever waits, a class that the guest cannot take holds off none of the others.
        #[test]
        fn no_class_hides_another(events in proptest::collection::vec(any_event(), 0..40)) {
            let mut guest = Guest::with(&events);
            let classes = [Class::Exception, Class::Nmi, Class::Interrupt];
            guest.slots.begin_entry(true);
            for (candidate, class) in guest.slots.candidates().iter().zip(classes) {
                prop_assert_eq!(guest.slots.has(class), candidate.is_some());
                prop_assert_eq!(*candidate, of(&events, class).first().copied());
            }
        }

        /// While NMIs are blocked, or one is delivered again, the processor latches one more and no other.
        #[test]
        fn a_blocked_nmi_is_latched_once(count in 1usize..6, blocked: bool, delivered_again: bool) {
            let nmi = event(vector::NMI, VmxInterruptionType::NMI);
            let mut guest = Guest::with(&alloc::vec![nmi; count]);
            if delivered_again {
                guest.slots.requeue(&guest.requests, nmi);
            }
            guest.slots.begin_entry(blocked);
            let latched = if blocked || delivered_again { 1 } else { count.min(2) };
            prop_assert_eq!(guest.drain().len(), latched + usize::from(delivered_again));
        }

        /// An entry that failed leaves what waited as it was.
        #[test]
        fn a_failed_entry_changes_nothing(events in proptest::collection::vec(any_event(), 1..10), class in 0usize..3) {
            let mut guest = Guest::with(&events);
            guest.slots.begin_entry(false);
            if let Some(event) = guest.slots.candidates()[class] {
                guest.slots.inject(event);
                guest.slots.cancel_injection(&guest.requests);
            }
            prop_assert_eq!(guest.drain(), expected(&events));
        }

        /// An event whose delivery was interrupted is the first of its class again, beside those that waited.
        #[test]
        fn interrupted_goes_first_of_its_class(
            waiting in proptest::collection::vec(any_event(), 0..8), interrupted in any_event(),
        ) {
            // An NMI that waits beside one that is delivered again is one.
            let nmis = of(&waiting, Class::Nmi).len();
            prop_assume!(interrupted.class() != Class::Nmi || nmis < 2);
            let mut guest = Guest::with(&waiting);
            guest.slots.requeue(&guest.requests, interrupted);
            let out = guest.drain();
            prop_assert_eq!(of(&out, interrupted.class())[0], interrupted);
            prop_assert_eq!(out.len(), expected(&waiting).len() + 1);
        }

        /// Two deliveries in a row that exits interrupt lose none of the two events.
        #[test]
        fn nothing_interrupted_is_lost(first in any_event(), second in any_event()) {
            let mut guest = Guest::with(&[]);
            guest.slots.requeue(&guest.requests, first);
            guest.slots.requeue(&guest.requests, second);
            prop_assert_eq!(guest.drain().len(), 2);
        }

        /// Whatever an exception is raised on top of: an interrupt or NMI is never lost, no exception is delivered that
        /// was not raised but a double fault, and a shutdown leaves none.
        #[test]
        fn reflecting_loses_no_interrupt(first in any_event(), raised in 0u8..32, later in any_event()) {
            let mut guest = Guest::with(&[]);
            guest.slots.requeue(&guest.requests, first);
            let exception = event(raised, VmxInterruptionType::HardException);
            let combined = guest.slots.reflect(&guest.requests, exception);
            prop_assert_eq!(guest.slots.reflect(&guest.requests, exception), None);
            let Some(combined) = combined else { return Err(TestCaseError::fail("not taken")) };
            guest.slots.push(&guest.requests, later).map_err(|_| TestCaseError::fail("refused"))?;
            let out = guest.drain();
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

        /// An event of an earlier exit that no entry has injected yet is not lost by an exception that is raised before that.
        #[test]
        fn reflecting_loses_nothing_of_an_earlier_exit(first in any_event(), raised in 0u8..32) {
            let mut guest = Guest::with(&[]);
            guest.slots.requeue(&guest.requests, first);
            guest.slots.begin_entry(false);
            let exception = event(raised, VmxInterruptionType::HardException);
            prop_assert_eq!(guest.slots.reflect(&guest.requests, exception), Some(Combined::Second));
            prop_assert_eq!(guest.slots.take_requeued(&guest.requests), None);
            prop_assert_eq!(guest.drain(), [exception, first]);
        }

        /// Interrupts that wait beside another one take the slow path, which asks for a window.
        #[test]
        fn one_interrupt_is_injected_on_the_fast_path(vectors in proptest::collection::vec(any::<u8>(), 0..8)) {
            let interrupts: Vec<Event> = vectors.iter().copied().map(Event::interrupt).collect();
            let mut guest = Guest::with(&interrupts);
            let different = expected(&interrupts);
            let only = if different.len() == 1 { Some(vectors[0]) } else { None };
            prop_assert_eq!(guest.slots.only_interrupt(), only);
            if let Some(vector) = only {
                guest.slots.inject_only_interrupt(&guest.requests, vector);
                prop_assert!(guest.slots.is_empty() && guest.requests.is_empty());
                guest.slots.cancel_injection(&guest.requests);
                prop_assert_eq!(guest.drain(), interrupts[..1].to_vec());
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
