//! The ports that end a machine: the chipset's reset register, and the ways by which virtual machines are switched off.

use super::{Device, End, Time};

/// Bit 2 resets; bit 1 says how thoroughly, and reads back.
pub const RESET: u16 = 0xCF9;
pub const RESET_NOW: u8 = 0b110;
/// Fast A20 gate and fast reset.
const SYSTEM_CONTROL: u16 = 0x92;
/// Bochs and its like wait for this word here.
const SHUTDOWN_PORT: u16 = 0x8900;
const SHUTDOWN: &[u8] = b"Shutdown";

pub struct Power {
    reset_register: u8,
    system_control: u8,
    /// How much of the word has come.
    matched: usize,
    end: Option<End>,
}

impl Power {
    pub fn new() -> Self {
        Self { reset_register: 0, system_control: 0b10, matched: 0, end: None }
    }

    fn shutdown_byte(&mut self, byte: u8) {
        self.matched = match SHUTDOWN.get(self.matched) {
            Some(&expected) if expected == byte => self.matched + 1,
            _ => usize::from(byte == SHUTDOWN[0]),
        };
        if self.matched == SHUTDOWN.len() {
            self.end = Some(End::PowerOff);
        }
    }
}

impl Device for Power {
    fn claims(&self, port: u16) -> bool {
        matches!(port, RESET | SYSTEM_CONTROL | SHUTDOWN_PORT)
    }

    fn width(&self) -> u8 {
        2
    }

    fn read(&mut self, port: u16, _width: u8, _now: Time) -> u32 {
        match port {
            RESET => self.reset_register.into(),
            SYSTEM_CONTROL => self.system_control.into(),
            _ => u32::MAX,
        }
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, _now: Time) {
        match port {
            RESET => {
                self.reset_register = value as u8 & 0b1010;
                if value & (1 << 2) != 0 {
                    self.end = Some(End::Reset);
                }
            }
            SYSTEM_CONTROL => {
                self.system_control = value as u8 & !1;
                if value & 1 != 0 {
                    self.end = Some(End::Reset);
                }
            }
            SHUTDOWN_PORT => self.shutdown_byte(value as u8),
            _ => {}
        }
    }

    fn end_request(&mut self) -> Option<End> {
        self.end
    }
}
