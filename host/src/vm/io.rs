//! Widths of port accesses.

use axaddrspace::device::AccessWidth;

pub fn bytes(width: AccessWidth) -> u8 {
    match width {
        AccessWidth::Byte => 1,
        AccessWidth::Word => 2,
        // A port access has at most four bytes.
        AccessWidth::Dword | AccessWidth::Qword => 4,
    }
}
