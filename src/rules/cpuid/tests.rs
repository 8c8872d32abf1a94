use proptest::prelude::*;

use super::features::{By, TABLE};
use super::*;
use CpuidFeature as F;

/// A processor that has every feature, with XSAVE components laid out one after the other.
fn everything(leaf: u32, subleaf: u32) -> Registers {
    match (leaf, subleaf) {
        (0, _) => [0x20, 0, 0, 0],
        (0x8000_0000, _) => [0x8000_0008, 0, 0, 0],
        (0x8000_0008, _) => [0x3027, 0, 0, 0],
        (4, 0..4) => [u32::MAX, 0, 0, 0],
        (4, _) => [0; 4],
        (0xD, 2..20) => [64 * subleaf, 576 + 64 * (0..subleaf).sum::<u32>(), (subleaf & 1) << 1, 0],
        _ => [u32::MAX; 4],
    }
}

fn support() -> impl Strategy<Value = Support> {
    (0usize..5, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(x, rdtscp, invpcid, xsaves)| Support {
        xcr0: [0, 3, 7, 0xE7, 0x2E7][x],
        rdtscp,
        invpcid,
        xsaves,
        monitor: rdtscp,
        cr4: u64::MAX,
    })
}

const ALL: Support = Support { xcr0: 0x2E7, rdtscp: true, invpcid: true, xsaves: true, monitor: true, cr4: u64::MAX };

fn near_the_edges() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0u32..0x28, 0x3FFF_FFF8..0x4000_0010u32, 0x7FFF_FFF8..0x8000_0018u32]
}

fn any_feature() -> impl Strategy<Value = F> {
    (0..TABLE.len()).prop_map(|i| TABLE[i].feature)
}

/// What a caller can do to a policy.
#[derive(Clone, Debug)]
enum Edit {
    Hide(F),
    Show(F),
    Set(u32, u32, Registers),
    /// A leaf as it is, but for one bit.
    Flip(u32, u32, usize, u32),
    Topology(CpuidTopology),
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let leaf = prop_oneof![0u32..0x21, 0x4000_0000u32..0x4000_0004, 0x8000_0000u32..0x8000_000A, any::<u32>()];
    let flags = prop_oneof![
        Just((1u32, 0u32)),
        Just((7, 0)),
        Just((7, 1)),
        Just((7, 2)),
        Just((0xD, 1)),
        Just((0x8000_0001, 0))
    ];
    prop_oneof![
        any_feature().prop_map(Edit::Hide),
        any_feature().prop_map(Edit::Show),
        (leaf, 0u32..3, any::<Registers>()).prop_map(|(leaf, sub, r)| Edit::Set(leaf, sub, r)),
        (flags, 0usize..4, 0u32..32).prop_map(|((leaf, sub), i, bit)| Edit::Flip(leaf, sub, i, bit)),
        (0u32..0x2_0000).prop_map(|max| Edit::Set(0, 0, [max % 0x20, 0, 0, 0])),
        (any::<u32>(), 1u32..300, 1u32..300).prop_map(|(apic_id, threads_per_core, cores_per_package)| {
            Edit::Topology(CpuidTopology { apic_id, threads_per_core, cores_per_package })
        }),
    ]
}

fn apply(policy: &mut CpuidPolicy, edit: &Edit) -> bool {
    match edit.clone() {
        Edit::Hide(feature) => {
            policy.hide(feature);
            true
        }
        Edit::Show(feature) => policy.show(feature).is_ok(),
        Edit::Set(leaf, subleaf, registers) => policy.set(leaf, subleaf, registers).is_ok(),
        Edit::Flip(leaf, subleaf, i, bit) => {
            let mut registers = policy.get(leaf, subleaf);
            registers[i] ^= 1 << bit;
            policy.set(leaf, subleaf, registers).is_ok()
        }
        Edit::Topology(topology) => policy.set_topology(topology).is_ok(),
    }
}

fn settled() -> Dynamic {
    Dynamic { mode_64: true, xcr0: 1, ..Dynamic::default() }
}

