//! The host's state as the host-state area of a VMCS wants it.
//!
//! A VM exit loads the host's state from the VMCS (SDM Vol. 3C, section 28.5, "Loading Host State"). It has two parts:
//!
//! - Per-CPU state is constant for a processor once its host runs: descriptor tables, TR, the MSRs of SYSENTER and SYSCALL, TSC_AUX,
//!   XSS, EFER, PAT, and whether the host uses IBRS. The crate reads it when VMX is enabled, and again when the host says that it
//!   changed something ([`VmxPerCpuState::refresh_host_state`](super::VmxArchPerCpuState::refresh_host_state)).
//! - Per-thread state is CR0, CR3, CR4, and the bases of FS and GS. The crate reads it whenever a vCPU is bound, and writes it to
//!   the VMCS only where it differs from what is there.
//!
//! An exit sets three things to fixed values: the limits of GDTR and IDTR (FFFFH), the limit of TR (67H), and LDTR
//! (unusable). The crate restores them after the exit.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86::segmentation as segment;
use x86_64::registers::control::{Cr0, Cr4, Cr4Flags};

use crate::msr::Msr;
use crate::rules::cpuid::{accepted_spec_ctrl, native_cpuid};

/// The limit that a VM exit gives TR.
const TR_LIMIT_AFTER_EXIT: u64 = 0x67;

