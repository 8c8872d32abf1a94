//! Pages of all sizes, and demand paging.

use alloc::format;

use axaddrspace::{AddrSpace, GuestPhysAddr, HostPhysAddr, HostVirtAddr, MappingFlags};
use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use page_table_multiarch::PagingHandler;
use x86_vcpu::{StartState, VmExit, VmxArchVCpu};

use super::{
    super::{
        check::{CaseResult, equal, fail, is_true, same},
        code::guest_code,
        guest::{Guest, Mode},
        layout::ORIGIN,
        need::ept_capabilities,
        runner::note,
    },
    frame::Frame,
};
use crate::{arch::time, hal::HostHal, mem::frames, vm::ept::Access};

cases! { "ept":
    pages_of_4_kib_and_2_mib,
    page_of_1_gib,
    demand_paging_in_real_mode.on_boot_cpu(),
    demand_paging_in_protected_mode.on_boot_cpu(),
    demand_paging_in_long_mode.on_boot_cpu(),
}

guest_code!(
    /// The middle and the end of the page of 2 MiB at 4 MiB, and the page after it.
    read_large,
    "code64",
    "mov eax, [0x4ff000]",
    "mov ebx, [0x5ffffc]",
    "mov ecx, [0x600000]",
    "hlt",
);

/// A page of 2 MiB is split into 512 of 4 KiB, one of which is another page.
fn pages_of_4_kib_and_2_mib() -> CaseResult {
    const BLOCK: u64 = 0x40_0000;
    let frame = Frame::filled(7)?;
    let mut guest = Guest::long(read_large())?;
    // RAM once more, as one page.
    guest.write_words(0xF_F000, &[11])?;
    guest.memory.write(0x1F_FFFC, &13u32.to_le_bytes())?;
    let ram = guest.vcpu.ept_walk(GuestPhysAddr::from(0))?.result.ok().map_or(0, |page| page.paddr.as_usize() as u64);
    guest.memory.ept.map_block(BLOCK, ram, Access::ALL)?;
    guest.memory.ept.map_page(0x60_0000, frame.address(), Access::ALL)?;
    guest.halt()?;
    let seen = |guest: &Guest| [guest.vcpu.regs().rax, guest.vcpu.regs().rbx, guest.vcpu.regs().rcx];
    same("what was read", seen(&guest), [11, 13, 7])?;
    guest.memory.ept.map_page(BLOCK + 0xF_F000, frame.address(), Access::ALL)?;
    guest.restart(Mode::Long)?;
    guest.halt()?;
    same("what was read after the split", seen(&guest), [7, 13, 7])
}

guest_code!(read_at_rdi, "code64", "mov rax, [rdi]", "hlt");

/// A page of 1 GiB maps the host's first GiB. A processor without such pages reports a misconfiguration.
fn page_of_1_gib() -> CaseResult {
    const GIB: u64 = 1 << 30;
    const DIRECTORY: u64 = 0x1_1000;
    let frame = Frame::filled(0x1234_5678_9ABC)?;
    is_true("a frame in the first GiB", frame.address() < GIB)?;
    let mut guest = Guest::long(read_at_rdi())?;
    let pages: alloc::vec::Vec<u64> = (512..1024).map(|index| index << 21 | 0x83).collect();
    guest.write_words(DIRECTORY, &pages)?;
    guest.write_words(0x2008, &[DIRECTORY | 3])?;
    guest.memory.ept.map_gib(GIB, 0, Access::READ)?;
    guest.vcpu.regs_mut().rdi = GIB + frame.address() + 8;
    let has_gib_pages = ept_capabilities() & 1 << 17 != 0;
    let walk = guest.vcpu.ept_walk(((GIB + frame.address()) as usize).into())?;
    same("a page in the walk", walk.result.ok().map(|page| page.page_size), has_gib_pages.then_some(1 << 30))?;
    if has_gib_pages {
        guest.halt()?;
        return equal("what was read", guest.vcpu.regs().rax, 0x1234_5678_9ABC);
    }
    guest.exit()?;
    is_true("a misconfiguration", matches!(guest.vcpu.exit()?, VmExit::EptMisconfiguration { .. }))
}

/// Frames for axaddrspace.
struct Frames;

impl PagingHandler for Frames {
    fn alloc_frames(count: usize, align: usize) -> Option<HostPhysAddr> {
        if count != 1 || align as u64 > frames::SIZE {
            return None;
        }
        frames::alloc().map(|address| (address as usize).into())
    }

    fn dealloc_frames(address: HostPhysAddr, _: usize) {
        frames::dealloc(address.as_usize() as u64);
    }

    fn phys_to_virt(address: HostPhysAddr) -> HostVirtAddr {
        address.as_usize().into()
    }
}

