//! Memory that VMX reads by physical address: the VMXON region and the VMCS, the I/O bitmaps and the MSR bitmaps;
//! and the two MSRs that are looked at before there is any of it.

use core::fmt;

use axaddrspace::HostPhysAddr;
use axerrno::{AxResult, ax_err, ax_err_type};
use axvcpu::AxVCpuHal;
use bitflags::bitflags;
use memory_addr::PAGE_SIZE_4K;

use crate::frame::PhysFrame;

/// A VMXON region or a VMCS: one frame that starts with the processor's revision identifier.
///
/// The rest of the frame is zero here, and belongs to the processor as soon as VMXON or VMPTRLD has seen the
/// address (SDM Vol. 3C, 25.2 "Format of the VMCS Region" and 25.11.5 "VMXON Region"). IA32_VMX_BASIC may say
/// that a region needs less than 4 KiB; it never needs more.
pub struct VmxRegion<H: AxVCpuHal> {
    frame: PhysFrame<H>,
}

impl<H: AxVCpuHal> VmxRegion<H> {
    /// A placeholder without memory.
    ///
    /// # Safety
    ///
    /// It must be replaced by [`new`](Self::new) before its address is given to the processor.
    pub const unsafe fn uninit() -> Self {
        Self {
            // SAFETY: the same demand is made on the caller of this function.
            frame: unsafe { PhysFrame::uninit() },
        }
    }

    /// Allocates a region with the given revision identifier (31 bits; a higher bit is ignored).
    ///
    /// `shadow_indicator` makes the region a shadow VMCS, which VM entries refuse and VMREAD and VMWRITE of a
    /// guest may use.
    ///
    /// # Errors
    ///
    /// Those of [`PhysFrame::alloc`].
    pub fn new(revision_id: u32, shadow_indicator: bool) -> AxResult<Self> {
        const SHADOW: u32 = 1 << 31;
        let frame = PhysFrame::alloc_zero()?;
        let header = revision_id & !SHADOW | if shadow_indicator { SHADOW } else { 0 };
        // SAFETY: an allocated frame is 4 KiB of mapped memory, aligned to 4 KiB, that only this value knows of.
        unsafe { frame.as_mut_ptr().cast::<u32>().write(header) };
        Ok(Self { frame })
    }

    /// The region's physical address.
    pub fn phys_addr(&self) -> HostPhysAddr {
        self.frame.start_paddr()
    }

    /// Gives the region another revision identifier, which it must have before the processor sees it first.
    pub(crate) fn set_revision_id(&self, revision_id: u32) {
        let header = self.frame.as_mut_ptr().cast::<u32>();
        if !header.is_null() {
            // SAFETY: the first 4 bytes of an allocated frame; the processor does not use the region yet.
            unsafe { header.write(revision_id & !(1 << 31)) };
        }
    }
}

impl<H: AxVCpuHal> fmt::Debug for VmxRegion<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VmxRegion({:#x})", self.phys_addr())
    }
}

/// A frame used as 32,768 bits, bit 0 being the lowest of byte 0.
struct BitFrame<H: AxVCpuHal> {
    frame: PhysFrame<H>,
}

impl<H: AxVCpuHal> BitFrame<H> {
    const BITS: u32 = PAGE_SIZE_4K as u32 * 8;

    fn filled(ones: bool) -> AxResult<Self> {
        let mut frame = PhysFrame::alloc()?;
        frame.fill(if ones { u8::MAX } else { 0 });
        Ok(Self { frame })
    }

    fn phys_addr(&self) -> HostPhysAddr {
        self.frame.start_paddr()
    }

    /// The word that holds a bit; `None` past the end.
    fn word(&self, bit: u32) -> Option<*mut u64> {
        // wrapping_add because the pointer is not used here, only computed; it is inside the frame.
        (bit < Self::BITS).then(|| self.frame.as_mut_ptr().cast::<u64>().wrapping_add(bit as usize / 64))
    }

    fn get(&self, bit: u32) -> Option<bool> {
        // SAFETY: the word is inside the frame, which is mapped and aligned, and only written through `&mut self`.
        self.word(bit).map(|word| unsafe { word.read() } >> (bit % 64) & 1 != 0)
    }

