//! The world switch: from the host into the guest and back.
//!
//! # Who switches what
//!
//! | state | switched by | when | cost |
//! |---|---|---|---|
//! | RIP, RSP, RFLAGS, CR0, CR3, CR4, segment registers, GDTR, IDTR, DR7, DEBUGCTL, SYSENTER MSRs, EFER, PAT | the VMCS | every entry and exit | none of its own |
//! | RAX to R15 but RSP | the code below | every entry and exit | 15 loads, 15 stores |
//! | the host's RBX, RBP, R12 to R15 | the code below; its caller saves the rest by the ABI | every entry and exit | 6 pushes, 6 pops |
//! | CR2 | the code below | read on both ways, written only where host and guest differ | 2 reads |
//! | limits of GDTR and IDTR, which an exit sets to FFFFH | the code below | every exit, unless the host's are FFFFH | LGDT, LIDT |
//! | x87, SSE, AVX, AVX-512, PKRU, XCR0 | the code below (`FpuPolicy::EveryExit`), or at bind and unbind | see [`crate::vcpu::parts::xstate`] | XSAVEOPT and XRSTOR (or XSAVE, or FXSAVE and FXRSTOR), twice; XSETBV where XCR0 differs |
//! | STAR, LSTAR, FMASK, KERNEL_GS_BASE, TSC_AUX, XSS | MSR areas ([`super::msr_areas`]) | only once the guest can use them | one area entry each |
//! | SPEC_CTRL | MSR areas | only once the guest has written it | one area entry, and that of the group before it |
//! | DR0 to DR3 | [`crate::vcpu::parts::debug`] | only while the guest has a breakpoint set | 4 moves each way |
//! | DR6, CR8, CSTAR | emulated by the vCPU: the guest's accesses exit, and the processor needs none of them | never | none |
//! | branch predictors | IBPB by [`crate::vcpu::speculation`], before the first entry after another guest; the rest by the code below, after exits | only on processors that say so | one WRMSR; 32 calls; WRMSR of SPEC_CTRL under a host with old IBRS; 200 jumps |
//! | buffers and level-1 data cache | the code below, last before an entry | only on processors that say so | VERW; WRMSR of FLUSH_CMD |
//! | the host's DR7, DEBUGCTL, LDTR and TR limit, which an exit resets | [`crate::vcpu::parts::debug`], [`crate::vmx::host`] | only where the host's differ from what an exit leaves | none otherwise |
//!
//! # Shape
//!
//! [`vmx_launch`] and [`vmx_resume`] are ordinary functions of the C ABI to their caller. They push the registers that the ABI
//! preserves and a pointer to the [`SwitchContext`], write the stack pointer to the VMCS (only when it moved), load the
//! guest's registers and enter. If the entry is refused, execution continues after the instruction, with the guest's
//! registers loaded but on the host's stack. If the guest ran, the processor continues at [`vmx_exit`], or at
//! [`vmx_exit_to_tables`] or [`vmx_exit_to_work`], where GDTR and IDTR, or barriers and extended state come first, on the
//! same stack. Both ways end in one `ret` to the caller, which pairs with its `call`, so the return predictor predicts it.
//!
//! The processor clears RFLAGS at an exit but for bit 1: the direction flag is clear and interrupts are off.
//! The caller turns them off before the entry too, so that nothing comes between the check that the VMCS is current
//! and its use.

mod pieces;

use core::arch::naked_asm;
use core::mem::offset_of;

use self::pieces::{raise_entry_barriers, raise_exit_barriers, reload_tables, switch_xstate};
use crate::msr::Msr;
use crate::regs::GeneralRegisters;
use crate::vcpu::parts::fpu::{XStateSwitch, method};
use crate::vmx::host::{PerCpuHostState, TableRegister};
use crate::vmx::vmcs::{VmcsHostNW, VmcsReadOnly32};

/// What the code below reads and writes. It lives in the vCPU and is found through the pointer that is given at each
/// entry, so a vCPU may be moved in memory between two runs.
#[repr(C)]
#[derive(Default)]
pub(crate) struct SwitchContext {
    /// The guest's general registers; RSP is in the VMCS.
    pub(crate) guest: GeneralRegisters,
    /// The guest's CR2.
    pub(crate) guest_cr2: u64,
    host_cr2: u64,
    /// What HOST_RSP holds in the VMCS.
    host_rsp: u64,
    /// Whether GDTR and IDTR must be loaded again after an exit.
    reload_tables: u64,
    /// Whether LDTR or TR must be loaded again after an exit, by compiled code.
    reload_segments: u64,
    /// What there is to do right before an entry, and right after an exit: bits of [`barrier`], and [`SWITCH_XSTATE`].
    entry_work: u64,
    exit_work: u64,
    /// The host's IA32_SPEC_CTRL, for [`barrier::WRITE_SPEC_CTRL`].
    host_spec_ctrl: u64,
    /// A selector that VERW can look at: the host's SS.
    verw_selector: u16,
    gdtr: TableRegister,
    idtr: TableRegister,
    /// The extended state, as [`crate::vcpu::parts::xstate`] wants it switched here.
    pub(crate) xstate: XStateSwitch,
}

