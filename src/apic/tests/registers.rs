//! Accesses of the guest: what can be read and written, what is #GP, and what a write sends.

use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::apic::{ApicMode, Delivery, Destination, GeneralProtection, LocalSource, Message, TimerClock, Trigger};

const GP: Result<Option<Effect>, GeneralProtection> = Err(GeneralProtection);

/// SDM Vol. 3A, table 11-6: read, write, and the bits that are not reserved.
const X2APIC: &[(core::ops::RangeInclusive<u32>, bool, bool, u64)] = &[
    (0x802..=0x803, true, false, 0),
    (0x808..=0x808, true, true, 0xFF),
    (0x80A..=0x80A, true, false, 0),
    (0x80B..=0x80B, false, true, 0),
    (0x80D..=0x80D, true, false, 0),
    (0x80F..=0x80F, true, true, 0x11FF),
    (0x810..=0x827, true, false, 0),
    (0x828..=0x828, true, true, 0),
    (0x830..=0x830, true, true, 0xFFFF_FFFF_000C_CFFF),
    (0x832..=0x832, true, true, 0x7_10FF),
    (0x833..=0x834, true, true, 0x1_17FF),
    (0x835..=0x836, true, true, 0x1_F7FF),
    (0x837..=0x837, true, true, 0x1_10FF),
    (0x838..=0x838, true, true, 0xFFFF_FFFF),
    (0x839..=0x839, true, false, 0),
    (0x83E..=0x83E, true, true, 0b1011),
    (0x83F..=0x83F, false, true, 0xFF),
];

proptest! {
    #[test]
    fn x2apic_accesses_fault_where_they_shall(msr in 0x800u32..0x900, bit in 0u32..64) {
        let mut apic = enabled_x2apic(9);
        let row = X2APIC.iter().find(|(range, ..)| range.contains(&msr));
        let (readable, writable, bits) = row.map_or((false, false, 0), |(_, readable, writable, bits)| (*readable, *writable, *bits));
        prop_assert_eq!(apic.read_msr(msr, 0).is_ok(), readable);
        prop_assert_eq!(apic.write_msr(msr, 0, 0).is_ok(), writable);
        prop_assert_eq!(apic.write_msr(msr, 1 << bit, 0).is_ok(), writable && bits & 1 << bit != 0);
    }

    /// The MSRs are there in the x2APIC's mode only, the page in the xAPIC's only.
    #[test]
    fn each_mode_has_its_own_registers(msr in 0x800u32..0x900) {
        let mut xapic = enabled(9);
        prop_assert_eq!(xapic.read_msr(msr, 0), Err(GeneralProtection));
        prop_assert_eq!(xapic.write_msr(msr, 0, 0), GP);
        let mut x2apic = enabled_x2apic(9);
        prop_assert_eq!(x2apic.page(), None);
        prop_assert_eq!(read(&mut x2apic, u64::from(msr & 0x3F) << 4), u32::MAX);
        prop_assert_eq!(write(&mut x2apic, COMMAND, 0x4030), None);
    }

    /// Whatever a guest and its machine do, nothing panics, no exception's vector comes out, and time stays in order.
    #[test]
    fn no_sequence_breaks_it(
        actions in proptest::collection::vec((0u8..11, prop_oneof![0u64..0x400, any::<u64>()], any::<u64>(), 0u64..1 << 40), 0..120),
        clock in (1u32.., 1u32..), x2apic: bool, tsc_deadline: bool,
    ) {
        const WIDTHS: [AccessWidth; 4] = [AccessWidth::Byte, AccessWidth::Word, AccessWidth::Dword, AccessWidth::Qword];
        const SOURCES: [LocalSource; 4] = [LocalSource::Lint0, LocalSource::Lint1, LocalSource::Performance, LocalSource::Thermal];
        let clock = TimerClock { ticks: clock.0.try_into().unwrap(), per: clock.1.try_into().unwrap() };
        let mut apic = LocalApic::new(LocalApicConfig { clock, x2apic, tsc_deadline, ..LocalApicConfig::new(1, false) });
        write(&mut apic, SPURIOUS, 0x1FF);
        let mut now = 0u64;
        for (action, place, value, step) in actions {
            now = now.saturating_add(if step % 16 == 0 { step << 24 } else { step });
            let msr = 0x800 + place as u32 % 0x100;
            match action {
                0 => _ = apic.write(place & !0xF, AccessWidth::Dword, value, now),
                1 => _ = apic.write(place, WIDTHS[value as usize % 4], value, now),
                2 => _ = apic.read(place, WIDTHS[value as usize % 4], now),
                3 => _ = apic.write_msr(msr, value, now),
                4 => _ = apic.write_msr(msr, value & 0x7_FFFF, now),
                5 => _ = apic.read_msr(msr, now),
                6 => _ = apic.write_msr(TSC_DEADLINE, value, now),
                7 => _ = apic.write_msr(APIC_BASE, value & 0xF_FFFF_FD00, now),
                8 => apic.receive(place as u8, Trigger::Level),
                9 => _ = apic.raise(SOURCES[value as usize % 4]),
                _ => if value % 8 == 0 { apic.init() } else { apic.set_virtual_wire() },
            }
            apic.advance(now);
            prop_assert!(apic.next_deadline().is_none_or(|deadline| deadline > now || now == u64::MAX));
            if value % 2 == 0 {
                prop_assert!(apic.acknowledge().is_none_or(|vector| vector >= 16));
            }
        }
    }
}

