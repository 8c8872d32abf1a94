//! The host's devices in the form that `axvm` wants.

use alloc::sync::{Arc, Weak};

use axaddrspace::device::{AccessWidth, Port, PortRange, SysRegAddr, SysRegAddrRange};
use axdevice_base::{BaseDeviceOps, EmuDeviceType};
use axerrno::AxResult;
use spin::Mutex;

use super::Vm;
use crate::{
    arch::time,
    devices::{Board, Time},
    vm::{io, msrs},
};

/// All ports: the board.
pub struct Ports {
    pub board: Arc<Mutex<Board>>,
    pub vm: Weak<Vm>,
    /// When the host wants to be asked again.
    pub slice_end: Arc<Mutex<Time>>,
}

impl Ports {
    /// Ends `axvm`'s loop if there is something for the host to do.
    fn attend(&self, now: Time) -> AxResult {
        let mut board = self.board.lock();
        board.advance(now);
        let wanted = board.interrupt_pending() || board.end().is_some() || now >= *self.slice_end.lock();
        if wanted && let Some(vcpu) = self.vm.upgrade().and_then(|vm| vm.vcpu(0)) {
            vcpu.get_arch_vcpu().set_time_slice(Some(0))?;
        }
        Ok(())
    }
}

impl BaseDeviceOps<PortRange> for Ports {
    fn emu_type(&self) -> EmuDeviceType {
        EmuDeviceType::Dummy
    }

    fn address_range(&self) -> PortRange {
        PortRange::new(Port(0), Port(u16::MAX))
    }

    fn handle_read(&self, port: Port, width: AccessWidth) -> AxResult<usize> {
        let now = time::now();
        let value = self.board.lock().read(port.0, io::bytes(width), now);
        self.attend(now)?;
        Ok(value as usize)
    }

    fn handle_write(&self, port: Port, width: AccessWidth, value: usize) -> AxResult {
        let now = time::now();
        self.board.lock().write(port.0, io::bytes(width), value as u32, now);
        self.attend(now)
    }
}

/// All MSRs that come to the host.
pub struct Msrs;

impl BaseDeviceOps<SysRegAddrRange> for Msrs {
    fn emu_type(&self) -> EmuDeviceType {
        EmuDeviceType::Dummy
    }

    fn address_range(&self) -> SysRegAddrRange {
        SysRegAddrRange::new(SysRegAddr(0), SysRegAddr(u32::MAX as usize))
    }

    fn handle_read(&self, msr: SysRegAddr, _width: AccessWidth) -> AxResult<usize> {
        Ok(msrs::read(msr.0).unwrap_or(0) as usize)
    }

    fn handle_write(&self, msr: SysRegAddr, _width: AccessWidth, value: usize) -> AxResult {
        if !msrs::write(msr.0, value as u64) {
            log::debug!("WRMSR of {:#x}, which the guest's processor does not have", msr.0);
        }
        Ok(())
    }
}
