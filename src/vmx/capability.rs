//! What this processor's VMX can do, decided once from the values of its capability MSRs.
//!
//! Nothing here touches the processor: whoever enables VMX reads the MSRs into [`RawCapabilities`], and
//! [`Capabilities::decide`] says whether this crate can work with them, or in words what is missing. After that
//! nobody needs to read a capability MSR again, neither at setup nor on an exit.
//!
//! The MSRs are described in the SDM's Appendix A "VMX Capability Reporting Facility".

use core::{fmt, marker::PhantomData};

use bitflags::Flags;

use super::structs::VmxBasic;
use crate::ept::EptVpidCaps;

mod controls;
mod unsupported;

pub use controls::{EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls, TertiaryControls};
pub use unsupported::Unsupported;

/// A 32-bit control field: its bits, and the name it is called by in messages.
pub trait ControlField: Flags<Bits = u32> + Copy + fmt::Debug + 'static {
    /// The field itself.
    const FIELD: Field;
}

/// The control fields that have a capability MSR with allowed settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Pin-based VM-execution controls.
    Pin,
    /// Primary processor-based VM-execution controls.
    Primary,
    /// Secondary processor-based VM-execution controls.
    Secondary,
    /// Primary VM-exit controls.
    Exit,
    /// VM-entry controls.
    Entry,
}

macro_rules! control_fields {
    ($($flags:ident is $field:ident;)+) => {
        $(impl ControlField for $flags {
            const FIELD: Field = Field::$field;
        })+

        impl Field {
            /// Writes the names of `bits`, and whatever is left without a name as a number.
            fn write_names(self, bits: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$field => write_names($flags::from_bits_retain(bits), f),)+
                }
            }
        }
    };
}

control_fields! {
    PinControls is Pin;
    PrimaryControls is Primary;
    SecondaryControls is Secondary;
    ExitControls is Exit;
    EntryControls is Entry;
}

fn write_names<F: ControlField>(flags: F, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut names = flags.iter_names();
    let mut separator = "";
    for (name, _) in names.by_ref() {
        write!(f, "{separator}{name}")?;
        separator = ", ";
    }
    match names.remaining().bits() {
        0 => Ok(()),
        unnamed => write!(f, "{separator}bits {unnamed:#x}"),
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pin => "pin-based controls",
            Self::Primary => "primary processor-based controls",
            Self::Secondary => "secondary processor-based controls",
            Self::Exit => "VM-exit controls",
            Self::Entry => "VM-entry controls",
        })
    }
}

/// Controls that were asked for and that the processor does not let be 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingControl {
    /// The field the bits belong to.
    pub field: Field,
    /// The missing bits, at their place in the field.
    pub bits: u32,
}

impl fmt::Display for MissingControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.field.write_names(self.bits, f)?;
        write!(f, " in the {}", self.field)
    }
}

impl core::error::Error for MissingControl {}

/// Which bits of one control field may be 0 and which may be 1.
pub struct ControlCaps<F> {
    /// Bits that must be 1 ("allowed 0-settings": a 0 here may be 0).
    pub allowed0: u32,
    /// Bits that may be 1.
    pub allowed1: u32,
    _field: PhantomData<F>,
}

impl<F: ControlField> ControlCaps<F> {
    /// From the value of the field's capability MSR: must-be-1 bits in its lower half, may-be-1 bits in its
    /// upper half.
    pub const fn new(msr: u64) -> Self {
        Self { allowed0: msr as u32, allowed1: (msr >> 32) as u32, _field: PhantomData }
    }

