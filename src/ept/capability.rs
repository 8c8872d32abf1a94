//! What a processor can do with an EPT and with VPIDs.

use bitflags::bitflags;

bitflags! {
    /// IA32_VMX_EPT_VPID_CAP (Appendix A.10 "VPID and EPT Capabilities").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EptVpidCaps: u64 {
        /// An EPT entry may allow execution without reading.
        const EXECUTE_ONLY = 1 << 0;
        /// EPT page walks of 4 levels.
        const WALK_LENGTH_4 = 1 << 6;
        /// EPT page walks of 5 levels.
        const WALK_LENGTH_5 = 1 << 7;
        /// EPT paging structures in uncacheable memory.
        const MEMORY_TYPE_UC = 1 << 8;
        /// EPT paging structures in write-back memory.
        const MEMORY_TYPE_WB = 1 << 14;
        /// EPT maps 2 MiB pages.
        const PAGES_2M = 1 << 16;
        /// EPT maps 1 GiB pages.
        const PAGES_1G = 1 << 17;
        /// INVEPT exists.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags in EPT.
        const ACCESSED_DIRTY = 1 << 21;
        /// EPT violations report how the guest's own paging maps the address.
        const ADVANCED_EXIT_INFO = 1 << 22;
        /// EPT can protect supervisor shadow stacks.
        const SUPERVISOR_SHADOW_STACK = 1 << 23;
        /// INVEPT for one EPTP.
        const INVEPT_SINGLE_CONTEXT = 1 << 25;
        /// INVEPT for all EPTPs.
        const INVEPT_ALL_CONTEXTS = 1 << 26;
        /// INVVPID exists.
        const INVVPID = 1 << 32;
        /// INVVPID for one linear address.
        const INVVPID_ADDRESS = 1 << 40;
        /// INVVPID for one VPID.
        const INVVPID_SINGLE_CONTEXT = 1 << 41;
        /// INVVPID for all VPIDs but 0.
        const INVVPID_ALL_CONTEXTS = 1 << 42;
        /// INVVPID for one VPID that keeps global translations.
        const INVVPID_SINGLE_RETAINING_GLOBALS = 1 << 43;
    }
}
