//! Arithmetic against the processor that runs the tests, and random inputs for everything. What whole instructions do is
//! compared in the host's cases.

extern crate std;

use alloc::{vec, vec::Vec};
use core::arch::asm;
use core::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::alu::{self, Computed, flag};
use super::*;
use crate::guest_memory::{
    Access, AccessKind, AddressSize, GuestView, LinearMode, Paging, PagingMode, Privilege, Segment, SegmentRegister,
};

/// Executes an instruction on two registers, with CF as given; gives the first register and the flags.
macro_rules! execute {
    ($a:expr, $b:expr, $carry:expr, $instruction:expr) => {{
        let (value, flags): (u64, u64);
        // SAFETY: changes its registers and the flags, and uses the stack for them.
        unsafe {
            asm!(
                "bt {carry:e}, 0",
                $instruction,
                "pushfq",
                "pop {flags}",
                carry = in(reg) u32::from($carry),
                a = inout(reg_abcd) $a => value,
                b = in(reg_abcd) $b,
                flags = lateout(reg) flags,
            )
        }
        (value, flags)
    }};
}

/// A two-operand instruction on registers of each width.
macro_rules! on_processor {
    ($name:ident, $instruction:literal) => {
        fn $name(size: usize, a: u64, b: u64, carry: bool) -> Computed {
            let (value, flags) = match size {
                1 => execute!(a, b, carry, concat!($instruction, " {a:l}, {b:l}")),
                2 => execute!(a, b, carry, concat!($instruction, " {a:x}, {b:x}")),
                4 => execute!(a, b, carry, concat!($instruction, " {a:e}, {b:e}")),
                _ => execute!(a, b, carry, concat!($instruction, " {a:r}, {b:r}")),
            };
            Computed { value: value & mask(size), flags: flags & flag::STATUS }
        }
    };
}

on_processor!(processor_add, "add");
on_processor!(processor_adc, "adc");
on_processor!(processor_sub, "sub");
on_processor!(processor_sbb, "sbb");
on_processor!(processor_and, "and");
on_processor!(processor_or, "or");
on_processor!(processor_xor, "xor");

/// Numbers whose sums and differences carry in interesting places.
fn operand() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        prop::sample::select(&[
            0u64,
            1,
            0xF,
            0x10,
            0x7F,
            0x80,
            0xFF,
            0x7FFF,
            0x8000,
            0x7FFF_FFFF,
            0x8000_0000,
            1 << 63
        ]),
        any::<u64>().prop_map(|value| !(value & 0xFF)),
    ]
}

proptest! {
    #[test]
    fn results_and_flags_are_the_processors(
        size in prop::sample::select(&[1usize, 2, 4, 8]), a in operand(), b in operand(), carry: bool,
    ) {
        prop_assert_eq!(alu::add(size, a, b, false), processor_add(size, a, b, false));
        prop_assert_eq!(alu::add(size, a, b, carry), processor_adc(size, a, b, carry));
        prop_assert_eq!(alu::sub(size, a, b, false), processor_sub(size, a, b, false));
        prop_assert_eq!(alu::sub(size, a, b, carry), processor_sbb(size, a, b, carry));
        // AF is undefined after these.
        let defined = |computed: Computed| Computed { flags: computed.flags & !flag::AF, ..computed };
        prop_assert_eq!(alu::logic(size, a & b), defined(processor_and(size, a, b, carry)));
        prop_assert_eq!(alu::logic(size, a | b), defined(processor_or(size, a, b, carry)));
        prop_assert_eq!(alu::logic(size, a ^ b), defined(processor_xor(size, a, b, carry)));
    }

    /// Each condition is the opposite of its neighbour, and an unsigned or signed order is what a comparison leaves.
    #[test]
    fn conditions_say_what_a_comparison_found(a: u64, b: u64, size in prop::sample::select(&[1usize, 2, 4, 8])) {
        let flags = alu::sub(size, a, b, false).flags;
        let (a, b) = (a & mask(size), b & mask(size));
        let (signed_a, signed_b) = (registers::sign_extend(a, size) as i64, registers::sign_extend(b, size) as i64);
        prop_assert_eq!(alu::condition(2, flags), a < b);
        prop_assert_eq!(alu::condition(4, flags), a == b);
        prop_assert_eq!(alu::condition(6, flags), a <= b);
        prop_assert_eq!(alu::condition(12, flags), signed_a < signed_b);
        prop_assert_eq!(alu::condition(14, flags), signed_a <= signed_b);
        for number in (0..16).step_by(2) {
            prop_assert!(alu::condition(number, flags) != alu::condition(number + 1, flags));
        }
    }

    #[test]
    fn any_bytes_come_to_an_end(seed: u64) {
        one_input(&mut Random(seed | 1), &Noise::new(seed | 1));
    }
}