    /// The value for the field: all of `required`, what can be had of `optional`, and the bits that must be 1.
    ///
    /// The result can hold more than was asked for, where the processor insists on it. This is so for reserved
    /// bits, and on processors without the TRUE capability MSRs for the controls that default to 1 (Appendix A.2
    /// "Reserved Controls and Default Settings").
    ///
    /// # Errors
    ///
    /// The bits of `required` that may not be 1.
    pub fn decide(&self, required: F, optional: F) -> Result<u32, MissingControl> {
        let bits = required.bits() & !self.allowed1;
        if bits != 0 {
            return Err(MissingControl { field: F::FIELD, bits });
        }
        Ok(required.bits() | optional.bits() & self.allowed1 | self.allowed0)
    }

    /// Whether all of `controls` may be 1.
    pub fn can_set(&self, controls: F) -> bool {
        controls.bits() & !self.allowed1 == 0
    }

    /// The named controls that may be 1.
    pub fn available(&self) -> F {
        F::from_bits_truncate(self.allowed1)
    }
}

// Not derived: a derive would ask the same of `F`.
impl<F> Clone for ControlCaps<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for ControlCaps<F> {}

impl<F> fmt::Debug for ControlCaps<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be 1: {:#010x}, may be 1: {:#010x}", self.allowed0, self.allowed1)
    }
}

/// IA32_VMX_MISC, decoded (Appendix A.6 "Miscellaneous Data").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmxMisc {
    /// The VMX-preemption timer counts down by 1 each time this bit of the TSC changes, so by 1 in
    /// 2 to the power of this many TSC ticks.
    pub preemption_timer_rate: u8,
    /// Exits save EFER.LMA into the "IA-32e mode guest" entry control. Always so with unrestricted guest.
    pub saves_lma: bool,
    /// Entries into the HLT activity state are possible.
    pub activity_hlt: bool,
    /// Entries into the shutdown activity state are possible.
    pub activity_shutdown: bool,
    /// Entries into the wait-for-SIPI activity state are possible.
    pub activity_wait_for_sipi: bool,
    /// Processor Trace can be used in VMX operation.
    pub pt_in_vmx: bool,
    /// How many CR3-target values there are (0 to 256).
    pub cr3_targets: u16,
    /// The most entries that an MSR-load or MSR-store area should have: 512 to 4096.
    pub max_msr_list: u16,
    /// VMWRITE can write any supported field, VM-exit information too.
    pub vmwrite_any_field: bool,
    /// Software interrupts and exceptions can be injected with an instruction length of 0.
    pub zero_length_injection: bool,
}

impl VmxMisc {
    /// Decodes the MSR's value.
    pub const fn from_bits(raw: u64) -> Self {
        Self {
            preemption_timer_rate: (raw & 0x1f) as u8,
            saves_lma: raw & 1 << 5 != 0,
            activity_hlt: raw & 1 << 6 != 0,
            activity_shutdown: raw & 1 << 7 != 0,
            activity_wait_for_sipi: raw & 1 << 8 != 0,
            pt_in_vmx: raw & 1 << 14 != 0,
            cr3_targets: (raw >> 16 & 0x1ff) as u16,
            max_msr_list: ((raw >> 25 & 7) as u16 + 1) * 512,
            vmwrite_any_field: raw & 1 << 29 != 0,
            zero_length_injection: raw & 1 << 30 != 0,
        }
    }

    /// The timer value for `ticks` of the TSC, rounded up to a whole unit. The first unit may be partly over at the entry.
    ///
    /// The timer has 32 bits; a slice that is too long for it saturates.
    pub const fn preemption_timer_value(&self, ticks: u64) -> u32 {
        let rest = ticks & ((1 << self.preemption_timer_rate) - 1);
        let value = (ticks >> self.preemption_timer_rate) + (rest != 0) as u64;
        if value > u32::MAX as u64 { u32::MAX } else { value as u32 }
    }
}

/// The bits of CR0 or CR4 that VMX operation fixes (Appendix A.7 "VMX-Fixed Bits in CR0" and A.8 "VMX-Fixed Bits
/// in CR4").
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FixedBits {
    /// Bits that must be 1.
    pub ones: u64,
    /// Bits that may be 1; the others must be 0.
    pub allowed: u64,
}

