//! A host with a pattern in every register, which must be there after every run.
//!
//! [`HostState`](crate::cases::host_registers) compares the small registers around every run. The extended state is compared
//! here.

use core::arch::asm;

use x86_64::{
    instructions::interrupts::without_interrupts,
    registers::{control::Cr2, model_specific::Msr},
};

use super::{
    image::{self, Image},
    pattern::Pattern,
};
use crate::cases::{
    check::CaseResult,
    host_registers::{HOST_HAS_SSE, has_spec_ctrl, has_tsc_aux, has_xss, read_xcr0},
};
use crate::{arch::segments, vmx};

/// MSRs that the host of the tests has no use for, so that they can hold anything: number, and whether it holds an
/// address.
const MSRS: [(&str, u32, bool); 8] = [
    ("STAR", 0xC000_0081, false),
    ("LSTAR", 0xC000_0082, true),
    ("CSTAR", 0xC000_0083, true),
    ("FS_BASE", 0xC000_0100, true),
    ("KERNEL_GS_BASE", 0xC000_0102, true),
    ("SYSENTER_ESP", 0x175, true),
    ("SYSENTER_EIP", 0x176, true),
    ("FMASK", 0xC000_0084, false),
];
const SYSENTER_CS: u32 = 0x174;
const TSC_AUX: u32 = 0xC000_0103;
const PAT: u32 = 0x277;
const EFER: u32 = 0xC000_0080;
const XSS: u32 = 0xDA0;
const SPEC_CTRL: u32 = 0x48;
const COUNT: usize = MSRS.len() + 6;

/// The host with patterns in its registers, until this is dropped.
pub struct PatternedHost {
    pattern: Pattern,
    msrs: [Option<(u32, u64)>; COUNT],
    cr2: u64,
    cr8: u64,
    debug: [u64; 6],
    xcr0: u64,
    extended: alloc::boxed::Box<Image>,
}

impl PatternedHost {
    /// Sets every register of this CPU. A vCPU loads the new values at exits from its next bind on.
    #[track_caller]
    pub fn new(pattern: Pattern) -> CaseResult<Self> {
        let mut before = Self {
            pattern,
            msrs: [None; COUNT],
            cr2: Cr2::read_raw(),
            cr8: read_cr8(),
            debug: read_debug(),
            xcr0: read_xcr0(),
            extended: save(all_components()),
        };
        let mut next = before.msrs.iter_mut();
        let mut set = |number: u32, value: u64| {
            let mut msr = Msr::new(number);
            // SAFETY: nothing in the host depends on the MSRs of this module, and the values are valid for them.
            unsafe {
                if let Some(slot) = next.next() {
                    *slot = Some((number, msr.read()));
                }
                msr.write(value);
            }
        };
        for (name, number, is_address) in MSRS {
            set(number, if is_address { pattern.address(name) } else { pattern.bits(name) & 0xFFFF_FFFF });
        }
        set(SYSENTER_CS, pattern.bits("SYSENTER_CS") & 0xFFFF);
        // The entries that page tables of the host select stay as they are.
        set(PAT, pattern.choose([0x0004_0506_0007_0406, 0x0105_0001_0007_0406]));
        // SAFETY: reading EFER has no effect.
        set(EFER, unsafe { Msr::new(EFER).read() } & !1 | pattern.choose([0, 1]));
        if has_tsc_aux() {
            set(TSC_AUX, pattern.bits("TSC_AUX") & 0xFFFF_FFFF);
        }
        if has_xss() {
            set(XSS, supervisor_components());
        }
        if has_spec_ctrl() {
            set(SPEC_CTRL, pattern.choose([1, 6]));
        }
        // SAFETY: the addresses of the breakpoints are nowhere in the host.
        unsafe {
            let place = |number: u64| 0x7F00_0000 + pattern.0 * 0x1_0000 + number * 0x1008;
            write_debug([place(0), place(1), place(2), place(3), pattern.choose([0xFFFF_4FF2, 0xFFFF_8FF1]), HOST_DR7]);
        }
        segments::load_local_table();
        segments::load_task(segments::LARGE_TASK);
        before.set_xcr0();
        vmx::with_state(vmx::State::refresh)?;
        Ok(before)
    }

    /// Runs `f`, which runs a guest, with patterns also in the registers that interrupts and calls may change; compares
    /// those that compiled code leaves alone.
    #[track_caller]
    pub fn around<T>(&self, round: u64, f: impl FnOnce() -> CaseResult<T>) -> CaseResult<T> {
        let components = image::components();
        let pattern = Pattern(self.pattern.0 + 2 * round);
        let expected = alloc::boxed::Box::new(Image::filled(pattern, components));
        // SAFETY: CR2 is looked at only by the handler of page faults, of which there are none; the priority holds off
        // interrupts that nobody sends now.
        unsafe {
            asm!("mov cr2, {}", in(reg) pattern.address("CR2"), options(nostack, preserves_flags));
            write_cr8(pattern.choose([9, 6]));
        }
        if !HOST_HAS_SSE {
            // The extended state in the registers is the guest's; `around_binding` looks at the host's.
            return f();
        }
        // Compiled code passes values in the lower halves of XMM0 to XMM15. Their upper halves, and on a processor without
        // AVX the x87 registers, are moved by the same instruction.
        with_extended(&expected, components, f)
    }

    /// Runs `f`, which binds, runs and unbinds a guest, and compares the extended state of a host without SSE, which gets
    /// it back at the unbind.
    #[track_caller]
    pub fn around_binding<T>(&self, round: u64, f: impl FnOnce() -> CaseResult<T>) -> CaseResult<T> {
        if HOST_HAS_SSE {
            return f();
        }
        let components = image::components();
        let expected = alloc::boxed::Box::new(Image::filled(Pattern(self.pattern.0 + 2 * round), components));
        // The precompiled core passes values in XMM registers all the same.
        with_extended(&expected, components, f)
    }

