//! The table.

use core::fmt;

use super::{FieldInfo, FieldKind, FieldValue, GuestStateField, Needs, VmcsField, WritableVmcsField, slot_of};
use crate::vmx::capability::{
    EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls, TertiaryControls,
};

vmcs_fields! {
    /// 16-bit control fields.
    VmcsControl16: u16, Control {
        /// Virtual-processor identifier.
        VPID = 0x0000 if secondary VPID,
        /// Posted-interrupt notification vector.
        POSTED_INTERRUPT_NOTIFICATION_VECTOR = 0x0002 if pin POSTED_INTERRUPTS,
        /// EPTP index.
        EPTP_INDEX = 0x0004 if secondary EPT_VIOLATION_VE,
        /// HLAT prefix size.
        HLAT_PREFIX_SIZE = 0x0006 if tertiary HLAT,
        /// Last PID-pointer index.
        LAST_PID_POINTER_INDEX = 0x0008 if tertiary IPI_VIRTUALIZATION,
    }
    /// 64-bit control fields.
    VmcsControl64: u64, Control {
        /// Physical address of I/O bitmap A (ports 0 to 7FFFH).
        IO_BITMAP_A_ADDR = 0x2000,
        /// Physical address of I/O bitmap B (ports 8000H to FFFFH).
        IO_BITMAP_B_ADDR = 0x2002,
        /// Physical address of the MSR bitmaps.
        MSR_BITMAPS_ADDR = 0x2004 if primary MSR_BITMAPS,
        /// Physical address of the VM-exit MSR-store area.
        VMEXIT_MSR_STORE_ADDR = 0x2006,
        /// Physical address of the VM-exit MSR-load area.
        VMEXIT_MSR_LOAD_ADDR = 0x2008,
        /// Physical address of the VM-entry MSR-load area.
        VMENTRY_MSR_LOAD_ADDR = 0x200a,
        /// Executive-VMCS pointer.
        EXECUTIVE_VMCS_PTR = 0x200c,
        /// Page-modification-log address.
        PML_ADDR = 0x200e if secondary PML,
        /// TSC offset, in TSC ticks, added to what the guest reads.
        TSC_OFFSET = 0x2010,
        /// Virtual-APIC page address.
        VIRT_APIC_ADDR = 0x2012 if primary TPR_SHADOW,
        /// APIC-access page address.
        APIC_ACCESS_ADDR = 0x2014 if secondary VIRTUALIZE_APIC_ACCESSES,
        /// Posted-interrupt descriptor address.
        POSTED_INTERRUPT_DESC_ADDR = 0x2016 if pin POSTED_INTERRUPTS,
        /// VM-function controls.
        VM_FUNCTION_CONTROLS = 0x2018 if secondary VM_FUNCTIONS,
        /// EPT pointer.
        EPTP = 0x201a if secondary EPT,
        /// EOI-exit bitmap, vectors 0 to 63.
        EOI_EXIT0 = 0x201c if secondary VIRTUAL_INTERRUPT_DELIVERY,
        /// EOI-exit bitmap, vectors 64 to 127.
        EOI_EXIT1 = 0x201e if secondary VIRTUAL_INTERRUPT_DELIVERY,
        /// EOI-exit bitmap, vectors 128 to 191.
        EOI_EXIT2 = 0x2020 if secondary VIRTUAL_INTERRUPT_DELIVERY,
        /// EOI-exit bitmap, vectors 192 to 255.
        EOI_EXIT3 = 0x2022 if secondary VIRTUAL_INTERRUPT_DELIVERY,
        /// EPTP-list address.
        EPTP_LIST_ADDR = 0x2024 if secondary VM_FUNCTIONS,
        /// VMREAD-bitmap address.
        VMREAD_BITMAP_ADDR = 0x2026 if secondary VMCS_SHADOWING,
        /// VMWRITE-bitmap address.
        VMWRITE_BITMAP_ADDR = 0x2028 if secondary VMCS_SHADOWING,
        /// Virtualization-exception information address.
        VIRT_EXCEPTION_INFO_ADDR = 0x202a if secondary EPT_VIOLATION_VE,
        /// XSS-exiting bitmap.
        XSS_EXITING_BITMAP = 0x202c if secondary XSAVES,
        /// ENCLS-exiting bitmap.
        ENCLS_EXITING_BITMAP = 0x202e if secondary ENCLS_EXITING,
        /// Sub-page-permission-table pointer.
        SPP_TABLE_PTR = 0x2030 if secondary SUB_PAGE_WRITE,
        /// TSC multiplier, 16.48 fixed point.
        TSC_MULTIPLIER = 0x2032 if secondary TSC_SCALING,
        /// Tertiary processor-based VM-execution controls.
        TERTIARY_PROCBASED_EXEC_CONTROLS = 0x2034 if primary TERTIARY_CONTROLS,
        /// ENCLV-exiting bitmap.
        ENCLV_EXITING_BITMAP = 0x2036 if secondary ENCLV_EXITING,
        /// Low PASID directory address.
        LOW_PASID_DIRECTORY_ADDR = 0x2038 if secondary PASID_TRANSLATION,
        /// High PASID directory address.
        HIGH_PASID_DIRECTORY_ADDR = 0x203a if secondary PASID_TRANSLATION,
        /// PCONFIG-exiting bitmap.
        PCONFIG_EXITING_BITMAP = 0x203e if secondary PCONFIG,
        /// Hypervisor-managed linear-address translation pointer.
        HLATP = 0x2040 if tertiary HLAT,
        /// PID-pointer table address.
        PID_POINTER_TABLE_ADDR = 0x2042 if tertiary IPI_VIRTUALIZATION,
        /// Secondary VM-exit controls.
        SECONDARY_VMEXIT_CONTROLS = 0x2044 if exit SECONDARY_CONTROLS,
        /// IA32_SPEC_CTRL mask.
        SPEC_CTRL_MASK = 0x204a if tertiary VIRTUALIZE_SPEC_CTRL,
        /// IA32_SPEC_CTRL shadow.
        SPEC_CTRL_SHADOW = 0x204c if tertiary VIRTUALIZE_SPEC_CTRL,
    }
    /// 32-bit control fields.
    VmcsControl32: u32, Control {
        /// Pin-based VM-execution controls.
        PINBASED_EXEC_CONTROLS = 0x4000,
        /// Primary processor-based VM-execution controls.
        PRIMARY_PROCBASED_EXEC_CONTROLS = 0x4002,
        /// Exception bitmap: bit *n* makes exception *n* exit.
        EXCEPTION_BITMAP = 0x4004,
        /// Page-fault error-code mask.
        PAGE_FAULT_ERR_CODE_MASK = 0x4006,
        /// Page-fault error-code match.
        PAGE_FAULT_ERR_CODE_MATCH = 0x4008,
        /// CR3-target count.
        CR3_TARGET_COUNT = 0x400a,
        /// Primary VM-exit controls.
        VMEXIT_CONTROLS = 0x400c,
        /// VM-exit MSR-store count.
        VMEXIT_MSR_STORE_COUNT = 0x400e,
        /// VM-exit MSR-load count.
        VMEXIT_MSR_LOAD_COUNT = 0x4010,
        /// VM-entry controls.
        VMENTRY_CONTROLS = 0x4012,
        /// VM-entry MSR-load count.
        VMENTRY_MSR_LOAD_COUNT = 0x4014,
        /// VM-entry interruption information; the processor clears its valid bit at each exit.
        VMENTRY_INTERRUPTION_INFO = 0x4016,
        /// VM-entry exception error code.
        VMENTRY_EXCEPTION_ERR_CODE = 0x4018,
        /// VM-entry instruction length in bytes.
        VMENTRY_INSTRUCTION_LEN = 0x401a,
        /// TPR threshold.
        TPR_THRESHOLD = 0x401c if primary TPR_SHADOW,
        /// Secondary processor-based VM-execution controls.
        SECONDARY_PROCBASED_EXEC_CONTROLS = 0x401e if primary SECONDARY_CONTROLS,
        /// PAUSE-loop exiting: gap in TSC ticks.
        PLE_GAP = 0x4020 if secondary PAUSE_LOOP_EXITING,
        /// PAUSE-loop exiting: window in TSC ticks.
        PLE_WINDOW = 0x4022 if secondary PAUSE_LOOP_EXITING,
        /// Instruction-timeout control.
        INSTRUCTION_TIMEOUT = 0x4024 if secondary INSTRUCTION_TIMEOUT,
    }
    /// Natural-width control fields.
    VmcsControlNW: usize, Control {
        /// CR0 guest/host mask: bits set here are the host's.
        CR0_GUEST_HOST_MASK = 0x6000,
        /// CR4 guest/host mask: bits set here are the host's.
        CR4_GUEST_HOST_MASK = 0x6002,
        /// CR0 read shadow: what the guest reads in the host's bits.
        CR0_READ_SHADOW = 0x6004,
        /// CR4 read shadow: what the guest reads in the host's bits.
        CR4_READ_SHADOW = 0x6006,
        /// CR3-target value 0.
        CR3_TARGET_VALUE0 = 0x6008,
        /// CR3-target value 1.
        CR3_TARGET_VALUE1 = 0x600a,
        /// CR3-target value 2.
        CR3_TARGET_VALUE2 = 0x600c,
        /// CR3-target value 3.
        CR3_TARGET_VALUE3 = 0x600e,
    }
    /// 16-bit host-state fields.
    VmcsHost16: u16, Host {
        /// Host ES selector.
        ES_SELECTOR = 0x0c00,
        /// Host CS selector.
        CS_SELECTOR = 0x0c02,
        /// Host SS selector.
        SS_SELECTOR = 0x0c04,
        /// Host DS selector.
        DS_SELECTOR = 0x0c06,
        /// Host FS selector.
        FS_SELECTOR = 0x0c08,
        /// Host GS selector.
        GS_SELECTOR = 0x0c0a,
        /// Host TR selector.
        TR_SELECTOR = 0x0c0c,
    }
    /// 64-bit host-state fields.
    VmcsHost64: u64, Host {
        /// Host IA32_PAT.
        IA32_PAT = 0x2c00 if exit LOAD_PAT,
        /// Host IA32_EFER.
        IA32_EFER = 0x2c02 if exit LOAD_EFER,
        /// Host IA32_PERF_GLOBAL_CTRL.
        IA32_PERF_GLOBAL_CTRL = 0x2c04 if exit LOAD_PERF_GLOBAL_CTRL,
        /// Host IA32_PKRS.
        IA32_PKRS = 0x2c06 if exit LOAD_PKRS,
    }
    /// 32-bit host-state field.
    VmcsHost32: u32, Host {
        /// Host IA32_SYSENTER_CS.
        IA32_SYSENTER_CS = 0x4c00,
    }
    /// Natural-width host-state fields.
    VmcsHostNW: usize, Host {
        /// Host CR0.
        CR0 = 0x6c00,
        /// Host CR3.
        CR3 = 0x6c02,
        /// Host CR4.
        CR4 = 0x6c04,
        /// Host FS base.
        FS_BASE = 0x6c06,
        /// Host GS base.
        GS_BASE = 0x6c08,
        /// Host TR base.
        TR_BASE = 0x6c0a,
        /// Host GDTR base.
        GDTR_BASE = 0x6c0c,
        /// Host IDTR base.
        IDTR_BASE = 0x6c0e,
        /// Host IA32_SYSENTER_ESP.
        IA32_SYSENTER_ESP = 0x6c10,
        /// Host IA32_SYSENTER_EIP.
        IA32_SYSENTER_EIP = 0x6c12,
        /// Host RSP at an exit.
        RSP = 0x6c14,
        /// Host RIP at an exit.
        RIP = 0x6c16,
        /// Host IA32_S_CET.
        IA32_S_CET = 0x6c18 if exit LOAD_CET,
        /// Host SSP.
        SSP = 0x6c1a if exit LOAD_CET,
        /// Host IA32_INTERRUPT_SSP_TABLE_ADDR.
        IA32_INTERRUPT_SSP_TABLE_ADDR = 0x6c1c if exit LOAD_CET,
    }
    /// 16-bit guest-state fields.
    VmcsGuest16: u16, Guest {
        /// Guest ES selector.
        ES_SELECTOR = 0x0800,
        /// Guest CS selector.
        CS_SELECTOR = 0x0802,
        /// Guest SS selector.
        SS_SELECTOR = 0x0804,
        /// Guest DS selector.
        DS_SELECTOR = 0x0806,
        /// Guest FS selector.
        FS_SELECTOR = 0x0808,
        /// Guest GS selector.
        GS_SELECTOR = 0x080a,
        /// Guest LDTR selector.
        LDTR_SELECTOR = 0x080c,
        /// Guest TR selector.
        TR_SELECTOR = 0x080e,
        /// Guest interrupt status (virtual-interrupt delivery).
        INTERRUPT_STATUS = 0x0810 if secondary VIRTUAL_INTERRUPT_DELIVERY,
        /// PML index.
        PML_INDEX = 0x0812 if secondary PML,
        /// Guest UINV.
        UINV = 0x0814 if entry LOAD_UINV,
    }
    /// 64-bit guest-state fields.
    VmcsGuest64: u64, Guest {
        /// VMCS link pointer.
        LINK_PTR = 0x2800,
        /// Guest IA32_DEBUGCTL.
        IA32_DEBUGCTL = 0x2802,
        /// Guest IA32_PAT.
        IA32_PAT = 0x2804 if entry LOAD_PAT,
        /// Guest IA32_EFER.
        IA32_EFER = 0x2806 if entry LOAD_EFER,
        /// Guest IA32_PERF_GLOBAL_CTRL.
        IA32_PERF_GLOBAL_CTRL = 0x2808 if entry LOAD_PERF_GLOBAL_CTRL,
        /// Guest page-directory-pointer-table entry 0 (PAE paging).
        PDPTE0 = 0x280a if secondary EPT,
        /// Guest page-directory-pointer-table entry 1 (PAE paging).
        PDPTE1 = 0x280c if secondary EPT,
        /// Guest page-directory-pointer-table entry 2 (PAE paging).
        PDPTE2 = 0x280e if secondary EPT,
        /// Guest page-directory-pointer-table entry 3 (PAE paging).
        PDPTE3 = 0x2810 if secondary EPT,
        /// Guest IA32_BNDCFGS.
        IA32_BNDCFGS = 0x2812 if entry LOAD_BNDCFGS,
        /// Guest IA32_RTIT_CTL.
        IA32_RTIT_CTL = 0x2814 if entry LOAD_RTIT_CTL,
        /// Guest IA32_LBR_CTL.
        IA32_LBR_CTL = 0x2816 if entry LOAD_LBR_CTL,
        /// Guest IA32_PKRS.
        IA32_PKRS = 0x2818 if entry LOAD_PKRS,
    }
    /// 32-bit guest-state fields.
    VmcsGuest32: u32, Guest {
        /// Guest ES limit in bytes.
        ES_LIMIT = 0x4800,
        /// Guest CS limit in bytes.
        CS_LIMIT = 0x4802,
        /// Guest SS limit in bytes.
        SS_LIMIT = 0x4804,
        /// Guest DS limit in bytes.
        DS_LIMIT = 0x4806,
        /// Guest FS limit in bytes.
        FS_LIMIT = 0x4808,
        /// Guest GS limit in bytes.
        GS_LIMIT = 0x480a,
        /// Guest LDTR limit in bytes.
        LDTR_LIMIT = 0x480c,
        /// Guest TR limit in bytes.
        TR_LIMIT = 0x480e,
        /// Guest GDTR limit in bytes.
        GDTR_LIMIT = 0x4810,
        /// Guest IDTR limit in bytes.
        IDTR_LIMIT = 0x4812,
        /// Guest ES access rights.
        ES_ACCESS_RIGHTS = 0x4814,
        /// Guest CS access rights.
        CS_ACCESS_RIGHTS = 0x4816,
        /// Guest SS access rights.
        SS_ACCESS_RIGHTS = 0x4818,
        /// Guest DS access rights.
        DS_ACCESS_RIGHTS = 0x481a,
        /// Guest FS access rights.
        FS_ACCESS_RIGHTS = 0x481c,
        /// Guest GS access rights.
        GS_ACCESS_RIGHTS = 0x481e,
        /// Guest LDTR access rights.
        LDTR_ACCESS_RIGHTS = 0x4820,
        /// Guest TR access rights.
        TR_ACCESS_RIGHTS = 0x4822,
        /// Guest interruptibility state.
        INTERRUPTIBILITY_STATE = 0x4824,
        /// Guest activity state.
        ACTIVITY_STATE = 0x4826,
        /// Guest SMBASE.
        SMBASE = 0x4828,
        /// Guest IA32_SYSENTER_CS.
        IA32_SYSENTER_CS = 0x482a,
        /// VMX-preemption timer value, in units of TSC >> IA32_VMX_MISC\[4:0\].
        VMX_PREEMPTION_TIMER_VALUE = 0x482e if pin PREEMPTION_TIMER,
    }
    /// Natural-width guest-state fields.
    VmcsGuestNW: usize, Guest {
        /// Guest CR0.
        CR0 = 0x6800,
        /// Guest CR3.
        CR3 = 0x6802,
        /// Guest CR4.
        CR4 = 0x6804,
        /// Guest ES base.
        ES_BASE = 0x6806,
        /// Guest CS base.
        CS_BASE = 0x6808,
        /// Guest SS base.
        SS_BASE = 0x680a,
        /// Guest DS base.
        DS_BASE = 0x680c,
        /// Guest FS base.
        FS_BASE = 0x680e,
        /// Guest GS base.
        GS_BASE = 0x6810,
        /// Guest LDTR base.
        LDTR_BASE = 0x6812,
        /// Guest TR base.
        TR_BASE = 0x6814,
        /// Guest GDTR base.
        GDTR_BASE = 0x6816,
        /// Guest IDTR base.
        IDTR_BASE = 0x6818,
        /// Guest DR7.
        DR7 = 0x681a,
        /// Guest RSP.
        RSP = 0x681c,
        /// Guest RIP.
        RIP = 0x681e,
        /// Guest RFLAGS.
        RFLAGS = 0x6820,
        /// Guest pending debug exceptions.
        PENDING_DBG_EXCEPTIONS = 0x6822,
        /// Guest IA32_SYSENTER_ESP.
        IA32_SYSENTER_ESP = 0x6824,
        /// Guest IA32_SYSENTER_EIP.
        IA32_SYSENTER_EIP = 0x6826,
        /// Guest IA32_S_CET.
        IA32_S_CET = 0x6828 if entry LOAD_CET,
        /// Guest SSP.
        SSP = 0x682a if entry LOAD_CET,
        /// Guest IA32_INTERRUPT_SSP_TABLE_ADDR.
        IA32_INTERRUPT_SSP_TABLE_ADDR = 0x682c if entry LOAD_CET,
    }
    /// 64-bit read-only data field.
    VmcsReadOnly64: u64, ReadOnly {
        /// Guest-physical address of an EPT violation or misconfiguration.
        GUEST_PHYSICAL_ADDR = 0x2400 if secondary EPT,
    }
    /// 32-bit read-only data fields.
    VmcsReadOnly32: u32, ReadOnly {
        /// VM-instruction error.
        VM_INSTRUCTION_ERROR = 0x4400,
        /// Exit reason.
        EXIT_REASON = 0x4402,
        /// VM-exit interruption information.
        VMEXIT_INTERRUPTION_INFO = 0x4404,
        /// VM-exit interruption error code.
        VMEXIT_INTERRUPTION_ERR_CODE = 0x4406,
        /// IDT-vectoring information.
        IDT_VECTORING_INFO = 0x4408,
        /// IDT-vectoring error code.
        IDT_VECTORING_ERR_CODE = 0x440a,
        /// VM-exit instruction length in bytes.
        VMEXIT_INSTRUCTION_LEN = 0x440c,
        /// VM-exit instruction information.
        VMEXIT_INSTRUCTION_INFO = 0x440e,
    }
    /// Natural-width read-only data fields.
    VmcsReadOnlyNW: usize, ReadOnly {
        /// Exit qualification.
        EXIT_QUALIFICATION = 0x6400,
        /// I/O RCX.
        IO_RCX = 0x6402,
        /// I/O RSI.
        IO_RSI = 0x6404,
        /// I/O RDI.
        IO_RDI = 0x6406,
        /// I/O RIP.
        IO_RIP = 0x6408,
        /// Guest-linear address.
        GUEST_LINEAR_ADDR = 0x640a,
    }
}
