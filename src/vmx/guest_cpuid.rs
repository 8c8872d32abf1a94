//! What CPUID tells a guest: computed once when the vCPU is set up, looked up at each exit.
//!
//! The rule is that a guest is shown what works for it. A feature stays if it needs nothing from the hypervisor, or if
//! the crate keeps its state; every other bit is cleared, and bits that no list below names are cleared too, so a newer
//! processor shows a guest nothing that the crate does not know. VMX is hidden, and the hypervisor bit is set.

use alloc::vec::Vec;

use super::guest_cr::{
    CR4_CET, CR4_LA57, CR4_MCE, CR4_OSXSAVE, CR4_PAE, CR4_PCIDE, CR4_PGE, CR4_PKE, CR4_PSE, CR4_SMEP,
};
use super::guest_cr::{EFER_LME, EFER_NXE, EFER_SCE, xcr0};

/// EAX, EBX, ECX and EDX.
pub(crate) type Registers = [u32; 4];

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// The first leaf that a hypervisor answers, and its signature: 12 characters in EBX, ECX, EDX.
pub(crate) const HYPERVISOR_LEAF: u32 = 0x4000_0000;
const HYPERVISOR_SIGNATURE: &[u8; 12] = b"RVMRVMRVMRVM";
/// How long the list of a leaf that counts its subleaves may get before the processor is taken to be broken.
const MAX_SUBLEAVES: u32 = 64;

/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, CX8, SEP, PGE, CMOV, PAT, PSE36, CLFSH, MMX, FXSR, SSE, SSE2, SS.
/// Not: MCE, APIC, MTRR, MCA, DS, ACPI, HTT, TM, PBE.
const LEAF1_EDX: u32 = 0x0F8B_A97F;
/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
/// Not: DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA, x2APIC, TSC-deadline.
const LEAF1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 17
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | LEAF1_XSAVE
    | LEAF1_AVX
    | LEAF1_F16C
    | 1 << 30;
const LEAF1_FMA: u32 = 1 << 12;
const LEAF1_PCID: u32 = 1 << 17;
const LEAF1_XSAVE: u32 = 1 << 26;
const LEAF1_OSXSAVE: u32 = 1 << 27;
const LEAF1_AVX: u32 = 1 << 28;
const LEAF1_F16C: u32 = 1 << 29;
const LEAF1_HYPERVISOR: u32 = 1 << 31;
/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, FCS/FDS deprecation, AVX-512 (all),
/// RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA. Not: TSC_ADJUST, SGX, HLE, RTM, PQM, MPX, PQE, PT.
const LEAF7_EBX: u32 = 1
    | 1 << 3
    | LEAF7_AVX2
    | 1 << 6
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | LEAF7_INVPCID
    | 1 << 13
    | LEAF7_EBX_AVX512
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 23
    | 1 << 24
    | 1 << 29;
