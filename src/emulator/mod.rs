//! Emulation of the instructions by which guests access devices in memory.
//!
//! An [`Emulation`] is one instruction, in steps:
//!
//! 1. It is decoded, and all its memory operands are translated before any is accessed, so that a fault of the second leaves
//!    the first alone.
//! 2. It reads its operands.
//! 3. Pure functions execute it.
//! 4. It writes its operands.
//!
//! Guest memory is accessed at once. An access to a device stops the emulation, which says what it wants ([`Progress`]) and
//! continues when it is resumed. Registers change at the very end, and only those that the instruction writes, so that it does
//! not undo what the caller changed in between.
//!
//! Operands of 16 and 32 bytes reach a device as accesses of 8 bytes, and one that crosses pages as accesses to each. A
//! string instruction is emulated one element at a time.

mod alu;
mod context;
mod decoded;
mod execute;
mod fetched;
mod registers;
mod shape;
mod vector;

#[cfg(test)]
mod tests;

use axaddrspace::GuestPhysAddr;
use axaddrspace::device::AccessWidth;
use axerrno::AxError;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};

use crate::guest_memory::{AccessError, GuestException, GuestMemory, SplitAccess, UnmappedGuestMemory};
use crate::regs::rflags;
pub(crate) use context::{EmulatorContext, Translated};
pub(crate) use decoded::Decoded;
pub(crate) use fetched::{Code, Fetched};
pub(crate) use registers::Registers;
use registers::{General, mask};
pub(crate) use shape::CodeSize;
use shape::Place;
pub(crate) use vector::{VectorRegisters, VectorWrite};

/// Builds the decoder's tables, which all vCPUs share. The decoder would build them at its first use, by some four thousand
/// allocations, which are not to come between an exit and the next entry.
pub(crate) fn prepare() {
    const NOP: [u8; 1] = [0x90];
    let _ = Decoder::new(64, &NOP, DecoderOptions::NONE).decode();
}

/// The longest instruction.
pub(crate) const LONGEST: usize = 15;

/// An instruction of which not everything is done yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emulation {
    instruction: Instruction,
    code: CodeSize,
    slots: [Option<Slot>; 2],
    /// The slot that is accessed, and how many of its bytes are done.
    slot: usize,
    done: usize,
    phase: Phase,
    /// The device was asked for the present access.
    asked: bool,
    effect: Option<execute::Effect>,
    /// A string instruction with a count of 0.
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading,
    Writing,
}

/// A memory operand and its bytes.
#[derive(Clone, Copy, Debug)]
struct Slot {
    place: Place,
    pieces: SplitAccess,
    /// Which of the two pieces is a device.
    device: [bool; 2],
    data: [u8; 32],
}

/// One access to memory or a device.
struct Transfer {
    address: GuestPhysAddr,
    size: usize,
    device: bool,
}

/// How far an emulation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The device is to be read, and [`Emulation::answer`] called.
    Read { address: GuestPhysAddr, width: AccessWidth },
    /// The device is to be written. [`Emulation::resume`] means that it was.
    Write { address: GuestPhysAddr, width: AccessWidth, value: u64 },
    /// All is done. RIP moves by so many bytes; none while a string instruction has elements left.
    Done { length: u8 },
}

/// What a read of a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The number of the general register that gets the value; 0 if none does directly.
    pub(crate) register: usize,
    pub(crate) width: AccessWidth,
    pub(crate) sign_extends: bool,
}

/// Why an instruction is not emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is none that the crate emulates.
    Unknown,
    /// The guest gets an exception.
    Exception(GuestException),
    /// Memory that it accesses cannot be reached.
    Memory(UnmappedGuestMemory),
    /// The state of the vCPU could not be read.
    Host(AxError),
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Guest(exception) => Self::Exception(exception),
            AccessError::Memory(unreachable) => Self::Memory(unreachable),
        }
    }
}

impl Emulation {
    /// An instruction that is to be [started](Self::start).
    pub(crate) fn new(fetched: &Fetched, code: CodeSize) -> Self {
        Self {
            instruction: fetched.instruction,
            code,
            slots: [None; 2],
            slot: 0,
            done: 0,
            phase: Phase::Reading,
            asked: false,
            effect: None,
            over: false,
        }
    }

