//! MOV to and from debug registers.

use axerrno::AxResult;

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, rights};
use super::parts::completion::Outcome;
use crate::rules::control_registers::{CR4_DE, GeneralProtection};
use crate::rules::debug::{DR6_BD, DR7_GD, debugctl_after_exception, dr7_written};
use crate::rules::vector;

impl<B: Backend> Vcpu<B> {
    /// MOV to or from a debug register. The exit comes before every fault of the instruction but #UD for an opcode that
    /// does not exist (SDM Vol. 3C, section 26.1.1, "Relative Priority of Faults and VM Exits"), so all are checked here.
    pub(crate) fn handle_dr(&mut self, current: B::Current) -> AxResult {
        let access = self.backend.debug_access(current)?;
        // DR4 and DR5 are DR6 and DR7, unless CR4.DE makes them #UD.
        if matches!(access.dr, 4 | 5) && self.backend.cr4(current)? & CR4_DE != 0 {
            return self.complete(current, Outcome::UNDEFINED);
        }
        if self.backend.read(current, GuestField::SS_RIGHTS)? & rights::DPL != 0 {
            return self.complete(current, Outcome::PROTECTION);
        }
        if self.backend.read(current, GuestField::DR7)? & DR7_GD != 0 {
            self.debug.record(DR6_BD);
            self.clear_on_debug_exception(current)?;
            return self.complete(current, Outcome::Fault(vector::DB, None));
        }
        if access.is_read {
            let value = self.debug_register(access.dr)?;
            self.set_general_register(access.gpr, value);
            return self.complete(current, Outcome::Done);
        }
        let value = self.general_register(access.gpr)?;
        let value = if self.in_64_bit_mode(current)? { value } else { value & 0xFFFF_FFFF };
        let had_breakpoints = self.debug.has_breakpoints();
        let outcome = self.set_debug_register(access.dr, value);
        self.complete(current, outcome)?;
        if had_breakpoints && outcome.is_ok() {
            // Also when it was the end of the last breakpoint: MOV SS may have held off a trap until now.
            self.set_pending_debug_exceptions(false)?;
        }
        Ok(())
    }

    fn debug_register(&self, dr: u8) -> AxResult<u64> {
        Ok(match dr {
            0..=3 => self.debug.address(dr),
            4 | 6 => self.debug.dr6(),
            _ => self.backend.read(Anywhere, GuestField::DR7)?,
        })
    }

    fn set_debug_register(&mut self, dr: u8, value: u64) -> Result<(), GeneralProtection> {
        match dr {
            0..=3 => self.debug.set_address(dr, value),
            4 | 6 => return self.debug.write_dr6(value),
            _ if value >> 32 != 0 => return Err(GeneralProtection),
            _ => {
                let value = dr7_written(value);
                self.backend.write(GuestField::DR7, value);
                self.debug.dr7_written(value, self.backend.requests());
            }
        }
        Ok(())
    }

    /// What the delivery of a debug exception changes beside DR6.
    pub(crate) fn clear_on_debug_exception(&mut self, current: B::Current) -> AxResult {
        let dr7 = self.backend.read(current, GuestField::DR7)?;
        self.backend.write(GuestField::DR7, dr7 & !DR7_GD);
        let debugctl = self.backend.read(current, GuestField::DEBUGCTL)?;
        self.backend.write(GuestField::DEBUGCTL, debugctl_after_exception(debugctl));
        Ok(())
    }
}
