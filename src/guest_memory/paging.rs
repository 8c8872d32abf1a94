//! The guest's page tables: from a linear address to a guest-physical one, as the processor walks (SDM Vol. 3A, chapter
//! 4, "Paging").
//!
//! A walk first only reads. Accessed and dirty flags are set when the whole access is known to be allowed, by a
//! compare-exchange of the very entries that the walk used. Where another processor of the guest changed one meanwhile,
//! the walk is repeated.

use axaddrspace::GuestPhysAddr;
use axerrno::{AxResult, ax_err};
use core::arch::x86_64::__cpuid;

use super::{AccessError, GuestException, GuestMemory, PAGE_SIZE, UnmappedGuestMemory};
use crate::ept::GuestPageWalkInfo;
use crate::rules::vector;

/// Which tables translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingMode {
    /// CR0.PG is clear: linear addresses are guest-physical ones.
    Off,
    /// 32-bit paging: two levels of 4-byte entries.
    Bits32,
    /// PAE paging: four PDPTEs in registers, and two levels of 8-byte entries.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

/// What the guest's registers, and the features of the processor, say about translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Which tables translate.
    pub mode: PagingMode,
    /// The top table's guest-physical address, from CR3. PAE paging does not use it.
    pub root: u64,
    /// PAE paging: the PDPTEs that the processor holds, which need not be those in memory any more.
    pub pdptes: [u64; 4],
    /// CR4.PSE: 32-bit paging has pages of 4 MiB.
    pub pse: bool,
    /// CR0.WP
    pub wp: bool,
    /// IA32_EFER.NXE
    pub nxe: bool,
    /// CR4.SMEP
    pub smep: bool,
    /// CR4.SMAP
    pub smap: bool,
    /// RFLAGS.AC, which suspends SMAP for explicit accesses.
    pub ac: bool,
    /// PKRU where CR4.PKE is set; protection keys of user-mode addresses.
    pub pkru: Option<u32>,
    /// IA32_PKRS where CR4.PKS is set; protection keys of supervisor-mode addresses.
    pub pkrs: Option<u32>,
    /// MAXPHYADDR, 32 to 52.
    pub physical_bits: u8,
    /// There are pages of 1 GiB (CPUID.80000001H:EDX\[26\]).
    pub gib_pages: bool,
    /// Pages of 4 MiB may lie above 4 GiB (CPUID.01H:EDX.PSE-36\[17\]).
    pub pse36: bool,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Data is read.
    Read,
    /// Data is written, or read and written.
    Write,
    /// An instruction is fetched.
    Fetch,
}

/// On whose behalf an access is made (SDM Vol. 3A, section 4.6, "Access Rights").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// By an instruction at CPL 0, 1 or 2.
    Supervisor,
    /// By an instruction at CPL 3.
    User,
    /// By the processor itself, to a descriptor table or a TSS, at any CPL: RFLAGS.AC does not help it.
    ImplicitSupervisor,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it does.
    pub kind: AccessKind,
    /// On whose behalf.
    pub privilege: Privilege,
}

impl From<&GuestPageWalkInfo> for Access {
    fn from(info: &GuestPageWalkInfo) -> Self {
        let kind = match info {
            _ if info.is_inst_fetch => AccessKind::Fetch,
            _ if info.is_write_access => AccessKind::Write,
            _ => AccessKind::Read,
        };
        Self { kind, privilege: if info.is_user_mode_access { Privilege::User } else { Privilege::Supervisor } }
    }
}

/// Where a linear address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address of the very byte.
    pub address: GuestPhysAddr,
    /// The size in bytes of the page around it; with paging off 4 KiB.
    pub page_size: u64,
}

/// Bits that entries of all modes have in the same place.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

/// Bits of the error code of #PF (SDM Vol. 3A, section 4.7, "Page-Fault Exceptions").
mod code {
    pub(super) const PRESENT: u32 = 1 << 0;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
    pub(super) const PROTECTION_KEY: u32 = 1 << 5;
}

/// How often a walk is made again because an entry changed under it. Each time another processor of the guest made
/// progress, so a guest that reaches this does nothing but change its tables.
const MOST_TRIES: usize = 64;

/// What a walk's rules take from CPUID.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PagingSupport {
    pub(crate) physical_bits: u8,
    pub(crate) gib_pages: bool,
    pub(crate) pse36: bool,
}

