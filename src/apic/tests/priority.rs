//! Which interrupt is next, against sets of vectors.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::apic::Trigger;

#[derive(Clone, Copy, Debug)]
enum Step {
    Receive(u8, bool),
    Acknowledge,
    End,
    TaskPriority(u8),
    Cr8(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(vector, level)| Step::Receive(vector, level)),
        4 => Just(Step::Acknowledge),
        3 => Just(Step::End),
        1 => any::<u8>().prop_map(Step::TaskPriority),
        1 => (0u8..16).prop_map(Step::Cr8),
    ]
}

/// What the SDM's definition says: interrupts that wait and that are served are sets, and one may interrupt another only from a
/// higher class of 16 vectors.
#[derive(Default)]
struct Model {
    waiting: BTreeSet<u8>,
    served: BTreeSet<u8>,
    level: BTreeMap<u8, bool>,
    task: u8,
}

impl Model {
    fn next(&self) -> Option<u8> {
        let may_interrupt =
            |vector: u8| vector / 16 > self.task / 16 && self.served.iter().all(|served| vector / 16 > served / 16);
        self.waiting.iter().copied().filter(|vector| may_interrupt(*vector)).max()
    }
}

/// The vectors that 8 registers from `offset` on show.
fn shown(apic: &mut LocalApic, offset: u64) -> BTreeSet<u8> {
    let bit = |apic: &mut LocalApic, vector: u8| read(apic, offset + u64::from(vector / 32) * 16) >> (vector % 32) & 1;
    (0..=u8::MAX).filter(|vector| bit(apic, *vector) != 0).collect()
}

proptest! {
    #[test]
    fn interrupts_come_in_their_order_and_none_is_lost(steps in proptest::collection::vec(any_step(), 0..200)) {
        let mut apic = enabled(0);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Receive(vector, level) => {
                    apic.receive(vector, if level { Trigger::Level } else { Trigger::Edge });
                    if vector >= 16 {
                        model.waiting.insert(vector);
                        model.level.insert(vector, level);
                    }
                }
                Step::Acknowledge => {
                    let next = model.next();
                    prop_assert_eq!(apic.acknowledge(), next);
                    if let Some(vector) = next {
                        model.waiting.remove(&vector);
                        model.served.insert(vector);
                    }
                }
                Step::End => {
                    let ended = model.served.pop_last();
                    let told = ended.filter(|vector| model.level[vector]);
                    let effect = told.map(|vector| Effect::EndOfInterrupt { vector });
                    prop_assert_eq!(write(&mut apic, END, 0), effect);
                }
                Step::TaskPriority(priority) => {
                    write(&mut apic, TASK_PRIORITY, priority.into());
                    model.task = priority;
                }
                Step::Cr8(class) => {
                    apic.set_cr8(class);
                    model.task = class * 16;
                }
            }
            prop_assert_eq!(apic.pending(), model.next());
            prop_assert_eq!(apic.cr8(), model.task / 16);
        }
        prop_assert_eq!(shown(&mut apic, REQUESTED), model.waiting);
        prop_assert_eq!(shown(&mut apic, IN_SERVICE), model.served);
        let level: BTreeSet<u8> = model.level.iter().filter(|(_, level)| **level).map(|(vector, _)| *vector).collect();
        prop_assert_eq!(shown(&mut apic, TRIGGER_MODE), level);
    }
}

/// A kernel that ends interrupts at the I/O APIC itself asks for no broadcast.
#[test]
fn suppressed_broadcasts_are_not_sent() {
    let mut apic = enabled(0);
    write(&mut apic, SPURIOUS, 0x11FF);
    apic.receive(0x50, Trigger::Level);
    assert_eq!(apic.acknowledge(), Some(0x50));
    assert_eq!(write(&mut apic, END, 0), None);
    assert_eq!(shown(&mut apic, IN_SERVICE), BTreeSet::new());
}

/// Disabled by software, it takes nothing new and masks its own sources, but what waited is still taken.
#[test]
fn a_software_disabled_apic_keeps_what_it_has() {
    let mut apic = enabled(0);
    write(&mut apic, LINT0, 0x700);
    apic.receive(0x50, Trigger::Edge);
    write(&mut apic, SPURIOUS, 0xFF);
    apic.receive(0x60, Trigger::Edge);
    assert_eq!(apic.acknowledge(), Some(0x50));
    write(&mut apic, LINT0, 0x700);
    assert_eq!(read(&mut apic, LINT0), 0x1_0700, "stays masked");
    assert!(!apic.passes_ext_int());
}
