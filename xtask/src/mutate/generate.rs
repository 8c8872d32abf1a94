//! Finds what can be mutated in Rust code: statements with an effect, and conditions.

use std::ops::Range;

use syn::{
    BinOp, Block, Expr, ExprBinary, ExprIf, ReturnType, Signature, Stmt, Type,
    spanned::Spanned,
    visit::{self, Visit},
};

use super::{
    assembly,
    mutation::{Form, Mutation},
};
use crate::source;

/// Traits that only print.
const PRINTING: [&str; 2] = ["Debug", "Display"];
const TEXT_MAX: usize = 100;

/// All mutations of a file, in the order of its text. `file` is its name.
pub fn mutations(file: &str, text: &str, syntax: &syn::File) -> Vec<Mutation> {
    let mut finder = Finder { file, text, function: String::new(), found: Vec::new() };
    finder.visit_file(syntax);
    for instruction in assembly::instructions(syntax, text) {
        let assembly::Instruction { range, function, form } = instruction;
        finder.function = function;
        finder.add(range, form);
    }
    let mut found = finder.found;
    found.sort_by_key(|mutation| (mutation.range.start, mutation.range.end));
    number_names(&mut found);
    found
}

fn number_names(mutations: &mut [Mutation]) {
    let mut counts = std::collections::BTreeMap::new();
    for mutation in mutations {
        let count = counts.entry(mutation.name()).or_insert(0);
        mutation.repeated = *count;
        *count += 1;
    }
}

struct Finder<'a> {
    file: &'a str,
    text: &'a str,
    /// The one that is looked at.
    function: String,
    found: Vec<Mutation>,
}

/// What becomes of the value of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    /// It has none.
    None,
    Bool,
    /// A result without a value.
    Result,
    Other,
}

impl Value {
    fn of(signature: &Signature) -> Self {
        let ReturnType::Type(_, result) = &signature.output else { return Self::None };
        let Type::Path(path) = &**result else { return Self::Other };
        let Some(last) = path.path.segments.last() else { return Self::Other };
        let is_unit = match &last.arguments {
            syn::PathArguments::None => true,
            syn::PathArguments::AngleBracketed(arguments) => arguments.args.first().is_some_and(
                |argument| matches!(argument, syn::GenericArgument::Type(Type::Tuple(tuple)) if tuple.elems.is_empty()),
            ),
            syn::PathArguments::Parenthesized(_) => false,
        };
        match last.ident.to_string().as_str() {
            "bool" => Self::Bool,
            name if name.ends_with("Result") && is_unit => Self::Result,
            _ => Self::Other,
        }
    }
}

