//! The host's line about one of its cases.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub result: CaseResult,
    /// The file and line of the check that failed.
    pub place: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseResult {
    Ok,
    /// With what was expected and what came.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

impl Case {
    /// `case NAME ... ok`, `case NAME ... FAILED at FILE:LINE: …`, `case NAME ... FAILED: …`, `case NAME ... skipped: …`.
    pub fn parse(line: &str) -> Option<Self> {
        let (name, result) = line.strip_prefix("case ")?.split_once(" ... ")?;
        let result = result.trim_end();
        let mut place = None;
        let result = if result == "ok" {
            CaseResult::Ok
        } else if let Some(why) = result.strip_prefix("skipped:") {
            CaseResult::Skipped(why.trim_start().to_owned())
        } else if let Some(why) = result.strip_prefix("FAILED:") {
            CaseResult::Failed(why.trim_start().to_owned())
        } else {
            let (at, why) = result.strip_prefix("FAILED at ")?.split_once(": ")?;
            place = Some(at.to_owned());
            CaseResult::Failed(why.to_owned())
        };
        Some(Case { name: name.to_owned(), result, place })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_keeps_its_reason_whole() {
        let case = Case::parse("case xsetbv ... FAILED: expected #GP: 0, got 1").expect("a case");
        assert_eq!(case.result, CaseResult::Failed("expected #GP: 0, got 1".to_owned()));
    }

    #[test]
    fn a_failure_says_where() {
        let case =
            Case::parse("case a.b ... FAILED at host/src/cases/a.rs:12: expected RAX: 0x1, got 0x2").expect("a case");
        assert_eq!(case.place.as_deref(), Some("host/src/cases/a.rs:12"));
        assert_eq!(case.result, CaseResult::Failed("expected RAX: 0x1, got 0x2".to_owned()));
    }

    #[test]
    fn a_result_that_is_not_known_is_no_result() {
        assert_eq!(Case::parse("case xsetbv ... okay"), None);
        assert_eq!(Case::parse("case xsetbv ... "), None);
        assert_eq!(Case::parse("  case xsetbv ... ok"), None);
    }
}
