//! Virtual CPUs on Intel VMX, without `std`.
//!
//! **[`VmxVcpu`](Vcpu) is the virtual CPU.** It runs a guest in real mode, protected mode or 64-bit mode, on the memory that your EPT
//! maps. [`VmxPerCpuState`] turns VMX on for one processor. Both implement the traits of `axvcpu`, for the ArceOS hypervisor
//! family; both can be used without it. The crate allocates no guest memory, emulates no devices and schedules nothing: you do.
//!
//! | you want to | go to |
//! |---|---|
//! | turn VMX on, and learn why that fails | [`VmxPerCpuState::enable`], [`EnableError`] |
//! | make a vCPU and run it | [`VmxVcpu`](Vcpu): its page has the methods in the order of use |
//! | choose where the guest starts | [`StartState`], [`VmxVcpu::set_start_state`] |
//! | answer an exit | [Exits](#exits) below; [`VmExit`] is every exit as data |
//! | give the guest interrupts and exceptions | [`VmxVcpu::queue_interrupt`], [`VmxVcpu::inject_event`] |
//! | select what exits | [`ExitOn`], [`MsrPolicy`], [`VmxVcpu::set_io_intercept_of_range`], [`VmxVcpu::set_exception_intercept`] |
//! | say what CPUID shows | [`CpuidPolicy`] |
//! | emulate a device in memory | [`VmxVcpu::set_mmio_range`] |
//! | read and write guest memory | [`VmxVcpu::read_guest`], [`VmxVcpu::write_guest`] |
//! | make an EPT, and change it | [Memory of the guest](#memory-of-the-guest) below; [`EptInvalidator`] |
//! | have an interrupt controller | [`apic`] |
//! | know what a run changes of the host | [State of host and guest](#state-of-host-and-guest) below |
//! | find any public item | [Items by purpose](#items-by-purpose) below |
//!
//! The README has a hypervisor in 40 lines, the dependencies, and what differs from 0.2.2. `example/` in the repository is a
//! small program that boots. `docs/ARCHITECTURE.md` shows how the crate is built.
//!
//! SDM is Intel's manual in the edition that [the vCPU's page](Vcpu#the-manual) names.
//!
//! # Exits
//!
//! [`run`](axvcpu::AxArchVCpu::run) enters the guest once and comes back at its next exit. What comes back, and what you do:
//!
//! | the guest, or the host | `run` returns | you | it is completed |
//! |---|---|---|---|
//! | an exit that the crate handles: CPUID, control and debug registers, XSETBV, MSRs of the vCPU, INVD, a window; instructions that the guest does not have (#UD, RDPMC #GP); the end of a time slice | `Nothing` | run again | in the crate |
//! | VMCALL | `Hypercall`: RAX is `nr`; RDI, RSI, RDX, RCX, R8, R9 are `args` | put the result into RAX, by [`set_return_value`](axvcpu::AxArchVCpu::set_return_value) | at the next entry |
//! | IN | `IoRead` | [`complete_read`](VmxVcpu::complete_read): into AL, AX or EAX | at the next entry |
//! | OUT | `IoWrite`; `SystemDown` for the word 2000H to port 604H | write to the device | at the next entry |
//! | INS | `IoRead`, one element | `complete_read`, or more elements by [`give_string_input`](VmxVcpu::give_string_input) | at the next entry: RDI and RCX move |
//! | OUTS | `IoWrite`, one element | write to the device, or take more by [`take_string_output`](VmxVcpu::take_string_output) | at the next entry: RSI and RCX move |
//! | RDMSR of an MSR that [exits to you](MsrPolicy) | `SysRegRead` | `complete_read`, or [`complete_fault`](VmxVcpu::complete_fault) with 13 and 0 | at the next entry |
//! | WRMSR of such an MSR | `SysRegWrite` | take the value, or `complete_fault` | at the next entry |
//! | an access to a [declared device](VmxVcpu::set_mmio_range) | `MmioRead`, `MmioWrite`; one instruction may give several | `complete_read`; write to the device | by the next runs: the guest goes on after the last access |
//! | an access that the EPT does not allow; INS, OUTS or an instruction on a device whose memory is missing | `NestedPageFault` | map the memory, or [`decode_mmio`](VmxVcpu::decode_mmio) | not: the guest executes the instruction again |
//! | HLT | `Halt` | wait until there is an event for the guest | at the next entry: the guest is after HLT |
//! | RDTSC, RDTSCP, RDRAND, RDSEED, selected by [`ExitOn`] | `FailEntry` 16, 51, 57, 61 | `complete_read` | at the next entry |
//! | PAUSE, WBINVD by `ExitOn`; MWAIT, MONITOR by [`MwaitPolicy`] | `FailEntry` 40, 54, 36, 39 | as you like | at the next entry |
//! | an [intercepted exception](VmxVcpu::set_exception_intercept) | `FailEntry` 0 | [`reflect_exception`](VmxVcpu::reflect_exception) gives it to the guest | not: without it the guest executes the instruction again |
//! | a task switch | `FailEntry` 9 | do it: [`VmExit::TaskSwitch`] has the data | not |
//! | an EPT misconfiguration | `FailEntry` 49 | repair the EPT: [`ept_walk`](VmxVcpu::ept_walk) shows it | not: the guest executes the instruction again |
//! | any other exit | `FailEntry`: the exit reason | see [`exit`](VmxVcpu::exit) | not |
//! | an external interrupt of the host | `ExternalInterrupt`: acknowledged | call your handler of that vector | nothing is to be completed |
//! | an NMI or machine check of the host | `Nothing` | run again | your handler in the IDT has run |
//! | a triple fault | `SystemDown` | end the guest, or start it anew: `setup`, [`receive_init`](VmxVcpu::receive_init) | not |
//! | the vCPU waits for a start-up IPI; there was no entry | `CpuDown` | [`receive_startup`](VmxVcpu::receive_startup) | not |
//! | guest state that the processor refuses; there was no entry | `FailEntry`: the exit reason with bit 31 set | see [`entry_failure`](VmxVcpu::entry_failure); correct the state | not |
//! | VMLAUNCH or VMRESUME fails; the vCPU is not set up or not bound here | `Err(BadState)` | see `entry_failure` | not |
//!
//! **The caller never moves RIP.** Between an exit and the next entry RIP is that of the instruction. "At the next entry" RIP
//! moves past it, once, with all that the end of an instruction means: a single-step trap, the end of STI and MOV SS blocking.
//! [`complete_fault`](VmxVcpu::complete_fault) gives the guest a fault in place of that.
//!
//! **A completion that you forget.** IN, RDMSR and the instructions selected by [`ExitOn`] go on with the registers as they were;
//! RDRAND and RDSEED give 0 with CF clear. INS and a read of a device come back with the same exit, until they get their value.
//! Writes need no completion.
//!
//! A VMCALL above CPL 0 is #GP and comes to nobody, unless [`HypercallPolicy`] says otherwise.
//!
//! A caller that runs by [`inner_run`](VmxVcpu::inner_run) or [`run_once`](VmxVcpu::run_once) gets the exit reason and completes
//! the instruction itself, by [`advance_rip`](VmxVcpu::advance_rip).
//!
//! # Memory of the guest
//!
//! You make the EPT, for example by `axaddrspace::AddrSpace`. It asks for frames by the `PagingHandler` of
//! `page_table_multiarch` 0.6; frames that a guest gets must be zeroed by you. The vCPU does not keep the EPT alive: drop the
//! vCPU first.
//!
//! ```
//! use axaddrspace::{AddrSpace, GuestPhysAddr, HostPhysAddr, HostVirtAddr, MappingFlags};
//! use axerrno::AxResult;
//! use page_table_multiarch::PagingHandler;
//!
//! # fn zeroed_frame() -> Option<HostPhysAddr> { None }
//! # fn give_frame_back(_: HostPhysAddr) {}
//! /// Not the type that implements `PhysFrameIf`: its functions have the same names.
//! pub struct GuestFrames;
//!
//! impl PagingHandler for GuestFrames {
//!     fn alloc_frames(count: usize, _align: usize) -> Option<HostPhysAddr> {
//!         if count == 1 { zeroed_frame() } else { None } // an EPT asks for one at a time
//!     }
//!     fn dealloc_frames(start: HostPhysAddr, _count: usize) { give_frame_back(start) }
//!     fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr { address.as_usize().into() } // identity-mapped
//! }
//!
//! /// 64 MiB of RAM at 0. `page_table_root` of what this gives is the EPT root for `setup`.
//! pub fn guest_memory() -> AxResult<AddrSpace<GuestFrames>> {
//!     let mut memory = AddrSpace::new_empty(GuestPhysAddr::from(0), 1 << 32)?;
//!     let all = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
//!     memory.map_alloc(GuestPhysAddr::from(0), 64 << 20, all, true)?; // false: frames come by `handle_page_fault`
//!     Ok(memory)
//! }
//! ```
//!
//! `AddrSpace` does not flush what processors cache of a guest's memory. Call [`VmxVcpu::invalidate_ept`] of each vCPU after an
//! `unmap` or after you took rights away; [`EptInvalidator`] says what else is to be done while a vCPU runs. `map_linear` of
//! `axaddrspace` 0.1.5 onto host addresses above the guest's panics in a build with overflow checks.
//!
//! # State of host and guest
//!
//! After a run the host finds its state as it was before. Some of it is saved on every run, some is read at a bind, some is
//! assumed to be constant for a processor. The table says which, and what a host calls that changes it.
//!
//! | state of the host | is what it was | a host that changes it |
//! |---|---|---|
//! | general registers, RFLAGS.IF, CR2, CR8, DR0 to DR3, DR6; under [`FpuPolicy::EveryExit`] x87, SSE, AVX, AVX-512, PKRU | before the run | calls nothing |
//! | CR0, CR3, CR4, bases of FS and GS; KERNEL_GS_BASE once the guest can use SYSCALL; SPEC_CTRL once the guest has written it, or under [`SpeculationPolicy::write_ibrs`] | at the last bind | binds the vCPU again: `bind` of a bound vCPU is enough |
//! | DR7, XCR0 | at the last bind; under [`UnbindPolicy::KeepLoaded`] when the vCPU came to the processor | binds the vCPU again; under `KeepLoaded` calls [`VmxPerCpuState::refresh_host_state`] |
//! | under [`FpuPolicy::WhileBound`] x87, SSE, AVX, AVX-512, PKRU, XCR0 | when the state of a guest was loaded | unbinds the vCPU before it uses them; under `KeepLoaded` calls [`VmxVcpu::release_processor`] |
//! | GDTR, IDTR, TR and LDTR with their limits; selectors of CS, SS, DS, ES, FS, GS; EFER, PAT, SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, STAR, LSTAR, FMASK, TSC_AUX, XSS; whether IBRS is set in SPEC_CTRL | when VMX was enabled on the processor | calls [`VmxPerCpuState::refresh_host_state`], which counts from the next run of each vCPU on |
//! | DEBUGCTL | 0: an exit clears it | calls [`VmxPerCpuState::set_host_debugctl`] |
//! | where the GDT is, and in it the TSS descriptor of TR: by that address the crate tells processors apart | when VMX was enabled | turns VMX off before the change, and on after it |
//! | CR4.OSXSAVE, CR4.OSFXSR | when the vCPU was made | must not: the next run is an error |
//!
//! Of the other flags in RFLAGS nothing is kept: an exit clears them. A guest cannot change any other state of the processor,
//! unless the caller passes an MSR through ([`VmxVcpu::set_msr_policy`]). A guest has no CET, so SSP and the MSRs of CET stay
//! the host's.
//!
//! The state of the guest is kept in the vCPU: `src/vmx/vcpu/switch/mod.rs` begins with the table of who switches what, when,
//! and at what cost.
//!
//! # Items by purpose
//!
//! [`VmxVcpu`] and [`VmxPerCpuState`] are 0.2.2's `VmxArchVCpu` and `VmxArchPerCpuState`; those names are still there.
//!
//! | for | a vCPU has | others |
//! |---|---|---|
//! | VMX on and off |  | [`VmxPerCpuState`], [`enable`](VmxPerCpuState::enable), [`refresh_host_state`](VmxPerCpuState::refresh_host_state), [`set_host_debugctl`](VmxPerCpuState::set_host_debugctl), [`set_vpid_limit`](VmxPerCpuState::set_vpid_limit), [`tlb_flush_counts`](VmxPerCpuState::tlb_flush_counts), [`EnableError`], [`Unsupported`](vmx::Unsupported), [`MissingControl`](vmx::MissingControl), [`VmxControls`](vmx::VmxControls), [`EptVpidCaps`](vmx::EptVpidCaps), [`VmFail`](vmx::VmFail), [`has_hardware_support`], [`read_vmcs_revision_id`](vmx::read_vmcs_revision_id) |
//! | host memory |  | [`PhysFrame`], [`PhysFrameIf`], [`PhysFrameHal`] |
//! | making a vCPU; its first state; INIT and start-up IPIs | [`new`](VmxVcpu::new), [`set_start_state`](VmxVcpu::set_start_state), [`setup`](VmxVcpu::setup), [`receive_init`](VmxVcpu::receive_init), [`receive_startup`](VmxVcpu::receive_startup), [`waits_for_startup`](VmxVcpu::waits_for_startup), [`id`](VmxVcpu::id), [`vm_id`](VmxVcpu::vm_id) | [`StartState`] |
//! | binding and running | [`bind_to_current_processor`](VmxVcpu::bind_to_current_processor), [`unbind_from_current_processor`](VmxVcpu::unbind_from_current_processor), [`run`](axvcpu::AxArchVCpu::run), [`set_unbind_policy`](VmxVcpu::set_unbind_policy), [`release_processor`](VmxVcpu::release_processor), [`inner_run`](VmxVcpu::inner_run), [`run_once`](VmxVcpu::run_once), [`set_time_slice`](VmxVcpu::set_time_slice), [`set_fpu_policy`](VmxVcpu::set_fpu_policy), [`set_speculation_policy`](VmxVcpu::set_speculation_policy), [`set_step_policy`](VmxVcpu::set_step_policy) | [`UnbindPolicy`], [`FpuPolicy`], [`SpeculationPolicy`], [`StepPolicy`] |
//! | what an exit says | [`exit`](VmxVcpu::exit), [`exit_info`](VmxVcpu::exit_info), [`exit_qualification`](VmxVcpu::exit_qualification), [`io_exit_info`](VmxVcpu::io_exit_info), [`interrupt_exit_info`](VmxVcpu::interrupt_exit_info), [`raw_interrupt_exit_info`](VmxVcpu::raw_interrupt_exit_info), [`nested_page_fault_info`](VmxVcpu::nested_page_fault_info), [`apic_access_exit_info`](VmxVcpu::apic_access_exit_info), [`guest_linear_address`](VmxVcpu::guest_linear_address), [`guest_physical_address`](VmxVcpu::guest_physical_address) | [`VmExit`], [`VmxExitReason`], [`VmxExitInfo`], [`VmxIoExitInfo`], [`CrAccess`](vmx::CrAccess), [`ExceptionExit`](vmx::ExceptionExit), [`DescriptorTable`](vmx::DescriptorTable), [`DescriptorTableAccess`](vmx::DescriptorTableAccess), [`TaskSwitch`](vmx::TaskSwitch), [`TaskSwitchSource`](vmx::TaskSwitchSource), [`Operand`](vmx::Operand), [`MemoryOperand`](vmx::MemoryOperand), [`ApicAccessExitInfo`](vmx::ApicAccessExitInfo), [`ApicAccessExitType`](vmx::ApicAccessExitType) |
//! | completing an exit | [`complete_read`](VmxVcpu::complete_read), [`complete_fault`](VmxVcpu::complete_fault), [`complete_exception`](VmxVcpu::complete_exception), [`advance_rip`](VmxVcpu::advance_rip) |  |
//! | an entry that failed | [`entry_failure`](VmxVcpu::entry_failure) | [`EntryFailure`], [`VmxInstructionError`] |
//! | events | [`queue_event`](VmxVcpu::queue_event), [`queue_interrupt`](VmxVcpu::queue_interrupt), [`inject_event`](VmxVcpu::inject_event), [`ready_for_interrupt`](VmxVcpu::ready_for_interrupt), [`set_interrupt_window`](VmxVcpu::set_interrupt_window), [`take_interrupted_event`](VmxVcpu::take_interrupted_event), [`reflect_exception`](VmxVcpu::reflect_exception) | [`VmxInterruptInfo`], [`VmxInterruptionType`], [`Reflected`] |
//! | which instructions and exceptions exit | [`set_exit_on`](VmxVcpu::set_exit_on), [`set_exception_intercept`](VmxVcpu::set_exception_intercept), [`set_page_fault_filter`](VmxVcpu::set_page_fault_filter), [`set_pause_loop_exiting`](VmxVcpu::set_pause_loop_exiting), [`set_mwait_policy`](VmxVcpu::set_mwait_policy), [`set_hypercall_policy`](VmxVcpu::set_hypercall_policy) | [`ExitOn`], [`MwaitPolicy`], [`HypercallPolicy`] |
//! | ports | [`set_io_intercept_of_range`](VmxVcpu::set_io_intercept_of_range), [`try_set_io_intercept`](VmxVcpu::try_set_io_intercept) | [`IOBitmap`](vmx::IOBitmap) |
//! | INS and OUTS | [`string_io`](VmxVcpu::string_io), [`give_string_input`](VmxVcpu::give_string_input), [`take_string_output`](VmxVcpu::take_string_output) | [`StringIo`] |
//! | MSRs | [`set_msr_policy`](VmxVcpu::set_msr_policy), [`set_msr_intercept_of_range`](VmxVcpu::set_msr_intercept_of_range), [`try_set_msr_intercept`](VmxVcpu::try_set_msr_intercept) | [`MsrPolicy`], [`MsrBitmap`](vmx::MsrBitmap) |
//! | devices in memory | [`set_mmio_range`](VmxVcpu::set_mmio_range), [`decode_mmio`](VmxVcpu::decode_mmio), [`mmio_access`](VmxVcpu::mmio_access), [`mmio_undecoded`](VmxVcpu::mmio_undecoded) | [`MmioAccess`], [`MmioUndecoded`] |
//! | CPUID | [`cpuid_policy`](VmxVcpu::cpuid_policy), [`set_cpuid_policy`](VmxVcpu::set_cpuid_policy) | [`CpuidPolicy`], [`CpuidFeature`], [`CpuidRegister`], [`CpuidTopology`] |
//! | time | [`guest_tsc`](VmxVcpu::guest_tsc), [`tsc_offset`](VmxVcpu::tsc_offset), [`set_tsc_offset`](VmxVcpu::set_tsc_offset), [`set_tsc_multiplier`](VmxVcpu::set_tsc_multiplier) |  |
//! | registers | [`regs`](VmxVcpu::regs), [`regs_mut`](VmxVcpu::regs_mut), [`rip`](VmxVcpu::rip), [`set_rip`](VmxVcpu::set_rip), [`stack_pointer`](VmxVcpu::stack_pointer), [`set_stack_pointer`](VmxVcpu::set_stack_pointer), [`rflags`](VmxVcpu::rflags), [`cs`](VmxVcpu::cs), [`segment`](VmxVcpu::segment), [`get_cpu_mode`](VmxVcpu::get_cpu_mode), [`privilege_level`](VmxVcpu::privilege_level) | [`GeneralRegisters`], [`Segment`], [`SegmentRegister`], [`VmCpuMode`] |
//! | guest memory, as the guest's own code reaches it | [`read_guest`](VmxVcpu::read_guest), [`write_guest`](VmxVcpu::write_guest), [`guest_view`](VmxVcpu::guest_view), [`guest_memory`](VmxVcpu::guest_memory), [`linear_address`](VmxVcpu::linear_address), [`get_ptw_info`](VmxVcpu::get_ptw_info), [`gla2gva`](VmxVcpu::gla2gva) | [`GuestView`], [`GuestMemory`], [`EptMemory`], [`GuestPageWalkInfo`], [`Paging`], [`PagingMode`], [`LinearMode`], [`Translation`], [`SplitAccess`], [`Access`], [`AccessKind`], [`AccessError`], [`AddressSize`], [`Privilege`], [`GuestException`], [`UnmappedGuestMemory`] |
//! | EPT | [`change_ept_root`](VmxVcpu::change_ept_root), [`set_ept_format`](VmxVcpu::set_ept_format), [`ept_walk`](VmxVcpu::ept_walk), [`ept_violation_guest_rights`](VmxVcpu::ept_violation_guest_rights) | [`EptFormat`], [`EptLevels`], [`InvalidEptRoot`], [`EptWalk`], [`EptStep`], [`EptFault`], [`EptTranslation`], [`EptViolation`], [`EptTarget`], [`GuestRights`] |
//! | TLB | [`invalidate_ept`](VmxVcpu::invalidate_ept), [`ept_invalidator`](VmxVcpu::ept_invalidator) | [`EptInvalidator`], [`TlbFlushCounts`] |
//! | interrupt controllers | [`set_apic_enabled`](VmxVcpu::set_apic_enabled), [`cr8`](VmxVcpu::cr8), [`set_cr8`](VmxVcpu::set_cr8) | [`apic`] |
//! | the VMCS | [`read_vmcs`](VmxVcpu::read_vmcs), [`write_guest_field`](VmxVcpu::write_guest_field), [`dump_vmcs`](VmxVcpu::dump_vmcs) | [`VmcsField`](vmx::VmcsField), [`WritableVmcsField`](vmx::WritableVmcsField), [`GuestStateField`](vmx::GuestStateField), [`FIELDS`](vmx::FIELDS), [`FieldInfo`](vmx::FieldInfo), [`FieldKind`](vmx::FieldKind), [`FieldValue`](vmx::FieldValue), [`VmcsControl16`](vmx::VmcsControl16), [`VmcsControl32`](vmx::VmcsControl32), [`VmcsControl64`](vmx::VmcsControl64), [`VmcsControlNW`](vmx::VmcsControlNW), [`VmcsGuest16`](vmx::VmcsGuest16), [`VmcsGuest32`](vmx::VmcsGuest32), [`VmcsGuest64`](vmx::VmcsGuest64), [`VmcsGuestNW`](vmx::VmcsGuestNW), [`VmcsHost16`](vmx::VmcsHost16), [`VmcsHost32`](vmx::VmcsHost32), [`VmcsHost64`](vmx::VmcsHost64), [`VmcsHostNW`](vmx::VmcsHostNW), [`VmcsReadOnly32`](vmx::VmcsReadOnly32), [`VmcsReadOnly64`](vmx::VmcsReadOnly64), [`VmcsReadOnlyNW`](vmx::VmcsReadOnlyNW), [`VmxRegion`](vmx::VmxRegion) |
#![no_std]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]

