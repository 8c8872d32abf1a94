//! What CPUID is to show a guest: the processor's answers without what does not work, for the caller to edit.

use axerrno::{AxResult, ax_err, ax_err_type};

use super::features::{self, By, CpuidFeature, Row, TABLE};
use super::leaves::{self, EXTENDED, HYPERVISOR, LAST_BASIC, LAST_EXTENDED, LAST_HYPERVISOR, Leaves};
use super::topology::CpuidTopology;
use super::xsave::{self, Layout};
use super::{EAX, EBX, ECX, EDX, Registers, Support};

const SIGNATURE: [u8; 12] = *b"RVMRVMRVMRVM";
/// The sizes of what MONITOR watches.
const MONITOR_LEAF: u32 = 5;
/// How long the list of a leaf that counts its subleaves may get before the processor is taken to be broken.
const MAX_SUBLEAVES: u32 = 64;

/// What CPUID shows a guest, and with it which bits of CR4, EFER, XCR0 and which MSRs the guest has.
///
/// [`VmxVcpu::cpuid_policy`](crate::VmxVcpu::cpuid_policy) gives the default, which shows what works for a guest on this
/// processor: VMX is hidden, the hypervisor bit is set. The caller edits it, and sets it by
/// [`set_cpuid_policy`](crate::VmxVcpu::set_cpuid_policy) before the vCPU is set up.
///
/// It is consistent after every call. Hiding a feature hides all that depends on it. Showing a feature shows what it needs. Leaf
/// 0DH follows the features whose state it describes. What cannot work for a guest cannot be shown. OSXSAVE and OSPKE are clear
/// here; for the guest they follow its CR4, as EBX of leaf 0DH follows its XCR0, and SYSCALL its mode.
///
/// Leaf 80000008H may show fewer physical-address bits than the processor has. CR3 and the PDPTEs are then checked by these. The
/// reserved bits of page-table entries are those of the processor all the same: an entry that would give #PF on a processor of
/// that size is used, and the EPT is walked for what it addresses.
///
/// # Example
///
/// ```no_run
/// use axerrno::AxResult;
/// use x86_vcpu::{CpuidFeature, PhysFrameHal, VmxVcpu};
///
/// /// On a processor where VMX is enabled, and before `setup`.
/// fn decide_cpuid(vcpu: &mut VmxVcpu<PhysFrameHal>) -> AxResult {
///     let mut cpuid = vcpu.cpuid_policy()?; // what works for a guest here
///     cpuid.set_hypervisor(*b"MyHypervisor", 0x4000_0001)?;
///     cpuid.set(0x4000_0001, 0, [1, 0, 0, 0])?; // a leaf of one's own
///     cpuid.hide(CpuidFeature::AVX); // AVX2, FMA, AVX-512 and their state go with it
///     if cpuid.show(CpuidFeature::X2APIC).is_err() {
///         log::info!("no x2APIC for guests here");
///     }
///     if let Some(feature) = CpuidFeature::by_name("RDRAND") {
///         cpuid.hide(feature); // and RDRAND is #UD
///     }
///     vcpu.set_cpuid_policy(cpuid)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuidPolicy {
    leaves: Leaves,
    /// What can be shown here at most, but for features by the caller.
    most: Leaves,
    layout: Layout,
}

impl CpuidPolicy {
    /// The default, from what the processor says.
    pub(crate) fn new(native: impl Fn(u32, u32) -> Registers, support: &Support, apic_id: u32) -> Self {
        let mut this = Self { leaves: Leaves::default(), most: Leaves::default(), layout: Layout::default() };
        let highest = native(0, 0)[EAX].min(LAST_BASIC);
        (0..=highest).for_each(|leaf| this.copy_native(leaf, &native, support));
        // A processor without extended leaves answers as for its highest basic one.
        let highest_extended = native(EXTENDED, 0)[EAX];
        if highest_extended >= EXTENDED {
            let last = highest_extended.min(LAST_EXTENDED);
            (EXTENDED..=last).for_each(|leaf| this.copy_native(leaf, &native, support));
        }
        this.write_highest(0, highest);
        this.write_highest(EXTENDED, highest_extended.min(LAST_EXTENDED));
        this.hide_what_lacks_its_needs();
        this.most = this.leaves.clone();
        this.most.set(MONITOR_LEAF, 0, native(MONITOR_LEAF, 0));
        this.follow_features();

        this.leaves.set(HYPERVISOR, 0, [HYPERVISOR + 1, 0, 0, 0]);
        this.write_signature(SIGNATURE);
        this.write(CpuidFeature::HYPERVISOR, true);
        CpuidTopology::alone(apic_id).write(&mut this.leaves);
        this
    }

