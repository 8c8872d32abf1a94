//! The values of a [`PatternedGuest`](super::PatternedGuest)'s registers.

use alloc::{format, vec, vec::Vec};

use raw_cpuid::CpuId;
use x86_vcpu::vmx::{VmcsGuest32, VmcsGuestNW};

use super::{
    image::{self, Image},
    pattern::Pattern,
    program::{self, slot},
};
use crate::cases::{
    check::{CaseResult, equal},
    guest::Guest,
    host_registers::{has_spec_ctrl, has_tsc_aux},
    layout::PML4,
};

/// The registers of one guest.
pub struct Values {
    pattern: Pattern,
    slots: Vec<Slot>,
    msrs: Vec<(&'static str, u32, u64)>,
    components: u64,
    xcr0: u64,
    image: Image,
}

struct Slot {
    name: &'static str,
    offset: u64,
    value: u64,
}

const LDT: u64 = 0x38;
const TSS: u64 = 0x48;

impl Values {
    /// `xcr0` is what the guest leaves in XCR0 while it exits; its extended state is complete all the same.
    pub fn new(pattern: Pattern, xcr0: u64) -> Self {
        let components = image::components();
        let xcr0 = xcr0 & components;
        let mut slots = Vec::new();
        slots.extend(general(pattern));
        slots.extend(control(pattern));
        slots.extend(debug(pattern));
        slots.extend(tables(pattern));
        if components != 0 {
            slots.push(Slot { name: "XCR0", offset: slot::XCR0, value: xcr0 });
        }
        Self { pattern, slots, msrs: msrs(pattern), components, xcr0, image: Image::filled(pattern, components) }
    }

    /// Puts everything where the program loads it from.
    #[track_caller]
    pub fn write(&self, guest: &mut Guest) -> CaseResult {
        for slot in &self.slots {
            guest.write_words(program::LOAD + slot.offset, &[slot.value])?;
        }
        guest.write_words(program::LOAD + slot::XCR0, &[self.xcr0])?;
        guest.write_words(program::LOAD + slot::ALL_XCR0, &[self.components])?;
        guest.write_words(program::LOAD + slot::MSR_COUNT, &[self.msrs.len() as u64])?;
        for (index, &(_, number, value)) in (0..).zip(&self.msrs) {
            guest.write_words(program::LOAD + slot::MSRS + index * 16, &[number.into(), value])?;
        }
        guest.memory.write(program::LOAD_IMAGE, &self.image.0)?;
        self.write_gdt(guest)
    }

    /// Compares everything with what the program stored.
    #[track_caller]
    pub fn expect(&self, guest: &Guest) -> CaseResult {
        for Slot { name, offset, value } in &self.slots {
            let mask = if (slot::SELECTORS..slot::ALL_XCR0).contains(offset) { 0xFFFF } else { u64::MAX };
            equal(&self.whose(name), guest.read_u64(program::STORE + offset)? & mask, *value)?;
        }
        for (index, &(name, _, value)) in (0..).zip(&self.msrs) {
            equal(&self.whose(name), guest.read_u64(program::STORE + slot::MSRS + index * 16 + 8)?, value)?;
        }
        let mut stored = Image::zeroed();
        stored.0.copy_from_slice(&guest.memory.read(program::STORE_IMAGE, image::SIZE)?);
        stored.expect(&self.image, &format!("guest {}'s", self.pattern.0), self.components, |_| false)?;
        self.expect_hidden(guest)
    }

    /// Bases and limits of LDTR and TR, which the guest cannot read.
    fn expect_hidden(&self, guest: &Guest) -> CaseResult {
        let (ldt, tss) = self.system_segments();
        let read = |field| guest.vcpu.read_vmcs(field);
        equal(&self.whose("LDTR base"), read(VmcsGuestNW::LDTR_BASE)? as u64, ldt.0)?;
        equal(&self.whose("TR base"), read(VmcsGuestNW::TR_BASE)? as u64, tss.0)?;
        let read = |field| guest.vcpu.read_vmcs(field);
        equal(&self.whose("LDTR limit"), read(VmcsGuest32::LDTR_LIMIT)?.into(), ldt.1)?;
        equal(&self.whose("TR limit"), read(VmcsGuest32::TR_LIMIT)?.into(), tss.1)
    }

