//! The battery-backed clock and its memory (MC146818), where PCs also keep how much memory they have.

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};

use super::{Device, NANOS_PER_SECOND, Signal, Time};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const INTERRUPT_LINE: u8 = 8;

const REGISTER_A: u8 = 0x0A;
const REGISTER_B: u8 = 0x0B;
const REGISTER_C: u8 = 0x0C;
const REGISTER_D: u8 = 0x0D;

const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
const UPDATE_ENDED: u8 = 1 << 4;
const PERIODIC: u8 = 1 << 6;
const REQUEST: u8 = 1 << 7;
const AFTERNOON: u8 = 0x80;

/// The registers of an update are not stable this long before its end.
const UPDATE_TIME: Time = 244_000;

pub struct Clock {
    selected: u8,
    bytes: [u8; 128],
    /// What the clock showed at [`Self::start`].
    date: DateTime<Utc>,
    start: Time,
    /// When register C last was brought up to date.
    seen: Time,
    flags: u8,
}

impl Clock {
    /// A clock that starts at the first second of 2000, so that runs are the same.
    pub fn new(memory: u64, now: Time) -> Self {
        const START: i64 = 946_684_800;
        let mut bytes = [0; 128];
        bytes[usize::from(REGISTER_A)] = 0x26;
        bytes[usize::from(REGISTER_B)] = HOURS_24;
        let date = DateTime::from_timestamp(START, 0).unwrap_or_default();
        let mut clock = Self { selected: 0, bytes, date, start: now, seen: now, flags: 0 };
        clock.describe_memory(memory);
        clock
    }

    /// Where firmware and old kernels look for the size of memory.
    fn describe_memory(&mut self, memory: u64) {
        const MIB: u64 = 1 << 20;
        let above_1_mib = (memory.saturating_sub(MIB) >> 10).min(0xFFFF) as u16;
        let above_16_mib = (memory.saturating_sub(16 * MIB) >> 16).min(0xFFFF) as u16;
        for (index, value) in [(0x15, 640), (0x17, above_1_mib), (0x30, above_1_mib), (0x34, above_16_mib)] {
            self.bytes[index..index + 2].copy_from_slice(&value.to_le_bytes());
        }
    }

    fn read_register(&mut self, now: Time) -> u8 {
        let date = self.date_at(now);
        match self.selected {
            0 => self.number(date.second()),
            2 => self.number(date.minute()),
            4 => self.hour(date.hour()),
            6 => self.number(date.weekday().number_from_sunday()),
            7 => self.number(date.day()),
            8 => self.number(date.month()),
            9 => self.number(date.year().rem_euclid(100) as u32),
            0x32 => self.number(date.year().div_euclid(100) as u32),
            REGISTER_A => {
                let into_second = (now - self.start) % NANOS_PER_SECOND;
                let updating = into_second >= NANOS_PER_SECOND - UPDATE_TIME;
                self.bytes[usize::from(REGISTER_A)] | if updating { UPDATE_IN_PROGRESS } else { 0 }
            }
            REGISTER_C => {
                self.update_flags(now);
                core::mem::take(&mut self.flags)
            }
            REGISTER_D => 0x80, // the battery is good
            index => self.bytes[usize::from(index)],
        }
    }

    fn write_register(&mut self, value: u8, now: Time) {
        let date = self.date_at(now);
        let number = self.parse(value);
        let changed = match self.selected {
            0 => date.with_second(number),
            2 => date.with_minute(number),
            4 => date.with_hour(self.parse_hour(value)),
            7 => date.with_day(number),
            8 => date.with_month(number),
            9 => date.with_year(date.year().div_euclid(100) * 100 + number as i32),
            0x32 => date.with_year(number as i32 * 100 + date.year().rem_euclid(100)),
            REGISTER_A => {
                self.bytes[usize::from(REGISTER_A)] = value & !UPDATE_IN_PROGRESS;
                None
            }
            6 | REGISTER_C | REGISTER_D => None,
            index => {
                self.bytes[usize::from(index)] = value;
                None
            }
        };
        if let Some(date) = changed {
            (self.date, self.start) = (date, now);
        }
    }

