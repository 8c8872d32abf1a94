//! Every VMCS field, written down once.
//!
//! The table below gives each field its encoding (SDM Vol. 3D, Appendix B, "Field Encoding in VMCS"), value type, kind,
//! and the control that a processor must have for the field to exist. From it come the typed accessors, the check that a field
//! exists, the cache's slots, the set of fields that an exit changes, and the dump.
//!
//! The encoding itself says the width (bits 14:13), the kind (bits 11:10) and that it is the full field (bit 0
//! clear). A constant expression checks each line of the table against that at build time.

use core::fmt;

use crate::vmx::capability::{
    Capabilities, EntryControls, ExitControls, PinControls, PrimaryControls, SecondaryControls, TertiaryControls,
};

/// A VMCS field: something with a place in [`FIELDS`] and a value type.
pub trait VmcsField: Copy {
    /// The type of the field's value: `u16`, `u32`, `u64`, or `usize` for a natural-width field.
    type Value: FieldValue;

    /// The field's place in [`FIELDS`].
    fn index(self) -> usize;

    /// The encoding that VMREAD and VMWRITE take.
    #[inline(always)]
    fn encoding(self) -> u32 {
        FIELDS[self.index()].encoding
    }
}

/// A VMCS field that software may write: all but the VM-exit information.
pub trait WritableVmcsField: VmcsField {}

/// A field of the guest-state area.
pub trait GuestStateField: WritableVmcsField {}

/// A value as the VMX instructions move it (64 bits) and as the field holds it.
pub trait FieldValue: Copy + Eq {
    /// Bits 14:13 of the encoding of a field with such a value.
    const WIDTH: u32;
    /// Widens to what VMWRITE takes.
    fn into_bits(self) -> u64;
    /// Narrows what VMREAD gave; the bits above the field's width are zero.
    fn from_bits(bits: u64) -> Self;
}

macro_rules! field_values {
    ($($value:ty = $width:literal),*) => {$(
        impl FieldValue for $value {
            const WIDTH: u32 = $width;
            #[inline(always)]
            fn into_bits(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        }
    )*};
}
field_values!(u16 = 0, u64 = 1, u32 = 2, usize = 3);

/// What kind of field it is: bits 11:10 of the encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FieldKind {
    /// VM-execution, VM-exit and VM-entry controls.
    Control = 0,
    /// VM-exit information.
    ReadOnly = 1,
    /// Guest state.
    Guest = 2,
    /// Host state.
    Host = 3,
}

/// A VMCS field: one line of the table. Debug output has its name and, in hexadecimal, its encoding.
///
/// ```
/// use x86_vcpu::vmx::FIELDS;
///
/// let rip = FIELDS.iter().find(|field| field.encoding == 0x681e).unwrap();
/// assert!(format!("{rip:?}").contains("encoding: 0x681e, kind: Guest"));
/// ```
#[derive(Clone, Copy)]
pub struct FieldInfo {
    /// `Group::NAME`.
    pub name: &'static str,
    /// The encoding that VMREAD and VMWRITE take.
    pub encoding: u32,
    /// Control, read-only, guest or host.
    pub kind: FieldKind,
    /// The control without which the field does not exist.
    needs: Needs,
}

impl fmt::Debug for FieldInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FieldInfo")
            .field("name", &self.name)
            .field("encoding", &format_args!("{:#x}", self.encoding))
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl FieldInfo {
    /// Whether a processor with these capabilities has the field.
    pub(crate) fn exists(&self, capabilities: &Capabilities) -> bool {
        match self.needs {
            Needs::Nothing => true,
            Needs::Pin(control) => capabilities.pin.can_set(control),
            Needs::Primary(control) => capabilities.primary.can_set(control),
            Needs::Secondary(control) => capabilities.secondary.can_set(control),
            Needs::Tertiary(control) => capabilities.tertiary.contains(control),
            Needs::Exit(control) => capabilities.exit.can_set(control),
            Needs::Entry(control) => capabilities.entry.can_set(control),
        }
    }
}

