//! Registers by number and width, and by the names of their parts.

use axaddrspace::device::AccessWidth;

use super::GeneralRegisters;

/// By number.
impl GeneralRegisters {
    /// The number of RSP, which is not among these registers.
    pub const RSP_INDEX: u8 = 4;

    /// The 64-bit register with this number: 0 RAX, 1 RCX, 2 RDX, 3 RBX, 5 RBP, 6 RSI, 7 RDI, 8 to 15 R8 to R15.
    ///
    /// Number 4 reads as 0, because RSP is in the VMCS (see [`VmxVcpu::stack_pointer`](crate::VmxVcpu::stack_pointer)). Numbers
    /// above 15, which no instruction can encode, read as 0 too.
    pub const fn get_reg_of_index(&self, index: u8) -> u64 {
        match index {
            0 => self.rax,
            1 => self.rcx,
            2 => self.rdx,
            3 => self.rbx,
            5 => self.rbp,
            6 => self.rsi,
            7 => self.rdi,
            8 => self.r8,
            9 => self.r9,
            10 => self.r10,
            11 => self.r11,
            12 => self.r12,
            13 => self.r13,
            14 => self.r14,
            15 => self.r15,
            _ => 0,
        }
    }

    /// Sets the 64-bit register with this number. For number 4 and those above 15 nothing is written.
    pub const fn set_reg_of_index(&mut self, index: u8, value: u64) {
        let register = match index {
            0 => &mut self.rax,
            1 => &mut self.rcx,
            2 => &mut self.rdx,
            3 => &mut self.rbx,
            5 => &mut self.rbp,
            6 => &mut self.rsi,
            7 => &mut self.rdi,
            8 => &mut self.r8,
            9 => &mut self.r9,
            10 => &mut self.r10,
            11 => &mut self.r11,
            12 => &mut self.r12,
            13 => &mut self.r13,
            14 => &mut self.r14,
            15 => &mut self.r15,
            _ => return,
        };
        *register = value;
    }

    /// All of them in the order of their numbers; what stands for RSP means nothing.
    pub(crate) const fn all(&self) -> [u64; 16] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self._rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// Sets all of them.
    pub(crate) const fn set_all(&mut self, values: &[u64; 16]) {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self._rsp, self.rbp, self.rsi, self.rdi, self.r8, self.r9,
            self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ] = *values;
    }

    /// The low `width` of the register with this number, zero-extended.
    pub const fn read(&self, index: u8, width: AccessWidth) -> u64 {
        self.get_reg_of_index(index) & mask(width)
    }

    /// Writes the low `width` of the register with this number as an instruction of that operand size does; see
    /// [`merge`](Self::merge).
    pub const fn write(&mut self, index: u8, width: AccessWidth, value: u64) {
        let old = self.get_reg_of_index(index);
        self.set_reg_of_index(index, Self::merge(old, width, value));
    }

    /// What a register that holds `old` holds after an instruction wrote `value` to its low `width`.
    ///
    /// Writes of 1 and 2 bytes keep the rest of the register, writes of 4 bytes clear its upper half (SDM Vol. 1,
    /// 3.4.1.1 "General-Purpose Registers in 64-Bit Mode"). Bits of `value` beyond the width are ignored.
    pub const fn merge(old: u64, width: AccessWidth, value: u64) -> u64 {
        match width {
            AccessWidth::Byte => old & !0xFF | value & 0xFF,
            AccessWidth::Word => old & !0xFFFF | value & 0xFFFF,
            AccessWidth::Dword => value & 0xFFFF_FFFF,
            AccessWidth::Qword => value,
        }
    }

    /// The low `width` of a value.
    pub(crate) const fn truncate(value: u64, width: AccessWidth) -> u64 {
        value & mask(width)
    }

    /// EDX:EAX, the pair in which RDMSR, WRMSR, XSETBV and others hold 64 bits.
    pub const fn get_edx_eax(&self) -> u64 {
        (self.rdx & 0xffff_ffff) << 32 | self.rax & 0xffff_ffff
    }

    /// Sets EDX:EAX as RDMSR does: the upper halves of RDX and RAX become 0.
    pub const fn set_edx_eax(&mut self, value: u64) {
        self.rax = value & 0xffff_ffff;
        self.rdx = value >> 32;
    }
}

