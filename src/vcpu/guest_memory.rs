//! Guest memory of a vCPU: its state in the terms of [`crate::guest_memory`], and guest-physical memory through its EPT.

use core::arch::asm;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use axaddrspace::{AxMmHal, GuestPhysAddr, HostPhysAddr, MappingFlags};
use axerrno::{AxResult, ax_err_type};
use axvcpu::AxVCpuHal;
use memory_addr::PAGE_SIZE_4K;
use x86_64::instructions::interrupts::without_interrupts;

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, Proof, rights};
use super::mode::ModeRegisters;
use crate::ept::{EptRules, translate};
use crate::guest_memory::{
    AccessError, AccessKind, AddressSize, GuestException, GuestMemory, GuestView, LinearMode, Paging, PagingMode,
    Segment, SegmentRegister, UnmappedGuestMemory,
};
use crate::regs::rflags;
use crate::rules::control_registers::{CR0_PE, CR4_LA57, CR4_PKE, EFER_LMA};

/// The EPT memory type of ordinary memory.
const WRITE_BACK: u8 = 6;

/// # Guest memory
impl<B: Backend> Vcpu<B> {
    /// How the guest's code sees memory now: its mode, paging and privilege. It is a snapshot, and does not follow later changes.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled.
    #[doc(alias = "snapshot")]
    pub fn guest_view(&self) -> AxResult<GuestView> {
        self.view(Anywhere)
    }

    /// [`guest_view`](Self::guest_view). The proof that the control structure is current saves the search for it.
    pub(crate) fn view(&self, proof: impl Proof<B::Current>) -> AxResult<GuestView> {
        let registers = self.mode_registers(proof)?;
        let info = self.walk_info(proof, registers)?;
        let rflags = self.backend.read(proof, GuestField::RFLAGS)?;
        let mut paging = Paging::new(&info, self.paging_support.physical_bits)?;
        paging.gib_pages = self.paging_support.gib_pages;
        paging.pse36 = self.paging_support.pse36;
        paging.ac = rflags & rflags::AC != 0;
        if paging.mode == PagingMode::Pae {
            paging.pdptes = [
                self.backend.read(proof, GuestField::PDPTE0)?,
                self.backend.read(proof, GuestField::PDPTE1)?,
                self.backend.read(proof, GuestField::PDPTE2)?,
                self.backend.read(proof, GuestField::PDPTE3)?,
            ];
        }
        if registers.cr4 & CR4_PKE != 0 {
            paging.pkru = Some(self.xstate.pkru());
        }
        Ok(GuestView { mode: self.linear_mode(proof, registers, rflags)?, paging, user: info.is_user_mode_access })
    }

    fn linear_mode(
        &self,
        proof: impl Proof<B::Current>,
        registers: ModeRegisters,
        rflags: u64,
    ) -> AxResult<LinearMode> {
        let ModeRegisters { cr0, cr4, efer } = registers;
        let long = efer & EFER_LMA != 0;
        if long && self.backend.read(proof, GuestField::CS_RIGHTS)? & rights::LONG != 0 {
            return Ok(LinearMode::Long { bits: if cr4 & CR4_LA57 != 0 { 57 } else { 48 } });
        }
        let protected = cr0 & CR0_PE != 0 && (long || rflags & rflags::VM == 0);
        Ok(if protected { LinearMode::Protected } else { LinearMode::Real })
    }

    /// The linear address of an access of `size` bytes (1 to 4096) at `offset` in a segment of the guest, by all rules of its
    /// present mode.
    ///
    /// # Errors
    /// `BadState` where VMX is not enabled; in the inner result #SS(0) or #GP(0).
    pub fn linear_address(
        &self,
        view: &GuestView,
        register: SegmentRegister,
        offset: u64,
        address_size: AddressSize,
        size: u64,
        kind: AccessKind,
    ) -> AxResult<Result<u64, GuestException>> {
        let flat = Segment { base: 0, limit: u32::MAX, rights: 0 };
        let segment = match (view.mode, register) {
            // Limit and rights do not count in 64-bit mode, nor bases but those of FS and GS.
            (LinearMode::Long { .. }, SegmentRegister::Fs | SegmentRegister::Gs) => {
                Segment { base: self.segment_base(register)?, ..flat }
            }
            (LinearMode::Long { .. }, _) => flat,
            _ => self.segment(register)?,
        };
        Ok(view.linear(register, &segment, offset, address_size, size, kind))
    }