impl FixedBits {
    /// From the values of the FIXED0 and FIXED1 MSRs.
    pub const fn new(fixed0: u64, fixed1: u64) -> Self {
        Self { ones: fixed0, allowed: fixed1 }
    }

    /// The bits of `value` that are 0 and must be 1.
    pub const fn missing(&self, value: u64) -> u64 {
        self.ones & !value
    }

    /// The bits of `value` that are 1 and must be 0.
    pub const fn forbidden(&self, value: u64) -> u64 {
        value & !self.allowed
    }
}

impl fmt::Debug for FixedBits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be 1: {:#x}, may be 1: {:#x}", self.ones, self.allowed)
    }
}

/// Values of the capability MSRs, as read.
///
/// An MSR that the processor does not have is 0 here. Which of them exist follows from the others:
///
/// - the TRUE ones, if bit 55 of `basic` is 1;
/// - `proc2` if `proc` allows secondary controls, and `proc3` if it allows tertiary controls;
/// - `ept_vpid` if `proc2` allows EPT or VPID, and `vmfunc` if it allows VM functions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawCapabilities {
    /// IA32_VMX_BASIC (0x480).
    pub basic: u64,
    /// IA32_VMX_TRUE_PINBASED_CTLS (0x48D), or IA32_VMX_PINBASED_CTLS (0x481).
    pub pin: u64,
    /// IA32_VMX_TRUE_PROCBASED_CTLS (0x48E), or IA32_VMX_PROCBASED_CTLS (0x482).
    pub proc: u64,
    /// IA32_VMX_PROCBASED_CTLS2 (0x48B).
    pub proc2: u64,
    /// IA32_VMX_PROCBASED_CTLS3 (0x492).
    pub proc3: u64,
    /// IA32_VMX_TRUE_EXIT_CTLS (0x48F), or IA32_VMX_EXIT_CTLS (0x483).
    pub exit: u64,
    /// IA32_VMX_TRUE_ENTRY_CTLS (0x490), or IA32_VMX_ENTRY_CTLS (0x484).
    pub entry: u64,
    /// IA32_VMX_MISC (0x485).
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0 (0x486).
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1 (0x487).
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0 (0x488).
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1 (0x489).
    pub cr4_fixed1: u64,
    /// IA32_VMX_EPT_VPID_CAP (0x48C).
    pub ept_vpid: u64,
    /// IA32_VMX_VMFUNC (0x491).
    pub vmfunc: u64,
    /// MAXPHYADDR: bits 7:0 of EAX of CPUID leaf 8000_0008H.
    pub phys_addr_bits: u8,
}

/// Controls without which this crate does not run a guest.
pub mod required {
    use super::*;

    /// External interrupts and NMIs are the host's, and the guest has its own NMI blocking.
    pub const PIN: PinControls =
        PinControls::EXTERNAL_INTERRUPT_EXITING.union(PinControls::NMI_EXITING).union(PinControls::VIRTUAL_NMIS);
    /// Bitmaps choose among ports and MSRs.
    pub const PRIMARY: PrimaryControls =
        PrimaryControls::IO_BITMAPS.union(PrimaryControls::MSR_BITMAPS).union(PrimaryControls::SECONDARY_CONTROLS);
    /// Memory is the guest's own from its first real-mode instruction on.
    pub const SECONDARY: SecondaryControls = SecondaryControls::EPT.union(SecondaryControls::UNRESTRICTED_GUEST);
    /// A 64-bit host with its own EFER, PAT and debug controls, which takes interrupts by their vector.
    pub const EXIT: ExitControls = ExitControls::HOST_ADDRESS_SPACE_SIZE
        .union(ExitControls::ACK_INTERRUPT_ON_EXIT)
        .union(ExitControls::SAVE_DEBUG_CONTROLS)
        .union(ExitControls::SAVE_PAT)
        .union(ExitControls::LOAD_PAT)
        .union(ExitControls::SAVE_EFER)
        .union(ExitControls::LOAD_EFER);
    /// A guest with its own EFER, PAT and debug controls.
    pub const ENTRY: EntryControls =
        EntryControls::LOAD_DEBUG_CONTROLS.union(EntryControls::LOAD_PAT).union(EntryControls::LOAD_EFER);
}

