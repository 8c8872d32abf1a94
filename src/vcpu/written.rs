//! What else changes when the caller writes a part of the guest's state.

use super::Vcpu;
use super::backend::{Backend, GuestField};
use super::parts::requests::Request;
use crate::rules::debug::DEBUGCTL_BTF;

impl<B: Backend> Vcpu<B> {
    /// Writes a part of the guest's state for the caller, and changes what depends on it.
    pub(crate) fn write_for_caller(&mut self, field: GuestField, value: u64) {
        match field {
            // The guest continues there, and not after the instruction there.
            GuestField::RIP => return self.jump(value),
            GuestField::RFLAGS => return self.write_rflags(value),
            GuestField::EFER => {
                self.requests().set(Request::FLUSH_LINEAR);
                return self.backend.write_efer(value);
            }
            GuestField::DEBUGCTL => return self.backend.write(field, value & DEBUGCTL_BTF),
            // The translation of linear addresses depends on these.
            GuestField::CR3 | GuestField::PDPTE0 | GuestField::PDPTE1 | GuestField::PDPTE2 | GuestField::PDPTE3 => {
                self.requests().set(Request::FLUSH_LINEAR)
            }
            GuestField::DR7 => self.debug.dr7_written(value, self.backend.requests()),
            // A shadow that is written now is not the one that the last instruction ended.
            GuestField::INTERRUPTIBILITY => self.completion.forget_shadow(),
            GuestField::ACTIVITY => self.start.activity_written(),
            _ => {}
        }
        self.backend.write(field, value);
    }
}
