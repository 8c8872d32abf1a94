//! Lays out the disk.
//!
//! The boot code comes first; in its first sector stands a table that this module fills in, because only the builder of
//! the disk knows where the host and the archive lie on it.

use anyhow::{Context, Result, bail, ensure};

use super::{RunConf, archive, flat::Flat};
use crate::host_build::HostImage;

const SECTOR: usize = 512;
const BOOT_SECTORS: usize = 16;
const BOOT_ADDRESS: u64 = 0x7C00;
const SIGNATURE: std::ops::Range<usize> = 510..512;
/// Below the partition table, which some firmware reads.
const TABLE: std::ops::Range<usize> = 0x190..0x1B0;

/// The geometry that every disk of its time had; emulators want a whole number of cylinders.
pub const HEADS: usize = 16;
pub const SECTORS_PER_TRACK: usize = 63;
pub const CYLINDER: usize = HEADS * SECTORS_PER_TRACK * SECTOR;

/// The bytes of a disk that boots `programs` and does what `conf` says.
pub fn build(programs: &HostImage, conf: &RunConf) -> Result<Vec<u8>> {
    let text = conf.text()?;
    let mut files = vec![("run.conf".to_owned(), text.as_bytes())];
    files.extend(conf.guest_files());
    let boot = Flat::from_elf(&programs.boot).context("the boot code")?;
    let host = Flat::from_elf(&programs.host).context("the host")?;
    lay_out(&boot, &host, &archive::build(&files)?)
}

fn lay_out(boot: &Flat, host: &Flat, archive: &[u8]) -> Result<Vec<u8>> {
    ensure!(
        boot.base == BOOT_ADDRESS && boot.bytes.len() == BOOT_SECTORS * SECTOR,
        "the boot code must be {BOOT_SECTORS} sectors at {BOOT_ADDRESS:#x}, not {} bytes at {:#x}",
        boot.bytes.len(),
        boot.base
    );
    ensure!(boot.bytes[SIGNATURE] == [0x55, 0xAA], "the first sector of the boot code has no boot signature");
    ensure!(boot.bytes[TABLE].iter().all(|byte| *byte == 0), "the boot code has no room for the table of what to load");
    let mut disk = boot.bytes.clone();
    let host_lba = append(&mut disk, &host.bytes);
    let archive_lba = append(&mut disk, archive);
    let table = [
        host_lba,
        host.bytes.len().div_ceil(SECTOR) as u64,
        host.base,
        host.memory_end,
        host.entry,
        archive_lba,
        archive.len() as u64,
        0,
    ];
    for (slot, value) in disk[TABLE].chunks_exact_mut(4).zip(table) {
        let Ok(value) = u32::try_from(value) else {
            bail!("the host and its archive must lie below 4 GiB, {value:#x} does not");
        };
        slot.copy_from_slice(&value.to_le_bytes());
    }
    disk.resize(disk.len().next_multiple_of(CYLINDER), 0);
    Ok(disk)
}

/// Appends whole sectors and gives the number of the first.
fn append(disk: &mut Vec<u8>, bytes: &[u8]) -> u64 {
    let lba = disk.len() / SECTOR;
    disk.extend_from_slice(bytes);
    disk.resize(disk.len().next_multiple_of(SECTOR), 0);
    lba as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> Flat {
        let mut bytes = vec![0; BOOT_SECTORS * SECTOR];
        bytes[SIGNATURE].copy_from_slice(&[0x55, 0xAA]);
        Flat { base: BOOT_ADDRESS, bytes, memory_end: BOOT_ADDRESS, entry: BOOT_ADDRESS }
    }

    fn table_entry(disk: &[u8], index: usize) -> usize {
        let start = TABLE.start + 4 * index;
        let bytes = disk[start..start + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    }

    #[test]
    fn the_table_leads_to_host_and_archive() {
        let host = Flat { base: 0x10_0000, bytes: vec![0xAB; 1000], memory_end: 0x20_0000, entry: 0x10_0010 };
        let archive = [0xCD; 700];
        let disk = lay_out(&boot(), &host, &archive).expect("a disk");
        let host_at = table_entry(&disk, 0) * SECTOR;
        assert_eq!(disk[host_at..host_at + 1000], host.bytes);
        assert!(table_entry(&disk, 1) * SECTOR >= 1000);
        let archive_at = table_entry(&disk, 5) * SECTOR;
        let archive_end = archive_at + table_entry(&disk, 6);
        assert_eq!(disk[archive_at..archive_end], archive);
        assert!(archive_at >= host_at + table_entry(&disk, 1) * SECTOR);
        assert_eq!(disk.len() % CYLINDER, 0);
    }

    #[test]
    fn boot_code_that_overlaps_the_table_is_refused() {
        let mut boot = boot();
        boot.bytes[TABLE.end - 1] = 0x90;
        let host = Flat { base: 0x10_0000, bytes: vec![], memory_end: 0x10_0000, entry: 0x10_0000 };
        assert!(lay_out(&boot, &host, &[]).is_err());
    }
}
