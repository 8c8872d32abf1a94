//! The registry's `axvm` on this crate: each exit that its loop answers, each that it returns, and a machine from its
//! configuration to its end.

mod recorder;

use alloc::{format, sync::Arc, vec, vec::Vec};
use core::alloc::Layout;

use axaddrspace::MappingFlags;
use axdevice_base::EmuDeviceType;
use axvcpu::AxVCpuExitReason as Exit;
use axvm::{
    AxVMHal, VMStatus,
    config::{AxVMConfig, AxVMCrateConfig, EmulatedDeviceConfig, PassThroughAddressConfig},
};
use cpumask::CpuMask;
use x86_vcpu::StartState;

use crate::cases::{
    check::{CaseResult, equal, fail, is_error, is_true, same},
    code::guest_code,
    layout::ORIGIN,
};
use crate::{
    arch::{interrupts, lapic, time},
    hal::HostHal,
    mem::frames,
    on_axvm::{VCpu, Vm, make_current, with_devices},
};

use recorder::Recorder;

cases! { "axvm":
    ports_reach_devices,
    msrs_reach_devices,
    mmio_reaches_devices,
    memory_of_each_kind,
    passthrough_region,
    nested_fault_on_demand,
    unmapped_region_faults,
    hypercall,
    halt_and_on,
    triple_fault_is_system_down,
    power_off_is_system_down,
    external_interrupt,
    injected_interrupt,
    end_of_a_slice,
    emulated_device_of_the_configuration,
    life,
}

const RAM: usize = 0x2_0000;
const PAGE: usize = frames::SIZE as usize;
/// Beyond RAM, and free of it.
const ELSEWHERE: usize = 0x40_0000;
/// Of the [`Recorder`] in memory.
const DEVICE: usize = 0x50_0000;
const ALL: MappingFlags =
    MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE).union(MappingFlags::USER);

guest_code!(ports, "code32", "mov dx, 0x123", "in al, dx", "add al, 1", "mov dx, 0x456", "out dx, al", "hlt");

fn ports_reach_devices() -> CaseResult {
    let machine = Machine::new(ports())?;
    machine.boot_to_halt()?;
    same("writes", machine.seen(), vec![(0x456, 1, Recorder::VALUE as u64 + 1)])
}

guest_code!(msrs, "code32", "mov ecx, 0x1234", "rdmsr", "add eax, 1", "mov ecx, 0x1235", "wrmsr", "hlt",);

fn msrs_reach_devices() -> CaseResult {
    let machine = Machine::new(msrs())?;
    machine.boot_to_halt()?;
    same("writes", machine.seen(), vec![(0x1235, 8, Recorder::VALUE as u64 + 1)])
}

guest_code!(
    mmio,
    "code32",
    "mov eax, 0x11223344",
    "mov al, [0x500004]",
    "mov [0x500010], eax",
    "movzx ebx, word ptr [0x500008]",
    "mov byte ptr [0x500011], 0x55",
    "movsx ecx, byte ptr [0x50000C]",
    "hlt",
);

/// A device in memory: what is read comes into the part of the register that the instruction names.
fn mmio_reaches_devices() -> CaseResult {
    const VALUE: u64 = Recorder::VALUE as u64;
    let machine = Machine::new(mmio())?;
    machine.vcpu.get_arch_vcpu().set_mmio_range(DEVICE.into(), PAGE, true)?;
    machine.boot_to_halt()?;
    same("writes", machine.seen(), vec![(DEVICE + 0x10, 4, 0x1122_3300 | VALUE), (DEVICE + 0x11, 1, 0x55)])?;
    let registers = machine.vcpu.get_arch_vcpu().regs();
    equal("EBX", registers.rbx, VALUE)?;
    equal("ECX", registers.rcx, VALUE)
}

guest_code!(
    /// Copies a word from EBX to ESI and one that it makes to EDI.
    copy,
    "code32",
    "mov eax, [ebx]",
    "mov [esi], eax",
    "not eax",
    "mov [edi], eax",
    "hlt",
);