    /// Sets the bits from `first` up to, not including, `end`; bits past the end do not exist and are left out.
    fn set_range(&mut self, first: u32, end: u32, value: bool) {
        let end = end.min(Self::BITS);
        let mut bit = first;
        while bit < end {
            // The part of the range that lies in this bit's word.
            let stop = end.min((bit / 64 + 1) * 64);
            let mask = u64::MAX >> (64 - (stop - bit)) << (bit % 64);
            if let Some(word) = self.word(bit) {
                // SAFETY: as in `get`; `&mut self` makes this the only access.
                unsafe { word.write(if value { word.read() | mask } else { word.read() & !mask }) };
            }
            bit = stop;
        }
    }
}

/// The two I/O bitmaps: for each port whether an access to it causes an exit.
///
/// Bitmap A has the ports 0 to 7FFFH, bitmap B those from 8000H to FFFFH (SDM Vol. 3C, 25.6.4 "I/O-Bitmap
/// Addresses"). An access of 2 or 4 bytes exits if any of its ports does. One that runs past port FFFFH always
/// exits (26.1.3 "Instructions That Cause VM Exits Conditionally").
pub struct IOBitmap<H: AxVCpuHal> {
    a: BitFrame<H>,
    b: BitFrame<H>,
}

impl<H: AxVCpuHal> IOBitmap<H> {
    /// How many ports there are.
    const PORTS: u32 = 0x1_0000;

    /// No port causes exits.
    ///
    /// # Errors
    ///
    /// Those of [`PhysFrame::alloc`].
    pub fn passthrough_all() -> AxResult<Self> {
        Self::filled(false)
    }

    /// Every port causes exits.
    ///
    /// # Errors
    ///
    /// Those of [`PhysFrame::alloc`].
    pub fn intercept_all() -> AxResult<Self> {
        Self::filled(true)
    }

    fn filled(intercept: bool) -> AxResult<Self> {
        Ok(Self { a: BitFrame::filled(intercept)?, b: BitFrame::filled(intercept)? })
    }

    /// The physical addresses of bitmaps A and B.
    pub fn phys_addr(&self) -> (HostPhysAddr, HostPhysAddr) {
        (self.a.phys_addr(), self.b.phys_addr())
    }

    /// Whether an access to the port causes an exit.
    pub fn get(&self, port: u16) -> bool {
        let port = u32::from(port);
        let bit = if port < BitFrame::<H>::BITS { self.a.get(port) } else { self.b.get(port - BitFrame::<H>::BITS) };
        bit.unwrap_or(true)
    }

    /// Makes one port cause exits, or no more.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a port above FFFFH.
    pub fn set_intercept(&mut self, port: u32, intercept: bool) -> AxResult {
        self.set_intercept_of_range(port, 1, intercept)
    }

    /// Makes `count` ports from `port_base` on cause exits, or no more. A count of 0 changes nothing.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if any of the ports is above FFFFH; then none is changed.
    pub fn set_intercept_of_range(&mut self, port_base: u32, count: u32, intercept: bool) -> AxResult {
        let end = match port_base.checked_add(count) {
            Some(end) if end <= Self::PORTS => end,
            _ => {
                return ax_err!(
                    InvalidInput,
                    format_args!("{count} I/O ports from {port_base:#x} on go beyond port 0xffff")
                );
            }
        };
        let half = BitFrame::<H>::BITS;
        self.a.set_range(port_base, end, intercept);
        self.b.set_range(port_base.saturating_sub(half), end.saturating_sub(half), intercept);
        Ok(())
    }
}

impl<H: AxVCpuHal> fmt::Debug for IOBitmap<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b) = self.phys_addr();
        write!(f, "IOBitmap({a:#x}, {b:#x})")
    }
}

/// The four MSR bitmaps, which are one frame: for each MSR whether RDMSR and whether WRMSR causes an exit.
///
/// They cover the low MSRs 0 to 1FFFH and the high ones C000_0000H to C000_1FFFH; every other number always
/// causes an exit (SDM Vol. 3C, 25.6.9 "MSR-Bitmap Address").
pub struct MsrBitmap<H: AxVCpuHal> {
    bits: BitFrame<H>,
}

