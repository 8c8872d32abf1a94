//! A guest that runs by way of `axvm`, with the same board as without it.

use alloc::{format, sync::Arc};

use axaddrspace::MappingFlags;
use axvcpu::AxVCpuExitReason as Exit;
use axvm::config::{AxVMConfig, AxVMCrateConfig};
use axvm_error::{AxResult, ax_err_type};
use spin::Mutex;

use super::{
    VCpu, Vm,
    devices::{Msrs, Ports},
    make_current, with_devices,
};
use crate::{
    arch::{interrupts, time},
    devices::{Board, End, Time},
    loader::Start,
    mem::frames,
    output::console,
    vm::{Outcome, attention::Attention, memory::Memory},
};

const VM_ID: usize = 1;
const RAM: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);

/// Runs what was loaded into the memory to its end.
pub fn run(memory: &Memory, start: &Start) -> AxResult<Outcome> {
    let mut machine = Machine::new(memory, start)?;
    machine.vm.boot()?;
    let outcome = loop {
        if let Some(outcome) = machine.step()? {
            break outcome;
        }
    };
    if !matches!(outcome, Outcome::Device(_)) {
        console::line(format_args!("[host] {:?}", machine.vcpu.get_arch_vcpu()));
    }
    machine.vm.shutdown()?;
    Ok(outcome)
}

struct Machine {
    vm: Arc<Vm>,
    vcpu: VCpu,
    board: Arc<Mutex<Board>>,
    slice_end: Arc<Mutex<Time>>,
    attention: Attention,
    memory_end: u64,
}

impl Machine {
    fn new(memory: &Memory, start: &Start) -> AxResult<Self> {
        let mut config = AxVMCrateConfig::default();
        config.base.id = VM_ID;
        config.base.name = "guest".into();
        config.base.cpu_num = 1;
        let vm = Vm::new(AxVMConfig::from(config))?;
        for (block, guest) in memory.blocks().iter().zip((0..).step_by(frames::BLOCK_SIZE as usize)) {
            vm.map_region(guest.into(), (*block as usize).into(), frames::BLOCK_SIZE as usize, RAM)?;
        }
        vm.init()?;
        make_current(&vm);
        let vcpu = vm.vcpu(0).ok_or_else(|| ax_err_type!(BadState, "no vCPU"))?;
        let board = Arc::new(Mutex::new(Board::new(memory.size(), time::now())));
        let slice_end = Arc::new(Mutex::new(0));
        let ports = Ports { board: board.clone(), vm: Arc::downgrade(&vm), slice_end: slice_end.clone() };
        // SAFETY: the machine is new: nothing of it runs, and nobody has asked for its devices.
        unsafe {
            with_devices(&vm, |devices| {
                devices.add_port_dev(Arc::new(ports));
                devices.add_sys_reg_dev(Arc::new(Msrs));
            });
        }
        prepare(&vm, &vcpu, start)?;
        Ok(Self { vm, vcpu, board, slice_end, attention: Attention::default(), memory_end: memory.size() })
    }

    /// One call of `axvm`, which may be many exits.
    fn step(&mut self) -> AxResult<Option<Outcome>> {
        let now = time::now();
        {
            let mut board = self.board.lock();
            board.advance(now);
            if self.attention.stop_ordered(&mut board, now) {
                return Ok(Some(Outcome::Stopped));
            }
            let slice = Attention::slice(&board, now);
            *self.slice_end.lock() = now + slice;
            self.vcpu.get_arch_vcpu().set_time_slice(Some(time::ticks(slice)))?;
            self.vcpu.bind()?;
            let offered = self.attention.offer_interrupt(&mut board, self.vcpu.get_arch_vcpu());
            self.vcpu.unbind()?;
            offered?;
        }
        match self.vm.run_vcpu(0)? {
            Exit::Nothing => {}
            Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
            // No hypercall is known here.
            Exit::Hypercall { .. } => self.vcpu.set_return_value(usize::MAX),
            Exit::NestedPageFault { addr, .. } if addr.as_usize() as u64 >= self.memory_end => self.float(addr)?,
            Exit::Halt => return self.wait(),
            Exit::SystemDown => return Ok(Some(Outcome::Device(End::PowerOff))),
            other => return Ok(Some(Outcome::Unhandled(format!("{other:?}")))),
        }
        Ok(self.board.lock().end().map(Outcome::Device))
    }

    /// The guest sleeps until an interrupt.
    fn wait(&mut self) -> AxResult<Option<Outcome>> {
        self.vcpu.bind()?;
        let ready = self.vcpu.get_arch_vcpu().ready_for_interrupt();
        self.vcpu.unbind()?;
        if !ready? {
            return Ok(Some(Outcome::Halted));
        }
        let stopped = self.attention.wait_for_interrupt(&mut self.board.lock());
        Ok(stopped.then_some(Outcome::Stopped))
    }

    /// Where no memory and no device is, reads give all ones.
    fn float(&self, address: axaddrspace::GuestPhysAddr) -> AxResult {
        let page = (address.as_usize() & !(frames::SIZE as usize - 1)).into();
        let layout = core::alloc::Layout::from_size_align(frames::SIZE as usize, frames::SIZE as usize)
            .map_err(|_| ax_err_type!(InvalidInput, "the size of a page"))?;
        self.vm.alloc_memory_region(layout, Some(page))?;
        for part in self.vm.get_image_load_region(page, frames::SIZE as usize)? {
            part.fill(0xFF);
        }
        Ok(())
    }
}

/// Sets the vCPU up again, in the state that the loader wants.
fn prepare(vm: &Vm, vcpu: &VCpu, start: &Start) -> AxResult {
    let arch = vcpu.get_arch_vcpu();
    arch.set_start_state(start.state)?;
    arch.setup(vm.ept_root(), 0.into())?;
    arch.set_io_intercept_of_range(0, 0x1_0000, true);
    let registers = arch.regs_mut();
    registers.rax = start.eax.into();
    registers.rbx = start.ebx.into();
    registers.rsi = start.esi.into();
    Ok(())
}
