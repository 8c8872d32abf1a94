//! Runs the same instruction bytes twice: where there is memory, and where there is a device that is like memory. All
//! registers, flags and both pages must come out the same.

use alloc::{format, string::String, vec::Vec};

use raw_cpuid::CpuId;

use super::{
    super::{
        check::{CaseResult, fail},
        guest::Guest,
        need::Need,
        runner::note,
    },
    device::{self, DEVICE, Device, SIZE},
    forms,
    harness::{FLAGS, Harness, OTHER_SEGMENT, SEGMENT, VECTORS, YMM_SIZE},
};

cases! { "mmio":
    moves_64.on_boot_cpu(),
    arithmetic_64.on_boot_cpu(),
    strings_64.on_boot_cpu(),
    vectors_64.on_boot_cpu(),
    avx_64.needs(&[Need::Avx]).on_boot_cpu(),
    all_32.on_boot_cpu(),
    all_16.on_boot_cpu(),
}

fn moves_64() -> CaseResult {
    compare(Harness::Bits64, forms::moves_64())
}

fn arithmetic_64() -> CaseResult {
    compare(Harness::Bits64, forms::arithmetic_64())
}

fn strings_64() -> CaseResult {
    compare(Harness::Bits64, forms::strings_64())
}

fn vectors_64() -> CaseResult {
    compare(Harness::Bits64, forms::vectors_64())
}

fn avx_64() -> CaseResult {
    compare(Harness::Avx, forms::avx_64())
}

fn all_32() -> CaseResult {
    compare(Harness::Bits32, forms::all_32())
}

fn all_16() -> CaseResult {
    compare(Harness::Bits16, forms::all_16())
}

const SEEDS: u64 = 4;

/// Numbers that are the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Xorshift.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

fn compare(harness: Harness, list: &'static [u8]) -> CaseResult {
    let mut with_memory = harness.guest()?;
    let mut with_device = harness.guest()?;
    device::attach(&mut with_device)?;
    let mut device = Device::new(alloc::vec![0; SIZE as usize]);
    let mut count = 0;
    let has_movbe = CpuId::new().get_feature_info().is_some_and(|info| info.has_movbe());
    for (number, instruction) in forms::each(list).enumerate() {
        let is_movbe = instruction.windows(3).any(|bytes| matches!(bytes, [0x0F, 0x38, 0xF0 | 0xF1]));
        if is_movbe && !has_movbe {
            continue;
        }
        for seed in 0..SEEDS {
            let mut random = Random::new(number as u64 * SEEDS + seed + 1);
            let before = registers(harness, &mut random, seed);
            let contents = contents(&mut random);
            device.set(&contents[0x1000..]);
            for guest in [&mut with_memory, &mut with_device] {
                // The page below the device is memory for both.
                guest.memory.write(DEVICE - 0x1000, &contents)?;
                harness.prepare(guest, instruction, &before)?;
            }
            let failed = |what: String| fail(format!("{instruction:02x?} with seed {seed}: as with memory"), what);
            with_memory.halt()?;
            device.accesses = 0;
            device.serve(&mut with_device)?;
            let (expected, got) = (harness.after(&with_memory)?, harness.after(&with_device)?);
            if let Some(at) = (0..expected.len()).find(|&at| expected[at] != got[at]) {
                let at = at & !7;
                return failed(format!("{:02x?} at {at:#x}, not {:02x?}", &got[at..at + 8], &expected[at..at + 8]));
            }
            compare_pages(&with_memory, &with_device, &device).or_else(|failure| failed(failure.got))?;
            if device.accesses == 0 {
                return failed("no access to the device".into());
            }
            count += 1;
        }
    }
    note(format!("{count} instructions"));
    Ok(())
}

fn compare_pages(with_memory: &Guest, with_device: &Guest, device: &Device) -> CaseResult {
    let expected = with_memory.memory.read(DEVICE - 0x1000, (SIZE + 0x1000) as usize)?;
    let mut got = with_device.memory.read(DEVICE - 0x1000, 0x1000)?;
    got.extend_from_slice(device.bytes());
    let stack = |guest: &Guest| guest.memory.read(0x6F00 - 16, 32);
    if stack(with_memory)? != stack(with_device)? {
        return fail("", "another stack");
    }
    if expected == got {
        return Ok(());
    }
    match (0..expected.len()).find(|&at| expected[at] != got[at]) {
        None => Ok(()),
        Some(at) => fail("", format!("{:#x} at {:#x}, not {:#x}", got[at], DEVICE - 0x1000 + at as u64, expected[at])),
    }
}

/// Bytes of which many are equal, so that string comparisons go on for a while.
fn contents(random: &mut Random) -> Vec<u8> {
    let word = |random: &mut Random| match random.next() >> 61 {
        0 => random.next(),
        1 => random.next() & 0xFF00,
        2 => 0,
        _ => 0x5A5A_5A5A_5A5A_5A5A,
    };
    (0..(SIZE + 0x1000) / 8).flat_map(|_| word(random).to_le_bytes()).collect()
}

fn registers(harness: Harness, random: &mut Random, seed: u64) -> Vec<u8> {
    /// CF, PF, AF, ZF, SF, OF.
    const STATUS: u64 = 0x8D5;
    const DF: u64 = 0x400;
    let mut words: Vec<u64> = (0..VECTORS / 8).map(|_| random.next()).collect();
    let base = if harness == Harness::Bits16 { 0 } else { DEVICE };
    let pointers = [(3, 0x100), (5, 0x400), (6, 0x248), (7, 0x380), (12, 0x500)];
    for (register, offset) in pointers {
        words[register] = base + offset;
    }
    words[1] = seed % 4 + 1;
    words[2] = if harness == Harness::Bits64 { words[2] } else { words[2] & 0x1F };
    words[4] = 0x6F00;
    words[10] = (random.next() & 0x7FF).wrapping_sub(0x400);
    words[14] = random.next() & 0x1F;
    if seed == 1 {
        // CMPXCHG finds what it looks for.
        words[0] = 0x5A5A_5A5A_5A5A_5A5A;
    }
    words[(FLAGS / 8) as usize] = random.next() & STATUS | 2 | if seed & 1 != 0 { DF } else { 0 };
    words[(SEGMENT / 8) as usize] = DEVICE >> 4;
    words[(OTHER_SEGMENT / 8) as usize] = (DEVICE - 0x100) >> 4;
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend((0..YMM_SIZE).map(|_| random.next() as u8));
    if harness != Harness::Avx {
        // The x87 state is the initial one, MXCSR too.
        let image = &mut bytes[VECTORS as usize..];
        image[..32].fill(0);
        image[0..2].copy_from_slice(&0x37Fu16.to_le_bytes());
        image[24..28].copy_from_slice(&0x1F80u32.to_le_bytes());
    }
    bytes
}
