//! What can be asked for by name.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use super::{boots, checks};
use crate::paths;

/// Names of those that come near, as an answer to one that nothing has.
const SUGGESTIONS: usize = 5;
/// From 0, nothing in common, to 1, the same.
const LIKE_ENOUGH: f64 = 0.7;

/// The names of all cases, by the host's sources: asking the host takes a boot.
pub fn of_cases() -> Result<Vec<String>> {
    let mut names = Vec::new();
    read_folder(&paths::host().join("src/cases"), &mut names)?;
    Ok(names)
}

fn read_folder(folder: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(&path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            names.extend(in_source(&text));
        }
    }
    Ok(())
}

/// `cases! { "SUITE":`, then `FUNCTION,` or `FUNCTION.method(...),`, one a line, and `}`. A name is `SUITE.FUNCTION`.
fn in_source(text: &str) -> impl Iterator<Item = String> {
    text.split("\ncases! { \"").skip(1).filter_map(|list| list.split("\n}").next()?.split_once("\":")).flat_map(
        |(suite, functions)| {
            let functions = functions.lines().filter_map(|line| line.trim().split(['.', ',']).next());
            functions.filter(|function| !function.is_empty()).map(move |function| format!("{suite}.{function}"))
        },
    )
}

/// The names that are most like one that nothing has, best first.
pub fn like(name: &str, cases: &[String]) -> Vec<String> {
    let checks = checks::ALL.iter().map(|check| check.name.to_owned());
    let boots = boots().into_iter().map(|boot| boot.name);
    // A case may be asked for with its machine.
    let last = name.rsplit('/').next().unwrap_or(name);
    let mut rated: Vec<(f64, String)> = checks
        .chain(boots)
        .chain(cases.iter().cloned())
        .map(|other| (strsim::jaro_winkler(name, &other).max(strsim::jaro_winkler(last, &other)), other))
        .filter(|(likeness, _)| *likeness > LIKE_ENOUGH)
        .collect();
    rated.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    rated.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_found_in_the_host_s_sources() {
        let text = "use x;\ncases! { \"a\":\n    b,\n    c.needs(&[Need::Avx]).on_boot_cpu(),\n}\nfn b() {}\n";
        assert_eq!(in_source(text).collect::<Vec<_>>(), ["a.b", "a.c"]);
        let names = of_cases().expect("the host's sources");
        assert!(names.iter().any(|name| name.starts_with("xsetbv.")), "{names:?}");
    }

    #[test]
    fn a_misspelt_name_finds_the_right_one() {
        let cases = ["debug.single_step_over_cpuid".to_owned(), "walk.of_nothing".to_owned()];
        assert_eq!(like("debug.singel_step_over_cpuid", &cases).first(), cases.first());
        assert_eq!(like("cases/haswell/1/walk.of_nothign", &cases).first(), cases.get(1));
        assert_eq!(like("guest/gnu-mach/haswell", &cases).first().map(String::as_str), Some("guest/gnumach/haswell"));
        assert!(like("0123456789", &cases).is_empty());
    }
}
