//! Devices in guest-physical memory: which ranges are theirs, and the instruction that accesses one.
//!
//! An EPT violation in a declared range starts an [`Emulation`]. Its access to a device goes to the caller as `MmioRead` or
//! `MmioWrite`. The next run resumes it, and enters the guest only when the instruction is done. [`super::completion`] then
//! completes it like any other. Where memory that it accesses went away in the meantime, the caller gets a
//! `NestedPageFault` for that, and the next run tries again. No device is accessed twice.

use alloc::vec::Vec;
use core::ops::Range;

use axaddrspace::GuestPhysAddr;
use axaddrspace::device::AccessWidth;
use axerrno::{AxResult, ax_err};
use axvcpu::AxVCpuExitReason;

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField, rights};
use super::parts::completion::PendingCompletion;
use super::parts::exit_kind::ExitKind;
use super::parts::requests::Request;
use super::parts::xstate::Vectors;
use crate::emulator::{Code, CodeSize, Decoded, Emulation, EmulatorContext, Progress, Refusal, Registers, Translated};
use crate::ept::EptViolation;
use crate::guest_memory::{GuestView, LinearMode, UnmappedGuestMemory};
use crate::regs::GeneralRegisters;

const PAGE_MASK: usize = !0xFFF;
const RSP: usize = GeneralRegisters::RSP_INDEX as usize;

/// What a vCPU knows of devices in memory.
#[derive(Default)]
pub(crate) struct Mmio {
    /// Sorted, apart from each other, not empty.
    ranges: Vec<Range<usize>>,
    /// The instruction of which the caller got an access.
    pending: Option<Pending>,
    undecoded: Option<MmioUndecoded>,
    /// Instructions that were decoded before.
    decoded: Decoded,
}

struct Pending {
    emulation: Emulation,
    code: Code,
    /// What the device is asked; none where memory is missing.
    access: Option<MmioAccess>,
}

/// One access of a guest's instruction to a device, with what axvcpu's exits do not say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Guest-physical address. It need not be a multiple of the width.
    pub address: GuestPhysAddr,
    /// Width of this access.
    pub width: AccessWidth,
    /// What is written; `None` for a read.
    pub write: Option<u64>,
    /// Bytes of the instruction's operand, of which this access is all or a part: more than 8 for vector moves.
    pub operand_size: usize,
    /// The instruction is to be atomic: it has a LOCK prefix, or is an XCHG. Its read and its write are two accesses.
    pub locked: bool,
    /// For a read: the number of the general register that gets the value, 0 if none does directly.
    pub register: usize,
    /// For a read: how wide that register is.
    pub register_width: AccessWidth,
    /// For a read: the value is sign-extended to the register. The vCPU does it.
    pub sign_extends: bool,
    code: Code,
}

impl MmioAccess {
    /// The bytes of the instruction.
    pub fn instruction(&self) -> &[u8] {
        self.code.bytes()
    }

    fn exit(&self) -> AxVCpuExitReason {
        let (addr, width) = (self.address, self.width);
        match self.write {
            Some(data) => AxVCpuExitReason::MmioWrite { addr, width, data },
            None => AxVCpuExitReason::MmioRead {
                addr,
                width,
                reg: self.register,
                reg_width: self.register_width,
                signed_ext: self.sign_extends,
            },
        }
    }
}

/// An instruction that accesses a device and is not emulated, or cannot go on for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioUndecoded {
    code: Code,
    /// Memory that could not be reached, if that is why: the instruction's own bytes, a page table, or its other operand.
    pub unreachable: Option<UnmappedGuestMemory>,
}

impl MmioUndecoded {
    /// The bytes from RIP on, as far as they could be read: the whole instruction, or more where it has no meaning.
    pub fn bytes(&self) -> &[u8] {
        self.code.bytes()
    }
}

