//! The interrupt descriptor table, the same for all processors, and where its vectors lead.

use core::{
    arch::global_asm,
    sync::atomic::{AtomicU64, Ordering},
};

use spin::{Mutex, Once};
use x86_64::{
    VirtAddr,
    instructions::{interrupts::without_interrupts, port::Port, tables::lidt},
    structures::DescriptorTablePointer,
};

use super::{exceptions, frame::Frame, lapic, segments::Stack, vectors::SPURIOUS_VECTOR};

const VECTORS: usize = 256;
const DEBUG: u64 = 1;
const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const MACHINE_CHECK: u64 = 18;
const FIRST_INTERRUPT: u64 = 32;

/// How often each vector came, on all processors.
static COUNTS: [AtomicU64; VECTORS] = [const { AtomicU64::new(0) }; VECTORS];

pub fn count(vector: u8) -> u64 {
    COUNTS[usize::from(vector)].load(Ordering::SeqCst)
}

/// Handles an interrupt that a VM exit took from the local APIC. The processor did not go through the table then.
pub fn dispatch(vector: u8) {
    COUNTS[usize::from(vector)].fetch_add(1, Ordering::SeqCst);
    if vector != SPURIOUS_VECTOR {
        lapic::end_of_interrupt();
    }
}

/// Who is called at each #DB, and may change the registers that the interrupted code goes on with.
static STEPPER: Mutex<Option<fn(&mut Frame)>> = Mutex::new(None);

/// Sets who is called at each #DB of this host, of which there are none otherwise.
pub fn set_stepper(stepper: Option<fn(&mut Frame)>) {
    without_interrupts(|| *STEPPER.lock() = stepper);
}

#[unsafe(no_mangle)]
extern "C" fn handle_vector(frame: &mut Frame) {
    let stepper = if frame.vector == DEBUG { *STEPPER.lock() } else { None };
    if let Some(stepper) = stepper {
        return stepper(frame);
    }
    match frame.vector {
        NMI => _ = COUNTS[NMI as usize].fetch_add(1, Ordering::SeqCst),
        FIRST_INTERRUPT.. => dispatch(frame.vector as u8),
        _ => exceptions::handle(frame),
    }
}

/// Every vector has 16 bytes of code: push its number, and a zero where the processor pushes no error code.
const STUB_SIZE: u64 = 16;

global_asm!(
    r#"
    .text
    .balign 16
    vector_stubs:
    .set vector, 0
    .rept 256
        .balign 16
        .if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21)
            push    0
        .endif
        push    vector
        jmp     vector_common
        .set vector, vector + 1
    .endr

    .balign 16
    vector_common:
        push    rax
        push    rbx
        push    rcx
        push    rdx
        push    rsi
        push    rdi
        push    rbp
        push    r8
        push    r9
        push    r10
        push    r11
        push    r12
        push    r13
        push    r14
        push    r15
        mov     rdi, rsp
        cld
        sub     rsp, 512                # the interrupted code may be using SSE registers
        fxsave64 [rsp]
        call    handle_vector
        fxrstor64 [rsp]
        add     rsp, 512
        pop     r15
        pop     r14
        pop     r13
        pop     r12
        pop     r11
        pop     r10
        pop     r9
        pop     r8
        pop     rbp
        pop     rdi
        pop     rsi
        pop     rdx
        pop     rcx
        pop     rbx
        pop     rax
        add     rsp, 16                 # vector, error code
        iretq
    "#
);

unsafe extern "C" {
    static vector_stubs: [u8; VECTORS * STUB_SIZE as usize];
}

/// A 64-bit interrupt gate.
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    offset_low: u16,
    selector: u16,
    /// Interrupt stack table index in the low byte, type and present bit in the high byte.
    options: u16,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

impl Gate {
    fn new(vector: u64) -> Self {
        const PRESENT_INTERRUPT_GATE: u16 = 0x8E00;
        const CODE_SELECTOR: u16 = 0x08;
        let address = (&raw const vector_stubs) as u64 + vector * STUB_SIZE;
        let stack = match vector {
            NMI => Stack::NonMaskable,
            DOUBLE_FAULT => Stack::DoubleFault,
            MACHINE_CHECK => Stack::MachineCheck,
            FIRST_INTERRUPT.. => Stack::Interrupt,
            _ => Stack::Exception,
        };
        Self {
            offset_low: address as u16,
            selector: CODE_SELECTOR,
            // The processor counts the stacks from 1; 0 means none.
            options: PRESENT_INTERRUPT_GATE | (stack as u16 + 1),
            offset_middle: (address >> 16) as u16,
            offset_high: (address >> 32) as u32,
            reserved: 0,
        }
    }
}

pub fn load_table() {
    static TABLE: Once<[Gate; VECTORS]> = Once::new();
    let table = TABLE.call_once(|| core::array::from_fn(|vector| Gate::new(vector as u64)));
    let pointer = DescriptorTablePointer { limit: (size_of_val(table) - 1) as u16, base: VirtAddr::from_ptr(table) };
    // SAFETY: every gate leads to a stub above, on a stack that `segments` set up, and the table lives for ever.
    unsafe { lidt(&pointer) };
}

/// The host uses the local APICs only. The legacy controllers still point where the firmware wanted: at exceptions.
pub fn mask_legacy_controllers() {
    for (command, first_vector, cascade) in [(0x20u16, 0x20u8, 4u8), (0xA0, 0x28, 2)] {
        let (mut command, mut data) = (Port::<u8>::new(command), Port::<u8>::new(command + 1));
        // SAFETY: initialises an interrupt controller that nobody uses.
        unsafe {
            command.write(0x11);
            data.write(first_vector);
            data.write(cascade);
            data.write(0x01);
            data.write(0xFF);
        }
    }
}
