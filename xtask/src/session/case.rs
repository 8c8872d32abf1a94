//! The host's line about one of its cases.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub name: String,
    pub result: CaseResult,
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
    /// `case NAME ... ok`, `case NAME ... FAILED: …`, `case NAME ... skipped: …`.
    pub fn parse(line: &str) -> Option<Self> {
        let (name, result) = line.strip_prefix("case ")?.split_once(" ... ")?;
        let result = match result.trim_end().split_once(':') {
            None if result.trim_end() == "ok" => CaseResult::Ok,
            Some(("FAILED", why)) => CaseResult::Failed(why.trim_start().to_owned()),
            Some(("skipped", why)) => CaseResult::Skipped(why.trim_start().to_owned()),
            _ => return None,
        };
        Some(Case { name: name.to_owned(), result })
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
    fn a_result_that_is_not_known_is_no_result() {
        assert_eq!(Case::parse("case xsetbv ... okay"), None);
        assert_eq!(Case::parse("case xsetbv ... "), None);
        assert_eq!(Case::parse("  case xsetbv ... ok"), None);
    }
}