impl Mmio {
    pub(crate) fn contains(&self, address: GuestPhysAddr) -> bool {
        let address = address.as_usize();
        let after = self.ranges.partition_point(|range| range.start <= address);
        after.checked_sub(1).and_then(|index| self.ranges.get(index)).is_some_and(|range| range.contains(&address))
    }

    fn set(&mut self, range: Range<usize>, device: bool) {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 2);
        let mut added = range.clone();
        for old in self.ranges.drain(..) {
            let touches = old.start <= range.end && range.start <= old.end;
            if device && touches {
                added = added.start.min(old.start)..added.end.max(old.end);
                continue;
            }
            let below = old.start..old.end.min(range.start);
            let above = old.start.max(range.end)..old.end;
            ranges.extend([below, above].into_iter().filter(|part| !part.is_empty()));
        }
        if device {
            ranges.push(added);
        }
        ranges.sort_by_key(|range| range.start);
        self.ranges = ranges;
    }

    /// The general register whose `set_gpr` answers the read that waits.
    pub(crate) fn register(&self) -> usize {
        self.access().map_or(0, |access| access.register)
    }

    /// Gives the value of the read that waits.
    pub(crate) fn answer(&mut self, value: u64) {
        if let Some(pending) = &mut self.pending {
            pending.emulation.answer(value);
        }
    }

    fn access(&self) -> Option<&MmioAccess> {
        self.pending.as_ref()?.access.as_ref()
    }

    /// Memory that the instruction of the last exit needs, if that exit was a `NestedPageFault` for it.
    pub(crate) fn missing(&self) -> Option<UnmappedGuestMemory> {
        self.undecoded.as_ref()?.unreachable
    }
}

