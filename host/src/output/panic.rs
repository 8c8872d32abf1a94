//! A panic of the host is a verdict too.

use core::panic::PanicInfo;

use super::verdict;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    match info.location() {
        Some(location) => verdict::end(format_args!("panic: {} ({location})", info.message())),
        None => verdict::end(format_args!("panic: {}", info.message())),
    }
}

/// The precompiled alloc refers to the two functions below; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    verdict::end(format_args!("panic: unwinding"))
}
