//! The names that users of 0.2.2 and readers of the design documents know, with the signatures that they have there. It
//! fails to compile when one is lost or changed.

use axaddrspace::{AxMmHal, GuestPhysAddr, GuestVirtAddr, HostPhysAddr, HostVirtAddr, NestedPageFaultInfo};
use axerrno::AxResult;
use axvcpu::{AxArchPerCpu, AxArchVCpu, AxVCpuExitReason, AxVCpuHal};
use x86_vcpu::{
    GeneralRegisters, GuestPageWalkInfo, PhysFrame, VmxArchPerCpuState, VmxArchVCpu, VmxExitInfo, VmxExitReason,
    VmxInterruptInfo, VmxIoExitInfo, has_hardware_support,
};

struct Hal;

impl AxVCpuHal for Hal {
    type MmHal = Self;
}

impl AxMmHal for Hal {
    fn alloc_frame() -> Option<HostPhysAddr> {
        None
    }
    fn dealloc_frame(_: HostPhysAddr) {}
    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }
    fn virt_to_phys(address: HostVirtAddr) -> HostPhysAddr {
        address.as_usize().into()
    }
}

type Vcpu = VmxArchVCpu<Hal>;
type PerCpu = VmxArchPerCpuState<Hal>;

#[test]
fn the_vcpu_has_its_methods() {
    let _: fn(usize, usize) -> AxResult<Vcpu> = Vcpu::new;
    let _: fn(&mut Vcpu, HostPhysAddr, GuestPhysAddr) -> AxResult = Vcpu::setup;
    let _: fn(&Vcpu) -> AxResult = Vcpu::bind_to_current_processor;
    let _: fn(&Vcpu) -> AxResult = Vcpu::unbind_from_current_processor;
    let _: fn(&mut Vcpu) -> Option<VmxExitInfo> = Vcpu::inner_run;
    let _: fn(&Vcpu) -> AxResult<VmxExitInfo> = Vcpu::exit_info;
    let _: fn(&Vcpu) -> AxResult<u32> = Vcpu::raw_interrupt_exit_info;
    let _: fn(&Vcpu) -> AxResult<VmxInterruptInfo> = Vcpu::interrupt_exit_info;
    let _: fn(&Vcpu) -> AxResult<VmxIoExitInfo> = Vcpu::io_exit_info;
    let _: fn(&Vcpu) -> AxResult<NestedPageFaultInfo> = Vcpu::nested_page_fault_info;
    let _ = Vcpu::apic_access_exit_info;
    let _: fn(&Vcpu) -> &GeneralRegisters = Vcpu::regs;
    let _: fn(&mut Vcpu) -> &mut GeneralRegisters = Vcpu::regs_mut;
    let _: fn(&Vcpu) -> usize = Vcpu::stack_pointer;
    let _: fn(&mut Vcpu, usize) = Vcpu::set_stack_pointer;
    let _: fn(&Vcpu, GuestVirtAddr) -> GuestVirtAddr = Vcpu::gla2gva;
    let _: fn(&Vcpu) -> GuestPageWalkInfo = Vcpu::get_ptw_info;
    let _: fn(&Vcpu) -> usize = Vcpu::rip;
    let _: fn(&Vcpu) -> u16 = Vcpu::cs;
    let _: fn(&mut Vcpu, u8) -> AxResult = Vcpu::advance_rip;
    let _: fn(&mut Vcpu, u8, Option<u32>) = Vcpu::queue_event;
    let _: fn(&mut Vcpu, bool) -> AxResult = Vcpu::set_interrupt_window;
    let _: fn(&mut Vcpu, u32, u32, bool) = Vcpu::set_io_intercept_of_range;
    let _: fn(&mut Vcpu, u32, bool) = Vcpu::set_msr_intercept_of_range;
    let _ = Vcpu::get_cpu_mode;
}

#[test]
fn the_traits_are_implemented_with_empty_configurations() {
    let _: fn(usize, usize, ()) -> AxResult<Vcpu> = <Vcpu as AxArchVCpu>::new;
    let _: fn(&mut Vcpu, ()) -> AxResult = <Vcpu as AxArchVCpu>::setup;
    let _: fn(&mut Vcpu) -> AxResult<AxVCpuExitReason> = <Vcpu as AxArchVCpu>::run;
    let _: fn(usize) -> AxResult<PerCpu> = <PerCpu as AxArchPerCpu>::new;
    let _: fn(&mut PerCpu) -> AxResult = <PerCpu as AxArchPerCpu>::hardware_enable;
    let _: fn(&mut PerCpu) -> AxResult = <PerCpu as AxArchPerCpu>::hardware_disable;
    let _: fn() -> AxResult<PhysFrame<Hal>> = PhysFrame::<Hal>::alloc_zero;
    let _: fn() -> bool = has_hardware_support;
}

/// A match on reasons by name, as users of 0.2.2 have it, and one that 0.2.2 could not represent.
#[test]
fn exit_reasons_match_by_name_and_by_number() {
    let text = |reason: VmxExitReason| match reason {
        VmxExitReason::IO_INSTRUCTION => "io",
        VmxExitReason::EPT_VIOLATION => "ept",
        _ => "other",
    };
    assert_eq!([30, 48, 60_000].map(VmxExitReason::from).map(text), ["io", "ept", "other"]);
}

/// A host out of memory gets an error, and a vCPU that could not be made leaves nothing behind.
#[test]
fn no_memory_is_an_error() {
    assert_eq!(Vcpu::new(0, 0).err(), Some(axerrno::AxError::NoMemory));
}
