//! The guest's segment registers.

use axerrno::AxResult;

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField};
use crate::guest_memory::{Segment, SegmentRegister};

/// Access rights (SDM Vol. 3C, table 25-2, "Format of Access Rights"): type, S, DPL and P in bits 7:0, then AVL, L, D/B and G
/// from bit 12; bit 16 marks the register unusable.
pub(crate) mod rights {
    pub(crate) const CODE_16: u64 = 0x9B;
    pub(crate) const DATA_16: u64 = 0x93;
    pub(crate) const CODE_32: u64 = 0xC09B;
    pub(crate) const CODE_64: u64 = 0xA09B;
    pub(crate) const DATA_32: u64 = 0xC093;
    pub(crate) const BUSY_TSS: u64 = 0x8B;
    pub(crate) const LDT: u64 = 0x82;
}

/// What the data-segment registers hold at a start, with base 0.
#[derive(Clone, Copy)]
pub(crate) struct DataSegment {
    pub(crate) selector: u16,
    pub(crate) limit: u32,
    pub(crate) rights: u64,
}

/// The fields of a segment register.
struct Fields {
    selector: GuestField,
    base: GuestField,
    limit: GuestField,
    rights: GuestField,
}

const fn fields(register: SegmentRegister) -> Fields {
    use GuestField as F;
    let (selector, base, limit, rights) = match register {
        SegmentRegister::Es => (F::ES_SELECTOR, F::ES_BASE, F::ES_LIMIT, F::ES_RIGHTS),
        SegmentRegister::Cs => (F::CS_SELECTOR, F::CS_BASE, F::CS_LIMIT, F::CS_RIGHTS),
        SegmentRegister::Ss => (F::SS_SELECTOR, F::SS_BASE, F::SS_LIMIT, F::SS_RIGHTS),
        SegmentRegister::Ds => (F::DS_SELECTOR, F::DS_BASE, F::DS_LIMIT, F::DS_RIGHTS),
        SegmentRegister::Fs => (F::FS_SELECTOR, F::FS_BASE, F::FS_LIMIT, F::FS_RIGHTS),
        SegmentRegister::Gs => (F::GS_SELECTOR, F::GS_BASE, F::GS_LIMIT, F::GS_RIGHTS),
    };
    Fields { selector, base, limit, rights }
}

/// # Segments
impl<B: Backend> Vcpu<B> {
    /// What a segment register of the guest holds: base, limit in bytes, and access rights (SDM Vol. 3C, table 25-2, "Format of
    /// Access Rights").
    ///
    /// # Errors
    /// `BadState` where the guest's state cannot be read.
    pub fn segment(&self, register: SegmentRegister) -> AxResult<Segment> {
        let Fields { base, limit, rights, .. } = fields(register);
        Ok(Segment {
            base: self.backend.read(Anywhere, base)?,
            limit: self.backend.read(Anywhere, limit)? as u32,
            rights: self.backend.read(Anywhere, rights)? as u32,
        })
    }

    /// The base of a segment register alone.
    pub(crate) fn segment_base(&self, register: SegmentRegister) -> AxResult<u64> {
        self.backend.read(Anywhere, fields(register).base)
    }

    pub(crate) fn write_flat_segments(&self, code_rights: u64) {
        self.write_data_segments(DataSegment { selector: 0x18, limit: u32::MAX, rights: rights::DATA_32 });
        self.backend.write(GuestField::CS_SELECTOR, 0x10);
        self.backend.write(GuestField::CS_BASE, 0);
        self.backend.write(GuestField::CS_LIMIT, u32::MAX.into());
        self.backend.write(GuestField::CS_RIGHTS, code_rights);
        // A 32-bit or 64-bit TSS. Its base is that of the reset.
        self.backend.write(GuestField::TR_LIMIT, 0x67);
    }

    pub(crate) fn write_code_segment(&self, selector: u16, base: u64, ip: u64) {
        self.backend.write(GuestField::CS_SELECTOR, selector.into());
        self.backend.write(GuestField::CS_BASE, base);
        self.backend.write(GuestField::CS_LIMIT, 0xFFFF);
        self.backend.write(GuestField::CS_RIGHTS, rights::CODE_16);
        self.backend.write(GuestField::RIP, ip);
    }

    pub(crate) fn write_data_segments(&self, segment: DataSegment) {
        use SegmentRegister::{Ds, Es, Fs, Gs, Ss};
        for register in [Es, Ss, Ds, Fs, Gs] {
            let Fields { selector, base, limit, rights } = fields(register);
            self.backend.write(selector, segment.selector.into());
            self.backend.write(base, 0);
            self.backend.write(limit, segment.limit.into());
            self.backend.write(rights, segment.rights);
        }
    }
}