    /// Translates what the instruction accesses.
    pub(crate) fn start<M: GuestMemory>(
        &mut self,
        context: &EmulatorContext<'_, M>,
        fetched: &Fetched,
        registers: &Registers,
    ) -> Result<(), Refusal> {
        let instruction = &self.instruction;
        self.over = execute::repeats(instruction)
            && shape::string(instruction).is_some_and(|size| shape::counter(registers, 1, size) == 0);
        if self.over {
            return Ok(());
        }
        let places = shape::places(instruction, registers, context.code).ok_or(Refusal::Unknown)?;
        if !fetched.known {
            self.rehearse(places, registers)?;
        }
        for (slot, place) in self.slots.iter_mut().zip(places) {
            if let Some(place) = place {
                *slot = Some(context.locate(place)?);
            }
        }
        Ok(())
    }

    /// Whether the instruction is one of those that are emulated. One that has nothing to do was not looked at.
    fn is_known(&self) -> bool {
        !self.over
    }

    /// Executes with zeros, so that an operand that is not known shows before anything is accessed.
    fn rehearse(&self, places: [Option<Place>; 2], registers: &Registers) -> Result<(), Refusal> {
        struct Zeros;
        impl VectorRegisters for Zeros {
            fn read(&self, _: usize) -> [u8; 32] {
                [0; 32]
            }
            fn write(&mut self, _: VectorWrite) {}
        }
        let nowhere = GuestPhysAddr::from(0);
        let pieces = SplitAccess { first: nowhere, first_size: 0, second: nowhere, second_size: 0 };
        let mut slots =
            places.map(|place| place.map(|place| Slot { place, pieces, device: [false; 2], data: [0; 32] }));
        execute::execute(&self.instruction, self.code, &mut slots, registers, &Zeros).map(drop).ok_or(Refusal::Unknown)
    }

    /// Gives the value of the device that was to be read.
    pub(crate) fn answer(&mut self, value: u64) {
        let Some((Transfer { size, .. }, true)) = self.transfer().map(|transfer| (transfer, self.asked)) else {
            return;
        };
        if self.phase == Phase::Reading {
            self.put(&value.to_le_bytes()[..size.min(8)]);
            self.asked = false;
        }
    }

    /// Whether a value is to be given.
    pub(crate) fn waits(&self) -> bool {
        self.asked && self.phase == Phase::Reading
    }

    /// Continues to the next access of a device, or to the end, where it changes `registers`.
    ///
    /// # Errors
    /// Memory that could be reached before, and cannot be any more.
    pub(crate) fn resume(
        &mut self,
        memory: &impl GuestMemory,
        registers: &mut Registers,
        vectors: &mut impl VectorRegisters,
    ) -> Result<Progress, Refusal> {
        if self.over {
            registers.rflags &= !rflags::RF;
            return Ok(Progress::Done { length: self.instruction.len() as u8 });
        }
        if self.asked && self.phase == Phase::Writing {
            let size = self.transfer().map_or(0, |transfer| transfer.size);
            self.advance(size);
        }
        loop {
            match (self.transfer(), self.phase) {
                (Some(transfer), _) if transfer.device => return Ok(self.ask(transfer)),
                (Some(Transfer { address, size, .. }), Phase::Reading) => {
                    let mut bytes = [0; 32];
                    memory.read(address, &mut bytes[..size]).map_err(Refusal::Memory)?;
                    self.put(&bytes[..size]);
                }
                (Some(Transfer { address, size, .. }), Phase::Writing) => {
                    let bytes = self.bytes(size);
                    memory.write(address, &bytes[..size]).map_err(Refusal::Memory)?;
                    self.advance(size);
                }
                (None, Phase::Reading) => {
                    let effect = execute::execute(&self.instruction, self.code, &mut self.slots, registers, vectors)
                        .ok_or(Refusal::Unknown)?;
                    self.effect = Some(effect);
                    (self.phase, self.slot, self.done) = (Phase::Writing, 0, 0);
                }
                (None, Phase::Writing) => return Ok(self.finish(registers, vectors)),
            }
        }
    }

    fn finish(&self, registers: &mut Registers, vectors: &mut impl VectorRegisters) -> Progress {
        let Some(effect) = &self.effect else {
            return Progress::Done { length: 0 };
        };
        effect.changes.apply(registers);
        if let Some(write) = effect.vector {
            vectors.write(write);
        }
        if effect.repeats {
            return Progress::Done { length: 0 };
        }
        registers.rflags &= !rflags::RF;
        Progress::Done { length: self.instruction.len() as u8 }
    }

