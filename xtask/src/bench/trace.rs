//! Reads what Bochs' debugger prints with `trace on` and `trace-mem on`.
//!
//! An instruction is printed before it is executed, and then its accesses to memory, each on a line of its own. Those of
//! an instruction that exits are followed by the exit's: guest state written, host state read, MSR areas.

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::vmcs::FieldNames;

/// The host is at 1 MiB; the guests of the bench are below it.
const HOST_START: u64 = 0x10_0000;

pub struct Trace {
    pub rows: Vec<Row>,
    pub fields: FieldNames,
}

/// What was executed between two marks.
#[derive(Debug)]
pub struct Row {
    pub caller: String,
    pub exit: String,
    pub steps: Vec<Step>,
    /// What the guest's own time stamps said, or why there is nothing to measure.
    pub result: Option<Result<Ticks, String>>,
}

/// Ticks of the time stamp counter that a round took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ticks {
    pub min: u64,
    pub median: u64,
    pub max: u64,
    pub rounds: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub by_host: bool,
    pub mnemonic: String,
    /// It locks the bus: by a LOCK prefix, or as XCHG with memory does of itself.
    pub is_locked: bool,
    pub accesses: Vec<Access>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Access {
    pub writes: bool,
    pub place: Place,
    pub bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// What an instruction reads or writes at an address of its own.
    Memory,
    /// A VMCS, by VMREAD and VMWRITE or in the course of an entry or exit, at this physical address.
    Vmcs(u64),
    /// The lists of MSRs that an entry or exit loads or stores.
    MsrArea,
    /// Page tables, bitmaps.
    Other,
}

impl Trace {
    pub fn parse(output: &str) -> Result<Self> {
        let mut trace = Self { rows: Vec::new(), fields: FieldNames::new() };
        let mut tracing = false;
        for line in output.lines() {
            if let Some(name) = line.strip_prefix("bench ").and_then(|rest| rest.split_once(": ")) {
                let (caller, exit) = (name.0.to_owned(), name.1.to_owned());
                trace.rows.push(Row { caller, exit, steps: Vec::new(), result: None });
            } else if let Some(numbers) = line.strip_prefix("ticks ") {
                let row = trace.rows.last_mut().context("ticks before the first row")?;
                row.result = Some(Ok(Ticks::parse(numbers).with_context(|| format!("not ticks: {line}"))?));
            } else if let Some(why) = line.strip_prefix("failed ") {
                trace.rows.last_mut().context("a failure before the first row")?.result = Some(Err(why.to_owned()));
            } else if let Some((encoding, name)) = line.strip_prefix("field 0x").and_then(|rest| rest.split_once(' ')) {
                trace.fields.insert(u32::from_str_radix(encoding, 16)?, name.to_owned());
            } else if line.starts_with("Tracing enabled") {
                tracing = true;
                let row = trace.rows.last().context("a mark before the first row")?;
                ensure!(row.steps.is_empty(), "{}: {} has more than two marks", row.caller, row.exit);
            } else if line.starts_with("Tracing disabled") {
                tracing = false;
            } else if let Some(row) = trace.rows.last_mut().filter(|_| tracing) {
                row.read(line).with_context(|| format!("a line of the trace: {line}"))?;
            }
        }
        ensure!(!tracing, "the trace has no end");
        if let Some(row) = trace.rows.iter().find(|row| row.result.is_none()) {
            bail!("{}: {} has no result", row.caller, row.exit);
        }
        Ok(trace)
    }
}

impl Row {
    fn read(&mut self, line: &str) -> Result<()> {
        if line.starts_with("(0).[") {
            self.steps.push(Step::parse(line).context("not an instruction")?);
        } else if let Some(access) = line.strip_prefix("[CPU0 ") {
            let step = self.steps.last_mut().context("an access before the first instruction")?;
            step.accesses.push(Access::parse(access).context("not an access")?);
        }
        // The rest is the debugger's talk about marks and its own commands.
        Ok(())
    }
}

impl Ticks {
    fn parse(numbers: &str) -> Option<Self> {
        let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().ok()).collect::<Option<_>>()?;
        let [min, median, max, rounds] = numbers.try_into().ok()?;
        Some(Self { min, median, max, rounds })
    }
}