/// A minute of random instructions, registers, segments and page tables; the runner asks for it in a release build. What
/// fails is found again by the number that it prints.
#[test]
#[ignore = "takes a minute"]
fn fuzz_for_a_minute() {
    const INPUTS: u64 = 10_000_000;
    const LIMIT: Duration = Duration::from_secs(60);
    struct Shown(u64);
    impl Drop for Shown {
        fn drop(&mut self) {
            if std::thread::panicking() {
                std::eprintln!("input {:#x}", self.0);
            }
        }
    }
    let start = Instant::now();
    let noise = Noise::new(1);
    let mut ended = [0u64; 3];
    let mut count = 0;
    while count < INPUTS && (!count.is_multiple_of(4096) || start.elapsed() < LIMIT) {
        let shown = Shown(count);
        if count.is_multiple_of(4096) {
            noise.refill(count | 1);
        }
        ended[one_input(&mut Random(count.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1), &noise) as usize] += 1;
        core::mem::forget(shown);
        count += 1;
    }
    std::println!("{count} inputs: {} emulated, {} faults, {} refused", ended[0], ended[1], ended[2]);
    assert!(ended.iter().all(|&count| count > 1000), "the inputs do not reach everything");
}

#[derive(Clone, Copy)]
enum Ended {
    Emulated,
    Fault,
    Refused,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_in(&mut self, chance: u64) -> bool {
        (self.next() >> 32).is_multiple_of(chance)
    }
}

/// 64 KiB that repeat over all guest-physical addresses.
struct Noise {
    bytes: RefCell<Vec<u8>>,
    fails: Cell<u32>,
    accesses: Cell<u32>,
}

impl Noise {
    const SIZE: usize = 0x1_0000;

    fn new(seed: u64) -> Self {
        let noise =
            Self { bytes: RefCell::new(vec![0; Self::SIZE]), fails: Cell::new(u32::MAX), accesses: Cell::new(0) };
        noise.refill(seed);
        noise
    }

