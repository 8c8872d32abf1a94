//! What a guest may put into CR0, CR3, CR4, CR8, EFER and XCR0: one pure function for each.
//!
//! Every check that the SDM lists for #GP is here. So what reaches the VMCS can never fail a check at VM entry that the guest's own
//! instruction would not have failed (SDM Vol. 2, "MOV—Move to/from Control Registers"; Vol. 3A,
//! section 2.5, "Control Registers"; Vol. 1, section 13.3, "Enabling the XSAVE Feature Set and XSAVE-Enabled Features").

/// The guest would get #GP(0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GeneralProtection;

pub(crate) const CR0_PE: u64 = 1 << 0;
pub(crate) const CR0_MP: u64 = 1 << 1;
pub(crate) const CR0_EM: u64 = 1 << 2;
pub(crate) const CR0_TS: u64 = 1 << 3;
pub(crate) const CR0_ET: u64 = 1 << 4;
pub(crate) const CR0_NE: u64 = 1 << 5;
pub(crate) const CR0_WP: u64 = 1 << 16;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const CR0_NW: u64 = 1 << 29;
pub(crate) const CR0_CD: u64 = 1 << 30;
pub(crate) const CR0_PG: u64 = 1 << 31;
/// Every bit that CR0 has; writes to the others below bit 32 are ignored.
const CR0_DEFINED: u64 =
    CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

/// In the operand of MOV to CR3 with CR4.PCIDE: no TLB flush. It is not stored.
pub(crate) const CR3_KEEP: u64 = 1 << 63;

pub(crate) const CR4_VME: u64 = 1 << 0;
pub(crate) const CR4_PVI: u64 = 1 << 1;
pub(crate) const CR4_TSD: u64 = 1 << 2;
pub(crate) const CR4_DE: u64 = 1 << 3;
pub(crate) const CR4_PSE: u64 = 1 << 4;
pub(crate) const CR4_PAE: u64 = 1 << 5;
pub(crate) const CR4_MCE: u64 = 1 << 6;
pub(crate) const CR4_PGE: u64 = 1 << 7;
pub(crate) const CR4_PCE: u64 = 1 << 8;
pub(crate) const CR4_OSFXSR: u64 = 1 << 9;
pub(crate) const CR4_OSXMMEXCPT: u64 = 1 << 10;
pub(crate) const CR4_UMIP: u64 = 1 << 11;
pub(crate) const CR4_LA57: u64 = 1 << 12;
pub(crate) const CR4_FSGSBASE: u64 = 1 << 16;
pub(crate) const CR4_PCIDE: u64 = 1 << 17;
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
pub(crate) const CR4_SMEP: u64 = 1 << 20;
pub(crate) const CR4_SMAP: u64 = 1 << 21;
pub(crate) const CR4_PKE: u64 = 1 << 22;
pub(crate) const CR4_CET: u64 = 1 << 23;

pub(crate) const EFER_SCE: u64 = 1 << 0;
pub(crate) const EFER_LME: u64 = 1 << 8;
pub(crate) const EFER_LMA: u64 = 1 << 10;
pub(crate) const EFER_NXE: u64 = 1 << 11;

/// The registers that the rules depend on, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ControlState {
    pub(crate) cr0: u64,
    pub(crate) cr3: u64,
    pub(crate) cr4: u64,
    pub(crate) efer: u64,
    /// CS.L
    pub(crate) cs_long: bool,
    /// TR holds a 16-bit TSS.
    pub(crate) tss_16_bit: bool,
}

impl ControlState {
    pub(crate) fn in_64_bit_mode(&self) -> bool {
        self.efer & EFER_LMA != 0 && self.cs_long
    }

    /// PAE paging: the mode with four PDPTE registers.
    pub(crate) fn uses_pdptes(&self) -> bool {
        self.cr0 & CR0_PG != 0 && self.cr4 & CR4_PAE != 0 && self.efer & EFER_LMA == 0
    }

