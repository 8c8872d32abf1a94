//! The processor may use a stale EPT entry until the TLB is flushed, and never after.
//!
//! Bochs 2.7 empties its TLB at every entry and exit, so what is stale shows only from one entry to the next exit: either the
//! guest changes its own EPT, or another processor does. On a real processor it would show across exits too.

use alloc::{format, vec::Vec};
use core::sync::atomic::{AtomicUsize, Ordering};

use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
use spin::Mutex;
use x86_vcpu::{EptInvalidator, VmxArchVCpu};

use super::{
    super::{
        check::{CaseResult, equal, fail, is_true, same},
        code::guest_code,
        guest::{Guest, Mode},
        layout::ORIGIN,
        need::Need,
    },
    frame::Frame,
    vpids::{VpidLimit, flushes_of, with_and_without},
};
use crate::{
    arch::{interrupts, processor, time, vectors::WAKE_VECTOR},
    hal::HostHal,
    smp,
    vm::ept::{Access, Ept},
};

cases! { "ept":
    remapped_by_the_host,
    remapped_by_the_guest,
    remapped_under_running_guests.needs(&[Need::Processors(2)]).on_boot_cpu(),
    root_changed,
}

const A: u64 = 0xAAAA_AAAA;
const B: u64 = 0xBBBB_BBBB;
/// The page that is mapped to one frame and then to another.
const PAGE: u64 = 0x20_0000;

guest_code!(
    /// Reads the page in each round.
    reader,
    "code64",
    "2: mov rax, [RAM_END]",
    "out REPORT_PORT, eax",
    "jmp 2b",
);

/// Map A, read, map B, invalidate, read B.
fn remapped_by_the_host() -> CaseResult {
    with_and_without(|_| {
        let frames = [Frame::filled(A)?, Frame::filled(B)?];
        let mut guest = Guest::long(reader())?;
        for round in 0..6 {
            let frame = &frames[round % 2];
            guest.memory.ept.map_page(PAGE, frame.address(), Access::ALL)?;
            guest.vcpu.invalidate_ept();
            for _ in 0..3 {
                equal(&format!("the page in round {round}"), guest.expect_report()?, frame.read(0))?;
            }
        }
        Ok(())
    })
}

/// Where the guest of [`remapped_by_the_guest`] sees the table that maps the page.
const TABLE: u64 = 0x60_0000;

guest_code!(
    /// Reads the page, writes RDX to its EPT entry at RDI, and reads the page again; then once more after an exit.
    edit_own_ept,
    "code64",
    "mov rbx, [RAM_END]",
    "mov [rdi], rdx",
    "mov rcx, [RAM_END]",
    "out REPORT_PORT, al",
    "mov rax, [RAM_END]",
    "hlt",
);

/// The second read uses the TLB. The third one, after an invalidation, does not.
fn remapped_by_the_guest() -> CaseResult {
    with_and_without(|_| {
        let frames = [Frame::filled(A)?, Frame::filled(B)?];
        let mut guest = Guest::long(edit_own_ept())?;
        guest.memory.ept.map_page(PAGE, frames[0].address(), Access::ALL)?;
        let entry = guest.memory.ept.page_entry_address(PAGE)?;
        guest.memory.ept.map_page(TABLE, entry & !0xFFF, Access::ALL)?;
        let registers = guest.vcpu.regs_mut();
        registers.rdi = TABLE + (entry & 0xFFF);
        registers.rdx = Ept::page_entry(frames[1].address(), Access::ALL);
        guest.expect_report()?;
        equal("the page before", guest.vcpu.regs().rbx, A)?;
        equal("the page, changed without an invalidation", guest.vcpu.regs().rcx, A)?;
        guest.vcpu.invalidate_ept();
        let (_, flushes) = flushes_of(|| guest.halt())?;
        equal("the page after the invalidation", guest.vcpu.regs().rax, B)?;
        equal("INVEPTs", flushes.invept, 1)
    })
}

/// The report of each guest of [`remapped_under_running_guests`]: the eight bytes that it read, and the number of reads.
const REPORTS: u64 = 0x40_0000;
/// Anything there ends it.
const STOP: u64 = 0x40_0FF8;

guest_code!(
    /// RDI is the place of its report. Interrupts are on because Bochs 2.7 lets none exit otherwise.
    watcher,
    "code64",
    "sti",
    "2: mov rax, [RAM_END]",
    "mov [rdi], rax",
    "inc qword ptr [rdi + 8]",
    "cmp qword ptr [0x400ff8], 0",
    "je 2b",
    "hlt",
);

/// The first CPU maps a page to another frame while all other CPUs read it, without exits. They read the old frame until the
/// first CPU flushes their TLBs.
fn remapped_under_running_guests() -> CaseResult {
    for vpids in [true, false] {
        let scene = Scene::new(vpids)?;
        let result = Mutex::new(Ok(()));
        smp::run_on_all(&|| {
            let part = if processor::index() == 0 { scene.direct() } else { scene.play() };
            if let Err(failure) = part {
                scene.stop();
                *result.lock() = Err(failure);
            }
        });
        result.into_inner()?;
    }
    Ok(())
}

struct Scene {
    vpids: bool,
    guest: Mutex<Guest>,
    root: usize,
    frames: [Frame; 2],
    reports: Frame,
    invalidators: Mutex<Vec<EptInvalidator>>,
    /// Guests that still run.
    playing: AtomicUsize,
}

