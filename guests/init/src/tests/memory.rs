//! Memory: pages given on demand, shared between processes, protected, and given back.

use std::num::NonZeroUsize;

use nix::{
    sys::{
        mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap},
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::{ForkResult, fork},
};

use super::{Outcome, ensure};

const PAGE: usize = 4096;
const PRIVATE: usize = 8 << 20;
const SHARED: usize = 1 << 20;

pub fn run() -> Outcome {
    on_demand()?;
    shared()?;
    protected()?;
    Ok(format!("{} MiB touched, {} MiB shared, write protection holds", PRIVATE >> 20, SHARED >> 20))
}

fn on_demand() -> Outcome {
    let mut mapping = Mapping::new(PRIVATE, MapFlags::MAP_PRIVATE)?;
    let pages = mapping.bytes().chunks_exact_mut(PAGE);
    pages.enumerate().for_each(|(number, page)| page[number % PAGE] = number as u8 | 1);
    for (number, page) in mapping.bytes().chunks_exact(PAGE).enumerate() {
        let expected = number as u8 | 1;
        let sum: u32 = page.iter().map(|byte| u32::from(*byte)).sum();
        ensure(sum == u32::from(expected), || format!("page {number} sums up to {sum}, not {expected}"))?;
    }
    // SAFETY: nothing points into the mapping now; its pages become zeros.
    unsafe { madvise(mapping.start, mapping.length, MmapAdvise::MADV_DONTNEED) }?;
    ensure(mapping.bytes().iter().all(|byte| *byte == 0), || "pages that were given back are not zero".to_owned())?;
    Ok(String::new())
}

/// A child fills what its parent then reads.
fn shared() -> Outcome {
    let mut mapping = Mapping::new(SHARED, MapFlags::MAP_SHARED)?;
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            mapping.bytes().iter_mut().enumerate().for_each(|(index, byte)| *byte = index as u8);
            std::process::exit(0);
        }
        ForkResult::Parent { child } => waitpid(child, None)?,
    };
    let good = mapping.bytes().iter().enumerate().all(|(index, byte)| *byte == index as u8);
    ensure(good, || "a child's writes are not seen".to_owned())?;
    Ok(String::new())
}

fn protected() -> Outcome {
    let mut mapping = Mapping::new(PAGE, MapFlags::MAP_PRIVATE)?;
    mapping.bytes()[0] = 42;
    // SAFETY: nothing writes to the page but the child below, which is to end by it.
    unsafe { mprotect(mapping.start, PAGE, ProtFlags::PROT_READ) }?;
    // SAFETY: this process has one thread.
    let status = match unsafe { fork() }? {
        ForkResult::Child => {
            // SAFETY: faults, and ends the process.
            unsafe { mapping.start.cast::<u8>().as_ptr().write_volatile(1) };
            std::process::exit(0);
        }
        ForkResult::Parent { child } => waitpid(child, None)?,
    };
    let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _));
    ensure(killed, || format!("a write to a protected page: {status:?}"))?;
    Ok(String::new())
}

/// Anonymous memory that goes away with this.
struct Mapping {
    start: std::ptr::NonNull<std::ffi::c_void>,
    length: usize,
}

impl Mapping {
    fn new(length: usize, flags: MapFlags) -> Result<Self, Box<dyn std::error::Error>> {
        let size = NonZeroUsize::new(length).ok_or("no length")?;
        // SAFETY: a new mapping where the kernel likes it.
        let start = unsafe { mmap_anonymous(None, size, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
        Ok(Self { start, length })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping lives as long as this, and this is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.length) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing points into it any more. Failing leaves it mapped, which harms nothing.
        let _ = unsafe { munmap(self.start, self.length) };
    }
}
