//! The host's last line.

/// How a run of the host ended, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Cases {
        ok: usize,
        failed: usize,
        skipped: usize,
    },
    GuestEnded(String),
    /// The crate does not work on this processor, and says why.
    Refused(String),
    Timeout,
    Panic(String),
}

/// How a guest ends by its own will. Other reasons are errors of the guest, of the library or of the host.
const ORDERLY_ENDS: [&str; 3] = ["halted", "powered off", "reset"];

impl Verdict {
    pub fn is_orderly_end(&self) -> bool {
        matches!(self, Verdict::GuestEnded(reason) if ORDERLY_ENDS.contains(&reason.as_str()))
    }

    pub fn parse(line: &str) -> Option<Self> {
        let text = line.strip_prefix("verdict: ")?.trim_end();
        if text == "timeout" {
            return Some(Verdict::Timeout);
        }
        if let Some(counts) = text.strip_prefix("cases ") {
            return parse_counts(counts);
        }
        let (kind, detail) = text.split_once(": ")?;
        let detail = detail.to_owned();
        match kind {
            "guest ended" => Some(Verdict::GuestEnded(detail)),
            "refused" => Some(Verdict::Refused(detail)),
            "panic" => Some(Verdict::Panic(detail)),
            _ => None,
        }
    }
}

/// `A ok, B failed, C skipped`.
fn parse_counts(text: &str) -> Option<Verdict> {
    let mut parts = text.split(", ");
    let mut next = |name: &str| {
        let (count, what) = parts.next()?.split_once(' ')?;
        (what == name).then(|| count.parse().ok()).flatten()
    };
    let counts = Verdict::Cases { ok: next("ok")?, failed: next("failed")?, skipped: next("skipped")? };
    parts.next().is_none().then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_in_their_order() {
        assert_eq!(
            Verdict::parse("verdict: cases 12 ok, 3 failed, 0 skipped\r"),
            Some(Verdict::Cases { ok: 12, failed: 3, skipped: 0 })
        );
    }

    #[test]
    fn what_is_cut_off_is_no_verdict() {
        for line in [
            "verdict: cases 12 ok, 3 failed",
            "verdict: cases 12 ok, 3 failed, x skipped",
            "verdict: cases 12 ok, 3 failed, 1 skipped, more",
            "verdict: guest",
            "verdict: time",
            " verdict: timeout",
            "the verdict: timeout",
        ] {
            assert_eq!(Verdict::parse(line), None, "{line}");
        }
    }

    #[test]
    fn a_reason_may_hold_colons() {
        assert_eq!(
            Verdict::parse("verdict: refused: no EPT: bit 33 of 0x1: clear"),
            Some(Verdict::Refused("no EPT: bit 33 of 0x1: clear".to_owned()))
        );
    }
}
