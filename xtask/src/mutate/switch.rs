//! All mutations in one host: each stands beside what it replaces, and a number in the image says which is made.
//!
//! So the host is built once, and a mutation costs a boot. Where a part of a statement is another, the whole block stands there
//! twice. What cannot be written so (constants, jumps in assembly) is built for itself.

use std::{collections::BTreeMap, ops::Range};

use anyhow::{Context, Result, ensure};

use super::table::Mutation;

/// Stands behind the number in the image.
const MARK: &[u8; 16] = b"x86_vcpu mutant\0";

/// What is added to the crate: the number, and how its code asks for it. Assembly reads it by its name.
pub const SUPPORT: &str = r#"
#[repr(C)]
struct Mutant(core::sync::atomic::AtomicU32, [u8; 16]);
#[unsafe(no_mangle)]
#[used]
static X86_VCPU_MUTANT: Mutant = Mutant(core::sync::atomic::AtomicU32::new(0), *b"x86_vcpu mutant\0");
#[inline(never)]
fn mutant(number: u32) -> bool {
    X86_VCPU_MUTANT.0.load(core::sync::atomic::Ordering::Relaxed) == number
}
"#;

/// Writes the number into the image.
pub fn select(host: &mut [u8], number: u32) -> Result<()> {
    let mut places = host.windows(MARK.len()).enumerate().filter(|(_, bytes)| bytes == MARK);
    let place = places.next().and_then(|(at, _)| at.checked_sub(4)).context("the host has no number of a mutation")?;
    ensure!(places.next().is_none(), "the host has two numbers of a mutation");
    host[place..place + 4].copy_from_slice(&number.to_le_bytes());
    Ok(())
}

/// Which mutations can be in one host, by number, and the text of a file with all of its.
pub struct Switched {
    pub numbers: Vec<u32>,
    pub texts: BTreeMap<&'static str, String>,
}

/// A place of a file, and what may stand there by number.
struct Place {
    range: Range<usize>,
    form: Form,
    choices: Vec<(u32, String)>,
}

/// How a choice between texts is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Lines of assembly.
    Assembly,
    /// A condition that stands beside others, on a line of its own, and may be left out.
    Condition,
    /// A binding, by its value.
    Binding,
    /// Whole statements, or all that is in a block.
    Statements,
}

/// Puts into `files`, the texts as they are, all of the mutations (with their numbers) that can be.
pub fn switch(files: &BTreeMap<&'static str, String>, mutations: &[(u32, &'static Mutation)]) -> Switched {
    let mut places: BTreeMap<&'static str, Vec<Place>> = BTreeMap::new();
    let mut numbers = Vec::new();
    for (number, mutation) in mutations {
        let Some(text) = files.get(mutation.file) else { continue };
        let Some((range, form, replacement)) = widen(text, mutation) else { continue };
        let places = places.entry(mutation.file).or_default();
        if let Some(place) = places.iter_mut().find(|place| place.range == range && place.form == form) {
            place.choices.push((*number, replacement));
        } else if places.iter().all(|place| are_apart(&place.range, &range) || is_nested(&place.range, &range)) {
            places.push(Place { range, form, choices: vec![(*number, replacement)] });
        } else {
            continue;
        }
        numbers.push(*number);
    }
    let texts = places.into_iter().map(|(file, places)| (file, rewrite(&files[file], places))).collect();
    Switched { numbers, texts }
}

fn are_apart(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.end <= b.start || b.end <= a.start
}

fn is_nested(a: &Range<usize>, b: &Range<usize>) -> bool {
    let holds = |outer: &Range<usize>, inner: &Range<usize>| outer.start <= inner.start && inner.end <= outer.end;
    a != b && (holds(a, b) || holds(b, a))
}

fn rewrite(text: &str, mut places: Vec<Place>) -> String {
    // What holds others comes before them.
    places.sort_by_key(|place| (place.range.start, std::cmp::Reverse(place.range.end)));
    rewrite_range(text, 0..text.len(), &places)
}

