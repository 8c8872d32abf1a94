//! Why a mutation survives: a comment above the code, `// mutant survives: REASON`, or with a kind of mutation
//! (`deleted`, `true`, `false`, `Ok`): `// mutant survives (true): REASON`. It speaks of all mutations that begin on the
//! next line of code, or of those of the kind; some of them may be caught, but not all.

use super::mutation::Mutation;

const BEGIN: &str = "// mutant survives";

/// A comment about a survivor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// The line on which it stands.
    pub line: usize,
    /// The line of the code that it speaks of.
    code: usize,
    kind: Option<String>,
    reason: String,
}

impl Comment {
    pub fn is_about(&self, mutation: &Mutation) -> bool {
        mutation.line == self.code && self.kind.as_ref().is_none_or(|kind| kind == mutation.kind())
    }
}

/// Those of a file.
pub fn comments(text: &str) -> Vec<Comment> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut all = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix(BEGIN) else { continue };
        let Some((kind, reason)) = rest.split_once(':') else { continue };
        let kind = kind.trim().strip_prefix('(').and_then(|kind| kind.strip_suffix(')')).map(str::to_owned);
        let between = lines[index + 1..].iter().take_while(|line| line.starts_with("//")).count();
        let is_more = |line: &&&str| !line.starts_with(BEGIN) && !line.starts_with("// SAFETY:");
        let more = lines[index + 1..index + 1 + between].iter().take_while(is_more);
        let more = more.filter_map(|line| line.strip_prefix("//"));
        let reason = std::iter::once(reason).chain(more).map(str::trim).collect::<Vec<_>>().join(" ");
        // Lines are counted from one.
        all.push(Comment { line: index + 1, code: index + between + 2, kind, reason });
    }
    all
}

/// Gives the mutations of a file their reasons. The lines of the comments that stand at none.
pub fn explain(mutations: &mut [Mutation], comments: &[Comment]) -> Vec<usize> {
    let mut idle = Vec::new();
    for comment in comments {
        let mut about = mutations.iter_mut().filter(|mutation| comment.is_about(mutation)).peekable();
        if about.peek().is_none() || comment.reason.is_empty() {
            idle.push(comment.line);
        }
        about.for_each(|mutation| mutation.survives = Some(comment.reason.clone()));
    }
    idle
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::generate;

    /// The reasons of the mutations in a function with this body, and the lines of comments at none.
    fn explained(body: &str) -> (Vec<Option<String>>, Vec<usize>) {
        let text = format!("fn f() {{\n{body}\n}}\n");
        let mut mutations = generate::mutations("a.rs", &text, &syn::parse_file(&text).unwrap());
        let idle = explain(&mut mutations, &comments(&text));
        (mutations.into_iter().map(|mutation| mutation.survives).collect(), idle)
    }

    #[test]
    fn a_comment_speaks_of_the_next_line_of_code() {
        let why = Some("nothing, and nobody".to_owned());
        let body = "a();\n// mutant survives: nothing,\n// and nobody\nb();\nc();";
        assert_eq!(explained(body), (vec![None, why, None], vec![]));
    }

    #[test]
    fn a_comment_may_be_about_one_kind() {
        let body = "// mutant survives (true): slower\nif a { }";
        assert_eq!(explained(body), (vec![Some("slower".to_owned()), None], vec![]));
    }

    #[test]
    fn a_comment_at_no_mutation_or_without_a_reason_is_named() {
        for body in
            ["// mutant survives: x\nlet a = 1;", "// mutant survives:\na();", "// mutant survives (true): x\na();"]
        {
            assert_eq!(explained(body).1, [2], "{body}");
        }
    }
}
