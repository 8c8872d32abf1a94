//! A program as text.

use std::fmt::Write;

use guest_programs::{Program, layout};
use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};

/// Its start state and its instructions.
pub fn program(seed: u64, number: u64) -> String {
    let program = Program::generate(seed, number);
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = writeln!(text, "program {number} of seed {seed}: {:?}, {:?}", program.mode, program.kind);
    let _ = writeln!(text, "  flags {:#x}, time slice {}", program.rflags, program.time_slice);
    for (names, values) in REGISTERS.chunks(4).zip(program.registers.chunks(4)) {
        let row: Vec<String> = names.iter().zip(values).map(|(name, value)| format!("{name} {value:#x}")).collect();
        let _ = writeln!(text, "  {}", row.join("  "));
    }
    let _ = writeln!(text, "  handlers: {:x?}", program.handlers);
    if !program.mutations.is_empty() {
        let _ = writeln!(text, "  mutations: {:x?}", program.mutations);
    }
    if program.patterned_host {
        let _ = writeln!(text, "  under a host with patterns in its registers");
    }
    disassemble(&program, &mut text);
    text
}

const REGISTERS: [&str; 16] =
    ["RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15"];

fn disassemble(program: &Program, text: &mut String) {
    let mut decoder = Decoder::with_ip(program.mode.bits(), &program.code, layout::CODE, DecoderOptions::NONE);
    let mut formatter = NasmFormatter::new();
    while decoder.can_decode() {
        let start = decoder.position();
        let instruction = decoder.decode();
        let bytes: String = program.code[start..decoder.position()].iter().map(|byte| format!("{byte:02x}")).collect();
        let mut line = String::new();
        formatter.format(&instruction, &mut line);
        let _ = writeln!(text, "  {:05x}  {bytes:<24}  {line}", instruction.ip());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_programs::Kind;

    /// A generator of instructions that are mostly undefined would test the decoder of the emulator and little else.
    #[test]
    fn most_generated_instructions_are_valid() {
        let (mut valid, mut all) = (0, 0);
        for program in (0..500).map(|number| Program::generate(1, number)).filter(|p| p.kind == Kind::Instructions) {
            let mut decoder = Decoder::new(program.mode.bits(), &program.code, DecoderOptions::NONE);
            while decoder.can_decode() {
                all += 1;
                valid += usize::from(!decoder.decode().is_invalid());
            }
        }
        assert!(valid * 10 > all * 9, "{valid} of {all}");
    }
}
