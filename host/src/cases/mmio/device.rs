//! A device that is like memory: two pages that read as they were written, kept in the host.

use alloc::{format, vec::Vec};

use axaddrspace::device::AccessWidth;
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};

use super::super::{
    check::{CaseResult, fail},
    guest::Guest,
};

/// Where the device is; in guests for comparison, memory.
pub const DEVICE: u64 = 0x6_0000;
pub const SIZE: u64 = 0x2000;

pub struct Device {
    bytes: Vec<u8>,
    pub accesses: usize,
}

impl Device {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, accesses: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn set(&mut self, bytes: &[u8]) {
        self.bytes.copy_from_slice(bytes);
    }

    pub fn read(&mut self, address: u64, width: AccessWidth) -> CaseResult<u64> {
        let bytes = self.place(address, width)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    pub fn write(&mut self, address: u64, width: AccessWidth, value: u64) -> CaseResult {
        let bytes = self.place(address, width)?;
        let size = bytes.len();
        bytes.copy_from_slice(&value.to_le_bytes()[..size]);
        if size < 8 && value >> (8 * size) != 0 {
            return fail(format!("a value of {size} bytes"), format!("{value:#x}"));
        }
        Ok(())
    }

    fn place(&mut self, address: u64, width: AccessWidth) -> CaseResult<&mut [u8]> {
        self.accesses += 1;
        let start = address.wrapping_sub(DEVICE) as usize;
        match self.bytes.get_mut(start..start.saturating_add(width.size())) {
            Some(bytes) => Ok(bytes),
            None => fail("an address of the device", format!("{address:#x}")),
        }
    }

    /// Runs a guest to HLT and answers its accesses to the device, as axvm does.
    pub fn serve(&mut self, guest: &mut Guest) -> CaseResult {
        loop {
            match guest.exit()? {
                Exit::MmioRead { addr, width, reg, .. } => {
                    let value = self.read(addr.as_usize() as u64, width)?;
                    guest.vcpu.set_gpr(reg, value as usize);
                }
                Exit::MmioWrite { addr, width, data } => self.write(addr.as_usize() as u64, width, data)?,
                Exit::Halt => return Ok(()),
                other => {
                    let undecoded = guest.vcpu.mmio_undecoded().map(|undecoded| undecoded.bytes().to_vec());
                    return fail("MMIO or HLT", format!("{}, undecoded {undecoded:02x?}", guest.describe(&other)));
                }
            }
        }
    }
}

/// Unmaps the memory at the device's address.
pub fn unmap(guest: &mut Guest) -> CaseResult {
    for page in (DEVICE..DEVICE + SIZE).step_by(0x1000) {
        guest.memory.ept.unmap_page(page)?;
    }
    Ok(())
}

/// Declares the device to the vCPU.
pub fn attach(guest: &mut Guest) -> CaseResult {
    unmap(guest)?;
    Ok(guest.vcpu.set_mmio_range((DEVICE as usize).into(), SIZE as usize, true)?)
}