/// What this processor's VMX can do; it is enough for this crate.
///
/// `Debug` prints it by the names of the controls, for a log.
#[derive(Clone, Copy)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: VmxBasic,
    /// Pin-based controls.
    pub pin: ControlCaps<PinControls>,
    /// Primary processor-based controls.
    pub primary: ControlCaps<PrimaryControls>,
    /// Secondary processor-based controls.
    pub secondary: ControlCaps<SecondaryControls>,
    /// Tertiary processor-based controls that may be 1.
    pub tertiary: TertiaryControls,
    /// VM-exit controls.
    pub exit: ControlCaps<ExitControls>,
    /// VM-entry controls.
    pub entry: ControlCaps<EntryControls>,
    /// IA32_VMX_MISC.
    pub misc: VmxMisc,
    /// Fixed bits of CR0 for the host; an unrestricted guest may clear PE and PG.
    pub cr0: FixedBits,
    /// Fixed bits of CR4, for host and guest.
    pub cr4: FixedBits,
    /// EPT and VPID.
    pub ept_vpid: EptVpidCaps,
    /// VM functions that may be enabled (IA32_VMX_VMFUNC).
    pub vmfunc: u64,
    /// MAXPHYADDR: how many bits a physical address has.
    pub phys_addr_bits: u8,
}

impl Capabilities {
    /// Decides whether the crate can run guests with these capabilities.
    ///
    /// The crate requires regions that fit in a frame of ordinary memory, and what [`required`] lists. Of EPT it requires 4-level
    /// walks, paging structures in write-back or uncacheable memory, and INVEPT for one context or for all.
    ///
    /// # Errors
    ///
    /// The first thing that is missing. EPT comes before what is built on it, so that the message for an old
    /// processor names what its data sheet would.
    pub fn decide(raw: &RawCapabilities) -> Result<Self, Unsupported> {
        let caps = Self {
            basic: VmxBasic::from_bits(raw.basic),
            pin: ControlCaps::new(raw.pin),
            primary: ControlCaps::new(raw.proc),
            secondary: ControlCaps::new(raw.proc2),
            tertiary: TertiaryControls::from_bits_truncate(raw.proc3),
            exit: ControlCaps::new(raw.exit),
            entry: ControlCaps::new(raw.entry),
            misc: VmxMisc::from_bits(raw.misc),
            cr0: FixedBits::new(raw.cr0_fixed0, raw.cr0_fixed1),
            cr4: FixedBits::new(raw.cr4_fixed0, raw.cr4_fixed1),
            ept_vpid: EptVpidCaps::from_bits_truncate(raw.ept_vpid),
            vmfunc: raw.vmfunc,
            phys_addr_bits: raw.phys_addr_bits,
        };
        caps.check_regions()?;
        caps.check_controls()?;
        caps.check_ept()?;
        Ok(caps)
    }

    /// Whether VPIDs can be used: the control, and an INVVPID that drops the translations of a VPID.
    pub fn has_vpid(&self) -> bool {
        let flush = EptVpidCaps::INVVPID_SINGLE_CONTEXT | EptVpidCaps::INVVPID_ALL_CONTEXTS;
        self.secondary.can_set(SecondaryControls::VPID)
            && self.ept_vpid.contains(EptVpidCaps::INVVPID)
            && self.ept_vpid.intersects(flush)
    }

    /// Whether a time slice can be given by the VMX-preemption timer.
    pub fn has_preemption_timer(&self) -> bool {
        self.pin.can_set(PinControls::PREEMPTION_TIMER)
    }