/// What a guest may rely on, whatever the caller did.
fn consistent(policy: &CpuidPolicy) -> Result<(), TestCaseError> {
    for row in TABLE.iter().filter(|row| policy.has(row.feature)) {
        for need in row.needs {
            prop_assert!(policy.has(*need), "{:?} without {:?}", row.feature, need);
        }
    }
    let [_, _, ecx1, _] = policy.get(1, 0);
    prop_assert_eq!(ecx1 & (1 << 5 | 1 << 6 | 1 << 27), 0, "VMX, SMX, OSXSAVE");
    let xcr0 = policy.xcr0();
    prop_assert_eq!(xcr0 & 1 != 0, policy.has(F::XSAVE));
    prop_assert_eq!(xcr0 & 4 != 0, policy.has(F::AVX));
    prop_assert_eq!(xcr0 & 0xE0, if policy.has(F::AVX512F) { 0xE0 } else { 0 });
    prop_assert_eq!(policy.cr4() >> 18 & 1 != 0, policy.has(F::XSAVE));
    prop_assert_eq!(policy.cr4() >> 17 & 1 != 0, policy.has(F::PCID));
    prop_assert_eq!(policy.cr4() & 1 << 13, 0);
    let range = policy.get(0, 0)[0];
    // Beyond the range there is the answer of another leaf.
    let speculation = if range >= 7 { policy.get(7, 0)[3] } else { 0 };
    prop_assert_eq!(policy.spec_ctrl() & 1 != 0, speculation >> 26 & 0b11 != 0);
    prop_assert_eq!(policy.spec_ctrl() & 4 != 0, speculation >> 31 != 0);
    let more = if range >= 7 && policy.get(7, 0)[0] >= 2 { policy.get(7, 2)[3] } else { 0 };
    prop_assert_eq!(policy.spec_ctrl() >> 10 & 1 != 0, more >> 4 & 1 != 0);
    if xcr0 != 0 {
        prop_assert!(range >= 0xD);
        let [low, _, most, high] = policy.get(0xD, 0);
        prop_assert_eq!(u64::from(high) << 32 | u64::from(low), xcr0);
        for component in (2..63).filter(|c| xcr0 >> c & 1 != 0) {
            let [size, offset, ..] = policy.get(0xD, component);
            prop_assert!(size != 0 && offset >= 576 && offset + size <= most, "component {}", component);
        }
    } else if range >= 0xD {
        prop_assert_eq!(policy.get(0xD, 0), [0; 4]);
        prop_assert_eq!(policy.get(0xD, 1), [0; 4]);
    }
    Ok(())
}

