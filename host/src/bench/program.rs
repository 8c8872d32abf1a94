//! The shape of the guests: sixteen rounds that do the same, of which the last finds everything warm and is marked.
//!
//! Only what the host executes is counted, so a round may hold instructions of the guest around the one that exits.

/// How a program says that it is over.
pub const END_PORT: u16 = 0x99;
/// The vector whose handler each program has; it only returns.
pub const GUEST_VECTOR: usize = 0x40;

/// `program!(name, [setup], [round])` defines a function that returns the program's bytes; R8 counts the rounds.
///
/// With `begin` in front, the mark behind the last round is left out: it is another guest's.
macro_rules! program {
    ($name:ident, [$($setup:literal),*], [$($round:literal),+]) => {
        program!(@ $name, [$($setup),*], [$($round),+], "xchg bx, bx");
    };
    (begin $name:ident, [$($setup:literal),*], [$($round:literal),+]) => {
        program!(@ $name, [$($setup),*], [$($round),+], "");
    };
    (@ $name:ident, [$($setup:literal),*], [$($round:literal),+], $end:literal) => {
        guest_code!(
            $name,
            "code64",
            "lgdt [0x500]",
            "lidt [0x510]",
            "lea rax, [rip + 9f]",
            "mov word ptr [0x4000 + 0x40 * 16], ax",
            $($setup,)*
            "mov r8d, 16",
            "2: cmp r8d, 1",
            "jne 3f",
            "xchg bx, bx",
            "3:",
            $($round,)+
            "dec r8d",
            "jnz 2b",
            $end,
            "out 0x99, al",
            "hlt",
            "9: iretq",
        );
    };
}

pub(super) use program;
