//! INS and OUTS, with and without REP.
//!
//! The exit comes before the instruction has looked at memory, so the crate does what the processor would. It finds the
//! element in the guest's memory by segment, address size and page tables. It gives the guest the fault of that access, if there
//! is one. Otherwise it reports one element to the caller, as an IN or OUT. For INS it checks that the destination is writable
//! before the caller reads its device. After each element the instruction has ended or is executed again, so that the guest
//! takes interrupts between elements.
//!
//! A caller that wants more than an element at a time asks how many are left ([`Vcpu::string_io`]) and moves as many as
//! it likes at once ([`Vcpu::take_string_output`], [`Vcpu::give_string_input`]).
//!
//! SDM Vol. 2, "INS/INSB/INSW/INSD", "OUTS/OUTSB/OUTSW/OUTSD", "REP"; Vol. 3C, 28.2.5 "Information for VM Exits Due to
//! Instruction Execution".

use axaddrspace::device::Port;
use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField};
use super::parts::completion::{Outcome, PendingCompletion};
use super::parts::exit_kind::PortAccess;
use super::parts::string::{Element, StringEnd, StringIo};
use crate::guest_memory::{
    AccessError, AccessKind, AddressSize, GuestException, GuestView, PAGE_SIZE, SegmentRegister,
};
use crate::regs::rflags;
use crate::rules::control_registers::CR0_AM;
use crate::rules::vector;

const RCX: u8 = 1;

/// # String I/O
///
/// INS and OUTS, by more than an element at a time.
impl<B: Backend> Vcpu<B> {
    /// The INS or OUTS whose element the last exit reported as `IoRead` or `IoWrite`. `None` if the exit was for another
    /// instruction, or that instruction is completed.
    pub fn string_io(&self) -> Option<StringIo> {
        let pending = self.string_pending()?;
        let remaining = pending.may_move().saturating_sub(pending.moved);
        (remaining > 0).then_some(StringIo { remaining, ..pending.io })
    }

