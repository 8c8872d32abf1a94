//! What an EPT violation says.

use axaddrspace::MappingFlags;
use bitflags::bitflags;

use super::capability::EptVpidCaps;
use super::flags;

bitflags! {
    /// The exit qualification of an EPT violation (SDM Vol. 3C, 28.2.1 "Basic VM-Exit Information", table "Exit
    /// Qualification for EPT Violations").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EptViolation: u64 {
        /// The access was a data read. An update of accessed and dirty flags sets this bit and the next.
        const READ = 1 << 0;
        /// The access was a data write.
        const WRITE = 1 << 1;
        /// The access was an instruction fetch.
        const FETCH = 1 << 2;
        /// All EPT entries on the way allowed reading.
        const READABLE = 1 << 3;
        /// All EPT entries on the way allowed writing.
        const WRITABLE = 1 << 4;
        /// All EPT entries on the way allowed execution; with mode-based execute control, from supervisor-mode
        /// addresses.
        const EXECUTABLE = 1 << 5;
        /// With mode-based execute control: all EPT entries on the way allowed execution from user-mode addresses.
        const USER_EXECUTABLE = 1 << 6;
        /// The guest-linear-address field is valid.
        const LINEAR_ADDRESS_VALID = 1 << 7;
        /// With a valid linear address: the access was to the page that it translates to, not to one of the
        /// guest's paging structures on the way there.
        const TRANSLATED = 1 << 8;
        /// With advanced information: the linear address is a user-mode one.
        const USER_MODE_ADDRESS = 1 << 9;
        /// With advanced information: the guest's paging maps the linear address writable.
        const GUEST_WRITABLE = 1 << 10;
        /// With advanced information: the guest's paging maps the linear address execute-disable.
        const GUEST_EXECUTE_DISABLE = 1 << 11;
        /// An IRET was executing and had unblocked NMIs; the handler has to block them again.
        const NMI_UNBLOCKING = 1 << 12;
        /// The access was a shadow-stack access.
        const SHADOW_STACK = 1 << 13;
        /// Supervisor shadow-stack control: the translation allows it.
        const SUPERVISOR_SHADOW_STACK = 1 << 14;
        /// The violation came from guest-paging verification.
        const PAGING_VERIFICATION = 1 << 15;
        /// The access had nothing to do with the instruction that was executing, as with trace output.
        const ASYNCHRONOUS = 1 << 16;
    }
}

impl EptViolation {
    /// From the exit-qualification field; bits without a meaning are dropped.
    pub const fn from_qualification(qualification: u64) -> Self {
        Self::from_bits_truncate(qualification)
    }

    /// The access that was not allowed, in the flags that address spaces are built with.
    pub fn access(self) -> MappingFlags {
        flags(self.contains(Self::READ), self.contains(Self::WRITE), self.contains(Self::FETCH))
    }

    /// What the EPT allows at the address; empty if nothing is mapped there.
    pub fn allowed(self) -> MappingFlags {
        let execute = self.intersects(Self::EXECUTABLE | Self::USER_EXECUTABLE);
        flags(self.contains(Self::READABLE), self.contains(Self::WRITABLE), execute)
    }

    /// Whether the EPT maps the address at all, so that the violation is one of permission.
    pub fn is_present(self) -> bool {
        !self.allowed().is_empty()
    }

    /// Whether the access was the processor's own, to one of the guest's paging structures.
    pub fn is_page_walk(self) -> bool {
        self.target() == EptTarget::PagingStructure
    }

    /// What lies at the guest-physical address, to the access.
    pub fn target(self) -> EptTarget {
        match (self.contains(Self::LINEAR_ADDRESS_VALID), self.contains(Self::TRANSLATED)) {
            (true, true) => EptTarget::Translation,
            (true, false) => EptTarget::PagingStructure,
            (false, _) => EptTarget::NoLinearAddress,
        }
    }

    /// How the guest's own paging maps the linear address, where this processor tells.
    pub(crate) fn guest_rights(self, caps: EptVpidCaps) -> Option<GuestRights> {
        let told = caps.contains(EptVpidCaps::ADVANCED_EXIT_INFO) && self.target() == EptTarget::Translation;
        told.then(|| GuestRights {
            user: self.contains(Self::USER_MODE_ADDRESS),
            writable: self.contains(Self::GUEST_WRITABLE),
            execute_disable: self.contains(Self::GUEST_EXECUTE_DISABLE),
        })
    }
}

/// What an access that caused an EPT violation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EptTarget {
    /// What the linear address translates to.
    Translation,
    /// A paging structure of the guest, on the way there: read, or written for an accessed or dirty flag.
    PagingStructure,
    /// Nothing that has a linear address, as when MOV to CR3 reads the page-directory-pointer table.
    NoLinearAddress,
}

/// How the guest's own paging maps the linear address of an EPT violation. Where the guest does not page, an address is
/// a writable user-mode one that may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRights {
    /// A user-mode address rather than a supervisor-mode one.
    pub user: bool,
    /// Writable.
    pub writable: bool,
    /// Execution is forbidden.
    pub execute_disable: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn violations_are_told_as_access_and_permission(qualification: u64) {
            let violation = EptViolation::from_qualification(qualification);
            prop_assert_eq!(violation.access().bits() as u64, qualification & 7);
            let allowed = violation.allowed();
            prop_assert_eq!(violation.is_present(), qualification >> 3 & 0xf != 0);
            prop_assert_eq!(allowed.contains(MappingFlags::READ), qualification & 1 << 3 != 0);
            prop_assert_eq!(allowed.contains(MappingFlags::WRITE), qualification & 1 << 4 != 0);
            prop_assert_eq!(violation.is_page_walk(), qualification >> 7 & 3 == 1);
            prop_assert_eq!(violation.target() == EptTarget::NoLinearAddress, qualification & 1 << 7 == 0);
        }

        /// What the guest's paging says is there only of a final access, and only by leave of the capabilities.
        #[test]
        fn advanced_information_needs_its_capability(qualification: u64, caps: u64) {
            let caps = EptVpidCaps::from_bits_truncate(caps);
            let rights = EptViolation::from_qualification(qualification).guest_rights(caps);
            prop_assert_eq!(rights.is_some(), caps.bits() & 1 << 22 != 0 && qualification >> 7 & 3 == 3);
            if let Some(rights) = rights {
                let bits = u64::from(rights.user) | u64::from(rights.writable) << 1 | u64::from(rights.execute_disable) << 2;
                prop_assert_eq!(bits, qualification >> 9 & 7);
            }
        }
    }
}