    /// Words that are good entries of page tables more often than not.
    fn refill(&self, seed: u64) {
        let mut random = Random(seed);
        for word in self.bytes.borrow_mut().chunks_mut(8) {
            let mut value = random.next();
            if !random.one_in(8) {
                value = value & 0x0000_0000_FFFF_F0FF | 7;
            }
            word.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn access(&self, address: GuestPhysAddr, size: usize, write: bool) -> Result<usize, UnmappedGuestMemory> {
        let start = address.as_usize();
        assert!(size <= 4096 && start % 4096 + size <= 4096, "{size} bytes at {start:#x}");
        self.accesses.set(self.accesses.get() + 1);
        if self.accesses.get() > self.fails.get() {
            return Err(UnmappedGuestMemory { address, write });
        }
        Ok(start % Self::SIZE)
    }
}

impl GuestMemory for Noise {
    fn read(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory> {
        let start = self.access(address, bytes.len(), false)?;
        bytes.copy_from_slice(&self.bytes.borrow()[start..start + bytes.len()]);
        Ok(())
    }

    fn write(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), UnmappedGuestMemory> {
        let start = self.access(address, bytes.len(), true)?;
        self.bytes.borrow_mut()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn compare_exchange(
        &self,
        address: GuestPhysAddr,
        width: usize,
        current: u64,
        new: u64,
    ) -> Result<bool, UnmappedGuestMemory> {
        let start = self.access(address, width, true)?;
        let mut bytes = self.bytes.borrow_mut();
        let same = bytes[start..start + width] == current.to_le_bytes()[..width];
        if same {
            bytes[start..start + width].copy_from_slice(&new.to_le_bytes()[..width]);
        }
        Ok(same)
    }
}

struct Vectors([u8; 32]);

impl VectorRegisters for Vectors {
    fn read(&self, index: usize) -> [u8; 32] {
        assert!(index < 16);
        self.0
    }

    fn write(&mut self, write: VectorWrite) {
        assert!(write.index < 16);
        self.0 = write.value;
    }
}

/// The opcodes of the instructions that are known, so that half of the inputs get beyond the decoder.
const OPCODES: &[&[u8]] = &[
    &[0x00],
    &[0x01],
    &[0x02],
    &[0x03],
    &[0x11],
    &[0x1B],
    &[0x20],
    &[0x29],
    &[0x31],
    &[0x39],
    &[0x3B],
    &[0x63],
    &[0x80],
    &[0x81],
    &[0x83],
    &[0x84],
    &[0x85],
    &[0x86],
    &[0x87],
    &[0x88],
    &[0x89],
    &[0x8A],
    &[0x8B],
    &[0x8F],
    &[0xA0],
    &[0xA1],
    &[0xA3],
    &[0xA4],
    &[0xA5],
    &[0xA6],
    &[0xA7],
    &[0xAA],
    &[0xAB],
    &[0xAC],
    &[0xAE],
    &[0xAF],
    &[0xC6],
    &[0xC7],
    &[0xF6],
    &[0xF7],
    &[0xFE],
    &[0xFF],
    &[0x0F, 0x10],
    &[0x0F, 0x11],
    &[0x0F, 0x28],
    &[0x0F, 0x29],
    &[0x0F, 0x2B],
    &[0x0F, 0x40],
    &[0x0F, 0x4C],
    &[0x0F, 0x6E],
    &[0x0F, 0x6F],
    &[0x0F, 0x7E],
    &[0x0F, 0x7F],
    &[0x0F, 0x90],
    &[0x0F, 0xA3],
    &[0x0F, 0xAB],
    &[0x0F, 0xB1],
    &[0x0F, 0xB6],
    &[0x0F, 0xB7],
    &[0x0F, 0xBA],
    &[0x0F, 0xBE],
    &[0x0F, 0xC1],
    &[0x0F, 0xC3],
    &[0x0F, 0xD6],
    &[0x0F, 0xE7],
    &[0x0F, 0x38, 0xF0],
    &[0x0F, 0x38, 0xF1],
    &[0x0F, 0x38, 0x2A],
    &[0xC5, 0xFC, 0x10],
    &[0xC5, 0xFC, 0x11],
    &[0xC5, 0xFD, 0x6F],
    &[0xC5, 0xFE, 0x7F],
    &[0xC4, 0xE1, 0xF9, 0x6E],
];
const PREFIXES: &[u8] = &[0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x36, 0x64, 0x65, 0x40, 0x48, 0x4D];

fn one_input(random: &mut Random, memory: &Noise) -> Ended {
    let bits = random.next();
    let mode = match bits & 3 {
        0 => LinearMode::Real,
        1 => LinearMode::Protected,
        _ => LinearMode::Long { bits: if bits & 4 == 0 { 48 } else { 57 } },
    };
    let paging_mode = match (mode, bits >> 3 & 3) {
        (LinearMode::Long { bits: 57 }, _) => PagingMode::Level5,
        (LinearMode::Long { .. }, _) => PagingMode::Level4,
        (_, 0) => PagingMode::Bits32,
        (_, 1) => PagingMode::Pae,
        _ => PagingMode::Off,
    };
    let flag = |at: u32| bits >> at & 1 != 0;
    let paging = Paging {
        mode: paging_mode,
        root: random.next() & 0xF_F000,
        pdptes: [random.next() & 0xFFFF_F001 | 1; 4],
        pse: flag(6),
        wp: flag(7),
        nxe: flag(8),
        smep: flag(9) && flag(10),
        smap: flag(11) && flag(12),
        ac: flag(13),
        pkru: flag(14).then_some(random.next() as u32 & random.next() as u32),
        pkrs: None,
        physical_bits: 32 + (bits >> 16 & 0xF) as u8,
        gib_pages: flag(21),
        pse36: flag(22),
    };
    let view = GuestView { mode, paging, user: flag(23) };
    let code = match mode {
        LinearMode::Long { .. } => CodeSize { bits: 64, stack: 8 },
        _ => CodeSize { bits: if flag(24) { 32 } else { 16 }, stack: if flag(25) { 4 } else { 2 } },
    };
    let mut registers = Registers::default();
    for register in &mut registers.general {
        // Often small, or near the top.
        *register = match random.next() & 3 {
            0 => random.next(),
            1 => (random.next() & 0x1FFF).wrapping_sub(0x1000),
            _ => random.next() & 0xF_FFFF,
        };
    }
    registers.rip = random.next() & if flag(26) { 0xFFFF } else { u64::MAX >> 17 };
    registers.rflags = random.next() & 0x0025_0DD5;
    let segment = Segment {
        base: random.next() & 0xF_FFF0,
        limit: if flag(27) { u32::MAX } else { random.next() as u32 & 0x1_FFFF },
        rights: if flag(28) { 0xC093 } else { random.next() as u32 & 0x1_C0FF },
    };
    let devices = random.next();
    memory.accesses.set(0);
    memory.fails.set(if random.one_in(8) { (random.next() & 0x1F) as u32 } else { u32::MAX });
    let context = EmulatorContext {
        view: &view,
        code,
        memory,
        decoded: &Decoded::default(),
        translated: None,
        is_device: &|address| devices >> (address.as_usize() >> 12 & 63) & 1 != 0,
        linear: &|register, offset, address_size, size, kind| {
            Ok(view.linear(register, &segment, offset, address_size, size, kind))
        },
    };
    plant(random, &context, &registers);
    let fetched = match context.fetch(registers.rip) {
        Ok(fetched) => fetched,
        Err((refusal, bytes)) => {
            assert!(bytes.length <= LONGEST);
            return ended(refusal);
        }
    };
    let instruction = fetched.instruction;
    assert!(fetched.code.length == instruction.len());
    let mut emulation = Emulation::new(&fetched, code);
    if let Err(refusal) = emulation.start(&context, &fetched, &registers) {
        return ended(refusal);
    }
    check_memory_of_decoding(random, &context, registers.rip, &fetched, &emulation);
    let before = registers;
    let mut vectors = Vectors([7; 32]);
    // At most 32 bytes are read and 32 written, in two pieces each.
    for _ in 0..32 {
        let progress = emulation.resume(memory, &mut registers, &mut vectors);
        match progress {
            Ok(Progress::Read { address, width }) => {
                assert!(emulation.waits() && address.as_usize() % 4096 + width.size() <= 4096);
                assert!((context.is_device)(address));
                emulation.answer(random.next());
            }
            Ok(Progress::Write { address, width, value }) => {
                assert!(!emulation.waits() && address.as_usize() % 4096 + width.size() <= 4096);
                assert!((context.is_device)(address) && value & !mask(width.size()) == 0);
            }
            Ok(Progress::Done { length }) => {
                assert!(length == 0 || length as usize == instruction.len());
                return Ended::Emulated;
            }
            Err(refusal) => {
                assert_eq!(registers, before, "an instruction that was not finished changed registers");
                return ended(refusal);
            }
        }
        assert_eq!(registers, before, "an instruction that is not finished changed registers");
    }
    panic!("{instruction:?} has no end");
}

/// What was decoded before counts only where it would be decoded again: with one byte changed, which may be of the instruction,
/// or other code.
fn check_memory_of_decoding(
    random: &mut Random,
    context: &EmulatorContext<'_, Noise>,
    rip: u64,
    fetched: &Fetched,
    emulation: &Emulation,
) {
    let Some(start) = place_of_code(context, rip) else {
        return;
    };
    let mut decoded = Decoded::default();
    decoded.remember(rip, fetched, emulation);
    let bits = if random.one_in(8) { 64 } else { context.code.bits };
    let code = CodeSize { bits, ..context.code };
    let place = (start + random.next() as usize % LONGEST).min(Noise::SIZE - 1);
    let change = |byte| core::mem::replace(&mut context.memory.bytes.borrow_mut()[place], byte);
    let fails = context.memory.fails.replace(u32::MAX);
    let old = change(random.next() as u8);
    let with = EmulatorContext { code, decoded: &decoded, ..*context }.fetch(rip);
    let without = EmulatorContext { code, ..*context }.fetch(rip);
    change(old);
    context.memory.fails.set(fails);
    let found = |result: Result<Fetched, (Refusal, Code)>| result.map(|found| (found.instruction, found.code));
    assert_eq!(found(with), found(without));
}

/// Puts an instruction that is likely to be known where the code is, if that can be reached.
fn plant(random: &mut Random, context: &EmulatorContext<'_, Noise>, registers: &Registers) {
    if random.one_in(4) {
        return;
    }
    let mut bytes = Vec::new();
    while random.one_in(3) && bytes.len() < 4 {
        bytes.push(PREFIXES[random.next() as usize % PREFIXES.len()]);
    }
    bytes.extend_from_slice(OPCODES[random.next() as usize % OPCODES.len()]);
    bytes.extend_from_slice(&random.next().to_le_bytes());
    if let Some(start) = place_of_code(context, registers.rip) {
        let mut noise = context.memory.bytes.borrow_mut();
        let end = (start + bytes.len()).min(Noise::SIZE);
        noise[start..end].copy_from_slice(&bytes[..end - start]);
    }
}

/// Where code is. A test's own way in: without page-table rights.
fn place_of_code(context: &EmulatorContext<'_, Noise>, rip: u64) -> Option<usize> {
    let access = Access { kind: AccessKind::Fetch, privilege: Privilege::Supervisor };
    let linear = (context.linear)(SegmentRegister::Cs, rip, AddressSize::Bits64, 1, AccessKind::Fetch).ok()?.ok()?;
    let paging = Paging { smep: false, nxe: false, ..context.view.paging };
    let found = paging.translate(context.memory, linear, access).ok()?;
    Some(found.address.as_usize() % Noise::SIZE)
}

fn ended(refusal: Refusal) -> Ended {
    match refusal {
        Refusal::Exception(_) => Ended::Fault,
        _ => Ended::Refused,
    }
}