impl Scene {
    /// Long enough that no guest exits by itself.
    const SLICE: u64 = 2_000_000_000;

    fn new(vpids: bool) -> CaseResult<Self> {
        // Only its memory is used, by the vCPUs of all processors.
        let mut guest = Guest::long(watcher())?;
        guest.vcpu.unbind()?;
        let (frames, reports) = ([Frame::filled(A)?, Frame::filled(B)?], Frame::filled(0)?);
        guest.memory.ept.map_page(PAGE, frames[0].address(), Access::ALL)?;
        guest.memory.ept.map_page(REPORTS, reports.address(), Access::ALL)?;
        let root = guest.memory.ept.root() as usize;
        Ok(Self {
            vpids,
            guest: Mutex::new(guest),
            root,
            frames,
            reports,
            invalidators: Mutex::new(Vec::new()),
            playing: AtomicUsize::new(smp::count() - 1),
        })
    }

    fn play(&self) -> CaseResult {
        let _limit = if self.vpids { None } else { Some(VpidLimit::none()?) };
        let mut vcpu = VmxArchVCpu::<HostHal>::new(0, processor::index())?;
        vcpu.set_start_state(Mode::Long.start_state())?;
        vcpu.setup(self.root.into(), (ORIGIN as usize).into())?;
        vcpu.set_time_slice(Some(time::ticks(Self::SLICE)))?;
        vcpu.regs_mut().rdi = REPORTS + 16 * processor::index() as u64;
        vcpu.bind()?;
        self.invalidators.lock().push(vcpu.ept_invalidator());
        let result = loop {
            match vcpu.run() {
                Ok(Exit::ExternalInterrupt { vector }) => interrupts::dispatch(vector as u8),
                Ok(Exit::Halt) => break Ok(()),
                other => break fail("an interrupt or HLT", format!("{other:?}")),
            }
        };
        self.playing.fetch_sub(1, Ordering::SeqCst);
        result
    }

    fn direct(&self) -> CaseResult {
        self.all_read("before", A)?;
        self.guest.lock().memory.ept.map_page(PAGE, self.frames[1].address(), Access::ALL)?;
        self.all_read("after a change without invalidation", A)?;
        self.invalidators.lock().iter().for_each(EptInvalidator::invalidate);
        let before = interrupts::count(WAKE_VECTOR);
        (1..smp::count()).for_each(smp::interrupt);
        let others = smp::count() as u64 - 1;
        wait("interrupts to be taken", || interrupts::count(WAKE_VECTOR) >= before + others)?;
        self.all_read("after the invalidation", B)?;
        self.stop();
        wait("the guests' ends", || self.playing.load(Ordering::SeqCst) == 0)
    }

    /// Each guest has read the page some hundred times more, and last got this.
    fn all_read(&self, when: &str, expected: u64) -> CaseResult {
        for processor in 1..smp::count() as u64 {
            let count = || self.reports.read(processor * 2 + 1);
            let goal = count() + 300;
            wait("a guest's reads", || count() >= goal)?;
            equal(&format!("the page {when}, by processor {processor},"), self.reports.read(processor * 2), expected)?;
        }
        Ok(())
    }

    fn stop(&self) {
        self.reports.write((STOP - REPORTS) / 8, 1);
    }
}

fn wait(what: &str, condition: impl Fn() -> bool) -> CaseResult {
    let end = time::now() + Scene::SLICE / 2;
    while !condition() {
        if time::now() > end {
            return fail(what, "a second without it");
        }
        core::hint::spin_loop();
    }
    Ok(())
}

/// A vCPU gets another EPT root, and then the first one again. A root that the processor would refuse changes nothing.
fn root_changed() -> CaseResult {
    with_and_without(|_| {
        let frames = [Frame::filled(A)?, Frame::filled(B)?];
        let (mut guest, mut other) = (Guest::long(reader())?, Guest::long(reader())?);
        guest.memory.ept.map_page(PAGE, frames[0].address(), Access::ALL)?;
        other.memory.ept.map_page(PAGE, frames[1].address(), Access::ALL)?;
        let roots = [guest.memory.ept.root() as usize, other.memory.ept.root() as usize];
        let bits = raw_cpuid::cpuid!(0x8000_0008).eax & 0xFF;
        for round in 0..4 {
            guest.vcpu.set_ept_root(roots[round % 2].into())?;
            for refused in [roots[1] + 8, roots[1] | 1 << bits, 1 << 63] {
                is_true("a root refused", guest.vcpu.set_ept_root(refused.into()).is_err())?;
                let why = guest.vcpu.change_ept_root(refused.into()).err();
                is_true("the reason", why.is_some_and(|why| format!("{why}").contains(&format!("{refused:#x}"))))?;
            }
            equal("the page", guest.expect_report()?, frames[round % 2].read(0))?;
        }
        let why =
            guest.vcpu.set_ept_format(x86_vcpu::EptFormat { levels: x86_vcpu::EptLevels::Five, ..Default::default() });
        same("five levels", why, Err(x86_vcpu::InvalidEptRoot::Levels(5)))?;
        equal("the page", guest.expect_report()?, B)?;
        guest.vcpu.unbind()?;
        Ok(())
    })
}