impl PagingSupport {
    /// By CPUID of this processor: under EPT it is the processor that checks the guest's entries, by its own features.
    pub(crate) fn of_this_processor() -> Self {
        let highest = __cpuid(0x8000_0000).eax;
        let pse36 = __cpuid(1).edx & 1 << 17 != 0;
        let gib_pages = highest >= 0x8000_0001 && __cpuid(0x8000_0001).edx & 1 << 26 != 0;
        let physical_bits = if highest >= 0x8000_0008 { __cpuid(0x8000_0008).eax as u8 } else { 36 };
        Self { physical_bits, gib_pages, pse36 }
    }
}

impl Paging {
    /// From what the crate's earlier releases call the information for a walk. What that does not have is off: PDPTEs
    /// not present, RFLAGS.AC clear, no protection keys; PSE-36 and pages of 1 GiB exist.
    ///
    /// # Errors
    /// `InvalidInput` for a number of levels that no mode has.
    pub fn new(info: &GuestPageWalkInfo, physical_bits: u8) -> AxResult<Self> {
        let mode = match info.level {
            0 => PagingMode::Off,
            2 => PagingMode::Bits32,
            3 => PagingMode::Pae,
            4 => PagingMode::Level4,
            5 => PagingMode::Level5,
            _ => return ax_err!(InvalidInput, "page tables have 0, 2, 3, 4 or 5 levels"),
        };
        Ok(Self {
            mode,
            root: info.top_entry as u64,
            pdptes: [0; 4],
            pse: info.pse,
            wp: info.wp,
            nxe: info.nxe,
            smep: info.is_smep_on,
            smap: info.is_smap_on,
            ac: false,
            pkru: None,
            pkrs: None,
            physical_bits,
            gib_pages: true,
            pse36: true,
        })
    }

    /// Translates a linear address for an access to its page, and sets accessed and dirty flags as the processor does.
    ///
    /// Outside 64-bit mode linear addresses have 32 bits. In 64-bit mode the address is canonical: a check that belongs
    /// to the segment, see [`LinearMode::linear`](super::LinearMode::linear).
    ///
    /// # Errors
    /// #PF with its error code, or memory that holds an entry and cannot be reached.
    pub fn translate(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        access: Access,
    ) -> Result<Translation, AccessError> {
        self.translate_both(memory, linear, None, access).map(|[first, _]| first)
    }

    /// [`translate`](Self::translate) for an access that may continue in a second page: flags are set when both pages are known to
    /// allow it. The second translation is that of the first address if there is no second one.
    pub(super) fn translate_both(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        next: Option<u64>,
        access: Access,
    ) -> Result<[Translation; 2], AccessError> {
        // Mostly all flags are set already, and then there is nothing to keep of the entries.
        let mut all_marked = true;
        let mut look = |step: Step| all_marked &= step.marked == step.entry;
        let first = self.walk(memory, linear, access, &mut look)?;
        let second = match next {
            Some(linear) => self.walk(memory, linear, access, &mut look)?,
            None => first,
        };
        if all_marked {
            return Ok([first, second]);
        }
        self.translate_and_mark(memory, linear, next, access)
    }

    /// [`translate_both`](Self::translate_both) where there are flags to be set.
    #[cold]
    fn translate_and_mark(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        next: Option<u64>,
        access: Access,
    ) -> Result<[Translation; 2], AccessError> {
        for _ in 0..MOST_TRIES {
            let mut steps = Steps::default();
            let first = self.walk(memory, linear, access, |step| steps.push(step))?;
            let second = match next {
                Some(linear) => self.walk(memory, linear, access, |step| steps.push(step))?,
                None => first,
            };
            // An entry that is used twice, above both pages or by a table that leads to itself, is found changed at its
            // second use; the next try finds it marked.
            if steps.mark(memory, self.entry_width())? {
                return Ok([first, second]);
            }
        }
        Err(UnmappedGuestMemory { address: GuestPhysAddr::from(self.root as usize), write: true }.into())
    }