impl Finder<'_> {
    fn add(&mut self, range: Range<usize>, form: Form) {
        self.add_about(range.clone(), range, form);
    }

    /// `part`: what it is about, of the code that it changes.
    fn add_about(&mut self, part: Range<usize>, range: Range<usize>, form: Form) {
        let line = self.text[..part.start].matches('\n').count() + 1;
        let mut text = self.text[part].split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((at, _)) = text.char_indices().nth(TEXT_MAX) {
            text.truncate(at);
            text += "...";
        }
        let (file, function) = (self.file.to_owned(), self.function.clone());
        self.found.push(Mutation { file, function, line, range, text, form, repeated: 0, survives: None });
    }

    fn function(&mut self, signature: &Signature, block: &Block) {
        if signature.constness.is_some() {
            return;
        }
        let outer = std::mem::replace(&mut self.function, signature.ident.to_string());
        self.block(block, Value::of(signature));
        self.function = outer;
    }

    fn block(&mut self, block: &Block, value: Value) {
        let Some((last, others)) = block.stmts.split_last() else { return };
        for statement in others {
            self.statement(statement, Value::None);
        }
        self.statement(last, value);
    }

    /// `value`: of the block, if it has no semicolon.
    fn statement(&mut self, statement: &Stmt, value: Value) {
        match statement {
            Stmt::Expr(expression, None) => self.tail(expression, value),
            Stmt::Expr(expression, Some(_)) => {
                if has_effect(expression) {
                    self.add(statement.span().byte_range(), Form::Delete);
                    self.visit_expr(expression);
                } else {
                    self.tail(expression, Value::None);
                }
            }
            Stmt::Macro(_) => {}
            Stmt::Local(_) | Stmt::Item(_) => visit::visit_stmt(self, statement),
        }
    }

    /// An expression whose value is that of the block or arm that it ends.
    fn tail(&mut self, expression: &Expr, value: Value) {
        match expression {
            Expr::If(expression) => self.branches(expression, value),
            Expr::Match(expression) => {
                self.visit_expr(&expression.expr);
                for arm in &expression.arms {
                    self.visit_pat(&arm.pat);
                    self.tail(&arm.body, value);
                }
            }
            Expr::Block(block) => self.block(&block.block, value),
            Expr::Unsafe(block) => self.block(&block.block, value),
            Expr::ForLoop(_) | Expr::While(_) | Expr::Loop(_) => self.visit_expr(expression),
            _ => {
                match value {
                    Value::None if has_effect(expression) => {
                        self.add(expression.span().byte_range(), Form::Delete);
                    }
                    Value::Result if is_call(expression) => {
                        self.add(expression.span().byte_range(), Form::Succeed);
                    }
                    Value::Bool if !matches!(expression, Expr::Lit(_)) => self.constant(expression),
                    _ => {}
                }
                self.visit_expr(expression);
            }
        }
    }

    fn branches(&mut self, expression: &ExprIf, value: Value) {
        self.condition(&expression.cond);
        self.block(&expression.then_branch, value);
        if let Some((_, other)) = &expression.else_branch {
            self.tail(other, value);
        }
    }

    /// The condition as a whole, and what is in it.
    fn condition(&mut self, condition: &Expr) {
        if has_binding(condition) {
            self.add(condition.span().byte_range(), Form::Never);
        } else if !matches!(condition, Expr::Lit(_)) {
            self.constant(condition);
        }
        self.visit_expr(condition);
    }

    /// Where it has operands, one of the two is what it is without an operand.
    fn constant(&mut self, condition: &Expr) {
        let range = condition.span().byte_range();
        if !matches!(condition, Expr::Binary(binary) if matches!(binary.op, BinOp::And(_))) {
            self.add(range.clone(), Form::Always(true));
        }
        if !matches!(condition, Expr::Binary(binary) if matches!(binary.op, BinOp::Or(_))) {
            self.add(range, Form::Always(false));
        }
    }

    /// Each operand of `&&`, `||` and `|` is left out, and each mask that clears bits.
    fn operands(&mut self, binary: &ExprBinary) {
        for (operand, other) in [(&*binary.left, &*binary.right), (&*binary.right, &*binary.left)] {
            if matches!(operand, Expr::Binary(inner) if is_same(&inner.op, &binary.op)) || has_binding(operand) {
                continue;
            }
            let range = operand.span().byte_range();
            let is_mask = matches!(operand, Expr::Unary(unary) if matches!(unary.op, syn::UnOp::Not(_)));
            match binary.op {
                BinOp::And(_) => self.add(range, Form::Always(true)),
                BinOp::Or(_) => self.add(range, Form::Always(false)),
                BinOp::BitOr(_) => self.only(range, binary, other),
                BinOp::BitAnd(_) if is_mask => self.only(range, binary, other),
                _ => {}
            }
        }
    }

    fn only(&mut self, left_out: Range<usize>, binary: &ExprBinary, other: &Expr) {
        let rest = self.text[other.span().byte_range()].to_owned();
        self.add_about(left_out, binary.span().byte_range(), Form::Only(rest));
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
    }

    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !source::is_test(source::attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = item.trait_.as_ref().and_then(|(path, _)| path.segments.last());
        if !name.is_some_and(|name| PRINTING.iter().any(|printing| name.ident == printing)) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}

    fn visit_item_static(&mut self, _: &'ast syn::ItemStatic) {}

    fn visit_impl_item_const(&mut self, _: &'ast syn::ImplItemConst) {}

    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}

    fn visit_type(&mut self, _: &'ast Type) {}

    /// Of a table, each entry is left out: another stands in its place, so that it has its length.
    fn visit_expr_array(&mut self, array: &'ast syn::ExprArray) {
        let entries: Vec<&Expr> = array.elems.iter().collect();
        for (index, entry) in entries.iter().enumerate().filter(|_| entries.len() > 1) {
            let other = entries[if index == 0 { 1 } else { index - 1 }];
            let rest = self.text[other.span().byte_range()].to_owned();
            self.add(entry.span().byte_range(), Form::Only(rest));
        }
        visit::visit_expr_array(self, array);
    }

    fn visit_expr_repeat(&mut self, expression: &'ast syn::ExprRepeat) {
        self.visit_expr(&expression.expr);
    }

    fn visit_block(&mut self, block: &'ast Block) {
        self.block(block, Value::Other);
    }

    fn visit_expr_if(&mut self, expression: &'ast ExprIf) {
        self.branches(expression, Value::Other);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        self.visit_pat(&arm.pat);
        self.tail(&arm.body, Value::Other);
    }

    fn visit_pat_guard(&mut self, pattern: &'ast syn::PatGuard) {
        self.condition(&pattern.guard);
    }

    fn visit_expr_while(&mut self, expression: &'ast syn::ExprWhile) {
        // A loop that goes on for ever shows nothing.
        let range = expression.cond.span().byte_range();
        self.add(range, if has_binding(&expression.cond) { Form::Never } else { Form::Always(false) });
        self.visit_expr(&expression.cond);
        self.block(&expression.body, Value::None);
    }

    fn visit_expr_for_loop(&mut self, expression: &'ast syn::ExprForLoop) {
        self.visit_expr(&expression.expr);
        self.block(&expression.body, Value::None);
    }

    fn visit_expr_loop(&mut self, expression: &'ast syn::ExprLoop) {
        self.block(&expression.body, Value::None);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        if is_assignment(&closure.body) {
            self.add(closure.body.span().byte_range(), Form::Delete);
        }
        self.visit_expr(&closure.body);
    }

    fn visit_expr_binary(&mut self, expression: &'ast ExprBinary) {
        self.operands(expression);
        visit::visit_expr_binary(self, expression);
    }
}

fn is_same(a: &BinOp, b: &BinOp) -> bool {
    matches!((a, b), (BinOp::And(_), BinOp::And(_)) | (BinOp::Or(_), BinOp::Or(_)) | (BinOp::BitOr(_), BinOp::BitOr(_)))
}

fn has_binding(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) if matches!(binary.op, BinOp::And(_)) => {
            has_binding(&binary.left) || has_binding(&binary.right)
        }
        _ => false,
    }
}

