//! The README's table of what this crate has beyond 0.2.2: complete, and nothing in it that is not there.
//!
//! In the first column stands what a row is about, in the second what `VmxVcpu` has for it, in the third everything
//! else: a type stands for all that it offers, of a type that 0.2.2 has too for all that is new in it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::list::{List, own_path, trait_of};

const HEADING: &str = "## Beyond 0.2.2";
const VCPU: &str = "VmxVcpu";
/// 0.2.2 knows these types by another name only, and most users both. Their methods are named one by one.
const TWO_NAMES: [(&str, &str); 2] = [("VmxArchVCpu", VCPU), ("VmxArchPerCpuState", "VmxPerCpuState")];

/// The number of names that the table holds; or an error if something in it is too much or missing.
pub fn check(readme: &str, theirs: &List, ours: &List) -> Result<usize> {
    let old = names(theirs);
    let new: BTreeSet<Name> = names(ours).difference(&old).cloned().collect();
    let table = read(readme)?;
    let missing: BTreeSet<String> = new
        .iter()
        .filter(|name| !name.ways().any(|way| table.contains(&way)))
        .filter_map(|name| name.ways().next())
        .collect();
    let known: BTreeSet<String> = new.iter().flat_map(Name::ways).collect();
    let stale: Vec<&String> = table.iter().filter(|name| !known.contains(*name)).collect();
    ensure!(missing.is_empty(), "README.md, \"{HEADING}\" does not name: {missing:?}");
    ensure!(stale.is_empty(), "README.md, \"{HEADING}\" names what is not there, or not new: {stale:?}");
    Ok(table.len())
}

/// A function or type of the crate, or something that a type offers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    first: String,
    member: Option<String>,
}

impl Name {
    fn text(&self) -> String {
        let member = self.member.iter().map(|member| format!("::{member}"));
        std::iter::once(self.first.clone()).chain(member).collect()
    }

    /// What in the table stands for it.
    fn ways(&self) -> impl Iterator<Item = String> {
        let as_a_whole = TWO_NAMES.iter().all(|(_, name)| *name != self.first).then(|| self.first.clone());
        as_a_whole.into_iter().chain(std::iter::once(self.text()))
    }
}

fn names(list: &List) -> BTreeSet<Name> {
    list.iter().filter_map(|line| name(line)).collect()
}

/// Wherever it can be reached: most items stand at the top of the crate and in `vmx`.
fn name(line: &str) -> Option<Name> {
    let path = own_path(line)?;
    let inside: Vec<&str> = path[1..].iter().copied().skip_while(|name| *name == "vmx").collect();
    let first = *inside.first()?;
    let first = TWO_NAMES.iter().find(|(old, _)| *old == first).map_or(first, |(_, name)| name);
    let member = inside.get(1).copied().or_else(|| trait_of(line));
    Some(Name { first: first.to_owned(), member: member.map(str::to_owned) })
}

/// What stands in backquotes, column by column.
fn read(readme: &str) -> Result<BTreeSet<String>> {
    let (_, section) = readme.split_once(HEADING).with_context(|| format!("README.md has no \"{HEADING}\""))?;
    let section = section.split("\n## ").next().unwrap_or(section);
    let mut names = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        ensure!(cells.len() == 3, "README.md, \"{HEADING}\": not three columns: {row}");
        for (prefix, cell) in [(format!("{VCPU}::"), cells[1]), (String::new(), cells[2])] {
            for name in cell.split('`').skip(1).step_by(2) {
                ensure!(names.insert(format!("{prefix}{name}")), "README.md, \"{HEADING}\" names {name} twice");
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const README: &str = "# x\n## Beyond 0.2.2\ntext\n\n| a | b | c |\n|---|---|---|\n| MMIO | `mmio`, `range` | `Access` |\n\
        ## More\n| `no` |";
    const OLD: [&str; 2] = ["pub struct x86_vcpu::VmxArchVCpu", "pub fn x86_vcpu::VmxArchVCpu::run(&self)"];
    const NEW: [&str; 4] = [
        "pub fn x86_vcpu::vmx::VmxVcpu<H>::mmio(&self)",
        "pub fn x86_vcpu::VmxArchVCpu<H>::range(&self)",
        "pub struct x86_vcpu::vmx::Access",
        "impl core::fmt::Debug for x86_vcpu::Access",
    ];

    fn check_with(new: &[&str]) -> Result<usize> {
        let list = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<List>();
        check(README, &list(&OLD), &list(&[&OLD, new].concat()))
    }

    #[test]
    fn a_type_stands_for_what_it_offers() {
        assert_eq!(check_with(&NEW).unwrap(), 3);
    }

    #[test]
    fn what_is_missing_or_too_much_is_named() {
        let error = check_with(&[&NEW[..], &["pub fn x86_vcpu::VmxVcpu::more(&self)"]].concat()).unwrap_err();
        assert!(error.to_string().contains("VmxVcpu::more"), "{error}");
        let error = check_with(&NEW[..2]).unwrap_err();
        assert!(error.to_string().contains("Access"), "{error}");
    }
}