macro_rules! per_cpu_host_state {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The part of the host's state that is constant for a processor. Atomics, because a host may refresh them
        /// while it holds the record by shared reference; a relaxed load is an ordinary one.
        pub(crate) struct PerCpuHostState {
            $($(#[$doc])* pub(super) $name: AtomicU64,)*
            debugctl: AtomicU64,
            /// How often the rest was read: a vCPU with an older number loads it again.
            generation: AtomicU64,
        }

        impl PerCpuHostState {
            fn from_values(values: &Values) -> Self {
                Self { $($name: AtomicU64::new(values.$name),)* debugctl: AtomicU64::new(0), generation: AtomicU64::new(1) }
            }

            fn store(&self, values: &Values) {
                $(self.$name.store(values.$name, Relaxed);)*
            }
        }

        struct Values {
            $($name: u64,)*
        }
    };
}

per_cpu_host_state! {
    es, cs, ss, ds, fs, gs, tr, ldtr, tsc_aux, xss, spec_ctrl,
    star, lstar, fmask,
    tr_base, tr_limit,
    gdtr_base, gdtr_limit,
    idtr_base, idtr_limit,
    pat, efer,
    sysenter_cs, sysenter_esp, sysenter_eip,
}

impl PerCpuHostState {
    /// Reads the state of the processor that executes this.
    pub(crate) fn read_here() -> Self {
        Self::from_values(&Values::read_here())
    }

    /// Reads it again.
    pub(crate) fn refresh(&self) {
        self.store(&Values::read_here());
        self.generation.fetch_add(1, Relaxed);
    }

    /// Which reading of these values this is.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// The host's IA32_DEBUGCTL, as the host set it.
    pub(crate) fn debugctl(&self) -> u64 {
        self.debugctl.load(Relaxed)
    }

    pub(crate) fn set_debugctl(&self, value: u64) {
        // mutant survives: Bochs has no IA32_DEBUGCTL
        self.debugctl.store(value, Relaxed);
        // mutant survives: Bochs has no IA32_DEBUGCTL
        self.generation.fetch_add(1, Relaxed);
    }

    /// STAR, LSTAR and FMASK.
    pub(crate) fn syscall(&self) -> [u64; 3] {
        [self.star.load(Relaxed), self.lstar.load(Relaxed), self.fmask.load(Relaxed)]
    }

    /// TSC_AUX, or 0 where there is none.
    pub(crate) fn tsc_aux(&self) -> u64 {
        self.tsc_aux.load(Relaxed)
    }

    /// IA32_XSS, or 0 where there is none.
    pub(crate) fn xss(&self) -> u64 {
        self.xss.load(Relaxed)
    }

    /// Whether the host restricts its own predictions by IBRS.
    pub(crate) fn uses_ibrs(&self) -> bool {
        const IBRS: u64 = 1;
        self.spec_ctrl.load(Relaxed) & IBRS != 0
    }

    /// The descriptor-table registers as LGDT and LIDT take them.
    pub(crate) fn descriptor_tables(&self) -> (TableRegister, TableRegister) {
        (
            TableRegister::new(self.gdtr_base.load(Relaxed), self.gdtr_limit.load(Relaxed)),
            TableRegister::new(self.idtr_base.load(Relaxed), self.idtr_limit.load(Relaxed)),
        )
    }

    /// Whether this host's LDTR or TR is not what an exit leaves.
    pub(crate) fn exit_changes_segments(&self) -> bool {
        self.ldtr.load(Relaxed) != 0 || self.tr_limit.load(Relaxed) != TR_LIMIT_AFTER_EXIT
    }

    /// Loads LDTR and TR again where an exit left them different from the host's.
    ///
    /// # Safety
    /// Runs on the processor of these values, after an exit and with the host's GDT loaded, which is writable as LTR wants
    /// it.
    #[cold]
    pub(crate) unsafe fn reload_segments(&self) {
        let ldtr = self.ldtr.load(Relaxed) as u16;
        if ldtr != 0 {
            // SAFETY: the selector that this host had loaded when it was read.
            unsafe { x86::dtables::load_ldtr(segment::SegmentSelector::from_raw(ldtr)) };
        }
        if self.tr_limit.load(Relaxed) != TR_LIMIT_AFTER_EXIT {
            let tr = self.tr.load(Relaxed) as u16;
            let descriptor = (self.gdtr_base.load(Relaxed) + u64::from(tr & !7)) as *mut u64;
            // SAFETY: the host's own TSS descriptor. LTR wants it available (type 9) and marks it busy (type 11, bit 41
            // of the first quadword) again.
            unsafe {
                descriptor.write_volatile(descriptor.read_volatile() & !(1 << 41));
                x86::task::load_tr(segment::SegmentSelector::from_raw(tr));
            }
        }
    }
}

impl Values {
    fn read_here() -> Self {
        let gdtr = x86_64::instructions::tables::sgdt();
        let idtr = x86_64::instructions::tables::sidt();
        // SAFETY: reading TR and LDTR is allowed at CPL 0, where a host of VMX runs.
        let (tr, ldtr) = unsafe { (x86::task::tr(), x86::dtables::ldtr()) };
        let (tr_base, tr_limit) = tss_of(gdtr.base.as_u64(), tr.bits());
        Self {
            es: segment::es().bits().into(),
            cs: segment::cs().bits().into(),
            ss: segment::ss().bits().into(),
            ds: segment::ds().bits().into(),
            fs: segment::fs().bits().into(),
            gs: segment::gs().bits().into(),
            tr: tr.bits().into(),
            ldtr: ldtr.bits().into(),
            tr_base,
            tr_limit,
            gdtr_base: gdtr.base.as_u64(),
            gdtr_limit: gdtr.limit.into(),
            idtr_base: idtr.base.as_u64(),
            idtr_limit: idtr.limit.into(),
            tsc_aux: if has_rdtscp() { Msr::IA32_TSC_AUX.read() } else { 0 },
            xss: if has_xsaves() { Msr::IA32_XSS.read() } else { 0 },
            spec_ctrl: if accepted_spec_ctrl(native_cpuid) != 0 { Msr::IA32_SPEC_CTRL.read() } else { 0 },
            star: Msr::IA32_STAR.read(),
            lstar: Msr::IA32_LSTAR.read(),
            fmask: Msr::IA32_FMASK.read(),
            pat: Msr::IA32_PAT.read(),
            efer: Msr::IA32_EFER.read(),
            sysenter_cs: Msr::IA32_SYSENTER_CS.read(),
            sysenter_esp: Msr::IA32_SYSENTER_ESP.read(),
            sysenter_eip: Msr::IA32_SYSENTER_EIP.read(),
        }
    }
}

/// Whether there is a TSC_AUX: with RDTSCP (CPUID.80000001H:EDX\[27\]), or RDPID (CPUID.07H.0:ECX\[22\]).
fn has_rdtscp() -> bool {
    let id = raw_cpuid::CpuId::new();
    id.get_extended_processor_and_feature_identifiers().is_some_and(|features| features.has_rdtscp())
        || id.get_extended_feature_info().is_some_and(|features| features.has_rdpid())
}

/// Whether there is an IA32_XSS: with XSAVES (CPUID.0DH.1:EAX\[3\]).
fn has_xsaves() -> bool {
    raw_cpuid::CpuId::new().get_extended_state_info().is_some_and(|info| info.has_xsaves_xrstors())
}

/// Base and limit that the 64-bit TSS descriptor of selector `tr` holds (SDM Vol. 3A, section 8.2.3, "TSS Descriptor in
/// 64-bit mode").
fn tss_of(gdt: u64, tr: u16) -> (u64, u64) {
    let descriptor = (gdt + u64::from(tr & !7)) as *const u64;
    // SAFETY: the processor has this descriptor of 16 bytes loaded, so the host keeps it mapped.
    let (low, high) = unsafe { (descriptor.read_volatile(), descriptor.add(1).read_volatile()) };
    let base = (low >> 16 & 0xFF_FFFF) | (low >> 32 & 0xFF00_0000) | (high << 32);
    let limit = (low & 0xFFFF) | (low >> 32 & 0xF_0000);
    (base, if low & (1 << 55) != 0 { limit << 12 | 0xFFF } else { limit })
}

/// The first 8 bytes of the IDT's gate with this vector, or `None` beyond the limit of the IDT.
pub(crate) fn idt_gate(vector: u8) -> Option<u64> {
    const GATE_SIZE: usize = 16;
    let idtr = x86_64::instructions::tables::sidt();
    let offset = usize::from(vector) * GATE_SIZE;
    let gate = (idtr.base.as_u64() as usize + offset) as *const u64;
    // SAFETY: the gate is within the limit of the IDT, which the host keeps mapped for its interrupts.
    (offset + GATE_SIZE <= usize::from(idtr.limit) + 1).then(|| unsafe { gate.read_volatile() })
}

/// The part of the host's state that may change between two binds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerThreadHostState {
    pub(super) cr0: u64,
    pub(super) cr3: u64,
    pub(super) cr4: u64,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
}

