//! GDT and TSS of each CPU. A VM exit loads TR and both tables from what the crate saved for the CPU. They differ between CPUs, so
//! that a mix-up shows.

use alloc::boxed::Box;

use x86_64::{
    VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, FS, GS, SS, Segment},
        tables::{load_tss, sgdt},
    },
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector},
        tss::TaskStateSegment,
    },
};

/// Entries of the interrupt stack table. No vector runs on the interrupted stack, since precompiled code may keep data
/// below its stack pointer.
#[derive(Clone, Copy)]
#[repr(u16)]
pub enum Stack {
    Interrupt,
    Exception,
    NonMaskable,
    DoubleFault,
    MachineCheck,
}

const STACK_SIZE: usize = 16 * 1024;

/// The TSS descriptor's selector: after the null descriptor, code, and data.
const TASK_SELECTOR: u16 = 3 << 3;
/// Bit 1 of a TSS descriptor's type.
const BUSY: u64 = 1 << 41;
/// The limit of a TSS that ends where an I/O bitmap would begin, which is what a VM exit makes of any.
pub const TASK: u16 = size_of::<TaskStateSegment>() as u16 - 1;
/// The limit of one with an I/O bitmap.
pub const LARGE_TASK: u16 = size_of::<LargeTask>() as u16 - 1;

/// With the bitmap of the first 24 ports, and the byte of ones that ends every bitmap.
#[repr(C)]
struct LargeTask {
    task: TaskStateSegment,
    bitmap: [u8; 4],
}

/// After the null descriptor, code, data, and the two words of the TSS.
const LOCAL_TABLE: u16 = 5 << 3;

pub fn load(new_stack: &mut dyn FnMut(usize) -> VirtAddr) {
    let mut tss = TaskStateSegment::new();
    tss.privilege_stack_table[0] = new_stack(STACK_SIZE);
    for stack in [Stack::Interrupt, Stack::Exception, Stack::NonMaskable, Stack::DoubleFault, Stack::MachineCheck] {
        tss.interrupt_stack_table[stack as usize] = new_stack(STACK_SIZE);
    }
    let tss = &Box::leak(Box::new(LargeTask { task: tss, bitmap: [0xFF; 4] })).task;

    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
    // Not loaded: a host that has one is for the tests, see `load_local_table`.
    let (low, high) = local_table_descriptor();
    gdt.append(Descriptor::SystemSegment(low, high));
    gdt.load();
    // SAFETY: the selectors are of flat segments in the table just loaded, which is never freed.
    unsafe {
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        FS::set_reg(data);
        GS::set_reg(data);
        load_tss(task);
    }
}

/// Gives the host of this processor an LDT, which a VM exit takes away and the crate has to give back.
pub fn load_local_table() {
    // SAFETY: the selector of an LDT descriptor in the GDT that `load` made.
    unsafe { load_ldtr(LOCAL_TABLE) };
}

/// The host does without one again.
pub fn unload_local_table() {
    // SAFETY: the null selector.
    unsafe { load_ldtr(0) };
}

/// Loads TR with that limit, up to [`LARGE_TASK`].
pub fn load_task(limit: u16) {
    let descriptor = (sgdt().base.as_u64() + u64::from(TASK_SELECTOR)) as *mut u64;
    // SAFETY: the TSS descriptor of the GDT that `load` made, with memory for all limits; only this processor uses it.
    unsafe {
        let low = descriptor.read_volatile() & !(BUSY | 0xFFFF);
        descriptor.write_volatile(low | u64::from(limit));
        load_tss(SegmentSelector(TASK_SELECTOR));
    }
}

/// Whether the TSS descriptor says that it is loaded, as LTR makes it say.
pub fn task_is_busy() -> bool {
    let descriptor = (sgdt().base.as_u64() + u64::from(TASK_SELECTOR)) as *const u64;
    // SAFETY: the TSS descriptor of the GDT that `load` made.
    unsafe { descriptor.read_volatile() & BUSY != 0 }
}

/// Makes it say that it is not. The processor goes by what it has loaded.
pub fn forget_busy_task() {
    let descriptor = (sgdt().base.as_u64() + u64::from(TASK_SELECTOR)) as *mut u64;
    // SAFETY: the TSS descriptor of the GDT that `load` made; only this processor uses it.
    unsafe { descriptor.write_volatile(descriptor.read_volatile() & !BUSY) };
}

/// # Safety
///
/// The selector is null, or that of an LDT descriptor.
unsafe fn load_ldtr(selector: u16) {
    // SAFETY: by the contract above.
    unsafe { core::arch::asm!("lldt {0:x}", in(reg) selector, options(nostack, preserves_flags)) };
}

/// An LDT of one descriptor, which nothing but LSL uses.
fn local_table_descriptor() -> (u64, u64) {
    // Data, with a limit of 1234H.
    static TABLE: [u64; 1] = [0x0040_9300_0000_1234];
    const PRESENT_LDT: u64 = 0x82 << 40;
    let base = (&raw const TABLE) as u64;
    let limit = size_of_val(&TABLE) as u64 - 1;
    (limit | (base & 0xFF_FFFF) << 16 | PRESENT_LDT | (base >> 24 & 0xFF) << 56, base >> 32)
}