    /// Guest-physical memory, reached through the EPT of this vCPU and the host's mapping of physical memory. This is for callers
    /// that have no [`GuestMemory`] of their own. It borrows the vCPU, whose EPT so does not change meanwhile.
    ///
    /// # Errors
    /// `BadState` for a vCPU that has no EPT or is not bound.
    pub fn guest_memory(&self) -> AxResult<EptMemory<'_, B::Hal>> {
        // SAFETY: the vCPU is borrowed for that long, and its EPT changes by `&mut self` only.
        unsafe { self.unborrowed_guest_memory() }
    }

    /// [`guest_memory`](Self::guest_memory) without the borrow, where other parts of the vCPU are changed meanwhile.
    ///
    /// # Safety
    /// The vCPU keeps its EPT for `'a`.
    pub(crate) unsafe fn unborrowed_guest_memory<'a>(&self) -> AxResult<EptMemory<'a, B::Hal>>
    where
        B::Hal: 'a,
    {
        let (root, rules) = self.ept_and_rules()?;
        Ok(EptMemory { root, rules, vcpu: PhantomData })
    }

    /// The root of the EPT, and what the processor that the vCPU is bound to makes of it.
    pub(crate) fn ept_and_rules(&self) -> AxResult<(HostPhysAddr, EptRules)> {
        let root = self.ept.root().ok_or_else(|| ax_err_type!(BadState, "the vCPU has no EPT"))?;
        Ok((root, self.backend.ept_rules(self.ept.format())?))
    }

    /// Reads the guest's memory by linear address, with the rights that its code has now. Accessed flags of its page tables are
    /// set, as by a read of the guest.
    ///
    /// # Errors
    /// `BadState` for a vCPU that has no EPT or is not bound. The inner result says why the guest itself could not have
    /// read there.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use x86_vcpu::{AccessError, PhysFrameHal, VmxVcpu};
    ///
    /// /// A hypercall gave the linear address and the length of a text. Reads it with the rights that the guest's code has.
    /// fn print_text(vcpu: &mut VmxVcpu<PhysFrameHal>, address: u64, length: usize) -> AxResult {
    ///     let mut buffer = [0; 256];
    ///     let text = &mut buffer[..length.min(256)];
    ///     match vcpu.read_guest(address, text)? {
    ///         Ok(()) => log::info!("{}", core::str::from_utf8(text).unwrap_or("not UTF-8")),
    ///         // The guest's page tables do not allow it. Its code would get this exception.
    ///         Err(AccessError::Guest(exception)) => log::warn!("no such text: {exception:?}"),
    ///         // The EPT does not map it: bring the memory, and try again.
    ///         Err(AccessError::Memory(missing)) => log::warn!("{missing:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("gva", "copy_from_guest"))]
    pub fn read_guest(&self, linear: u64, bytes: &mut [u8]) -> AxResult<Result<(), AccessError>> {
        let view = self.guest_view()?;
        Ok(view.read(&self.guest_memory()?, linear, bytes, view.access(AccessKind::Read)))
    }

    /// Writes the guest's memory by linear address, with the rights that its code has now. Accessed and dirty flags of its page
    /// tables are set, as by a write of the guest.
    ///
    /// # Errors
    /// As [`read_guest`](Self::read_guest).
    #[doc(alias("gva", "copy_to_guest"))]
    pub fn write_guest(&mut self, linear: u64, bytes: &[u8]) -> AxResult<Result<(), AccessError>> {
        let view = self.guest_view()?;
        Ok(view.write(&self.guest_memory()?, linear, bytes, view.access(AccessKind::Write)))
    }
}

/// Guest-physical memory through an EPT. It reaches what the EPT maps as write-back memory, with the rights that the EPT
/// gives. It does not change accessed and dirty flags of the EPT.
#[derive(Clone, Copy)]
pub struct EptMemory<'a, H: AxVCpuHal> {
    root: HostPhysAddr,
    rules: EptRules,
    /// Not to be sent to another processor, as no borrow of a vCPU is: see [`EptInvalidator`](crate::EptInvalidator).
    vcpu: PhantomData<(&'a H, *const ())>,
}

impl<H: AxVCpuHal> EptMemory<'_, H> {
    /// Whether bytes that lie in one page can be written, without writing them.
    pub(crate) fn check_write(&self, address: GuestPhysAddr, size: usize) -> Result<(), UnmappedGuestMemory> {
        without_interrupts(|| self.find(address, size, MappingFlags::WRITE).map(drop))
    }

    /// Where bytes that lie in one page are in the host, if the EPT allows the access. Interrupts are off until they have
    /// been accessed: see [`EptInvalidator`](crate::EptInvalidator).
    fn find(&self, address: GuestPhysAddr, size: usize, needed: MappingFlags) -> Result<*mut u8, UnmappedGuestMemory> {
        let unreachable = UnmappedGuestMemory { address, write: needed.contains(MappingFlags::WRITE) };
        if address.as_usize() % PAGE_SIZE_4K + size > PAGE_SIZE_4K {
            return Err(unreachable);
        }
        let found = translate(self.root, self.rules, address, |entry| Some(read_table_entry::<H>(entry)))
            .map_err(|_| unreachable)?;
        // Other memory types are devices', which the host need not have mapped where its HAL maps memory.
        if found.memory_type != WRITE_BACK || !found.allowed.contains(needed) {
            return Err(unreachable);
        }
        Ok(H::MmHal::phys_to_virt(found.paddr).as_mut_ptr())
    }

    /// Reads bytes that lie in one page, if the EPT allows the access.
    fn copy_out(
        &self,
        address: GuestPhysAddr,
        bytes: &mut [u8],
        needed: MappingFlags,
    ) -> Result<(), UnmappedGuestMemory> {
        without_interrupts(|| {
            let place = self.find(address, bytes.len(), needed)?;
            // SAFETY: memory of the guest that the EPT maps, in one page: the caller of the crate answers for it being
            // memory that the host has mapped where its HAL says.
            unsafe { copy(place, bytes.as_mut_ptr(), bytes.len()) };
            Ok(())
        })
    }
}