    /// Whether one frame of ordinary memory, wherever it is, can be a VMX structure (Appendix A.1 "Basic VMX
    /// Information").
    fn check_regions(&self) -> Result<(), Unsupported> {
        if !(1..=4096).contains(&self.basic.region_size) {
            return Err(Unsupported::RegionSize(self.basic.region_size));
        }
        if self.basic.is_32bit_address {
            return Err(Unsupported::Addresses32Bit);
        }
        if self.basic.mem_type != VmxBasic::VMX_MEMORY_TYPE_WRITE_BACK {
            return Err(Unsupported::MemoryType(self.basic.mem_type));
        }
        Ok(())
    }

    fn check_controls(&self) -> Result<(), Unsupported> {
        self.primary.decide(required::PRIMARY, PrimaryControls::empty())?;
        self.secondary.decide(SecondaryControls::EPT, SecondaryControls::empty())?;
        self.secondary.decide(required::SECONDARY, SecondaryControls::empty())?;
        self.pin.decide(required::PIN, PinControls::empty())?;
        self.exit.decide(required::EXIT, ExitControls::empty())?;
        self.entry.decide(required::ENTRY, EntryControls::empty())?;
        Ok(())
    }

    fn check_ept(&self) -> Result<(), Unsupported> {
        let needed = EptVpidCaps::WALK_LENGTH_4 | EptVpidCaps::INVEPT;
        let memory_types = EptVpidCaps::MEMORY_TYPE_WB | EptVpidCaps::MEMORY_TYPE_UC;
        let flush = EptVpidCaps::INVEPT_SINGLE_CONTEXT | EptVpidCaps::INVEPT_ALL_CONTEXTS;
        let missing = needed.difference(self.ept_vpid);
        if !missing.is_empty() {
            return Err(Unsupported::Ept(missing));
        }
        if !self.ept_vpid.intersects(memory_types) {
            return Err(Unsupported::Ept(memory_types));
        }
        if !self.ept_vpid.intersects(flush) {
            return Err(Unsupported::Ept(flush));
        }
        Ok(())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capabilities")
            .field("basic", &self.basic)
            .field("pin", &self.pin.available())
            .field("primary", &self.primary.available())
            .field("secondary", &self.secondary.available())
            .field("tertiary", &self.tertiary)
            .field("exit", &self.exit.available())
            .field("entry", &self.entry.available())
            .field("misc", &self.misc)
            .field("cr0", &self.cr0)
            .field("cr4", &self.cr4)
            .field("ept_vpid", &self.ept_vpid)
            .field("vpid", &self.has_vpid())
            .field("vmfunc", &self.vmfunc)
            .field("phys_addr_bits", &self.phys_addr_bits)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString};

    use proptest::prelude::*;

    use super::*;

    /// What the models of Debian's Bochs report in the MSRs that differ between the ones below.
    fn bochs(basic: u64, misc: u64, cr4_fixed1: u64) -> RawCapabilities {
        RawCapabilities {
            basic,
            misc,
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: 0xffff_ffff,
            cr4_fixed0: 0x2000,
            cr4_fixed1,
            phys_addr_bits: 40,
            ..Default::default()
        }
    }

    fn penryn() -> RawCapabilities {
        RawCapabilities {
            pin: 0x0000_003f_0000_0016,
            proc: 0xf7f9_fffe_0400_6172,
            proc2: 0x0000_0041_0000_0000,
            exit: 0x0003_ffff_0003_6dfb,
            entry: 0x0000_3fff_0000_11fb,
            ..bochs(0x00d8_1000_0000_002b, 0x0004_01e0, 0x0004_67ff)
        }
    }

    fn lynnfield() -> RawCapabilities {
        RawCapabilities {
            pin: 0x0000_007f_0000_0016,
            proc: 0xf7f9_fffe_0400_6172,
            proc2: 0x0000_007f_0000_0000,
            exit: 0x007f_ffff_0003_6dfb,
            entry: 0x0000_ffff_0000_11fb,
            ept_vpid: 0x0000_0f01_0611_4141,
            ..bochs(0x00d8_1000_0000_002b, 0x0004_01e0, 0x0000_67ff)
        }
    }

