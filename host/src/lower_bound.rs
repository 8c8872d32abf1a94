//! The lower bound of the bench: for each exit the shortest loop in assembly that saves the general registers, handles that exit
//! as it must be, and enters again. Nothing that a hypervisor needs beyond this one exit is in it.
//!
//! The crate makes the vCPUs and takes them to where their rounds begin; then their VMCSs get this loop's RIP and RSP as
//! the host's, and no MSR lists. The loop ends at the first exit that is not the row's.

use core::arch::{asm, naked_asm};

use axvcpu::AxArchVCpu;
use raw_cpuid::cpuid;
use x86_64::{instructions::interrupts, registers::xcontrol::XCr0};

use crate::{
    arch::vmcs::{vmread, vmwrite},
    bench::{
        self, BenchResult,
        callers::{CALLERS, Caller},
        guest::Guest,
        rows::{self, Row},
        ticks::Ticks,
    },
    config::BenchConfig,
    measured,
    output::console,
};

pub fn run(config: &BenchConfig) -> ! {
    measured::enable();
    for caller in CALLERS {
        for row in rows::ALL {
            if let Some(handler) = handler(row.exit, caller) {
                console::line(format_args!("bench {}: {}", caller.name(), row.exit));
                bench::report(measure(row, caller, handler, config));
            }
        }
    }
    bench::end()
}

/// Where VM exits lead.
type Handler = unsafe extern "C" fn();

fn measure(row: &Row, caller: Caller, handler: Handler, config: &BenchConfig) -> BenchResult<Ticks> {
    let mut guest = new_guest(row, config)?;
    let mut other = new_guest(row, config)?;
    let (mut frame, mut next) = (Frame::default(), Frame::default());
    if caller == Caller::Alternating {
        guest.leave_out_end_mark()?;
        other.leave_out_end_mark()?;
        next.take_over(&mut other, handler)?;
    }
    frame.take_over(&mut guest, handler)?;
    (frame.next, next.next) = (next.end(), frame.end());
    let xcr0 = XCr0::read();
    interrupts::without_interrupts(|| {
        // SAFETY: the first frame's VMCS is current, and all were launched.
        unsafe { enter(&mut frame, &mut next) };
    });
    // SAFETY: the value that was there before.
    unsafe { XCr0::write(xcr0) };
    guest.vcpu.unbind()?;
    if caller != Caller::Alternating {
        let stamps = guest.stamps()?;
        return Ticks::between(&stamps, &stamps);
    }
    other.vcpu.unbind()?;
    Ticks::between(&other.stamps()?, &guest.stamps()?)
}

fn new_guest(row: &Row, config: &BenchConfig) -> BenchResult<Guest> {
    let mut guest = Guest::new((row.program)(), config)?;
    (row.prepare)(&mut guest, config)?;
    Ok(guest)
}

/// What a handler finds above the registers that it saves: RSP points above `registers` at an exit.
#[repr(C)]
#[derive(Default)]
struct Frame {
    /// R15 first, RAX last, as [`save`] pushes them.
    registers: [u64; 15],
    vmcs: u64,
    /// The address in the frame of the next vCPU that RSP has at its exit.
    next: u64,
}

impl Frame {
    /// Takes the guest to its rounds, and its exits to the handler. Its VMCS stays the current one.
    fn take_over(&mut self, guest: &mut Guest, handler: Handler) -> BenchResult {
        guest.vcpu.bind()?;
        guest.start()?;
        let r = guest.vcpu.regs();
        self.registers =
            [r.r15, r.r14, r.r13, r.r12, r.r11, r.r10, r.r9, r.r8, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rcx, r.rax];
        // SAFETY: the guest's VMCS is current, and the crate does not enter it any more. The guest
        // does not repeat the OUT by which it is ready.
        unsafe {
            asm!("vmptrst [{}]", in(reg) &raw mut self.vmcs, options(nostack));
            vmwrite(GUEST_RIP, vmread(GUEST_RIP) + vmread(EXIT_INSTRUCTION_LENGTH));
            vmwrite(HOST_RIP, handler as usize as u64);
            vmwrite(HOST_RSP, self.end());
            for list in MSR_LISTS {
                vmwrite(list, 0);
            }
        }
        Ok(())
    }

    /// What RSP is at an exit.
    fn end(&self) -> u64 {
        (&raw const self.vmcs) as u64
    }
}