    /// Sets the answer for a leaf: EAX, EBX, ECX and EDX. Flags that it clears hide the features that depend on them too; flags
    /// that it sets are shown as by [`show`](Self::show). Leaves above the highest one are hidden with their features. `subleaf`
    /// is 0 for a leaf that does not depend on ECX.
    ///
    /// What can be edited: leaf 0 and 80000000H (the highest leaf, up to 1FH and 80000008H; vendor), 1, 2, 4, 6, 7, 0BH,
    /// 0DH, 15H, 16H, 1FH, 80000001H to 80000008H, and 40000000H to 4000FFFFH as the caller likes.
    ///
    /// # Errors
    /// `Unsupported` for a feature that this vCPU cannot have; `InvalidInput` for a value in which one flag sets what
    /// another forbids, and for a leaf or register that is not to be edited. Nothing is changed then.
    pub fn set(&mut self, leaf: u32, subleaf: u32, registers: [u32; 4]) -> AxResult {
        if subleaf != 0 && !leaves::has_subleaves(leaf) {
            return ax_err!(InvalidInput, "the leaf has no subleaves");
        }
        let mut edited = self.clone();
        match leaf {
            0 | EXTENDED => edited.set_range(leaf, registers)?,
            HYPERVISOR if !(HYPERVISOR..=LAST_HYPERVISOR).contains(&registers[EAX]) => {
                return ax_err!(InvalidInput, "not a leaf of the hypervisor's");
            }
            2 | 4 | 0xB | 0x15 | 0x16 | 0x1F | 0x8000_0002..=0x8000_0006 | HYPERVISOR..=LAST_HYPERVISOR => {
                edited.leaves.set(leaf, subleaf, registers);
            }
            0x8000_0008 => edited.set_address_sizes(registers)?,
            _ => edited.set_features(leaf, subleaf, registers)?,
        }
        *self = edited;
        Ok(())
    }

    /// Whether the guest is shown a feature.
    pub fn has(&self, feature: CpuidFeature) -> bool {
        let (leaf, subleaf) = feature.place();
        self.leaves.get(leaf, subleaf).is_some_and(|registers| feature.is_in(registers))
    }

    /// Hides a feature, and all that depend on it: with AVX go AVX2, FMA, F16C and AVX-512, their components in XCR0, and
    /// their part of leaf 0DH. The guest's control registers and MSRs lose what belongs to it. Of instructions, those
    /// become undefined that the processor lets a hypervisor take away.
    pub fn hide(&mut self, feature: CpuidFeature) {
        self.hide_with_dependents(feature);
        self.follow_features();
    }

    /// Shows a feature, and all that it needs. Features that need devices or MSRs of the caller's (APIC, X2APIC,
    /// TSC_DEADLINE, MTRR, MCE, ...) can be shown on any processor; the caller answers the exits.
    ///
    /// # Errors
    /// `Unsupported` if the processor does not have it, or the crate does not switch the state that it needs. Nothing is changed
    /// then.
    pub fn show(&mut self, feature: CpuidFeature) -> AxResult {
        self.check(feature)?;
        self.show_with_needs(feature);
        self.follow_features();
        Ok(())
    }

