//! The bits of the control fields and of IA32_VMX_EPT_VPID_CAP, each under one name.
//!
//! Every bit that the SDM defines is here, used by this crate or not: a processor's capabilities are reported by
//! these names. Their tables are in Vol. 3C, 25.6 "VM-Execution Control Fields", 25.7 "VM-Exit Control Fields" and
//! 25.8 "VM-Entry Control Fields".

use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls (25.6.1 "Pin-Based VM-Execution Controls").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PinControls: u32 {
        /// External interrupts cause exits. Without it they go through the guest's IDT.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// NMIs cause exits.
        const NMI_EXITING = 1 << 3;
        /// The "blocking by NMI" state is the guest's own. Requires NMI exiting.
        const VIRTUAL_NMIS = 1 << 5;
        /// The VMX-preemption timer counts while the guest runs.
        const PREEMPTION_TIMER = 1 << 6;
        /// Interrupts with the notification vector post virtual interrupts. Requires virtual-interrupt delivery
        /// and that exits acknowledge interrupts.
        const POSTED_INTERRUPTS = 1 << 7;
    }
}

bitflags! {
    /// Primary processor-based VM-execution controls (25.6.2 "Processor-Based VM-Execution Controls").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PrimaryControls: u32 {
        /// Exit as soon as the guest can take an external interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// RDTSC, RDTSCP and reads of the TSC MSR add the TSC offset.
        const TSC_OFFSETTING = 1 << 3;
        /// HLT causes exits.
        const HLT_EXITING = 1 << 7;
        /// INVLPG causes exits.
        const INVLPG_EXITING = 1 << 9;
        /// MWAIT causes exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC causes exits.
        const RDPMC_EXITING = 1 << 11;
        /// RDTSC and RDTSCP cause exits.
        const RDTSC_EXITING = 1 << 12;
        /// MOV to CR3 causes exits, but for values in the CR3-target list.
        const CR3_LOAD_EXITING = 1 << 15;
        /// MOV from CR3 causes exits.
        const CR3_STORE_EXITING = 1 << 16;
        /// The tertiary controls are in use.
        const TERTIARY_CONTROLS = 1 << 17;
        /// MOV to CR8 causes exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 causes exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// CR8 is the TPR of the virtual-APIC page.
        const TPR_SHADOW = 1 << 21;
        /// Exit as soon as virtual NMIs are not blocked. Requires virtual NMIs.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV to and from debug registers causes exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every I/O instruction causes an exit. Ignored while I/O bitmaps are used.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// The I/O bitmaps say which ports cause exits.
        const IO_BITMAPS = 1 << 25;
        /// An exit after each instruction.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// The MSR bitmaps say which RDMSR and WRMSR cause exits; without them all do.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR causes exits.
        const MONITOR_EXITING = 1 << 29;
        /// PAUSE causes exits.
        const PAUSE_EXITING = 1 << 30;
        /// The secondary controls are in use; otherwise all of them count as 0.
        const SECONDARY_CONTROLS = 1 << 31;
    }
}

bitflags! {
    /// Secondary processor-based VM-execution controls (25.6.2 "Processor-Based VM-Execution Controls").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SecondaryControls: u32 {
        /// Accesses to the APIC-access page are virtualized.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// Guest-physical addresses are translated by EPT.
        const EPT = 1 << 1;
        /// LGDT, LIDT, LLDT, LTR, SGDT, SIDT, SLDT and STR cause exits.
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        /// RDTSCP works; otherwise it is #UD.
        const RDTSCP = 1 << 3;
        /// The x2APIC's MSRs are virtualized.
        const VIRTUALIZE_X2APIC = 1 << 4;
        /// Cached translations are tagged with a VPID, so that entries and exits need not flush them.
        const VPID = 1 << 5;
        /// WBINVD and WBNOINVD cause exits.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run without paging and in real mode. Requires EPT.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// Reads of most APIC registers come from the virtual-APIC page.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Virtual interrupts are evaluated and delivered by the processor.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// A loop of PAUSEs that lasts too long causes an exit.
        const PAUSE_LOOP_EXITING = 1 << 10;
        /// RDRAND causes exits.
        const RDRAND_EXITING = 1 << 11;
        /// INVPCID works; otherwise it is #UD.
        const INVPCID = 1 << 12;
        /// VMFUNC works.
        const VM_FUNCTIONS = 1 << 13;
        /// VMREAD and VMWRITE in the guest may access a shadow VMCS.
        const VMCS_SHADOWING = 1 << 14;
        /// The ENCLS-exiting bitmap says which ENCLS leaves cause exits.
        const ENCLS_EXITING = 1 << 15;
        /// RDSEED causes exits.
        const RDSEED_EXITING = 1 << 16;
        /// Setting a dirty flag in EPT also logs the address. Requires EPT.
        const PML = 1 << 17;
        /// EPT violations may become #VE in the guest.
        const EPT_VIOLATION_VE = 1 << 18;
        /// Processor Trace does not show that the guest is one.
        const CONCEAL_VMX_FROM_PT = 1 << 19;
        /// XSAVES and XRSTORS work; otherwise they are #UD.
        const XSAVES = 1 << 20;
        /// ENQCMD translates PASIDs.
        const PASID_TRANSLATION = 1 << 21;
        /// EPT has separate execute permissions for user and supervisor linear addresses. Requires EPT.
        const MODE_BASED_EXECUTE = 1 << 22;
        /// EPT write permissions may be given for 128-byte parts of a page. Requires EPT.
        const SUB_PAGE_WRITE = 1 << 23;
        /// Addresses of Processor Trace output are guest-physical. Requires EPT.
        const PT_GUEST_PHYSICAL = 1 << 24;
        /// The guest's TSC is scaled by the TSC multiplier.
        const TSC_SCALING = 1 << 25;
        /// TPAUSE, UMONITOR and UMWAIT work; otherwise they are #UD.
        const USER_WAIT_PAUSE = 1 << 26;
        /// PCONFIG works, subject to the PCONFIG-exiting bitmap; otherwise it is #UD.
        const PCONFIG = 1 << 27;
        /// The ENCLV-exiting bitmap says which ENCLV leaves cause exits.
        const ENCLV_EXITING = 1 << 28;
        /// A bus lock in the guest causes an exit.
        const BUS_LOCK_DETECTION = 1 << 30;
        /// Too long a time without an instruction boundary causes an exit.
        const INSTRUCTION_TIMEOUT = 1 << 31;
    }
}

