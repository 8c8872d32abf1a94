//! The tables that a program finds in memory, by its mode.

use alloc::{vec, vec::Vec};

use guest_programs::{
    Handlers, Mode, Program,
    layout::{self, selector},
};

/// Vectors with an error code.
const WITH_ERROR_CODE: [u64; 9] = [8, 10, 11, 12, 13, 14, 17, 21, 30];
const VECTORS: u64 = 256;
/// Those below are exceptions, whose handlers return after the instruction.
const FIRST_INTERRUPT: u64 = 32;
const DOUBLE_FAULT: u64 = 8;
/// For a vector in four, the user may not use INT.
const USER_GATE: u64 = 3 << 45;

/// The guest's memory, but for what this program alone has there.
pub fn image(program: &Program) -> Vec<u8> {
    let mut image = vec![0; layout::RAM as usize];
    Tables { image: &mut image }.write(program);
    image
}

struct Tables<'a> {
    image: &'a mut [u8],
}

impl Tables<'_> {
    fn write(&mut self, program: &Program) {
        self.handlers(program);
        if program.mode == Mode::Real {
            return;
        }
        self.descriptors(program.mode);
        self.tasks(program.mode);
        match program.mode {
            Mode::Paged => self.pages_32(),
            mode if mode.is_long() || mode == Mode::Pae => self.pages(mode),
            _ => {}
        }
    }

    fn bytes(&mut self, address: u64, bytes: &[u8]) {
        let start = address as usize;
        self.image[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn word(&mut self, address: u64, value: u64) {
        self.bytes(address, &value.to_le_bytes());
    }

    fn half(&mut self, address: u64, value: u64) {
        self.bytes(address, &(value as u32).to_le_bytes());
    }

    fn handlers(&mut self, program: &Program) {
        const INTERRUPT_GATE: u64 = 0x8E00 << 32;
        const TASK_GATE: u64 = 0x8500 << 32;
        let mode = program.mode;
        let code = if mode.is_long() { selector::CODE_64 } else { selector::CODE_32 };
        for vector in 0..VECTORS {
            let address = layout::HANDLERS + vector * layout::HANDLER_SIZE as u64;
            self.bytes(address, &handler(program, vector));
            let gate = match vector {
                DOUBLE_FAULT if !mode.is_long() => u64::from(selector::OTHER_TSS) << 16 | TASK_GATE,
                _ => address | u64::from(code) << 16 | INTERRUPT_GATE,
            };
            let gate = if vector % 4 == 0 { gate } else { gate | USER_GATE };
            match mode {
                Mode::Real => self.half(vector * 4, address),
                _ if mode.is_long() => self.word(layout::IDT + vector * 16, gate),
                _ => self.word(layout::IDT + vector * 8, gate),
            }
        }
    }

    fn descriptors(&mut self, mode: Mode) {
        const CODE_16: u64 = 0x008F_9B00_0000_FFFF;
        const CODE_32: u64 = 0x00CF_9B00_0000_FFFF;
        const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
        const DATA: u64 = 0x00CF_9300_0000_FFFF;
        const DATA_16: u64 = 0x0000_9300_0000_FFFF;
        const CONFORMING: u64 = 0x00CF_9F00_0000_FFFF;
        const USER: u64 = 3 << 45;
        const PRESENT: u64 = 1 << 47;
        const CALL_GATE: u64 = 0xEC00 << 32;
        const TASK_GATE: u64 = 0x8500 << 32;
        const TSS: u64 = 0x0000_8B00_0000_0067;
        const AVAILABLE_TSS: u64 = 0x0000_8900_0000_0067;
        const LDT: u64 = 0x0000_8200_0000_000F;
        let code = match mode.bits() {
            16 => CODE_16,
            32 => CODE_32,
            _ => CODE_64,
        };
        let gate_code = if mode.is_long() { selector::CODE_64 } else { selector::CODE_32 };
        let entries = [
            (selector::CODE_16, CODE_16),
            (selector::CODE, code),
            (selector::DATA, DATA),
            (selector::CODE_32, CODE_32),
            (selector::CODE_64, CODE_64),
            (selector::DATA_16, DATA_16),
            (selector::CONFORMING, CONFORMING),
            (selector::USER_CODE, code | USER),
            (selector::USER_DATA, DATA | USER),
            (selector::TSS, TSS | layout::TSS << 16),
            (selector::OTHER_TSS, AVAILABLE_TSS | layout::OTHER_TSS << 16),
            (selector::LDT, LDT | layout::LDT << 16),
            (selector::CALL_GATE, layout::HANDLERS | u64::from(gate_code) << 16 | CALL_GATE),
            (selector::TASK_GATE, u64::from(selector::OTHER_TSS) << 16 | TASK_GATE),
            (selector::NOT_PRESENT, DATA & !PRESENT),
        ];
        for (selector, descriptor) in entries {
            self.word(layout::GDT + u64::from(selector & !7), descriptor);
        }
        self.word(layout::LDT + 8, DATA);
    }

    /// Where the stacks of the kernel are.
    fn tasks(&mut self, mode: Mode) {
        for (task, stack) in [(layout::TSS, layout::KERNEL_STACK), (layout::OTHER_TSS, layout::KERNEL_STACK - 0x800)] {
            self.half(task + 4, stack);
            if !mode.is_long() {
                self.half(task + 8, selector::DATA.into());
            }
        }
    }

    /// Four levels for long mode; PAE paging starts at the second.
    fn pages(&mut self, mode: Mode) {
        const TABLE: u64 = 0b111;
        const LARGE_PAGE: u64 = 0x87;
        const PRESENT: u64 = 1;
        let top = if mode == Mode::Pae { PRESENT } else { TABLE };
        for entry in [0, 511] {
            self.word(layout::PML4 + entry * 8, layout::PDPT | TABLE);
        }
        (0..4).for_each(|entry| self.word(layout::PDPT + entry * 8, layout::PAGE_DIRECTORY | top));
        self.word(layout::PAGE_DIRECTORY, layout::PAGE_TABLE | TABLE);
        for entry in [1, 2, 0x1F6, 0x1F7] {
            let page = if entry < 8 { entry << 21 } else { 0xC000_0000 | entry << 21 };
            self.word(layout::PAGE_DIRECTORY + entry * 8, page | LARGE_PAGE);
        }
        // One page is the kernel's alone.
        (0..PAGES).for_each(|entry| self.word(layout::PAGE_TABLE + entry * 8, entry << 12 | TABLE));
        self.word(layout::PAGE_TABLE + SUPERVISOR_PAGE * 8, SUPERVISOR_PAGE << 12 | PRESENT);
    }

    fn pages_32(&mut self) {
        const TABLE: u64 = 0b111;
        const LARGE_PAGE: u64 = 0x87;
        const PRESENT: u64 = 1;
        self.half(layout::PAGE_DIRECTORY_32, layout::PAGE_TABLE_32 | TABLE);
        for entry in [1, 0x3FB] {
            self.half(layout::PAGE_DIRECTORY_32 + entry * 4, entry << 22 | LARGE_PAGE);
        }
        (0..PAGES).for_each(|entry| self.half(layout::PAGE_TABLE_32 + entry * 4, entry << 12 | TABLE));
        self.half(layout::PAGE_TABLE_32 + SUPERVISOR_PAGE * 4, SUPERVISOR_PAGE << 12 | PRESENT);
    }
}

/// Mapped one by one: all RAM, and some pages where none is.
const PAGES: u64 = 0x18;
const SUPERVISOR_PAGE: u64 = 0xE;

/// The code of one vector.
fn handler(program: &Program, vector: u64) -> Vec<u8> {
    match &program.handlers {
        Handlers::Bytes(bytes) => return bytes.clone(),
        Handlers::Halt => return [0xF4, 0xEB, 0xFD].into(),
        Handlers::Return | Handlers::None => {}
    }
    let is_fault = vector < FIRST_INTERRUPT;
    let has_error_code = WITH_ERROR_CODE.contains(&vector);
    let mut code = Vec::from([0xB0, vector as u8, 0xE6, layout::VECTOR_PORT]);
    let mut add = |bytes: &[u8]| code.extend_from_slice(bytes);
    match program.mode {
        Mode::Real => {
            if is_fault {
                // Two bytes further: PUSH BP, MOV BP, SP, ADD WORD [BP + 2], 2, POP BP.
                add(&[0x55, 0x89, 0xE5, 0x83, 0x46, 0x02, 0x02, 0x5D]);
            }
            add(&[0xCF]);
        }
        mode if mode.is_long() => {
            if has_error_code {
                add(&[0x48, 0x83, 0xC4, 0x08]);
            }
            if is_fault {
                add(&[0x48, 0x83, 0x04, 0x24, 0x02]);
            }
            add(&[0x48, 0xCF]);
        }
        _ => {
            if has_error_code {
                add(&[0x83, 0xC4, 0x04]);
            }
            if is_fault {
                add(&[0x83, 0x04, 0x24, 0x02]);
            }
            add(&[0xCF]);
        }
    }
    code
}
