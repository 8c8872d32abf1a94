//! What can be asked for by name.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{boots, checks};
use crate::paths;

/// Names of those that come near, as an answer to one that nothing has.
const SUGGESTIONS: usize = 5;
/// From 0, nothing in common, to 1, the same.
const LIKE_ENOUGH: f64 = 0.7;

/// A case, as the sources say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceCase {
    pub name: String,
    /// Whether it only runs in a boot that asks for it by its whole name.
    pub own_boot: bool,
}

impl SourceCase {
    /// Whether a boot with this filter runs it: the host decides by the same rule.
    pub fn is_in(&self, filter: &str) -> bool {
        if self.own_boot { self.name == filter } else { filter.split('|').any(|part| self.name.contains(part)) }
    }
}

/// All cases, by the host's sources: asking the host takes a boot.
pub fn of_cases() -> Result<Vec<SourceCase>> {
    let mut cases = Vec::new();
    read_folder(&paths::host().join("src/cases"), &mut cases)?;
    Ok(cases)
}

fn read_folder(folder: &Path, cases: &mut Vec<SourceCase>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(&path, cases)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            cases.extend(in_source(&text));
        }
    }
    Ok(())
}

/// `cases! { "SUITE":`, then `FUNCTION,` or `FUNCTION.method(...),`, one a line, and `}`. A name is `SUITE.FUNCTION`.
fn in_source(text: &str) -> impl Iterator<Item = SourceCase> {
    text.split("\ncases! { \"").skip(1).filter_map(|list| list.split("\n}").next()?.split_once("\":")).flat_map(
        |(suite, functions)| {
            functions.lines().filter_map(move |line| {
                let function = line.trim().split(['.', ',']).next().filter(|function| !function.is_empty())?;
                let own_boot = line.contains(".in_own_boot()");
                Some(SourceCase { name: format!("{suite}.{function}"), own_boot })
            })
        },
    )
}

/// The names that are most like one that nothing has, best first.
pub fn like(name: &str, cases: &[SourceCase]) -> Vec<String> {
    let checks = checks::ALL.iter().map(|check| check.name.to_owned());
    let boots = boots().into_iter().map(|boot| boot.name);
    // A case may be asked for with its machine.
    let last = name.rsplit('/').next().unwrap_or(name);
    let mut rated: Vec<(f64, String)> = checks
        .chain(boots)
        .chain(cases.iter().map(|case| case.name.clone()))
        .map(|other| (strsim::jaro_winkler(name, &other).max(strsim::jaro_winkler(last, &other)), other))
        .filter(|(likeness, _)| *likeness > LIKE_ENOUGH)
        .collect();
    rated.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    rated.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str, own_boot: bool) -> SourceCase {
        SourceCase { name: name.to_owned(), own_boot }
    }

    #[test]
    fn cases_are_found_in_the_host_s_sources() {
        let text = "use x;\ncases! { \"a\":\n    b,\n    c.needs(&[Need::Avx]).in_own_boot(),\n}\nfn b() {}\n";
        assert_eq!(in_source(text).collect::<Vec<_>>(), [case("a.b", false), case("a.c", true)]);
        let cases = of_cases().expect("the host's sources");
        assert!(cases.iter().any(|case| case.name.starts_with("xsetbv.")), "{cases:?}");
    }

    #[test]
    fn a_misspelt_name_finds_the_right_one() {
        let cases = [case("debug.single_step_over_cpuid", false), case("walk.of_nothing", false)];
        assert_eq!(like("debug.singel_step_over_cpuid", &cases).first(), Some(&cases[0].name));
        assert_eq!(like("cases/haswell/1/walk.of_nothign", &cases).first(), Some(&cases[1].name));
        assert_eq!(like("guest/gnu-mach/haswell", &cases).first().map(String::as_str), Some("guest/gnumach/haswell"));
        assert!(like("0123456789", &cases).is_empty());
    }
}