/// Where places are nested, a choice of the inner one stands in what the outer one has without a mutation.
fn rewrite_range(text: &str, range: Range<usize>, places: &[Place]) -> String {
    let (mut all, mut at, mut rest) = (String::new(), range.start, places);
    while let Some((place, others)) = rest.split_first() {
        let inside = others.iter().take_while(|other| other.range.start < place.range.end).count();
        let original = rewrite_range(text, place.range.clone(), &others[..inside]);
        all += &text[at..place.range.start];
        all += &choice(&original, place);
        at = place.range.end;
        rest = &others[inside..];
    }
    all + &text[at..range.end]
}

fn choice(original: &str, place: &Place) -> String {
    match place.form {
        Form::Assembly => in_assembly(original, &place.choices),
        Form::Condition => in_condition(original, &place.choices),
        Form::Binding => in_binding(original, &place.choices),
        Form::Statements => in_statements(original, &place.choices),
    }
}

fn is_assembly(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with('"') || text.starts_with("switch_xstate!") || text.starts_with("raise_")
}

/// A condition that stands beside others, on a line of its own.
fn condition_in(text: &str) -> Option<&str> {
    text.trim().strip_prefix("|| ").filter(|condition| !condition.contains('\n') && !condition.ends_with(['{', ';']))
}

/// The instructions between two labels; the flags mean nothing where a mutation is.
fn in_assembly(original: &str, choices: &[(u32, String)]) -> String {
    let end = if original.contains("\\n\"") { "\\n" } else { "" };
    let first = choices[0].0;
    let (mut tests, mut replacements) = (String::new(), String::new());
    for (number, replacement) in choices {
        let label = 30_000 + number;
        tests += &format!("\"cmp dword ptr [rip + X86_VCPU_MUTANT], {number}{end}\", \"je {label}f{end}\",\n");
        replacements += &format!("\"{label}:{end}\", {replacement}\n\"jmp {}f{end}\",\n", 40_000 + first);
    }
    let last = 40_000 + first;
    format!("{tests}{original}\n\"jmp {last}f{end}\",\n{replacements}\"{last}:{end}\",")
}

fn in_condition(original: &str, choices: &[(u32, String)]) -> String {
    let condition = condition_in(original).unwrap_or_default();
    let numbers = choices.iter().map(|(number, _)| format!("!crate::mutant({number}) && "));
    format!("|| {}({condition})\n", numbers.collect::<String>())
}

fn in_binding(original: &str, choices: &[(u32, String)]) -> String {
    let (pattern, value) = original.split_once('=').unwrap_or_default();
    let value_of = |text: &str| {
        let (_, value) = text.split_once('=').unwrap_or_default();
        value.trim().trim_end_matches(';').to_owned()
    };
    let mut all = format!("{}= ", pattern.trim_start());
    for (number, replacement) in choices {
        all += &format!("if crate::mutant({number}) {{ {} }} else ", value_of(replacement));
    }
    format!("{all}{{ {} }};", value.trim().trim_end_matches(';'))
}

fn in_statements(original: &str, choices: &[(u32, String)]) -> String {
    let mut all = String::new();
    for (number, replacement) in choices {
        all += &format!("if crate::mutant({number}) {{\n{replacement}\n}} else ");
    }
    format!("{all}{{\n{original}\n}}\n")
}

/// The whole lines that a mutation is in, without those that it leaves alone, if they can be chosen between at run time;
/// otherwise the block that it is in.
fn widen(text: &str, mutation: &Mutation) -> Option<(Range<usize>, Form, String)> {
    let found = text.find(mutation.find)?;
    let start = text[..found].rfind('\n').map_or(0, |at| at + 1);
    let found_end = found + mutation.find.len();
    let end = if text[..found_end].ends_with('\n') { found_end } else { found_end + text[found_end..].find('\n')? + 1 };
    let original = &text[start..end];
    let replaced = original.replacen(mutation.find, mutation.replace, 1);
    let (old, new): (Vec<&str>, Vec<&str>) =
        (original.split_inclusive('\n').collect(), replaced.split_inclusive('\n').collect());
    let before = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let shorter = old.len().min(new.len()) - before;
    let after = old.iter().rev().zip(new.iter().rev()).take(shorter).take_while(|(a, b)| a == b).count();
    let start = start + old[..before].iter().map(|line| line.len()).sum::<usize>();
    let (old, new) = (old[before..old.len() - after].concat(), new[before..new.len() - after].concat());
    let range = start..start + old.len();
    match form_of(&old, &new) {
        Some(form) => Some((range, form, new)),
        None if is_assembly(&old) => None,
        None => {
            let block = block_around(text, &range)?;
            let new = [&text[block.start..range.start], &new, &text[range.end..block.end]].concat();
            Some((block, Form::Statements, new))
        }
    }
}