/// The barriers of [`crate::vcpu::speculation`] that the code below raises.
pub(crate) mod barrier {
    /// Before an entry: VERW, and IA32_FLUSH_CMD.
    pub(crate) const CLEAR_BUFFERS: u64 = 1 << 0;
    pub(crate) const FLUSH_L1D: u64 = 1 << 1;
    /// After an exit: the host's SPEC_CTRL, return stack and branch history.
    pub(crate) const WRITE_SPEC_CTRL: u64 = 1 << 0;
    pub(crate) const FILL_RETURN_STACK: u64 = 1 << 1;
    pub(crate) const CLEAR_HISTORY: u64 = 1 << 2;
}

/// Beside the bits of [`barrier`]: the extended state is switched.
const SWITCH_XSTATE: u64 = 1 << 7;

impl SwitchContext {
    /// Loads the descriptor-table registers of the processor that the vCPU was bound to.
    pub(crate) fn set_host_tables(&mut self, host: &PerCpuHostState) {
        let (gdtr, idtr) = host.descriptor_tables();
        self.reload_segments = u64::from(host.exit_changes_segments());
        // mutant survives: Bochs has no buffers, and VERW takes any selector
        self.verw_selector = x86::segmentation::ss().bits();
        self.reload_tables = u64::from(!gdtr.survives_exit() || !idtr.survives_exit());
        (self.gdtr, self.idtr) = (gdtr, idtr);
    }

    /// Says which barriers are raised here: bits of [`barrier`].
    pub(crate) fn set_barriers(&mut self, at_entry: u64, at_exit: u64) {
        (self.entry_work, self.exit_work) = (at_entry, at_exit);
        self.set_xstate_method(self.xstate.method);
    }

    /// Says how the extended state is switched here: one of the constants of [`method`].
    #[cold]
    pub(crate) fn set_xstate_method(&mut self, method: u64) {
        self.xstate.method = method;
        let bit = if method == method::NONE { 0 } else { SWITCH_XSTATE };
        self.entry_work = self.entry_work & !SWITCH_XSTATE | bit;
        self.exit_work = self.exit_work & !SWITCH_XSTATE | bit;
    }

    /// Reads the host's IA32_SPEC_CTRL, where that is to be written after each exit.
    pub(crate) fn load_spec_ctrl(&mut self) {
        if self.writes_spec_ctrl() {
            self.host_spec_ctrl = Msr::IA32_SPEC_CTRL.read();
        }
    }

    /// Whether it is written after each exit.
    pub(crate) fn writes_spec_ctrl(&self) -> bool {
        self.exit_work & barrier::WRITE_SPEC_CTRL != 0
    }

    /// Whether an exit leaves LDTR or TR different from the host's.
    #[inline(always)]
    pub(crate) fn reload_segments(&self) -> bool {
        self.reload_segments != 0
    }

    /// Forgets where the VMCS has the host's stack, because it is another VMCS, or may be.
    pub(crate) fn forget_host_stack(&mut self) {
        self.host_rsp = 0;
    }

    /// Where an exit continues, for HOST_RIP.
    pub(crate) fn exit_address(&self) -> usize {
        let exit: unsafe extern "C" fn() = match (self.exit_work, self.reload_tables) {
            (0, 0) => vmx_exit,
            (0, _) => vmx_exit_to_tables,
            _ => vmx_exit_to_work,
        };
        exit as *const () as usize
    }
}

/// What [`vmx_launch`] and [`vmx_resume`] return where the processor refused the entry: no exit-reason field has these bits.
pub(crate) const REFUSED: u32 = u32::MAX;

/// Enters the guest by VMLAUNCH. Returns the exit-reason field after an exit, and [`REFUSED`] if the processor refused.
///
/// # Safety
/// The VMCS of this context is current, clear, and has HOST_RIP set to [`SwitchContext::exit_address`]; interrupts are
/// off; nothing of the guest's memory overlaps memory that the host uses for itself.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vmx_launch(context: *mut SwitchContext) -> u32 {
    enter!("vmlaunch")
}

