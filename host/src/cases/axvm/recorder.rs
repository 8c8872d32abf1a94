//! A device that records accesses.

use alloc::vec::Vec;

use axaddrspace::{
    GuestPhysAddr, GuestPhysAddrRange,
    device::{AccessWidth, Port, PortRange, SysRegAddr, SysRegAddrRange},
};
use axdevice_base::{BaseDeviceOps, EmuDeviceType};
use axerrno::AxResult;
use spin::Mutex;

use super::{DEVICE, PAGE};
use crate::vm::io;

/// A device that notes what is written, and always reads the same.
#[derive(Default)]
pub struct Recorder(pub Mutex<Vec<(usize, u8, u64)>>);

impl Recorder {
    pub const VALUE: usize = 0x21;

    fn note(&self, place: usize, bytes: u8, value: usize) -> AxResult {
        self.0.lock().push((place, bytes, value as u64));
        Ok(())
    }
}

impl BaseDeviceOps<PortRange> for Recorder {
    fn emu_type(&self) -> EmuDeviceType {
        EmuDeviceType::Dummy
    }

    fn address_range(&self) -> PortRange {
        PortRange::new(Port(0), Port(u16::MAX))
    }

    fn handle_read(&self, _port: Port, _width: AccessWidth) -> AxResult<usize> {
        Ok(Self::VALUE)
    }

    fn handle_write(&self, port: Port, width: AccessWidth, value: usize) -> AxResult {
        self.note(port.0.into(), io::bytes(width), value)
    }
}

impl BaseDeviceOps<GuestPhysAddrRange> for Recorder {
    fn emu_type(&self) -> EmuDeviceType {
        EmuDeviceType::Dummy
    }

    fn address_range(&self) -> GuestPhysAddrRange {
        GuestPhysAddrRange::from_start_size(DEVICE.into(), PAGE)
    }

    fn handle_read(&self, _address: GuestPhysAddr, _width: AccessWidth) -> AxResult<usize> {
        Ok(Self::VALUE)
    }

    fn handle_write(&self, address: GuestPhysAddr, width: AccessWidth, value: usize) -> AxResult {
        self.note(address.as_usize(), io::bytes(width), value)
    }
}

impl BaseDeviceOps<SysRegAddrRange> for Recorder {
    fn emu_type(&self) -> EmuDeviceType {
        EmuDeviceType::Dummy
    }

    fn address_range(&self) -> SysRegAddrRange {
        SysRegAddrRange::new(SysRegAddr(0), SysRegAddr(u32::MAX as usize))
    }

    fn handle_read(&self, _msr: SysRegAddr, _width: AccessWidth) -> AxResult<usize> {
        Ok(Self::VALUE)
    }

    fn handle_write(&self, msr: SysRegAddr, _width: AccessWidth, value: usize) -> AxResult {
        self.note(msr.0, 8, value)
    }
}
