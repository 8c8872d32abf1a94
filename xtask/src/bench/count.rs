//! Counts of what is expensive in a round trip.

use serde::Serialize;

use super::{
    trace::{Place, Step},
    vmcs::{self, FieldNames},
};

/// From the first instruction of the host after the exit to the VMLAUNCH or VMRESUME, that one included.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub instructions: usize,
    pub vmread: usize,
    pub vmwrite: usize,
    pub rdmsr: usize,
    pub wrmsr: usize,
    /// Entries of the VMCS's MSR areas that the exit and the entry stored or loaded.
    pub msr_area_entries: usize,
    pub xsetbv: usize,
    pub xgetbv: usize,
    pub cpuid: usize,
    pub vmptrld: usize,
    pub vmclear: usize,
    pub vmlaunch: usize,
    pub vmresume: usize,
    /// INVEPT and INVVPID.
    pub invept: usize,
    /// XSAVE, FXSAVE and what loads them again, in all their kinds.
    pub xsave: usize,
    /// Instructions that lock the bus.
    pub locked: usize,
    /// By instructions to memory: what VMWRITE writes, and what the processor stores by itself, is not in it.
    pub bytes_written: u64,
    pub fields_read: Vec<String>,
    pub fields_written: Vec<String>,
}

impl Counts {
    pub fn of(steps: &[Step], names: &FieldNames) -> Self {
        let mut counts = Self::default();
        for step in steps {
            counts.msr_area_entries += msr_area_entries(step);
            if step.by_host {
                counts.add(step, names);
            }
        }
        counts
    }

    pub fn entries(&self) -> usize {
        self.vmlaunch + self.vmresume
    }

    fn add(&mut self, step: &Step, names: &FieldNames) {
        self.instructions += 1;
        self.locked += usize::from(step.is_locked);
        let written = step.accesses.iter().filter(|access| access.writes && access.place == Place::Memory);
        self.bytes_written += written.map(|access| access.bytes).sum::<u64>();
        let counter = match step.mnemonic.as_str() {
            "vmread" => {
                self.fields_read.extend(field(step, names));
                &mut self.vmread
            }
            "vmwrite" => {
                self.fields_written.extend(field(step, names));
                &mut self.vmwrite
            }
            "rdmsr" => &mut self.rdmsr,
            "wrmsr" => &mut self.wrmsr,
            "xsetbv" => &mut self.xsetbv,
            "xgetbv" => &mut self.xgetbv,
            "cpuid" => &mut self.cpuid,
            "vmptrld" => &mut self.vmptrld,
            "vmclear" => &mut self.vmclear,
            "vmlaunch" => &mut self.vmlaunch,
            "vmresume" => &mut self.vmresume,
            "invept" | "invvpid" => &mut self.invept,
            other if ["xsave", "xrstor", "fxsave", "fxrstor"].iter().any(|kind| other.starts_with(kind)) => {
                &mut self.xsave
            }
            _ => return,
        };
        *counter += 1;
    }
}

/// An entry of a list is two words: which MSR, and its value.
fn msr_area_entries(step: &Step) -> usize {
    step.accesses.iter().filter(|access| access.place == Place::MsrArea).count() / 2
}

fn field(step: &Step, names: &FieldNames) -> Option<String> {
    step.accesses.iter().find_map(|access| match access.place {
        Place::Vmcs(address) => vmcs::encoding(address).map(|encoding| vmcs::name(encoding, names)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::trace::Trace;

    #[test]
    fn only_what_the_host_does_is_counted() {
        let trace = Trace::parse(include_str!("sample.txt")).expect("a trace");
        let counts = Counts::of(&trace.rows[0].steps, &trace.fields);
        let expected = Counts {
            instructions: 7,
            vmread: 1,
            vmwrite: 1,
            msr_area_entries: 3,
            vmresume: 1,
            xsave: 1,
            // PUSH, MOV, and two pieces of XSAVE.
            bytes_written: 8 + 8 + 16 + 8,
            fields_read: vec!["VmcsReadOnly32::EXIT_REASON".to_owned()],
            // Not in the sample's list of names.
            fields_written: vec!["0x681e".to_owned()],
            ..Counts::default()
        };
        assert_eq!(counts, expected);
    }
}