/// At an address of the caller's choice, at the host's own address, and memory that the caller keeps.
fn memory_of_each_kind() -> CaseResult {
    const WORD: u32 = 0x600D_CAFE;
    let host_page = HostPage::new()?;
    let machine = Machine::new(copy())?;
    let page = Layout::from_size_align(PAGE, PAGE).map_err(|_| axerrno::AxError::InvalidInput)?;
    let chosen = machine.vm.alloc_memory_region(page, Some(ELSEWHERE.into()))?.as_ptr();
    let identical = machine.vm.alloc_memory_region(page, None)?.as_ptr();
    machine.vm.map_reserved_memory_region(page, Some(host_page.address.into()))?;
    machine.vm.write_to_guest_of(ELSEWHERE.into(), &WORD)?;

    let registers = machine.vcpu.get_arch_vcpu().regs_mut();
    registers.rbx = ELSEWHERE as u64;
    registers.rsi = identical.addr() as u64;
    registers.rdi = host_page.address as u64;
    machine.boot_to_halt()?;
    is_true("memory of its own behind the chosen address", chosen.addr() != ELSEWHERE)?;
    equal("the word in the identical region", machine.vm.read_from_guest_of::<u32>(identical.addr().into())?, WORD)?;
    equal("the word in the host's page", host_page.word(), !WORD)?;
    same("regions", machine.vm.memory_regions().len(), 4)
}

fn passthrough_region() -> CaseResult {
    const WORD: u32 = 0x1234_5678;
    let host_page = HostPage::new()?;
    let mut config = config();
    let region = PassThroughAddressConfig { base_gpa: host_page.address, length: PAGE };
    config.devices.passthrough_addresses.push(region);
    let machine = Machine::with_config(config, copy())?;
    machine.vm.write_to_guest_of(0x1000.into(), &WORD)?;
    let registers = machine.vcpu.get_arch_vcpu().regs_mut();
    (registers.rbx, registers.rsi, registers.rdi) = (0x1000, 0x1004, host_page.address as u64);
    machine.boot_to_halt()?;
    equal("what the guest wrote to the device", host_page.word(), !WORD)
}

guest_code!(write_elsewhere, "code32", "mov dword ptr [0x400010], 0x77", "mov eax, [0x400010]", "hlt");

fn nested_fault_on_demand() -> CaseResult {
    let host_page = HostPage::new()?;
    let machine = Machine::new(write_elsewhere())?;
    machine.vm.boot()?;
    machine.expect_fault(ELSEWHERE + 0x10, MappingFlags::WRITE)?;
    machine.vm.map_region(ELSEWHERE.into(), host_page.address.into(), PAGE, ALL)?;
    machine.expect_halt()?;
    equal("EAX", machine.vcpu.get_arch_vcpu().regs().rax, 0x77)
}

guest_code!(write_twice, "code32", "mov dword ptr [0x400010], 1", "hlt", "mov dword ptr [0x400010], 2", "hlt",);

/// `axvm` changes the page tables only. The host has to flush the TLB.
fn unmapped_region_faults() -> CaseResult {
    let host_page = HostPage::new()?;
    let machine = Machine::new(write_twice())?;
    machine.vm.map_region(ELSEWHERE.into(), host_page.address.into(), PAGE, ALL)?;
    machine.boot_to_halt()?;
    machine.vm.unmap_region(ELSEWHERE.into(), PAGE)?;
    machine.vcpu.get_arch_vcpu().invalidate_ept();
    machine.expect_fault(ELSEWHERE + 0x10, MappingFlags::WRITE)
}

guest_code!(calls, "code32", "mov eax, 0x42", "mov edi, 1", "mov esi, 2", "vmcall", "mov ebx, eax", "hlt");

fn hypercall() -> CaseResult {
    let machine = Machine::new(calls())?;
    machine.vm.boot()?;
    match machine.run()? {
        Exit::Hypercall { nr: 0x42, args: [1, 2, ..] } => machine.vcpu.set_return_value(0x43),
        other => return fail("hypercall 42H with 1 and 2", format!("{other:?}")),
    }
    machine.expect_halt()?;
    equal("what it returned", machine.vcpu.get_arch_vcpu().regs().rbx, 0x43)
}

guest_code!(halts, "code32", "hlt", "mov ebx, 5", "hlt");

fn halt_and_on() -> CaseResult {
    let machine = Machine::new(halts())?;
    machine.boot_to_halt()?;
    machine.expect_halt()?;
    equal("EBX", machine.vcpu.get_arch_vcpu().regs().rbx, 5)
}

guest_code!(triple_fault, "code32", "push 0", "push 0", "lidt [esp]", "ud2");

fn triple_fault_is_system_down() -> CaseResult {
    expect_system_down(triple_fault())
}

guest_code!(power_off, "code32", "mov dx, 0x604", "mov ax, 0x2000", "out dx, ax", "hlt");

fn power_off_is_system_down() -> CaseResult {
    expect_system_down(power_off())
}