    fn whose(&self, name: &str) -> alloc::string::String {
        format!("guest {}'s {name}", self.pattern.0)
    }

    fn write_gdt(&self, guest: &mut Guest) -> CaseResult {
        const CODE: u64 = 0x00AF_9B00_0000_FFFF;
        const DATA: u64 = 0x00CF_9300_0000_FFFF;
        const LDT_TYPE: u64 = 0x82;
        const TSS_TYPE: u64 = 0x89;
        let (ldt, tss) = self.system_segments();
        let low = |(base, limit): (u64, u64), kind: u64| {
            limit & 0xFFFF
                | (base & 0xFF_FFFF) << 16
                | kind << 40
                | (limit >> 16 & 0xF) << 48
                | (base >> 24 & 0xFF) << 56
        };
        let mut gdt = vec![0, 0, CODE, DATA, DATA, DATA, DATA];
        gdt.extend([low(ldt, LDT_TYPE), ldt.0 >> 32, low(tss, TSS_TYPE), tss.0 >> 32, DATA, DATA]);
        guest.write_words(gdt_base(self.pattern), &gdt)
    }

    /// Base and limit of LDT and TSS.
    fn system_segments(&self) -> ((u64, u64), (u64, u64)) {
        let address = |name| self.pattern.address(name);
        (
            (address("LDT"), self.pattern.choose([0x0A5F, 0xF_1234])),
            (address("TSS"), self.pattern.choose([0x67, 0x2_0068])),
        )
    }
}

fn general(pattern: Pattern) -> impl Iterator<Item = Slot> {
    const NAMES: [&str; 16] =
        ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];
    // CF, AF, SF, DF, IOPL, AC; or PF, ZF, OF, NT, ID.
    let rflags = pattern.choose([0x0004_3493, 0x0020_4846]);
    let registers = NAMES.into_iter().zip(0..).map(move |(name, number)| {
        // The stack has to be one.
        let value = if name == "RSP" { pattern.choose([0x6F00, 0x6E38]) } else { pattern.bits(name) };
        Slot { name, offset: slot::GENERAL + number * 8, value }
    });
    registers.chain([Slot { name: "RFLAGS", offset: slot::RFLAGS, value: rflags }])
}

fn control(pattern: Pattern) -> [Slot; 5] {
    // PE, MP, ET, NE, WP, AM, PG; or PE, MP, ET, CD, PG.
    let cr0 = pattern.choose([0x8005_0033, 0xC000_0013]);
    let cr3 = PML4 | pattern.choose([0, 0x18]);
    [
        Slot { name: "CR0", offset: slot::CR0, value: cr0 },
        Slot { name: "CR2", offset: slot::CR2, value: pattern.address("CR2") },
        Slot { name: "CR3", offset: slot::CR3, value: cr3 },
        Slot { name: "CR4", offset: slot::CR4, value: cr4(pattern) },
        Slot { name: "CR8", offset: slot::CR8, value: pattern.choose([5, 10]) },
    ]
}

fn cr4(pattern: Pattern) -> u64 {
    const DE: u64 = 1 << 3;
    const TSD: u64 = 1 << 2;
    const PSE: u64 = 1 << 4;
    const PAE: u64 = 1 << 5;
    const PGE: u64 = 1 << 7;
    const FXSR_AND_XMM: u64 = 0b11 << 9;
    const FSGSBASE: u64 = 1 << 16;
    const OSXSAVE: u64 = 1 << 18;
    const PKE: u64 = 1 << 22;
    let extended = CpuId::new().get_extended_feature_info();
    let when = |condition, bits| if condition { bits } else { 0 };
    let (fsgsbase, pku) = extended.map_or((false, false), |info| (info.has_fsgsbase(), info.has_pku()));
    let both = PAE | FXSR_AND_XMM | when(image::components() != 0, OSXSAVE);
    let chosen = [PGE | DE | when(fsgsbase, FSGSBASE) | when(pku, PKE), TSD | PSE];
    both | pattern.choose(chosen)
}