/// Enters the guest by VMRESUME, for a VMCS that is launched. Returns what [`vmx_launch`] returns.
///
/// # Safety
/// As for [`vmx_launch`], but the VMCS is launched.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn vmx_resume(context: *mut SwitchContext) -> u32 {
    enter!("vmresume")
}

/// Where the processor continues after an exit: on the stack that [`vmx_launch`] or [`vmx_resume`] left, with the
/// guest's registers still loaded.
#[unsafe(naked)]
unsafe extern "C" fn vmx_exit() {
    exit!()
}

/// [`vmx_exit`] where the limits of the host's descriptor tables are not FFFFH, which an exit leaves.
#[unsafe(naked)]
unsafe extern "C" fn vmx_exit_to_tables() {
    exit!(
        reload_tables!();
        gdtr = const offset_of!(SwitchContext, gdtr),
        idtr = const offset_of!(SwitchContext, idtr),
    )
}

/// [`vmx_exit`] where there is work right after an exit: barriers, or the extended state, which must be saved from the registers
/// before compiled code, which may use them, runs. It has an address of its own in place of a test, so that a processor cannot
/// speculate past it.
#[unsafe(naked)]
unsafe extern "C" fn vmx_exit_to_work() {
    exit!(
        raise_exit_barriers!(),
        switch_xstate!("guest", "host"),
        "cmp byte ptr [rdi + {reload_tables}], 0",
        "je 52f",
        reload_tables!(),
        "52:";
        reload_tables = const offset_of!(SwitchContext, reload_tables),
        gdtr = const offset_of!(SwitchContext, gdtr),
        idtr = const offset_of!(SwitchContext, idtr),
        exit_work = const offset_of!(SwitchContext, exit_work),
        host_spec_ctrl = const offset_of!(SwitchContext, host_spec_ctrl),
        spec_ctrl = const Msr::IA32_SPEC_CTRL.number(),
        write_spec_ctrl = const barrier::WRITE_SPEC_CTRL,
        fill_return_stack = const barrier::FILL_RETURN_STACK,
        clear_history = const barrier::CLEAR_HISTORY,
        method = const offset_of!(SwitchContext, xstate.method),
        fxsave = const method::FXSAVE,
        xsaveopt = const method::XSAVEOPT,
        guest_area = const offset_of!(SwitchContext, xstate.guest_area),
        host_area = const offset_of!(SwitchContext, xstate.host_area),
        all_xcr0 = const offset_of!(SwitchContext, xstate.all_xcr0),
        guest_xcr0 = const offset_of!(SwitchContext, xstate.guest_xcr0),
        host_xcr0 = const offset_of!(SwitchContext, xstate.host_xcr0),
    )
}

/// The body of both.
macro_rules! exit {
    ($($work:expr),* $(; $($constants:tt)*)?) => {
        naked_asm!(
            // [rsp] is the context. All registers are the guest's, so one must be parked.
            "push rdi",
            "mov rdi, [rsp + 8]",
            "mov [rdi + {rax}], rax",
            "mov [rdi + {rcx}], rcx",
            "mov [rdi + {rdx}], rdx",
            "mov [rdi + {rbx}], rbx",
            "mov [rdi + {rbp}], rbp",
            "mov [rdi + {rsi}], rsi",
            "pop qword ptr [rdi + {rdi}]",
            "mov [rdi + {r8}], r8",
            "mov [rdi + {r9}], r9",
            "mov [rdi + {r10}], r10",
            "mov [rdi + {r11}], r11",
            "mov [rdi + {r12}], r12",
            "mov [rdi + {r13}], r13",
            "mov [rdi + {r14}], r14",
            "mov [rdi + {r15}], r15",
            $($work,)*
            "mov rax, cr2",
            "mov [rdi + {guest_cr2}], rax",
            "cmp rax, [rdi + {host_cr2}]",
            "jne 58f",
            "53:",
            "mov ecx, {exit_reason}",
            "vmread rax, rcx",
            "pop rdi",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "ret",
            "58:",
            "mov rcx, [rdi + {host_cr2}]",
            "mov cr2, rcx",
            "jmp 53b",
            rax = const register(0), rcx = const register(1), rdx = const register(2), rbx = const register(3),
            rbp = const register(5), rsi = const register(6), rdi = const register(7), r8 = const register(8),
            r9 = const register(9), r10 = const register(10), r11 = const register(11), r12 = const register(12),
            r13 = const register(13), r14 = const register(14), r15 = const register(15),
            exit_reason = const VmcsReadOnly32::EXIT_REASON.encoding(),
            guest_cr2 = const offset_of!(SwitchContext, guest_cr2),
            host_cr2 = const offset_of!(SwitchContext, host_cr2),
            $($($constants)*)?
        )
    };
}
use exit;

