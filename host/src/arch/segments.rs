//! GDT and TSS, new for each processor: a VM exit reloads TR and both tables from what the library saved per processor,
//! and a library that mixed them up would go unnoticed were they the same everywhere.

use alloc::boxed::Box;

use x86_64::{
    VirtAddr,
    instructions::{
        segmentation::{CS, DS, ES, FS, GS, SS, Segment},
        tables::load_tss,
    },
    structures::{
        gdt::{Descriptor, GlobalDescriptorTable},
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

pub fn load(new_stack: &mut dyn FnMut(usize) -> VirtAddr) {
    let mut tss = TaskStateSegment::new();
    tss.privilege_stack_table[0] = new_stack(STACK_SIZE);
    for stack in [Stack::Interrupt, Stack::Exception, Stack::NonMaskable, Stack::DoubleFault, Stack::MachineCheck] {
        tss.interrupt_stack_table[stack as usize] = new_stack(STACK_SIZE);
    }
    let tss = Box::leak(Box::new(tss));

    let gdt = Box::leak(Box::new(GlobalDescriptorTable::new()));
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let task = gdt.append(Descriptor::tss_segment(tss));
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
