//! Images of the extended state as XSAVE and FXSAVE have them: filled with a pattern, and compared register by register.
//!
//! Layout: Intel SDM, Vol. 1, "XSAVE Area" and "Layout of the FXSAVE Area".

use alloc::{format, string::String};

use super::pattern::Pattern;
use crate::cases::check::{CaseResult, fail};

/// Larger than any image of the components below.
pub const SIZE: usize = 4096;
/// What a guest of the crate may have: x87, SSE, AVX, AVX-512's three, PKRU.
const COMPONENTS: u64 = 0x2E7;
const PKRU_OFFSET: usize = 0xA80;

#[repr(C, align(64))]
#[derive(Clone)]
pub struct Image(pub [u8; SIZE]);

/// A register, or a part of one, and where it is in an image.
struct Part {
    name: String,
    offset: usize,
    length: usize,
}

/// The components of XCR0 that this processor has, as far as the crate knows them. 0 without XSAVE.
pub fn components() -> u64 {
    let has_xsave = raw_cpuid::CpuId::new().get_feature_info().is_some_and(|info| info.has_xsave());
    if !has_xsave {
        return 0;
    }
    let leaf = raw_cpuid::cpuid!(0xD, 0);
    (u64::from(leaf.edx) << 32 | u64::from(leaf.eax)) & COMPONENTS
}

impl Image {
    pub fn zeroed() -> Self {
        Self([0; SIZE])
    }

    /// Every register with a value of its own that the processor accepts.
    pub fn filled(pattern: Pattern, components: u64) -> Self {
        let mut image = Self::zeroed();
        for part in parts(components) {
            for (index, byte) in image.0[part.offset..part.offset + part.length].iter_mut().enumerate() {
                *byte = pattern.bits(&part.name).rotate_left(index as u32 * 11) as u8 ^ index as u8;
            }
        }
        // All exceptions masked, so that flags which are set raise nothing.
        let control = pattern.choose([0x0C7Fu16, 0x027F]);
        let status = pattern.choose([0x6A21u16, 0x1514]);
        let tags = pattern.choose([0xFFu8, 0x5A]);
        let mxcsr = pattern.choose([0xFF81u32, 0x3FC2]);
        image.0[0..2].copy_from_slice(&control.to_le_bytes());
        image.0[2..4].copy_from_slice(&status.to_le_bytes());
        image.0[4] = tags;
        image.0[7] &= 0x07;
        // Canonical, in the lower half.
        (image.0[14], image.0[15], image.0[22], image.0[23]) = (0, 0, 0, 0);
        image.0[13] &= 0x7F;
        image.0[21] &= 0x7F;
        // Key 0, which all pages have, forbids nothing: Bochs 2.7 applies it to pages of the supervisor too.
        image.0[PKRU_OFFSET] &= !0b11;
        image.0[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        image.0[512..520].copy_from_slice(&components.to_le_bytes());
        image
    }

    /// Compares all registers but those that `skip` names.
    #[track_caller]
    pub fn expect(&self, expected: &Self, whose: &str, components: u64, skip: impl Fn(&str) -> bool) -> CaseResult {
        for Part { name, offset, length } in parts(components) {
            let range = offset..offset + length;
            if !skip(&name) && self.0[range.clone()] != expected.0[range.clone()] {
                let hex = |bytes: &[u8]| bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect::<String>();
                return fail(
                    format!("{whose} {name} {}", hex(&expected.0[range.clone()])),
                    hex(&self.0[range.clone()]),
                );
            }
        }
        Ok(())
    }
}

fn parts(components: u64) -> impl Iterator<Item = Part> {
    let part = |name: &str, offset, length| Part { name: name.into(), offset, length };
    let legacy = [
        part("FCW", 0, 2),
        part("FSW", 2, 2),
        part("FTW", 4, 1),
        part("FOP", 6, 2),
        part("FIP", 8, 8),
        part("FDP", 16, 8),
        part("MXCSR", 24, 4),
    ];
    let x87 = numbered("ST", 8, 32, 16, 10);
    let xmm = numbered("XMM", 16, 160, 16, 16);
    let groups = [
        (2, "upper half of YMM", 16, 16),
        (5, "opmask K", 8, 8),
        (6, "upper half of ZMM", 16, 32),
        (7, "one of ZMM16 to ZMM31: ", 16, 64),
        (9, "PKRU", 1, 4),
    ];
    let extended = groups.into_iter().filter(move |group| components & (1 << group.0) != 0);
    let extended = extended.flat_map(|(component, name, count, length)| {
        // Bochs 2.7 says nothing of PKRU, which it has, at the place where every processor has it.
        let start = match raw_cpuid::cpuid!(0xD, component).ebx as usize {
            0 => PKRU_OFFSET,
            start => start,
        };
        numbered(name, count, start, length, length)
    });
    legacy.into_iter().chain(x87).chain(xmm).chain(extended)
}

fn numbered(name: &'static str, count: usize, start: usize, step: usize, length: usize) -> impl Iterator<Item = Part> {
    (0..count).map(move |number| Part { name: format!("{name}{number}"), offset: start + number * step, length })
}