impl<H: AxVCpuHal> MsrBitmap<H> {
    /// No MSR that has a bit causes exits.
    ///
    /// # Errors
    ///
    /// Those of [`PhysFrame::alloc`].
    pub fn passthrough_all() -> AxResult<Self> {
        Ok(Self { bits: BitFrame::filled(false)? })
    }

    /// Every MSR causes exits.
    ///
    /// # Errors
    ///
    /// Those of [`PhysFrame::alloc`].
    pub fn intercept_all() -> AxResult<Self> {
        Ok(Self { bits: BitFrame::filled(true)? })
    }

    /// The frame's physical address.
    pub fn phys_addr(&self) -> HostPhysAddr {
        self.bits.phys_addr()
    }

    /// Whether RDMSR of this MSR causes an exit.
    pub fn read_intercepted(&self, msr: u32) -> bool {
        self.get(msr, Access::Read)
    }

    /// Whether WRMSR of this MSR causes an exit.
    pub fn write_intercepted(&self, msr: u32) -> bool {
        self.get(msr, Access::Write)
    }

    /// Makes RDMSR of this MSR cause an exit, or no more.
    ///
    /// # Errors
    ///
    /// `InvalidInput` for an MSR that has no bit and so cannot be passed through. (To intercept it is fine:
    /// the processor does so anyway.)
    pub fn set_read_intercept(&mut self, msr: u32, intercept: bool) -> AxResult {
        self.set(msr, Access::Read, intercept)
    }

    /// Makes WRMSR of this MSR cause an exit, or no more.
    ///
    /// # Errors
    ///
    /// As [`set_read_intercept`](Self::set_read_intercept).
    pub fn set_write_intercept(&mut self, msr: u32, intercept: bool) -> AxResult {
        self.set(msr, Access::Write, intercept)
    }

    fn get(&self, msr: u32, access: Access) -> bool {
        msr_bit(msr, access).and_then(|bit| self.bits.get(bit)).unwrap_or(true)
    }

    fn set(&mut self, msr: u32, access: Access, intercept: bool) -> AxResult {
        match msr_bit(msr, access) {
            Some(bit) => self.bits.set_range(bit, bit + 1, intercept),
            None if intercept => {}
            None => {
                return Err(ax_err_type!(
                    InvalidInput,
                    format_args!("MSR {msr:#x} is not in the MSR bitmaps and cannot be passed through")
                ));
            }
        }
        Ok(())
    }
}

impl<H: AxVCpuHal> fmt::Debug for MsrBitmap<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MsrBitmap({:#x})", self.phys_addr())
    }
}

/// Which instruction an MSR bitmap is about.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// Where in the frame an MSR's bit is: read low, read high, write low, write high, 1 KiB each.
fn msr_bit(msr: u32, access: Access) -> Option<u32> {
    const QUARTER: u32 = 1024 * 8;
    let (quarter, index) = match msr {
        0..=0x1fff => (0, msr),
        0xc000_0000..=0xc000_1fff => (1, msr - 0xc000_0000),
        _ => return None,
    };
    let quarter = match access {
        Access::Read => quarter,
        Access::Write => quarter + 2,
    };
    Some(quarter * QUARTER + index)
}

/// IA32_VMX_BASIC, decoded (SDM Vol. 3D, Appendix A.1 "Basic VMX Information").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmxBasic {
    /// The 31-bit VMCS revision identifier.
    pub revision_id: u32,
    /// How many bytes a VMXON region or a VMCS takes: 1 to 4096.
    pub region_size: u16,
    /// VMX structures must be below 4 GiB; never so on processors with Intel 64.
    pub is_32bit_address: bool,
    /// The memory type for VMX structures: 0 uncacheable, 6 write-back.
    pub mem_type: u8,
    /// Exits for INS and OUTS report segment and address size in the instruction-information field.
    pub io_exit_info: bool,
    /// The TRUE capability MSRs exist, by which some controls that default to 1 may be 0.
    pub vmx_flex_controls: bool,
    /// An injected exception may come with or without an error code, whatever its vector.
    pub any_error_code: bool,
}

impl VmxBasic {
    /// The value of `mem_type` for write-back memory.
    pub const VMX_MEMORY_TYPE_WRITE_BACK: u8 = 6;

