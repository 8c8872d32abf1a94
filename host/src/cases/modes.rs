//! One program in every mode of the processor.

use super::{
    check::CaseResult,
    guest::{Guest, Mode},
};

/// `modal_code!(name, "instruction", ...)` defines a [`Programs`] with the same instructions for real, protected,
/// compatibility and 64-bit mode. The instructions use 32-bit
/// registers, and memory below 64 KiB by absolute addresses or 32-bit registers: `[0xE000]`, `[esi + 4]`.
macro_rules! modal_code {
    ($(#[$attribute:meta])* $name:ident, $($line:literal),+ $(,)?) => {
        $(#[$attribute])*
        fn $name() -> $crate::cases::modes::Programs {
            use $crate::cases::code::guest_code;
            guest_code!(real, "code16", $($line),+);
            guest_code!(protected, "code32", $($line),+);
            guest_code!(
                compatibility, "code64", "push 0x20", "lea rax, [rip + 22f]", "push rax",
                // RETF of 64 bits.
                ".byte 0x48, 0xcb", ".code32", "22:", $($line),+
            );
            guest_code!(long, "code64", $($line),+);
            $crate::cases::modes::Programs { real: real(), protected: protected(), compatibility: compatibility(), long: long() }
        }
    };
}

pub(crate) use modal_code;

/// A program for each mode.
pub struct Programs {
    pub real: &'static [u8],
    pub protected: &'static [u8],
    pub compatibility: &'static [u8],
    pub long: &'static [u8],
}

impl Programs {
    /// Calls `run` with a guest in each mode. A failure names the mode.
    pub fn each(&self, mut run: impl FnMut(&str, Guest) -> CaseResult) -> CaseResult {
        let programs = [
            ("real mode", Mode::Real, self.real),
            ("protected mode", Mode::Protected, self.protected),
            ("compatibility mode", Mode::Long, self.compatibility),
            ("64-bit mode", Mode::Long, self.long),
        ];
        for (name, mode, code) in programs {
            run(name, Guest::new(mode, code)?).map_err(|mut failure| {
                failure.expected = alloc::format!("in {name} {}", failure.expected);
                failure
            })?;
        }
        Ok(())
    }
}
