//! Whom a message reaches.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::apic::{ApicAddress, ApicMode, Delivery, Destination, Inbox, Message, Trigger, deliver};

fn any_address() -> impl Strategy<Value = ApicAddress> {
    let mode = prop_oneof![Just(ApicMode::Disabled), Just(ApicMode::Xapic), Just(ApicMode::X2apic)];
    let id = prop_oneof![0u32..40, any::<u32>().prop_map(|id| id % u32::MAX)];
    (mode, id, any::<u8>(), any::<bool>(), any::<bool>(), 0u8..16).prop_map(
        |(mode, id, logical, cluster, accepts, priority)| ApicAddress { mode, id, logical, cluster, accepts, priority },
    )
}

proptest! {
    /// What the others see is what the owner published, whatever it is.
    #[test]
    fn an_address_survives_its_word(address in any_address()) {
        prop_assert_eq!(ApicAddress::unpack(address.pack()), address);
    }

    /// A logical destination of the flat model names 8 APICs by a bit each.
    #[test]
    fn flat_destinations_are_sets(logical: u8, destination in 0u8..255) {
        let address = ApicAddress { mode: ApicMode::Xapic, id: 3, logical, cluster: false, accepts: true, priority: 0 };
        let expected = (0..8).any(|bit| logical & 1 << bit != 0 && destination & 1 << bit != 0);
        prop_assert_eq!(address.matches(Destination::from_8_bits(destination, true), false), expected);
    }

    /// One of the cluster model names up to 4 APICs in one of 16 clusters.
    #[test]
    fn cluster_destinations_are_sets_in_a_cluster(logical: u8, destination in 0u8..255) {
        let address = ApicAddress { mode: ApicMode::Xapic, id: 3, logical, cluster: true, accepts: true, priority: 0 };
        let members = |name: u8| (0..4u8).filter(move |bit| name & 1 << bit != 0).map(move |bit| name / 16 * 4 + bit);
        let expected = members(logical).any(|member| members(destination).any(|wanted| wanted == member));
        prop_assert_eq!(address.matches(Destination::from_8_bits(destination, true), false), expected);
    }

    /// One of the x2APIC names those with 16 consecutive ids, by a bit each.
    #[test]
    fn x2apic_destinations_are_sets_of_ids(id in prop_oneof![0u32..64, any::<u32>()], near: bool, cluster: u16, set: u16) {
        let cluster = if near { (id >> 4) as u16 } else { cluster };
        let destination = u32::from(cluster) << 16 | u32::from(set);
        prop_assume!(destination != Destination::BROADCAST);
        let address = ApicAddress { mode: ApicMode::X2apic, id, logical: 0, cluster: false, accepts: true, priority: 0 };
        // Ids beyond 2 to the power of 20 have no logical id of their own.
        let expected = (0..16).any(|bit| set & 1 << bit != 0 && u32::from(cluster) * 16 + bit == id & 0xF_FFFF);
        prop_assert_eq!(address.matches(Destination::from_32_bits(destination, true), false), expected);
    }

    #[test]
    fn physical_destinations_are_one_id(address in any_address(), other in 0u32..40, same: bool) {
        let wanted = if same { address.id } else { other };
        prop_assume!(wanted != Destination::BROADCAST);
        let own = match address.mode {
            ApicMode::Disabled => None,
            ApicMode::Xapic => Some(address.id % 256),
            ApicMode::X2apic => Some(address.id),
        };
        prop_assert_eq!(address.matches(Destination::from_32_bits(wanted, false), false), own == Some(wanted));
    }

    /// All ones are a broadcast, in messages of either width and in both modes, and so are the shorthands.
    #[test]
    fn broadcasts_reach_whoever_is_on(address in any_address(), logical: bool, is_sender: bool) {
        let on = address.mode != ApicMode::Disabled;
        prop_assert_eq!(address.matches(Destination::from_8_bits(0xFF, logical), is_sender), on);
        prop_assert_eq!(address.matches(Destination::from_32_bits(u32::MAX, logical), is_sender), on);
        prop_assert_eq!(address.matches(Destination::All, is_sender), on);
        prop_assert_eq!(address.matches(Destination::Others, is_sender), on && !is_sender);
        prop_assert_eq!(address.matches(Destination::Myself, is_sender), on && is_sender);
    }

    /// Of all that are addressed and take interrupts, one with the lowest priority gets it.
    #[test]
    fn lowest_priority_reaches_one(priorities in proptest::collection::vec((any::<u8>(), any::<bool>()), 1..8), set in 1u8..255) {
        let mut apics: Vec<_> = (0..priorities.len() as u32).map(enabled).collect();
        for (id, (apic, (priority, on))) in apics.iter_mut().zip(&priorities).enumerate() {
            write(apic, LOGICAL, 1 << (24 + id));
            write(apic, TASK_PRIORITY, (*priority).into());
            write(apic, SPURIOUS, if *on { 0x1FF } else { 0xFF });
        }
        let inboxes: Vec<_> = apics.iter().map(Inbox::new).collect();
        let delivery = Delivery::LowestPriority { vector: 0x40, trigger: Trigger::Edge };
        let message = Message { destination: Destination::from_8_bits(set, true), delivery };
        let mut kicked = Vec::new();
        let taken = deliver(&message, None, &inboxes, |place| kicked.push(place));
        let addressed = priorities.iter().enumerate().filter(|(place, (_, on))| *on && set & 1 << place != 0);
        let lowest = addressed.map(|(_, (priority, _))| priority / 16).min();
        prop_assert_eq!(taken, lowest.is_some());
        prop_assert_eq!(kicked.len(), usize::from(taken));
        prop_assert!(kicked.iter().all(|place| Some(priorities[*place].0 / 16) == lowest && set & 1 << place != 0));
    }
}