fn expect_system_down(code: &[u8]) -> CaseResult {
    let machine = Machine::new(code)?;
    machine.vm.boot()?;
    match machine.run()? {
        Exit::SystemDown => Ok(()),
        other => fail("SystemDown", format!("{other:?}")),
    }
}

guest_code!(spin, "code32", "sti", "2: inc ebx", "jmp 2b");

fn external_interrupt() -> CaseResult {
    const VECTOR: u8 = 0x62;
    let machine = Machine::new(spin())?;
    machine.vm.boot()?;
    machine.spin_once()?;
    lapic::send_interrupt_to_self(VECTOR);
    match machine.vm.run_vcpu(0)? {
        Exit::ExternalInterrupt { vector } => equal("vector", vector, VECTOR.into())?,
        other => return fail("an external interrupt", format!("{other:?}")),
    }
    interrupts::dispatch(VECTOR);
    Ok(())
}

guest_code!(
    /// Real mode: vector 21H leads to a handler that halts.
    waits_for_interrupt,
    "code16",
    "mov word ptr [0x84], 0x9000",
    "mov word ptr [0x86], 0",
    "mov byte ptr [0x9000], 0xF4",
    "mov sp, 0x7000",
    "sti",
    "2: jmp 2b",
);

/// `axvm` injects an interrupt into a set of vCPUs, through the host's part of its interface.
fn injected_interrupt() -> CaseResult {
    const HANDLER: usize = 0x9001;
    let machine = Machine::unstarted(config(), waits_for_interrupt())?;
    machine.vm.boot()?;
    machine.spin_once()?;
    machine.vm.inject_interrupt_to_vcpu(CpuMask::one_shot(0), 0x21)?;
    machine.expect_halt()?;
    machine.vcpu.bind()?;
    let rip = machine.vcpu.get_arch_vcpu().rip();
    machine.vcpu.unbind()?;
    // The HLT is completed at the next entry.
    is_true(&format!("the handler's HLT, not {rip:#x}"), rip == HANDLER || rip == HANDLER - 1)
}

fn end_of_a_slice() -> CaseResult {
    let machine = Machine::new(spin())?;
    machine.vm.boot()?;
    machine.spin_once()?;
    let before = machine.vcpu.get_arch_vcpu().regs().rbx;
    machine.spin_once()?;
    is_true("further rounds in the second slice", machine.vcpu.get_arch_vcpu().regs().rbx > before)
}

/// The one kind that `axvm` makes on this architecture: addresses for memory that machines share.
fn emulated_device_of_the_configuration() -> CaseResult {
    const BASE: usize = 0x80_0000;
    let mut config = config();
    config.devices.emu_devices.push(EmulatedDeviceConfig {
        name: "channel".into(),
        base_gpa: BASE,
        length: 4 * PAGE,
        emu_type: EmuDeviceType::IVCChannel,
        ..Default::default()
    });
    let machine = Machine::with_config(config, halts())?;
    let (address, length) = machine.vm.alloc_ivc_channel(PAGE - 1)?;
    same("the channel", (address.as_usize(), length), (BASE, PAGE))?;
    machine.vm.release_ivc_channel(address, length)?;
    machine.boot_to_halt()
}

fn life() -> CaseResult {
    let machine = Machine::new(halts())?;
    same("id", (machine.vm.id(), HostHal::current_vm_id()), (VM_ID, VM_ID))?;
    same("vCPUs", machine.vm.vcpu_num(), 1)?;
    is_error("a vCPU that is not there", machine.vm.run_vcpu(1))?;
    machine.boot_to_halt()?;
    is_error("a second boot", machine.vm.boot())?;
    machine.vm.shutdown()?;
    is_error("a second end", machine.vm.shutdown())?;
    same("status", machine.vm.vm_status(), VMStatus::Stopping)
}

const VM_ID: usize = 7;

fn config() -> AxVMCrateConfig {
    let mut config = AxVMCrateConfig::default();
    config.base.id = VM_ID;
    config.base.name = "case".into();
    config.base.cpu_num = 1;
    config.kernel.entry_point = ORIGIN as usize;
    config.kernel.kernel_load_addr = ORIGIN as usize;
    config
}

/// RAM from 0 on, a program at [`ORIGIN`], and a [`Recorder`] at every port and MSR, and in memory.
struct Machine {
    vm: Arc<Vm>,
    vcpu: VCpu,
    recorder: Arc<Recorder>,
}