extern crate alloc;

mod adapter;
pub mod apic;
mod emulator;
mod ept;
mod error;
mod former_names;
mod frame;
mod guest_memory;
mod msr;
mod regs;
mod rules;
mod vcpu;
pub mod vmx;

pub use ept::{
    EptFault, EptFormat, EptLevels, EptStep, EptTarget, EptTranslation, EptViolation, EptWalk, GuestPageWalkInfo,
    GuestRights, InvalidEptRoot,
};
#[allow(deprecated, reason = "they are kept for callers that use them")]
pub use former_names::{Pieces, TranslationDrops, Unreachable};
pub use frame::{PhysFrame, PhysFrameHal, PhysFrameIf};
pub use guest_memory::{
    Access, AccessError, AccessKind, AddressSize, GuestException, GuestMemory, GuestView, LinearMode, Paging,
    PagingMode, Privilege, Segment, SegmentRegister, SplitAccess, Translation, UnmappedGuestMemory,
};
pub use regs::GeneralRegisters;
pub use vcpu::Vcpu;
#[doc(inline)]
pub use vmx::{
    CpuidFeature, CpuidPolicy, CpuidRegister, CpuidTopology, EnableError, EntryFailure, EptInvalidator, EptMemory,
    ExitOn, FpuPolicy, HypercallPolicy, MmioAccess, MmioUndecoded, MsrPolicy, MwaitPolicy, Reflected,
    SpeculationPolicy, StartState, StepPolicy, StringIo, TlbFlushCounts, UnbindPolicy, VmCpuMode, VmExit, VmxExitInfo,
    VmxExitReason, VmxInstructionError, VmxInterruptInfo, VmxInterruptionType, VmxIoExitInfo, VmxPerCpuState, VmxVcpu,
    has_hardware_support,
};
#[doc(no_inline)]
pub use vmx::{VmxArchPerCpuState, VmxArchVCpu};

/// Compiles the example of the README.

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExample;
