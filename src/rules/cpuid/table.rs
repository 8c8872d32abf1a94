//! The answers as the exits look them up.

use alloc::vec::Vec;

use super::features::CpuidFeature;
use super::leaves::{self, EXTENDED, HYPERVISOR, LAST_BASIC, LAST_EXTENDED, Leaves};
use super::policy::CpuidPolicy;
use super::xsave::{self, COMPACTED, Layout};
use super::{EAX, EBX, ECX, EDX, Registers};
use crate::msr::Msr;
use crate::rules::control_registers::xcr0;

const LEAF1_OSXSAVE: u32 = 1 << 27;
const LEAF1_APIC: u32 = 1 << 9;
const LEAF7_OSPKE: u32 = 1 << 4;
const EXTENDED_SYSCALL: u32 = 1 << 11;

/// A policy, made ready: what an exit needs of it, found without a search.
#[derive(Debug, Default)]
pub(crate) struct CpuidTable {
    leaves: Leaves,
    /// The answers of the basic leaves that are the same whatever the guest's state and ECX.
    plain: [Option<Registers>; LAST_BASIC as usize + 1],
    /// Where the entries of each basic leaf begin and end, and of each extended one.
    basic: [(u16, u16); LAST_BASIC as usize + 1],
    extended: [(u16, u16); (LAST_EXTENDED - EXTENDED) as usize + 1],
    highest_basic: u32,
    /// 0 where there are none.
    highest_hypervisor: u32,
    highest_extended: u32,
    layout: Layout,
    allowed_cr4: u64,
    allowed_efer: u64,
    allowed_xcr0: u64,
    physical_bits: u8,
    /// Virtualized MSRs that this guest does not have.
    absent_msrs: Vec<u32>,
}

/// The guest's registers that an answer depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dynamic {
    pub(crate) osxsave: bool,
    pub(crate) ospke: bool,
    pub(crate) mode_64: bool,
    /// IA32_APIC_BASE\[bit 11\] is clear.
    pub(crate) apic_off: bool,
    pub(crate) xcr0: u64,
}

impl CpuidTable {
    pub(crate) fn new(policy: &CpuidPolicy) -> Self {
        let mut leaves = policy.leaves().clone();
        if !policy.has(CpuidFeature::HYPERVISOR) {
            leaves.retain(|entry| !(HYPERVISOR..EXTENDED).contains(&entry.leaf));
        }
        let place = |leaf: u32| (leaves.start_of(leaf) as u16, leaves.start_of(leaf + 1) as u16);
        let mut table = Self {
            plain: [None; LAST_BASIC as usize + 1],
            basic: core::array::from_fn(|leaf| place(leaf as u32)),
            extended: core::array::from_fn(|leaf| place(EXTENDED + leaf as u32)),
            highest_basic: leaves.highest(0).unwrap_or(0),
            highest_hypervisor: leaves.highest(HYPERVISOR).unwrap_or(0),
            highest_extended: leaves.highest(EXTENDED).unwrap_or(0),
            layout: policy.layout().clone(),
            allowed_cr4: policy.cr4(),
            allowed_efer: policy.efer(),
            allowed_xcr0: policy.xcr0(),
            physical_bits: policy.physical_address_bits(),
            absent_msrs: absent_msrs(policy),
            leaves,
        };
        // A leaf that does not exist answers as the highest one, which may be any.
        let last = table.highest_basic.min(LAST_BASIC);
        for leaf in (0..=last).filter(|&leaf| !is_dynamic(leaf) && !leaves::has_subleaves(leaf)) {
            table.plain[leaf as usize] = Some(table.answer(leaf, 0, Dynamic::default()));
        }
        table
    }

    /// The answer for a leaf of which neither the guest's state nor ECX changes anything, if it is one of the basic ones.
    #[inline(always)]
    pub(crate) fn plain(&self, leaf: u32) -> Option<&Registers> {
        self.plain.get(leaf as usize)?.as_ref()
    }