impl Machine {
    fn new(code: &[u8]) -> CaseResult<Self> {
        Self::with_config(config(), code)
    }

    /// In protected mode, which `axvm` does not start in by itself.
    fn with_config(config: AxVMCrateConfig, code: &[u8]) -> CaseResult<Self> {
        const STACK_TOP: usize = 0x7000;
        let machine = Self::unstarted(config, code)?;
        let arch = machine.vcpu.get_arch_vcpu();
        arch.set_start_state(StartState::Protected32 { entry: ORIGIN as u32 })?;
        arch.setup(machine.vm.ept_root(), 0.into())?;
        arch.set_io_intercept_of_range(0, 0x1_0000, true);
        arch.set_stack_pointer(STACK_TOP);
        Ok(machine)
    }

    /// As `axvm` sets a vCPU up: in real mode, at the entry of the configuration.
    fn unstarted(config: AxVMCrateConfig, code: &[u8]) -> CaseResult<Self> {
        let vm = Vm::new(AxVMConfig::from(config))?;
        let layout = Layout::from_size_align(RAM, PAGE).map_err(|_| axerrno::AxError::InvalidInput)?;
        vm.alloc_memory_region(layout, Some(0.into()))?;
        let mut code = code;
        for part in vm.get_image_load_region((ORIGIN as usize).into(), code.len())? {
            let (now, later) = code.split_at(part.len());
            part.copy_from_slice(now);
            code = later;
        }
        vm.init()?;
        make_current(&vm);
        let Some(vcpu) = vm.vcpu(0) else { return fail("a vCPU", "none") };
        let recorder = Arc::new(Recorder::default());
        // SAFETY: the machine is new: nothing of it runs, and nobody has asked for its devices.
        unsafe {
            with_devices(&vm, |devices| {
                devices.add_port_dev(recorder.clone());
                devices.add_sys_reg_dev(recorder.clone());
                devices.add_mmio_dev(recorder.clone());
            });
        }
        Ok(Self { vm, vcpu, recorder })
    }

    /// The next exit that `axvm` does not answer and that is not an interrupt of the host's.
    fn run(&self) -> CaseResult<Exit> {
        const SLICE: u64 = 20_000_000;
        self.vcpu.get_arch_vcpu().set_time_slice(Some(time::ticks(SLICE)))?;
        let end = time::now() + 5 * SLICE;
        while time::now() < end {
            match self.vm.run_vcpu(0)? {
                Exit::Nothing => {}
                Exit::ExternalInterrupt { vector } => interrupts::dispatch(vector as u8),
                exit => return Ok(exit),
            }
        }
        fail("an exit in time", format!("{:?}", self.vcpu.get_arch_vcpu()))
    }

    fn expect_halt(&self) -> CaseResult {
        match self.run()? {
            Exit::Halt => Ok(()),
            other => fail("HLT", format!("{other:?}")),
        }
    }

    fn boot_to_halt(&self) -> CaseResult {
        self.vm.boot()?;
        self.expect_halt()
    }

    fn expect_fault(&self, address: usize, access: MappingFlags) -> CaseResult {
        match self.run()? {
            Exit::NestedPageFault { addr, access_flags } => {
                equal("address", addr.as_usize(), address)?;
                is_true(&format!("access {access:?}, came {access_flags:?}"), access_flags.contains(access))
            }
            other => fail("a nested page fault", format!("{other:?}")),
        }
    }

    /// A slice of a guest that does nothing but run.
    fn spin_once(&self) -> CaseResult {
        self.vcpu.get_arch_vcpu().set_time_slice(Some(2000))?;
        match self.vm.run_vcpu(0)? {
            Exit::Nothing => Ok(()),
            other => fail("the end of a time slice", format!("{other:?}")),
        }
    }

    /// Address, width in bytes and value of each write to a device.
    fn seen(&self) -> Vec<(usize, u8, u64)> {
        core::mem::take(&mut *self.recorder.0.lock())
    }
}

/// A frame of the host's that outlives the machine.
struct HostPage {
    address: usize,
}

impl HostPage {
    fn new() -> CaseResult<Self> {
        let Some(frame) = frames::alloc() else { return fail("a frame", "none") };
        Ok(Self { address: frame as usize })
    }

    /// The first word of it.
    fn word(&self) -> u32 {
        // SAFETY: the frame is this structure's, mapped as all memory is, and no guest runs now.
        unsafe { (self.address as *const u32).read_volatile() }
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        frames::dealloc(self.address as u64);
    }
}
