//! The guest's tables: an identity map of its 2 MiB for itself, and one path that every combination writes anew.

use alloc::vec::Vec;

use x86_vcpu::PagingMode;

use super::{
    super::{check::CaseResult, guest::Guest},
    program::{PAGE, USER_CODE},
};

const PML4: u64 = 0x1_0000;
const PDPT: u64 = 0x1_1000;
const DIRECTORY: u64 = 0x1_2000;
const TABLE: u64 = 0x1_3000;
/// Of the path that is tested.
const TESTED_PDPT: u64 = 0x1_4000;
const TESTED_DIRECTORY: u64 = 0x1_5000;
const TESTED_TABLE: u64 = 0x1_6000;
const DIRECTORY_32: u64 = 0x1_7000;
/// PAE paging's four entries.
pub const PDPTES: u64 = 0x1_8000;
const TABLE_32: u64 = 0x1_9000;

const PAGE_NUMBER: u64 = PAGE >> 12;

/// Where the entries of the path are, from the top, for the four columns of a record; 0 where a mode has none.
pub fn slots(mode: PagingMode) -> [u64; 4] {
    match mode {
        PagingMode::Bits32 => [0, 0, DIRECTORY_32 + 0x100 * 4, TESTED_TABLE + PAGE_NUMBER * 4],
        PagingMode::Pae => [0, 0, TESTED_DIRECTORY, TESTED_TABLE + PAGE_NUMBER * 8],
        _ => [PML4 + 8, TESTED_PDPT, TESTED_DIRECTORY, TESTED_TABLE + PAGE_NUMBER * 8],
    }
}

/// What an entry of a column points to: the next table, or the page.
pub fn target(mode: PagingMode, column: usize) -> u64 {
    match (mode, column) {
        (_, 3) => PAGE,
        (_, 2) => TESTED_TABLE,
        (_, 1) => TESTED_DIRECTORY,
        _ => TESTED_PDPT,
    }
}

/// The first linear address of the page through the tested path.
pub fn linear(mode: PagingMode) -> u64 {
    match mode {
        PagingMode::Bits32 | PagingMode::Pae => 0x4000_0000 + PAGE,
        _ => (1 << 39) + PAGE,
    }
}

pub fn cr3(mode: PagingMode) -> u64 {
    match mode {
        PagingMode::Bits32 => DIRECTORY_32,
        PagingMode::Pae => PDPTES,
        _ => PML4,
    }
}

/// The registers' PDPTEs. The third is not present.
pub const REGISTERS: [u64; 4] = [DIRECTORY | 1, TESTED_DIRECTORY | 1, 0, 0];

/// Writes what does not change.
pub fn write(guest: &mut Guest) -> CaseResult {
    const ALL: u64 = 0b111;
    guest.write_words(PML4, &[PDPT | ALL])?;
    guest.write_words(PDPT, &[DIRECTORY | ALL])?;
    guest.write_words(DIRECTORY, &[TABLE | ALL])?;
    guest.write_words(PDPTES, &REGISTERS)?;
    guest.write_words(DIRECTORY_32, &[TABLE_32 | ALL])?;
    // Accessed and dirty, so that the guest's own accesses change nothing.
    let own = |page: u64| page << 12 | if page << 12 == USER_CODE { 0b110_0111 } else { 0b110_0011 };
    let entries: Vec<u64> = (0..512).map(own).collect();
    guest.write_words(TABLE, &entries)?;
    let pairs: Vec<u64> = entries.chunks(2).map(|pair| pair[0] | pair[1] << 32).collect();
    guest.write_words(TABLE_32, &pairs)
}