bitflags! {
    /// Tertiary processor-based VM-execution controls (25.6.2 "Processor-Based VM-Execution Controls").
    ///
    /// All 64 bits of their capability MSR are allowed-1 settings, and each of them may be 0.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TertiaryControls: u64 {
        /// LOADIWKEY causes exits.
        const LOADIWKEY_EXITING = 1 << 0;
        /// Linear addresses in a prefix are translated by paging structures of the hypervisor.
        const HLAT = 1 << 1;
        /// EPT can allow writes to guest paging structures only to the processor's own page walks.
        const EPT_PAGING_WRITE = 1 << 2;
        /// EPT can demand that guest paging structures are only reached through verified ones.
        const GUEST_PAGING_VERIFICATION = 1 << 3;
        /// The guest may send IPIs without exits.
        const IPI_VIRTUALIZATION = 1 << 4;
        /// RDMSRLIST and WRMSRLIST work; otherwise they are #UD.
        const MSR_LIST_INSTRUCTIONS = 1 << 6;
        /// Accesses to IA32_SPEC_CTRL are virtualized.
        const VIRTUALIZE_SPEC_CTRL = 1 << 7;
    }
}

bitflags! {
    /// Primary VM-exit controls (25.7.1 "VM-Exit Controls").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitControls: u32 {
        /// Exits save DR7 and IA32_DEBUGCTL of the guest.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host is in 64-bit mode.
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        /// Exits load IA32_PERF_GLOBAL_CTRL.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        /// An exit for an external interrupt takes its vector from the interrupt controller.
        const ACK_INTERRUPT_ON_EXIT = 1 << 15;
        /// Exits save IA32_PAT of the guest.
        const SAVE_PAT = 1 << 18;
        /// Exits load IA32_PAT of the host.
        const LOAD_PAT = 1 << 19;
        /// Exits save IA32_EFER of the guest.
        const SAVE_EFER = 1 << 20;
        /// Exits load IA32_EFER of the host.
        const LOAD_EFER = 1 << 21;
        /// Exits save what is left on the VMX-preemption timer.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        /// Exits clear IA32_BNDCFGS.
        const CLEAR_BNDCFGS = 1 << 23;
        /// Processor Trace does not show exits.
        const CONCEAL_VMX_FROM_PT = 1 << 24;
        /// Exits clear IA32_RTIT_CTL.
        const CLEAR_RTIT_CTL = 1 << 25;
        /// Exits clear IA32_LBR_CTL.
        const CLEAR_LBR_CTL = 1 << 26;
        /// Exits clear the user-interrupt notification vector.
        const CLEAR_UINV = 1 << 27;
        /// Exits load the host's CET state.
        const LOAD_CET = 1 << 28;
        /// Exits load IA32_PKRS of the host.
        const LOAD_PKRS = 1 << 29;
        /// Exits save IA32_PERF_GLOBAL_CTRL of the guest.
        const SAVE_PERF_GLOBAL_CTRL = 1 << 30;
        /// The secondary VM-exit controls are in use.
        const SECONDARY_CONTROLS = 1 << 31;
    }
}

bitflags! {
    /// VM-entry controls (25.8.1 "VM-Entry Controls").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryControls: u32 {
        /// Entries load DR7 and IA32_DEBUGCTL of the guest.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest is in IA-32e mode after the entry.
        const IA32E_MODE_GUEST = 1 << 9;
        /// The entry goes to SMM.
        const ENTRY_TO_SMM = 1 << 10;
        /// The entry ends the dual-monitor treatment of SMIs.
        const DEACTIVATE_DUAL_MONITOR = 1 << 11;
        /// Entries load IA32_PERF_GLOBAL_CTRL of the guest.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        /// Entries load IA32_PAT of the guest.
        const LOAD_PAT = 1 << 14;
        /// Entries load IA32_EFER of the guest.
        const LOAD_EFER = 1 << 15;
        /// Entries load IA32_BNDCFGS of the guest.
        const LOAD_BNDCFGS = 1 << 16;
        /// Processor Trace does not show entries.
        const CONCEAL_VMX_FROM_PT = 1 << 17;
        /// Entries load IA32_RTIT_CTL of the guest.
        const LOAD_RTIT_CTL = 1 << 18;
        /// Entries load the user-interrupt notification vector of the guest.
        const LOAD_UINV = 1 << 19;
        /// Entries load the guest's CET state.
        const LOAD_CET = 1 << 20;
        /// Entries load IA32_LBR_CTL of the guest.
        const LOAD_LBR_CTL = 1 << 21;
        /// Entries load IA32_PKRS of the guest.
        const LOAD_PKRS = 1 << 22;
        /// Entries load the guest's FRED state.
        const LOAD_FRED = 1 << 23;
    }
}