impl<H: AxVCpuHal> GuestMemory for EptMemory<'_, H> {
    fn read(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory> {
        self.copy_out(address, bytes, MappingFlags::READ)
    }

    fn fetch(&self, address: GuestPhysAddr, bytes: &mut [u8]) -> Result<(), UnmappedGuestMemory> {
        self.copy_out(address, bytes, MappingFlags::EXECUTE)
    }

    fn write(&self, address: GuestPhysAddr, bytes: &[u8]) -> Result<(), UnmappedGuestMemory> {
        without_interrupts(|| {
            let place = self.find(address, bytes.len(), MappingFlags::WRITE)?;
            // SAFETY: as for `copy_out`; no reference of the host's points to memory of the guest.
            unsafe { copy(bytes.as_ptr(), place, bytes.len()) };
            Ok(())
        })
    }

    fn compare_exchange(
        &self,
        address: GuestPhysAddr,
        width: usize,
        current: u64,
        new: u64,
    ) -> Result<bool, UnmappedGuestMemory> {
        without_interrupts(|| {
            let place = self.find(address, width, MappingFlags::READ | MappingFlags::WRITE)?;
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            if !place.addr().is_multiple_of(width.max(1)) {
                return Err(UnmappedGuestMemory { address, write: true });
            }
            // SAFETY: as for `write`, and aligned; the guest's processors access it atomically too.
            unsafe {
                match width {
                    4 => Ok(AtomicU32::from_ptr(place.cast())
                        .compare_exchange(current as u32, new as u32, success, failure)
                        .is_ok()),
                    8 => Ok(AtomicU64::from_ptr(place.cast()).compare_exchange(current, new, success, failure).is_ok()),
                    _ => Err(UnmappedGuestMemory { address, write: true }),
                }
            }
        })
    }
}

/// Copies between memory of the guest and of the host. The guest may access its own at any time, so instructions do this that
/// the compiler neither knows nor repeats. One instruction moves 1, 2, 4 or 8 bytes.
///
/// # Safety
/// Both are `size` bytes that the host may access so, and do not overlap.
#[inline(always)]
unsafe fn copy(from: *const u8, to: *mut u8, size: usize) {
    /// From how many bytes on a repeated instruction is worth its start.
    const MANY: usize = 128;
    const WORD: usize = 8;
    macro_rules! move_at {
        ($at:expr, $class:ident, $register:literal) => {
            asm!(concat!("mov ", $register, ", [{from}]"), concat!("mov [{to}], ", $register),
                 value = out($class) _, from = in(reg) from.wrapping_add($at), to = in(reg) to.wrapping_add($at),
                 options(nostack, preserves_flags))
        };
    }
    let mut at = 0;
    // SAFETY: all that is moved is within the `size` bytes.
    unsafe {
        match size {
            2 => move_at!(0, reg, "{value:x}"),
            4 => move_at!(0, reg, "{value:e}"),
            WORD.. => {
                if size >= MANY {
                    at = size & !(WORD - 1);
                    asm!("rep movsq", inout("rcx") size / WORD => _, inout("rsi") from => _, inout("rdi") to => _,
                         options(nostack, preserves_flags));
                }
                while at + WORD < size {
                    move_at!(at, reg, "{value:r}");
                    at += WORD;
                }
                // The last word may overlap the one before.
                move_at!(size - WORD, reg, "{value:r}");
            }
            _ => {
                while at < size {
                    move_at!(at, reg_byte, "{value}");
                    at += 1;
                }
            }
        }
    }
}

/// Reads an entry of an EPT table.
pub(crate) fn read_table_entry<H: AxVCpuHal>(address: HostPhysAddr) -> u64 {
    let pointer = H::MmHal::phys_to_virt(address).as_ptr().cast::<u64>();
    // SAFETY: a table of the EPT, 8 bytes at a multiple of that: the caller of the crate answers for it being memory that
    // the host has mapped where its HAL says. The caller may change it at any time, so it is read once.
    unsafe { pointer.read_volatile() }
}