/// The control whose 1-setting a processor must support to have a field, as the SDM's tables in Appendix B say in their
/// notes.
#[derive(Clone, Copy)]
enum Needs {
    Nothing,
    Pin(PinControls),
    Primary(PrimaryControls),
    Secondary(SecondaryControls),
    Tertiary(TertiaryControls),
    Exit(ExitControls),
    Entry(EntryControls),
}

macro_rules! vmcs_fields {
    ($(
        $(#[$group_doc:meta])*
        $group:ident: $value:ty, $kind:ident {
            $($(#[$doc:meta])* $name:ident = $encoding:literal $(if $controls:ident $control:ident)?,)*
        }
    )*) => {
        /// Every field, in the order of the cache's slots: what only software changes first, then what an exit changes.
        pub static FIELDS: [FieldInfo; FIELD_COUNT] = TABLE;

        /// How many fields there are.
        pub const FIELD_COUNT: usize = [$($($encoding,)*)*].len();

        pub(super) const TABLE: [FieldInfo; FIELD_COUNT] = [$($(
            FieldInfo {
                name: concat!(stringify!($group), "::", stringify!($name)),
                encoding: $encoding,
                kind: FieldKind::$kind,
                needs: vmcs_fields!(@needs $($controls $control)?),
            },
        )*)*];

        $(
            $(#[$group_doc])*
            #[derive(Clone, Copy, PartialEq, Eq)]
            pub struct $group(u8);

            impl $group {
                $($(#[$doc])* pub const $name: Self = Self(slot_of($encoding));)*

                /// The encoding that VMREAD and VMWRITE take.
                pub const fn encoding(self) -> u32 {
                    TABLE[self.0 as usize].encoding
                }
            }

            impl VmcsField for $group {
                type Value = $value;
                #[inline(always)]
                fn index(self) -> usize {
                    self.0 as usize
                }
            }

            impl fmt::Debug for $group {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str(FIELDS[self.index()].name)
                }
            }

            // The group's width and kind agree with what each encoding says of itself.
            const _: () = {
                let encodings: &[u32] = &[$($encoding,)*];
                let mut i = 0;
                while i < encodings.len() {
                    assert!(encodings[i] >> 13 & 3 == <$value as FieldValue>::WIDTH);
                    assert!(encodings[i] >> 10 & 3 == FieldKind::$kind as u32);
                    assert!(encodings[i] & 1 == 0 && encodings[i] >> 15 == 0);
                    i += 1;
                }
            };

            vmcs_fields!(@access $group $kind);
        )*
    };
    (@needs) => { Needs::Nothing };
    (@needs pin $control:ident) => { Needs::Pin(PinControls::$control) };
    (@needs primary $control:ident) => { Needs::Primary(PrimaryControls::$control) };
    (@needs secondary $control:ident) => { Needs::Secondary(SecondaryControls::$control) };
    (@needs tertiary $control:ident) => { Needs::Tertiary(TertiaryControls::$control) };
    (@needs exit $control:ident) => { Needs::Exit(ExitControls::$control) };
    (@needs entry $control:ident) => { Needs::Entry(EntryControls::$control) };
    (@access $group:ident ReadOnly) => {};
    (@access $group:ident Guest) => {
        impl WritableVmcsField for $group {}
        impl GuestStateField for $group {}
    };
    (@access $group:ident $kind:ident) => {
        impl WritableVmcsField for $group {}
    };
}

mod table;

use table::TABLE;
pub use table::*;

/// The slot of the field with this encoding; a build error where two lines have the same one.
const fn slot_of(encoding: u32) -> u8 {
    let mut found = usize::MAX;
    let mut i = 0;
    while i < FIELD_COUNT {
        if TABLE[i].encoding == encoding {
            assert!(found == usize::MAX, "two VMCS fields with one encoding");
            found = i;
        }
        i += 1;
    }
    assert!(found < 256, "a VMCS field without a slot");
    found as u8
}