guest_code!(
    /// Writes to each page from 1_0000H to 8_0000H, with a segment each, and adds up what it reads back.
    touch_in_real_mode,
    "code16",
    "mov ax, 0x1000",
    "xor edx, edx",
    "2: mov ds, ax",
    "mov word ptr ds:[0x10], ax",
    "movzx ecx, word ptr ds:[0x10]",
    "add edx, ecx",
    "add ax, 0x100",
    "cmp ax, 0x8000",
    "jne 2b",
    "hlt",
);

guest_code!(
    /// Writes its number to each page from 1 MiB to 65 MiB, and adds up what it reads back.
    touch_in_protected_mode,
    "code32",
    "mov edi, 0x100000",
    "xor edx, edx",
    "2: mov eax, edi",
    "shr eax, 12",
    "mov [edi + 0x10], eax",
    "add edx, [edi + 0x10]",
    "add edi, 0x1000",
    "cmp edi, 0x4100000",
    "jne 2b",
    "hlt",
);

guest_code!(
    /// Touches each page, also those of its page tables, which it makes itself.
    touch_in_long_mode,
    "code64",
    "mov edi, 0x100000",
    "xor edx, edx",
    "2: mov rax, rdi",
    "shr rax, 12",
    "mov [rdi + 0x10], rax",
    "add rdx, [rdi + 0x10]",
    "add rdi, 0x1000",
    "cmp rdi, 0x4100000",
    "jne 2b",
    "hlt",
);

/// The sum of all page numbers of 64 MiB from 1 MiB on.
const SUM: u64 = (0x100 + 0x40FF) * 0x4000 / 2;

fn demand_paging_in_real_mode() -> CaseResult {
    let sum: u64 = (0x10..0x80u64).map(|page| page * 0x100).sum();
    // The program is a page too.
    demand_paging(Mode::Real.start_state(), touch_in_real_mode(), &[], 0x70 + 1, sum)
}

fn demand_paging_in_protected_mode() -> CaseResult {
    demand_paging(Mode::Protected.start_state(), touch_in_protected_mode(), &[], 0x4000 + 1, SUM)
}

fn demand_paging_in_long_mode() -> CaseResult {
    let directory: alloc::vec::Vec<u64> = (0..64).map(|index| index << 21 | 0x83).collect();
    let tables: [(u64, &[u64]); 3] = [(0x1000, &[0x2003]), (0x2000, &[0x3003]), (0x3000, &directory)];
    demand_paging(Mode::Long.start_state(), touch_in_long_mode(), &tables, 0x4000 + 4, SUM)
}

/// A guest all of whose memory `AddrSpace::handle_page_fault` brings in, the program and its tables excepted: they are
/// filled in when their pages come.
fn demand_paging(start: StartState, code: &[u8], tables: &[(u64, &[u64])], violations: u64, sum: u64) -> CaseResult {
    let mut space = AddrSpace::<Frames>::new_empty(GuestPhysAddr::from(0), 80 << 20)?;
    let all = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    space.map_alloc(GuestPhysAddr::from(0), 80 << 20, all, false)?;
    let mut vcpu = VmxArchVCpu::<HostHal>::new(0, 0)?;
    vcpu.set_start_state(start)?;
    vcpu.setup(space.page_table_root(), (ORIGIN as usize).into())?;
    vcpu.set_time_slice(Some(time::ticks(10_000_000)))?;
    vcpu.bind()?;
    let mut faults = 0;
    let before = time::tsc();
    loop {
        match vcpu.run()? {
            Exit::NestedPageFault { addr, access_flags } => {
                faults += 1;
                if !space.handle_page_fault(addr, access_flags) {
                    return fail("a fault that is handled", format!("{addr:?}, {access_flags:?}"));
                }
                fill(&space, addr, code, tables)?;
            }
            Exit::Nothing => {}
            Exit::ExternalInterrupt { vector } => crate::arch::interrupts::dispatch(vector as u8),
            Exit::Halt => break,
            other => return fail("HLT", format!("{other:?} of {vcpu:?}")),
        }
    }
    note(format!("{faults} violations, {} ticks each", (time::tsc() - before) / faults));
    equal("violations", faults, violations)?;
    equal("the sum", vcpu.regs().rdx, sum)
}

/// Fills a new page with what belongs there.
fn fill(space: &AddrSpace<Frames>, address: GuestPhysAddr, code: &[u8], tables: &[(u64, &[u64])]) -> CaseResult {
    let page = address.as_usize() as u64 & !0xFFF;
    let Some(host) = space.translate((page as usize).into()) else {
        return fail("a page", format!("none at {address:?}"));
    };
    let host = host.as_usize() as *mut u8;
    // SAFETY: a frame of the guest, which does not run now.
    let bytes = unsafe { core::slice::from_raw_parts_mut(host, 4096) };
    bytes.fill(0);
    if page == ORIGIN {
        bytes[..code.len()].copy_from_slice(code);
    }
    for (_, words) in tables.iter().filter(|(at, _)| *at == page) {
        for (place, word) in bytes.chunks_exact_mut(8).zip(words.iter()) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }
    Ok(())
}
