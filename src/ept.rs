//! Extended page tables: the pointer to them, what a violation of them says, and a walk through them in software.
//!
//! The crate does not build the tables; the caller does, and gives their root. The vCPU needs three things more, which are
//! here: a valid EPTP, the decoding of EPT-violation exits, and a walk from a guest-physical address to host memory, for when the
//! crate reads the guest's page tables or instructions itself.

mod capability;
mod pointer;
mod violation;
mod walk;

use axaddrspace::MappingFlags;

pub use capability::EptVpidCaps;
pub(crate) use pointer::EPTPointer;
pub use pointer::{EptFormat, EptLevels, InvalidEptRoot};
pub use violation::{EptTarget, EptViolation, GuestRights};
pub use walk::{EptFault, EptStep, EptTranslation, EptWalk};
pub(crate) use walk::{EptRules, translate, walk};

/// What a walk through the guest's own page tables needs to know of the guest's state.
///
/// The fields carry their names and meanings from the crate's earlier releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestPageWalkInfo {
    /// Guest-physical address of the top paging structure, from CR3.
    pub top_entry: usize,
    /// How many levels the walk has: 2 (32-bit paging), 3 (PAE), 4 or 5.
    pub level: usize,
    /// How many bits of the linear address select an entry at each level: 10 (32-bit paging) or 9.
    pub width: u32,
    /// The access is a user-mode access (CPL 3).
    pub is_user_mode_access: bool,
    /// The access is a write.
    pub is_write_access: bool,
    /// The access is an instruction fetch.
    pub is_inst_fetch: bool,
    /// Entries may map large pages: CR4.PSE with 32-bit paging, always otherwise.
    pub pse: bool,
    /// Supervisor writes respect read-only pages: CR0.WP.
    pub wp: bool,
    /// Entries may forbid execution: EFER.NXE.
    pub nxe: bool,
    /// Supervisor accesses to user pages are faults: CR4.SMAP.
    pub is_smap_on: bool,
    /// Supervisor fetches from user pages are faults: CR4.SMEP.
    pub is_smep_on: bool,
}

/// Bits 51:12, where entries and the EPTP have an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bits 51:12 that no physical address of this processor has.
const fn reserved_address_bits(phys_addr_bits: u8) -> u64 {
    if phys_addr_bits >= 52 { 0 } else { ADDRESS & !((1 << phys_addr_bits) - 1) }
}

fn flags(read: bool, write: bool, execute: bool) -> MappingFlags {
    let mut flags = MappingFlags::empty();
    flags.set(MappingFlags::READ, read);
    flags.set(MappingFlags::WRITE, write);
    flags.set(MappingFlags::EXECUTE, execute);
    flags
}