/// The bits of a register that an access of this width covers.
const fn mask(width: AccessWidth) -> u64 {
    match width {
        AccessWidth::Byte => 0xff,
        AccessWidth::Word => 0xffff,
        AccessWidth::Dword => 0xffff_ffff,
        AccessWidth::Qword => u64::MAX,
    }
}

/// A getter and a setter for each named part of a register: `getter, setter: type = part of register`.
macro_rules! parts {
    ($($get:ident, $set:ident: $type:ty = $width:ident of $register:ident;)+) => {
        /// By name.
        impl GeneralRegisters {
            $(
                #[doc = concat!("The ", stringify!($get), " part of ", stringify!($register), ".")]
                #[inline]
                pub const fn $get(&self) -> $type {
                    self.$register as $type
                }

                #[doc = concat!("Sets the ", stringify!($get), " part of ", stringify!($register), ".")]
                #[doc = ""]
                #[doc = "The rest of the register follows the rules of [`merge`](Self::merge)."]
                #[inline]
                pub const fn $set(&mut self, value: $type) {
                    self.$register = Self::merge(self.$register, AccessWidth::$width, value as u64);
                }
            )+
        }
    };
}

parts! {
    eax, set_eax: u32 = Dword of rax;
    ecx, set_ecx: u32 = Dword of rcx;
    edx, set_edx: u32 = Dword of rdx;
    ebx, set_ebx: u32 = Dword of rbx;
    ebp, set_ebp: u32 = Dword of rbp;
    esi, set_esi: u32 = Dword of rsi;
    edi, set_edi: u32 = Dword of rdi;
    r8d, set_r8d: u32 = Dword of r8;
    r9d, set_r9d: u32 = Dword of r9;
    r10d, set_r10d: u32 = Dword of r10;
    r11d, set_r11d: u32 = Dword of r11;
    r12d, set_r12d: u32 = Dword of r12;
    r13d, set_r13d: u32 = Dword of r13;
    r14d, set_r14d: u32 = Dword of r14;
    r15d, set_r15d: u32 = Dword of r15;

    ax, set_ax: u16 = Word of rax;
    cx, set_cx: u16 = Word of rcx;
    dx, set_dx: u16 = Word of rdx;
    bx, set_bx: u16 = Word of rbx;
    bp, set_bp: u16 = Word of rbp;
    si, set_si: u16 = Word of rsi;
    di, set_di: u16 = Word of rdi;
    r8w, set_r8w: u16 = Word of r8;
    r9w, set_r9w: u16 = Word of r9;
    r10w, set_r10w: u16 = Word of r10;
    r11w, set_r11w: u16 = Word of r11;
    r12w, set_r12w: u16 = Word of r12;
    r13w, set_r13w: u16 = Word of r13;
    r14w, set_r14w: u16 = Word of r14;
    r15w, set_r15w: u16 = Word of r15;

    al, set_al: u8 = Byte of rax;
    cl, set_cl: u8 = Byte of rcx;
    dl, set_dl: u8 = Byte of rdx;
    bl, set_bl: u8 = Byte of rbx;
    bpl, set_bpl: u8 = Byte of rbp;
    sil, set_sil: u8 = Byte of rsi;
    dil, set_dil: u8 = Byte of rdi;
    r8b, set_r8b: u8 = Byte of r8;
    r9b, set_r9b: u8 = Byte of r9;
    r10b, set_r10b: u8 = Byte of r10;
    r11b, set_r11b: u8 = Byte of r11;
    r12b, set_r12b: u8 = Byte of r12;
    r13b, set_r13b: u8 = Byte of r13;
    r14b, set_r14b: u8 = Byte of r14;
    r15b, set_r15b: u8 = Byte of r15;
}