fn is_call(expression: &Expr) -> bool {
    // `Ok(())` and errors are values.
    match expression {
        Expr::Call(call) => {
            !matches!(&*call.func, Expr::Path(path) if path.path.is_ident("Ok") || path.path.is_ident("Err"))
        }
        Expr::MethodCall(_) => true,
        _ => false,
    }
}

fn is_assignment(expression: &Expr) -> bool {
    match expression {
        Expr::Assign(_) => true,
        Expr::Binary(binary) => matches!(
            binary.op,
            BinOp::AddAssign(_)
                | BinOp::SubAssign(_)
                | BinOp::MulAssign(_)
                | BinOp::BitAndAssign(_)
                | BinOp::BitOrAssign(_)
                | BinOp::BitXorAssign(_)
                | BinOp::ShlAssign(_)
                | BinOp::ShrAssign(_)
        ),
        _ => false,
    }
}

fn has_effect(expression: &Expr) -> bool {
    match expression {
        Expr::Try(tried) => has_effect(&tried.expr),
        Expr::Unsafe(_) => true,
        _ => is_call(expression) || is_assignment(expression),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `text [kind]` for each mutation in a function with this body.
    fn found(function: &str) -> Vec<String> {
        let syntax = syn::parse_file(function).unwrap();
        let names = mutations("a.rs", function, &syntax).into_iter().map(|mutation| mutation.name());
        names.map(|name| name.splitn(3, ':').nth(2).unwrap_or_default().trim().to_owned()).collect()
    }

    #[test]
    fn a_statement_with_an_effect_is_deleted() {
        let text = "fn f() { let a = g(); a.h(); self.x = 1; y += 1; k()?; unsafe { l() }?; Ok(()) }";
        let last = "unsafe { l() }?; [deleted]";
        assert_eq!(
            found(text),
            ["a.h(); [deleted]", "self.x = 1; [deleted]", "y += 1; [deleted]", "k()?; [deleted]", last]
        );
    }

    #[test]
    fn the_last_call_is_deleted_where_there_is_no_value() {
        assert_eq!(found("fn f() { g() }"), ["g() [deleted]"]);
        assert_eq!(found("fn f() -> u8 { g() }"), [""; 0]);
        assert_eq!(found("fn f() { match a { A => g(), B => {} } }"), ["g() [deleted]"]);
        assert_eq!(found("fn f() -> AxResult { g() }"), ["g() [Ok]"]);
        assert_eq!(found("fn f() -> AxResult<u8> { g() }"), [""; 0]);
        assert_eq!(found("fn f() -> AxResult { Ok(()) }"), [""; 0]);
    }

    #[test]
    fn a_condition_is_true_and_false_and_without_each_operand() {
        assert_eq!(found("fn f() { if a { } }"), ["a [true]", "a [false]"]);
        assert_eq!(found("fn f() { if a && b { } }"), ["a [true]", "a && b [false]", "b [true]"]);
        assert_eq!(found("fn f() -> bool { a || b }"), ["a [false]", "a || b [true]", "b [false]"]);
        assert_eq!(found("fn f() { if let A(b) = c && d { } }"), ["let A(b) = c && d [false]", "d [true]"]);
        assert_eq!(found("fn f() { while a { } }"), ["a [false]"]);
        assert_eq!(found("fn f() -> u8 { match a { b if c => 1, _ => 2 } }"), ["c [true]", "c [false]"]);
    }

    #[test]
    fn of_flags_each_is_left_out_and_each_that_is_cleared() {
        assert_eq!(found("fn f() -> u8 { A | B }"), ["A [left out]", "B [left out]"]);
        assert_eq!(found("fn f() -> u8 { a & !B & C }"), ["!B [left out]"]);
    }

    #[test]
    fn each_entry_of_a_table_is_left_out() {
        assert_eq!(found("fn f() { for x in [A, B] { } let y = [C]; }"), ["A [left out]", "B [left out]"]);
    }

    #[test]
    fn what_runs_at_build_time_or_only_prints_is_left_alone() {
        assert_eq!(found("const fn f() -> bool { a && b }"), [""; 0]);
        assert_eq!(found("const A: u8 = B | C;"), [""; 0]);
        assert_eq!(found("impl fmt::Debug for A { fn fmt(&self) { g(); } }"), [""; 0]);
        assert_eq!(found("#[cfg(test)] mod tests { fn f() { g(); } }"), [""; 0]);
    }

    #[test]
    fn of_the_same_name_each_has_a_number() {
        assert_eq!(found("fn f() { g(); g(); }"), ["g(); [deleted]", "g(); [deleted] #2"]);
    }
}
