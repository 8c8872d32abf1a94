//! Finds the instructions in assembly: the lines of `asm!` and `naked_asm!`, and the pieces of text that a macro joins for
//! them by `concat!`.

use std::ops::Range;

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::ToTokens;

use super::mutation::{Assembly, Form};

pub struct Instruction {
    /// Where its line is, in bytes, with the comma after it.
    pub range: Range<usize>,
    /// The function or macro that it is in.
    pub function: String,
    pub form: Form,
}

/// Instructions that can be chosen away. `text` is that of the file.
pub fn instructions(syntax: &syn::File, text: &str) -> Vec<Instruction> {
    let mut finder = Finder { text, function: String::new(), found: Vec::new() };
    finder.walk(syntax.to_token_stream());
    finder.found
}

struct Finder<'a> {
    text: &'a str,
    function: String,
    found: Vec<Instruction>,
}

/// A line: an argument of `asm!`, or what `concat!` makes up to a line break.
struct Line {
    range: Range<usize>,
    text: String,
    /// Whether it is one literal.
    is_literal: bool,
}

impl Finder<'_> {
    fn walk(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            let before = |back: usize| index.checked_sub(back).and_then(|at| tokens.get(at));
            match token {
                TokenTree::Ident(name) if before(1).is_some_and(|token| is_word(token, "fn")) => {
                    self.function = name.to_string();
                }
                TokenTree::Ident(name) if before(2).is_some_and(|token| is_word(token, "macro_rules")) => {
                    self.function = name.to_string();
                }
                TokenTree::Group(group) => {
                    let called = before(1).filter(|token| is_punct(token, '!')).and_then(|_| before(2));
                    let is_called = |name: &str| called.is_some_and(|token| is_word(token, name));
                    if is_called("asm") || is_called("naked_asm") {
                        self.arguments(group);
                    } else if is_called("concat") {
                        self.pieces(group);
                    }
                    self.walk(group.stream());
                }
                _ => {}
            }
        }
    }

    /// The lines of an `asm!`: its first arguments that are texts, or macros that make one.
    fn arguments(&mut self, group: &Group) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        if tokens.iter().any(|token| holds_word(token, "preserves_flags")) {
            // To choose at run time needs the flags.
            return;
        }
        let parts = tokens.split(|token| is_punct(token, ','));
        let is_line = |part: &&[TokenTree]| match part {
            [TokenTree::Literal(_)] => true,
            [TokenTree::Ident(_), bang, TokenTree::Group(_)] => is_punct(bang, '!'),
            [dollar, ..] => is_punct(dollar, '$'),
            _ => false,
        };
        let lines: Vec<Line> = parts.take_while(is_line).map(|part| self.line(part)).collect();
        self.lines(&lines, Assembly::Argument);
    }

    /// The lines of a `concat!`, if it has line breaks.
    fn pieces(&mut self, group: &Group) {
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        let mut lines = Vec::new();
        let mut line: Vec<TokenTree> = Vec::new();
        for token in tokens {
            let is_end = literal(&token).is_some_and(|text| text.ends_with("\\n"));
            line.push(token);
            if is_end {
                lines.push(self.line(&line));
                line.clear();
            } else if matches!(line.as_slice(), [token] if is_punct(token, ',')) {
                // After the line before.
                line.clear();
            }
        }
        self.lines(&lines, Assembly::Piece);
    }

    fn line(&self, tokens: &[TokenTree]) -> Line {
        let start = tokens.first().map_or(0, |token| token.span().byte_range().start);
        let end = tokens.last().map_or(start, |token| token.span().byte_range().end);
        let text = match tokens {
            [one] => literal(one).map(|text| text.trim_end_matches("\\n").to_owned()),
            _ => None,
        };
        let is_literal = text.is_some();
        let joined = || tokens.iter().filter_map(literal).collect::<String>().trim_end_matches("\\n").to_owned();
        // With the comma, which follows unless it is the last.
        let comma =
            self.text[end..].find(|c: char| !c.is_whitespace()).filter(|at| self.text[end + at..].starts_with(','));
        let range = start..comma.map_or(end, |at| end + at + 1);
        Line { range, text: text.unwrap_or_else(joined), is_literal }
    }

    fn lines(&mut self, lines: &[Line], assembly: Assembly) {
        for (index, line) in lines.iter().enumerate() {
            // Without a comma nothing can be put after it.
            if !self.text[line.range.clone()].ends_with(',') {
                continue;
            }
            if let Some(form) = form_of(line, &lines[index + 1..], assembly) {
                self.found.push(Instruction { range: line.range.clone(), function: self.function.clone(), form });
            }
        }
    }
}

