//! GDT with a TSS, and an IDT: what x86_vcpu wants of a host.
//!
//! - TR must hold a TSS. A VM exit loads it, and a VMCS cannot have the null selector there.
//! - NMI and machine check need handlers: they come while a guest runs, too, and are then delivered to the host.
//!
//! The boot sector's GDT has no TSS. A processor needs a GDT and a TSS of its own; here is only one processor.

use core::arch::naked_asm;

use spin::Lazy;
use x86_64::{
    VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, FS, GS, SS, Segment},
        tables::load_tss,
    },
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        idt::InterruptDescriptorTable,
        tss::TaskStateSegment,
    },
};

use crate::{machine, timer};

/// Every vector has a stack of its own by the interrupt stack table. Precompiled core may keep data below its stack pointer
/// (the red zone), which a handler on the same stack would overwrite.
#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

const STACK_SIZE: usize = 16 * 1024;
static mut STACKS: [Stack; 3] = [const { Stack([0; STACK_SIZE]) }; 3];
const INTERRUPT_STACK: u16 = 0;
const NMI_STACK: u16 = 1;
const FAULT_STACK: u16 = 2;

static TASK: Lazy<TaskStateSegment> = Lazy::new(|| {
    let mut task = TaskStateSegment::new();
    for index in [INTERRUPT_STACK, NMI_STACK, FAULT_STACK] {
        let base = (&raw const STACKS).addr() as u64;
        task.interrupt_stack_table[usize::from(index)] =
            VirtAddr::new(base + (u64::from(index) + 1) * size_of::<Stack>() as u64);
    }
    task
});

struct Table {
    gdt: GlobalDescriptorTable,
    code: SegmentSelector,
    data: SegmentSelector,
    task: SegmentSelector,
}

static SEGMENTS: Lazy<Table> = Lazy::new(|| {
    let mut gdt = GlobalDescriptorTable::new();
    Table {
        code: gdt.append(Descriptor::kernel_code_segment()),
        data: gdt.append(Descriptor::kernel_data_segment()),
        task: gdt.append(Descriptor::tss_segment(&TASK)),
        gdt,
    }
});

static INTERRUPTS: Lazy<InterruptDescriptorTable> = Lazy::new(|| {
    let mut idt = InterruptDescriptorTable::new();
    let address = |handler: unsafe extern "C" fn()| VirtAddr::new(handler as usize as u64);
    // SAFETY: each handler is entered as an interrupt is, ends with IRETQ or never, and has a stack in the TSS.
    unsafe {
        idt.non_maskable_interrupt.set_handler_addr(address(non_maskable)).set_stack_index(NMI_STACK);
        idt.machine_check.set_handler_addr(address(machine_check)).set_stack_index(FAULT_STACK);
        idt.invalid_opcode.set_handler_addr(address(fault)).set_stack_index(FAULT_STACK);
        idt.double_fault.set_handler_addr(address(fault)).set_stack_index(FAULT_STACK);
        idt.general_protection_fault.set_handler_addr(address(fault_with_code)).set_stack_index(FAULT_STACK);
        idt.page_fault.set_handler_addr(address(fault_with_code)).set_stack_index(FAULT_STACK);
        idt[timer::VECTOR].set_handler_addr(address(timer::interrupt)).set_stack_index(INTERRUPT_STACK);
        idt[timer::SPURIOUS_VECTOR].set_handler_addr(address(timer::spurious)).set_stack_index(INTERRUPT_STACK);
    }
    idt
});

/// To be called before VMX is enabled: x86_vcpu reads GDTR, IDTR and TR then, and knows the processor by its GDT and TSS.
pub fn load() {
    SEGMENTS.gdt.load();
    // SAFETY: the selectors are those of the table just loaded, which lives for ever.
    unsafe {
        CS::set_reg(SEGMENTS.code);
        SS::set_reg(SEGMENTS.data);
        DS::set_reg(SEGMENTS.data);
        ES::set_reg(SEGMENTS.data);
        FS::set_reg(SEGMENTS.data);
        GS::set_reg(SEGMENTS.data);
        load_tss(SEGMENTS.task);
    }
    INTERRUPTS.load();
}

/// An NMI, also one that came while the guest ran. A kernel asks here who sent it (a watchdog, a performance counter).
#[unsafe(naked)]
unsafe extern "C" fn non_maskable() {
    naked_asm!("iretq")
}

/// A machine check, also one that came while the guest ran: the machine is no longer to be trusted.
#[unsafe(naked)]
unsafe extern "C" fn machine_check() {
    naked_asm!("mov rdi, [rsp]", "jmp {}", sym report_machine_check)
}

#[unsafe(naked)]
unsafe extern "C" fn fault() {
    naked_asm!("mov rdi, [rsp]", "jmp {}", sym report_fault)
}

#[unsafe(naked)]
unsafe extern "C" fn fault_with_code() {
    naked_asm!("mov rdi, [rsp + 8]", "jmp {}", sym report_fault)
}

extern "C" fn report_machine_check(rip: u64) -> ! {
    log::error!("machine check at {rip:#x}");
    machine::end(false)
}

extern "C" fn report_fault(rip: u64) -> ! {
    log::error!("an exception of the host itself at {rip:#x}");
    machine::end(false)
}
