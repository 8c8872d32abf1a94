//! What an emulation needs of the vCPU: the instruction at RIP, and where its operands lie.

use axaddrspace::GuestPhysAddr;
use axerrno::AxResult;
use iced_x86::{Decoder, DecoderError, DecoderOptions};

use super::decoded::Decoded;
use super::fetched::{Code, Fetched};
use super::shape::{CodeSize, Place, Role};
use super::{LONGEST, Refusal, Slot};
use crate::guest_memory::{
    AccessKind, AddressSize, GuestException, GuestMemory, GuestView, PAGE_SIZE, SegmentRegister, SplitAccess,
    UnmappedGuestMemory,
};

/// The access for which the instruction is emulated, as the processor translated it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Translated {
    pub(crate) linear: u64,
    pub(crate) address: GuestPhysAddr,
}

impl Translated {
    /// Whether it was for these bytes, all in one page.
    fn covers(&self, linear: u64, size: usize) -> bool {
        let offset = linear % PAGE_SIZE;
        self.linear == linear
            && self.address.as_usize() as u64 % PAGE_SIZE == offset
            && offset + size as u64 <= PAGE_SIZE
    }
}

/// What an emulation needs of the vCPU.
pub(crate) struct EmulatorContext<'a, M> {
    pub(crate) view: &'a GuestView,
    pub(crate) code: CodeSize,
    pub(crate) memory: &'a M,
    pub(crate) decoded: &'a Decoded,
    /// A read that the processor translated.
    pub(crate) translated: Option<Translated>,
    /// Whether a guest-physical address is a device's.
    pub(crate) is_device: &'a dyn Fn(GuestPhysAddr) -> bool,
    /// The linear address of an access: segment, offset, address size, bytes, kind.
    pub(crate) linear: &'a LinearAddress<'a>,
}

type LinearAddress<'a> =
    dyn Fn(SegmentRegister, u64, AddressSize, u64, AccessKind) -> AxResult<Result<u64, GuestException>> + 'a;

impl<M: GuestMemory> EmulatorContext<'_, M> {
    /// The instruction at RIP, and its bytes. A second page is fetched from only if the instruction continues there.
    pub(crate) fn fetch(&self, rip: u64) -> Result<Fetched, (Refusal, Code)> {
        let mut code = Code::default();
        loop {
            let at = rip.wrapping_add(code.length as u64);
            let (linear, most) = match self.code_address(at, LONGEST - code.length) {
                Ok(found) => found,
                Err(refusal) => return Err((refusal, code)),
            };
            let size = (4096 - linear as usize % 4096).min(most);
            let bytes = &mut code.bytes[code.length..code.length + size];
            if let Err(error) = self.view.read(self.memory, linear, bytes, self.view.access(AccessKind::Fetch)) {
                return Err((error.into(), code));
            }
            code.length += size;
            if let Some(fetched) = self.decoded.find(rip, self.code, &code) {
                return Ok(fetched);
            }
            let mut decoder = Decoder::with_ip(self.code.bits, code.bytes(), rip, DecoderOptions::NONE);
            let instruction = decoder.decode();
            match decoder.last_error() {
                DecoderError::None => {
                    code.length = instruction.len().min(LONGEST);
                    return Ok(Fetched { instruction, code, known: false });
                }
                DecoderError::NoMoreBytes if code.length < LONGEST => {}
                _ => return Err((Refusal::Unknown, code)),
            }
        }
    }

    /// The linear address of code, and how much of `most` may be fetched there: the limit may end before an instruction could
    /// be over, and then counts for each byte.
    fn code_address(&self, at: u64, most: usize) -> Result<(u64, usize), Refusal> {
        let address =
            |size| self.linear_address(SegmentRegister::Cs, at, AddressSize::Bits64, size as u64, AccessKind::Fetch);
        match address(most) {
            Ok(linear) => Ok((linear, most)),
            Err(_) => Ok((address(1)?, 1)),
        }
    }

    fn linear_address(
        &self,
        segment: SegmentRegister,
        offset: u64,
        address_size: AddressSize,
        size: u64,
        kind: AccessKind,
    ) -> Result<u64, Refusal> {
        match (self.linear)(segment, offset, address_size, size, kind) {
            Ok(Ok(linear)) => Ok(linear),
            Ok(Err(exception)) => Err(Refusal::Exception(exception)),
            Err(error) => Err(Refusal::Host(error)),
        }
    }

    pub(super) fn locate(&self, place: Place) -> Result<Slot, Refusal> {
        let kind = place.role.kind();
        let linear = self.linear_address(place.segment, place.offset, place.address_size, place.size as u64, kind)?;
        let pieces = match &self.translated {
            Some(translated) if place.role == Role::Read && translated.covers(linear, place.size) => SplitAccess {
                first: translated.address,
                first_size: place.size,
                second: translated.address,
                second_size: 0,
            },
            _ => self.view.locate(self.memory, linear, place.size, self.view.access(kind))?,
        };
        let device = [(self.is_device)(pieces.first), pieces.second_size > 0 && (self.is_device)(pieces.second)];
        let slot = Slot { place, pieces, device, data: [0; 32] };
        // What cannot be reached is found before a device is asked for anything.
        for (index, (address, size)) in
            [(pieces.first, pieces.first_size), (pieces.second, pieces.second_size)].into_iter().enumerate()
        {
            if size > 0 && !device[index] {
                self.probe(address, place.role.writes()).map_err(Refusal::Memory)?;
            }
        }
        Ok(slot)
    }
}

impl<M: GuestMemory> EmulatorContext<'_, M> {
    /// Whether memory can be read or written at all. A compare-exchange that changes nothing tests writing.
    pub(super) fn probe(&self, address: GuestPhysAddr, write: bool) -> Result<(), UnmappedGuestMemory> {
        let word = GuestPhysAddr::from(address.as_usize() & !3);
        let mut bytes = [0; 4];
        self.memory.read(word, &mut bytes)?;
        if write {
            let value = u32::from_le_bytes(bytes).into();
            self.memory.compare_exchange(word, bytes.len(), value, value)?;
        }
        Ok(())
    }
}
