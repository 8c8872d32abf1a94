//! The modes that programs run in.

use alloc::vec::Vec;

use crate::{assembler::Assembler, layout, source::Source};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    Virtual8086,
    Protected16,
    Protected32,
    ProtectedUser,
    /// 32-bit paging, which the program itself turns on.
    Paged,
    /// PAE paging, which the program itself turns on.
    Pae,
    Compatibility16,
    Compatibility32,
    Long,
    LongUser,
}

impl Mode {
    /// Those of today's guests come more often.
    pub const ALL: [Self; 14] = [
        Self::Real,
        Self::Real,
        Self::Virtual8086,
        Self::Protected16,
        Self::Protected32,
        Self::ProtectedUser,
        Self::Paged,
        Self::Pae,
        Self::Compatibility16,
        Self::Compatibility32,
        Self::Long,
        Self::Long,
        Self::Long,
        Self::LongUser,
    ];

    /// Default operand size of the code, or 64.
    pub fn bits(self) -> u32 {
        match self {
            Self::Real | Self::Virtual8086 | Self::Protected16 | Self::Compatibility16 => 16,
            Self::Protected32 | Self::ProtectedUser | Self::Paged | Self::Pae | Self::Compatibility32 => 32,
            Self::Long | Self::LongUser => 64,
        }
    }

    pub fn is_user(self) -> bool {
        matches!(self, Self::Virtual8086 | Self::ProtectedUser | Self::LongUser)
    }

    /// Whether EFER.LMA is set.
    pub fn is_long(self) -> bool {
        matches!(self, Self::Compatibility16 | Self::Compatibility32 | Self::Long | Self::LongUser)
    }

    /// Whether segment registers hold real-mode segments.
    pub fn is_real(self) -> bool {
        matches!(self, Self::Real | Self::Virtual8086)
    }

    /// Flags that the mode needs.
    pub(crate) fn flags(self) -> u64 {
        const ALWAYS_SET: u64 = 1 << 1;
        const VM: u64 = 1 << 17;
        ALWAYS_SET | if self == Self::Virtual8086 { VM } else { 0 }
    }

    /// What the program does first to be in its mode.
    pub(crate) fn prologue(self, s: &mut Source) -> Vec<u8> {
        const PG_AND_WP: u32 = 1 << 31 | 1 << 16 | 1;
        const PSE: u32 = 1 << 4;
        const PAE: u32 = 1 << 5;
        let mut code = Vec::new();
        let mut a = Assembler::new(32, &mut code);
        let (table, features) = match self {
            Self::Paged => (layout::PAGE_DIRECTORY_32 as u32, PSE),
            Self::Pae => (layout::PDPT as u32, PAE),
            _ => return code,
        };
        // Rarely with all of these in another order than the right one.
        let order = if s.one_in(8) { [0, 4, 3] } else { [4, 3, 0] };
        for register in order {
            let value = match register {
                0 => PG_AND_WP,
                3 => table,
                _ => features,
            };
            a.set(0, value.into());
            a.bytes(&[0x0F, 0x22, 0xC0 | register << 3]);
        }
        code
    }
}