    /// Notes in register C what happened since the last look.
    fn update_flags(&mut self, now: Time) {
        let since_start = |time: Time| time.saturating_sub(self.start);
        if since_start(now) / NANOS_PER_SECOND != since_start(self.seen) / NANOS_PER_SECOND {
            self.flags |= UPDATE_ENDED;
        }
        if let Some(period) = self.period()
            && since_start(now) / period != since_start(self.seen) / period
        {
            self.flags |= PERIODIC;
        }
        self.seen = now;
        if self.flags & self.bytes[usize::from(REGISTER_B)] & (PERIODIC | UPDATE_ENDED) != 0 {
            self.flags |= REQUEST;
        }
    }

    /// Time between periodic interrupts.
    fn period(&self) -> Option<Time> {
        match self.bytes[usize::from(REGISTER_A)] & 0x0F {
            0 => None,
            // The two highest rates are the same as 8 and 9.
            rate @ 1..=2 => Some(NANOS_PER_SECOND >> (16 - (rate + 7))),
            rate => Some(NANOS_PER_SECOND >> (16 - rate)),
        }
    }

    fn date_at(&self, now: Time) -> DateTime<Utc> {
        self.date + TimeDelta::seconds(((now - self.start) / NANOS_PER_SECOND) as i64)
    }

    fn is_binary(&self) -> bool {
        self.bytes[usize::from(REGISTER_B)] & BINARY != 0
    }

    fn has_24_hours(&self) -> bool {
        self.bytes[usize::from(REGISTER_B)] & HOURS_24 != 0
    }

    fn number(&self, value: u32) -> u8 {
        let value = value as u8;
        if self.is_binary() { value } else { value / 10 * 16 + value % 10 }
    }

    fn parse(&self, value: u8) -> u32 {
        let value = if self.is_binary() { value } else { (value >> 4).wrapping_mul(10).wrapping_add(value & 0xF) };
        value.into()
    }

    fn hour(&self, hour: u32) -> u8 {
        if self.has_24_hours() {
            return self.number(hour);
        }
        let afternoon = if hour >= 12 { AFTERNOON } else { 0 };
        self.number((hour + 11) % 12 + 1) | afternoon
    }

    fn parse_hour(&self, value: u8) -> u32 {
        if self.has_24_hours() {
            return self.parse(value);
        }
        let afternoon = if value & AFTERNOON != 0 { 12 } else { 0 };
        self.parse(value & !AFTERNOON) % 12 + afternoon
    }
}

impl Device for Clock {
    fn claims(&self, port: u16) -> bool {
        matches!(port, INDEX | DATA)
    }

    fn read(&mut self, port: u16, _width: u8, now: Time) -> u32 {
        match port {
            DATA => self.read_register(now).into(),
            _ => 0xFF,
        }
    }

    fn write(&mut self, port: u16, _width: u8, value: u32, now: Time) {
        match port {
            DATA => self.write_register(value as u8, now),
            // Bit 7 masks NMIs, of which there are none.
            _ => self.selected = value as u8 & 0x7F,
        }
    }

    fn advance(&mut self, now: Time) {
        self.update_flags(now);
    }

    fn deadline(&self) -> Option<Time> {
        let enabled = self.bytes[usize::from(REGISTER_B)];
        let next = |period: Time| {
            let passed = self.seen.saturating_sub(self.start);
            self.start + (passed / period + 1) * period
        };
        let update = (enabled & UPDATE_ENDED != 0).then(|| next(NANOS_PER_SECOND));
        let periodic = self.period().filter(|_| enabled & PERIODIC != 0).map(next);
        [update, periodic].into_iter().flatten().min()
    }

    fn interrupt(&mut self) -> Option<(u8, Signal)> {
        Some((INTERRUPT_LINE, if self.flags & REQUEST != 0 { Signal::High } else { Signal::Low }))
    }
}
