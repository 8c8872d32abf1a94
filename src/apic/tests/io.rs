//! The I/O APIC, alone and with local APICs behind it.

use std::collections::BTreeSet;
use std::vec::Vec;

use axaddrspace::device::AccessWidth;
use proptest::prelude::*;

use super::*;
use crate::apic::{Delivery, Destination, Inbox, IoApic, Message, Trigger, deliver};

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;
const DELIVERY_STATUS: u32 = 1 << 12;

fn select(io: &mut IoApic, register: u8) {
    io.write(0, AccessWidth::Dword, register.into(), |_| panic!("nothing to send"));
}

fn set_entry(io: &mut IoApic, pin: u8, low: u32, send: impl FnMut(&Message) -> bool) {
    select(io, 0x10 + 2 * pin);
    io.write(0x10, AccessWidth::Dword, low.into(), send);
}

fn entry(io: &mut IoApic, pin: u8) -> u32 {
    select(io, 0x10 + 2 * pin);
    io.read(0x10, AccessWidth::Dword) as u32
}

/// Two processors, and lines 0 to 3 by level and 4 to 7 by edge, each with a vector of its own.
struct Board {
    io: IoApic,
    apics: Vec<LocalApic>,
    inboxes: Vec<Inbox>,
    asserted: BTreeSet<u8>,
}

const LINES: u8 = 8;

fn vector_of(pin: u8) -> u8 {
    // In several classes, so that some interrupts nest and others wait.
    0x30 + pin * 9
}

fn is_level(pin: u8) -> bool {
    pin < LINES / 2
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Line(u8, bool),
    Mask(u8, bool),
    Acknowledge(usize),
    End(usize),
    Collect(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LINES, any::<bool>()).prop_map(|(pin, on)| Step::Line(pin, on)),
        1 => (0..LINES, any::<bool>()).prop_map(|(pin, on)| Step::Mask(pin, on)),
        3 => (0usize..2).prop_map(Step::Acknowledge),
        3 => (0usize..2).prop_map(Step::End),
        3 => (0usize..2).prop_map(Step::Collect),
    ]
}

impl Board {
    fn new() -> Self {
        let apics: Vec<_> = (0..2).map(enabled).collect();
        let inboxes = apics.iter().map(Inbox::new).collect();
        let mut board = Self { io: IoApic::new(0), apics, inboxes, asserted: BTreeSet::new() };
        for pin in 0..LINES {
            select(&mut board.io, 0x11 + 2 * pin);
            board.io.write(0x10, AccessWidth::Dword, u64::from(pin % 2) << 24, |_| false);
            board.mask(pin, false);
        }
        board
    }

    fn mask(&mut self, pin: u8, masked: bool) {
        let low = u32::from(vector_of(pin)) | if is_level(pin) { LEVEL } else { 0 } | if masked { MASKED } else { 0 };
        let inboxes = &self.inboxes;
        set_entry(&mut self.io, pin, low, |message| deliver(message, None, inboxes, |_| {}));
    }

    fn step(&mut self, step: Step) -> Option<u8> {
        let Self { io, apics, inboxes, asserted } = self;
        let send = |message: &Message| deliver(message, None, &*inboxes, |_| {});
        match step {
            Step::Line(pin, on) => {
                io.set_line(pin, on, send);
                if on {
                    asserted.insert(pin)
                } else {
                    asserted.remove(&pin)
                };
            }
            Step::Mask(pin, masked) => self.mask(pin, masked),
            Step::Acknowledge(cpu) => return apics[cpu].acknowledge(),
            Step::End(cpu) => {
                if let Some(Effect::EndOfInterrupt { vector }) = write(&mut apics[cpu], END, 0) {
                    io.end_of_interrupt(vector, send);
                }
            }
            Step::Collect(cpu) => {
                inboxes[cpu].collect(&mut apics[cpu]);
            }
        }
        None
    }

