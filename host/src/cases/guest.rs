//! The machine of a case: 2 MiB of RAM, one program, and tables that let every exception report itself. [`layout`](super::layout)
//! says what is where.
//!
//! Every guest has a time slice, so that none runs for ever. Every run compares the host's state before and after it.

use alloc::{format, string::String, vec::Vec};

use axvcpu::AxVCpuHal;
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use x86_vcpu::{
    StartState, VmxArchVCpu,
    vmx::{VmcsGuest16, VmcsGuest32, VmcsGuestNW},
};

use super::{
    callee_saved,
    check::{CaseResult, fail},
    host_registers::HostState,
    layout::{
        CODE_SELECTOR, GDT, GDT_POINTER, HANDLER_SIZE, HANDLERS, IDT, IDT_POINTER, ORIGIN, OWN_HANDLER_SIZE,
        OWN_HANDLERS, PAGE_DIRECTORY, PDPT, PML4, RAM_END, REPORT_PORT, STACK_TOP, VECTOR_PORT, vector::NMI,
    },
};
use crate::{
    arch::{interrupts, time},
    hal::HostHal,
    vm::{io, memory::Memory},
};

const GDT_SIZE: usize = 5 * 8;
/// For long mode: 256 gates of 16 bytes.
const IDT_SIZE: usize = 256 * 16;

/// Exits until a case gives up.
const EXIT_LIMIT: usize = 20_000;
/// Time until a guest that does not exit is given up: 100 ms.
const TIME_LIMIT: u64 = 100_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Real,
    Protected,
    Long,
}

pub const MODES: [Mode; 3] = [Mode::Real, Mode::Protected, Mode::Long];

pub struct Guest<H: AxVCpuHal = HostHal> {
    // Dropped before the memory that its tables are in.
    pub vcpu: VmxArchVCpu<H>,
    pub memory: Memory,
}

/// One OUT of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Out {
    pub port: u16,
    pub width: u8,
    pub value: u64,
}

impl Guest {
    /// A guest bound to this processor, at the program's first instruction in that mode.
    #[track_caller]
    pub fn new(mode: Mode, code: &[u8]) -> CaseResult<Self> {
        Self::with_hal(mode, code)
    }

    #[track_caller]
    pub fn real(code: &[u8]) -> CaseResult<Self> {
        Self::new(Mode::Real, code)
    }

    #[track_caller]
    pub fn protected(code: &[u8]) -> CaseResult<Self> {
        Self::new(Mode::Protected, code)
    }

    #[track_caller]
    pub fn long(code: &[u8]) -> CaseResult<Self> {
        Self::new(Mode::Long, code)
    }
}

impl<H: AxVCpuHal> Guest<H> {
    /// A guest whose vCPU has another HAL.
    #[track_caller]
    pub fn with_hal(mode: Mode, code: &[u8]) -> CaseResult<Self> {
        let mut guest = Self::unbound(mode.start_state(), code)?;
        guest.write_tables(mode)?;
        guest.load_tables(mode);
        guest.vcpu.bind()?;
        Ok(guest)
    }

    /// A vCPU that was set up and not bound, without tables.
    #[track_caller]
    pub fn unbound(state: StartState, code: &[u8]) -> CaseResult<Self> {
        let mut memory = Memory::new((RAM_END >> 20) as usize)?;
        memory.write(ORIGIN, code)?;
        let mut vcpu = VmxArchVCpu::<H>::new(0, 0)?;
        vcpu.set_start_state(state)?;
        vcpu.setup((memory.ept.root() as usize).into(), (ORIGIN as usize).into())?;
        vcpu.set_io_intercept_of_range(0, 0x1_0000, true);
        vcpu.set_stack_pointer(STACK_TOP);
        Ok(Self { vcpu, memory })
    }

    /// Puts the vCPU back to the program's first instruction. Memory stays as it is.
    #[track_caller]
    pub fn restart(&mut self, mode: Mode) -> CaseResult {
        self.vcpu.unbind()?;
        self.vcpu.set_start_state(mode.start_state())?;
        self.vcpu.setup((self.memory.ept.root() as usize).into(), (ORIGIN as usize).into())?;
        self.vcpu.set_stack_pointer(STACK_TOP);
        self.load_tables(mode);
        Ok(self.vcpu.bind()?)
    }

