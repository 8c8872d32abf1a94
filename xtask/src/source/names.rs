//! Which file uses what of which other file.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream};
use quote::ToTokens;
use syn::{Item, ItemUse, UseTree};

use super::{Module, Tree};

/// One module uses a name that another one defines. The modules are indices of the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    pub from: usize,
    pub to: usize,
    pub name: String,
}

/// All uses between different modules of a crate.
///
/// A name that a module only passes on belongs to the module that defines it. A call of a method is no use: only the
/// type is named.
pub fn uses(tree: &Tree) -> BTreeSet<Use> {
    let scopes = Scopes::of(tree);
    let mut all = BTreeSet::new();
    for (from, module) in tree.0.iter().enumerate() {
        for path in module.items.iter().flat_map(|item| paths_in(item.to_token_stream())) {
            if let Some(found) = scopes.resolve(from, &path) {
                let to = found.module();
                if to != from {
                    all.insert(Use { from, to, name: path.join("::") });
                }
            }
        }
    }
    all
}

/// What a path leads to.
#[derive(Clone, Copy)]
enum Found {
    Module(usize),
    /// Something in this module.
    Item(usize),
}

impl Found {
    fn module(self) -> usize {
        match self {
            Self::Module(module) | Self::Item(module) => module,
        }
    }
}

/// What the names in each module mean.
struct Scopes<'a> {
    tree: &'a Tree,
    children: Vec<BTreeMap<&'a str, usize>>,
    items: Vec<BTreeSet<String>>,
    imports: Vec<BTreeMap<String, Vec<String>>>,
    globs: Vec<Vec<Vec<String>>>,
}

impl<'a> Scopes<'a> {
    fn of(tree: &'a Tree) -> Self {
        let mut children = vec![BTreeMap::new(); tree.0.len()];
        for (index, module) in tree.0.iter().enumerate() {
            if let (Some(parent), Some(name)) = (module.parent, module.path.last()) {
                children[parent].insert(name.as_str(), index);
            }
        }
        let items = tree.0.iter().map(|module| module.items.iter().filter_map(name_of).collect()).collect();
        let (imports, globs) = tree.0.iter().map(imports_of).unzip();
        Self { tree, children, items, imports, globs }
    }

    /// `None` for what is not of this crate.
    fn resolve(&self, module: usize, path: &[String]) -> Option<Found> {
        self.resolve_guarded(module, path, &mut BTreeSet::new())
    }

    /// `seen` ends the search where imports lead to each other.
    fn resolve_guarded(&self, module: usize, path: &[String], seen: &mut BTreeSet<(usize, String)>) -> Option<Found> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Found::Module(0),
            "self" => Found::Module(module),
            "super" => Found::Module(self.tree.0[module].parent?),
            name => self.lookup(module, name, seen)?,
        };
        while let (Found::Module(module), Some((name, others))) = (at, rest.split_first()) {
            at = match name.as_str() {
                "super" => Found::Module(self.tree.0[module].parent?),
                // What is not seen here is made by a macro of that module.
                name => self.lookup(module, name, seen).unwrap_or(Found::Item(module)),
            };
            rest = others;
        }
        Some(at)
    }

    fn lookup(&self, module: usize, name: &str, seen: &mut BTreeSet<(usize, String)>) -> Option<Found> {
        if let Some(child) = self.children[module].get(name) {
            return Some(Found::Module(*child));
        }
        if self.items[module].contains(name) {
            return Some(Found::Item(module));
        }
        if !seen.insert((module, name.to_owned())) {
            return None;
        }
        if let Some(path) = self.imports[module].get(name) {
            return self.resolve_guarded(module, path, seen);
        }
        self.globs[module].iter().find_map(|path| match self.resolve_guarded(module, path, seen)? {
            Found::Module(other) => self.lookup(other, name, seen),
            Found::Item(_) => None,
        })
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}

/// The names that a module imports with what they stand for, and the modules of which it imports all.
fn imports_of(module: &Module) -> (BTreeMap<String, Vec<String>>, Vec<Vec<String>>) {
    let (mut names, mut globs) = (BTreeMap::new(), Vec::new());
    for item in &module.items {
        let Item::Use(item) = item else { continue };
        for import in imports(&item.tree) {
            match import.name {
                // `use x;` of something that is in scope anyway says nothing new.
                Some(name) if import.path.len() > 1 || import.path[0] != name => {
                    names.insert(name, import.path);
                }
                Some(_) => {}
                None => globs.push(import.path),
            }
        }
    }
    (names, globs)
}

struct Import {
    path: Vec<String>,
    /// `None` for all that is in it.
    name: Option<String>,
}

fn imports(tree: &UseTree) -> Vec<Import> {
    let mut all = Vec::new();
    add_imports(tree, &[], &mut all);
    all
}

fn add_imports(tree: &UseTree, before: &[String], all: &mut Vec<Import>) {
    let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
    match tree {
        UseTree::Path(path) => add_imports(&path.tree, &with(&path.ident), all),
        UseTree::Name(name) if name.ident == "self" => {
            all.push(Import { path: before.to_vec(), name: before.last().cloned() });
        }
        UseTree::Name(name) => all.push(Import { path: with(&name.ident), name: Some(name.ident.to_string()) }),
        UseTree::Rename(rename) => {
            all.push(Import { path: with(&rename.ident), name: Some(rename.rename.to_string()) });
        }
        UseTree::Glob(_) => all.push(Import { path: before.to_vec(), name: None }),
        UseTree::Group(group) => group.items.iter().for_each(|tree| add_imports(tree, before, all)),
    }
}