// SDM Vol. 3D, Appendix B, "Field Encoding in VMCS". The handlers have these and others as numbers.
const EXIT_INSTRUCTION_LENGTH: u64 = 0x440C;
const GUEST_RIP: u64 = 0x681E;
const HOST_RSP: u64 = 0x6C14;
const HOST_RIP: u64 = 0x6C16;
/// How many MSRs an exit stores and loads, and an entry loads.
const MSR_LISTS: [u64; 3] = [0x400E, 0x4010, 0x4014];

/// RSP of [`enter`]'s caller, where [`leave`] goes back to.
static mut CALLER_RSP: u64 = 0;

/// Enters the guest of the frame, and comes back with the first exit that its handler does not handle.
///
/// # Safety
///
/// The first frame was given to a VMCS that is current and launched; the second to one that is launched, if the handler
/// alternates.
#[unsafe(naked)]
unsafe extern "C" fn enter(first: &mut Frame, second: &mut Frame) {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rip + {caller}], rsp",
        "mov rsp, rdi",
        restore!(),
        "vmresume",
        "jmp {leave}",
        caller = sym CALLER_RSP,
        leave = sym leave,
    )
}

/// The end of the loop.
#[unsafe(naked)]
unsafe extern "C" fn leave() {
    naked_asm!(
        "mov rsp, [rip + {caller}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        caller = sym CALLER_RSP,
    )
}

macro_rules! save {
    () => {
        "push rax\npush rcx\npush rdx\npush rbx\npush rbp\npush rsi\npush rdi\npush r8\npush r9\npush r10\n\
         push r11\npush r12\npush r13\npush r14\npush r15"
    };
}

macro_rules! restore {
    () => {
        "pop r15\npop r14\npop r13\npop r12\npop r11\npop r10\npop r9\npop r8\npop rdi\npop rsi\npop rbp\n\
         pop rbx\npop rdx\npop rcx\npop rax"
    };
}
use restore;

/// The vCPU goes on, as the caller has it.
macro_rules! bound {
    () => {
        concat!(restore!(), "\nvmresume")
    };
}
macro_rules! bind_per_exit {
    () => {
        concat!("vmclear [rsp + 120]\nvmptrld [rsp + 120]\n", restore!(), "\nvmlaunch")
    };
}
macro_rules! alternating {
    () => {
        concat!("mov rsp, [rsp + 128]\nvmptrld [rsp]\nsub rsp, 120\n", restore!(), "\nvmresume")
    };
}

/// Completes the instruction: RIP and the instruction's length.
macro_rules! advance {
    () => {
        "mov eax, 0x681E\nmov esi, 0x440C\nvmread rdi, rax\nvmread rsi, rsi\nadd rdi, rsi\nvmwrite rax, rdi"
    };
}

/// Injects the guest's vector if RFLAGS.IF and the interruptibility state let it.
macro_rules! inject {
    () => {
        "mov eax, 0x6820\nvmread rdi, rax\ntest edi, 0x200\njz {leave}\n\
         mov eax, 0x4824\nvmread rdi, rax\ntest edi, edi\njnz {leave}\n\
         mov eax, 0x4016\nmov edi, 0x80000040\nvmwrite rax, rdi"
    };
}

/// `exit!(reason, lines)`: the handlers of one exit, for each caller. The guest's registers are still there where the lines
/// begin, but for RAX and RDI; saved, RAX is at [rsp + 112], RCX at 104, RDX at 96 and RBX at 88.
macro_rules! exit {
    ($reason:literal, [$($line:expr),*] $($operand:tt)*) => {
        [
            exit!(@ bound, $reason, [$($line),*] $($operand)*),
            exit!(@ bind_per_exit, $reason, [$($line),*] $($operand)*),
            exit!(@ alternating, $reason, [$($line),*] $($operand)*),
        ]
    };
    (@ $end:ident, $reason:literal, [$($line:expr),*] $(, $name:ident = sym $symbol:ident)?) => {{
        #[unsafe(naked)]
        unsafe extern "C" fn handler() {
            naked_asm!(
                save!(),
                "mov eax, 0x4402",
                "vmread rdi, rax",
                concat!("cmp edi, ", $reason),
                "jne {leave}",
                $($line,)*
                $end!(),
                "jmp {leave}",
                leave = sym leave,
                $($name = sym $symbol,)?
            )
        }
        handler as Handler
    }};
}

/// EAX, EBX, ECX and EDX of leaf 0, the only one that the bench's guest asks for.
static mut CPUID_TABLE: [u32; 4] = [0; 4];

