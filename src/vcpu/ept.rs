//! The vCPU's EPT: its root, its format, and what is in it.

use axaddrspace::{GuestPhysAddr, HostPhysAddr};
use axerrno::AxResult;

use super::Vcpu;
use super::backend::Backend;
use super::guest_memory::read_table_entry;
use super::parts::requests::{RemoteRequests, Request};
use crate::ept::{EptFormat, EptWalk, InvalidEptRoot, walk};

/// Where the EPT is, and how it is to be read.
#[derive(Debug, Default)]
pub(crate) struct EptRoot {
    root: Option<HostPhysAddr>,
    format: EptFormat,
}

impl EptRoot {
    pub(crate) fn root(&self) -> Option<HostPhysAddr> {
        self.root
    }

    pub(crate) fn format(&self) -> EptFormat {
        self.format
    }

    /// Sets a root that `setup` is to check.
    pub(crate) fn set_root(&mut self, root: HostPhysAddr) {
        self.root = Some(root);
    }
}

/// Tells a vCPU, from any processor, that its EPT has changed.
///
/// A host needs it when it takes something away in an EPT: it unmaps a page, maps it to other memory, removes a permission,
/// changes the memory type, or clears an accessed or dirty flag. It has an invalidator for each vCPU that uses the EPT. Before it
/// uses the memory that was mapped there for anything else, it
///
/// 1. changes the EPT,
/// 2. calls [`invalidate`](Self::invalidate) for each of the vCPUs,
/// 3. sends an interrupt to each other processor that may be running one of them, and waits until it has been taken.
///
/// A processor may be running a vCPU while it executes any method of it, also one that only reads or writes the guest's
/// memory: those do it a page at a time with interrupts off. An [`EptMemory`](crate::EptMemory) may be held across such a
/// change, because each of its accesses translates again.
///
/// A vCPU that is in its guest at that time exits by the interrupt, and one that is about to enter exits at once. None of
/// them enters again before its processor has flushed all that it had cached of the EPT. A vCPU that nobody runs needs no
/// interrupt, wherever it ran last (SDM Vol. 3C, 29.4.3.4 "Guidelines for Use of the INVEPT Instruction").
///
/// # Example
///
/// ```no_run
/// use x86_vcpu::EptInvalidator;
///
/// /// Takes a page from a guest whose vCPUs may be running on other processors, and gives its frame to somebody else.
/// ///
/// /// `invalidators` are those of all vCPUs with this EPT ([`VmxVcpu::ept_invalidator`](x86_vcpu::VmxVcpu::ept_invalidator)).
/// fn take_page(
///     clear_entry: impl FnOnce(),
///     invalidators: &[EptInvalidator],
///     interrupt_others_and_wait: impl FnOnce(),
///     reuse_frame: impl FnOnce(),
/// ) {
///     clear_entry();
///     // From its next entry on no vCPU uses what its processor has cached.
///     invalidators.iter().for_each(EptInvalidator::invalidate);
///     // A vCPU that is in its guest exits by the interrupt.
///     interrupt_others_and_wait();
///     // Only now nobody reaches the frame any more.
///     reuse_frame();
/// }
/// ```
#[doc(alias("invept", "tlb", "shootdown", "unmap"))]
#[derive(Clone, Debug)]
pub struct EptInvalidator {
    requests: RemoteRequests,
}

impl EptInvalidator {
    /// Requests a TLB flush: from its next entry on the vCPU uses nothing that was cached of its EPT before this call.
    pub fn invalidate(&self) {
        self.requests.set(Request::FLUSH_EPT);
    }
}