impl PerThreadHostState {
    /// What they are now.
    #[inline(always)]
    pub(crate) fn read_here() -> Self {
        let cr4 = Cr4::read_raw();
        let (fs_base, gs_base) = segment_bases(cr4);
        // SAFETY: reading CR3 is allowed at CPL 0.
        let cr3 = unsafe { x86::controlregs::cr3() };
        Self { cr0: Cr0::read_raw(), cr3, cr4, fs_base, gs_base }
    }

    /// Whether the host has them now.
    #[inline(always)]
    pub(crate) fn are_here(&self) -> bool {
        Cr4::read_raw() == self.cr4 && self.bases_are_here() && self.pages_are_here()
    }

    /// [`are_here`](Self::are_here), where CR4 is known to be unchanged, and to have FSGSBASE set.
    ///
    /// # Safety
    /// CR4.FSGSBASE is set.
    #[inline(always)]
    pub(crate) unsafe fn others_are_here(&self) -> bool {
        // SAFETY: as the caller promises.
        unsafe { rdfsbase() == self.fs_base && rdgsbase() == self.gs_base && self.pages_are_here() }
    }

    #[inline(always)]
    fn bases_are_here(&self) -> bool {
        segment_bases(self.cr4) == (self.fs_base, self.gs_base)
    }

    /// CR3 and CR0.
    #[inline(always)]
    fn pages_are_here(&self) -> bool {
        // SAFETY: reading CR3 is allowed at CPL 0.
        let cr3 = unsafe { x86::controlregs::cr3() };
        cr3 == self.cr3 && Cr0::read_raw() == self.cr0
    }

    /// CR4 of a host that has FSGSBASE set.
    pub(crate) fn cr4_with_fsgsbase(&self) -> Option<u64> {
        (self.cr4 & Cr4Flags::FSGSBASE.bits() != 0).then_some(self.cr4)
    }

    /// CR4.MCE.
    pub(crate) fn mce(&self) -> u64 {
        self.cr4 & Cr4Flags::MACHINE_CHECK_EXCEPTION.bits()
    }
}

/// FS and GS base: by RDFSBASE and RDGSBASE where CR4 allows them, which is several times quicker than two RDMSRs.
#[inline(always)]
fn segment_bases(cr4: u64) -> (u64, u64) {
    if cr4 & Cr4Flags::FSGSBASE.bits() != 0 {
        // SAFETY: CR4.FSGSBASE is set.
        unsafe { (rdfsbase(), rdgsbase()) }
    } else {
        (Msr::IA32_FS_BASE.read(), Msr::IA32_GS_BASE.read())
    }
}

/// # Safety
/// CR4.FSGSBASE is set.
#[inline(always)]
unsafe fn rdfsbase() -> u64 {
    let base;
    // SAFETY: as the caller promises.
    unsafe { asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// # Safety
/// CR4.FSGSBASE is set.
#[inline(always)]
unsafe fn rdgsbase() -> u64 {
    let base;
    // SAFETY: as the caller promises.
    unsafe { asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)) };
    base
}

/// GDTR or IDTR as LGDT and LIDT take it: 16 bits of limit, 64 of base.
#[derive(Clone, Copy, Default)]
#[repr(C, packed)]
pub(crate) struct TableRegister {
    limit: u16,
    base: u64,
}

impl TableRegister {
    fn new(base: u64, limit: u64) -> Self {
        Self { limit: limit as u16, base }
    }

    /// Whether an exit leaves this register as it was.
    pub(crate) fn survives_exit(&self) -> bool {
        self.limit == 0xFFFF
    }
}