/// SDM Vol. 3A, figure 11-27 "Local x2APIC State Transitions with IA32_APIC_BASE, INIT, and Reset".
#[test]
fn modes_change_along_the_arrows_only() {
    const OFF: u64 = 0;
    const XAPIC: u64 = 1 << 11;
    const X2APIC: u64 = 0b11 << 10;
    const INVALID: u64 = 1 << 10;
    let allowed =
        [(OFF, OFF), (OFF, XAPIC), (XAPIC, OFF), (XAPIC, XAPIC), (XAPIC, X2APIC), (X2APIC, X2APIC), (X2APIC, OFF)];
    let ways: [(u64, &[u64]); 3] = [(OFF, &[OFF]), (XAPIC, &[XAPIC]), (X2APIC, &[XAPIC, X2APIC])];
    for (from, way) in ways {
        for to in [OFF, XAPIC, X2APIC, INVALID] {
            let mut apic = LocalApic::new(LocalApicConfig::new(1, false));
            way.iter().for_each(|step| _ = apic.write_msr(APIC_BASE, 0xFEE0_0000 | step, 0).unwrap());
            let result = apic.write_msr(APIC_BASE, 0xFEE0_0000 | to, 0);
            assert_eq!(result.is_ok(), allowed.contains(&(from, to)), "{from:#x} to {to:#x}");
            let now = if result.is_ok() { to } else { from };
            assert_eq!(apic.read_msr(APIC_BASE, 0), Ok(0xFEE0_0000 | now));
        }
    }
}

#[test]
fn reserved_bits_of_the_base_are_gp() {
    let config = LocalApicConfig { x2apic: false, ..LocalApicConfig::new(0, true) };
    let mut apic = LocalApic::new(config);
    let base = apic.read_msr(APIC_BASE, 0).unwrap();
    assert_eq!(base, 0xFEE0_0900);
    for bit in (0..8).chain([9, 10]).chain(36..64) {
        assert_eq!(apic.write_msr(APIC_BASE, base | 1 << bit, 0), GP, "bit {bit}");
    }
    assert_eq!(apic.read_msr(APIC_BASE, 0), Ok(base));
}

/// A bit that only other processors have is #GP.
#[test]
fn what_cpuid_hides_is_not_there() {
    let mut apic = LocalApic::new(LocalApicConfig { tsc_deadline: false, ..LocalApicConfig::new(0, true) });
    assert_eq!(apic.write_msr(TSC_DEADLINE, 1, 0), GP);
    assert_eq!(apic.read_msr(TSC_DEADLINE, 0), Err(GeneralProtection));
    apic.write_msr(APIC_BASE, 0xFEE0_0D00, 0).unwrap();
    assert_eq!(apic.write_msr(0x832, 0x4_0040, 0), GP);
    assert_eq!(apic.write_msr(0x832, 0x2_0040, 0), Ok(None));
}

