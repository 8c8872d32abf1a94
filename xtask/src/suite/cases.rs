//! The cases of one boot: each is a test, reported as its line comes.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};

use super::{Boot, Report};
use crate::session::{Case, CaseResult, Outcome, Verdict};

/// Reads the console of a boot that runs cases.
pub struct Cases<'a> {
    boot: &'a Boot,
    report: &'a Report,
    tally: Tally,
    since: Instant,
    /// The case that was read last: notes about it may follow.
    last: Option<Finished>,
}

struct Finished {
    case: Case,
    took: Duration,
    notes: Vec<String>,
}

/// How the cases went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub ok: usize,
    pub failed: usize,
    pub skipped: usize,
}

impl<'a> Cases<'a> {
    pub fn new(boot: &'a Boot, report: &'a Report) -> Self {
        Cases { boot, report, tally: Tally::default(), since: Instant::now(), last: None }
    }

    pub fn line(&mut self, line: &str) {
        if let Some(case) = Case::parse(line) {
            self.report_last();
            self.tally.add(&case.result);
            self.last = Some(Finished { case, took: self.since.elapsed(), notes: Vec::new() });
            self.since = Instant::now();
        } else if let (Some(note), Some(last)) = (line.strip_prefix("    note: "), &mut self.last) {
            last.notes.push(note.to_owned());
        } else if self.last.is_none() {
            // The time to boot belongs to no case.
            self.since = Instant::now();
        }
    }

    /// After the last line.
    pub fn finish(mut self) -> Tally {
        self.report_last();
        self.tally
    }

    fn report_last(&mut self) {
        let Some(Finished { case, took, notes }) = self.last.take() else { return };
        let name = self.boot.case_name(&case.name);
        let notes = notes.join("; ");
        match case.result {
            CaseResult::Ok => self.report.case_passed(&name, &case.name, self.boot.model(), took, &notes),
            CaseResult::Failed(why) => {
                let place = case.place.map_or_else(String::new, |place| format!("{place}: "));
                self.report.failed(&name, &anyhow!("{place}{why}\n{notes}"));
            }
            CaseResult::Skipped(why) => self.report.skipped(&name, &why),
        }
    }
}

impl Tally {
    fn add(&mut self, result: &CaseResult) {
        *match result {
            CaseResult::Ok => &mut self.ok,
            CaseResult::Failed(_) => &mut self.failed,
            CaseResult::Skipped(_) => &mut self.skipped,
        } += 1;
    }
}

/// Whether the boot went as the lines of its cases say. That they passed is not asked here.
pub fn judge(outcome: &Outcome, tally: Tally, filter: &str) -> Result<()> {
    let Some(Verdict::Cases { ok, failed, skipped }) = outcome.verdict else {
        bail!("{}", outcome.end_in_words());
    };
    let announced = Tally { ok, failed, skipped };
    ensure!(announced == tally, "the verdict counts {announced:?}, the lines {tally:?}");
    ensure!(!filter.is_empty() || ok + failed > 0, "no case ran");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE_FAILED: Tally = Tally { ok: 2, failed: 1, skipped: 0 };

    fn outcome(verdict: Option<Verdict>) -> Outcome {
        Outcome {
            console: String::new(),
            verdict,
            status: None,
            timed_out: false,
            goal_after: None,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            complaints: String::new(),
        }
    }

    fn cases(ok: usize, failed: usize, skipped: usize) -> Outcome {
        outcome(Some(Verdict::Cases { ok, failed, skipped }))
    }

    #[test]
    fn a_verdict_that_hides_a_failed_case_is_no_success() {
        assert!(judge(&cases(2, 1, 0), ONE_FAILED, "").is_ok());
        assert!(judge(&cases(3, 0, 0), ONE_FAILED, "").is_err());
    }

    #[test]
    fn a_boot_without_cases_is_no_success_unless_none_was_asked_for() {
        assert!(judge(&cases(0, 0, 0), Tally::default(), "").is_err());
        assert!(judge(&cases(0, 0, 0), Tally::default(), "cpuid").is_ok());
    }

    #[test]
    fn cases_that_passed_before_a_panic_are_no_success() {
        for verdict in [None, Some(Verdict::Panic("x".to_owned())), Some(Verdict::Timeout)] {
            assert!(judge(&outcome(verdict), ONE_FAILED, "").is_err());
        }
    }
}