proptest! {
    /// A guest is shown a bit of SPEC_CTRL only where the processor takes it, and a bit that cannot be shown is noticed.
    #[test]
    fn spec_ctrl_shows_no_more_than_the_processor_takes(
        support in support(), edx0: u32, edx2: u32, last in 0u32..4, hidden in any::<bool>(),
    ) {
        let native = |leaf, subleaf| match (leaf, subleaf) {
            (7, 0) => [last, 0, 0, edx0],
            (7, 2) => [0, 0, 0, edx2],
            _ => everything(leaf, subleaf),
        };
        let accepted = accepted_spec_ctrl(native);
        let mut policy = CpuidPolicy::new(native, &support, 0);
        prop_assert_eq!(policy.spec_ctrl() & !accepted, 0);
        let unknown = last >= 2 && edx2 >> 8 != 0;
        prop_assert_eq!(accepted == policy.spec_ctrl(), !unknown);
        if hidden && edx0 >> 31 != 0 {
            policy.hide(F::SSBD);
            prop_assert_ne!(accepted & !policy.spec_ctrl(), 0);
        }
    }

    /// Edits in any order leave it consistent, and one that is refused leaves it as it was.
    #[test]
    fn edits_keep_it_consistent(support in support(), edits in proptest::collection::vec(any_edit(), 0..30)) {
        let mut policy = CpuidPolicy::new(everything, &support, 0);
        consistent(&policy)?;
        for edit in edits {
            let before = policy.clone();
            if !apply(&mut policy, &edit) {
                prop_assert_eq!(&policy, &before, "{:?}", edit);
            }
            consistent(&policy)?;
        }
    }

    /// An edit done twice is the edit done once.
    #[test]
    fn edits_are_idempotent(first in proptest::collection::vec(any_edit(), 0..8), edit in any_edit()) {
        prop_assume!(!matches!(edit, Edit::Flip(..)));
        let mut policy = CpuidPolicy::new(everything, &ALL, 0);
        for edit in &first {
            apply(&mut policy, edit);
        }
        let accepted = apply(&mut policy, &edit);
        let once = policy.clone();
        prop_assert_eq!(apply(&mut policy, &edit), accepted);
        prop_assert_eq!(policy, once);
    }

    /// What the policy says of a leaf can be said to it.
    #[test]
    fn what_it_says_it_accepts(edits in proptest::collection::vec(any_edit(), 0..8), leaf: u32, subleaf in 0u32..3) {
        let mut policy = CpuidPolicy::new(everything, &ALL, 3);
        for edit in &edits {
            apply(&mut policy, edit);
        }
        let before = policy.clone();
        let highest = policy.get(0, 0)[0];
        for leaf in (0..=highest).chain([0x8000_0000, 0x8000_0001, 0x8000_0007, 0x8000_0008, leaf]) {
            let subleaf = if super::leaves::has_subleaves(leaf) { subleaf } else { 0 };
            let beyond = leaf > highest && !(0x8000_0000..=before.get(0x8000_0000, 0)[0]).contains(&leaf);
            let invented = matches!(leaf, 4 | 0xB | 0x1F) || beyond;
            if !invented {
                prop_assert!(policy.set(leaf, subleaf, before.get(leaf, subleaf)).is_ok(), "leaf {:x}", leaf);
                prop_assert_eq!(policy.get(leaf, subleaf), before.get(leaf, subleaf));
            }
        }
    }

    /// Showing again what was hidden gives back at least that feature, and hiding takes nothing that does not need it.
    #[test]
    fn hide_and_show(feature in any_feature(), other in any_feature()) {
        fn needs(feature: F, need: F) -> bool {
            feature == need || TABLE.iter().find(|row| row.feature == feature).unwrap().needs.iter().any(|n| needs(*n, need))
        }
        let mut policy = CpuidPolicy::new(everything, &ALL, 0);
        for caller in TABLE.iter().filter(|row| row.by == By::Caller) {
            policy.show(caller.feature).unwrap();
        }
        prop_assert!(policy.has(other));
        policy.hide(feature);
        prop_assert!(!policy.has(feature));
        prop_assert_eq!(policy.has(other), !needs(other, feature));
        policy.show(feature).unwrap();
        prop_assert!(policy.has(feature));
    }

    /// Whatever the processor says, a flag that it has not, or that the crate does not know, cannot be shown.
    #[test]
    fn nothing_is_invented(words: [u32; 4], support in support(), bit in 0u32..32, i in 1usize..4) {
        let native = |leaf, subleaf| match leaf {
            1 | 7 | 0x8000_0001 => words,
            _ => everything(leaf, subleaf),
        };
        let policy = CpuidPolicy::new(native, &support, 0);
        consistent(&policy)?;
        for leaf in [1, 7, 0x8000_0001] {
            let shown = policy.get(leaf, 0);
            let ours = if leaf == 1 { [0, u32::MAX, 1 << 31, 0] } else { [0; 4] };
            prop_assert_eq!(shown[i] & !words[i] & !ours[i], 0);
            let mut more = shown;
            more[i] |= 1 << bit;
            let by_caller = TABLE.iter().any(|row| row.by == By::Caller && row.feature.is_in(&more) && !row.feature.is_in(&shown)
                && row.feature.place() == (leaf, 0));
            let mut edited = policy.clone();
            if words[i] & 1 << bit == 0 && shown != more && !by_caller && (leaf, i) != (1, 1) {
                prop_assert!(edited.set(leaf, 0, more).is_err(), "{:x} {} {}", leaf, i, bit);
            }
        }
    }

    /// Every leaf has an answer, and one beyond the range has that of the highest basic leaf.
    #[test]
    fn any_leaf_is_answered(leaf in near_the_edges(), subleaf: u32, support in support(), max in 0u32..0x20) {
        let mut policy = CpuidPolicy::new(everything, &support, 0);
        policy.set(0, 0, [max, 1, 2, 3]).unwrap();
        let table = CpuidTable::new(&policy);
        let answer = table.answer(leaf, subleaf, settled());
        let known = leaf <= max || (0x4000_0000..=0x4000_0001).contains(&leaf) && policy.has(F::HYPERVISOR)
            || (0x8000_0000..=0x8000_0008).contains(&leaf);
        if !known {
            prop_assert_eq!(answer, table.answer(max, subleaf, settled()));
        }
    }

    /// The size that EBX gives covers each component enabled and grows to the one in ECX.
    #[test]
    fn area_sizes_cover_what_is_enabled(support in support(), guest: u64) {
        let policy = CpuidPolicy::new(everything, &support, 0);
        let table = CpuidTable::new(&policy);
        let size = |subleaf, xcr0| table.answer(0xD, subleaf, Dynamic { xcr0, ..settled() })[1];
        let xcr0 = guest & support.xcr0 | 1;
        prop_assume!(support.xcr0 != 0);
        prop_assert!(size(0, xcr0) >= 576);
        prop_assert_eq!(size(0, support.xcr0), policy.get(0xD, 0)[2]);
        let mut packed = 576;
        for component in (2..63).filter(|c| xcr0 >> c & 1 != 0) {
            let [length, offset, ..] = policy.get(0xD, component);
            prop_assert!(offset + length <= size(0, xcr0));
            packed += length;
        }
        prop_assert!(!support.xsaves || (packed..packed + 64 * 20).contains(&size(1, xcr0)));
    }

    /// From an id, thread, core and package can be told apart as the levels say, and no two processors are one.
    #[test]
    fn topology_levels_partition_ids(threads in 1u32..300, cores in 1u32..300, id: u32) {
        let mut policy = CpuidPolicy::new(everything, &ALL, 0);
        let topology = CpuidTopology { apic_id: id, threads_per_core: threads, cores_per_package: cores };
        let accepted = policy.set_topology(topology).is_ok();
        prop_assert_eq!(accepted, threads <= 256);
        if accepted {
            let [thread_bits, threads_there, _, id_there] = policy.get(0xB, 0);
            let [package_bits, processors, ..] = policy.get(0xB, 1);
            prop_assert!(threads <= 1 << thread_bits && threads * cores <= 1 << package_bits);
            prop_assert!(thread_bits == 0 || threads > 1 << (thread_bits - 1));
            prop_assert_eq!((threads_there, processors, id_there), (threads, threads * cores, id));
            prop_assert_eq!(policy.get(0xB, 7), [0, 0, 7, id]);
            prop_assert_eq!(policy.get(1, 0)[1] >> 24, id & 0xFF);
            prop_assert_eq!(policy.has(F::HTT), threads * cores > 1);
            for cache in 0..4 {
                let sharing = (policy.get(4, cache)[0] >> 14 & 0xFFF) + 1;
                prop_assert!(sharing <= 1 << package_bits && sharing.is_power_of_two());
            }
        }
    }
}