    /// Walks without changing anything; `note` sees each entry that is used.
    fn walk(
        &self,
        memory: &impl GuestMemory,
        linear: u64,
        access: Access,
        mut note: impl FnMut(Step),
    ) -> Result<Translation, AccessError> {
        let fault = |bits| AccessError::Guest(self.page_fault(linear, access, bits));
        let (mut table, shifts): (u64, &[u32]) = match self.mode {
            PagingMode::Off => {
                return Ok(Translation { address: GuestPhysAddr::from(linear as usize), page_size: PAGE_SIZE });
            }
            PagingMode::Bits32 => (self.root & 0xFFFF_F000, &[22, 12]),
            PagingMode::Pae => {
                let pdpte = self.pdptes[(linear >> 30 & 0b11) as usize];
                if pdpte & PRESENT == 0 {
                    return Err(fault(0));
                }
                (pdpte & ADDRESS, &[21, 12])
            }
            PagingMode::Level4 => (self.root & ADDRESS, &[39, 30, 21, 12]),
            PagingMode::Level5 => (self.root & ADDRESS, &[48, 39, 30, 21, 12]),
        };
        let width = self.entry_width();
        let reserved_in_all = self.reserved_in_all();
        let (mut rights, mut execute_disable) = (USER | WRITABLE, false);
        for &shift in shifts {
            let slots = PAGE_SIZE / width as u64;
            let address = table + (linear >> shift & (slots - 1)) * width as u64;
            let entry = read_entry(memory, address, width)?;
            if entry & PRESENT == 0 {
                return Err(fault(0));
            }
            if shift > 12 && entry & (LARGE | reserved_in_all) == 0 {
                // A table as nearly all are, of which nothing more is to be asked.
                rights &= entry;
                execute_disable |= entry & EXECUTE_DISABLE != 0;
                note(Step { address, entry, marked: entry | ACCESSED });
                table = entry & if width == 4 { 0xFFFF_F000 } else { ADDRESS };
                continue;
            }
            let is_page = self.is_page(entry, shift);
            if entry & (reserved_in_all | self.reserved_at(shift, is_page)) != 0 {
                return Err(fault(code::PRESENT | code::RESERVED));
            }
            rights &= entry;
            execute_disable |= entry & EXECUTE_DISABLE != 0;
            let dirty = if is_page && access.kind == AccessKind::Write { DIRTY } else { 0 };
            note(Step { address, entry, marked: entry | ACCESSED | dirty });
            if is_page {
                let denied = self.denied(access, rights, execute_disable, protection_key(entry));
                if let Some(bits) = denied {
                    return Err(fault(code::PRESENT | bits));
                }
                return Ok(self.page(entry, shift, linear));
            }
            table = entry & if width == 4 { 0xFFFF_F000 } else { ADDRESS };
        }
        // The last level's entries are all pages.
        Err(fault(0))
    }

    /// Bytes of an entry.
    fn entry_width(&self) -> usize {
        if self.mode == PagingMode::Bits32 { 4 } else { 8 }
    }

    fn is_page(&self, entry: u64, shift: u32) -> bool {
        let can_be_large = match self.mode {
            PagingMode::Bits32 => self.pse,
            _ => shift <= 30,
        };
        shift == 12 || can_be_large && entry & LARGE != 0
    }

    /// The bits that must be 0 in every present entry.
    fn reserved_in_all(&self) -> u64 {
        if self.mode == PagingMode::Bits32 {
            return 0;
        }
        let mut reserved = ADDRESS & !low_bits(self.physical_bits.into());
        if !self.nxe {
            reserved |= EXECUTE_DISABLE;
        }
        if self.mode == PagingMode::Pae {
            // Where longer tables have protection keys and ignored bits.
            reserved |= 0x7FF << 52;
        }
        reserved
    }

    /// The further bits that must be 0 in an entry whose page or table covers `1 << shift` bytes. They are looked at when a walk
    /// ends, so that its loop is short.
    #[inline(never)]
    fn reserved_at(&self, shift: u32, is_page: bool) -> u64 {
        if self.mode == PagingMode::Bits32 {
            return if is_page && shift == 22 { self.reserved_in_4_mib_page() } else { 0 };
        }
        match shift {
            39.. => LARGE,
            30 if !self.gib_pages => LARGE,
            21 | 30 if is_page => low_bits(shift) & !low_bits(13),
            _ => 0,
        }
    }

    /// Bits 20:13 are address bits 39:32, as far as there are such; bit 21 has no meaning.
    fn reserved_in_4_mib_page(&self) -> u64 {
        let high_bits = if self.pse36 { u32::from(self.physical_bits.clamp(32, 40)) - 32 } else { 0 };
        low_bits(22) & !low_bits(13 + high_bits)
    }