    /// The answer for `leaf` (EAX) and `subleaf` (ECX).
    pub(crate) fn answer(&self, leaf: u32, subleaf: u32, dynamic: Dynamic) -> Registers {
        // Beyond the highest leaf, Intel's processors answer as for the highest basic one.
        let leaf = if self.is_in_range(leaf) { leaf } else { self.highest_basic };
        let mut registers = self.lookup(leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) => {
                registers[ECX] |= if dynamic.osxsave { LEAF1_OSXSAVE } else { 0 };
                registers[EDX] &= if dynamic.apic_off { !LEAF1_APIC } else { !0 };
            }
            (7, 0) if dynamic.ospke => registers[ECX] |= LEAF7_OSPKE,
            (xsave::LEAF, 0) if self.allowed_xcr0 != 0 => registers[EBX] = self.layout.size(dynamic.xcr0, false),
            (xsave::LEAF, 1) if registers[EAX] & COMPACTED != 0 => {
                registers[EBX] = self.layout.size(dynamic.xcr0, true);
            }
            // Intel's processors have SYSCALL in 64-bit mode, and say so only there.
            (0x8000_0001, _) if !dynamic.mode_64 => registers[EDX] &= !EXTENDED_SYSCALL,
            _ => {}
        }
        registers
    }

    /// The processor signature: what EDX holds after reset.
    pub(crate) fn signature(&self) -> u64 {
        self.lookup(1, 0)[EAX].into()
    }

    /// The bits that this guest has in CR4.
    pub(crate) fn allowed_cr4(&self) -> u64 {
        self.allowed_cr4
    }

    /// The bits that this guest may write to EFER.
    pub(crate) fn allowed_efer(&self) -> u64 {
        self.allowed_efer
    }

    /// The components that this guest may set in XCR0.
    pub(crate) fn allowed_xcr0(&self) -> u64 {
        self.allowed_xcr0
    }

    /// How many bits a guest-physical address has.
    pub(crate) fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    /// Of the MSRs that belong to features, those that this guest does not have.
    pub(crate) fn absent_msrs(&self) -> &[u32] {
        &self.absent_msrs
    }

    fn is_in_range(&self, leaf: u32) -> bool {
        match leaf {
            0..HYPERVISOR => leaf <= self.highest_basic,
            HYPERVISOR..EXTENDED => leaf <= self.highest_hypervisor,
            EXTENDED.. => leaf <= self.highest_extended,
        }
    }

    fn lookup(&self, leaf: u32, subleaf: u32) -> Registers {
        let entries = match leaf {
            0..=LAST_BASIC => self.leaves.at(self.basic.get(leaf as usize)),
            EXTENDED..=LAST_EXTENDED => self.leaves.at(self.extended.get((leaf - EXTENDED) as usize)),
            _ => self.leaves.of(leaf),
        };
        let own = if leaves::has_subleaves(leaf) { subleaf } else { 0 };
        match entries.iter().find(|entry| entry.subleaf == own) {
            Some(entry) => entry.registers,
            // Past its last level a topology leaf still gives the subleaf's number and the APIC id.
            None if matches!(leaf, 0xB | 0x1F) => {
                [0, 0, subleaf & 0xFF, entries.first().map_or(0, |entry| entry.registers[EDX])]
            }
            None => [0; 4],
        }
    }
}

impl CpuidPolicy {
    /// EAX, EBX, ECX and EDX that the guest is told for `leaf` and `subleaf` (EAX and ECX of the instruction). A leaf out
    /// of range has the answer of the highest basic one, as on Intel's processors.
    pub fn get(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let settled = Dynamic { mode_64: true, xcr0: xcr0::X87, ..Dynamic::default() };
        CpuidTable::new(self).answer(leaf, subleaf, settled)
    }
}

/// Whether a basic leaf shows something of the guest's state.
const fn is_dynamic(leaf: u32) -> bool {
    matches!(leaf, 1 | 7 | xsave::LEAF)
}

/// The MSRs that come with a feature, of those that the crate virtualizes for a guest.
fn absent_msrs(policy: &CpuidPolicy) -> Vec<u32> {
    const OF_FEATURES: &[(&[CpuidFeature], &[Msr])] = &[
        (&[CpuidFeature::SEP], &[Msr::IA32_SYSENTER_CS, Msr::IA32_SYSENTER_ESP, Msr::IA32_SYSENTER_EIP]),
        (&[CpuidFeature::PAT], &[Msr::IA32_PAT]),
        (&[CpuidFeature::SYSCALL, CpuidFeature::LM, CpuidFeature::NX], &[Msr::IA32_EFER]),
        (&[CpuidFeature::SYSCALL], &[Msr::IA32_STAR, Msr::IA32_LSTAR, Msr::IA32_CSTAR, Msr::IA32_FMASK]),
        (&[CpuidFeature::LM], &[Msr::IA32_FS_BASE, Msr::IA32_GS_BASE, Msr::IA32_KERNEL_GSBASE]),
        (&[CpuidFeature::RDTSCP, CpuidFeature::RDPID], &[Msr::IA32_TSC_AUX]),
        (&[CpuidFeature::XSAVES], &[Msr::IA32_XSS]),
        (&[CpuidFeature::IBRS_IBPB], &[Msr::IA32_PRED_CMD]),
    ];
    let absent = OF_FEATURES.iter().filter(|(features, _)| !features.iter().any(|feature| policy.has(*feature)));
    let spec_ctrl = (policy.spec_ctrl() == 0).then_some(Msr::IA32_SPEC_CTRL);
    absent.flat_map(|(_, msrs)| *msrs).copied().chain(spec_ctrl).map(Msr::number).collect()
}
