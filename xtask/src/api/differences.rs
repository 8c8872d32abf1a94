//! Where two interfaces differ, and which differences are meant.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::List;

/// What differs by intention, each with the reason: `tests/api/differences.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Differences {
    /// Types that have another path, or one of several.
    #[serde(default)]
    path: Vec<Path>,
    /// Lines that are others.
    #[serde(default)]
    item: Vec<Difference>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Path {
    old: String,
    new: Vec<String>,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// Of an item, `*` stands for any text.
    old: String,
    /// What is there instead, with the texts that `*` stood for in their order. None: nothing.
    new: Option<String>,
    reason: String,
}

impl Differences {
    pub fn parse(text: &str) -> Result<Self> {
        let differences: Self = toml::from_str(text).context("the list of differences is not valid")?;
        for (old, reason) in differences.reasons() {
            ensure!(!reason.trim().is_empty(), "no reason is given for {old:?}");
        }
        Ok(differences)
    }

    /// What differs, with the reason.
    fn reasons(&self) -> impl Iterator<Item = (&String, &String)> {
        let paths = self.path.iter().map(|path| (&path.old, &path.reason));
        paths.chain(self.item.iter().map(|item| (&item.old, &item.reason)))
    }

    /// An error unless `ours` has all that `theirs` has, but for what is listed here, and all that is listed is needed.
    pub fn compare(&self, theirs: &List, ours: &List) -> Result<()> {
        let ours: BTreeSet<String> = ours.iter().flat_map(|line| [line.clone(), without_const(line)]).collect();
        let mut used = BTreeSet::new();
        let mut faults = String::new();
        for line in theirs {
            let lines = self.with_our_paths(line, &mut used);
            if lines.iter().any(|line| ours.contains(line)) {
                continue;
            }
            let meant = self.item.iter().find_map(|item| Some((item, captures(&item.old, line)?)));
            let Some((item, texts)) = meant else {
                complain(&mut faults, line, &ours)?;
                continue;
            };
            used.insert(&item.old);
            let Some(new) = &item.new else { continue };
            let new = fill(new, &texts);
            if !ours.contains(&new) {
                writeln!(faults, "missing: {new}\n    in place of: {line}")?;
            }
        }
        for (old, _) in self.reasons().filter(|(old, _)| !used.contains(old)) {
            writeln!(faults, "differences.toml: there is no such difference (any more): {old}")?;
        }
        ensure!(faults.is_empty(), "{faults}");
        Ok(())
    }

    /// The line as it may be with the paths that the types have now.
    fn with_our_paths<'a>(&'a self, line: &str, used: &mut BTreeSet<&'a String>) -> Vec<String> {
        let mut lines = vec![line.to_owned()];
        for path in self.path.iter().filter(|path| line.contains(&path.old)) {
            used.insert(&path.old);
            let others = lines.iter().flat_map(|line| path.new.iter().map(|new| line.replace(&path.old, new)));
            lines = others.collect();
        }
        lines
    }
}

/// What users can do with a function or method, they can do with one that is `const` too.
fn without_const(line: &str) -> String {
    line.replacen("pub const fn ", "pub fn ", 1)
}

fn complain(faults: &mut String, line: &str, ours: &BTreeSet<String>) -> Result<()> {
    writeln!(faults, "missing: {line}")?;
    let near = ours.iter().map(|other| (strsim::normalized_levenshtein(line, other), other));
    if let Some((_, other)) = near.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
        writeln!(faults, "    most like it: {other}")?;
    }
    Ok(())
}

/// The texts for which each `*` of the pattern stands, or `None` if the line is another.
fn captures<'a>(pattern: &str, line: &'a str) -> Option<Vec<&'a str>> {
    let mut parts = pattern.split('*');
    let mut rest = line.strip_prefix(parts.next()?)?;
    let mut texts = Vec::new();
    let parts: Vec<&str> = parts.collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        let end = if last { rest.len().checked_sub(part.len())? } else { rest.find(part)? };
        let (text, behind) = rest.split_at_checked(end)?;
        texts.push(text);
        rest = behind.strip_prefix(part)?;
    }
    rest.is_empty().then_some(texts)
}

fn fill(pattern: &str, texts: &[&str]) -> String {
    texts.iter().fold(pattern.to_owned(), |pattern, text| pattern.replacen('*', text, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANT: &str = r#"
        [[path]]
        old = "x86_vcpu::inner::Mode"
        new = ["x86_vcpu::Other", "x86_vcpu::Mode"]
        reason = "it has a name"
        [[item]]
        old = "pub x86_vcpu::Reason::* = *"
        new = "pub const x86_vcpu::Reason::*: Reason"
        reason = "there are more"
    "#;

    fn list(lines: &[&str]) -> List {
        lines.iter().map(ToString::to_string).collect()
    }

    fn compare(ours: &[&str]) -> Result<()> {
        let theirs = [
            "pub fn x86_vcpu::mode() -> x86_vcpu::inner::Mode",
            "pub x86_vcpu::Reason::IO = 30",
            "pub x86_vcpu::a: u8",
        ];
        Differences::parse(MEANT)?.compare(&list(&theirs), &list(ours))
    }

    const MODE: &str = "pub const fn x86_vcpu::mode() -> x86_vcpu::Mode";
    const IO: &str = "pub const x86_vcpu::Reason::IO: Reason";
    const A: &str = "pub x86_vcpu::a: u8";

    #[test]
    fn more_is_no_difference() {
        compare(&[MODE, IO, A, "pub x86_vcpu::b: u8"]).unwrap();
    }

    #[test]
    fn what_is_missing_or_changed_is_named() {
        let named = |ours: &[&str], text: &str| {
            let error = compare(ours).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        named(&[MODE, IO], "missing: pub x86_vcpu::a: u8");
        named(&[MODE, IO, "pub x86_vcpu::a: u16"], "most like it: pub x86_vcpu::a: u16");
        named(&[MODE, A], "missing: pub const x86_vcpu::Reason::IO");
        named(&["pub fn x86_vcpu::mode()", IO, A], "missing: pub fn x86_vcpu::mode()");
    }

    #[test]
    fn what_is_meant_must_be_needed() {
        let error = compare(&[MODE, A, IO, "pub x86_vcpu::Reason::IO = 30"]).unwrap_err().to_string();
        assert!(error.contains("no such difference"), "{error}");
    }
}
