//! Which part of the crate may use which: no import points upward, and none runs in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
};

use anyhow::{Result, ensure};
use petgraph::{algo::tarjan_scc, graphmap::DiGraphMap};

use crate::{
    paths,
    source::{Tree, Use, uses},
};

/// The layers, lowest first: a name, and which files belong to it. The longest beginning of a file's path decides.
///
/// A file uses its own layer and those below.
const LAYERS: &[(&str, &[&str])] = &[
    ("rules of the processor", &["src/rules", "src/msr", "src/regs", "src/error"]),
    ("frames", &["src/frame"]),
    ("guest memory", &["src/guest_memory", "src/ept"]),
    ("emulator", &["src/emulator"]),
    ("interrupt controllers", &["src/apic"]),
    ("virtual CPU", &["src/vcpu"]),
    ("VMX", &["src/vmx"]),
    ("adapter", &["src/adapter", "src/former_names", "src/lib.rs"]),
];

/// Of the files that make up one arrow of a circle, and of the names that one file uses of another, so many are printed.
const EXAMPLES: usize = 3;
const NAMES: usize = 6;

/// The check of the suite.
pub fn check() -> Result<Option<String>> {
    let tree = Tree::read(paths::root(), "src/lib.rs")?;
    let uses = uses(&tree);
    let mut wrong = upward(&tree, &uses, LAYERS);
    wrong.extend(cycles(&tree, &uses));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(Some(format!("{} uses in {} files", uses.len(), tree.files().count())))
}

/// The uses of a higher layer, and the files that are in none.
fn upward(tree: &Tree, uses: &BTreeSet<Use>, layers: &[(&str, &[&str])]) -> Vec<String> {
    let mut wrong: Vec<String> = tree
        .files()
        .filter(|module| layer_of(&module.file, layers).is_none())
        .map(|module| format!("{} is in no layer", module.file.display()))
        .collect();
    let upward = uses.iter().filter(|found| {
        let layer_of = |module: usize| layer_of(&tree.0[module].file, layers);
        layer_of(found.from) < layer_of(found.to)
    });
    for ((from, to), names) in by_files(tree, upward) {
        let layer = |file: &Path| layer_of(file, layers).map_or("no layer", |layer| layers[layer].0);
        wrong.push(format!("upward, from {} to {}: {}", layer(from), layer(to), arrow((from, to), &names)));
    }
    wrong
}

/// The names that one file uses of another.
fn by_files<'a>(tree: &'a Tree, uses: impl Iterator<Item = &'a Use>) -> BTreeMap<(&'a Path, &'a Path), Vec<&'a str>> {
    let mut all: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for found in uses {
        let file = |module: usize| tree.0[module].file.as_path();
        all.entry((file(found.from), file(found.to))).or_default().push(&found.name);
    }
    all
}

fn layer_of(file: &Path, layers: &[(&str, &[&str])]) -> Option<usize> {
    // `src/msr` is `src/msr.rs` and all in the folder, and not `src/msrs.rs`.
    let file = file.with_extension("");
    let begins = |prefix: &str| file.starts_with(Path::new(prefix).with_extension(""));
    let lengths = layers.iter().enumerate().flat_map(|(index, (_, prefixes))| {
        prefixes.iter().filter(|prefix| begins(prefix)).map(move |prefix| (prefix.len(), index))
    });
    lengths.max().map(|(_, index)| index)
}

/// The circles among the children of each module. A child stands for all that is in it, so modules that use each other by
/// different files are a circle. A module and what is in it may use each other.
fn cycles(tree: &Tree, uses: &BTreeSet<Use>) -> Vec<String> {
    let mut graphs: BTreeMap<usize, DiGraphMap<usize, Vec<&Use>>> = BTreeMap::new();
    for found in uses {
        if let Some((parent, from, to)) = apart(tree, found.from, found.to) {
            let graph = graphs.entry(parent).or_default();
            match graph.edge_weight_mut(from, to) {
                Some(all) => all.push(found),
                None => drop(graph.add_edge(from, to, vec![found])),
            }
        }
    }
    let mut wrong = Vec::new();
    for graph in graphs.values() {
        for circle in tarjan_scc(graph).into_iter().filter(|circle| circle.len() > 1) {
            wrong.push(describe(tree, graph, &circle));
        }
    }
    wrong
}