/// The first guest has all four breakpoints enabled, where it never comes; the second has none.
fn debug(pattern: Pattern) -> impl Iterator<Item = Slot> {
    let place = |number: u64| pattern.choose([0x1F_0000, 0x1E_0000]) + number * 0x1008;
    let dr6 = pattern.choose([0xFFFF_4FF1, 0xFFFF_8FF2]);
    let dr7 = pattern.choose([0x5BD0_07FF, 0x00D1_0400]);
    let registers =
        [("DR0", place(0)), ("DR1", place(1)), ("DR2", place(2)), ("DR3", place(3)), ("DR6", dr6), ("DR7", dr7)];
    registers.into_iter().zip(0..).map(|((name, value), number)| Slot { name, offset: slot::DEBUG + number * 8, value })
}

/// GDTR and IDTR, and the seven selectors.
fn tables(pattern: Pattern) -> impl Iterator<Item = Slot> {
    let (gdt, idt) = (gdt_base(pattern), pattern.address("IDTR"));
    let limits = pattern.choose([(0x67u64, 0x0FFFu64), (0x1A7, 0x07AB)]);
    let pointer = |name, offset, base: u64, limit: u64| {
        // Ten bytes: the base's upper two lie in the next slot.
        [Slot { name, offset, value: limit | base << 16 }, Slot { name, offset: offset + 8, value: base >> 48 }]
    };
    let selectors =
        pattern.choose([[LDT, TSS, 0x18, 0x20, 0x28, 0x30, 0x58], [LDT, TSS, 0x30, 0x58, 0x18, 0x20, 0x28]]);
    const NAMES: [&str; 7] = ["LDTR", "TR", "DS", "ES", "FS", "GS", "SS"];
    let selectors = NAMES.into_iter().zip(selectors).zip(0..);
    let selectors = selectors.map(|((name, value), number)| Slot { name, offset: slot::SELECTORS + number * 8, value });
    let gdtr = pointer("GDTR (limit, base)", slot::GDTR, gdt, limits.0);
    let idtr = pointer("IDTR (limit, base)", slot::IDTR, idt, limits.1);
    gdtr.into_iter().chain(idtr).chain(selectors)
}

fn gdt_base(pattern: Pattern) -> u64 {
    program::GDT + pattern.choose([0, 0x238])
}

fn msrs(pattern: Pattern) -> Vec<(&'static str, u32, u64)> {
    let (bits, address) = (|name| pattern.bits(name), |name| pattern.address(name));
    let low = |name| pattern.bits(name) & 0xFFFF_FFFF;
    // LME and LMA; SCE; NXE.
    let nx = if has_nx() { 0x800 } else { 0 };
    let mut msrs = vec![
        ("EFER", 0xC000_0080, pattern.choose([0x501 | nx, 0x500])),
        ("STAR", 0xC000_0081, bits("STAR")),
        ("LSTAR", 0xC000_0082, address("LSTAR")),
        ("CSTAR", 0xC000_0083, address("CSTAR")),
        ("FMASK", 0xC000_0084, low("FMASK")),
        ("FS_BASE", 0xC000_0100, address("FS_BASE")),
        ("GS_BASE", 0xC000_0101, address("GS_BASE")),
        ("KERNEL_GS_BASE", 0xC000_0102, address("KERNEL_GS_BASE")),
        ("SYSENTER_CS", 0x174, low("SYSENTER_CS") & 0xFFFF),
        ("SYSENTER_ESP", 0x175, address("SYSENTER_ESP")),
        ("SYSENTER_EIP", 0x176, address("SYSENTER_EIP")),
        ("PAT", 0x277, pattern.choose([0x0105_0406_0007_0406, 0x0706_0504_0100_0600])),
        ("DEBUGCTL", 0x1D9, pattern.choose([0b10, 0])),
        ("MISC_ENABLE", 0x1A0, pattern.choose([0x1800, 0x1801])),
        ("BIOS_SIGN_ID", 0x8B, bits("BIOS_SIGN_ID")),
    ];
    if has_tsc_aux() {
        msrs.push(("TSC_AUX", 0xC000_0103, low("TSC_AUX")));
    }
    if has_spec_ctrl() {
        msrs.push(("SPEC_CTRL", 0x48, pattern.choose([5, 2])));
    }
    msrs
}

fn has_nx() -> bool {
    let features = CpuId::new().get_extended_processor_and_feature_identifiers();
    features.is_some_and(|info| info.has_execute_disable())
}