    /// The access that is next in this phase.
    fn transfer(&mut self) -> Option<Transfer> {
        while let Some(entry) = self.slots.get(self.slot) {
            if let Some(slot) = entry {
                let wanted =
                    if self.phase == Phase::Reading { slot.place.role.reads() } else { slot.place.role.writes() };
                if wanted && self.done < slot.place.size {
                    return Some(slot.transfer(self.done));
                }
            }
            self.slot += 1;
            self.done = 0;
        }
        None
    }

    fn ask(&mut self, transfer: Transfer) -> Progress {
        self.asked = true;
        let Transfer { address, size, .. } = transfer;
        let width = width(size);
        match self.phase {
            Phase::Reading => Progress::Read { address, width },
            Phase::Writing => {
                let mut low = [0; 8];
                low.copy_from_slice(&self.bytes(8)[..8]);
                Progress::Write { address, width, value: u64::from_le_bytes(low) & mask(size) }
            }
        }
    }

    /// The next bytes of the slot that is written.
    fn bytes(&self, size: usize) -> [u8; 32] {
        let mut bytes = [0; 32];
        if let Some(Some(slot)) = self.slots.get(self.slot) {
            let rest = slot.data.get(self.done..).unwrap_or(&[]);
            let size = size.min(rest.len());
            bytes[..size].copy_from_slice(&rest[..size]);
        }
        bytes
    }

    fn put(&mut self, bytes: &[u8]) {
        let from = self.done;
        if let Some(Some(slot)) = self.slots.get_mut(self.slot)
            && let Some(place) = slot.data.get_mut(from..from + bytes.len())
        {
            place.copy_from_slice(bytes);
        }
        self.advance(bytes.len());
    }

    fn advance(&mut self, bytes: usize) {
        self.asked = false;
        self.done += bytes;
    }

    /// What the value of a device goes to.
    pub(crate) fn target(&self) -> Target {
        use Mnemonic as M;
        let memory = self.slots.iter().flatten().next().map_or(8, |slot| slot.place.size.min(8));
        let none = Target { register: 0, width: width(memory), sign_extends: false };
        let moves = matches!(
            self.instruction.mnemonic(),
            M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Movbe | M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq
        );
        if !moves || self.instruction.op_kind(0) != OpKind::Register {
            return none;
        }
        match General::new(self.instruction.op_register(0)) {
            Some(register) => Target {
                register: register.index,
                width: width(register.size),
                sign_extends: matches!(self.instruction.mnemonic(), M::Movsx | M::Movsxd),
            },
            None => none,
        }
    }

    /// Whether it has a LOCK prefix, or is an XCHG, which needs none.
    pub(crate) fn is_locked(&self) -> bool {
        self.instruction.has_lock_prefix() || self.instruction.mnemonic() == Mnemonic::Xchg
    }

    /// Bytes of the operand that is accessed now.
    pub(crate) fn operand_size(&self) -> usize {
        self.slots.get(self.slot).copied().flatten().map_or(0, |slot| slot.place.size)
    }
}

impl Slot {
    fn put(&mut self, value: u64) {
        let size = self.place.size.min(8);
        self.data[..size].copy_from_slice(&value.to_le_bytes()[..size]);
    }

    /// The access that begins at this byte of the operand.
    fn transfer(&self, at: usize) -> Transfer {
        let pieces = &self.pieces;
        let second = at >= pieces.first_size;
        let (base, from, end) = match second {
            false => (pieces.first, 0, pieces.first_size),
            true => (pieces.second, pieces.first_size, self.place.size),
        };
        let rest = end.saturating_sub(at).clamp(1, 32);
        let device = self.device[usize::from(second)];
        // A device is accessed by numbers.
        let size = if device { (1 << rest.ilog2()).min(8) } else { rest };
        Transfer { address: base + (at - from), size, device }
    }
}

fn width(size: usize) -> AccessWidth {
    match size {
        1 => AccessWidth::Byte,
        2 => AccessWidth::Word,
        4 => AccessWidth::Dword,
        _ => AccessWidth::Qword,
    }
}