    /// Takes elements of the OUTS that the last exit reported, and gives how many bytes that were.
    ///
    /// The reported element comes first, and then as many as fit into `buffer` and the guest has. A second call takes those that
    /// follow. A later element may not be readable, for a fault of the guest or memory that is missing: then those before it are
    /// taken, and a later exit reports that one.
    ///
    /// # Errors
    /// `BadState` if no OUTS waits, or all its elements are taken; `InvalidInput` for a buffer smaller than an element.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, mut send: impl FnMut(&[u8])) -> AxResult {
    ///     match vcpu.run()? {
    ///         // REP OUTSB: many elements by one exit. A caller that does not ask gets one exit for each element.
    ///         Exit::IoWrite { .. } if vcpu.string_io().is_some() => {
    ///             let mut buffer = [0; 512];
    ///             let length = vcpu.take_string_output(&mut buffer)?;
    ///             send(&buffer[..length]);
    ///         }
    ///         // OUT.
    ///         Exit::IoWrite { width, data, .. } => send(&data.to_le_bytes()[..width.size()]),
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("outs", "outsb"))]
    pub fn take_string_output(&mut self, buffer: &mut [u8]) -> AxResult<usize> {
        self.move_elements(false, buffer.len(), |vcpu, view, linear, range| {
            let memory = vcpu.guest_memory().ok()?;
            view.read(&memory, linear, buffer.get_mut(range)?, view.access(AccessKind::Read)).ok()
        })
    }

    /// Gives elements to the INS that the last exit reported, and says how many bytes the guest took.
    ///
    /// The reported element comes first, and then as many as `data` has and the guest takes. A second call gives those that
    /// follow. The guest does not take the rest, or takes it only after a fault. An INS that gets nothing is reported again.
    ///
    /// # Errors
    /// `BadState` if no INS waits, or all its elements are given; `InvalidInput` for less than an element.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// The data port of an ATA disk, from which a driver reads a sector by REP INSW. `sector` is what is left of it.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, sector: &mut &[u8]) -> AxResult {
    ///     match vcpu.run()? {
    ///         Exit::IoRead { width, .. } => match vcpu.string_io() {
    ///             // As many as there are, and the guest takes. What it did not take stays.
    ///             Some(_) if sector.len() >= width.size() => {
    ///                 let taken = vcpu.give_string_input(sector)?;
    ///                 *sector = &sector[taken..];
    ///             }
    ///             // IN, or no data: one element of all ones.
    ///             _ => vcpu.complete_read(u64::MAX)?,
    ///         },
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("ins", "insb"))]
    pub fn give_string_input(&mut self, data: &[u8]) -> AxResult<usize> {
        self.move_elements(true, data.len(), |vcpu, view, linear, range| {
            let memory = vcpu.guest_memory().ok()?;
            view.write(&memory, linear, data.get(range)?, view.access(AccessKind::Write)).ok()
        })
    }

    /// Puts the value of an IN into the element of INS that waits for it.
    pub(crate) fn complete_string_input(&mut self, value: u64) -> AxResult {
        let bytes = value.to_le_bytes();
        let Some(size) = self.string_pending().map(|pending| pending.io.width.size()) else {
            return ax_err!(BadState, "no INS waits");
        };
        match self.give_string_input(bytes.get(..size).unwrap_or(&bytes))? {
            0 => ax_err!(BadAddress, "the guest's memory for INS is gone"),
            _ => Ok(()),
        }
    }

    /// Moves the registers of an INS or OUTS past what was moved.
    #[cold]
    pub(crate) fn end_of_string(&mut self) -> AxResult<StringEnd> {
        let Some(pending) = self.string.take() else {
            return Ok(StringEnd::Over);
        };
        // The element of OUTS that was reported is moved, whether the caller took it or not. That of INS is moved when the caller
        // gave it.
        let moved = if pending.io.is_in { pending.moved } else { pending.moved.max(1) };
        if moved == 0 {
            return Ok(StringEnd::NotYet);
        }
        let bytes = moved.wrapping_mul(pending.io.width.size() as u64);
        let step = if pending.io.is_backward { bytes.wrapping_neg() } else { bytes };
        self.add_to_register(pending.index_register(), step, pending.address_size);
        if !pending.is_repeat {
            return Ok(StringEnd::Over);
        }
        self.add_to_register(RCX, moved.wrapping_neg(), pending.address_size);
        if moved >= pending.io.remaining {
            return Ok(StringEnd::Over);
        }
        // As at an interrupt between two elements: an instruction breakpoint has been taken (SDM Vol. 3B, 18.3.1.1
        // "Instruction-Breakpoint Exception Condition").
        let rflags = self.backend.read(Anywhere, GuestField::RFLAGS)?;
        self.write_rflags(rflags | rflags::RF);
        Ok(StringEnd::Element)
    }

    fn string_pending(&self) -> Option<&Element> {
        let waits = matches!(self.completion.pending()?, PendingCompletion::StringInput | PendingCompletion::StringEnd);
        self.string.get().filter(|_| waits)
    }

    /// Looks at the element of an INS or OUTS that exited. `false` for what the caller has to do.
    #[cold]
    pub(crate) fn handle_string_io(&mut self, current: B::Current, io: PortAccess) -> AxResult<bool> {
        self.string.take();
        let Some(mut pending) = self.decode_string(current, io)? else {
            return Ok(false);
        };
        if pending.io.remaining == 0 {
            self.complete(current, Outcome::Done)?;
            return Ok(true);
        }
        match self.first_element(current, &mut pending)? {
            Ok(()) if io.is_in() => self.defer_completion(PendingCompletion::StringInput),
            Ok(()) => self.defer_completion(PendingCompletion::StringEnd),
            Err(AccessError::Guest(exception)) => {
                self.raise(exception)?;
                return Ok(true);
            }
            Err(AccessError::Memory(missing)) => pending.missing = Some(missing),
        }
        self.string.set(pending);
        Ok(false)
    }

    /// What the exit and the registers say of the instruction.
    fn decode_string(&self, current: B::Current, io: PortAccess) -> AxResult<Option<Element>> {
        let Some(operand) = self.backend.string_operand(current)? else {
            return Ok(None);
        };
        let (width, address_size) = (io.width(), operand.address_size);
        // INS has no choice of segment.
        let segment = if io.is_in() { SegmentRegister::Es } else { operand.segment };
        let remaining = if io.is_repeat() { self.general_register(RCX)? & address_size.mask() } else { 1 };
        let rflags = self.backend.read(current, GuestField::RFLAGS)?;
        Ok(Some(Element {
            io: StringIo {
                port: Port(io.port()),
                width,
                is_in: io.is_in(),
                remaining,
                is_backward: rflags & rflags::DF != 0,
            },
            is_stepped: rflags & rflags::TF != 0 || self.debug.has_breakpoints(),
            is_aligned: rflags & rflags::AC != 0
                && self.backend.cr0(Anywhere)? & CR0_AM != 0
                && self.privilege_level()? == 3,
            is_repeat: io.is_repeat(),
            segment,
            address_size,
            moved: 0,
            missing: None,
            data: 0,
        }))
    }

    /// Reads the first element of OUTS; of INS makes sure that it can be written.
    fn first_element(&mut self, current: B::Current, pending: &mut Element) -> AxResult<Result<(), AccessError>> {
        let view = self.view(current)?;
        let memory = self.guest_memory()?;
        let size = pending.io.width.size();
        let linear = match self.element_address(&view, pending, 0, 1)? {
            Ok(linear) => linear,
            Err(exception) => return Ok(Err(exception.into())),
        };
        if pending.io.is_in {
            return Ok(view.locate(&memory, linear, size, view.access(AccessKind::Write)).and_then(|pieces| {
                memory.check_write(pieces.first, pieces.first_size)?;
                match pieces.second_size {
                    0 => Ok(()),
                    size => Ok(memory.check_write(pieces.second, size)?),
                }
            }));
        }
        let mut bytes = [0; 8];
        let element = bytes.get_mut(..size).unwrap_or_default();
        let result = view.read(&memory, linear, element, view.access(AccessKind::Read));
        pending.data = u64::from_le_bytes(bytes);
        Ok(result)
    }

    /// The linear address of the lowest byte of `count` elements, before which `first` are moved.
    fn element_address(
        &self,
        view: &GuestView,
        pending: &Element,
        first: u64,
        count: u64,
    ) -> AxResult<Result<u64, GuestException>> {
        let size = pending.io.width.size() as u64;
        let start = self.general_register(pending.index_register())?;
        let offset = match pending.io.is_backward {
            false => start.wrapping_add(first * size),
            true => start.wrapping_sub((first + count - 1) * size),
        };
        let kind = if pending.io.is_in { AccessKind::Write } else { AccessKind::Read };
        let linear = self.linear_address(view, pending.segment, offset, pending.address_size, count * size, kind)?;
        Ok(match linear {
            Ok(linear) if pending.is_aligned && !linear.is_multiple_of(size) => {
                Err(GuestException::with_code_zero(vector::AC))
            }
            linear => linear,
        })
    }

    /// Moves elements to or from a buffer of `bytes`, as many at once as lie in one page and in order. `access` does the
    /// access to guest memory, and gives nothing where it cannot.
    fn move_elements(
        &mut self,
        is_in: bool,
        bytes: usize,
        mut access: impl FnMut(&Self, &GuestView, u64, core::ops::Range<usize>) -> Option<()>,
    ) -> AxResult<usize> {
        let Some(pending) = self.string_pending().copied().filter(|pending| pending.io.is_in == is_in) else {
            return ax_err!(BadState, "no such instruction waits");
        };
        let size = pending.io.width.size();
        if bytes < size {
            return ax_err!(InvalidInput, "less than an element");
        }
        // A call continues where the one before it ended.
        let before = pending.moved;
        let wanted = pending.may_move().min(before + (bytes / size) as u64);
        if wanted <= before {
            return ax_err!(BadState, "all elements are moved");
        }
        let view = self.guest_view()?;
        let mut moved = before;
        while moved < wanted {
            let Ok(linear) = self.element_address(&view, &pending, moved, 1)? else {
                break;
            };
            let start = (moved - before) as usize * size;
            // Backward, elements are in the buffer in the opposite order of memory, so each goes by itself.
            let block = match pending.io.is_backward {
                true => 1,
                false => ((PAGE_SIZE - linear % PAGE_SIZE) / size as u64)
                    .min(self.elements_before_wrap(&pending, moved)?)
                    .clamp(1, wanted - moved),
            };
            let block = match self.element_address(&view, &pending, moved, block)? {
                Ok(lowest) if lowest == linear => block,
                _ => 1,
            };
            let count = match access(self, &view, linear, start..start + block as usize * size) {
                Some(()) => block,
                None if block > 1 && access(self, &view, linear, start..start + size).is_some() => 1,
                None => break,
            };
            moved += count;
        }
        if moved > before {
            self.string.set_moved(moved);
            self.defer_completion(PendingCompletion::StringEnd);
        }
        Ok((moved - before) as usize * size)
    }

    /// How many elements follow each other upward from here until the offset wraps at the address size.
    fn elements_before_wrap(&self, pending: &Element, first: u64) -> AxResult<u64> {
        let size = pending.io.width.size() as u64;
        let mask = pending.address_size.mask();
        let offset = self.general_register(pending.index_register())?.wrapping_add(first * size) & mask;
        Ok((mask - offset) / size)
    }

    /// Adds to a register as an instruction of this address size does: 16 bits leave the rest alone, 32 bits clear it.
    fn add_to_register(&mut self, index: u8, value: u64, address_size: AddressSize) {
        let old = self.backend.regs().get_reg_of_index(index);
        let sum = old.wrapping_add(value);
        let new = match address_size {
            AddressSize::Bits16 => old & !0xFFFF | sum & 0xFFFF,
            AddressSize::Bits32 => sum & 0xFFFF_FFFF,
            AddressSize::Bits64 => sum,
        };
        self.backend.regs_mut().set_reg_of_index(index, new);
    }
}
