//! What the vCPUs of a machine have in common: its memory, its devices, and the way of interrupts and other messages to
//! each of them.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;
use x86_vcpu::apic::{self, Inbox, LocalApic, Message};

use super::{Outcome, memory::Memory};
use crate::{
    arch::processor,
    devices::{Board, Time},
    smp,
};

/// The vCPU that starts first, and that the 8259 controllers and the timers of the board are connected to.
pub const FIRST: usize = 0;

/// The vCPU at a place runs on the processor of that number.
pub struct Bus {
    pub memory: Mutex<Memory>,
    board: Mutex<Board>,
    inboxes: Vec<Inbox>,
    /// Which vCPUs sleep with interrupts masked: only another vCPU wakes them.
    masked: Mutex<Vec<bool>>,
    outcome: Mutex<Option<Outcome>>,
    over: AtomicBool,
}

/// What the devices have for the first vCPU.
#[derive(Clone, Copy, Default)]
pub struct PendingWork {
    /// The 8259 controllers have an interrupt.
    pub interrupt: bool,
    /// When they have to advance.
    pub deadline: Option<Time>,
}

impl Bus {
    pub fn new(memory: Memory, board: Board, apics: &[LocalApic]) -> Self {
        Self {
            memory: Mutex::new(memory),
            board: Mutex::new(board),
            inboxes: apics.iter().map(Inbox::new).collect(),
            masked: Mutex::new(apics.iter().map(|_| false).collect()),
            outcome: Mutex::new(None),
            over: AtomicBool::new(false),
        }
    }

    pub fn inbox(&self, place: usize) -> &Inbox {
        &self.inboxes[place]
    }

    /// Does something with the devices, and then what follows from it for the vCPUs.
    pub fn with_board<T>(&self, act: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = self.board.lock();
        let (was_pending, was_due) = (board.interrupt_pending(), board.deadline());
        let result = act(&mut board);
        board.send_interrupts(|message| self.deliver(message, None));
        let sooner = board.deadline().is_some_and(|due| was_due.is_none_or(|was_due| due < was_due));
        if sooner || board.interrupt_pending() && !was_pending {
            kick(FIRST);
        }
        if let Some(end) = board.end() {
            self.end(Outcome::Device(end));
        }
        result
    }

    /// Lets time pass for the devices, and tells what they have for the first vCPU.
    pub fn look_after_devices(&self, now: Time) -> PendingWork {
        let mut board = self.board.lock();
        if board.deadline().is_some_and(|due| due <= now) {
            board.advance(now);
            board.send_interrupts(|message| self.deliver(message, None));
        }
        PendingWork { interrupt: board.interrupt_pending(), deadline: board.deadline() }
    }

    /// Brings a message to the vCPUs that it is for. `sender` is one that sends it. `false` if none takes it.
    pub fn deliver(&self, message: &Message, sender: Option<usize>) -> bool {
        apic::deliver(message, sender, &self.inboxes, kick)
    }

    /// The machine's end, if it has not come before.
    pub fn end(&self, outcome: Outcome) {
        self.outcome.lock().get_or_insert(outcome);
        self.over.store(true, Ordering::SeqCst);
        (0..self.inboxes.len()).for_each(kick);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether the guest ended the machine by a device, as it should be.
    pub fn ended_in_order(&self) -> bool {
        matches!(*self.outcome.lock(), Some(Outcome::Device(_)))
    }

    pub fn take_outcome(&self) -> Option<Outcome> {
        self.outcome.lock().take()
    }

    /// The vCPU is about to sleep, and only other vCPUs can wake it. If they all do, that is the end.
    pub fn sleeps_masked(&self, place: usize) {
        let mut masked = self.masked.lock();
        masked[place] = true;
        let can_wake = |(masked, inbox): (&bool, &Inbox)| !masked || inbox.wants_attention();
        if !masked.iter().zip(&self.inboxes).any(can_wake) {
            drop(masked);
            self.end(Outcome::Halted);
        }
    }

    /// The vCPU is about to look into its inbox again.
    pub fn wakes(&self, place: usize) {
        self.masked.lock()[place] = false;
    }
}

/// Makes a vCPU look into its inbox: an exit if it is in the guest, else the end of its sleep. One that does neither looks
/// before it enters the guest or sleeps.
fn kick(place: usize) {
    if place != processor::index() {
        smp::interrupt(place);
    }
}