    /// MOV to CR0, or LMSW, of `value`: the state after it.
    pub(crate) fn with_cr0(&self, value: u64) -> Result<Self, GeneralProtection> {
        let set = |bit| value & bit != 0;
        let pages = set(CR0_PG);
        let was_paging = self.cr0 & CR0_PG != 0;

        let starts_long_mode = pages && !was_paging && self.efer & EFER_LME != 0;
        let refused = value >> 32 != 0
            || (set(CR0_NW) && !set(CR0_CD))
            || (pages && !set(CR0_PE))
            || (starts_long_mode && (self.cr4 & CR4_PAE == 0 || self.cs_long || self.tss_16_bit))
            || (!pages && was_paging && (self.in_64_bit_mode() || self.cr4 & CR4_PCIDE != 0))
            || (!set(CR0_WP) && self.cr4 & CR4_CET != 0);
        if refused {
            return Err(GeneralProtection);
        }
        let long = pages && self.efer & EFER_LME != 0;
        Ok(Self {
            cr0: value & CR0_DEFINED | CR0_ET,
            efer: self.efer & !EFER_LMA | if long { EFER_LMA } else { 0 },
            ..*self
        })
    }

    /// LMSW of `source`: the value that it writes to CR0. It loads PE, MP, EM and TS, and cannot clear PE.
    pub(crate) fn lmsw(&self, source: u16) -> u64 {
        let loaded = CR0_MP | CR0_EM | CR0_TS;
        self.cr0 & !loaded | u64::from(source) & (loaded | CR0_PE)
    }

    /// MOV to CR3 of `value` on a processor with physical addresses of so many bits: the state after it. In IA-32e mode
    /// alone it has bits above 31.
    pub(crate) fn with_cr3(&self, value: u64, physical_bits: u8) -> Result<Self, GeneralProtection> {
        let value = if self.cr4 & CR4_PCIDE != 0 { value & !CR3_KEEP } else { value };
        let long = self.efer & EFER_LMA != 0;
        if long && value & beyond(physical_bits) != 0 {
            return Err(GeneralProtection);
        }
        Ok(Self { cr3: value, ..*self })
    }

    /// MOV to CR4 of `value` on a processor that has the bits of `allowed`: the state after it.
    pub(crate) fn with_cr4(&self, value: u64, allowed: u64) -> Result<Self, GeneralProtection> {
        let changed = value ^ self.cr4;
        let long = self.efer & EFER_LMA != 0;
        let refused = value & !allowed != 0
            || (long && (value & CR4_PAE == 0 || changed & CR4_LA57 != 0))
            || (changed & value & CR4_PCIDE != 0 && (!long || self.cr3 & 0xFFF != 0))
            || (value & CR4_CET != 0 && self.cr0 & CR0_WP == 0);
        if refused { Err(GeneralProtection) } else { Ok(Self { cr4: value, ..*self }) }
    }

    /// WRMSR of EFER on a processor that has the bits of `allowed`: the state after it. LMA is the processor's, and a
    /// write to it is ignored.
    pub(crate) fn with_efer(&self, value: u64, allowed: u64) -> Result<Self, GeneralProtection> {
        let written = value & !EFER_LMA;
        let switches_lme = (written ^ self.efer) & EFER_LME != 0;
        if written & !allowed != 0 || (switches_lme && self.cr0 & CR0_PG != 0) {
            return Err(GeneralProtection);
        }
        Ok(Self { efer: written | self.efer & EFER_LMA, ..*self })
    }

    /// Whether the change from `self` to `after` makes the processor load the PDPTEs (SDM Vol. 3A, section 4.4.1, "PDPTE
    /// Registers").
    pub(crate) fn loads_pdptes(&self, after: &Self) -> bool {
        let cr0 = CR0_PG | CR0_CD | CR0_NW;
        let cr4 = CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP;
        after.uses_pdptes() && ((self.cr0 ^ after.cr0) & cr0 != 0 || (self.cr4 ^ after.cr4) & cr4 != 0)
    }
}

/// MOV to CR8 of `value`: the task priority after it.
pub(crate) fn check_cr8(value: u64) -> Result<u8, GeneralProtection> {
    match u8::try_from(value) {
        Ok(priority @ 0..=15) => Ok(priority),
        _ => Err(GeneralProtection),
    }
}