    /// Puts a guest of protected or long mode that has not run yet to CPL 3, with a stack for its handlers at CPL 0.
    #[track_caller]
    pub fn enter_user_mode(&mut self, mode: Mode) -> CaseResult {
        const TSS: u64 = 0x7800;
        const USER: u32 = 0b11 << 5;
        let stack = STACK_TOP as u32 - 0x400;
        self.write_words(TSS, &[u64::from(stack) << 32, if mode == Mode::Long { 0 } else { 0x18 }])?;
        if mode == Mode::Long {
            self.write_user_page_tables()?;
        }
        let vcpu = &mut self.vcpu;
        vcpu.write_guest_field(VmcsGuestNW::TR_BASE, TSS as usize);
        vcpu.write_guest_field(VmcsGuestNW::RFLAGS, 0x3002);
        for (selector, rights) in [
            (VmcsGuest16::CS_SELECTOR, VmcsGuest32::CS_ACCESS_RIGHTS),
            (VmcsGuest16::SS_SELECTOR, VmcsGuest32::SS_ACCESS_RIGHTS),
            (VmcsGuest16::DS_SELECTOR, VmcsGuest32::DS_ACCESS_RIGHTS),
            (VmcsGuest16::ES_SELECTOR, VmcsGuest32::ES_ACCESS_RIGHTS),
            (VmcsGuest16::FS_SELECTOR, VmcsGuest32::FS_ACCESS_RIGHTS),
            (VmcsGuest16::GS_SELECTOR, VmcsGuest32::GS_ACCESS_RIGHTS),
        ] {
            let (old_selector, old_rights) = (vcpu.read_vmcs(selector)?, vcpu.read_vmcs(rights)?);
            vcpu.write_guest_field(selector, old_selector | 3);
            vcpu.write_guest_field(rights, old_rights | USER);
        }
        Ok(())
    }

    /// Loads GDTR and IDTR, so that no program has to. Real mode has its table at 0.
    fn load_tables(&mut self, mode: Mode) {
        if mode == Mode::Real {
            return;
        }
        for (base, limit, table, size) in [
            (VmcsGuestNW::GDTR_BASE, VmcsGuest32::GDTR_LIMIT, GDT, GDT_SIZE),
            (VmcsGuestNW::IDTR_BASE, VmcsGuest32::IDTR_LIMIT, IDT, IDT_SIZE),
        ] {
            self.vcpu.write_guest_field(base, table as usize);
            self.vcpu.write_guest_field(limit, size as u32 - 1);
        }
    }

    /// One entry and one exit, with a time slice.
    #[track_caller]
    pub fn run_once(&mut self) -> CaseResult<Exit> {
        self.vcpu.set_time_slice(Some(time::ticks(TIME_LIMIT / 10)))?;
        let before = HostState::read();
        let exit = callee_saved::around(|| self.vcpu.run())?;
        HostState::read().expect(&before)?;
        match exit {
            Ok(exit) => Ok(exit),
            Err(error) => fail("an entry", format!("{error:?}, {}", self.entry_failure())),
        }
    }

    /// The next exit for the caller.
    #[track_caller]
    pub fn exit(&mut self) -> CaseResult<Exit> {
        let end = time::now() + TIME_LIMIT;
        for _ in 0..EXIT_LIMIT {
            match self.run_once()? {
                Exit::Nothing => {}
                Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
                exit => return Ok(exit),
            }
            if time::now() > end {
                return fail("an exit in time", format!("a guest that still runs: {:?}", self.vcpu));
            }
        }
        fail("an exit for the caller", format!("{EXIT_LIMIT} others"))
    }

    /// Runs to HLT, and gives the OUTs until then.
    #[track_caller]
    pub fn run_to_halt(&mut self) -> CaseResult<Vec<Out>> {
        let mut outs = Vec::new();
        while outs.len() < EXIT_LIMIT {
            match self.exit()? {
                Exit::IoWrite { port, width, data } => {
                    outs.push(Out { port: port.0, width: io::bytes(width), value: data });
                }
                Exit::Halt => return Ok(outs),
                other => return fail("OUT or HLT", self.describe(&other)),
            }
        }
        fail("HLT", format!("{EXIT_LIMIT} OUTs"))
    }