/// An APIC that is off is none; nothing else of the leaf changes with it, and a guest without one gets none.
#[test]
fn an_apic_is_told_of_while_it_is_on() {
    let mut policy = CpuidPolicy::new(everything, &ALL, 0);
    for shown in [false, true] {
        if shown {
            policy.show(F::APIC).unwrap();
        }
        let table = CpuidTable::new(&policy);
        let [on, off] = [false, true].map(|apic_off| table.answer(1, 0, Dynamic { apic_off, ..settled() }));
        assert_eq!(on[3] >> 9 & 1, u32::from(shown));
        assert_eq!(off, [on[0], on[1], on[2], on[3] & !(1 << 9)]);
    }
}

/// AVX goes with all that it carries, and a set leaf does the same as the names.
#[test]
fn hiding_avx_hides_its_family() {
    let mut by_name = CpuidPolicy::new(everything, &ALL, 0);
    let mut by_leaf = by_name.clone();
    let before = by_name.get(0xD, 0)[2];
    by_name.hide(F::AVX);
    for gone in [F::AVX2, F::FMA, F::F16C, F::VAES, F::VPCLMULQDQ, F::AVX512F, F::AVX512BW, F::AVX512_BF16, F::AVX_VNNI]
    {
        assert!(!by_name.has(gone), "{gone:?}");
    }
    assert!(by_name.has(F::SSE4_2) && by_name.has(F::XSAVE) && by_name.has(F::PKU));
    assert_eq!(by_name.xcr0(), 0x203);
    assert!(by_name.get(0xD, 0)[2] <= before && by_name.get(0xD, 2) == [0; 4]);

    let [eax, ebx, ecx, edx] = by_leaf.get(1, 0);
    by_leaf.set(1, 0, [eax, ebx, ecx & !(1 << 28), edx]).unwrap();
    assert_eq!(by_name, by_leaf);

    by_name.show(F::AVX2).unwrap();
    assert!(by_name.has(F::AVX) && !by_name.has(F::AVX512F));
    assert_eq!(by_name.xcr0(), 0x207);
}

#[test]
fn features_without_what_they_need_are_refused() {
    let support = Support { xcr0: 7, ..ALL };
    let mut policy = CpuidPolicy::new(everything, &support, 0);
    for never in
        [F::AVX512F, F::AVX512BW, F::PKU, F::new(1, 0, CpuidRegister::Ecx, 5), F::new(9, 9, CpuidRegister::Eax, 99)]
    {
        assert!(policy.show(never).is_err(), "{never:?}");
    }
    let [eax, ebx, ecx, edx] = policy.get(1, 0);
    let hidden = ecx & !(1 << 28 | 1 << 29 | 1 << 12);
    policy.set(1, 0, [eax, ebx, hidden, edx]).unwrap();
    assert!(policy.set(1, 0, [eax, ebx, hidden & !(1 << 26) | 1 << 28, edx]).is_err(), "AVX without XSAVE");
}

#[test]
fn features_have_names() {
    assert_eq!(F::by_name("AVX2"), Some(F::AVX2));
    assert_eq!(F::AVX2, F::new(7, 0, CpuidRegister::Ebx, 5));
    assert_eq!(F::by_name("VMX"), None);
    assert_eq!(F::new(1, 0, CpuidRegister::Ecx, 5).name(), None);
}