    /// XCR0 with what SSE code needs and no more, or all.
    fn set_xcr0(&self) {
        if self.xcr0 != 0 && HOST_HAS_SSE {
            write_xcr0(self.pattern.choose([self.xcr0, 3]));
        }
    }
}

impl Drop for PatternedHost {
    fn drop(&mut self) {
        segments::unload_local_table();
        segments::load_task(segments::TASK);
        // SAFETY: the values that the host had before.
        unsafe {
            for (number, value) in self.msrs.iter().flatten() {
                Msr::new(*number).write(*value);
            }
            asm!("mov cr2, {}", in(reg) self.cr2, options(nostack, preserves_flags));
            write_cr8(self.cr8);
            write_debug(self.debug);
        }
        // A host without SSE has changed neither, and the registers may hold the state of a guest that is bound.
        if HOST_HAS_SSE {
            if self.xcr0 != 0 {
                write_xcr0(self.xcr0);
            }
            load(&self.extended, all_components());
        }
        // It succeeded in `new`, on the same processor.
        let _ = vmx::with_state(vmx::State::refresh);
    }
}

/// DR0 execution, DR1 write, DR2 and DR3 access, all enabled.
const HOST_DR7: u64 = 0xFBD0_07FF;

/// Supervisor components of XSS that this processor has.
fn supervisor_components() -> u64 {
    let leaf = raw_cpuid::cpuid!(0xD, 1);
    u64::from(leaf.edx) << 32 | u64::from(leaf.ecx)
}

fn all_components() -> u64 {
    image::components()
}

/// Runs `f` with this extended state in the registers, and compares all but XMM registers after it.
#[track_caller]
fn with_extended<T>(expected: &Image, components: u64, f: impl FnOnce() -> CaseResult<T>) -> CaseResult<T> {
    let own = save(components);
    load(expected, components);
    let result = f();
    let found = save(components);
    load(&own, components);
    let result = result?;
    found.expect(expected, "the host's", components, |name| name.starts_with("XMM"))?;
    Ok(result)
}

/// Saves the extended state. Every component is enabled for that.
fn save(components: u64) -> alloc::boxed::Box<Image> {
    let mut image = alloc::boxed::Box::new(Image::zeroed());
    with_all_enabled(|| {
        // SAFETY: the image is aligned and large enough for all components that are named.
        unsafe {
            if components == 0 {
                asm!("fxsave64 [{}]", in(reg) &mut image.0, options(nostack, preserves_flags));
            } else {
                asm!("xsave64 [{}]", in(reg) &mut image.0, in("eax") components as u32,
                     in("edx") (components >> 32) as u32, options(nostack, preserves_flags));
            }
        }
    });
    image
}

/// Loads the extended state.
fn load(image: &Image, components: u64) {
    with_all_enabled(|| {
        // SAFETY: the image holds valid values. What compiled code has in the registers it saves around this call.
        unsafe {
            if components == 0 {
                asm!("fxrstor64 [{}]", in(reg) &image.0, options(nostack, preserves_flags),
                     out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                     out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                     out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
            } else {
                asm!("xrstor64 [{}]", in(reg) &image.0, in("eax") components as u32,
                     in("edx") (components >> 32) as u32, options(nostack, preserves_flags),
                     out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                     out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                     out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _);
            }
        }
    });
}

/// The host may have reduced its XCR0, see [`PatternedHost::set_xcr0`]; the registers are there all the same.
fn with_all_enabled(f: impl FnOnce()) {
    without_interrupts(|| {
        let xcr0 = read_xcr0();
        if xcr0 != 0 {
            write_xcr0(xcr0 | image::components());
        }
        f();
        if xcr0 != 0 {
            write_xcr0(xcr0);
        }
    });
}

fn write_xcr0(value: u64) {
    // SAFETY: called where CR4.OSXSAVE is set, with values of this module.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack, preserves_flags));
    }
}

fn read_cr8() -> u64 {
    let value;
    // SAFETY: reading CR8 has no effect.
    unsafe { asm!("mov {}, cr8", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// # Safety
///
/// Nobody waits for an interrupt of a lower priority.
unsafe fn write_cr8(value: u64) {
    // SAFETY: by the contract above.
    unsafe { asm!("mov cr8, {}", in(reg) value, options(nostack, preserves_flags)) };
}

fn read_debug() -> [u64; 6] {
    let [mut dr0, mut dr1, mut dr2, mut dr3, mut dr6, mut dr7] = [0u64; 6];
    // SAFETY: reading has no effect.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6", "mov {}, dr7",
             inout(reg) dr0, inout(reg) dr1, inout(reg) dr2, inout(reg) dr3, inout(reg) dr6, inout(reg) dr7,
             options(nomem, nostack, preserves_flags));
    }
    [dr0, dr1, dr2, dr3, dr6, dr7]
}

/// # Safety
///
/// No breakpoint that this enables is ever hit.
unsafe fn write_debug([dr0, dr1, dr2, dr3, dr6, dr7]: [u64; 6]) {
    // SAFETY: by the contract above; off while the addresses change.
    unsafe {
        asm!("mov dr7, {}", in(reg) 0x400u64, options(nostack, preserves_flags));
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}", "mov dr7, {}",
             in(reg) dr0, in(reg) dr1, in(reg) dr2, in(reg) dr3, in(reg) dr6, in(reg) dr7,
             options(nostack, preserves_flags));
    }
}