    /// Runs to HLT. The guest has no OUT before that.
    #[track_caller]
    pub fn halt(&mut self) -> CaseResult {
        let outs = self.run_to_halt()?;
        if outs.is_empty() { Ok(()) } else { fail("HLT", format!("{outs:x?} and then HLT")) }
    }

    /// Runs until the handler of this exception or interrupt reports it.
    #[track_caller]
    pub fn expect_vector(&mut self, vector: u8) -> CaseResult {
        let outs = self.run_to_halt()?;
        let expected = Out { port: VECTOR_PORT, width: 1, value: vector.into() };
        if outs.last() == Some(&expected) {
            return Ok(());
        }
        fail(format!("vector {vector}"), format!("{outs:x?} and then HLT"))
    }

    /// Runs to the next IN of the guest.
    #[track_caller]
    pub fn expect_in(&mut self, expected: u16) -> CaseResult {
        match self.exit()? {
            Exit::IoRead { port, .. } if port.0 == expected => Ok(()),
            other => fail(format!("IN from {expected:#x}"), self.describe(&other)),
        }
    }

    /// Runs to the next report of the guest, and gives its value.
    #[track_caller]
    pub fn expect_report(&mut self) -> CaseResult<u64> {
        self.expect_out(REPORT_PORT)
    }

    /// Runs to the next OUT of the guest, and gives its value.
    #[track_caller]
    pub fn expect_out(&mut self, expected: u16) -> CaseResult<u64> {
        match self.exit()? {
            Exit::IoWrite { port, data, .. } if port.0 == expected => Ok(data),
            other => fail(format!("OUT to {expected:#x}"), self.describe(&other)),
        }
    }

