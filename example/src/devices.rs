//! What the guest finds beside its processor and memory: a serial port, a device in memory, an MSR.

use alloc::string::String;

use axaddrspace::device::{AccessWidth, Port};

use crate::{console, guest};

/// The transmitting half of a UART, which is all that the guest uses.
#[derive(Default)]
pub struct Serial {
    line: String,
}

impl Serial {
    const DATA: u16 = 0x3F8;
    const LINE_STATUS: u16 = Self::DATA + 5;
    /// Always room for a byte, always sent.
    const READY: u64 = 0x60;

    /// All other ports float: all ones, in as many bits as were asked for.
    pub fn read(&self, port: Port, width: AccessWidth) -> u64 {
        match port.0 {
            Self::LINE_STATUS => Self::READY,
            _ => u64::MAX >> (64 - 8 * width.size()),
        }
    }

    /// Writes to other ports go nowhere.
    pub fn write(&mut self, port: Port, value: u64) {
        match (port.0, value as u8) {
            (Self::DATA, b'\n') => {
                console::line("guest", format_args!("{}", self.line));
                self.line.clear();
            }
            (Self::DATA, byte) => self.line.push(byte.into()),
            _ => {}
        }
    }
}

/// One register of 32 bits that reads as the complement of what was written.
#[derive(Default)]
pub struct Complement {
    value: u32,
}

impl Complement {
    /// Any bytes of the register may be read. The vCPU takes as many as its instruction wants.
    pub fn read(&self, address: usize) -> u64 {
        u64::from(!self.value) >> (8 * Self::byte(address))
    }

    /// Only the whole register is written.
    pub fn write(&mut self, address: usize, width: AccessWidth, value: u64) {
        if Self::byte(address) == 0 && width == AccessWidth::Dword {
            self.value = value as u32;
        }
    }

    fn byte(address: usize) -> usize {
        (address - guest::DEVICE_BASE) % 4
    }
}

/// The MSR that the host answers: twice what was written last. No other exists.
#[derive(Default)]
pub struct Msrs {
    value: u64,
}

impl Msrs {
    pub fn read(&self, msr: usize) -> Option<u64> {
        (msr == guest::HOST_MSR as usize).then(|| self.value.wrapping_mul(2))
    }

    pub fn write(&mut self, msr: usize, value: u64) -> Option<()> {
        (msr == guest::HOST_MSR as usize).then(|| self.value = value)
    }
}