/// The bits that a physical address of so many bits has not.
fn beyond(physical_bits: u8) -> u64 {
    u64::MAX.checked_shl(u32::from(physical_bits)).unwrap_or(0)
}

/// Whether the four entries can be loaded into the PDPTE registers: a present one has no reserved bit set.
pub(crate) fn check_pdptes(entries: [u64; 4], physical_bits: u8) -> Result<(), GeneralProtection> {
    let reserved = 0b1_1110_0110 | beyond(physical_bits);
    if entries.iter().any(|entry| entry & 1 != 0 && entry & reserved != 0) { Err(GeneralProtection) } else { Ok(()) }
}

/// State components of XCR0.
pub(crate) mod xcr0 {
    pub(crate) const X87: u64 = 1 << 0;
    pub(crate) const SSE: u64 = 1 << 1;
    pub(crate) const AVX: u64 = 1 << 2;
    pub(crate) const MPX: u64 = 0b11 << 3;
    pub(crate) const AVX512: u64 = 0b111 << 5;
    pub(crate) const PKRU: u64 = 1 << 9;
    pub(crate) const AMX: u64 = 0b11 << 17;
}

/// XSETBV of `value` to the register `ecx` by a guest that is allowed the components `allowed`.
pub(crate) fn check_xsetbv(ecx: u32, value: u64, allowed: u64) -> Result<(), GeneralProtection> {
    let set = |bits| value & bits == bits;
    let none_or_all = |bits| value & bits == 0 || set(bits);
    let refused = ecx != 0
        || value & !allowed != 0
        || !set(xcr0::X87)
        || (value & xcr0::AVX != 0 && !set(xcr0::SSE))
        || (value & xcr0::AVX512 != 0 && !set(xcr0::AVX))
        || !none_or_all(xcr0::MPX)
        || !none_or_all(xcr0::AVX512)
        || !none_or_all(xcr0::AMX);
    if refused { Err(GeneralProtection) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How wide physical addresses are.
    const WIDTH: u8 = 39;

    /// A state that some sequence of accepted writes from reset leads to. Writes flip single bits that rules are about:
    /// random values are nearly all refused, and lead nowhere.
    fn reachable() -> impl Strategy<Value = ControlState> {
        const CR0: [u64; 6] = [CR0_PG, CR0_PG, CR0_WP, CR0_CD, CR0_NW, CR0_PE];
        const CR4: [u64; 6] = [CR4_PAE, CR4_PAE, CR4_PCIDE, CR4_CET, CR4_LA57, CR4_PGE];
        const EFER: [u64; 3] = [EFER_LME, EFER_SCE, EFER_NXE];
        proptest::collection::vec((0u8..6, any::<u64>(), any::<bool>()), 0..80).prop_map(|writes| {
            let reset = ControlState { cr0: 0x6000_0010, cr3: 0, cr4: 0, efer: 0, cs_long: false, tss_16_bit: false };
            let narrow = |value: u64| if value & 1 != 0 { value & 0x7F_FFFF_F000 } else { value };
            writes.into_iter().fold(reset, |state, (register, value, long)| {
                let choice = value as usize;
                match register {
                    0 => state.with_cr0(state.cr0 ^ CR0[choice % 6]).unwrap_or(state),
                    1 => state.with_cr4(state.cr4 ^ CR4[choice % 6], u64::MAX).unwrap_or(state),
                    2 => state.with_efer(state.efer ^ EFER[choice % 3], 0xD01).unwrap_or(state),
                    // LTR of another kind of TSS; in IA-32e mode there is only one.
                    3 => ControlState { tss_16_bit: choice.is_multiple_of(8) && state.efer & EFER_LMA == 0, ..state },
                    // A far jump.
                    4 => ControlState { cs_long: long && state.efer & EFER_LMA != 0, ..state },
                    _ if state.in_64_bit_mode() => state.with_cr3(narrow(value), WIDTH).unwrap_or(state),
                    _ => {
                        let pcid = if long { value >> 52 } else { 0 };
                        state.with_cr3(value & 0xFFFF_F000 | pcid, WIDTH).unwrap_or(state)
                    }
                }
            })
        })
    }

    /// The checks at VM entry on the guest's control registers, section 27.3.1.1, "Checks on Guest Control Registers,
    /// Debug Registers, and MSRs", as far as a guest's writes can break them.
    fn enterable(state: &ControlState) -> bool {
        let (pe, pg) = (state.cr0 & CR0_PE != 0, state.cr0 & CR0_PG != 0);
        let (lme, lma) = (state.efer & EFER_LME != 0, state.efer & EFER_LMA != 0);
        (!pg || pe)
            && (!lma || (pg && state.cr4 & CR4_PAE != 0))
            && (lma || state.cr4 & CR4_PCIDE == 0)
            && (!pg || lma == lme)
            && !(lma && state.tss_16_bit)
            && (state.cr4 & CR4_CET == 0 || state.cr0 & CR0_WP != 0)
            && (!lma || state.cr3 >> WIDTH == 0)
    }

    proptest! {
        #[test]
        fn what_is_accepted_can_be_entered(state in reachable()) {
            prop_assert!(enterable(&state), "{state:x?}");
        }

        #[test]
        fn lma_is_lme_and_pg(state in reachable(), cr0: u32) {
            if let Ok(after) = state.with_cr0(u64::from(cr0)) {
                prop_assert_eq!(after.efer & EFER_LMA != 0, after.efer & EFER_LME != 0 && after.cr0 & CR0_PG != 0);
                prop_assert_eq!(after.efer & !EFER_LMA, state.efer & !EFER_LMA);
            }
        }

        /// Rewriting what is there is always accepted and changes nothing: a guest reads a register, sets a bit that is
        /// set, and writes it back.
        #[test]
        fn identity_is_accepted(state in reachable()) {
            prop_assert_eq!(state.with_cr0(state.cr0), Ok(state));
            prop_assert_eq!(state.with_cr4(state.cr4, state.cr4), Ok(state));
            prop_assert_eq!(state.with_efer(state.efer, state.efer & !EFER_LMA), Ok(state));
            prop_assert!(!state.loads_pdptes(&state));
        }

        /// From wherever a guest is, 32-bit code gets back to protected mode without paging, and on to a clean state.
        #[test]
        fn there_is_a_way_out_of_every_mode(state in reachable()) {
            let code_32 = ControlState { cs_long: false, ..state };
            let without_pcid = code_32.with_cr4(code_32.cr4 & !CR4_PCIDE, u64::MAX).unwrap();
            let unpaged = without_pcid.with_cr0(without_pcid.cr0 & !CR0_PG).unwrap();
            let clean = unpaged.with_efer(0, 0).unwrap().with_cr4(0, 0).unwrap();
            prop_assert_eq!((clean.efer, clean.cr4), (0, 0));
            if state.efer & EFER_LMA != 0 {
                let with_pcid = ControlState { cr4: code_32.cr4 | CR4_PCIDE, ..code_32 };
                prop_assert!(with_pcid.with_cr0(with_pcid.cr0 & !CR0_PG).is_err(), "but not past a PCID");
            }
            prop_assert!(clean.with_cr0(CR0_PE).is_ok() && clean.with_cr0(0).is_ok());
        }

        /// LMSW reaches the low four bits of CR0 and no more, sets PE and does not clear it, and never faults.
        #[test]
        fn lmsw_is_a_narrow_write(state in reachable(), source: u16) {
            let after = state.with_cr0(state.lmsw(source)).unwrap();
            prop_assert_eq!((after.cr0 ^ state.cr0) & !0xF, 0);
            prop_assert_eq!(after.cr0 & 0xE, u64::from(source) & 0xE);
            prop_assert!(after.cr0 & CR0_PE >= state.cr0 & CR0_PE);
            prop_assert_eq!(after.efer, state.efer);
        }

        /// CR3 reads as it was written, without the hint that is in bit 63 where there are PCIDs; what is accepted on one
        /// processor is accepted on a wider one.
        #[test]
        fn cr3_is_an_address(state in reachable(), value: u64, shift in 0u32..64, width in 32u8..53) {
            let value = value >> shift;
            match state.with_cr3(value, width) {
                Ok(after) => {
                    prop_assert_eq!(after.cr3 & !CR3_KEEP, value & !CR3_KEEP);
                    prop_assert_eq!(state.with_cr3(value, width + 1), Ok(after));
                    prop_assert_eq!(after.with_cr3(after.cr3, width), Ok(after));
                }
                Err(_) => prop_assert!(value >> width != 0),
            }
        }

        /// PCIDs begin in IA-32e mode, with PCID 0.
        #[test]
        fn pcids_begin_at_0(state in reachable()) {
            let without = ControlState { cr4: state.cr4 & !CR4_PCIDE, ..state };
            let result = without.with_cr4(without.cr4 | CR4_PCIDE, u64::MAX);
            prop_assert_eq!(result.is_ok(), state.efer & EFER_LMA != 0 && state.cr3 << 52 == 0);
        }

        /// In 64-bit mode CR3 has no bit that a physical address has not, and bit 63 never stays.
        #[test]
        fn cr3_has_the_width_of_addresses(mut state in reachable(), width in 32u8..52, bit in 32u32..64, pcid: bool) {
            state.efer |= EFER_LMA;
            state.cr4 = if pcid { state.cr4 | CR4_PCIDE } else { state.cr4 & !CR4_PCIDE };
            let result = state.with_cr3(1 << bit | 0x1000, width).map(|after| after.cr3);
            let expected = match bit {
                63 if pcid => Ok(0x1000),
                _ if bit < u32::from(width) => Ok(1 << bit | 0x1000),
                _ => Err(GeneralProtection),
            };
            prop_assert_eq!(result, expected);
        }

        /// Entries that are not present may hold anything; an address that one processor has a wider one has too.
        #[test]
        fn pdptes_are_checked_where_present(entries: [u64; 4], width in 32u8..52) {
            prop_assert!(check_pdptes(entries.map(|entry| entry & !1), width).is_ok());
            if check_pdptes(entries, width).is_ok() {
                prop_assert!(check_pdptes(entries, width + 1).is_ok());
            }
            let good = entries.map(|entry| entry & ((1 << width) - 1) & !0x1E6);
            prop_assert!(check_pdptes(good, width).is_ok());
            let table = good.map(|entry| entry | 1);
            for bit in (0..64).filter(|bit| table[2] & (1 << bit) == 0) {
                let mut broken = table;
                broken[2] |= 1 << bit;
                let harmless = (3..5).contains(&bit) || (9..u32::from(width)).contains(&bit);
                prop_assert_eq!(check_pdptes(broken, width).is_ok(), harmless, "bit {}", bit);
            }
        }

        #[test]
        fn efer_write_never_changes_lma(state in reachable(), value: u64) {
            if let Ok(after) = state.with_efer(value, u64::MAX) {
                prop_assert_eq!((after.efer ^ state.efer) & EFER_LMA, 0);
            }
        }

        /// What XSETBV accepts, a processor with exactly the allowed components accepts: x87 always, upper halves only
        /// with the lower ones, and groups whole.
        #[test]
        fn xcr0_is_closed_downwards(ecx: u32, value in 0u64..1 << 20, allowed: u64) {
            if check_xsetbv(ecx, value, allowed).is_ok() {
                prop_assert_eq!(ecx, 0);
                prop_assert_eq!(value & !allowed, 0);
                prop_assert!(value & 1 == 1);
                let needs = |upper: u64, lower: u64| value & upper == 0 || value & lower == lower;
                prop_assert!(needs(4, 2) && needs(0xE0, 0xE6) && needs(0x18, 0x18) && needs(0x6_0000, 0x6_0000));
            }
        }
    }

    #[test]
    fn xcr0_values_of_real_guests_are_accepted() {
        for value in [1, 3, 7, 0xE7, 0x2E7] {
            assert_eq!(check_xsetbv(0, value, 0x2E7), Ok(()), "{value:#x}");
        }
        for value in [0, 2, 4, 5, 0x27, 0xE3, 0x100, 0x2E7 | 1 << 63] {
            assert_eq!(check_xsetbv(0, value, 0x2E7), Err(GeneralProtection), "{value:#x}");
        }
    }
}
