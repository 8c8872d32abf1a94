//! Debug registers: bits, reset values, and what a write makes of a value (SDM Vol. 3B, section 18.2, "Debug Registers").

/// DR6 after reset.
pub(crate) const DR6_RESET: u64 = 0xFFFF_0FF0;
/// B0 to B3: which breakpoints were hit.
pub(crate) const DR6_BREAKPOINTS: u64 = 0xF;
/// BD: an access to a debug register while DR7.GD was set.
pub(crate) const DR6_BD: u64 = 1 << 13;
/// BS: a single step. It has the same place among the pending debug exceptions.
pub(crate) const DR6_BS: u64 = 1 << 14;
/// What a debug exception reports: B0 to B3, BD and BS.
pub(crate) const DR6_CONDITIONS: u64 = DR6_BREAKPOINTS | DR6_BD | DR6_BS;
/// Of DR6, the bits that software can set and clear.
const DR6_WRITABLE: u64 = 0xE00F;

/// DR7 after reset, and while no breakpoint is enabled.
pub(crate) const DR7_RESET: u64 = 0x400;
/// L0 to G3: a breakpoint is enabled.
pub(crate) const DR7_ENABLES: u64 = 0xFF;
/// GD: accesses to debug registers raise #DB.
pub(crate) const DR7_GD: u64 = 1 << 13;
/// Of DR7, the bits that software can set and clear.
const DR7_WRITABLE: u64 = 0xFFFF_0000 | DR7_GD | 0x3FF;

/// IA32_DEBUGCTL.BTF: TF traps on branches only.
pub(crate) const DEBUGCTL_BTF: u64 = 1 << 1;
/// IA32_DEBUGCTL.LBR: branches are recorded.
pub(crate) const DEBUGCTL_LBR: u64 = 1 << 0;

/// What DR6 holds after `value` was written: bits 4 to 11 and 16 to 31 are set but for BLD and RTM, bit 12 is clear.
pub(crate) const fn dr6_written(value: u64) -> u64 {
    value & DR6_WRITABLE | DR6_RESET
}

/// What DR7 holds after `value` was written.
pub(crate) const fn dr7_written(value: u64) -> u64 {
    value & DR7_WRITABLE | DR7_RESET
}

/// What DR6 holds after a debug exception with these conditions (SDM Vol. 3B, section 18.2.3, "Debug Status Register (DR6)"):
/// B0 to B3 are those of this exception, and other bits that were set remain set.
pub(crate) const fn dr6_after(dr6: u64, conditions: u64) -> u64 {
    dr6 & !DR6_BREAKPOINTS | conditions
}

/// What IA32_DEBUGCTL holds after a debug exception was delivered: LBR and BTF are clear (SDM Vol. 3B, section 18.4.3,
/// "Single-Stepping on Branches").
pub(crate) const fn debugctl_after_exception(debugctl: u64) -> u64 {
    debugctl & !(DEBUGCTL_LBR | DEBUGCTL_BTF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is reserved cannot be changed, and what was written once stays when it is written again.
        #[test]
        fn reserved_bits_stay(value in 0u64..1 << 32) {
            for (written, reset, writable) in
                [(dr6_written as fn(u64) -> u64, DR6_RESET, DR6_WRITABLE), (dr7_written, DR7_RESET, DR7_WRITABLE)]
            {
                prop_assert_eq!(written(value) & !writable, reset & !writable);
                prop_assert_eq!(written(written(value)), written(value));
            }
        }

        /// A debug exception reports its own breakpoints, and forgets nothing else.
        #[test]
        fn conditions_add_up(dr6 in 0u64..1 << 32, conditions in 0u64..1 << 16) {
            let conditions = conditions & DR6_CONDITIONS;
            let after = dr6_after(dr6_written(dr6), conditions);
            prop_assert_eq!(after & DR6_BREAKPOINTS, conditions & DR6_BREAKPOINTS);
            prop_assert_eq!(after | conditions, after);
            prop_assert_eq!(after & (DR6_BD | DR6_BS) | dr6 & (DR6_BD | DR6_BS), after & (DR6_BD | DR6_BS));
        }
    }
}
