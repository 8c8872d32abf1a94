//! What a crate offers, one item a line, from the JSON that rustdoc makes of it.
//!
//! A line is an item in the words of the crate `public-api`: its kind, its full path and its signature. Where those words
//! say more or less than what users depend on:
//! - a method that a trait prescribes is not listed, only that the trait is implemented, and with which types;
//! - a method of the type's own has the conditions of its `impl` before it;
//! - what only the compiler uses is left out, and that a trait is not implemented.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result};
use public_api::Builder;

pub const CRATE: &str = "x86_vcpu";

/// Traits that no user can name.
const INTERNAL: [&str; 2] = ["core::marker::Freeze", "core::marker::UnsafeUnpin"];

pub type List = BTreeSet<String>;

pub fn read(json: &Path) -> Result<List> {
    let api = Builder::from_rustdoc_json(json).omit_blanket_impls(true).build().with_context(|| {
        format!("cannot read {}: does `public-api` in xtask/Cargo.toml know this rustc's JSON?", json.display())
    })?;
    let items: Vec<String> = api.items().map(ToString::to_string).collect();
    Ok(lines(&items))
}

fn lines(items: &[String]) -> List {
    let mut list = List::new();
    // The `impl` that the items after it belong to.
    let mut of: Option<Impl> = None;
    for item in items {
        if is_impl(item) {
            let header = Impl::parse(item);
            if header.of_trait && !item.contains('!') && !INTERNAL.iter().any(|internal| item.contains(internal)) {
                list.insert(item.clone());
            }
            of = Some(header);
            continue;
        }
        if !is_associated(item) {
            of = None;
        }
        match &of {
            None => drop(list.insert(item.clone())),
            Some(of) if !of.of_trait => drop(list.insert(format!("{}{item}", of.conditions))),
            Some(_) if item.starts_with("pub type") => drop(list.insert(item.clone())),
            Some(_) => {}
        }
    }
    list
}

/// Public signatures may hold types that have no public path. What those offer can be used all the same; it is in the
/// list that private items are in too.
pub fn add_unnamed(list: &mut List, private: &List) {
    loop {
        let known = list.len();
        let unnamed = unnamed(list);
        let theirs = |line: &&String| own_path(line).is_some_and(|path| unnamed.contains(&type_of(&path)));
        list.extend(private.iter().filter(theirs).cloned());
        if list.len() == known {
            return;
        }
    }
}

/// Paths of this crate's types that signatures hold and no line defines.
pub fn unnamed(list: &List) -> BTreeSet<String> {
    let items = list.iter().filter(|line| !is_impl(line));
    let defined: BTreeSet<String> = items.filter_map(|line| own_path(line)).map(|path| type_of(&path)).collect();
    let held = list.iter().flat_map(|line| paths(line)).map(|path| type_of(&path));
    held.filter(|path| !defined.contains(path)).collect()
}

/// The path of what a line is about, in its names. `None`: of nothing in this crate.
pub fn own_path(line: &str) -> Option<Vec<&str>> {
    if is_impl(line) {
        let target = line.rfind(" for ").map(|start| &line[start + 5..]).filter(|target| target.starts_with(CRATE));
        return paths(target.unwrap_or(line)).next();
    }
    const KINDS: [&str; 10] = ["const", "enum", "fn", "mod", "static", "struct", "trait", "type", "union", "unsafe"];
    let (_, item) = line.split_once("pub ")?;
    let path = item.split(' ').position(|word| !KINDS.contains(&word))?;
    let start = item.split(' ').take(path).map(|kind| kind.len() + 1).sum::<usize>();
    paths(&item[start..]).next().filter(|_| item[start..].starts_with(CRATE))
}

/// For an `impl`, the name of the trait.
pub fn trait_of(line: &str) -> Option<&str> {
    let path = Impl::parse(line).rest.split(" for ").next()?;
    is_impl(line).then(|| path.split('<').next().unwrap_or(path).rsplit("::").next()).flatten()
}

/// All paths of this crate in a line, without type arguments.
fn paths(line: &str) -> impl Iterator<Item = Vec<&str>> {
    line.match_indices(CRATE).filter(|(start, _)| !line[..*start].ends_with(|c: char| c == ':' || is_word(c))).map(
        |(start, _)| {
            let mut names = Vec::new();
            let mut rest = &line[start..];
            loop {
                let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                names.push(&rest[..end]);
                rest = &rest[end..];
                let behind = rest.strip_prefix('<').map_or(rest, |_| &rest[arguments_end(rest)..]);
                match behind.strip_prefix("::") {
                    Some(more) => rest = more,
                    None => return names,
                }
            }
        },
    )
}