    /// Sets the identification of the hypervisor: the 12 characters in EBX, ECX and EDX of leaf 40000000H, and the highest leaf in
    /// its EAX. The leaves between are zero until they are [`set`](Self::set). A guest to which
    /// [`HYPERVISOR`](CpuidFeature::HYPERVISOR) is hidden sees none of them.
    ///
    /// # Errors
    /// `InvalidInput` for a highest leaf outside 40000000H to 4000FFFFH.
    pub fn set_hypervisor(&mut self, signature: [u8; 12], highest_leaf: u32) -> AxResult {
        if !(HYPERVISOR..=LAST_HYPERVISOR).contains(&highest_leaf) {
            return ax_err!(InvalidInput, "not a leaf of the hypervisor's");
        }
        self.write_highest(HYPERVISOR, highest_leaf);
        self.write_signature(signature);
        Ok(())
    }

    /// Sets which processor of the machine this vCPU is: writes leaves 1, 4, 0BH and 1FH, as far as they are there.
    ///
    /// # Errors
    /// `InvalidInput` for counts outside what [`CpuidTopology`] says.
    pub fn set_topology(&mut self, topology: CpuidTopology) -> AxResult {
        if !topology.is_valid() {
            return ax_err!(InvalidInput, "too many processors, or none");
        }
        topology.write(&mut self.leaves);
        Ok(())
    }

    /// The components that the guest may set in XCR0; 0 where it has no XSAVE.
    pub fn xcr0(&self) -> u64 {
        features::xcr0(|feature| self.has(feature))
    }

    /// The bits that the guest has in CR4.
    pub fn cr4(&self) -> u64 {
        features::cr4(|feature| self.has(feature))
    }

    /// The bits that the guest may write to IA32_EFER.
    pub fn efer(&self) -> u64 {
        features::efer(|feature| self.has(feature))
    }

    /// The bits that the guest may write to IA32_SPEC_CTRL; 0 for one that does not have the MSR.
    pub fn spec_ctrl(&self) -> u64 {
        features::spec_ctrl(|feature| self.has(feature))
    }

    /// How many bits a guest-physical address has.
    pub fn physical_address_bits(&self) -> u8 {
        let told = self.leaves.get(0x8000_0008, 0).map_or(0, |registers| registers[EAX] as u8);
        // SDM Vol. 3A, section 4.1.4, "Enumeration of Paging Features by CPUID".
        match told {
            0 if self.has(CpuidFeature::PAE) => 36,
            0 => 32,
            bits => bits.min(52),
        }
    }

    /// Refuses a policy that was made on another processor, for one whose default is `here`.
    pub(crate) fn check_on(&self, here: &Self) -> AxResult {
        for row in TABLE.iter().filter(|row| row.by == By::Processor && self.has(row.feature)) {
            here.check(row.feature)?;
        }
        let layout_differs = xsave::components(self.xcr0()).any(|component| {
            self.layout.components.get(xsave::LEAF, component) != here.layout.components.get(xsave::LEAF, component)
        });
        if layout_differs || self.physical_address_bits() > here.physical_address_bits() {
            return ax_err!(Unsupported, "the CPUID policy is that of another processor");
        }
        Ok(())
    }