/// The second bytes of the first four registers (AH, CH, DH, BH), by name.
macro_rules! high_bytes {
    ($($get:ident, $set:ident of $register:ident;)+) => {
        /// Second bytes, by name.
        impl GeneralRegisters {
            $(
                #[doc = concat!("The ", stringify!($get), " part of ", stringify!($register), ": its bits 15:8.")]
                #[inline]
                pub const fn $get(&self) -> u8 {
                    (self.$register >> 8) as u8
                }

                #[doc = concat!("Sets the ", stringify!($get), " part of ", stringify!($register), " and no other.")]
                #[inline]
                pub const fn $set(&mut self, value: u8) {
                    self.$register = self.$register & !0xff00 | (value as u64) << 8;
                }
            )+
        }
    };
}

high_bytes! {
    ah, set_ah of rax;
    ch, set_ch of rcx;
    dh, set_dh of rdx;
    bh, set_bh of rbx;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn registers() -> impl Strategy<Value = GeneralRegisters> {
        any::<[u64; 16]>().prop_map(|values| {
            let mut registers = GeneralRegisters::default();
            for (index, value) in (0..).zip(values) {
                registers.set_reg_of_index(index, value);
            }
            registers
        })
    }

    fn width() -> impl Strategy<Value = AccessWidth> {
        prop_oneof![
            Just(AccessWidth::Byte),
            Just(AccessWidth::Word),
            Just(AccessWidth::Dword),
            Just(AccessWidth::Qword)
        ]
    }

    /// The 16 slots in memory order, as the world switch sees them.
    fn slots(registers: &GeneralRegisters) -> [u64; 16] {
        // SAFETY: the type is `repr(C)` and consists of 16 `u64`; its size is checked at build time.
        unsafe { core::mem::transmute(*registers) }
    }

    proptest! {
        #[test]
        fn a_number_names_its_slot_and_no_other(registers in registers(), index: u8, value: u64) {
            let mut changed = registers;
            changed.set_reg_of_index(index, value);
            let exists = index < 16 && index != GeneralRegisters::RSP_INDEX;
            prop_assert_eq!(changed.get_reg_of_index(index), if exists { value } else { 0 });
            for (slot, (&before, after)) in slots(&registers).iter().zip(slots(&changed)).enumerate() {
                let expected = if exists && slot == usize::from(index) { value } else { before };
                prop_assert_eq!(after, expected, "slot {}", slot);
            }
            prop_assert_eq!(GeneralRegisters::register_name(index) == "unknown", index >= 16);
        }

        #[test]
        fn a_narrow_write_is_read_back_and_spares_the_rest(
            registers in registers(), index in 0u8..16, width in width(), value: u64,
        ) {
            prop_assume!(index != GeneralRegisters::RSP_INDEX);
            let mut changed = registers;
            changed.write(index, width, value);
            let covered = width.bits_range();
            let shift = 64 - covered.end;
            prop_assert_eq!(changed.read(index, width), value << shift >> shift);
            let rest = |registers: &GeneralRegisters| registers.get_reg_of_index(index).checked_shr(covered.end as u32);
            match width {
                AccessWidth::Byte | AccessWidth::Word => prop_assert_eq!(rest(&changed), rest(&registers)),
                AccessWidth::Dword => prop_assert_eq!(rest(&changed), Some(0)),
                AccessWidth::Qword => {}
            }
        }

        #[test]
        fn the_register_pair_is_32_bits_each(registers in registers(), value: u64) {
            let mut changed = registers;
            changed.set_edx_eax(value);
            prop_assert_eq!(changed.get_edx_eax(), value);
            prop_assert_eq!((changed.rdx, changed.rax), (value >> 32, value & 0xffff_ffff));
            changed.rdx |= registers.rdx << 32;
            changed.rax |= registers.rax << 32;
            prop_assert_eq!(changed.get_edx_eax(), value);
        }

        #[test]
        fn names_are_the_parts_that_hardware_calls_so(registers in registers(), byte: u8, word: u16, dword: u32) {
            // The machine itself is the oracle: the same writes to a real RAX.
            let mut real: u64 = registers.rax;
            let mut ours = registers;
            // SAFETY: only the named register changes.
            unsafe {
                core::arch::asm!(
                    "mov al, {byte}", byte = in(reg_byte) byte, inout("rax") real, options(nomem, nostack, pure),
                );
            }
            ours.set_al(byte);
            prop_assert_eq!(ours.rax, real);
            // SAFETY: as above.
            unsafe {
                core::arch::asm!("mov ax, {word:x}", word = in(reg) word, inout("rax") real, options(nomem, nostack, pure));
            }
            ours.set_ax(word);
            prop_assert_eq!(ours.rax, real);
            // SAFETY: as above.
            unsafe {
                core::arch::asm!("mov ah, cl", in("cl") byte, inout("rax") real, options(nomem, nostack, pure));
            }
            ours.set_ah(byte);
            prop_assert_eq!(ours.rax, real);
            prop_assert_eq!((ours.ah(), ours.ax(), ours.al()), ((real >> 8) as u8, real as u16, real as u8));
            // SAFETY: as above.
            unsafe {
                core::arch::asm!("mov eax, {dword:e}", dword = in(reg) dword, inout("rax") real, options(nomem, nostack, pure));
            }
            ours.set_eax(dword);
            prop_assert_eq!(ours.rax, real);
        }

        #[test]
        fn parts_agree_with_access_by_number(registers in registers(), value: u64) {
            type Get = fn(&GeneralRegisters) -> u64;
            type Set = fn(&mut GeneralRegisters, u64);
            macro_rules! part {
                ($index:literal, $width:ident, $get:ident, $set:ident) => {
                    ($index, AccessWidth::$width, (|r| r.$get().into()) as Get, (|r, v| r.$set(v as _)) as Set)
                };
            }
            let parts = [
                part!(0, Dword, eax, set_eax), part!(1, Dword, ecx, set_ecx), part!(2, Dword, edx, set_edx),
                part!(3, Dword, ebx, set_ebx), part!(5, Dword, ebp, set_ebp), part!(6, Dword, esi, set_esi),
                part!(7, Dword, edi, set_edi), part!(8, Dword, r8d, set_r8d), part!(9, Dword, r9d, set_r9d),
                part!(10, Dword, r10d, set_r10d), part!(11, Dword, r11d, set_r11d), part!(12, Dword, r12d, set_r12d),
                part!(13, Dword, r13d, set_r13d), part!(14, Dword, r14d, set_r14d), part!(15, Dword, r15d, set_r15d),
                part!(0, Word, ax, set_ax), part!(1, Word, cx, set_cx), part!(2, Word, dx, set_dx),
                part!(3, Word, bx, set_bx), part!(5, Word, bp, set_bp), part!(6, Word, si, set_si),
                part!(7, Word, di, set_di), part!(8, Word, r8w, set_r8w), part!(9, Word, r9w, set_r9w),
                part!(10, Word, r10w, set_r10w), part!(11, Word, r11w, set_r11w), part!(12, Word, r12w, set_r12w),
                part!(13, Word, r13w, set_r13w), part!(14, Word, r14w, set_r14w), part!(15, Word, r15w, set_r15w),
                part!(0, Byte, al, set_al), part!(1, Byte, cl, set_cl), part!(2, Byte, dl, set_dl),
                part!(3, Byte, bl, set_bl), part!(5, Byte, bpl, set_bpl), part!(6, Byte, sil, set_sil),
                part!(7, Byte, dil, set_dil), part!(8, Byte, r8b, set_r8b), part!(9, Byte, r9b, set_r9b),
                part!(10, Byte, r10b, set_r10b), part!(11, Byte, r11b, set_r11b), part!(12, Byte, r12b, set_r12b),
                part!(13, Byte, r13b, set_r13b), part!(14, Byte, r14b, set_r14b), part!(15, Byte, r15b, set_r15b),
            ];
            for (index, width, get, set) in parts {
                prop_assert_eq!(get(&registers), registers.read(index, width));
                let (mut by_name, mut by_number) = (registers, registers);
                set(&mut by_name, value);
                by_number.write(index, width, value);
                prop_assert_eq!(by_name, by_number);
            }
        }
    }
}