    fn arrandale() -> RawCapabilities {
        RawCapabilities { proc2: 0x0000_00ff_0000_0000, ..lynnfield() }
    }

    fn haswell() -> RawCapabilities {
        RawCapabilities {
            proc2: 0x0004_7fff_0000_0000,
            misc: 0x2004_01e0,
            cr4_fixed1: 0x0017_27ff,
            ept_vpid: 0x0000_0f01_0633_4141,
            vmfunc: 1,
            ..lynnfield()
        }
    }

    fn tigerlake() -> RawCapabilities {
        RawCapabilities {
            pin: 0x0000_007f_0000_0016,
            proc: 0xfff9_fffe_0400_6172,
            proc2: 0x0297_7fff_0000_0000,
            exit: 0x107f_ffff_0003_6dfb,
            entry: 0x0010_ffff_0000_11fb,
            ept_vpid: 0x0000_0f01_06b3_4141,
            vmfunc: 1,
            ..bochs(0x01d8_1000_0000_0004, 0x6004_01e0, 0x00f7_2fff)
        }
    }

    fn supported() -> impl Strategy<Value = RawCapabilities> {
        prop_oneof![Just(arrandale()), Just(haswell()), Just(tigerlake())]
    }

    #[test]
    fn models_of_bochs_are_told_apart() {
        let old = Capabilities::decide(&arrandale()).unwrap();
        let middle = Capabilities::decide(&haswell()).unwrap();
        let new = Capabilities::decide(&tigerlake()).unwrap();
        for caps in [&old, &middle, &new] {
            assert!(caps.has_vpid() && caps.has_preemption_timer());
            assert!(caps.basic.io_exit_info && caps.basic.vmx_flex_controls);
            assert!(caps.misc.activity_hlt && caps.misc.activity_wait_for_sipi);
        }
        assert!(!old.ept_vpid.intersects(EptVpidCaps::PAGES_1G | EptVpidCaps::ACCESSED_DIRTY));
        assert!(middle.ept_vpid.contains(EptVpidCaps::PAGES_1G | EptVpidCaps::ACCESSED_DIRTY));
        assert!(!middle.secondary.can_set(SecondaryControls::XSAVES));
        assert!(new.secondary.can_set(SecondaryControls::XSAVES | SecondaryControls::TSC_SCALING));
        assert!(new.primary.can_set(PrimaryControls::MONITOR_TRAP_FLAG));
        assert!(new.entry.can_set(EntryControls::LOAD_CET) && new.exit.can_set(ExitControls::LOAD_CET));
        assert!(new.basic.any_error_code && !middle.basic.any_error_code);
        assert!(new.misc.zero_length_injection && !middle.misc.zero_length_injection);
    }

    #[test]
    fn models_that_are_not_enough_are_refused_by_name() {
        let penryn = Capabilities::decide(&penryn()).unwrap_err().to_string();
        assert_eq!(penryn, "the processor does not support EPT (secondary processor-based controls)");
        let lynnfield = Capabilities::decide(&lynnfield()).unwrap_err().to_string();
        assert!(lynnfield.contains("UNRESTRICTED_GUEST"), "{lynnfield}");
    }

