//! Random guest programs, each from a seed and a number.
//!
//! The host of the tests generates a program and runs it; the runner on the build machine generates the same one to show
//! it. So a program needs no file, and its two numbers repeat it exactly.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod assembler;
mod instructions;
pub mod layout;
mod mode;
mod prologue;
mod source;
mod values;

use alloc::vec::Vec;

pub use mode::Mode;
pub use source::Source;

/// What a guest starts with, and how its caller behaves.
#[derive(Debug)]
pub struct Program {
    pub mode: Mode,
    pub kind: Kind,
    /// Loaded at [`layout::CODE`], where the guest starts.
    pub code: Vec<u8>,
    pub handlers: Handlers,
    /// RAX to R15 by their numbers; RSP among them.
    pub registers: [u64; 16],
    pub rflags: u64,
    /// Fields of the VMCS's guest-state area that are overwritten before the first entry.
    pub mutations: Vec<Mutation>,
    /// Ticks of the time stamp counter until a guest that does not exit is interrupted.
    pub time_slice: u64,
    /// Whether the host has patterns in its own registers meanwhile.
    pub patterned_host: bool,
    /// What the caller of the vCPU decides by.
    pub caller: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Random bytes.
    Bytes,
    /// Instructions, most of them valid, and most of those of interest to a hypervisor.
    Instructions,
}

/// What exceptions and interrupts lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handlers {
    /// They report their vector to a port and return. After a fault they skip the instruction.
    Return,
    /// They halt.
    Halt,
    /// These bytes, for all of them.
    Bytes(Vec<u8>),
    /// The table is empty: the first exception shuts the guest down.
    None,
}

/// A change of one field.
#[derive(Clone, Copy, Debug)]
pub struct Mutation {
    /// Which field, modulo their number.
    pub field: usize,
    pub change: Change,
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Set(u64),
    Flip(u64),
}

impl Program {
    pub fn generate(seed: u64, number: u64) -> Self {
        let mut source = Source::new(seed, number);
        let s = &mut source;
        let mode = *s.pick(&Mode::ALL);
        let kind = if s.one_in(4) { Kind::Bytes } else { Kind::Instructions };
        let mut code = prologue::prologue(mode, s);
        match kind {
            Kind::Bytes => {
                let length = 16 + s.below(240) as usize;
                code.extend((0..length).map(|_| s.byte()));
            }
            Kind::Instructions => {
                let count = 4 + s.below(40);
                (0..count).for_each(|_| instructions::emit(s, mode.bits(), &mut code));
            }
        }
        code.truncate(layout::CODE_SIZE);
        let handlers = match s.below(16) {
            0 => Handlers::None,
            1 | 2 => Handlers::Halt,
            3 => Handlers::Bytes((0..layout::HANDLER_SIZE).map(|_| s.byte()).collect()),
            _ => Handlers::Return,
        };
        let mut registers = core::array::from_fn(|_| values::register(s));
        registers[4] = layout::stack(mode.is_user());
        let rflags = mode.flags() | values::flags(s, mode);
        let mutations =
            if s.one_in(5) { (0..=s.below(3)).map(|_| Mutation::generate(s)).collect() } else { Vec::new() };
        Self {
            mode,
            kind,
            code,
            handlers,
            registers,
            rflags,
            mutations,
            time_slice: 200 << s.below(5),
            patterned_host: s.one_in(200),
            caller: Source::new(s.bits(), number),
        }
    }
}

impl Mutation {
    fn generate(s: &mut Source) -> Self {
        let field = s.below(1 << 16) as usize;
        let change = match s.below(3) {
            0 => Change::Set(s.bits()),
            1 => Change::Set(values::interesting(s)),
            _ => Change::Flip(1 << s.below(32)),
        };
        Self { field, change }
    }
}
