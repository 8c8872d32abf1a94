//! The modes that programs run in.

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
}
