//! The boot sector, and the stack that it gives to `main`.

use core::arch::global_asm;

const STACK_SIZE: usize = 64 * 1024;

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

#[unsafe(no_mangle)]
static mut boot_stack: Stack = Stack([0; STACK_SIZE]);

global_asm!(include_str!("boot.s"), stack_size = const STACK_SIZE);
