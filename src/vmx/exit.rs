//! Exits as data: one variant for each basic exit reason that the SDM lists, with what that reason defines.
//!
//! [`VmxExitReason`] is the number, and every 16-bit number is one. [`VmExit`] is decoded from it on demand, and
//! reads only the exit-information fields that its variant holds (SDM Vol. 3C, 28.2 "Recording VM-Exit Information and
//! Updating VM-Entry Control Fields", and appendix C "VMX Basic Exit Reasons").

mod decode;
mod operand;

use core::fmt;

use axaddrspace::{GuestPhysAddr, GuestVirtAddr};

pub(crate) use self::decode::ExitFields;
pub use self::operand::{MemoryOperand, Operand};
use super::definitions::VmxExitReason;
use super::exit_info::{ApicAccessExitInfo, CrAccess, VmxIoExitInfo};
use crate::ept::EptViolation;
use crate::rules::interruption::VmxInterruptInfo;

/// Why the guest exited, with what the exit says. [`VmxVcpu::exit`](crate::VmxVcpu::exit) gives it.
///
/// The number of each variant is the basic exit reason (SDM Vol. 3D, Appendix C "VMX Basic Exit Reasons"). The format `{:x?}` prints
/// all its numbers in hexadecimal.
#[doc(alias("vmexit", "exit reason"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmExit {
    /// 0: an exception that the exception bitmap selects, or an NMI.
    ExceptionOrNmi(ExceptionExit),
    /// 1: an external interrupt, acknowledged: the host has to dispatch its vector.
    ExternalInterrupt {
        /// 0 to 255.
        vector: u8,
    },
    /// 2: a fault while the guest was delivering a double fault. A processor shuts down here.
    TripleFault,
    /// 3: an INIT signal arrived.
    Init,
    /// 4: a start-up IPI arrived for a guest in the wait-for-SIPI state.
    StartupIpi {
        /// The guest starts at this number times 4096.
        vector: u8,
    },
    /// 5: an SMI right after an I/O instruction, under dual-monitor treatment.
    IoSmi,
    /// 6: any other SMI, under dual-monitor treatment.
    OtherSmi,
    /// 7: the guest can take an external interrupt.
    InterruptWindow,
    /// 8: the guest can take an NMI.
    NmiWindow,
    /// 9: the guest switches tasks by hardware. Nothing of the switch has been done yet.
    TaskSwitch(TaskSwitch),
    /// 10: CPUID.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
    },
    /// 11: GETSEC.
    Getsec {
        /// EAX.
        leaf: u32,
    },
    /// 12: HLT.
    Hlt,
    /// 13: INVD.
    Invd,
    /// 14: INVLPG.
    Invlpg {
        /// Linear address.
        address: GuestVirtAddr,
    },
    /// 15: RDPMC.
    Rdpmc {
        /// ECX.
        counter: u32,
    },
    /// 16: RDTSC.
    Rdtsc,
    /// 17: RSM.
    Rsm,
    /// 18: VMCALL.
    Vmcall,
    /// 19, 21, 22, 27: an instruction that takes the address of a VMX region in memory: VMCLEAR, VMPTRLD, VMPTRST, VMXON.
    VmxRegion {
        /// Which of them.
        instruction: VmxExitReason,
        /// Where the address is.
        operand: MemoryOperand,
    },
    /// 20: VMLAUNCH.
    Vmlaunch,
    /// 23: VMREAD.
    Vmread {
        /// General register that holds the field's encoding.
        field: u8,
        /// Where the value goes.
        operand: Operand,
    },
    /// 24: VMRESUME.
    Vmresume,
    /// 25: VMWRITE.
    Vmwrite {
        /// General register that holds the field's encoding.
        field: u8,
        /// Where the value comes from.
        operand: Operand,
    },
    /// 26: VMXOFF.
    Vmxoff,
    /// 28: MOV to or from a control register, CLTS or LMSW.
    CrAccess(CrAccess),
    /// 29: MOV to or from a debug register.
    DrAccess {
        /// 0 to 7.
        dr: u8,
        /// General register.
        gpr: u8,
        /// MOV from the debug register.
        is_read: bool,
    },
    /// 30: IN, OUT, INS or OUTS.
    Io(VmxIoExitInfo),
    /// 31: RDMSR.
    Rdmsr {
        /// ECX.
        msr: u32,
    },
    /// 32: WRMSR.
    Wrmsr {
        /// ECX.
        msr: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// 33: the entry failed: the guest-state area did not pass its checks.
    InvalidGuestState {
        /// 2 for PDPTEs, 3 for an NMI that cannot be injected, 4 for the VMCS link pointer, else 0.
        qualification: u64,
    },
    /// 34: the entry failed: an MSR could not be loaded.
    MsrLoadFailure {
        /// Number of the entry in the MSR-load area, from 1.
        entry: u64,
    },
    /// 36: MWAIT.
    Mwait {
        /// The address range that MONITOR set up was armed.
        armed: bool,
    },
    /// 37: the monitor trap flag: one instruction was executed.
    MonitorTrapFlag,
    /// 39: MONITOR.
    Monitor,
    /// 40: PAUSE, or a loop of them that lasted too long.
    Pause,
    /// 41: the entry failed: a machine check happened during it.
    MachineCheckDuringEntry,
    /// 43: the guest's TPR went below the TPR threshold.
    TprBelowThreshold,
    /// 44: an access to the APIC-access page; none for an access type that the SDM does not define.
    ApicAccess(Option<ApicAccessExitInfo>),
    /// 45: EOI virtualization for a vector that the EOI-exit bitmap selects.
    VirtualizedEoi {
        /// 0 to 255.
        vector: u8,
    },
    /// 46: LGDT, LIDT, SGDT or SIDT.
    GdtrIdtr(DescriptorTableAccess<MemoryOperand>),
    /// 47: LLDT, LTR, SLDT or STR.
    LdtrTr(DescriptorTableAccess<Operand>),
    /// 48: an access that the EPT does not allow.
    EptViolation {
        /// Guest-physical address.
        address: GuestPhysAddr,
        /// Linear address, where the access had one. Whether the access was to what it translates to, or to a paging
        /// structure on the way, says [`EptViolation::TRANSLATED`].
        linear_address: Option<GuestVirtAddr>,
        /// The access, and what the EPT would have allowed.
        violation: EptViolation,
    },
    /// 49: an EPT entry that the processor cannot use.
    EptMisconfiguration {
        /// Guest-physical address of the access.
        address: GuestPhysAddr,
    },
    /// 50, 53, 58: INVEPT, INVVPID or INVPCID.
    Invalidate {
        /// Which of them.
        instruction: VmxExitReason,
        /// General register that holds the type of invalidation.
        kind: u8,
        /// Where the descriptor is.
        descriptor: MemoryOperand,
    },
    /// 51: RDTSCP.
    Rdtscp,
    /// 52: the VMX-preemption timer counted down to zero.
    PreemptionTimer,
    /// 54: WBINVD or WBNOINVD.
    Wbinvd,
    /// 55: XSETBV.
    Xsetbv {
        /// ECX: number of the register.
        register: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// 56: a write to the virtual-APIC page that software must finish.
    ApicWrite {
        /// Offset in the page, in bytes.
        offset: u16,
    },
    /// 57, 61: RDRAND or RDSEED.
    Random {
        /// Which of them.
        instruction: VmxExitReason,
        /// General register.
        gpr: u8,
        /// Bytes: 2, 4 or 8.
        size: u8,
    },
    /// 59: VMFUNC.
    Vmfunc {
        /// EAX.
        function: u32,
    },
    /// 60: ENCLS.
    Encls {
        /// EAX.
        leaf: u32,
    },
    /// 62: the page-modification log has no free entry.
    PmlFull,
    /// 63, 64: XSAVES or XRSTORS of a component that the XSS-exiting bitmap selects.
    SupervisorState {
        /// Which of them.
        instruction: VmxExitReason,
        /// The area.
        area: MemoryOperand,
    },
    /// 65: PCONFIG.
    Pconfig {
        /// EAX.
        leaf: u32,
    },
    /// 66: a sub-page permission table has no entry for the access, or one that the processor cannot use.
    SubPagePermission {
        /// Guest-physical address.
        address: GuestPhysAddr,
        /// Linear address, where the access had one.
        linear_address: Option<GuestVirtAddr>,
        /// A missing entry rather than one with reserved bits.
        is_miss: bool,
    },
    /// 67, 68: UMWAIT or TPAUSE.
    UserWait {
        /// Which of them.
        instruction: VmxExitReason,
        /// General register with the wanted state of power saving.
        gpr: u8,
        /// EDX:EAX: the TSC value that ends the wait.
        until: u64,
    },
    /// 69: LOADIWKEY.
    Loadiwkey,
    /// 70: ENCLV.
    Enclv {
        /// EAX.
        leaf: u32,
    },
    /// 72: ENCQMD whose PASID has no translation.
    EnqcmdPasid,
    /// 73: ENQCMDS whose PASID has no translation.
    EnqcmdsPasid,
    /// 74: the guest acquired a bus lock.
    BusLock,
    /// 75: no instruction boundary for longer than the instruction timeout allows.
    InstructionTimeout {
        /// The state in the VMCS cannot be relied on.
        context_invalid: bool,
    },
    /// 76: SEAMCALL.
    Seamcall,
    /// 77: TDCALL.
    Tdcall,
    /// 78 to 81, 84, 85: RDMSRLIST, WRMSRLIST, URDMSR, UWRMSR, and the forms of RDMSR and WRMSRNS with the number in the
    /// instruction.
    MsrAccess {
        /// Which of them.
        instruction: VmxExitReason,
        /// The MSR.
        msr: u32,
    },
    /// Any other number, with the exit qualification.
    Unknown {
        /// Basic exit reason.
        reason: VmxExitReason,
        /// Exit qualification.
        qualification: u64,
    },
}

/// An exception that exited, or an NMI. Debug output has the debug conditions in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ExceptionExit {
    /// Vector, type and error code.
    pub event: VmxInterruptInfo,
    /// Of a page fault: the linear address that CR2 would get. The guest's CR2 has not changed.
    pub page_fault_address: Option<GuestVirtAddr>,
    /// Of a debug exception: the conditions that DR6 would show. The guest's DR6 has not changed.
    pub debug_conditions: Option<u64>,
    /// Of INT1, INT3 and INTO: bytes of the instruction.
    pub instruction_length: Option<u32>,
}