    /// The page that an entry maps, and the byte in it.
    fn page(&self, entry: u64, shift: u32, linear: u64) -> Translation {
        let offset = linear & low_bits(shift);
        let base = match (self.mode, shift) {
            (PagingMode::Bits32, 22) => entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32,
            (PagingMode::Bits32, _) => entry & 0xFFFF_F000,
            _ => entry & ADDRESS & !low_bits(shift),
        };
        Translation { address: GuestPhysAddr::from((base | offset) as usize), page_size: 1 << shift }
    }

    /// Whether a translation denies the access, and which bits of the error code tell of that beyond those that tell of
    /// the access (section 4.6.1, "Determination of Access Rights").
    fn denied(&self, access: Access, rights: u64, execute_disable: bool, key: u32) -> Option<u32> {
        let user_page = rights & USER != 0;
        let writable = rights & WRITABLE != 0;
        let user = access.privilege == Privilege::User;
        let suspended = self.ac && access.privilege == Privilege::Supervisor;

        let by_mode = match access.kind {
            _ if user => !user_page,
            AccessKind::Fetch => user_page && self.smep,
            _ => user_page && self.smap && !suspended,
        };
        let by_kind = match access.kind {
            AccessKind::Read => false,
            AccessKind::Write => !writable && (user || self.wp),
            AccessKind::Fetch => execute_disable && self.nxe,
        };
        let by_key = access.kind != AccessKind::Fetch && self.denied_by_key(access, user_page, key);
        match (by_key, by_mode || by_kind) {
            (true, _) => Some(code::PROTECTION_KEY),
            (false, true) => Some(0),
            (false, false) => None,
        }
    }

    /// Section 4.6.2, "Protection Keys".
    fn denied_by_key(&self, access: Access, user_page: bool, key: u32) -> bool {
        let has_keys = matches!(self.mode, PagingMode::Level4 | PagingMode::Level5);
        if !has_keys || !user_page && access.privilege == Privilege::User {
            return false;
        }
        let rights = if user_page { self.pkru } else { self.pkrs };
        let rights = rights.unwrap_or(0) >> (2 * key);
        let (access_disable, write_disable) = (rights & 1 != 0, rights & 2 != 0);
        let writes_count = self.wp || access.privilege == Privilege::User;
        access_disable || write_disable && access.kind == AccessKind::Write && writes_count
    }

    fn page_fault(&self, linear: u64, access: Access, bits: u32) -> GuestException {
        let mut error_code = bits;
        match access.kind {
            AccessKind::Write => error_code |= code::WRITE,
            // Reported only where fetches can be denied.
            AccessKind::Fetch if self.smep || self.nxe && self.mode != PagingMode::Bits32 => error_code |= code::FETCH,
            AccessKind::Read | AccessKind::Fetch => {}
        }
        if access.privilege == Privilege::User {
            error_code |= code::USER;
        }
        GuestException { vector: vector::PF, error_code: Some(error_code), cr2: Some(linear) }
    }
}

fn low_bits(count: u32) -> u64 {
    (1u64 << count.min(63)) - 1
}

fn protection_key(entry: u64) -> u32 {
    (entry >> 59 & 0xF) as u32
}

fn read_entry(memory: &impl GuestMemory, address: u64, width: usize) -> Result<u64, UnmappedGuestMemory> {
    let mut bytes = [0; 8];
    memory.read(GuestPhysAddr::from(address as usize), &mut bytes[..width])?;
    Ok(u64::from_le_bytes(bytes))
}

/// An entry that was used, and what it is after the access.
#[derive(Clone, Copy, Default)]
struct Step {
    address: u64,
    entry: u64,
    marked: u64,
}

/// Those of up to two walks.
#[derive(Default)]
struct Steps {
    steps: [Step; 10],
    count: usize,
}

impl Steps {
    fn push(&mut self, step: Step) {
        if let Some(slot) = self.steps.get_mut(self.count) {
            *slot = step;
            self.count += 1;
        }
    }

    /// Sets accessed and dirty flags. `false` if an entry is not what it was any more.
    fn mark(&self, memory: &impl GuestMemory, width: usize) -> Result<bool, UnmappedGuestMemory> {
        for step in self.steps.iter().take(self.count).filter(|step| step.marked != step.entry) {
            let address = GuestPhysAddr::from(step.address as usize);
            if !memory.compare_exchange(address, width, step.entry, step.marked)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