/// A path as far as its type: modules have small letters.
fn type_of(path: &[&str]) -> String {
    let modules = path.iter().take_while(|name| !name.starts_with(char::is_uppercase)).count();
    path[..path.len().min(modules + 1)].join("::")
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn is_impl(line: &str) -> bool {
    line.starts_with("impl") && !line.contains("pub ")
}

/// Whether it can belong to the `impl` before it.
fn is_associated(item: &str) -> bool {
    let of_a_type = own_path(item).is_none_or(|path| path.len() > type_of(&path).split("::").count());
    let kind = item.rsplit("] ").next().unwrap_or(item);
    of_a_type && ["pub fn", "pub const", "pub type", "pub unsafe"].iter().any(|start| kind.starts_with(start))
}

/// `impl<conditions> Trait for Type where …`.
struct Impl<'a> {
    /// `impl<…> ` if there are any.
    conditions: String,
    rest: &'a str,
    of_trait: bool,
}

impl<'a> Impl<'a> {
    fn parse(item: &'a str) -> Self {
        let behind = item.strip_prefix("impl").unwrap_or(item);
        let (arguments, rest) = behind.split_at(if behind.starts_with('<') { arguments_end(behind) } else { 0 });
        let conditions = if arguments.is_empty() { String::new() } else { format!("impl{arguments} ") };
        Impl { conditions, rest: rest.trim_start(), of_trait: rest.contains(" for ") }
    }
}

/// Where `<…>` ends. An arrow is no bracket.
fn arguments_end(text: &str) -> usize {
    let mut depth = 0;
    let mut before = ' ';
    for (index, c) in text.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
        before = c;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> List {
        lines(&items.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn conditions_of_an_impl_belong_to_its_methods() {
        let list = list(&[
            "pub struct x86_vcpu::Vcpu<H>",
            "impl<H: a::Hal<T = fn() -> u8>> x86_vcpu::Vcpu<H>",
            "pub fn x86_vcpu::Vcpu<H>::run(&self)",
            "pub fn x86_vcpu::alone()",
        ]);
        assert!(list.contains("impl<H: a::Hal<T = fn() -> u8>> pub fn x86_vcpu::Vcpu<H>::run(&self)"));
        assert!(list.contains("pub fn x86_vcpu::alone()"));
    }

    #[test]
    fn of_a_trait_its_types_are_kept() {
        let list = list(&[
            "impl a::Run for x86_vcpu::Vcpu",
            "pub type x86_vcpu::Vcpu::Config = ()",
            "pub fn x86_vcpu::Vcpu::run(&self)",
            "impl core::convert::From<x86_vcpu::Vcpu> for u8",
            "pub fn u8::from(x86_vcpu::Vcpu) -> u8",
            "impl !core::marker::Send for x86_vcpu::Vcpu",
            "impl core::marker::Freeze for x86_vcpu::Vcpu",
        ]);
        let traits: Vec<_> = list.iter().filter_map(|line| trait_of(line)).collect();
        assert_eq!((list.len(), traits), (3, vec!["Run", "From"]), "{list:?}");
    }

    #[test]
    fn types_without_a_public_path_bring_what_they_offer() {
        let mut public = list(&["pub struct x86_vcpu::Vcpu", "pub x86_vcpu::Vcpu::mode: x86_vcpu::inner::Mode"]);
        let private = list(&[
            "pub enum x86_vcpu::inner::Mode",
            "pub x86_vcpu::inner::Mode::Real(x86_vcpu::inner::Way)",
            "pub struct x86_vcpu::inner::Way",
            "pub struct x86_vcpu::inner::Other",
            "impl core::convert::From<x86_vcpu::inner::Mode> for u8",
        ]);
        assert_eq!(unnamed(&public).into_iter().collect::<Vec<_>>(), ["x86_vcpu::inner::Mode"]);
        add_unnamed(&mut public, &private);
        assert_eq!(public.len(), 6);
        assert!(unnamed(&public).is_empty());
    }
}