/// # EPT
///
/// Which memory the guest has.
impl<B: Backend> Vcpu<B> {
    /// Sets the EPT. `root` is the host-physical address of its top table. A vCPU that is set up uses it from its next entry on.
    ///
    /// The guest runs in what the EPT maps, and [`guest_memory`](Self::guest_memory) reads and writes there. So the caller
    /// promises:
    ///
    /// - The tables are an EPT, in memory that the host's HAL maps.
    /// - They map as write-back memory only what is memory and may be the guest's.
    /// - They live for as long as the vCPU has them. The vCPU does not keep them alive.
    ///
    /// The promise holds also for a root that comes by [`setup`](Self::setup) or `set_ept_root`. The traits of axvcpu have no
    /// `unsafe` to say so.
    ///
    /// `axaddrspace::AddrSpace` makes such tables, as the example shows.
    ///
    /// # Errors
    /// [`InvalidEptRoot`] for what the processor would refuse; nothing is changed then. Before VMX is enabled on this processor
    /// any root is accepted, and [`setup`](Self::setup) checks it.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axaddrspace::{AddrSpace, GuestPhysAddr, MappingFlags};
    /// use axerrno::{AxResult, ax_err};
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use page_table_multiarch::PagingHandler;
    /// use x86_vcpu::{PhysFrameHal, VmxVcpu};
    ///
    /// /// 1 GiB of RAM that gets each of its pages at the first access. `Frames` gives zeroed frames.
    /// fn lazy_memory<Frames: PagingHandler>() -> AxResult<AddrSpace<Frames>> {
    ///     let mut memory = AddrSpace::new_empty(GuestPhysAddr::from(0), 1 << 32)?;
    ///     let all = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    ///     memory.map_alloc(GuestPhysAddr::from(0), 1 << 30, all, false)?;
    ///     Ok(memory)
    /// }
    ///
    /// fn run_once<Frames: PagingHandler>(vcpu: &mut VmxVcpu<PhysFrameHal>, memory: &mut AddrSpace<Frames>) -> AxResult {
    ///     match vcpu.run()? {
    ///         // The same instruction runs again, so there is nothing to complete. And nothing to invalidate: the processor does
    ///         // not remember that a page was missing.
    ///         Exit::NestedPageFault { addr, access_flags } => {
    ///             if !memory.handle_page_fault(addr, access_flags) {
    ///                 return ax_err!(BadAddress, "the guest left its memory");
    ///             }
    ///         }
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("set_ept_root", "eptp"))]
    pub fn change_ept_root(&mut self, root: HostPhysAddr) -> Result<(), InvalidEptRoot> {
        self.change_ept(root, self.ept.format)
    }

    /// Sets the format of the EPT: four or five levels, and accessed and dirty flags. Before [`setup`](Self::setup) it is the
    /// format of the root given there. A vCPU that is set up uses it from its next entry on.
    ///
    /// # Errors
    /// [`InvalidEptRoot::Levels`] for levels that the processor does not have; nothing is changed then.
    #[doc(alias("dirty", "accessed"))]
    pub fn set_ept_format(&mut self, format: EptFormat) -> Result<(), InvalidEptRoot> {
        match self.ept.root {
            Some(root) => self.change_ept(root, format),
            None => {
                self.ept.format = format;
                Ok(())
            }
        }
    }

    fn change_ept(&mut self, root: HostPhysAddr, format: EptFormat) -> Result<(), InvalidEptRoot> {
        self.backend.change_ept(root, format, self.start.is_set_up())?;
        self.ept = EptRoot { root: Some(root), format };
        Ok(())
    }

    /// Tells the vCPU that the caller has changed its EPT. Where other vCPUs use the EPT, [`EptInvalidator`] says what else is
    /// to be done.
    #[doc(alias("invept", "tlb", "flush"))]
    pub fn invalidate_ept(&mut self) {
        self.requests().set(Request::FLUSH_EPT);
    }

    /// A handle by which any processor tells this vCPU that its EPT has changed, while the vCPU runs for example. It may
    /// outlive the vCPU, and then does nothing.
    pub fn ept_invalidator(&self) -> EptInvalidator {
        EptInvalidator { requests: self.requests().remote() }
    }

    /// Walks the EPT for a guest-physical address, as the processor would without its caches, and gives each entry on the way.
    /// So a caller sees where an EPT violation or misconfiguration came from.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not bound, or has no EPT.
    pub fn ept_walk(&self, address: GuestPhysAddr) -> AxResult<EptWalk> {
        let (root, rules) = self.ept_and_rules()?;
        Ok(walk(root, rules, address, |entry| Some(read_table_entry::<B::Hal>(entry))))
    }

    /// Shows an EPT misconfiguration to whoever only learns that the vCPU cannot go on.
    #[cold]
    pub(crate) fn log_misconfiguration(&self, current: B::Current) -> AxResult {
        let (address, _) = self.backend.nested_fault(current)?;
        log::error!("vCPU {}: EPT misconfiguration at {}", self.id(), self.ept_walk(address)?);
        Ok(())
    }
}