const LEAF7_AVX2: u32 = 1 << 5;
const LEAF7_INVPCID: u32 = 1 << 10;
const LEAF7_EBX_AVX512: u32 = 1 << 16 | 1 << 17 | 1 << 21 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31;
/// Leaf 7 ECX: AVX-512 VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID.
/// Not: WAITPKG, CET_SS, TME, LA57, KL, CLDEMOTE, MOVDIRI, ENQCMD, SGX_LC, PKS.
const LEAF7_ECX: u32 = LEAF7_ECX_AVX512 | 1 << 2 | LEAF7_PKU | 1 << 8 | LEAF7_ECX_VEX | LEAF7_RDPID;
const LEAF7_ECX_AVX512: u32 = 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14;
const LEAF7_ECX_VEX: u32 = 1 << 9 | 1 << 10;
const LEAF7_PKU: u32 = 1 << 3;
const LEAF7_OSPKE: u32 = 1 << 4;
const LEAF7_RDPID: u32 = 1 << 22;
/// Leaf 7 EDX: 4VNNIW, 4FMAPS, FSRM, VP2INTERSECT, and MD_CLEAR, which is about VERW and needs no MSR.
const LEAF7_EDX: u32 = LEAF7_EDX_AVX512 | 1 << 4 | 1 << 10;
const LEAF7_EDX_AVX512: u32 = 1 << 2 | 1 << 3 | 1 << 8;
/// Leaf 80000001H ECX: LAHF in 64-bit mode, LZCNT, PREFETCHW. EDX: SYSCALL, NX, 1-GByte pages, RDTSCP, Intel 64.
const EXTENDED_ECX: u32 = 1 | 1 << 5 | 1 << 8;
const EXTENDED_EDX: u32 = EXTENDED_SYSCALL | EXTENDED_NX | 1 << 26 | EXTENDED_RDTSCP | EXTENDED_LM;
const EXTENDED_SYSCALL: u32 = 1 << 11;
const EXTENDED_NX: u32 = 1 << 20;
const EXTENDED_RDTSCP: u32 = 1 << 27;
const EXTENDED_LM: u32 = 1 << 29;
/// Leaf 0DH.1 EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1, XSAVES. Not XFD.
const XSAVE_EXTENSIONS: u32 = 0b0111 | XSAVES;
const XSAVES: u32 = 1 << 3;

/// What the vCPU can do beyond what the processor's CPUID says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Support {
    /// The components that the guest may set in XCR0; 0 where there is no XSAVE.
    pub(crate) xcr0: u64,
    /// "Enable RDTSCP" is set: RDTSCP and RDPID work.
    pub(crate) rdtscp: bool,
    /// "Enable INVPCID" is set.
    pub(crate) invpcid: bool,
    /// "Enable XSAVES/XRSTORS" is set.
    pub(crate) xsaves: bool,
    /// The APIC id of this vCPU.
    pub(crate) apic_id: u32,
    /// The bits that VMX operation allows in CR4.
    pub(crate) cr4: u64,
}

/// One leaf, or one subleaf of it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    leaf: u32,
    /// `None` where every value of ECX gives the same.
    subleaf: Option<u32>,
    registers: Registers,
}

/// The answers to CPUID.
#[derive(Debug, Default)]
pub(crate) struct CpuidTable {
    /// In ascending order of leaf, then subleaf.
    entries: Vec<Entry>,
    /// Where the entries of each basic leaf begin, and of each extended one; the end of `entries` where there is none.
    basic: [u16; 0x20],
    extended: [u16; 9],
    max_basic: u32,
    /// What the processor needs for every component that it has.
    largest_xsave_area: u32,
    allowed_cr4: u64,
    allowed_efer: u64,
    physical_bits: u8,
}

/// The guest's registers that an answer depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dynamic {
    pub(crate) osxsave: bool,
    pub(crate) ospke: bool,
    pub(crate) xcr0: u64,
}

impl CpuidTable {
    /// Makes the table from what the processor says.
    pub(crate) fn new(native: impl Fn(u32, u32) -> Registers, support: &Support) -> Self {
        let mut table = Self { max_basic: native(0, 0)[EAX].min(0x1F), ..Self::default() };
        for leaf in 0..=table.max_basic {
            table.add_basic(leaf, &native, support);
        }
        table.add_hypervisor();
        let max_extended = native(0x8000_0000, 0)[EAX].min(0x8000_0008);
        for leaf in 0x8000_0000..=max_extended {
            table.add_extended(leaf, native(leaf, 0), max_extended, support);
        }
        table.build_index();
        table.set_largest_xsave_area(support);
        table.derive_registers(support);
        table
    }