/// # Devices in memory
impl<B: Backend> Vcpu<B> {
    /// Declares `size` bytes of guest-physical addresses to be a device, or with `device` false not to be any more. At first there
    /// is none. The EPT must not map the range.
    ///
    /// [`run`](axvcpu::AxArchVCpu::run) reports an access to such an address, decoded, as `MmioRead` or `MmioWrite`. Elsewhere an
    /// access that the EPT does not allow is a `NestedPageFault`.
    ///
    /// The first device of the program makes the instruction decoder build its tables: about 4,000 allocations, which take
    /// about 210 KiB of heap. All vCPUs share them, and nothing frees them. Each range takes 16 bytes more.
    ///
    /// # Errors
    /// `InvalidInput` for a range that is empty or goes beyond the addresses that there are.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axaddrspace::GuestPhysAddr;
    /// use axaddrspace::device::AccessWidth;
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// trait Device {
    ///     fn read(&mut self, offset: usize, width: AccessWidth) -> u64;
    ///     fn write(&mut self, offset: usize, width: AccessWidth, value: u64);
    /// }
    ///
    /// const BASE: usize = 0xFED0_0000;
    ///
    /// /// Once. The EPT must not map the range.
    /// fn add_device(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
    ///     vcpu.set_mmio_range(GuestPhysAddr::from(BASE), 0x1000, true)
    /// }
    ///
    /// /// Whatever the instruction was: an OR on the device is a read and then a write.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, device: &mut impl Device) -> AxResult {
    ///     match vcpu.run()? {
    ///         Exit::MmioRead { addr, width, .. } => {
    ///             let value = device.read(addr.as_usize() - BASE, width);
    ///             vcpu.complete_read(value)?; // extended to the register, and flags set, by the vCPU
    ///         }
    ///         Exit::MmioWrite { addr, width, data } => device.write(addr.as_usize() - BASE, width, data),
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("device", "mmio"))]
    pub fn set_mmio_range(&mut self, base: GuestPhysAddr, size: usize, device: bool) -> AxResult {
        let end = base.as_usize().checked_add(size);
        match end {
            Some(end) if size > 0 => {
                if device {
                    crate::emulator::prepare();
                }
                self.mmio.set(base.as_usize()..end, device);
                Ok(())
            }
            _ => ax_err!(InvalidInput, "not a range of addresses"),
        }
    }

    /// The access to a device that the last exit reported, with what `MmioRead` and `MmioWrite` do not say.
    pub fn mmio_access(&self) -> Option<&MmioAccess> {
        self.completion.pending().and(self.mmio.access())
    }

    /// The instruction of the last exit, if that was a `NestedPageFault` because the crate does not emulate the instruction, or
    /// cannot resume it. The instruction accesses a declared range, or [`decode_mmio`](Self::decode_mmio) was called for it.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::{AxResult, ax_err};
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// In a guest whose devices are all declared by `set_mmio_range`.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
    ///     match vcpu.run()? {
    ///         Exit::MmioWrite { addr, .. } if vcpu.mmio_access().is_some_and(|access| access.locked) => {
    ///             log::warn!("an atomic access to the device at {addr:?}, as two accesses");
    ///         }
    ///         Exit::NestedPageFault { addr, .. } => match vcpu.mmio_undecoded() {
    ///             // A device, and an instruction that the crate does not emulate.
    ///             Some(instruction) if instruction.unreachable.is_none() => {
    ///                 log::error!("{addr:?} is accessed by {:02x?}", instruction.bytes());
    ///                 return ax_err!(Unsupported, "an instruction on a device");
    ///             }
    ///             // A device, and other memory of the instruction that the EPT does not map: map it, and run again.
    ///             Some(instruction) => log::debug!("missing: {:?}", instruction.unreachable),
    ///             None => return ax_err!(BadAddress, "there is neither memory nor a device"),
    ///         },
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn mmio_undecoded(&self) -> Option<&MmioUndecoded> {
        self.mmio.undecoded.as_ref()
    }

    /// Decodes the instruction of the last exit, an EPT violation at a page that is in no declared range. This is for callers that
    /// find out by the violation that there is a device. The result is as if the page had been declared for this instruction.
    ///
    /// # Errors
    /// `BadState` if the last exit was not an EPT violation, or the vCPU is not bound here.
    pub fn decode_mmio(&mut self) -> AxResult<AxVCpuExitReason> {
        x86_64::instructions::interrupts::without_interrupts(|| {
            let current = self.backend.current()?;
            let is_fault = self.backend.exited_by(current, ExitKind::NestedPageFault)?;
            if !is_fault || self.completion.is_pending() {
                return ax_err!(BadState, "no EPT violation is to be decoded");
            }
            let (address, violation) = self.backend.nested_fault(current)?;
            self.start_mmio(current, address, violation)
        })
    }

    /// An EPT violation, which the delivery of an event may have caused: an access to a device, or memory that is missing.
    #[inline(never)]
    pub(crate) fn handle_nested_page_fault<const REPORT: bool>(
        &mut self,
        current: B::Current,
    ) -> AxResult<AxVCpuExitReason> {
        self.requeue_vectoring_event(current, ExitKind::NestedPageFault)?;
        if !REPORT {
            return self.report_other::<REPORT>(current);
        }
        let (address, violation) = self.backend.nested_fault(current)?;
        if self.mmio.contains(address) {
            return self.start_mmio(current, address, violation);
        }
        Ok(AxVCpuExitReason::NestedPageFault { addr: address, access_flags: violation.access() })
    }

    /// Decodes the instruction of an EPT violation, and runs it to its first access.
    fn start_mmio(
        &mut self,
        current: B::Current,
        address: GuestPhysAddr,
        violation: EptViolation,
    ) -> AxResult<AxVCpuExitReason> {
        if self.mmio.undecoded.is_some() {
            self.set_undecoded(None);
        }
        // Only what an instruction itself does to its operands is decoded: no walk of page tables, no fetch, and no
        // delivery of an event.
        let operand = EptViolation::LINEAR_ADDRESS_VALID | EptViolation::TRANSLATED;
        let delivers = self.backend.interrupted_event(current)?.is_some();
        if !violation.contains(operand) || violation.contains(EptViolation::FETCH) || delivers {
            return self.nested_page_fault(current);
        }
        let registers = self.registers(current)?;
        let linear = self.backend.nested_fault_linear(current)?;
        // A write may have to set the dirty flag of its page, and whether an access that is no access did so is not said.
        let translated = (!violation.contains(EptViolation::WRITE)).then_some(Translated { linear, address });
        match self.start_emulation(current, address, translated, &registers)? {
            Ok(()) => Ok(self.resume_mmio(current, registers)?.unwrap_or(AxVCpuExitReason::Nothing)),
            Err((refusal, code)) => self.refuse_mmio(current, refusal, code),
        }
    }

    fn nested_page_fault(&self, current: B::Current) -> AxResult<AxVCpuExitReason> {
        let (addr, violation) = self.backend.nested_fault(current)?;
        Ok(AxVCpuExitReason::NestedPageFault { addr, access_flags: violation.access() })
    }

    /// Fetches and decodes the instruction, which then is pending.
    fn start_emulation(
        &mut self,
        current: B::Current,
        address: GuestPhysAddr,
        translated: Option<Translated>,
        registers: &Registers,
    ) -> AxResult<Result<(), (Refusal, Code)>> {
        let page = address.as_usize() & PAGE_MASK;
        let view = self.view(current)?;
        let memory = self.guest_memory()?;
        let context = EmulatorContext {
            view: &view,
            code: self.code_size(&view)?,
            memory: &memory,
            decoded: &self.mmio.decoded,
            translated,
            is_device: &|address| address.as_usize() & PAGE_MASK == page || self.mmio.contains(address),
            linear: &|segment, offset, address_size, size, kind| {
                self.linear_address(&view, segment, offset, address_size, size, kind)
            },
        };
        let fetched = match context.fetch(registers.rip) {
            Ok(fetched) => fetched,
            Err(why) => return Ok(Err(why)),
        };
        let emulation = Emulation::new(&fetched, context.code);
        let mut pending = Pending { emulation, code: fetched.code, access: None };
        if let Err(refusal) = pending.emulation.start(&context, &fetched, registers) {
            return Ok(Err((refusal, fetched.code)));
        }
        self.mmio.decoded.remember(registers.rip, &fetched, &pending.emulation);
        self.set_emulation(Some(pending));
        Ok(Ok(()))
    }

    fn refuse_mmio(&mut self, current: B::Current, refusal: Refusal, code: Code) -> AxResult<AxVCpuExitReason> {
        match refusal {
            Refusal::Host(error) => Err(error),
            Refusal::Exception(exception) => {
                self.raise(exception)?;
                Ok(AxVCpuExitReason::Nothing)
            }
            Refusal::Unknown => {
                self.set_undecoded(Some(MmioUndecoded { code, unreachable: None }));
                self.nested_page_fault(current)
            }
            // The caller may map it, and then the guest executes the instruction again.
            Refusal::Memory(unreachable) => Ok(self.miss_memory(code, unreachable)),
        }
    }

    fn miss_memory(&mut self, code: Code, unreachable: UnmappedGuestMemory) -> AxVCpuExitReason {
        self.set_undecoded(Some(MmioUndecoded { code, unreachable: Some(unreachable) }));
        AxVCpuExitReason::NestedPageFault { addr: unreachable.address, access_flags: unreachable.access() }
    }

    /// Resumes the instruction of which the caller got an access, and gives the next exit. `None` if it is done and the guest
    /// can be entered.
    #[cold]
    pub(crate) fn continue_mmio(&mut self, current: B::Current) -> AxResult<Option<AxVCpuExitReason>> {
        if self.mmio.undecoded.is_some() {
            self.set_undecoded(None);
        }
        let Some(pending) = &self.mmio.pending else {
            return Ok(None);
        };
        if !self.completion.is_pending() {
            // The caller ended it in another way.
            self.set_emulation(None);
            return Ok(None);
        }
        if let (true, Some(access)) = (pending.emulation.waits(), &pending.access) {
            // The caller gave no value, so the read is reported again.
            return Ok(Some(access.exit()));
        }
        self.cancel_completion();
        let registers = self.registers(current)?;
        self.resume_mmio(current, registers)
    }

    /// Runs the emulation to the next access of a device, or to the end of the instruction, which the next entry completes.
    fn resume_mmio(&mut self, current: B::Current, mut registers: Registers) -> AxResult<Option<AxVCpuExitReason>> {
        // SAFETY: used for the emulation's next step, which changes extended state and no EPT.
        let memory = unsafe { self.unborrowed_guest_memory()? };
        let mut vectors = Vectors::new(&mut self.xstate, self.backend.xstate_switch());
        let Some(pending) = &mut self.mmio.pending else {
            return Ok(None);
        };
        let (code, emulation) = (pending.code, &mut pending.emulation);
        let (address, width, write) = match emulation.resume(&memory, &mut registers, &mut vectors) {
            Ok(Progress::Read { address, width }) => (address, width, None),
            Ok(Progress::Write { address, width, value }) => (address, width, Some(value)),
            Ok(Progress::Done { length }) => {
                self.set_emulation(None);
                self.set_registers(&registers);
                self.defer_completion(PendingCompletion::Executed { length });
                return Ok(None);
            }
            Err(Refusal::Memory(unreachable)) => {
                pending.access = None;
                self.defer_completion(PendingCompletion::Nothing);
                return Ok(Some(self.miss_memory(code, unreachable)));
            }
            Err(refusal) => {
                self.set_emulation(None);
                return self.refuse_mmio(current, refusal, code).map(Some);
            }
        };
        let target = emulation.target();
        let access = MmioAccess {
            address,
            width,
            write,
            operand_size: emulation.operand_size(),
            locked: emulation.is_locked(),
            register: target.register,
            register_width: target.width,
            sign_extends: target.sign_extends,
            code,
        };
        let exit = access.exit();
        pending.access = Some(access);
        self.defer_completion(if write.is_none() { PendingCompletion::Mmio } else { PendingCompletion::Nothing });
        Ok(Some(exit))
    }

    fn set_emulation(&mut self, pending: Option<Pending>) {
        self.mmio.pending = pending;
        self.update_emulation_request();
    }

    fn set_undecoded(&mut self, undecoded: Option<MmioUndecoded>) {
        self.mmio.undecoded = undecoded;
        self.update_emulation_request();
    }

    fn update_emulation_request(&self) {
        let is_pending = self.mmio.pending.is_some() || self.mmio.undecoded.is_some();
        self.requests().set_to(Request::EMULATION, is_pending);
    }

    fn code_size(&self, view: &GuestView) -> AxResult<CodeSize> {
        if let LinearMode::Long { .. } = view.mode {
            return Ok(CodeSize { bits: 64, stack: 8 });
        }
        let big = |rights: u64| rights & rights::BIG != 0;
        Ok(CodeSize {
            bits: if big(self.backend.read(Anywhere, GuestField::CS_RIGHTS)?) { 32 } else { 16 },
            stack: if big(self.backend.read(Anywhere, GuestField::SS_RIGHTS)?) { 4 } else { 2 },
        })
    }

    fn registers(&self, current: B::Current) -> AxResult<Registers> {
        let mut general = self.backend.regs().all();
        general[RSP] = self.backend.read(current, GuestField::RSP)?;
        let rflags = self.backend.read(current, GuestField::RFLAGS)?;
        Ok(Registers { general, rflags, rip: self.backend.read(current, GuestField::RIP)? })
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.backend.regs_mut().set_all(&registers.general);
        self.backend.write(GuestField::RSP, registers.general[RSP]);
        self.write_rflags(registers.rflags);
    }
}
