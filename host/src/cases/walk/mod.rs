//! The walker of guest page tables, compared with the processor.
//!
//! Entries, control registers and accesses are random. The guest makes each access, and the walker translates the same address by
//! the same entries. Success, or error code and CR2, and the accessed and dirty flags of each entry must be equal. Each
//! combination is made from a number, which a failure prints.

mod combination;
mod program;
mod tables;

use alloc::{format, vec::Vec};
use core::cell::Cell;

use axaddrspace::GuestPhysAddr;
use x86_vcpu::{AccessError, GuestException, GuestMemory, PagingMode, UnmappedGuestMemory};

use super::{
    check::{CaseResult, fail, same},
    guest::Guest,
    runner::note,
};
use combination::{Combination, Features, Setting};
use program::PARAMETERS;

cases! { "walk":
    bits_32.on_boot_cpu(),
    pae.on_boot_cpu(),
    level_4.on_boot_cpu(),
}

fn bits_32() -> CaseResult {
    compare(PagingMode::Bits32)
}

fn pae() -> CaseResult {
    compare(PagingMode::Pae)
}

fn level_4() -> CaseResult {
    compare(PagingMode::Level4)
}

pub const RECORDS: u64 = 0x10_0000;
const RESULTS: u64 = 0x14_0000;
const RECORD_SIZE: u64 = 64;
/// Combinations of one guest entry, and entries of one case.
const BATCH: u64 = 1024;
const BATCHES: u64 = 34;

fn compare(mode: PagingMode) -> CaseResult {
    let long = mode == PagingMode::Level4;
    let features = Features::here();
    let mut guest = program::guest(long)?;
    tables::write(&mut guest)?;
    let (mut succeeded, mut count, mut different) = (0, 0, Vec::new());
    for batch in 0..BATCHES {
        let setting = Setting { mode, nxe: batch % 2 == 0 };
        let first = ((mode as u64) << 32) + batch * BATCH;
        let combinations: Vec<_> =
            (first..first + BATCH).map(|seed| Combination::new(seed, setting, &features)).collect();
        run(&mut guest, setting, &combinations)?;
        let results = guest.memory.read(RESULTS, (BATCH * RECORD_SIZE) as usize)?;
        for (index, (combination, result)) in combinations.iter().zip(results.chunks(RECORD_SIZE as usize)).enumerate()
        {
            let words: Vec<u64> = result
                .chunks(8)
                .map(|word| word.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte)))
                .collect();
            let seed = first + index as u64;
            count += 1;
            match compare_one(seed, combination, setting, &features, &words) {
                Ok(success) => succeeded += u64::from(success),
                Err(failure) => different.push(failure),
            }
        }
        if let Some(last) = combinations.last() {
            same_view(&guest, last, setting, &features)?;
        }
    }
    let number = different.len();
    if let Some(first) = different.into_iter().next() {
        return fail(first.expected, format!("{}, and {number} of {count} are different", first.got));
    }
    note(format!("{count} combinations, of which {succeeded} succeed"));
    Ok(())
}

fn run(guest: &mut Guest, setting: Setting, combinations: &[Combination]) -> CaseResult {
    const CR4_PAE: u64 = 1 << 5;
    const EFER_NXE: u64 = 1 << 11;
    program::rewind(guest, setting.mode == PagingMode::Level4)?;
    let words: Vec<u64> = combinations.iter().flat_map(Combination::words).collect();
    guest.write_words(RECORDS, &words)?;
    let [a, b, c, d] = tables::slots(setting.mode);
    let nxe = if setting.nxe { EFER_NXE } else { 0 };
    let cr4 = if setting.mode == PagingMode::Pae { CR4_PAE } else { 0 };
    let parameters = [combinations.len() as u64, nxe, cr4, tables::cr3(setting.mode), a | b << 32, c | d << 32];
    guest.write_words(PARAMETERS, &parameters)?;
    guest.halt()
}

/// The vCPU's view of the guest's paging agrees with the registers that the guest set.
fn same_view(guest: &Guest, last: &Combination, setting: Setting, features: &Features) -> CaseResult {
    let expected = x86_vcpu::Paging { ac: false, ..last.paging(setting, features) };
    same("the guest's paging", guest.vcpu.guest_view()?.paging, expected)
}

/// Whether the access succeeds.
fn compare_one(
    seed: u64,
    combination: &Combination,
    setting: Setting,
    features: &Features,
    result: &[u64],
) -> CaseResult<bool> {
    let path = Path::new(combination, setting.mode);
    let walked = combination.paging(setting, features).translate(&path, combination.linear, combination.access());
    let exception = match &walked {
        Ok(found) if found.address.as_usize() as u64 == program::PAGE + combination.linear % 0x1000 => None,
        Err(AccessError::Guest(GuestException { vector: 14, error_code: Some(code), cr2: Some(address) })) => {
            Some((*code, *address))
        }
        other => {
            return fail(format!("combination {seed:#x}: the page or #PF"), format!("{other:x?} of {combination:x?}"));
        }
    };
    let processor = match result[0] as u32 {
        u32::MAX => None,
        code => Some((code, result[1])),
    };
    let mask = if setting.mode == PagingMode::Bits32 { u32::MAX.into() } else { u64::MAX };
    let entries = path.entries.iter().zip(&result[2..6]).all(|(ours, theirs)| (ours.get() ^ theirs) & mask == 0);
    if exception != processor || !entries {
        return fail(
            format!("combination {seed:#x}, {setting:?} {combination:x?}: {processor:x?} {:x?}", &result[2..6]),
            format!("{exception:x?} {:x?}", path.entries),
        );
    }
    Ok(exception.is_none())
}

/// The entries that a combination starts with, as memory; there is no other.
struct Path {
    slots: [u64; 4],
    entries: [Cell<u64>; 4],
}

impl Path {
    fn new(combination: &Combination, mode: PagingMode) -> Self {
        Self { slots: tables::slots(mode), entries: combination.entries.map(Cell::new) }
    }

    fn entry(&self, address: GuestPhysAddr, write: bool) -> Result<&Cell<u64>, UnmappedGuestMemory> {
        let column = self.slots.iter().position(|&slot| slot == address.as_usize() as u64 && slot != 0);
        column.map(|column| &self.entries[column]).ok_or(UnmappedGuestMemory { address, write })
    }
}

impl GuestMemory for Path {
    fn read(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory> {
        let entry = self.entry(address, false)?.get().to_le_bytes();
        bytes.copy_from_slice(&entry[..bytes.len().min(8)]);
        Ok(())
    }

    fn write(&self, address: GuestPhysAddr, _: &[u8]) -> Result<(), UnmappedGuestMemory> {
        Err(UnmappedGuestMemory { address, write: true })
    }

    fn compare_exchange(
        &self,
        address: GuestPhysAddr,
        _: usize,
        current: u64,
        new: u64,
    ) -> Result<bool, UnmappedGuestMemory> {
        let entry = self.entry(address, true)?;
        let same = entry.get() == current;
        if same {
            entry.set(new);
        }
        Ok(same)
    }
}