fn describe(tree: &Tree, graph: &DiGraphMap<usize, Vec<&Use>>, circle: &[usize]) -> String {
    let names: Vec<String> = circle.iter().map(|module| tree.0[*module].path.join("::")).collect();
    let mut text = format!("circle of {}", names.join(", "));
    let is_inside = |module: &usize| circle.contains(module);
    for (from, to, found) in graph.all_edges().filter(|(from, to, _)| is_inside(from) && is_inside(to)) {
        let _ = write!(text, "\n  {} -> {}", tree.0[from].path.join("::"), tree.0[to].path.join("::"));
        let pairs = by_files(tree, found.iter().copied());
        for (files, names) in pairs.iter().take(EXAMPLES) {
            let _ = write!(text, "\n    {}", arrow(*files, names));
        }
        if let Some(more) = pairs.len().checked_sub(EXAMPLES + 1) {
            let _ = write!(text, "\n    and {} more", more + 1);
        }
    }
    text
}

fn arrow((from, to): (&Path, &Path), names: &[&str]) -> String {
    let more = if names.len() > NAMES { ", ..." } else { "" };
    let names = names[..names.len().min(NAMES)].join(", ");
    format!("{} -> {} ({names}{more})", from.display(), to.display())
}

/// The module below which both are in different children, and those children. `None` where one is in the other.
fn apart(tree: &Tree, from: usize, to: usize) -> Option<(usize, usize, usize)> {
    let (from, to) = (line_of(tree, from), line_of(tree, to));
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    Some((*from.get(common.checked_sub(1)?)?, *from.get(common)?, *to.get(common)?))
}

/// The root, and so on down to the module.
fn line_of(tree: &Tree, module: usize) -> Vec<usize> {
    let mut line: Vec<usize> = std::iter::successors(Some(module), |module| tree.0[*module].parent).collect();
    line.reverse();
    line
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const LAYERS: &[(&str, &[&str])] = &[("low", &["low"]), ("high", &["high", "lib.rs"])];

    fn found(files: &[(&str, &str)], layers: &[(&str, &[&str])]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::read(folder.path(), "lib.rs").unwrap();
        let uses = uses(&tree);
        let mut wrong = upward(&tree, &uses, layers);
        wrong.extend(cycles(&tree, &uses));
        wrong
    }

    #[test]
    fn an_arrow_may_point_down_and_not_up() {
        let root = ("lib.rs", "mod low; mod high;");
        let good = [root, ("low.rs", "pub struct A;"), ("high.rs", "use crate::low::A;")];
        assert_eq!(found(&good, LAYERS), [""; 0]);
        let bad = [root, ("low.rs", "use crate::high::A;"), ("high.rs", "pub struct A;")];
        assert_eq!(found(&bad, LAYERS), ["upward, from low to high: low.rs -> high.rs (crate::high::A)"]);
    }

    #[test]
    fn every_file_is_in_a_layer_by_whole_names() {
        let files = [("lib.rs", "mod lower; mod low;"), ("lower.rs", ""), ("low/mod.rs", "mod x;"), ("low/x.rs", "")];
        assert_eq!(found(&files, LAYERS), ["lower.rs is in no layer"]);
    }

    #[test]
    fn modules_that_use_each_other_by_different_files_are_a_circle() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a/mod.rs", "mod x; mod y;"),
            ("a/x.rs", "use crate::b::z::Z;"),
            ("a/y.rs", "pub struct Y;"),
            ("b/mod.rs", "pub mod z; mod w;"),
            ("b/z.rs", "pub struct Z;"),
            ("b/w.rs", "use crate::a::y::Y;"),
        ];
        let all = [("all", &["lib.rs", "a", "b"][..])];
        let wrong = found(&files, &all);
        assert_eq!(wrong.len(), 1);
        for text in ["circle of ", "a/x.rs -> b/z.rs (crate::b::z::Z)", "b/w.rs -> a/y.rs (crate::a::y::Y)"] {
            assert!(wrong[0].contains(text), "{}", wrong[0]);
        }
    }

    #[test]
    fn a_module_and_what_is_in_it_may_use_each_other() {
        let files = [
            ("lib.rs", "mod a; use a::x::X;"),
            ("a/mod.rs", "pub mod x; use x::X; pub struct A;"),
            ("a/x.rs", "use super::A; use crate::R; pub struct X;"),
        ];
        assert_eq!(found(&files, &[("all", &["lib.rs", "a"])]), [""; 0]);
    }
}