#[test]
fn the_page_moves_and_goes() {
    let mut apic = enabled(0);
    let moved = |from, to| Ok(Some(Effect::PageMoved { from, to }));
    let at = |page: u64| Some(page);
    assert_eq!(apic.write_msr(APIC_BASE, 0xFEE0_0900, 0), Ok(None), "where it is");
    assert_eq!(apic.write_msr(APIC_BASE, 0xD000_0900, 0), moved(at(0xFEE0_0000), at(0xD000_0000)));
    assert_eq!(apic.write_msr(APIC_BASE, 0xD000_0D00, 0), moved(at(0xD000_0000), None));
    assert_eq!(apic.write_msr(APIC_BASE, 0xD000_0100, 0), moved(None, None), "off, which CPUID tells");
    assert!(!apic.is_present());
    assert_eq!(apic.write_msr(APIC_BASE, 0xD000_0900, 0), moved(None, at(0xD000_0000)));
    assert_eq!(read(&mut apic, SPURIOUS), 0xFF, "off and on again is a reset");
}

/// Only whole registers are written; parts of them can be read.
#[test]
fn widths_and_alignment_of_the_page() {
    let mut apic = enabled(0);
    for (offset, width) in [(0x80, AccessWidth::Byte), (0x80, AccessWidth::Qword), (0x84, AccessWidth::Dword)] {
        assert_eq!(apic.write(offset, width, 0x50, 0), None);
    }
    assert_eq!(read(&mut apic, TASK_PRIORITY), 0);
    write(&mut apic, LOGICAL, 0xAB00_0000);
    assert_eq!(apic.read(LOGICAL + 3, AccessWidth::Byte, 0), 0xAB);
    assert_eq!(apic.read(LOGICAL + 2, AccessWidth::Word, 0), 0xAB00);
    assert_eq!(apic.read(LOGICAL, AccessWidth::Qword, 0), 0xAB00_0000);
    assert_eq!(apic.read(LOGICAL + 4, AccessWidth::Dword, 0), 0);
}

fn sent(destination: Destination, delivery: Delivery) -> Option<Effect> {
    Some(Effect::Send(Message { destination, delivery }))
}

#[test]
fn commands_become_messages() {
    use Delivery::{Init, LowestPriority, Nmi, Smi, StartUp};
    let fixed = Delivery::Fixed { vector: 0x41, trigger: Trigger::Edge };
    let lowest = LowestPriority { vector: 0x41, trigger: Trigger::Edge };
    let here = Destination::Physical(3);
    let cases = [
        (0x0000_4041, sent(here, fixed)),
        (0x0000_C041, sent(here, fixed)),
        (0x0000_4841, sent(Destination::Logical(3), fixed)),
        (0x0000_4141, sent(here, lowest)),
        (0x0000_4200, sent(here, Smi)),
        (0x0000_4400, sent(here, Nmi)),
        (0x0000_C500, sent(here, Init)),
        (0x0000_4500, sent(here, Init)),
        (0x0000_8500, None), // INIT level de-assert
        (0x0000_4608, sent(here, StartUp { vector: 8 })),
        (0x0000_4341, None),
        (0x0000_4741, None),
        (0x0008_4041, sent(Destination::All, fixed)),
        (0x000C_4041, sent(Destination::Others, fixed)),
        (0x000C_4608, sent(Destination::Others, StartUp { vector: 8 })),
        (0x0004_4400, None), // to oneself go interrupts only
    ];
    for (command, effect) in cases {
        let mut xapic = enabled(0);
        write(&mut xapic, COMMAND_HIGH, 3 << 24);
        assert_eq!(write(&mut xapic, COMMAND, command), effect, "xAPIC {command:#x}");
        assert_eq!(read(&mut xapic, COMMAND), command, "and is idle again");
        let mut x2apic = enabled_x2apic(0);
        assert_eq!(x2apic.write_msr(0x830, 3 << 32 | u64::from(command), 0), Ok(effect), "x2APIC {command:#x}");
    }
}

