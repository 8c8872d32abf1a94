//! Guest programs, assembled with the host.

/// `guest_code!(name, "code32", "instruction", "instruction", ...)` defines a function that returns the program's bytes.
///
/// A program is loaded at [`ORIGIN`]. Jumps are relative and need nothing; the address of a label comes by
/// `lea rax, [rip + 5f]`. Labels are numbers, but not of zeros and ones only, and not 77 and 78.
macro_rules! guest_code {
    ($(#[$attribute:meta])* $name:ident, $mode:literal, $($line:literal),+ $(,)?) => {
        $(#[$attribute])*
        #[inline(never)]
        fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: the program is data in another section; only two addresses are loaded here.
            unsafe {
                core::arch::asm!(
                    ".pushsection .rodata.guest, \"a\"",
                    concat!(".", $mode),
                    "77:",
                    $($line,)+
                    "78:",
                    ".code64",
                    ".popsection",
                    "lea {}, [rip + 77b]",
                    "lea {}, [rip + 78b]",
                    out(reg) start,
                    out(reg) end,
                    options(nomem, nostack, preserves_flags),
                );
                core::slice::from_raw_parts(start, end.offset_from_unsigned(start))
            }
        }
    };
}

pub(crate) use guest_code;

/// Where programs are loaded.
pub const ORIGIN: u64 = 0x8000;
