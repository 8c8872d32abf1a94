//! The host's registers that must be the same before and after every run.

use alloc::format;

use core::arch::asm;

use raw_cpuid::CpuId;
use spin::Lazy;
use x86_64::{
    instructions::tables::{sgdt, sidt},
    registers::{
        control::{Cr0, Cr2, Cr3, Cr4},
        debug::{Dr7, Dr7Value},
        model_specific::Msr,
        mxcsr, rflags,
    },
};

use super::check::{CaseResult, fail};

/// Names and values of registers.
#[derive(Clone, Copy)]
pub struct HostState([(&'static str, u64); COUNT]);

const MSRS: [(&str, u32); 12] = [
    ("IA32_EFER", 0xC000_0080),
    ("IA32_STAR", 0xC000_0081),
    ("IA32_LSTAR", 0xC000_0082),
    ("IA32_CSTAR", 0xC000_0083),
    ("IA32_FMASK", 0xC000_0084),
    ("IA32_FS_BASE", 0xC000_0100),
    ("IA32_GS_BASE", 0xC000_0101),
    ("IA32_KERNEL_GS_BASE", 0xC000_0102),
    ("IA32_SYSENTER_CS", 0x174),
    ("IA32_SYSENTER_ESP", 0x175),
    ("IA32_SYSENTER_EIP", 0x176),
    ("IA32_PAT", 0x277),
];

/// Whether this host is compiled with SSE, for which the crate switches the extended state around each entry.
pub const HOST_HAS_SSE: bool = cfg!(target_feature = "sse");
const EXTENDED: [&str; 3] = ["MXCSR", "x87 control word", "XCR0"];

const COUNT: usize = 35 + MSRS.len();

impl HostState {
    pub fn read() -> Self {
        let (gdt, idt) = (sgdt(), sidt());
        let debug = read_debug();
        let (tr, ldtr) = (read_selector::<TR>(), read_selector::<LDTR>());
        let mut values = [("", 0); COUNT];
        let registers = [
            ("CR0", Cr0::read_raw()),
            ("CR2", Cr2::read_raw()),
            ("CR3", Cr3::read().0.start_address().as_u64()),
            ("CR4", Cr4::read_raw()),
            ("CR8", read_cr8()),
            ("DR0", debug[0]),
            ("DR1", debug[1]),
            ("DR2", debug[2]),
            ("DR3", debug[3]),
            ("DR6", debug[4]),
            ("DR7", Dr7Value::bits(&Dr7::read())),
            ("RFLAGS", rflags::read_raw() & !ARITHMETIC_FLAGS),
            ("MXCSR", mxcsr::read().bits().into()),
            ("x87 control word", read_x87_control().into()),
            ("XCR0", read_xcr0()),
            ("GDTR base", gdt.base.as_u64()),
            ("GDTR limit", gdt.limit.into()),
            ("IDTR base", idt.base.as_u64()),
            ("IDTR limit", idt.limit.into()),
            ("TR", tr),
            ("TR limit", segment_limit(tr)),
            ("TR access rights", access_rights(tr)),
            ("LDTR", ldtr),
            ("LDTR limit", segment_limit(ldtr)),
            ("LDTR access rights", access_rights(ldtr)),
            ("limit of the LDT's first segment", if ldtr != 0 { segment_limit(FIRST_OF_LDT) } else { NOTHING }),
            ("CS", read_selector::<CS>()),
            ("SS", read_selector::<SS>()),
            ("DS", read_selector::<DS>()),
            ("ES", read_selector::<ES>()),
            ("FS", read_selector::<FS>()),
            ("GS", read_selector::<GS>()),
            ("TSC_AUX", read_where(has_tsc_aux(), TSC_AUX)),
            ("IA32_XSS", read_where(has_xss(), XSS)),
            ("IA32_SPEC_CTRL", read_where(has_spec_ctrl(), SPEC_CTRL)),
        ];
        values[..registers.len()].copy_from_slice(&registers);
        for (slot, (name, number)) in values[registers.len()..].iter_mut().zip(MSRS) {
            // SAFETY: every 64-bit processor has these MSRs.
            *slot = (name, unsafe { Msr::new(number).read() });
        }
        Self(values)
    }

    #[track_caller]
    pub fn expect(&self, before: &Self) -> CaseResult {
        for (after, before) in self.0.iter().zip(before.0) {
            // Under a host without SSE the extended state is the guest's until its vCPU is unbound.
            if !HOST_HAS_SSE && EXTENDED.contains(&before.0) {
                continue;
            }
            if after.1 != before.1 {
                return fail(
                    format!("the host's {} {:#x} after the run", before.0, before.1),
                    format!("{:#x}", after.1),
                );
            }
        }
        Ok(())
    }
}

/// CF, PF, AF, ZF, SF, OF: any call may change them.
const ARITHMETIC_FLAGS: u64 = 0x8D5;

fn read_cr8() -> u64 {
    let value;
    // SAFETY: reading CR8 has no effect.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

const TSC_AUX: u32 = 0xC000_0103;
const XSS: u32 = 0xDA0;
const SPEC_CTRL: u32 = 0x48;

/// An MSR that not every processor has: zero where there is none.
fn read_where(exists: bool, msr: u32) -> u64 {
    // SAFETY: the processor has this MSR.
    if exists { unsafe { Msr::new(msr).read() } } else { 0 }
}

/// CPUID is executed once, because every run asks for this.
pub fn has_tsc_aux() -> bool {
    static HAS: Lazy<bool> = Lazy::new(|| {
        let features = CpuId::new().get_extended_processor_and_feature_identifiers();
        features.is_some_and(|info| info.has_rdtscp())
    });
    *HAS
}

pub fn has_xss() -> bool {
    static HAS: Lazy<bool> =
        Lazy::new(|| CpuId::new().get_extended_state_info().is_some_and(|info| info.has_xsaves_xrstors()));
    *HAS
}

/// Whether IA32_SPEC_CTRL has all three of IBRS, STIBP and SSBD (CPUID.7:EDX[26], [27], [31]).
pub fn has_spec_ctrl() -> bool {
    const ALL: u32 = 1 << 26 | 1 << 27 | 1 << 31;
    raw_cpuid::cpuid!(0, 0).eax >= 7 && raw_cpuid::cpuid!(7, 0).edx & ALL == ALL
}

/// DR0 to DR3, and DR6.
fn read_debug() -> [u64; 5] {
    let [mut dr0, mut dr1, mut dr2, mut dr3, mut dr6] = [0u64; 5];
    // SAFETY: reading has no effect.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6",
             inout(reg) dr0, inout(reg) dr1, inout(reg) dr2, inout(reg) dr3, inout(reg) dr6,
             options(nomem, nostack, preserves_flags));
    }
    [dr0, dr1, dr2, dr3, dr6]
}

fn read_x87_control() -> u16 {
    let mut value = 0u16;
    // SAFETY: stores two bytes into `value`.
    unsafe { asm!("fnstcw [{}]", in(reg) &mut value, options(nostack, preserves_flags)) };
    value
}

/// Zero where there is none.
pub fn read_xcr0() -> u64 {
    const OSXSAVE: u64 = 1 << 18;
    if Cr4::read_raw() & OSXSAVE == 0 {
        return 0;
    }
    let (low, high): (u32, u32);
    // SAFETY: CR4.OSXSAVE is set.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// A selector of the LDT. LSL and LAR of it use what LDTR holds; of other selectors they use the GDT.
const FIRST_OF_LDT: u64 = 1 << 2;
/// LSL or LAR found no segment.
const NOTHING: u64 = u64::MAX;

fn segment_limit(selector: u64) -> u64 {
    let (limit, valid): (u64, u8);
    // SAFETY: LSL faults for no selector.
    unsafe {
        asm!("lsl {0}, {1}", "setz {2}", inout(reg) 0u64 => limit, in(reg) selector, out(reg_byte) valid, options(nostack))
    };
    if valid != 0 { limit } else { NOTHING }
}

/// The access rights have the busy bit of a TSS, which LTR sets.
fn access_rights(selector: u64) -> u64 {
    let (rights, valid): (u64, u8);
    // SAFETY: LAR faults for no selector.
    unsafe {
        asm!("lar {0}, {1}", "setz {2}", inout(reg) 0u64 => rights, in(reg) selector, out(reg_byte) valid, options(nostack))
    };
    if valid != 0 { rights } else { NOTHING }
}

const TR: u8 = 0;
const LDTR: u8 = 1;
const DS: u8 = 2;
const ES: u8 = 3;
const FS: u8 = 4;
const GS: u8 = 5;
const CS: u8 = 6;
const SS: u8 = 7;

fn read_selector<const REGISTER: u8>() -> u64 {
    let value: u64;
    // SAFETY: reading a selector has no effect.
    unsafe {
        match REGISTER {
            TR => asm!("str {}", out(reg) value, options(nomem, nostack, preserves_flags)),
            LDTR => asm!("sldt {}", out(reg) value, options(nomem, nostack, preserves_flags)),
            DS => asm!("mov {}, ds", out(reg) value, options(nomem, nostack, preserves_flags)),
            ES => asm!("mov {}, es", out(reg) value, options(nomem, nostack, preserves_flags)),
            CS => asm!("mov {}, cs", out(reg) value, options(nomem, nostack, preserves_flags)),
            SS => asm!("mov {}, ss", out(reg) value, options(nomem, nostack, preserves_flags)),
            FS => asm!("mov {}, fs", out(reg) value, options(nomem, nostack, preserves_flags)),
            _ => asm!("mov {}, gs", out(reg) value, options(nomem, nostack, preserves_flags)),
        }
    }
    value & 0xFFFF
}
