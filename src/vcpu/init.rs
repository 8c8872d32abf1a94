//! INIT and the start-up IPI, as one vCPU's interrupt controller sends them to another.
//!
//! SDM Vol. 3A, 9.4 "Multiple-Processor (MP) Initialization", and 10.1.1 "Processor State After Reset" with its table for
//! INIT. A vCPU that waits for its start-up IPI does not run. The processor could wait in the wait-for-SIPI activity state, but
//! the host would lose the processor for as long.

use axerrno::{AxResult, ax_err};

use super::Vcpu;
use super::backend::{Anywhere, Backend, GuestField};
use super::control_registers::CR0_RESET;
use super::parts::requests::Request;

/// What an INIT leaves as it was, beside extended state, XCR0 and other MSRs.
const UNCHANGED: [GuestField; 4] =
    [GuestField::PAT, GuestField::SYSENTER_CS, GuestField::SYSENTER_ESP, GuestField::SYSENTER_EIP];

/// Bits of CR0 that an INIT leaves: CD and NW.
const CR0_UNCHANGED: u64 = 0b11 << 29;

/// # INIT and start-up IPI
///
/// What a local APIC does to the processor of another one.
impl<B: Backend> Vcpu<B> {
    /// Resets the vCPU by an INIT (SDM Vol. 3A, 10.1.1 "Processor State After Reset"). With `bootstrap` it then starts at the
    /// reset vector, as the first processor does; otherwise it waits for a start-up IPI.
    ///
    /// An INIT leaves extended state, XCR0, the cache bits of CR0, and MSRs but EFER and DEBUGCTL as they were. Events that
    /// waited are dropped.
    ///
    /// # Errors
    /// `BadState` for a vCPU that is not set up, or whose state cannot be read here.
    #[doc(alias = "reset")]
    pub fn receive_init(&mut self, bootstrap: bool) -> AxResult {
        if !self.start.is_set_up() {
            return ax_err!(BadState, "the vCPU is not set up");
        }
        let cache = self.backend.cr0(Anywhere)? & CR0_UNCHANGED;
        let mut unchanged = [0; UNCHANGED.len()];
        for (value, field) in unchanged.iter_mut().zip(UNCHANGED) {
            *value = self.backend.read(Anywhere, field)?;
        }
        self.reset_for_init();
        self.backend.write_cr0(CR0_RESET & !CR0_UNCHANGED | cache);
        for (value, field) in unchanged.into_iter().zip(UNCHANGED) {
            self.backend.write(field, value);
        }
        self.start.set_waits_for_startup(!bootstrap);
        self.requests().set_to(Request::STARTUP, !bootstrap);
        Ok(())
    }

    /// Starts a vCPU that waits for a start-up IPI, in real mode at guest-physical address `vector` times 4096. `false` if the
    /// vCPU does not wait: then the IPI is ignored.
    ///
    /// # Example
    ///
    /// ```no_run
    /// use axaddrspace::{GuestPhysAddr, HostPhysAddr};
    /// use axerrno::AxResult;
    /// use axvcpu::{AxArchVCpu, AxVCpuExitReason as Exit};
    /// use x86_vcpu::{PhysFrameHal, StartState, VmxVcpu};
    ///
    /// /// The second vCPU of a machine: it does not run until the first one starts it.
    /// fn second_vcpu(ept_root: HostPhysAddr) -> AxResult<VmxVcpu<PhysFrameHal>> {
    ///     let mut vcpu = VmxVcpu::new(0, 1)?;
    ///     vcpu.set_start_state(StartState::WaitForStartup)?;
    ///     vcpu.setup(ept_root, GuestPhysAddr::from(0))?;
    ///     Ok(vcpu)
    /// }
    ///
    /// /// `startup` is the vector of a start-up IPI that came for this vCPU, if one did.
    /// fn run_once(vcpu: &mut VmxVcpu<PhysFrameHal>, startup: Option<u8>) -> AxResult {
    ///     if let Some(vector) = startup {
    ///         // Real mode, at `vector` times 4096. Ignored by a vCPU that does not wait.
    ///         let started = vcpu.receive_startup(vector);
    ///         log::info!("vCPU {}: {}", vcpu.id(), if started { "starts" } else { "runs already" });
    ///     }
    ///     match vcpu.run()? {
    ///         Exit::CpuDown { .. } => {} // still waits: the caller sleeps until an IPI comes
    ///         other => log::debug!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias("sipi", "ap", "smp"))]
    pub fn receive_startup(&mut self, vector: u8) -> bool {
        let waited = self.start.waits_for_startup();
        if waited {
            self.start.set_waits_for_startup(false);
            self.requests().clear(Request::STARTUP);
            self.write_code_segment(u16::from(vector) << 8, u64::from(vector) << 12, 0);
        }
        waited
    }

    /// Whether the vCPU waits for a start-up IPI. [`run`](axvcpu::AxArchVCpu::run) then gives `CpuDown` without an entry.
    pub fn waits_for_startup(&self) -> bool {
        self.start.waits_for_startup()
    }
}