/// The paths of at least two names in code and in macros, and what imports name; not those of attributes.
fn paths_in(tokens: TokenStream) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    collect_paths(tokens, &mut all);
    all
}

fn collect_paths(tokens: TokenStream, all: &mut Vec<Vec<String>>) {
    let mut tokens = tokens.into_iter().peekable();
    // A name after one of these belongs to something that was not named by a path.
    let mut is_continued = false;
    while let Some(token) = tokens.next() {
        let continues = matches!(&token, TokenTree::Punct(punct) if matches!(punct.as_char(), ':' | '.'));
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                // An attribute, of an item or of the whole that it stands in.
                tokens.next_if(|next| matches!(next, TokenTree::Punct(punct) if punct.as_char() == '!'));
                tokens.next_if(|next| is_group(next, Delimiter::Bracket));
            }
            TokenTree::Ident(name) if name == "pub" => {
                tokens.next_if(|next| is_group(next, Delimiter::Parenthesis));
            }
            TokenTree::Ident(name) if name == "use" => {
                let tree: TokenStream =
                    [TokenTree::Ident(name)].into_iter().chain(until_semicolon(&mut tokens)).collect();
                if let Ok(item) = syn::parse2::<ItemUse>(tree) {
                    all.extend(imports(&item.tree).into_iter().map(|import| import.path));
                }
            }
            TokenTree::Ident(name) => {
                let mut path = vec![name.to_string()];
                while let Some(next) = next_name(&mut tokens) {
                    path.push(next);
                }
                if !is_continued && path.len() > 1 {
                    all.push(path);
                }
            }
            TokenTree::Group(group) => collect_paths(group.stream(), all),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
        is_continued = continues;
    }
}

type Tokens = Peekable<token_stream::IntoIter>;

fn is_group(token: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(token, TokenTree::Group(group) if group.delimiter() == delimiter)
}

/// Up to the end of the statement, and with it.
fn until_semicolon(tokens: &mut Tokens) -> Vec<TokenTree> {
    let mut all = Vec::new();
    for token in tokens.by_ref() {
        let is_end = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ';');
        all.push(token);
        if is_end {
            break;
        }
    }
    all
}

/// The name after `::`. What comes after `::` and is no name, such as generic arguments, ends the path.
fn next_name(tokens: &mut Tokens) -> Option<String> {
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    let mut ahead = tokens.clone();
    if !ahead.next().is_some_and(|token| is_colon(&token)) || !ahead.next().is_some_and(|token| is_colon(&token)) {
        return None;
    }
    let Some(TokenTree::Ident(name)) = ahead.next() else { return None };
    *tokens = ahead;
    Some(name.to_string())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path: PathBuf = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Tree::read(folder.path(), "lib.rs").unwrap()
    }

    /// "from -> to" for each use, without those that come from the root.
    fn arrows(files: &[(&str, &str)]) -> Vec<String> {
        let tree = tree(files);
        let name = |module: usize| tree.0[module].path.join("::");
        let mut all: Vec<String> = uses(&tree)
            .iter()
            .filter(|found| found.from != 0)
            .map(|found| format!("{} -> {}", name(found.from), name(found.to)))
            .collect();
        all.dedup();
        all
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod a; mod b;");

    #[test]
    fn an_import_a_path_and_a_macro_s_argument_are_uses() {
        for text in [
            "use crate::b::B;",
            "use super::{b::{B}};",
            "fn f() { crate::b::f() }",
            "fn f() { use super::b::B; }",
            "fn f(x: &[super::b::B]) {}",
            "const X: usize = offset_of!(super::b::B, field);",
            "macro_rules! m { () => { $crate::b::f() } }",
            "use crate::b; fn f() { b::f() }",
        ] {
            assert_eq!(arrows(&[ROOT, ("a.rs", text), ("b.rs", "pub struct B;")]), ["a -> b"], "{text}");
        }
    }

    #[test]
    fn tests_attributes_visibilities_and_other_crates_are_no_uses() {
        for text in [
            "#[cfg(test)] mod tests { use crate::b::B; }",
            "#[cfg(test)] use crate::b::B;",
            "struct S; impl S { #[cfg(test)] fn f() { crate::b::f() } }",
            "#[doc = crate::b::X] struct S;",
            "pub(in crate::b) struct S;",
            "use core::b::B;",
            "fn f(x: X) { x.b::<u8>(); y::b::f() }",
        ] {
            assert_eq!(arrows(&[ROOT, ("a.rs", text), ("b.rs", "")]), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_name_belongs_to_the_module_that_defines_it_and_not_to_one_that_passes_it_on() {
        let c = ("b/c.rs", "pub struct C;");
        for b in ["mod c; pub use c::C;", "mod c; pub use self::c::*;", "mod c; pub use c::C as C;"] {
            assert_eq!(arrows(&[ROOT, ("a.rs", "use crate::b::C;"), ("b/mod.rs", b), c])[0], "a -> b::c", "{b}");
        }
    }

    #[test]
    fn imports_that_lead_to_each_other_end() {
        let a = ("a.rs", "pub use crate::b::*; pub use crate::b::X;");
        let b = ("b.rs", "pub use crate::a::*; pub use crate::a::X;");
        assert_eq!(arrows(&[ROOT, a, b]), ["a -> b", "b -> a"]);
    }
}