impl Step {
    /// `(0).[TIME] [PHYSICAL] CS:RIP (unk. ctxt): MNEMONIC OPERANDS ; BYTES`
    fn parse(line: &str) -> Option<Self> {
        let (place, instruction) = line.split_once(" (unk. ctxt): ")?;
        let (_, address) = place.rsplit_once(':')?;
        let is_prefix = |word: &str| word.starts_with("rep") || word == "lock";
        let mnemonic = instruction.split_whitespace().find(|word| !is_prefix(word))?;
        let has_lock = instruction.split_whitespace().take_while(|word| is_prefix(word)).any(|word| word == "lock");
        Some(Self {
            by_host: u64::from_str_radix(address, 16).ok()? >= HOST_START,
            mnemonic: mnemonic.to_owned(),
            is_locked: has_lock || mnemonic == "xchg" && instruction.contains('['),
            accesses: Vec::new(),
        })
    }
}

impl Access {
    /// `RD]: PHY 0xADDRESS (len=N, TYPE): VALUES ; WHAT`, where an access at a linear address has `LIN 0xADDRESS` before
    /// and no WHAT. RW is a read and a write of the same.
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once("]: ")?;
        let (place, rest) = rest.split_once(" (len=")?;
        let (_, physical) = place.split_once("PHY 0x")?;
        let (bytes, rest) = rest.split_once(',')?;
        let what = rest.split_once("\t; ").map(|(_, what)| what.trim_end());
        let place = match what {
            _ if place.starts_with("LIN ") => Place::Memory,
            Some("VMCS") => Place::Vmcs(u64::from_str_radix(physical, 16).ok()?),
            Some("VMX LDMSR" | "VMX STMSR") => Place::MsrArea,
            _ => Place::Other,
        };
        Some(Self { writes: kind != "RD", place, bytes: bytes.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a CPUID exit, with most lines of each kind left out.
    pub const SAMPLE: &str = include_str!("sample.txt");

    fn sample() -> Trace {
        Trace::parse(SAMPLE).expect("a trace")
    }

    #[test]
    fn instructions_belong_to_the_host_or_to_the_guest() {
        let trace = sample();
        let [row] = trace.rows.as_slice() else { panic!("{:?}", trace.rows) };
        assert_eq!((row.caller.as_str(), row.exit.as_str()), ("bound", "CPUID"));
        assert_eq!(row.result, Some(Ok(Ticks { min: 700, median: 705, max: 800, rounds: 12 })));
        let host: Vec<_> = row.steps.iter().filter(|step| step.by_host).map(|step| step.mnemonic.as_str()).collect();
        assert_eq!(host, ["push", "mov", "xsaveopt", "vmread", "cmp", "vmwrite", "vmresume"]);
        let guest: Vec<_> = row.steps.iter().filter(|step| !step.by_host).map(|step| step.mnemonic.as_str()).collect();
        assert_eq!(guest, ["xor", "cpuid", "dec", "jnz", "xchg"]);
    }

    #[test]
    fn accesses_belong_to_the_instruction_before_them() {
        let trace = sample();
        let vmread = trace.rows[0].steps.iter().find(|step| step.mnemonic == "vmread").expect("a VMREAD");
        assert_eq!(vmread.accesses, [Access { writes: false, place: Place::Vmcs(0x120_9918), bytes: 4 }]);
        let push = trace.rows[0].steps.iter().find(|step| step.mnemonic == "push").expect("a PUSH");
        assert_eq!(push.accesses.last(), Some(&Access { writes: true, place: Place::Memory, bytes: 8 }));
    }

    #[test]
    fn locked_operations_are_told_from_others() {
        let locked = |instruction: &str| {
            let line = format!("(0).[1] [0x000000101000] 0008:0000000000101000 (unk. ctxt): {instruction} ; 90");
            Step::parse(&line).expect("an instruction").is_locked
        };
        assert!(locked("lock xadd dword ptr ds:[rax], ecx"));
        assert!(locked("xchg dword ptr ds:[rax+16], ecx"));
        assert!(!locked("xchg rax, rcx"));
        assert!(!locked("rep movsb byte ptr es:[rdi], byte ptr ds:[rsi]"));
    }

    #[test]
    fn a_row_without_an_end_or_a_result_is_an_error() {
        let cut = SAMPLE.split("Tracing disabled").next().expect("a beginning");
        assert!(Trace::parse(cut).is_err());
        assert!(Trace::parse("bench bound: CPUID\n").is_err());
        assert!(Trace::parse("bench bound: CPUID\nfailed no exit\n").is_ok());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_not_left_out() {
        assert!(Trace::parse(&SAMPLE.replace("len=", "length ")).is_err());
        assert!(Trace::parse(&SAMPLE.replace("(unk. ctxt)", "")).is_err());
    }
}