    /// Reads a number from the guest's memory.
    #[track_caller]
    pub fn read_u64(&self, address: u64) -> CaseResult<u64> {
        let bytes = self.memory.read(address, 8)?;
        Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    #[track_caller]
    pub fn read_u32(&self, address: u64) -> CaseResult<u32> {
        Ok(self.read_u64(address)? as u32)
    }

    /// An exit with all that there is to know about it.
    pub fn describe(&self, exit: &Exit) -> String {
        let info = self.vcpu.exit_info();
        let qualification = self.vcpu.exit_qualification();
        format!("{exit:?} ({info:x?}, qualification {qualification:x?}, {})", self.entry_failure())
    }

    fn entry_failure(&self) -> String {
        match self.vcpu.entry_failure() {
            Some(failure) => format!("{failure}"),
            None => "the entry did not fail".into(),
        }
    }

    #[track_caller]
    fn write_tables(&mut self, mode: Mode) -> CaseResult {
        self.write_descriptors(mode)?;
        self.write_handlers(mode)?;
        if mode == Mode::Long {
            self.write_page_tables()?;
        }
        Ok(())
    }

    #[track_caller]
    fn write_descriptors(&mut self, mode: Mode) -> CaseResult {
        const CODE_32: u64 = 0x00CF_9B00_0000_FFFF;
        const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
        const DATA: u64 = 0x00CF_9300_0000_FFFF;
        let code = if mode == Mode::Long { CODE_64 } else { CODE_32 };
        self.write_words(GDT, &[0, 0, code, DATA, CODE_32])?;
        self.write_pointer(GDT_POINTER, GDT, GDT_SIZE)?;
        self.write_pointer(IDT_POINTER, IDT, IDT_SIZE)
    }

    #[track_caller]
    fn write_pointer(&mut self, place: u64, base: u64, size: usize) -> CaseResult {
        self.memory.write(place, &(size as u16 - 1).to_le_bytes())?;
        Ok(self.memory.write(place + 2, &base.to_le_bytes())?)
    }

    /// The handlers' code is the same in all modes.
    #[track_caller]
    fn write_handlers(&mut self, mode: Mode) -> CaseResult {
        let handlers: Vec<u8> = (0..=u8::MAX).flat_map(|vector| handler(vector, mode)).collect();
        self.memory.write(HANDLERS, &handlers)?;
        let addresses = (0..=u8::MAX).map(|vector| HANDLERS + u64::from(vector) * HANDLER_SIZE);
        match mode {
            Mode::Real => {
                let vectors: Vec<u8> = addresses.flat_map(|handler| (handler as u32).to_le_bytes()).collect();
                Ok(self.memory.write(0, &vectors)?)
            }
            Mode::Protected => self.write_words(IDT, &addresses.map(gate).collect::<Vec<_>>()),
            Mode::Long => self.write_words(IDT, &addresses.flat_map(|handler| [gate(handler), 0]).collect::<Vec<_>>()),
        }
    }

    /// Sets the gate of a vector. The handler lies below 64 KiB.
    #[track_caller]
    pub fn set_gate(&mut self, mode: Mode, vector: u8, handler: u64) -> CaseResult {
        let vector = u64::from(vector);
        match mode {
            Mode::Real => Ok(self.memory.write(vector * 4, &(handler as u32).to_le_bytes())?),
            Mode::Protected => self.write_words(IDT + vector * 8, &[gate(handler)]),
            Mode::Long => self.write_words(IDT + vector * 16, &[gate(handler), 0]),
        }
    }

    /// Gives a vector of long mode a handler of the case's own, in place of the one that reports it.
    #[track_caller]
    pub fn set_handler(&mut self, vector: u8, code: &[u8]) -> CaseResult {
        let handler = OWN_HANDLERS + u64::from(vector) * OWN_HANDLER_SIZE;
        self.memory.write(handler, code)?;
        self.set_gate(Mode::Long, vector, handler)
    }

    #[track_caller]
    fn write_page_tables(&mut self) -> CaseResult {
        self.write_tables_with(0)
    }

    #[track_caller]
    fn write_user_page_tables(&mut self) -> CaseResult {
        const USER: u64 = 1 << 2;
        self.write_tables_with(USER)
    }

    #[track_caller]
    fn write_tables_with(&mut self, bits: u64) -> CaseResult {
        const TABLE: u64 = 0b11;
        const LARGE_PAGE: u64 = 0x83;
        self.write_words(PML4, &[PDPT | TABLE | bits])?;
        self.write_words(PDPT, &[PAGE_DIRECTORY | TABLE | bits])?;
        let pages: Vec<u64> = (0..512).map(|index| index << 21 | LARGE_PAGE | bits).collect();
        self.write_words(PAGE_DIRECTORY, &pages)
    }

    #[track_caller]
    pub fn write_words(&mut self, address: u64, words: &[u64]) -> CaseResult {
        let mut bytes = Vec::with_capacity(words.len() * 8);
        words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        Ok(self.memory.write(address, &bytes)?)
    }
}

/// Reports the vector and halts.
fn handler(vector: u8, mode: Mode) -> [u8; HANDLER_SIZE as usize] {
    let [mov_al, out, hlt, jmp, iret, rex_w] = [0xB0, 0xE6, 0xF4, 0xEB, 0xCF, 0x48];
    let port = VECTOR_PORT as u8;
    match (vector, mode) {
        // This handler has to return: Bochs 2.7 keeps virtual-NMI blocking from one vCPU to the next until an IRET.
        (NMI, Mode::Long) => [mov_al, vector, out, port, rex_w, iret, 0, 0],
        (NMI, _) => [mov_al, vector, out, port, iret, 0, 0, 0],
        // The jump leads back to HLT.
        _ => [mov_al, vector, out, port, hlt, jmp, 0xFD, 0],
    }
}

/// An interrupt gate, or the first word of one in long mode; the handler lies below 64 KiB.
fn gate(handler: u64) -> u64 {
    handler | u64::from(CODE_SELECTOR) << 16 | 0x8E00 << 32
}

impl Mode {
    pub fn start_state(self) -> StartState {
        match self {
            Self::Real => StartState::RealMode { entry: (ORIGIN as usize).into() },
            Self::Protected => StartState::Protected32 { entry: ORIGIN as u32 },
            Self::Long => StartState::Long64 { entry: ORIGIN, cr3: PML4 },
        }
    }
}