    /// Decodes the MSR's value.
    pub const fn from_bits(raw: u64) -> Self {
        Self {
            revision_id: raw as u32 & 0x7fff_ffff,
            region_size: (raw >> 32 & 0x1fff) as u16,
            is_32bit_address: raw & 1 << 48 != 0,
            mem_type: (raw >> 50 & 0xf) as u8,
            io_exit_info: raw & 1 << 54 != 0,
            vmx_flex_controls: raw & 1 << 55 != 0,
            any_error_code: raw & 1 << 56 != 0,
        }
    }
}

bitflags! {
    /// IA32_FEATURE_CONTROL, as far as it is about VMX (SDM Vol. 3C, 24.7 "Enabling and Entering VMX Operation").
    ///
    /// Other bits of the MSR must be kept as they are when it is written.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FeatureControlFlags: u64 {
        /// The MSR can no more be written until reset. Without it VMXON is #GP.
        const LOCKED = 1 << 0;
        /// VMXON is allowed in SMX operation.
        const VMXON_ENABLED_INSIDE_SMX = 1 << 1;
        /// VMXON is allowed outside SMX operation, which is where hosts are.
        const VMXON_ENABLED_OUTSIDE_SMX = 1 << 2;
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::frame::mock::HeapHal;

    /// The bytes that the processor would read at a physical address.
    fn memory(frame: HostPhysAddr) -> Vec<u8> {
        // SAFETY: the mock HAL's physical addresses are virtual ones, and the tests pass live frames only.
        unsafe { core::slice::from_raw_parts(core::ptr::with_exposed_provenance::<u8>(frame.as_usize()), 4096) }
            .to_vec()
    }

    /// The processor's rule for a port, read from memory as the manual states it.
    fn port_exits(bitmap: &IOBitmap<HeapHal>, port: u16) -> bool {
        let (a, b) = bitmap.phys_addr();
        let frame = memory(if port < 0x8000 { a } else { b });
        let bit = usize::from(port) & 0x7fff;
        frame[bit / 8] >> (bit % 8) & 1 == 1
    }

    /// The processor's rule for an MSR, as the manual states it.
    fn msr_exits(bitmap: &MsrBitmap<HeapHal>, msr: u32, write: bool) -> bool {
        let offset = match (msr, write) {
            (0..=0x1fff, false) => 0,
            (0xc000_0000..=0xc000_1fff, false) => 1024,
            (0..=0x1fff, true) => 2048,
            (0xc000_0000..=0xc000_1fff, true) => 3072,
            _ => return true,
        };
        let bit = msr as usize & 0x1fff;
        memory(bitmap.phys_addr())[offset + bit / 8] >> (bit % 8) & 1 == 1
    }

    /// Ports and counts around every border, and any.
    fn port() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..0x1_0010, 0x7ff0u32..0x8010, 0xfff0u32..0x1_0010, any::<u32>()]
    }

    /// Ranges of ports, of which many end at a border or just beyond it.
    fn range() -> impl Strategy<Value = (u32, u32)> {
        let ends = prop::sample::select(&[0x8000u32, 0x1_0000]).prop_flat_map(|border| border - 2..=border + 2);
        prop_oneof![
            (port(), prop_oneof![0u32..300, 0u32..0x1_0010, any::<u32>()]),
            (port(), ends).prop_map(|(base, end)| (base, end.saturating_sub(base))),
        ]
    }

    fn msr() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..0x2010, 0xc000_0000u32..0xc000_2010, any::<u32>()]
    }

    #[test]
    fn what_fails_halfway_leaks_nothing() {
        assert!(HeapHal::with_frames(1, IOBitmap::<HeapHal>::intercept_all).is_err());
        assert!(HeapHal::with_frames(0, || VmxRegion::<HeapHal>::new(1, false)).is_err());
        assert_eq!(HeapHal::live(), 0);
    }

    #[test]
    fn a_new_bitmap_passes_all_or_nothing() {
        for intercept in [false, true] {
            let (io, msr) = if intercept {
                (IOBitmap::<HeapHal>::intercept_all(), MsrBitmap::<HeapHal>::intercept_all())
            } else {
                (IOBitmap::passthrough_all(), MsrBitmap::passthrough_all())
            };
            let (io, msr) = (io.unwrap(), msr.unwrap());
            let byte = if intercept { 0xff } else { 0 };
            for frame in [io.phys_addr().0, io.phys_addr().1, msr.phys_addr()] {
                assert!(memory(frame).iter().all(|&b| b == byte));
            }
        }
    }

    proptest! {
        #[test]
        fn a_region_holds_its_identifier_and_nothing_else(revision: u32, shadow: bool) {
            let region = VmxRegion::<HeapHal>::new(revision, shadow).unwrap();
            let bytes = memory(region.phys_addr());
            let (header, rest) = bytes.split_at(4);
            let header = u32::from_le_bytes(header.try_into().unwrap());
            prop_assert_eq!(header << 1, revision << 1);
            prop_assert_eq!(header >> 31 == 1, shadow);
            prop_assert!(rest.iter().all(|&byte| byte == 0));
        }

        #[test]
        fn a_port_range_changes_its_ports_and_no_other((base, count) in range(), intercept: bool) {
            let mut bitmap =
                if intercept { IOBitmap::<HeapHal>::passthrough_all() } else { IOBitmap::intercept_all() }.unwrap();
            let end = u64::from(base) + u64::from(count);
            let result = bitmap.set_intercept_of_range(base, count, intercept);
            prop_assert_eq!(result.is_ok(), end <= 0x1_0000);
            let (a, b) = bitmap.phys_addr();
            let bytes = [memory(a), memory(b)].concat();
            for port in 0..=u16::MAX {
                let inside = result.is_ok() && u64::from(port) >= u64::from(base) && u64::from(port) < end;
                let exits = bytes[usize::from(port) / 8] >> (port % 8) & 1 == 1;
                prop_assert_eq!(exits, inside == intercept, "port {:#x}", port);
            }
        }

        #[test]
        fn ports_read_back_as_the_processor_sees_them(changes: Vec<(u16, u8, bool)>, probes: Vec<u16>) {
            let mut bitmap = IOBitmap::<HeapHal>::passthrough_all().unwrap();
            for (port, count, intercept) in changes {
                // Some of these go beyond the last port and change nothing.
                let _ = bitmap.set_intercept_of_range(port.into(), count.into(), intercept);
                if bitmap.set_intercept(port.into(), intercept).is_ok() {
                    prop_assert_eq!(bitmap.get(port), intercept);
                }
            }
            for port in probes {
                prop_assert_eq!(bitmap.get(port), port_exits(&bitmap, port));
            }
        }

        #[test]
        fn msr_accesses_are_independent(
            changes in prop::collection::vec((msr(), any::<bool>(), any::<bool>()), 0..20), probe in msr(), start: bool,
        ) {
            let mut bitmap =
                if start { MsrBitmap::<HeapHal>::intercept_all() } else { MsrBitmap::passthrough_all() }.unwrap();
            let covered = |msr: u32| msr <= 0x1fff || (0xc000_0000..=0xc000_1fff).contains(&msr);
            for &(msr, write, intercept) in &changes {
                let result = if write {
                    bitmap.set_write_intercept(msr, intercept)
                } else {
                    bitmap.set_read_intercept(msr, intercept)
                };
                prop_assert_eq!(result.is_ok(), covered(msr) || intercept);
            }
            for msr in changes.iter().map(|&(msr, ..)| msr).chain([probe]) {
                for write in [false, true] {
                    let last = changes.iter().rev().find(|change| change.0 == msr && change.1 == write);
                    let expected = !covered(msr) || last.map_or(start, |change| change.2);
                    prop_assert_eq!(msr_exits(&bitmap, msr, write), expected);
                    let reported =
                        if write { bitmap.write_intercepted(msr) } else { bitmap.read_intercepted(msr) };
                    prop_assert_eq!(reported, expected);
                }
            }
        }

        #[test]
        fn basic_information_is_taken_apart_without_loss(raw: u64) {
            let basic = VmxBasic::from_bits(raw);
            let again = u64::from(basic.revision_id)
                | u64::from(basic.region_size) << 32
                | u64::from(basic.is_32bit_address) << 48
                | u64::from(basic.mem_type) << 50
                | u64::from(basic.io_exit_info) << 54
                | u64::from(basic.vmx_flex_controls) << 55
                | u64::from(basic.any_error_code) << 56;
            prop_assert_eq!(again, raw & 0x01fd_1fff_7fff_ffff);
        }
    }
}
