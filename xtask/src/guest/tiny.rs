//! Guests of a few bytes, for the kinds of image that no package of a few bytes has.
//!
//! Each prints a line on the first serial port and turns the machine off.

use anyhow::Result;
use object::{
    LittleEndian, U16, U32,
    elf::{self, FileHeader32, NoteHeader32, ProgramHeader32},
    pod,
};

use super::{Ending, Guest, GuestScenario};
use crate::emulator::INSTRUCTIONS_PER_SECOND;

pub const FLAT: GuestScenario = GuestScenario {
    name: "flat",
    fetch: flat,
    goal: FLAT_LINE,
    shows: &[],
    hides: &[],
    panic: None,
    ending: Ending::ByItself("powered off"),
    memory_mib: 16,
    cpus: 1,
    models: &[],
    instructions_per_second: INSTRUCTIONS_PER_SECOND,
    axvm: false,
    counts_exits: false,
};
pub const PVH: GuestScenario = GuestScenario { name: "pvh", fetch: pvh, goal: PVH_LINE, ..FLAT };

const FLAT_LINE: &str = "a flat binary runs";
const PVH_LINE: &str = "an ELF kernel runs from its PVH entry";
/// XEN_ELFNOTE_PHYS32_ENTRY.
const PVH_ENTRY_NOTE: u32 = 18;

/// A boot sector: real mode, at 7C00H.
fn flat() -> Result<Guest> {
    const CODE: [u8; 23] = [
        0xBE, 0x17, 0x7C, // mov si, text
        0xFC, // cld
        0xAC, // next: lodsb
        0x84, 0xC0, // test al, al
        0x74, 0x06, // jz end
        0xBA, 0xF8, 0x03, // mov dx, 3F8H
        0xEE, // out dx, al
        0xEB, 0xF5, // jmp next
        0xBA, 0x04, 0x06, // end: mov dx, 604H
        0xB8, 0x00, 0x20, // mov ax, 2000H
        0xEF, // out dx, ax
        0xF4, // hlt
    ];
    Ok(guest([&CODE[..], FLAT_LINE.as_bytes(), b"\r\n\0"].concat()))
}

/// An ELF file whose note names the entry: 32-bit protected mode, at 1 MiB.
fn pvh() -> Result<Guest> {
    const CODE: [u8; 30] = [
        0xBE, 0x1E, 0x00, 0x10, 0x00, // mov esi, text
        0xFC, // cld
        0xAC, // next: lodsb
        0x84, 0xC0, // test al, al
        0x74, 0x08, // jz end
        0xBA, 0xF8, 0x03, 0x00, 0x00, // mov edx, 3F8H
        0xEE, // out dx, al
        0xEB, 0xF3, // jmp next
        0x66, 0xBA, 0x04, 0x06, // end: mov dx, 604H
        0x66, 0xB8, 0x00, 0x20, // mov ax, 2000H
        0x66, 0xEF, // out dx, ax
        0xF4, // hlt
    ];
    Ok(guest(elf_with_pvh_note(&[&CODE[..], PVH_LINE.as_bytes(), b"\r\n\0"].concat())))
}

/// One segment to load at 1 MiB and enter at its start, and the note that says so.
fn elf_with_pvh_note(code: &[u8]) -> Vec<u8> {
    const BASE: u32 = 0x10_0000;
    const HEADERS: u32 =
        (size_of::<FileHeader32<LittleEndian>>() + 2 * size_of::<ProgramHeader32<LittleEndian>>()) as u32;
    let note_header = NoteHeader32 {
        n_namesz: U32::new(LittleEndian, 4),
        n_descsz: U32::new(LittleEndian, 4),
        n_type: U32::new(LittleEndian, elf::NoteType(PVH_ENTRY_NOTE)),
    };
    let note = [pod::bytes_of(&note_header), b"Xen\0", &BASE.to_le_bytes()].concat();
    let header = FileHeader32 {
        e_ident: elf::Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS32,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LittleEndian, elf::ET_EXEC),
        e_machine: U16::new(LittleEndian, elf::EM_386),
        e_version: U32::new(LittleEndian, 1),
        e_entry: U32::new(LittleEndian, BASE),
        e_phoff: U32::new(LittleEndian, size_of::<FileHeader32<LittleEndian>>() as u32),
        e_shoff: U32::new(LittleEndian, 0),
        e_flags: U32::new(LittleEndian, elf::FileFlags(0)),
        e_ehsize: U16::new(LittleEndian, size_of::<FileHeader32<LittleEndian>>() as u16),
        e_phentsize: U16::new(LittleEndian, size_of::<ProgramHeader32<LittleEndian>>() as u16),
        e_phnum: U16::new(LittleEndian, 2),
        e_shentsize: U16::new(LittleEndian, 0),
        e_shnum: U16::new(LittleEndian, 0),
        e_shstrndx: U16::new(LittleEndian, elf::SymbolSection(0)),
    };
    let segment = |kind: elf::ProgramType, offset: usize, bytes: &[u8], address: u32| ProgramHeader32 {
        p_type: U32::new(LittleEndian, kind),
        p_offset: U32::new(LittleEndian, offset as u32),
        p_vaddr: U32::new(LittleEndian, address),
        p_paddr: U32::new(LittleEndian, address),
        p_filesz: U32::new(LittleEndian, bytes.len() as u32),
        p_memsz: U32::new(LittleEndian, bytes.len() as u32),
        p_flags: U32::new(LittleEndian, elf::PF_R | elf::PF_X),
        p_align: U32::new(LittleEndian, 4),
    };
    let notes_at = HEADERS as usize;
    let segments =
        [segment(elf::PT_NOTE, notes_at, &note, 0), segment(elf::PT_LOAD, notes_at + note.len(), code, BASE)];
    [pod::bytes_of(&header), pod::bytes_of_slice(&segments), &note, code].concat()
}

fn guest(kernel: Vec<u8>) -> Guest {
    Guest { kernel, append: String::new(), modules: Vec::new() }
}
