//! From a segment and an offset to a linear address: base, limit, type, canonical form, and the wrap at the address size
//! (SDM Vol. 3A, chapter 5, "Protection", 5.3 "Limit Checking" and 5.5 "Type Checking"; Vol. 1, 3.3.7.1 "Canonical
//! Addressing").

use super::{AccessKind, GuestException};
use crate::rules::vector;

/// A segment register by its number in instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentRegister {
    /// ES, the destination of string instructions.
    Es = 0,
    /// CS, of instructions.
    Cs = 1,
    /// SS, of the stack.
    Ss = 2,
    /// DS, of most data.
    Ds = 3,
    /// FS
    Fs = 4,
    /// GS
    Gs = 5,
}

/// What a segment register holds, as the VMCS has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u32,
    /// Access rights (SDM Vol. 3C, table 25-2, "Format of Access Rights"): type in bits 3:0, D/B bit 14, unusable bit 16.
    pub rights: u32,
}

impl Segment {
    const WRITABLE_OR_READABLE: u32 = 1 << 1;
    const EXPAND_DOWN: u32 = 1 << 2;
    const CODE: u32 = 1 << 3;
    const BIG: u32 = 1 << 14;
    const UNUSABLE: u32 = 1 << 16;

    fn has(&self, bit: u32) -> bool {
        self.rights & bit != 0
    }

    /// Whether the type allows the access in protected mode. CS is executable there.
    fn allows(&self, kind: AccessKind) -> bool {
        match kind {
            AccessKind::Read => !self.has(Self::CODE) || self.has(Self::WRITABLE_OR_READABLE),
            AccessKind::Write => !self.has(Self::CODE) && self.has(Self::WRITABLE_OR_READABLE),
            AccessKind::Fetch => true,
        }
    }

    /// Whether `size` bytes from an offset lie within the limit.
    fn contains(&self, offset: u64, size: u64) -> bool {
        let last = offset + size - 1;
        let limit = u64::from(self.limit);
        if self.rights & (Self::CODE | Self::EXPAND_DOWN) == Self::EXPAND_DOWN {
            let upper = if self.has(Self::BIG) { u32::MAX.into() } else { 0xFFFF };
            return offset > limit && last <= upper;
        }
        // Beyond 4 GiB an access to a segment of that size wraps to 0, or faults: the SDM leaves that to the processor.
        last <= limit || self.limit == u32::MAX
    }
}

/// Width of an offset: what the instruction's address-size attribute says, or in 64-bit mode the stack's and the
/// instruction pointer's 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSize {
    /// 16 bits: offsets wrap at 64 KiB.
    Bits16,
    /// 32 bits: offsets wrap at 4 GiB, also in 64-bit mode.
    Bits32,
    /// 64 bits.
    Bits64,
}

impl AddressSize {
    /// The bits that an offset of this width, or a counter that goes with it, has.
    pub const fn mask(self) -> u64 {
        match self {
            Self::Bits16 => 0xFFFF,
            Self::Bits32 => 0xFFFF_FFFF,
            Self::Bits64 => u64::MAX,
        }
    }
}

/// How the guest's present mode makes linear addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearMode {
    /// Real-address and virtual-8086 mode: limits are checked, types are not.
    Real,
    /// Protected mode and compatibility mode.
    Protected,
    /// 64-bit mode: bases of FS and GS only, and canonical addresses.
    Long {
        /// How many bits a linear address has: 48, or 57 with CR4.LA57.
        bits: u8,
    },
}

impl LinearMode {
    /// The linear address of `size` bytes at an offset in a segment.
    ///
    /// `size` is 1 to 4096 bytes. The offset is cut to the address size. Outside 64-bit mode the result has 32 bits, and the
    /// bytes after it wrap at 4 GiB.
    ///
    /// # Errors
    /// #SS(0) for the stack segment, #GP(0) for the others.
    pub fn linear(
        self,
        register: SegmentRegister,
        segment: &Segment,
        offset: u64,
        address_size: AddressSize,
        size: u64,
        kind: AccessKind,
    ) -> Result<u64, GuestException> {
        let outside = || {
            let vector = if register == SegmentRegister::Ss { vector::SS } else { vector::GP };
            GuestException::with_code_zero(vector)
        };
        let (offset, size) = (offset & address_size.mask(), size.clamp(1, 4096));
        if let Self::Long { bits } = self {
            let base = match register {
                SegmentRegister::Fs | SegmentRegister::Gs => segment.base,
                _ => 0,
            };
            let first = base.wrapping_add(offset);
            let last = first.wrapping_add(size - 1);
            return if is_canonical(first, bits) && is_canonical(last, bits) { Ok(first) } else { Err(outside()) };
        }
        if segment.has(Segment::UNUSABLE) {
            return Err(outside());
        }
        if self == Self::Protected && !segment.allows(kind) {
            return Err(GuestException::with_code_zero(vector::GP));
        }
        // The instruction pointer is never wider than 32 bits here.
        let offset = offset & 0xFFFF_FFFF;
        if !segment.contains(offset, size) {
            return Err(outside());
        }
        Ok(segment.base.wrapping_add(offset) & 0xFFFF_FFFF)
    }

    /// The linear address that follows another by some bytes.
    pub(super) fn step(self, linear: u64, bytes: u64) -> u64 {
        let next = linear.wrapping_add(bytes);
        if matches!(self, Self::Long { .. }) { next } else { next & 0xFFFF_FFFF }
    }
}

/// Whether the bits above the highest that addresses have are all copies of it.
fn is_canonical(address: u64, bits: u8) -> bool {
    let unused = 64 - u32::from(bits.clamp(1, 64));
    (address << unused) as i64 >> unused == address as i64
}