/// Each APIC's id, and what a message with all delivery modes reaches of an APIC that software has disabled.
#[test]
fn a_software_disabled_apic_takes_all_but_interrupts() {
    let inbox = Inbox::new(&LocalApic::new(LocalApicConfig::new(5, false)));
    let reaches =
        |delivery| deliver(&Message { destination: Destination::Physical(5), delivery }, None, [&inbox], |_| {});
    assert!([Delivery::Nmi, Delivery::Init, Delivery::StartUp { vector: 8 }, Delivery::Smi].into_iter().all(reaches));
    assert!(!reaches(Delivery::Fixed { vector: 0x40, trigger: Trigger::Edge }));
}

/// What the guest writes to its registers is what others are matched with.
#[test]
fn an_owner_publishes_its_address() {
    let mut apic = enabled(2);
    let inbox = Inbox::new(&apic);
    let to = |destination| Message { destination, delivery: Delivery::Nmi };
    let reaches = |destination| deliver(&to(destination), None, [&inbox], |_| {});
    write(&mut apic, LOGICAL, 0x21 << 24);
    write(&mut apic, FORMAT, 0x0FFF_FFFF);
    assert!(!reaches(Destination::Logical(0x23)), "not yet");
    inbox.collect(&mut apic);
    assert!(reaches(Destination::Logical(0x23)));
    assert!(!reaches(Destination::Logical(0x33)), "another cluster");
    apic.write_msr(APIC_BASE, 0xFEE0_0000, 0).unwrap();
    inbox.collect(&mut apic);
    assert!(!reaches(Destination::Physical(2)) && !reaches(Destination::All), "disabled");
}

/// SDM Vol. 3A, 11.11 "Message Signalled Interrupts".
#[test]
fn devices_write_messages() {
    let fixed = |vector, trigger| Delivery::Fixed { vector, trigger };
    let to_one = |vector, trigger| Delivery::LowestPriority { vector, trigger };
    let message = |destination, delivery| Some(Message { destination, delivery });
    let cases = [
        ((0xFEE0_3000, 0x0041), message(Destination::Physical(3), fixed(0x41, Trigger::Edge))),
        ((0xFEE0_3004, 0xC041), message(Destination::Logical(3), fixed(0x41, Trigger::Level))),
        ((0xFEE0_300C, 0x0041), message(Destination::Logical(3), to_one(0x41, Trigger::Edge))),
        ((0xFEE0_3008, 0x0141), message(Destination::Physical(3), to_one(0x41, Trigger::Edge))),
        ((0xFEE0_300C, 0x0400), message(Destination::Logical(3), Delivery::Nmi)),
        ((0xFEEF_F000, 0x0400), message(Destination::Physical(Destination::BROADCAST), Delivery::Nmi)),
        ((0xFEF0_0000, 0x0041), None),
        ((0x1_FEE0_0000, 0x0041), None),
        ((0xFEE0_0000, 0x0600), None),
    ];
    for ((address, data), expected) in cases {
        assert_eq!(Message::from_msi(address, data), expected, "{address:#x} {data:#x}");
    }
}