/// None for an exit that nobody would write without a decoder of instructions or an allocator, and for what does not exit.
fn handler(exit: &str, caller: Caller) -> Option<Handler> {
    let handlers = match exit {
        rows::CPUID | rows::CPUID_DEFERRED => {
            let leaf = cpuid!(0);
            // SAFETY: no handler runs now.
            unsafe { CPUID_TABLE = [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx] };
            exit!(10, ["cmp dword ptr [rsp + 112], 0",
                "jne {leave}",
                "mov eax, [rip + {table}]",
                "mov [rsp + 112], rax",
                "mov eax, [rip + {table} + 4]",
                "mov [rsp + 88], rax",
                "mov eax, [rip + {table} + 8]",
                "mov [rsp + 104], rax",
                "mov eax, [rip + {table} + 12]",
                "mov [rsp + 96], rax",
                advance!()], table = sym CPUID_TABLE)
        }
        rows::RDMSR_EMULATED => exit!(
            31,
            [
                "cmp ecx, 0x277",
                "jne {leave}",
                "mov eax, 0x2804",
                "vmread rdi, rax",
                "mov eax, edi",
                "mov [rsp + 112], rax",
                "shr rdi, 32",
                "mov [rsp + 96], rdi",
                advance!()
            ]
        ),
        // Each byte is a memory type: 0, 1, 4, 5, 6 or 7.
        rows::WRMSR_EMULATED => exit!(
            32,
            [
                "cmp ecx, 0x277",
                "jne {leave}",
                "mov edi, [rsp + 112]",
                "shl rdx, 32",
                "or rdi, rdx",
                "mov rax, 0xF8F8F8F8F8F8F8F8",
                "test rdi, rax",
                "jnz {leave}",
                "mov rax, 0x0202020202020202",
                "and rax, rdi",
                "add rax, rax",
                "mov rdx, rdi",
                "not rdx",
                "test rax, rdx",
                "jnz {leave}",
                "mov eax, 0x2804",
                "vmwrite rax, rdi",
                advance!()
            ]
        ),
        rows::RDMSR => exit!(
            31,
            [
                "cmp ecx, 0x40000000",
                "jne {leave}",
                "mov qword ptr [rsp + 112], 0",
                "mov qword ptr [rsp + 96], 0",
                advance!()
            ]
        ),
        rows::WRMSR => exit!(32, ["cmp ecx, 0x40000000", "jne {leave}", advance!()]),
        rows::VMCALL | rows::VMCALL_DEFERRED => exit!(18, ["mov qword ptr [rsp + 112], 0", advance!()]),
        // Port, direction and size are in the exit qualification: OUT of a byte to 80H.
        rows::OUT | rows::OUT_DEFERRED => exit!(
            30,
            [
                "mov eax, 0x6400",
                "vmread rdi, rax",
                "and edi, 0xFFFF001F",
                "cmp edi, 0x800000",
                "jne {leave}",
                advance!()
            ]
        ),
        rows::IN => exit!(
            30,
            [
                "mov eax, 0x6400",
                "vmread rdi, rax",
                "and edi, 0xFFFF001F",
                "cmp edi, 0x800008",
                "jne {leave}",
                "mov byte ptr [rsp + 112], 0xFF",
                advance!()
            ]
        ),
        rows::INTERRUPT => {
            exit!(1, ["mov eax, 0x4404", "vmread rdi, rax", "mov edi, 0xFEE000B0", "mov dword ptr [rdi], 0"])
        }
        rows::INTERRUPT_INJECTED => {
            exit!(1, ["mov eax, 0x4404", "vmread rdi, rax", "mov edi, 0xFEE000B0", "mov dword ptr [rdi], 0", inject!()])
        }
        rows::PREEMPTION_TIMER => exit!(52, ["mov eax, 0x482E", "mov edi, 300", "vmwrite rax, rdi"]),
        rows::HLT => exit!(12, [advance!(), inject!()]),
        // XCR0, of a value that has x87 and, with AVX, SSE too; the host uses none of it.
        rows::XSETBV => exit!(
            55,
            [
                "test ecx, ecx",
                "jnz {leave}",
                "mov eax, [rsp + 112]",
                "cmp eax, 7",
                "jne {leave}",
                "test edx, edx",
                "jnz {leave}",
                "xsetbv",
                advance!()
            ]
        ),
        _ => return None,
    };
    let [bound, bind_per_exit, alternating] = handlers;
    Some(match caller {
        // Nothing is to be done for a vCPU that is kept loaded.
        Caller::Bound | Caller::KeptLoaded => bound,
        Caller::BindPerExit => bind_per_exit,
        Caller::Alternating => alternating,
    })
}
