//! A guest of the bench: RAM, a program, and the tables that it needs in 64-bit mode.

use alloc::{vec, vec::Vec};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::{
    BenchResult, Failed,
    program::{GAP, GUEST_VECTOR, MARKED, MARKS_END, READY_PORT, ROUNDS, STAMPS},
    ticks::Stamps,
};
use crate::{
    cases::layout::{CODE_SELECTOR, GDT, GDT_POINTER, IDT, IDT_POINTER, ORIGIN, PAGE_DIRECTORY, PDPT, PML4, RAM_END},
    config::BenchConfig,
    measured::{self, Vcpu},
    vm::memory::Memory,
};

const BUFFER_SIZE: usize = 4096;

const GATE_SIZE: u64 = 16;

pub struct Guest {
    // Dropped before the memory that its tables are in.
    pub vcpu: Vcpu,
    pub memory: Memory,
    /// The caller's, for what a string instruction moves.
    pub buffer: Vec<u8>,
    rounds: u32,
}

impl Guest {
    /// A guest that is not bound.
    pub fn new(code: &[u8], config: &BenchConfig) -> BenchResult<Self> {
        let mut memory = Memory::new((RAM_END >> 20) as usize)?;
        memory.write(ORIGIN, code)?;
        write_tables(&mut memory)?;
        let vcpu = measured::vcpu(memory.ept.root(), ORIGIN)?;
        let mut guest = Self { vcpu, memory, buffer: vec![0; BUFFER_SIZE], rounds: config.rounds };
        guest.tell(ROUNDS, config.rounds)?;
        guest.tell(MARKED, 1)?;
        guest.tell(MARKS_END, 1)?;
        guest.tell(GAP, config.gap)?;
        Ok(guest)
    }

    /// Runs a guest that is bound to where its rounds begin.
    pub fn start(&mut self) -> BenchResult {
        loop {
            match self.vcpu.run()? {
                Exit::IoWrite { port, .. } if port.0 == READY_PORT => return Ok(()),
                Exit::Nothing => {}
                other => return Err(Failed::by(&other)),
            }
        }
    }

    /// This guest is not measured.
    pub fn leave_out_marks(&mut self) -> BenchResult {
        self.tell(MARKED, 0)?;
        self.leave_out_end_mark()
    }

    /// The mark after the last round is another guest's.
    pub fn leave_out_end_mark(&mut self) -> BenchResult {
        self.tell(MARKS_END, 0)
    }

    fn tell(&mut self, address: u64, value: u32) -> BenchResult {
        Ok(self.memory.write(address, &value.to_le_bytes())?)
    }

    /// The time stamps of the rounds.
    pub fn stamps(&self) -> BenchResult<Vec<Stamps>> {
        (0..u64::from(self.rounds))
            .map(|round| {
                let bytes = self.memory.read(STAMPS + round * 16, 16)?;
                let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
                Ok(Stamps { before: number(&bytes[..8]), after: number(&bytes[8..]) })
            })
            .collect()
    }
}

fn write_tables(memory: &mut Memory) -> BenchResult {
    const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
    const DATA: u64 = 0x00CF_9300_0000_FFFF;
    /// An interrupt gate, whose offset the program fills in.
    const GATE: u64 = 0x8E00 << 32 | (CODE_SELECTOR as u64) << 16;
    const TABLE: u64 = 0b11;
    const LARGE_PAGE: u64 = 0x83;
    write_words(memory, GDT, &[0, 0, CODE_64, DATA])?;
    write_pointer(memory, GDT_POINTER, GDT, 4 * 8)?;
    write_pointer(memory, IDT_POINTER, IDT, 256 * GATE_SIZE as u16)?;
    write_words(memory, IDT + GUEST_VECTOR as u64 * GATE_SIZE, &[GATE, 0])?;
    write_words(memory, PML4, &[PDPT | TABLE])?;
    write_words(memory, PDPT, &[PAGE_DIRECTORY | TABLE])?;
    let pages: Vec<u64> = (0..512).map(|index| index << 21 | LARGE_PAGE).collect();
    write_words(memory, PAGE_DIRECTORY, &pages)
}

fn write_pointer(memory: &mut Memory, place: u64, base: u64, size: u16) -> BenchResult {
    memory.write(place, &(size - 1).to_le_bytes())?;
    Ok(memory.write(place + 2, &base.to_le_bytes())?)
}

fn write_words(memory: &mut Memory, address: u64, words: &[u64]) -> BenchResult {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    Ok(memory.write(address, &bytes)?)
}