fn form_of(old: &str, new: &str) -> Option<Form> {
    let goes = new.trim().is_empty();
    if goes && condition_in(old).is_some() {
        return Some(Form::Condition);
    }
    if is_assembly(old) {
        return can_be_chosen(old).then_some(Form::Assembly);
    }
    if !can_be_chosen(old) || !goes && !can_be_chosen(new) {
        return None;
    }
    let binds = |text: &str| text.trim_start().starts_with("let ");
    if binds(old) && !goes && binds(new) { Some(Form::Binding) } else { (!binds(old)).then_some(Form::Statements) }
}

/// The lines in the innermost braces around `range` that hold statements, of a function that is not `const`.
fn block_around(text: &str, range: &Range<usize>) -> Option<Range<usize>> {
    let mut depth = 0;
    for at in (0..range.start).rev() {
        match text.as_bytes()[at] {
            b'}' => depth += 1,
            b'{' if depth > 0 => depth -= 1,
            b'{' => {
                let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
                let opener = text[line..at].trim();
                if opener.contains("impl ") || opener.contains("macro_rules!") || opener.contains("const fn") {
                    return None;
                }
                let end = end_of_block(text, at)?;
                if text[at..].starts_with("{\n") && opens_statements(opener) && end >= range.end {
                    return Some(at + 2..end);
                }
            }
            _ => {}
        }
    }
    None
}

fn opens_statements(opener: &str) -> bool {
    let begins =
        ["if ", "for ", "while ", "loop", "unsafe", "else", "} else"].iter().any(|word| opener.starts_with(word));
    opener.contains("fn ") || opener.contains("-> ") || opener.ends_with("=>") || opener == ")" || begins
}

/// Where the line of the brace begins that closes the one at `open`.
fn end_of_block(text: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text[..at].rfind('\n').map(|line| line + 1);
        }
    }
    None
}