/// A destination of all ones is a broadcast in each mode; one of 8 bits is none in the x2APIC's.
#[test]
fn destinations_have_the_width_of_the_mode() {
    let mut xapic = enabled(0);
    write(&mut xapic, COMMAND_HIGH, 0xFF << 24);
    assert_eq!(write(&mut xapic, COMMAND, 0x4400), sent(Destination::Physical(u32::MAX), Delivery::Nmi));
    let mut x2apic = enabled_x2apic(0);
    assert_eq!(x2apic.write_msr(0x830, 0xFF_0000_4400, 0), Ok(sent(Destination::Physical(0xFF), Delivery::Nmi)));
}

#[test]
fn interrupts_to_oneself_stay_here() {
    let mut xapic = enabled(0);
    assert_eq!(write(&mut xapic, COMMAND, 0x4_4041), None);
    assert_eq!(xapic.pending(), Some(0x41));
    let mut x2apic = enabled_x2apic(0);
    assert_eq!(x2apic.write_msr(0x83F, 0x41, 0), Ok(None));
    assert_eq!(x2apic.pending(), Some(0x41));
}

/// ESR shows what happened before its last write, once, and each write lets one more error interrupt.
#[test]
fn errors_show_after_a_write() {
    let mut apic = enabled(0);
    write(&mut apic, ERROR, 0xE0);
    let ended = |apic: &mut LocalApic| {
        let vector = apic.acknowledge();
        write(apic, END, 0);
        vector
    };
    assert_eq!(write(&mut apic, COMMAND, 0x4005), None, "an illegal vector is not sent");
    assert_eq!((read(&mut apic, ERROR_STATUS), ended(&mut apic)), (0, Some(0xE0)));
    apic.receive(5, Trigger::Edge);
    assert_eq!(ended(&mut apic), None, "not before a write");
    write(&mut apic, ERROR_STATUS, 0);
    assert_eq!(read(&mut apic, ERROR_STATUS), 0x60);
    read(&mut apic, 0x40);
    assert_eq!((read(&mut apic, ERROR_STATUS), ended(&mut apic)), (0x60, Some(0xE0)));
    write(&mut apic, ERROR_STATUS, 0);
    assert_eq!(read(&mut apic, ERROR_STATUS), 0x80);
    write(&mut apic, ERROR_STATUS, 0);
    assert_eq!(read(&mut apic, ERROR_STATUS), 0);
}

/// What the pins of a PC's processors do, as firmware leaves them and as a kernel changes it.
#[test]
fn local_sources_go_by_their_entries() {
    let mut apic = LocalApic::new(LocalApicConfig::new(0, true));
    assert!(!apic.passes_ext_int());
    assert_eq!(apic.raise(LocalSource::Lint1), None);
    apic.set_virtual_wire();
    assert!(apic.passes_ext_int());
    assert_eq!(apic.raise(LocalSource::Lint1), Some(Delivery::Nmi));
    write(&mut apic, LINT0, 0x41);
    assert!(!apic.passes_ext_int());
    assert_eq!((apic.raise(LocalSource::Lint0), apic.pending()), (None, Some(0x41)));
    write(&mut apic, 0x340, 0x400);
    let overflows: Vec<_> = (0..2).map(|_| apic.raise(LocalSource::Performance)).collect();
    assert_eq!(overflows, [Some(Delivery::Nmi), None], "an overflow masks its entry");
    apic.write_msr(APIC_BASE, 0xFEE0_0100, 0).unwrap();
    assert!(apic.passes_ext_int(), "past an APIC that is off");
}

#[test]
fn the_x2apic_has_its_ids() {
    let mut apic = enabled_x2apic(0x1_2345);
    assert_eq!(apic.read_msr(0x802, 0), Ok(0x1_2345));
    assert_eq!(apic.read_msr(0x80D, 0), Ok(0x1234_0020));
    assert_eq!(apic.address().mode, ApicMode::X2apic);
    let mut xapic = enabled(0x45);
    assert_eq!(read(&mut xapic, 0x20), 0x45 << 24);
}