    /// Serves whatever waits, in 50 rounds; the pins that interrupted. Each device lets go of its line when it is served, or
    /// none does.
    fn serve(&mut self, lets_go: bool) -> Vec<u8> {
        let mut served = Vec::new();
        for cpu in 0..2 {
            // What was in service comes to its end.
            (0..16).for_each(|_| _ = self.step(Step::End(cpu)));
        }
        for cpu in (0..2).cycle().take(100) {
            self.step(Step::Collect(cpu));
            if let Some(vector) = self.step(Step::Acknowledge(cpu)) {
                let pin = (vector - 0x30) / 9;
                served.push(pin);
                if lets_go {
                    self.step(Step::Line(pin, false));
                }
                self.step(Step::End(cpu));
            }
        }
        served
    }
}

proptest! {
    /// A line by level interrupts at most once until its end, and as long as it is asserted it interrupts again; a line by
    /// edge interrupts at most once a rise.
    #[test]
    fn interrupts_are_neither_lost_nor_doubled(steps in proptest::collection::vec(any_step(), 0..150)) {
        let mut board = Board::new();
        let mut rises = [0; LINES as usize];
        let mut taken = [0; LINES as usize];
        for step in steps {
            if let Step::Line(pin, true) = step
                && !board.asserted.contains(&pin)
            {
                rises[usize::from(pin)] += 1;
            }
            if let Some(vector) = board.step(step) {
                taken[usize::from((vector - 0x30) / 9)] += 1;
            }
            for pin in (0..LINES).filter(|pin| is_level(*pin)) {
                // Wherever the interrupt is, it is there once.
                let (word, bit) = (u64::from(vector_of(pin) / 32) * 16, 1 << (vector_of(pin) % 32));
                let here = board.apics.iter_mut().map(|apic| {
                    u32::from(read(apic, REQUESTED + word) & bit != 0) + u32::from(read(apic, IN_SERVICE + word) & bit != 0)
                });
                prop_assert!(here.sum::<u32>() <= 1);
            }
        }
        (0..LINES).for_each(|pin| board.mask(pin, false));
        let asserted = board.asserted.clone();
        let served = board.serve(true);
        for pin in 0..LINES {
            let times = served.iter().filter(|served| **served == pin).count();
            if is_level(pin) {
                prop_assert!(times >= usize::from(asserted.contains(&pin)), "the level at {pin} is lost");
            } else {
                prop_assert!(taken[usize::from(pin)] + times <= rises[usize::from(pin)], "an edge too many at {pin}");
            }
        }
        prop_assert_eq!(board.serve(true), std::vec![]);
        // With nothing in its way, each line does what it shall: once for a rise, again and again for a level that is held.
        for pin in 0..LINES {
            board.step(Step::Line(pin, false));
            board.step(Step::Line(pin, true));
            let times = if is_level(pin) { 50 } else { 1 };
            prop_assert_eq!(board.serve(false), std::vec![pin; times]);
            board.step(Step::Line(pin, false));
            board.serve(true);
        }
    }
}

/// A message that nobody takes waits, is seen to wait, and is sent once when somebody can take it.
#[test]
fn what_nobody_takes_is_sent_again() {
    for level in [false, true] {
        let mut io = IoApic::new(0);
        set_entry(&mut io, 3, 0x40 | if level { LEVEL } else { 0 }, |_| panic!("nothing to send"));
        io.set_line(3, true, |_| false);
        assert_eq!(entry(&mut io, 3) & REMOTE_IRR, 0);
        assert_eq!(entry(&mut io, 3) & DELIVERY_STATUS != 0, !level);
        let mut sent = 0;
        let mut take = |_: &Message| {
            sent += 1;
            true
        };
        io.service(&mut take);
        io.service(&mut take);
        assert_eq!(sent, 1);
        assert_eq!(entry(&mut io, 3) & REMOTE_IRR != 0, level);
        assert_eq!(entry(&mut io, 3) & DELIVERY_STATUS, 0);
    }
}