    #[test]
    fn controls_of_the_same_name_are_the_same_bits_as_in_the_table_of_the_manual() {
        // The table that the Bochs list was printed from and this one agree, if the bits that Bochs calls
        // available are exactly the named ones. Reserved bits that must be 1 have no names.
        let caps = Capabilities::decide(&tigerlake()).unwrap();
        let reserved = [
            (caps.pin.allowed0, caps.pin.allowed1 & !PinControls::all().bits()),
            (caps.primary.allowed0, caps.primary.allowed1 & !PrimaryControls::all().bits()),
            (caps.secondary.allowed0, caps.secondary.allowed1 & !SecondaryControls::all().bits()),
            (caps.exit.allowed0, caps.exit.allowed1 & !ExitControls::all().bits()),
            (caps.entry.allowed0, caps.entry.allowed1 & !EntryControls::all().bits()),
        ];
        for (field, (must, unnamed)) in reserved.into_iter().enumerate() {
            assert_eq!(must & unnamed, unnamed, "field {field}: optional bits without a name");
        }
    }

    proptest! {
        #[test]
        fn a_decided_control_field_is_one_that_the_processor_accepts(
            must: u32, may: u32, required: u32, optional: u32,
        ) {
            // A processor allows each bit at least one of its two settings.
            let may = may | must;
            let caps = ControlCaps::<PrimaryControls>::new(u64::from(may) << 32 | u64::from(must));
            let required = PrimaryControls::from_bits_retain(required);
            let optional = PrimaryControls::from_bits_retain(optional);
            match caps.decide(required, optional) {
                Ok(value) => {
                    prop_assert_eq!(value & must, must);
                    prop_assert_eq!(value & !may, 0);
                    prop_assert_eq!(value & required.bits(), required.bits());
                    prop_assert_eq!(value & !(required.bits() | optional.bits() | must), 0);
                    prop_assert_eq!(value & optional.bits() & may, optional.bits() & may);
                }
                Err(missing) => {
                    prop_assert_ne!(missing.bits, 0);
                    prop_assert_eq!(missing.bits, required.bits() & !may);
                    prop_assert!(!caps.can_set(required));
                    prop_assert_eq!(missing.field, Field::Primary);
                }
            }
        }

        #[test]
        fn a_message_names_every_missing_bit(bits: u32) {
            let text = MissingControl { field: Field::Exit, bits }.to_string();
            for (name, _) in ExitControls::from_bits_retain(bits).iter_names() {
                prop_assert!(text.contains(name), "{} not in {}", name, text);
            }
            let unnamed = bits & !ExitControls::all().bits();
            let number = format!("bits {unnamed:#x}");
            prop_assert_eq!(text.contains(&number), unnamed != 0);
        }

        #[test]
        fn no_required_control_can_be_missed(raw in supported(), field in 0usize..5, bit in 0u32..32) {
            let mut raw = raw;
            let (msr, required) = [
                (&mut raw.pin, required::PIN.bits()),
                (&mut raw.proc, required::PRIMARY.bits()),
                (&mut raw.proc2, required::SECONDARY.bits()),
                (&mut raw.exit, required::EXIT.bits()),
                (&mut raw.entry, required::ENTRY.bits()),
            ]
            .into_iter()
            .nth(field)
            .unwrap();
            *msr &= !(1 << (bit + 32));
            let refused = Capabilities::decide(&raw).is_err();
            prop_assert_eq!(refused, required & 1 << bit != 0);
        }

        #[test]
        fn any_region_that_a_frame_can_hold_will_do(
            raw in supported(), size in prop_oneof![0u64..5, 4090u64..4100, 0u64..0x2000], below_4_gib: bool,
            memory_type in 0u64..16,
        ) {
            let others = raw.basic & !(0x1fff << 32 | 1 << 48 | 0xf << 50);
            let basic = others | size << 32 | u64::from(below_4_gib) << 48 | memory_type << 50;
            let decided = Capabilities::decide(&RawCapabilities { basic, ..raw }).err();
            match decided {
                None => prop_assert!((1..=4096).contains(&size) && !below_4_gib && memory_type == 6),
                Some(Unsupported::RegionSize(told)) => {
                    prop_assert_eq!(u64::from(told), size);
                    prop_assert!(size == 0 || size > 4096);
                }
                Some(Unsupported::Addresses32Bit) => prop_assert!(below_4_gib),
                Some(Unsupported::MemoryType(told)) => {
                    prop_assert_eq!(u64::from(told), memory_type);
                    prop_assert_ne!(memory_type, 6);
                }
                Some(other) => prop_assert!(false, "{}", other),
            }
        }

        #[test]
        fn any_raw_value_is_decided(values: [u64; 14], phys_addr_bits: u8) {
            let [basic, pin, proc, proc2, proc3, exit, entry, misc, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1,
                ept_vpid, vmfunc] = values;
            let raw = RawCapabilities {
                basic, pin, proc, proc2, proc3, exit, entry, misc, cr0_fixed0, cr0_fixed1, cr4_fixed0, cr4_fixed1,
                ept_vpid, vmfunc, phys_addr_bits,
            };
            match Capabilities::decide(&raw) {
                Ok(caps) => {
                    let text = format!("{caps:?}");
                    prop_assert!(text.contains("phys_addr_bits"));
                }
                Err(why) => {
                    let text = why.to_string();
                    prop_assert!(text.starts_with("the processor"));
                }
            }
        }

        #[test]
        fn setting_what_is_missing_and_clearing_what_is_forbidden_is_enough(zeros: u64, ones: u64, value: u64) {
            let fixed = FixedBits::new(ones & !zeros, !zeros);
            let (missing, forbidden) = (fixed.missing(value), fixed.forbidden(value));
            prop_assert_eq!(missing & value, 0);
            prop_assert_eq!(forbidden & !value, 0);
            let better = value ^ missing ^ forbidden;
            prop_assert_eq!((fixed.missing(better), fixed.forbidden(better)), (0, 0));
            prop_assert_eq!(better & ones & !zeros, ones & !zeros);
            prop_assert_eq!(better & zeros, 0);
        }

        #[test]
        fn a_time_slice_is_never_cut_short(rate in 0u64..32, ticks: u64) {
            let misc = VmxMisc::from_bits(rate);
            let value = u128::from(misc.preemption_timer_value(ticks));
            let slice = value << rate;
            prop_assert!(slice >= u128::from(ticks) || value == u128::from(u32::MAX));
            prop_assert!(slice < u128::from(ticks) + (1 << rate));
        }

        #[test]
        fn miscellaneous_data_is_taken_apart_without_loss(raw: u64) {
            let misc = VmxMisc::from_bits(raw);
            let again = u64::from(misc.preemption_timer_rate)
                | u64::from(misc.saves_lma) << 5
                | u64::from(misc.activity_hlt) << 6
                | u64::from(misc.activity_shutdown) << 7
                | u64::from(misc.activity_wait_for_sipi) << 8
                | u64::from(misc.pt_in_vmx) << 14
                | u64::from(misc.cr3_targets) << 16
                | (u64::from(misc.max_msr_list) / 512 - 1) << 25
                | u64::from(misc.vmwrite_any_field) << 29
                | u64::from(misc.zero_length_injection) << 30;
            prop_assert_eq!(again, raw & 0x6fff_41ff);
        }

        #[test]
        fn ept_and_vpid_are_used_only_if_stale_translations_can_be_dropped(raw in supported(), removed: u64, kept: u64) {
            let raw = RawCapabilities { ept_vpid: raw.ept_vpid & !(removed & !kept), ..raw };
            let has = |bit: u32| raw.ept_vpid & 1 << bit != 0;
            let ept = has(6) && (has(8) || has(14)) && has(20) && (has(25) || has(26));
            match Capabilities::decide(&raw) {
                Ok(caps) => {
                    prop_assert!(ept);
                    prop_assert_eq!(caps.has_vpid(), has(32) && (has(41) || has(42)));
                }
                Err(Unsupported::Ept(missing)) => {
                    prop_assert!(!ept);
                    prop_assert_eq!(missing.bits() & raw.ept_vpid, 0);
                    prop_assert!(!missing.is_empty());
                }
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}