/// Whole statements, or lines of assembly.
fn can_be_chosen(text: &str) -> bool {
    let trimmed = text.trim();
    if is_assembly(text) {
        // A jump would go by the flags of the test for the number.
        return trimmed.ends_with(',') && !trimmed.starts_with("\"j");
    }
    let lines = || trimmed.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut depth = 0i32;
    for byte in lines().flat_map(str::bytes) {
        depth += match byte {
            b'{' | b'(' | b'[' => 1,
            b'}' | b')' | b']' => -1,
            _ => 0,
        };
        if depth < 0 {
            return false;
        }
    }
    let is_item = ["const ", "fn ", "pub", "static ", "else", "."].iter().any(|word| trimmed.starts_with(word));
    let binds = trimmed.starts_with("let ") && trimmed.matches(';').count() > 1;
    depth == 0 && !is_item && !binds && trimmed.ends_with([';', '}'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELETE: Mutation =
        Mutation { name: "one", file: "a.rs", find: "b();", replace: "", run: &[], expect: None, survives: None };

    fn switched(text: &str, mutations: &'static [Mutation]) -> (Vec<u32>, Option<String>) {
        let files = BTreeMap::from([("a.rs", text.to_owned())]);
        let numbered: Vec<(u32, &'static Mutation)> = (1..).zip(mutations).collect();
        let mut switched = switch(&files, &numbered);
        (switched.numbers, switched.texts.remove("a.rs"))
    }

    fn words(text: &str) -> Vec<&str> {
        text.split_whitespace().collect()
    }

    #[test]
    fn a_statement_stands_beside_what_replaces_it() {
        const TWO: &[Mutation] = &[DELETE, Mutation { find: "b(", replace: "c(", ..DELETE }];
        let (numbers, text) = switched("a();\nb();\nd();\n", TWO);
        assert_eq!(numbers, [1, 2]);
        let expected = "a(); if crate::mutant(1) { } else if crate::mutant(2) { c(); } else { b(); } d();";
        assert_eq!(words(&text.unwrap()), words(expected));
    }

    #[test]
    fn a_binding_is_chosen_by_its_value() {
        const ONE: &[Mutation] = &[Mutation { find: "1 + 1", replace: "3", ..DELETE }];
        let (_, text) = switched("let two = 1 + 1;\n", ONE);
        assert_eq!(words(&text.unwrap()), words("let two = if crate::mutant(1) { 3 } else { 1 + 1 };"));
    }

    #[test]
    fn a_condition_is_left_out() {
        const ONE: &[Mutation] = &[Mutation { find: "\n    || b()", ..DELETE }];
        let (_, text) = switched("a()\n    || b()\n    || c()\n", ONE);
        assert_eq!(words(&text.unwrap()), words("a() || !crate::mutant(1) && (b()) || c()"));
    }

    /// The jump in front depends on flags that the test of the number would overwrite.
    #[test]
    fn assembly_is_jumped_over_behind_what_stays() {
        const ONE: &[Mutation] = &[Mutation { find: "\"je 2f\",\n\"mov cr2, rcx\",", replace: "\"je 2f\",", ..DELETE }];
        let (_, text) = switched("\"je 2f\",\n\"mov cr2, rcx\",\n\"2:\",\n", ONE);
        let text = text.unwrap();
        assert!(text.starts_with("\"je 2f\",\n\"cmp dword ptr [rip + X86_VCPU_MUTANT], 1\", \"je 30001f\","), "{text}");
        assert!(text.ends_with("\"2:\",\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_chosen_is_left_alone() {
        const PARTS: &[Mutation] = &[
            Mutation { find: "if a {", replace: "if true {", ..DELETE },
            Mutation { find: "const C: u8 = 1", replace: "const C: u8 = 2", ..DELETE },
            Mutation { find: ".map(f)", replace: "", ..DELETE },
        ];
        let (numbers, text) = switched("if a {\n}\nconst C: u8 = 1;\nx\n    .map(f)\n    .unwrap();\n", PARTS);
        assert_eq!((numbers, text), (vec![], None));
    }

    #[test]
    fn the_number_is_written_once() {
        let mut image = [&[0; 8][..], MARK, &[1]].concat();
        select(&mut image, 0x0102_0304).unwrap();
        assert_eq!(image[4..8], [4, 3, 2, 1]);
        assert!(select(&mut [0; 64], 1).is_err());
        assert!(select(&mut [&[0; 4][..], MARK, MARK].concat(), 1).is_err());
    }

    #[test]
    fn a_part_of_a_statement_is_chosen_with_its_block() {
        const ONE: &[Mutation] = &[Mutation { find: "a + 1", replace: "a", ..DELETE }];
        let (_, text) = switched("fn f() -> u8 {\n    let a = 1;\n    a + 1\n}\n", ONE);
        let expected = "fn f() -> u8 { if crate::mutant(1) { let a = 1; a } else { let a = 1; a + 1 } }";
        assert_eq!(words(&text.unwrap()), words(expected));
    }

    #[test]
    fn a_choice_may_stand_in_another() {
        const TWO: &[Mutation] = &[DELETE, Mutation { find: "a + 1", replace: "a", ..DELETE }];
        let (numbers, text) = switched("fn f() -> u8 {\n    b();\n    a + 1\n}\n", TWO);
        assert_eq!(numbers, [1, 2]);
        let expected = "fn f() -> u8 { if crate::mutant(2) { b(); a } \
                        else { if crate::mutant(1) { } else { b(); } a + 1 } }";
        assert_eq!(words(&text.unwrap()), words(expected));
    }
}