impl fmt::Debug for ExceptionExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, page_fault_address, debug_conditions, instruction_length } = self;
        f.debug_struct("ExceptionExit")
            .field("event", event)
            .field("page_fault_address", page_fault_address)
            .field("debug_conditions", &debug_conditions.map(Hex))
            .field("instruction_length", instruction_length)
            .finish()
    }
}

/// A number whose debug output is hexadecimal.
struct Hex(u64);

impl fmt::Debug for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What started a task switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitchSource {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// An event that goes through a task gate of the IDT.
    TaskGate,
}

/// A task switch by hardware (SDM Vol. 3C, 28.4.2 "Treatment of Task Switches").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// Selector of the new task's TSS.
    pub selector: u16,
    /// What started it.
    pub source: TaskSwitchSource,
    /// The event that was being delivered, where there is one: with [`TaskSwitchSource::TaskGate`].
    pub event: Option<VmxInterruptInfo>,
    /// Bytes of the instruction, where one started it: CALL, IRET, JMP, INT n, INT1, INT3, INTO.
    pub instruction_length: Option<u32>,
}

/// Which register a descriptor-table instruction reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorTable {
    /// GDTR.
    Gdtr,
    /// IDTR.
    Idtr,
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

/// An instruction that loads or stores the address of a descriptor table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorTableAccess<T> {
    /// The register.
    pub table: DescriptorTable,
    /// It loads the register.
    pub is_load: bool,
    /// Where the value comes from, or goes to.
    pub operand: T,
}