    pub(super) fn leaves(&self) -> &Leaves {
        &self.leaves
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Copies a leaf of the processor, with only those flags that work.
    fn copy_native(&mut self, leaf: u32, native: &impl Fn(u32, u32) -> Registers, support: &Support) {
        match leaf {
            4 => {
                for subleaf in 0..MAX_SUBLEAVES {
                    let registers = native(leaf, subleaf);
                    if registers[EAX] & 0x1F == 0 {
                        break;
                    }
                    self.leaves.set(leaf, subleaf, registers);
                }
            }
            7 => {
                let highest = native(leaf, 0)[EAX].min(2);
                (0..=highest).for_each(|subleaf| self.copy_native_flags(leaf, subleaf, native, support));
                self.write_highest(7, highest);
            }
            0xB | 0x1F => (0..2).for_each(|subleaf| self.leaves.set(leaf, subleaf, [0; 4])),
            0xD => {
                self.layout.largest = native(leaf, 0)[ECX];
                for component in xsave::components(support.xcr0) {
                    self.layout.components.set(leaf, component, native(leaf, component));
                }
                self.leaves.set(leaf, 0, [0; 4]);
                self.copy_native_flags(leaf, 1, native, support);
            }
            // The TSC's frequency in crystal clocks, frequencies, the brand string, caches.
            0 | 2 | 0x15 | 0x16 | 0x8000_0002..=0x8000_0006 => self.leaves.set(leaf, 0, native(leaf, 0)),
            0x8000_0008 => self.leaves.set(leaf, 0, [native(leaf, 0)[EAX] & 0xFFFF, 0, 0, 0]),
            _ => self.copy_native_flags(leaf, 0, native, support),
        }
    }

    /// A leaf that holds flags, or that says nothing to a guest.
    fn copy_native_flags(
        &mut self,
        leaf: u32,
        subleaf: u32,
        native: &impl Fn(u32, u32) -> Registers,
        support: &Support,
    ) {
        let said = native(leaf, subleaf);
        let mut registers = core::array::from_fn(|i| if is_plain(leaf, i) { said[i] } else { 0 });
        for row in rows_of(leaf, subleaf).filter(|row| row.by == By::Processor) {
            if row.feature.is_in(&said) && features::is_supported(row.feature, support) {
                registers[row.feature.register()] |= row.feature.mask();
            }
        }
        self.leaves.set(leaf, subleaf, registers);
    }

    fn set_range(&mut self, first: u32, registers: Registers) -> AxResult {
        let last = self.most.highest(first).unwrap_or(first);
        if !(first..=last).contains(&registers[EAX]) {
            return ax_err!(InvalidInput, "the leaf goes beyond what the processor has");
        }
        self.leaves.set(first, 0, registers);
        let beyond = |leaf: u32| (leaf >= EXTENDED) == (first == EXTENDED) && leaf > registers[EAX];
        for row in TABLE.iter().filter(|row| beyond(row.feature.last_leaf())) {
            self.hide_with_dependents(row.feature);
        }
        self.follow_features();
        Ok(())
    }

    /// Sets the sizes of addresses. The processor checks by its own, so a guest cannot be shown a larger physical size, nor another
    /// linear size.
    fn set_address_sizes(&mut self, registers: Registers) -> AxResult {
        let processor = self.most.get(0x8000_0008, 0).copied().unwrap_or_default();
        let [physical, linear] = [registers[EAX] & 0xFF, registers[EAX] >> 8];
        let fits = (32..=processor[EAX] & 0xFF).contains(&physical) && linear == processor[EAX] >> 8;
        if !fits || registers[EBX..] != [0; 3] {
            return ax_err!(InvalidInput, "sizes of addresses that the processor has not got");
        }
        self.leaves.set(0x8000_0008, 0, registers);
        Ok(())
    }

    fn set_features(&mut self, leaf: u32, subleaf: u32, wanted: Registers) -> AxResult {
        let before = self.leaves.get(leaf, subleaf).copied().unwrap_or_default();
        let flags = |register: usize| {
            let own = rows_of(leaf, subleaf).filter(move |row| row.feature.register() == register);
            own.fold(0, |all, row| all | row.feature.mask())
        };
        for register in [EAX, EBX, ECX, EDX] {
            let changed = before[register] ^ wanted[register];
            if changed & !flags(register) == 0 {
                continue;
            }
            if is_plain(leaf, register) {
                if let Some(own) = self.leaves.get_mut(leaf, subleaf) {
                    own[register] = wanted[register];
                }
                continue;
            }
            if flags(register) == 0 {
                return ax_err!(InvalidInput, format_args!("leaf {leaf:#x}.{subleaf} is not to be edited"));
            }
            return ax_err!(
                Unsupported,
                format_args!(
                    "leaf {leaf:#x}.{subleaf} has flags that no guest can have: {:#x}",
                    changed & !flags(register)
                )
            );
        }
        for row in rows_of(leaf, subleaf).filter(|row| row.feature.is_in(&wanted) && !row.feature.is_in(&before)) {
            self.check(row.feature)?;
            self.show_with_needs(row.feature);
        }
        for row in rows_of(leaf, subleaf).filter(|row| !row.feature.is_in(&wanted) && row.feature.is_in(&before)) {
            self.hide_with_dependents(row.feature);
        }
        self.follow_features();
        let lost = rows_of(leaf, subleaf)
            .find(|row| row.feature.is_in(&wanted) && !row.feature.is_in(&before) && !self.has(row.feature));
        match lost {
            Some(row) => ax_err!(InvalidInput, format_args!("{:?} is shown without what it needs", row.feature)),
            None => Ok(()),
        }
    }

    /// Whether a feature, with what it needs, can be shown.
    fn check(&self, feature: CpuidFeature) -> AxResult {
        let unsupported = || ax_err_type!(Unsupported, format_args!("no guest can have {feature:?} here"));
        let row = feature.row().ok_or_else(unsupported)?;
        let (leaf, subleaf) = feature.place();
        let first = if leaf >= EXTENDED { EXTENDED } else { 0 };
        let in_range = self.leaves.highest(first).is_some_and(|highest| feature.last_leaf() <= highest);
        let there = self.most.get(leaf, subleaf).is_some_and(|most| row.by == By::Caller || feature.is_in(most));
        if !in_range || !there {
            return Err(unsupported());
        }
        row.needs.iter().try_for_each(|need| self.check(*need))
    }

    fn show_with_needs(&mut self, feature: CpuidFeature) {
        self.write(feature, true);
        for need in feature.row().into_iter().flat_map(|row| row.needs) {
            self.show_with_needs(*need);
        }
    }

    fn hide_with_dependents(&mut self, feature: CpuidFeature) {
        self.write(feature, false);
        for row in TABLE.iter().filter(|row| row.needs.contains(&feature)) {
            if self.has(row.feature) {
                self.hide_with_dependents(row.feature);
            }
        }
    }

    fn hide_what_lacks_its_needs(&mut self) {
        for row in TABLE {
            if self.has(row.feature) && !row.needs.iter().all(|need| self.has(*need)) {
                self.hide_with_dependents(row.feature);
            }
        }
    }

    /// Writes what follows from the features.
    fn follow_features(&mut self) {
        let xcr0 = self.xcr0();
        self.layout.write(&mut self.leaves, xcr0);
        let sizes = self.most.get(MONITOR_LEAF, 0).filter(|_| self.has(CpuidFeature::MONITOR)).copied();
        if let Some(registers) = self.leaves.get_mut(MONITOR_LEAF, 0) {
            *registers = sizes.unwrap_or_default();
        }
    }

    fn write(&mut self, feature: CpuidFeature, shown: bool) {
        let (leaf, subleaf) = feature.place();
        if let Some(registers) = self.leaves.get_mut(leaf, subleaf) {
            let register = &mut registers[feature.register()];
            *register = if shown { *register | feature.mask() } else { *register & !feature.mask() };
        }
    }

    fn write_highest(&mut self, first: u32, highest: u32) {
        if let Some(registers) = self.leaves.get_mut(first, 0) {
            registers[EAX] = highest;
        }
    }

    fn write_signature(&mut self, signature: [u8; 12]) {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = signature;
        if let Some(registers) = self.leaves.get_mut(HYPERVISOR, 0) {
            registers[EBX] = u32::from_le_bytes([a, b, c, d]);
            registers[ECX] = u32::from_le_bytes([e, f, g, h]);
            registers[EDX] = u32::from_le_bytes([i, j, k, l]);
        }
    }
}

/// The features of one leaf.
fn rows_of(leaf: u32, subleaf: u32) -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(move |row| row.feature.place() == (leaf, subleaf))
}

/// Registers beside the flags that say something which depends on nothing: processor signature; brand, CLFLUSH size,
/// and what the topology writes.
fn is_plain(leaf: u32, register: usize) -> bool {
    matches!((leaf, register), (1, EAX | EBX) | (0x8000_0001, EAX))
}
