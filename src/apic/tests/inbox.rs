//! Posting from other processors: nothing is lost, and whoever must be told is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::vec::Vec;

use super::*;
use crate::apic::{Delivery, Inbox, Signals, Trigger};

fn fixed(vector: u8, trigger: Trigger) -> Delivery {
    Delivery::Fixed { vector, trigger }
}

/// Every poster waits for its interrupt to be taken before it posts the next, and the owner sleeps until it is kicked: one
/// kick too few, and both wait for ever.
#[test]
fn a_kick_comes_whenever_one_is_needed() {
    const POSTERS: u8 = 4;
    const ROUNDS: u32 = 20_000;
    let mut apic = enabled(0);
    let inbox = Inbox::new(&apic);
    let kicked = AtomicBool::new(false);
    let done = AtomicU32::new(0);
    let taken: Vec<AtomicU32> = (0..=u8::MAX).map(|_| AtomicU32::new(0)).collect();
    let limit = Instant::now() + Duration::from_secs(60);
    let wait = |condition: &dyn Fn() -> bool| {
        while !condition() {
            assert!(Instant::now() < limit, "an interrupt or its kick was lost");
            thread::yield_now();
        }
    };
    let post = |poster: u8| {
        for round in 0..ROUNDS {
            // Neighbours in a word, by level and by edge in turn.
            let vector = 0x40 + poster * 7 + (round % 5) as u8;
            let before = taken[usize::from(vector)].load(Ordering::Acquire);
            if inbox.post(fixed(vector, trigger_of(vector))) {
                kicked.store(true, Ordering::Release);
            }
            wait(&|| taken[usize::from(vector)].load(Ordering::Acquire) != before);
        }
        done.fetch_add(1, Ordering::AcqRel);
    };
    thread::scope(|scope| {
        for poster in 0..POSTERS {
            let post = &post;
            scope.spawn(move || post(poster));
        }
        while done.load(Ordering::Acquire) < POSTERS.into() {
            wait(&|| kicked.swap(false, Ordering::AcqRel) || done.load(Ordering::Acquire) == POSTERS.into());
            assert_eq!(inbox.collect(&mut apic), Signals::default());
            while let Some(vector) = apic.acknowledge() {
                let told = write(&mut apic, END, 0);
                assert_eq!(told.is_some(), trigger_of(vector) == Trigger::Level, "the trigger of {vector:#x}");
                taken[usize::from(vector)].fetch_add(1, Ordering::AcqRel);
            }
        }
    });
    assert!(!inbox.wants_attention());
    let total: u32 = taken.iter().map(|count| count.load(Ordering::Acquire)).sum();
    assert_eq!(total, u32::from(POSTERS) * ROUNDS, "each was taken once");
}

fn trigger_of(vector: u8) -> Trigger {
    if vector & 1 == 0 { Trigger::Edge } else { Trigger::Level }
}

/// The line of a vector can become one of edges: each post says how it was triggered.
#[test]
fn an_interrupt_is_triggered_as_it_was_posted() {
    let mut apic = enabled(0);
    let inbox = Inbox::new(&apic);
    for trigger in [Trigger::Level, Trigger::Edge, Trigger::Level] {
        let _ = inbox.post(fixed(0x40, trigger));
        inbox.collect(&mut apic);
        assert_eq!(apic.acknowledge(), Some(0x40));
        assert_eq!(write(&mut apic, END, 0).is_some(), trigger == Trigger::Level);
    }
}

/// Who posts first tells the owner; the others need not, until it has looked.
#[test]
fn one_kick_a_look() {
    let mut apic = enabled(0);
    let inbox = Inbox::new(&apic);
    assert!(!inbox.wants_attention());
    assert!(inbox.post(fixed(0x40, Trigger::Edge)));
    assert!(!inbox.post(fixed(0x41, Trigger::Edge)));
    assert!(!inbox.post(Delivery::Nmi));
    assert!(inbox.wants_attention());
    assert_eq!(inbox.collect(&mut apic), Signals { nmi: true, ..Signals::default() });
    assert_eq!(apic.pending(), Some(0x41));
    assert_eq!(inbox.collect(&mut apic), Signals::default());
    assert!(inbox.post(Delivery::Nmi));
}

/// A start-up IPI counts from the last INIT on, and the first one only.
#[test]
fn init_and_start_up_keep_their_order() {
    use Delivery::{Init, StartUp};
    let cases: [(&[Delivery], bool, Option<u8>); 5] = [
        (&[Init], true, None),
        (&[Init, StartUp { vector: 8 }], true, Some(8)),
        (&[StartUp { vector: 8 }, Init], true, None),
        (&[StartUp { vector: 8 }, Init, StartUp { vector: 9 }], true, Some(9)),
        (&[StartUp { vector: 8 }, StartUp { vector: 9 }], false, Some(8)),
    ];
    for (sent, init, start_up) in cases {
        let mut apic = enabled(1);
        let inbox = Inbox::new(&apic);
        for delivery in sent {
            let _ = inbox.post(*delivery);
        }
        let signals = inbox.collect(&mut apic);
        assert_eq!(signals, Signals { init, start_up, ..Signals::default() }, "{sent:?}");
    }
}

/// INIT leaves a local APIC as after power-up, but for its mode and place, and nothing of before waits in it.
#[test]
fn init_resets_the_apic_but_not_its_mode() {
    let mut apic = enabled_x2apic(0x123);
    apic.receive(0x40, Trigger::Edge);
    apic.set_cr8(3);
    let base = apic.read_msr(APIC_BASE, 0);
    let inbox = Inbox::new(&apic);
    let _ = inbox.post(fixed(0x50, Trigger::Edge));
    let _ = inbox.post(Delivery::Init);
    assert!(inbox.collect(&mut apic).init);
    assert_eq!((apic.pending(), apic.cr8()), (None, 0));
    assert_eq!(apic.read_msr(APIC_BASE, 0), base);
    assert_eq!(apic.read_msr(0x802, 0), Ok(0x123));
    assert!(!inbox.address().accepts, "known to the others at once");
}