    /// The answer for `leaf` (EAX) and `subleaf` (ECX).
    pub(crate) fn answer(&self, leaf: u32, subleaf: u32, dynamic: Dynamic) -> Registers {
        // Beyond the highest leaf, Intel's processors answer as for the highest basic one.
        let leaf = if self.first_of(leaf) < self.entries.len() { leaf } else { self.max_basic };
        let mut registers = self.lookup(leaf, subleaf);
        match (leaf, subleaf) {
            (1, _) if dynamic.osxsave => registers[ECX] |= LEAF1_OSXSAVE,
            (7, 0) if dynamic.ospke => registers[ECX] |= LEAF7_OSPKE,
            (0xD, 0 | 1) if registers[EAX] != 0 => registers[EBX] = self.xsave_size(dynamic.xcr0, subleaf == 1),
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

    /// How many bits a guest-physical address has.
    pub(crate) fn physical_bits(&self) -> u8 {
        self.physical_bits
    }

    fn add_basic(&mut self, leaf: u32, native: &impl Fn(u32, u32) -> Registers, support: &Support) {
        let mut registers = native(leaf, 0);
        match leaf {
            0 => {
                registers[EAX] = self.max_basic;
                self.push(leaf, None, registers);
            }
            1 => {
                registers[EBX] = registers[EBX] & 0xFF00 | 1 << 16 | support.apic_id << 24;
                registers[ECX] = registers[ECX] & LEAF1_ECX & leaf1_hidden(support) | LEAF1_HYPERVISOR;
                registers[EDX] &= LEAF1_EDX;
                self.push(leaf, None, registers);
            }
            2 | 0x16 => self.push(leaf, None, registers),
            4 => self.add_until_null(leaf, native, |r| {
                // One logical processor shares each cache, and there is one core.
                r[EAX] &= 0x3FFF;
            }),
            7 => {
                registers[EAX] = 0;
                registers[EBX] &= LEAF7_EBX & leaf7_hidden(support)[0];
                registers[ECX] &= LEAF7_ECX & leaf7_hidden(support)[1];
                registers[EDX] &= LEAF7_EDX & leaf7_hidden(support)[2];
                self.push(leaf, Some(0), registers);
            }
            // One thread, one core: a level of each with one processor, then the end.
            0xB | 0x1F => {
                self.push(leaf, Some(0), [0, 1, 0x100, support.apic_id]);
                self.push(leaf, Some(1), [0, 1, 0x201, support.apic_id]);
            }
            0xD if support.xcr0 != 0 => self.add_xsave(native, support),
            // The TSC's frequency in crystal clocks.
            0x15 => self.push(leaf, None, registers),
            _ => self.push(leaf, None, [0; 4]),
        }
    }

    fn add_until_null(&mut self, leaf: u32, native: &impl Fn(u32, u32) -> Registers, adapt: impl Fn(&mut Registers)) {
        for subleaf in 0..MAX_SUBLEAVES {
            let mut registers = native(leaf, subleaf);
            if registers[EAX] & 0x1F == 0 {
                break;
            }
            adapt(&mut registers);
            self.push(leaf, Some(subleaf), registers);
        }
    }

    fn add_xsave(&mut self, native: &impl Fn(u32, u32) -> Registers, support: &Support) {
        self.largest_xsave_area = native(0xD, 0)[ECX];
        self.push(0xD, Some(0), [support.xcr0 as u32, 0, 0, (support.xcr0 >> 32) as u32]);
        let mut extensions = native(0xD, 1);
        let hidden = if support.xsaves { 0 } else { XSAVES };
        extensions = [extensions[EAX] & XSAVE_EXTENSIONS & !hidden, 0, 0, 0];
        self.push(0xD, Some(1), extensions);
        for component in 2..63 {
            if support.xcr0 & (1 << component) != 0 {
                self.push(0xD, Some(component), native(0xD, component));
            }
        }
    }

    /// Says how large an area for all components is, once they can be looked up.
    fn set_largest_xsave_area(&mut self, support: &Support) {
        let all = self.xsave_size(support.xcr0, false);
        if let Some(main) = self.entries.iter_mut().find(|entry| entry.leaf == 0xD && entry.subleaf == Some(0)) {
            main.registers[ECX] = all;
        }
    }

    fn add_hypervisor(&mut self) {
        let word = |i: usize| {
            let s = HYPERVISOR_SIGNATURE;
            u32::from_le_bytes([s[i], s[i + 1], s[i + 2], s[i + 3]])
        };
        self.push(HYPERVISOR_LEAF, None, [HYPERVISOR_LEAF + 1, word(0), word(4), word(8)]);
        self.push(HYPERVISOR_LEAF + 1, None, [0; 4]);
    }

    fn add_extended(&mut self, leaf: u32, mut registers: Registers, max: u32, support: &Support) {
        match leaf {
            0x8000_0000 => registers = [max, 0, 0, 0],
            0x8000_0001 => {
                registers = [
                    registers[EAX],
                    0,
                    registers[ECX] & EXTENDED_ECX,
                    registers[EDX] & EXTENDED_EDX & if support.rdtscp { u32::MAX } else { !EXTENDED_RDTSCP },
                ]
            }
            0x8000_0002..=0x8000_0006 => {}
            // Invariant TSC.
            0x8000_0007 => registers = [0, 0, 0, registers[EDX] & (1 << 8)],
            0x8000_0008 => registers = [registers[EAX] & 0xFFFF, 0, 0, 0],
            _ => registers = [0; 4],
        }
        self.push(leaf, None, registers);
    }

    fn push(&mut self, leaf: u32, subleaf: Option<u32>, registers: Registers) {
        self.entries.push(Entry { leaf, subleaf, registers });
    }

    fn lookup(&self, leaf: u32, subleaf: u32) -> Registers {
        let found = self
            .entries
            .iter()
            .skip(self.first_of(leaf))
            .take_while(|entry| entry.leaf == leaf)
            .find(|entry| entry.subleaf.is_none_or(|s| s == subleaf));
        match found {
            Some(entry) => entry.registers,
            // Past its last level a topology leaf still gives the subleaf's number and the APIC id.
            None if matches!(leaf, 0xB | 0x1F) => [0, 0, subleaf & 0xFF, self.lookup(leaf, 0)[EDX]],
            None => [0; 4],
        }
    }

    /// Where the entries of a leaf begin; the number of entries for a leaf that has none.
    fn first_of(&self, leaf: u32) -> usize {
        let place = match leaf {
            0..=0x1F => self.basic[leaf as usize],
            0x8000_0000..=0x8000_0008 => self.extended[(leaf - 0x8000_0000) as usize],
            _ => return self.entries.iter().position(|entry| entry.leaf == leaf).unwrap_or(self.entries.len()),
        };
        usize::from(place)
    }

    /// Fills the index, once all entries are there.
    fn build_index(&mut self) {
        let place = |leaf: u32| {
            let first = self.entries.iter().position(|entry| entry.leaf == leaf);
            first.unwrap_or(self.entries.len()) as u16
        };
        let basic = core::array::from_fn(|leaf| place(leaf as u32));
        let extended = core::array::from_fn(|leaf| place(0x8000_0000 + leaf as u32));
        (self.basic, self.extended) = (basic, extended);
    }

    /// The size of an XSAVE area with the components of `xcr0`, standard or compacted (SDM Vol. 1, section 13.4, "XSAVE
    /// Area").
    fn xsave_size(&self, xcr0: u64, compacted: bool) -> u32 {
        const LEGACY_AND_HEADER: u32 = 512 + 64;
        let mut size = LEGACY_AND_HEADER;
        for component in (2..63).filter(|component| xcr0 & (1 << component) != 0) {
            let [length, offset, flags, _] = self.lookup(0xD, component);
            if length == 0 {
                // A processor that does not say where it saves a component (Bochs, of PKRU): all must be taken as used.
                return self.largest_xsave_area;
            }
            size = match compacted {
                true if flags & 0b10 != 0 => size.next_multiple_of(64) + length,
                true => size + length,
                false => size.max(offset + length),
            };
        }
        size
    }

    /// What CR4, EFER and addresses may hold for such a processor.
    fn derive_registers(&mut self, support: &Support) {
        let [_, _, ecx1, edx1] = self.lookup(1, 0);
        let [_, ebx7, ecx7, _] = self.lookup(7, 0);
        let [.., edx_extended] = self.lookup(0x8000_0001, 0);
        let when = |word: u32, feature: u32, bits: u64| if word & feature != 0 { bits } else { 0 };
        // PCE only lets user code reach RDPMC, which exits; it is there on every processor with MMX.
        self.allowed_cr4 = when(edx1, 1 << 1, 0b11)
            | when(edx1, 1 << 4, 1 << 2)
            | when(edx1, 1 << 2, 1 << 3)
            | when(edx1, 1 << 3, CR4_PSE)
            | when(edx1, 1 << 6, CR4_PAE)
            | when(edx1, 1 << 7, CR4_MCE)
            | when(edx1, 1 << 13, CR4_PGE)
            | when(edx1, 1 << 23, 1 << 8)
            | when(edx1, 1 << 24, 1 << 9)
            | when(edx1, 1 << 25, 1 << 10)
            | when(ecx7, 1 << 2, 1 << 11)
            | when(ecx7, 1 << 16, CR4_LA57)
            | when(ebx7, 1, 1 << 16)
            | when(ecx1, LEAF1_PCID, CR4_PCIDE)
            | when(ecx1, LEAF1_XSAVE, CR4_OSXSAVE)
            | when(ebx7, 1 << 7, CR4_SMEP)
            | when(ebx7, 1 << 20, 1 << 21)
            | when(ecx7, LEAF7_PKU, CR4_PKE)
            | when(ecx7, 1 << 7, CR4_CET);
        self.allowed_cr4 &= support.cr4;
        self.allowed_efer = when(edx_extended, EXTENDED_SYSCALL, EFER_SCE)
            | when(edx_extended, EXTENDED_LM, EFER_LME)
            | when(edx_extended, EXTENDED_NX, EFER_NXE);
        self.physical_bits = match self.lookup(0x8000_0008, 0)[EAX] as u8 {
            0 => 36,
            bits => bits.min(52),
        };
    }
}

/// What of leaf 1 ECX remains when the guest may not have all of the extended state.
fn leaf1_hidden(support: &Support) -> u32 {
    let mut mask = u32::MAX;
    if support.xcr0 == 0 {
        mask &= !LEAF1_XSAVE;
    }
    if support.xcr0 & xcr0::AVX == 0 {
        mask &= !(LEAF1_AVX | LEAF1_F16C | LEAF1_FMA);
    }
    if !support.invpcid {
        mask &= !LEAF1_PCID;
    }
    mask
}

/// The same of leaf 7: EBX, ECX, EDX.
fn leaf7_hidden(support: &Support) -> [u32; 3] {
    let mut mask = [u32::MAX; 3];
    if support.xcr0 & xcr0::AVX == 0 {
        mask[0] &= !LEAF7_AVX2;
        mask[1] &= !LEAF7_ECX_VEX;
    }
    if support.xcr0 & xcr0::AVX512 == 0 {
        mask[0] &= !LEAF7_EBX_AVX512;
        mask[1] &= !LEAF7_ECX_AVX512;
        mask[2] &= !LEAF7_EDX_AVX512;
    }
    if support.xcr0 & xcr0::PKRU == 0 {
        mask[1] &= !LEAF7_PKU;
    }
    if !support.invpcid {
        mask[0] &= !LEAF7_INVPCID;
    }
    if !support.rdtscp {
        mask[1] &= !LEAF7_RDPID;
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        (0usize..5, any::<bool>(), any::<bool>(), any::<bool>(), any::<u8>()).prop_map(
            |(x, rdtscp, invpcid, xsaves, id)| Support {
                xcr0: [0, 3, 7, 0xE7, 0x2E7][x],
                rdtscp,
                invpcid,
                xsaves,
                apic_id: id.into(),
                cr4: u64::MAX,
            },
        )
    }

    proptest! {
        /// Whatever the processor says of leaves it has, no guest sees VMX, and every guest sees a hypervisor.
        #[test]
        fn vmx_is_hidden(words: [u32; 4], support in support()) {
            let table = CpuidTable::new(|leaf, subleaf| match leaf {
                1 => words,
                _ => everything(leaf, subleaf),
            }, &support);
            let [eax, _, ecx, _] = table.answer(1, 0, Dynamic::default());
            prop_assert_eq!(eax, words[0]);
            prop_assert_eq!(ecx >> 5 & 1, 0);
            prop_assert_eq!(ecx >> 31, 1);
            prop_assert_eq!(ecx & 1 << 27, 0);
        }

        /// No bit that the processor does not have is shown, but for the hypervisor's.
        #[test]
        fn nothing_is_invented(words: [u32; 4], support in support()) {
            let native = |leaf, subleaf| match leaf {
                1 | 7 | 0x8000_0001 => words,
                _ => everything(leaf, subleaf),
            };
            let table = CpuidTable::new(native, &support);
            for leaf in [7, 0x8000_0001] {
                let shown = table.answer(leaf, 0, Dynamic::default());
                for i in 1..4 {
                    prop_assert_eq!(shown[i] & !words[i], 0);
                }
            }
            let shown = table.answer(1, 0, Dynamic::default());
            prop_assert_eq!(shown[2] & !words[2] & !(1 << 31), 0);
            prop_assert_eq!(shown[3] & !words[3], 0);
        }

        /// The state that CPUID speaks of and the XCR0 that the guest may have agree.
        #[test]
        fn features_follow_state(support in support(), guest: u64) {
            let table = CpuidTable::new(everything, &support);
            let [_, _, ecx1, _] = table.answer(1, 0, Dynamic::default());
            let [_, ebx7, ecx7, _] = table.answer(7, 0, Dynamic::default());
            prop_assert_eq!(ecx1 & LEAF1_AVX != 0, support.xcr0 & 4 != 0);
            prop_assert_eq!(ebx7 & 1 << 16 != 0, support.xcr0 & 0xE0 == 0xE0);
            prop_assert_eq!(ecx7 & LEAF7_PKU != 0, support.xcr0 & 0x200 != 0);
            prop_assert_eq!(table.allowed_cr4() & CR4_OSXSAVE != 0, support.xcr0 != 0);

            let xcr0 = guest & support.xcr0;
            let [eax, ebx, ecx, _] = table.answer(0xD, 0, Dynamic { xcr0, ..Default::default() });
            if support.xcr0 != 0 {
                prop_assert_eq!(u64::from(eax), support.xcr0);
                prop_assert!(ebx >= 576 && ebx <= ecx, "{} of {}", ebx, ecx);
                let all = table.answer(0xD, 0, Dynamic { xcr0: support.xcr0, ..Default::default() });
                prop_assert_eq!(all[1], ecx);
            }
        }

        /// Every leaf has an answer, and one beyond the range has that of the highest basic leaf.
        #[test]
        fn any_leaf_is_answered(leaf: u32, subleaf: u32, support in support()) {
            let table = CpuidTable::new(everything, &support);
            let answer = table.answer(leaf, subleaf, Dynamic::default());
            let known = leaf <= 0x1F || (0x4000_0000..=0x4000_0001).contains(&leaf)
                || (0x8000_0000..=0x8000_0008).contains(&leaf);
            if !known {
                prop_assert_eq!(answer, table.answer(0x1F, subleaf, Dynamic::default()));
            }
        }
    }
}