/// Masked edges are gone; a masked level comes once it is unmasked.
#[test]
fn masks_lose_edges_and_keep_levels() {
    for level in [false, true] {
        let mut io = IoApic::new(0);
        let low = 0x40 | if level { LEVEL } else { 0 };
        set_entry(&mut io, 3, low | MASKED, |_| panic!("masked"));
        io.set_line(3, true, |_| panic!("masked"));
        let mut sent = 0;
        set_entry(&mut io, 3, low, |_| {
            sent += 1;
            true
        });
        assert_eq!(sent, u32::from(level));
    }
}

/// The EOI register does what an end of interrupt by broadcast does; so does a change to edges and back, for kernels that
/// know no such register.
#[test]
fn a_kernel_can_end_an_interrupt_at_the_io_apic() {
    let mut io = IoApic::new(0);
    set_entry(&mut io, 3, 0x40 | LEVEL, |_| true);
    let mut sent = 0;
    let mut take = |message: &Message| {
        let delivery = Delivery::Fixed { vector: 0x40, trigger: Trigger::Level };
        assert_eq!(*message, Message { destination: Destination::Physical(0), delivery });
        sent += 1;
        true
    };
    io.set_line(3, true, &mut take);
    io.write(0x40, AccessWidth::Dword, 0x41, &mut take);
    io.write(0x40, AccessWidth::Dword, 0x40, &mut take);
    set_entry(&mut io, 3, 0x40 | MASKED, &mut take);
    assert_eq!(entry(&mut io, 3), 0x40 | MASKED);
    set_entry(&mut io, 3, 0x40 | LEVEL, &mut take);
    assert_eq!(entry(&mut io, 3), 0x40 | LEVEL | REMOTE_IRR);
    assert_eq!(sent, 3, "the line's rise, its end with the line held, and the change of its mode");
}

/// An NMI or the like has no end: a level entry sends one for each rise, and waits for none.
#[test]
fn only_interrupts_wait_for_an_end() {
    let mut io = IoApic::new(0);
    set_entry(&mut io, 3, 0x400 | LEVEL, |_| true);
    let mut sent = 0;
    for asserted in [true, true, false, true] {
        io.set_line(3, asserted, |message| {
            sent += 1;
            message.delivery == Delivery::Nmi
        });
    }
    assert_eq!((sent, entry(&mut io, 3) & REMOTE_IRR), (2, 0));
}

proptest! {
    /// Read-only and reserved bits of an entry cannot be written, all others read back.
    #[test]
    fn entries_keep_what_is_writable(low: u32, high: u32, pin in 0u8..24) {
        let mut io = IoApic::new(0);
        set_entry(&mut io, pin, low, |_| true);
        select(&mut io, 0x11 + 2 * pin);
        io.write(0x10, AccessWidth::Dword, high.into(), |_| true);
        prop_assert_eq!(io.read(0x10, AccessWidth::Dword), u64::from(high & 0xFF00_0000));
        prop_assert_eq!(entry(&mut io, pin), low & 0x1_AFFF);
    }

    /// Whatever a guest does, the controller goes on working.
    #[test]
    fn no_access_breaks_it(
        accesses in proptest::collection::vec((prop_oneof![0u64..0x50, any::<u64>()], 0u8..4, any::<u64>(), any::<bool>()), 0..100),
    ) {
        const WIDTHS: [AccessWidth; 4] = [AccessWidth::Byte, AccessWidth::Word, AccessWidth::Dword, AccessWidth::Qword];
        let mut io = IoApic::new(0);
        for (offset, width, value, taken) in accesses {
            let width = WIDTHS[usize::from(width)];
            io.write(offset, width, value, |_| taken);
            let read = io.read(offset, width);
            prop_assert!(width == AccessWidth::Qword || read >> (width.size() * 8) == 0);
            io.set_line(value as u8, taken, |_| taken);
            io.end_of_interrupt(value as u8, |_| taken);
        }
        set_entry(&mut io, 5, 0x40, |_| true);
        io.set_line(5, false, |_| true);
        let mut sent = false;
        io.set_line(5, true, |_| { sent = true; true });
        prop_assert!(sent);
    }
}
