//! Guest programs, assembled with the host.

/// `guest_code!(name, "code32", "instruction", "instruction", ...)` defines a function that returns the program's bytes.
///
/// A program is loaded at [`ORIGIN`](super::layout::ORIGIN), with GDTR and IDTR loaded. Jumps are relative and need nothing; the
/// address of a label comes by `lea rax, [rip + 5f]`. Labels are numbers, but not of zeros and ones only, and not 77 and 78.
/// The constants of [`layout`](super::layout) that are named here are known by their names.
macro_rules! guest_code {
    ($(#[$attribute:meta])* $visibility:vis $name:ident, $mode:literal, $($line:literal),+ $(,)?) => {
        $(#[$attribute])*
        #[inline(never)]
        $visibility fn $name() -> &'static [u8] {
            let (start, end): (*const u8, *const u8);
            // SAFETY: the program is data in another section; only two addresses are loaded here.
            unsafe {
                core::arch::asm!(
                    ".pushsection .rodata.guest, \"a\"",
                    ".set GDT_POINTER, {gdt_pointer}",
                    ".set IDT_POINTER, {idt_pointer}",
                    ".set INPUT_PORT, {input_port}",
                    ".set REPORT_PORT, {report_port}",
                    ".set SECOND_PORT, {second_port}",
                    ".set THIRD_PORT, {third_port}",
                    ".set SCRATCH, {scratch}",
                    ".set RAM_END, {ram_end}",
                    concat!(".", $mode),
                    "77:",
                    $($line,)+
                    "78:",
                    ".code64",
                    ".popsection",
                    "lea {start}, [rip + 77b]",
                    "lea {end}, [rip + 78b]",
                    start = out(reg) start,
                    end = out(reg) end,
                    gdt_pointer = const $crate::cases::layout::GDT_POINTER,
                    idt_pointer = const $crate::cases::layout::IDT_POINTER,
                    input_port = const $crate::cases::layout::INPUT_PORT,
                    report_port = const $crate::cases::layout::REPORT_PORT,
                    second_port = const $crate::cases::layout::SECOND_PORT,
                    third_port = const $crate::cases::layout::THIRD_PORT,
                    scratch = const $crate::cases::layout::SCRATCH,
                    ram_end = const $crate::cases::layout::RAM_END,
                    options(nomem, nostack, preserves_flags),
                );
                core::slice::from_raw_parts(start, end.offset_from_unsigned(start))
            }
        }
    };
}

pub(crate) use guest_code;