/// How it can be chosen away, if that means something.
fn form_of(line: &Line, after: &[Line], assembly: Assembly) -> Option<Form> {
    let (name, operand) = line.text.split_once(' ').unwrap_or((&line.text, ""));
    let is_jump = name.starts_with('j') && name != "jmp";
    if is_jump {
        let opposite = opposite_of(&name[1..])?;
        let target = operand.trim().to_owned();
        return line.is_literal.then_some(Form::DoNotJump { opposite, target, assembly });
    }
    let is_control = ["jmp", "ret", "call", "int3"].contains(&name) || name.starts_with('.') || name.contains(':');
    if is_control || reads_flags(name) || !sets_flags(name) && are_flags_used(after) {
        return None;
    }
    Some(match name {
        "pop" => Form::Pop(assembly),
        "push" => Form::Push(assembly),
        // A macro that makes lines, or a part of one that is not text.
        _ => Form::Skip(assembly),
    })
}

/// Whether one of these lines reads the flags that are there before the first of them.
fn are_flags_used(lines: &[Line]) -> bool {
    for line in lines {
        let name = line.text.split(' ').next().unwrap_or_default();
        if reads_flags(name) {
            return true;
        }
        if sets_flags(name) || name == "jmp" || name == "ret" {
            return false;
        }
    }
    false
}

fn reads_flags(name: &str) -> bool {
    name.starts_with('j') && name != "jmp"
        || ["set", "cmov"].iter().any(|begin| name.starts_with(begin))
        || ["adc", "sbb"].contains(&name)
}

fn sets_flags(name: &str) -> bool {
    const NAMES: [&str; 15] = [
        "cmp", "test", "add", "sub", "xor", "and", "or", "shl", "shr", "inc", "dec", "verw", "invept", "invvpid", "bt",
    ];
    NAMES.contains(&name) || name.starts_with("vm")
}

fn opposite_of(condition: &str) -> Option<String> {
    const PAIRS: [(&str, &str); 10] = [
        ("e", "ne"),
        ("z", "nz"),
        ("b", "ae"),
        ("be", "a"),
        ("l", "ge"),
        ("le", "g"),
        ("c", "nc"),
        ("s", "ns"),
        ("o", "no"),
        ("p", "np"),
    ];
    let other = PAIRS.iter().find_map(|(a, b)| match condition {
        _ if condition == *a => Some(*b),
        _ if condition == *b => Some(*a),
        _ => None,
    });
    other.map(str::to_owned)
}

/// The text of a literal, as it is written.
fn literal(token: &TokenTree) -> Option<String> {
    let TokenTree::Literal(literal) = token else { return None };
    let text = literal.to_string();
    Some(text.strip_prefix('"')?.strip_suffix('"')?.to_owned())
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(name) if name == word)
}

fn is_punct(token: &TokenTree, punct: char) -> bool {
    matches!(token, TokenTree::Punct(found) if found.as_char() == punct)
}

fn holds_word(token: &TokenTree, word: &str) -> bool {
    match token {
        TokenTree::Group(group) => group.stream().into_iter().any(|token| holds_word(&token, word)),
        _ => is_word(token, word),
    }
}