/// The body of [`vmx_launch`] and [`vmx_resume`].
macro_rules! enter {
    ($instruction:literal) => {
        naked_asm!(
            "push rbp",
            "push rbx",
            "push r12",
            "push r13",
            "push r14",
            "push r15",
            "push rdi",
            "cmp [rdi + {host_rsp}], rsp",
            "jne 46f",
            "41:",
            "mov rax, cr2",
            "mov [rdi + {host_cr2}], rax",
            "cmp rax, [rdi + {guest_cr2}]",
            "jne 47f",
            "42:",
            // Nothing, or only VERW, which many processors want, or more.
            "cmp byte ptr [rdi + {entry_work}], {clear_buffers}",
            "jb 43f",
            "jne 48f",
            // mutant survives: Bochs has no buffers
            "verw [rdi + {verw_selector}]",
            "43:",
            "mov rax, [rdi + {rax}]",
            "mov rcx, [rdi + {rcx}]",
            "mov rdx, [rdi + {rdx}]",
            "mov rbx, [rdi + {rbx}]",
            "mov rbp, [rdi + {rbp}]",
            "mov rsi, [rdi + {rsi}]",
            "mov r8, [rdi + {r8}]",
            "mov r9, [rdi + {r9}]",
            "mov r10, [rdi + {r10}]",
            "mov r11, [rdi + {r11}]",
            "mov r12, [rdi + {r12}]",
            "mov r13, [rdi + {r13}]",
            "mov r14, [rdi + {r14}]",
            "mov r15, [rdi + {r15}]",
            "mov rdi, [rdi + {rdi}]",
            $instruction,
            // The processor refused. The host's CR2 and extended state go back as after an exit; which refusal it was
            // the caller asks the processor.
            "mov rdi, [rsp]",
            "mov rcx, [rdi + {host_cr2}]",
            "mov cr2, rcx",
            switch_xstate!("guest", "host"),
            "49:",
            "pop rdi",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "mov eax, {refused}",
            "ret",
            "46:",
            "mov eax, {host_rsp_encoding}",
            "vmwrite rax, rsp",
            // mutant survives: without a current VMCS the entry itself is refused, too
            "jbe 49b",
            // mutant survives: the next entry writes it again: slower, not wrong
            "mov [rdi + {host_rsp}], rsp",
            "jmp 41b",
            "47:",
            "mov rcx, [rdi + {guest_cr2}]",
            "mov cr2, rcx",
            "jmp 42b",
            "48:",
            switch_xstate!("host", "guest"),
            // After everything that touches the host's memory: what follows touches the guest's values only.
            raise_entry_barriers!(),
            "jmp 43b",
            rax = const register(0), rcx = const register(1), rdx = const register(2), rbx = const register(3),
            rbp = const register(5), rsi = const register(6), rdi = const register(7), r8 = const register(8),
            r9 = const register(9), r10 = const register(10), r11 = const register(11), r12 = const register(12),
            r13 = const register(13), r14 = const register(14), r15 = const register(15),
            entry_work = const offset_of!(SwitchContext, entry_work),
            refused = const REFUSED,
            clear_buffers = const barrier::CLEAR_BUFFERS,
            flush_l1d = const barrier::FLUSH_L1D,
            flush_cmd = const Msr::IA32_FLUSH_CMD.number(),
            verw_selector = const offset_of!(SwitchContext, verw_selector),
            host_rsp = const offset_of!(SwitchContext, host_rsp),
            host_rsp_encoding = const VmcsHostNW::RSP.encoding(),
            guest_cr2 = const offset_of!(SwitchContext, guest_cr2),
            host_cr2 = const offset_of!(SwitchContext, host_cr2),
            method = const offset_of!(SwitchContext, xstate.method),
            fxsave = const method::FXSAVE,
        xsaveopt = const method::XSAVEOPT,
            guest_area = const offset_of!(SwitchContext, xstate.guest_area),
            host_area = const offset_of!(SwitchContext, xstate.host_area),
            all_xcr0 = const offset_of!(SwitchContext, xstate.all_xcr0),
            guest_xcr0 = const offset_of!(SwitchContext, xstate.guest_xcr0),
            host_xcr0 = const offset_of!(SwitchContext, xstate.host_xcr0),
        )
    };
}
use enter;

/// Offset of a general register, by its number, in the context.
const fn register(index: usize) -> usize {
    offset_of!(SwitchContext, guest) + index * 8
}
