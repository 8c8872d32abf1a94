//! What ACPI calls the fixed hardware: a status without events, the switch for sleep states, and a timer that never
//! stops. [`crate::loader::acpi`] tells the guest where they are.

use super::{Device, End, NANOS_PER_SECOND, Time};
use crate::arch::rate::Rate;

/// Status and enable register of the events, two bytes each.
pub const EVENTS: u16 = 0x600;
pub const EVENTS_LENGTH: u8 = 4;
pub const CONTROL: u16 = 0x604;
pub const CONTROL_LENGTH: u8 = 2;
pub const TIMER: u16 = 0x608;
pub const TIMER_LENGTH: u8 = 4;

const ENABLE: u16 = EVENTS + EVENTS_LENGTH as u16 / 2;
const TIMER_RATE: Rate = Rate::between(NANOS_PER_SECOND, 3_579_545);
const TIMER_MASK: u32 = 0xFF_FFFF;

/// The machine is in ACPI mode, and was never in another.
const IN_ACPI_MODE: u16 = 1 << 0;
const SLEEP_ENABLE: u16 = 1 << 13;

pub struct PowerManagement {
    enabled: u16,
    control: u16,
    end: Option<End>,
}

impl PowerManagement {
    pub fn new() -> Self {
        Self { enabled: 0, control: IN_ACPI_MODE, end: None }
    }
}

impl Device for PowerManagement {
    fn claims(&self, port: u16) -> bool {
        (EVENTS..TIMER + u16::from(TIMER_LENGTH)).contains(&port)
    }

    fn width(&self) -> u8 {
        4
    }

    fn read(&mut self, port: u16, _width: u8, now: Time) -> u32 {
        match port {
            ENABLE => self.enabled.into(),
            CONTROL => self.control.into(),
            TIMER => TIMER_RATE.convert(now) as u32 & TIMER_MASK,
            _ => 0,
        }
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, _now: Time) {
        match port {
            ENABLE => self.enabled = value as u16,
            // The only sleep state is S5.
            CONTROL if value as u16 & SLEEP_ENABLE != 0 => self.end = Some(End::PowerOff),
            CONTROL => self.control = value as u16 | IN_ACPI_MODE,
            _ => {}
        }
    }

    fn end_request(&mut self) -> Option<End> {
        self.end
    }
}
