//! One mutation: where it is, what it changes, and how it is written beside the code that it changes.

use std::ops::Range;

/// How a piece of code can be chosen away when it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A statement, or the last call of a block without a value, is not executed.
    Delete,
    /// A condition, or an operand of one, is always so.
    Always(bool),
    /// A condition that binds names never holds.
    Never,
    /// An operand of `|` or `&`, or an entry of a table, is left out. The field is what stands in its place.
    Only(String),
    /// The last call of a function is not made, and its result is `Ok(())`.
    Succeed,
    /// Lines of assembly are not executed.
    Skip(Assembly),
    /// A register or memory is not taken from the stack, or not put there; the stack pointer moves as before.
    Pop(Assembly),
    Push(Assembly),
    /// A conditional jump is not made. The fields are the condition that is opposite and where the jump leads.
    DoNotJump {
        opposite: String,
        target: String,
        assembly: Assembly,
    },
}

/// How lines of assembly end, where they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assembly {
    /// Each is an argument of `asm!` or `naked_asm!`.
    Argument,
    /// Each is a piece of a text that `concat!` makes, and has a line break.
    Piece,
}

impl Assembly {
    /// One line.
    fn line(self, text: &str) -> String {
        match self {
            Self::Argument => format!("\"{text}\", "),
            Self::Piece => format!("\"{text}\\n\", "),
        }
    }
}

/// One way to break the crate.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Below the top of the repository.
    pub file: String,
    pub function: String,
    /// The line on which the code begins that it changes.
    pub line: usize,
    /// Where that is, in bytes.
    pub range: Range<usize>,
    /// That code, on one line.
    pub text: String,
    pub form: Form,
    /// What tells it from others of the same name.
    pub repeated: usize,
    /// Why no case notices it, as a comment in the source says.
    pub survives: Option<String>,
}

impl Mutation {
    /// `file:function: text [what is done with it]`.
    pub fn name(&self) -> String {
        let Self { file, function, text, .. } = self;
        let repeated = if self.repeated == 0 { String::new() } else { format!(" #{}", self.repeated + 1) };
        format!("{file}:{function}: {text} [{}]{repeated}", self.kind())
    }

    /// What is done with the code, in a word, as a comment about a survivor may say it.
    pub fn kind(&self) -> &'static str {
        match self.form {
            Form::Delete | Form::Skip(_) | Form::Pop(_) | Form::Push(_) | Form::DoNotJump { .. } => "deleted",
            Form::Always(true) => "true",
            Form::Always(false) | Form::Never => "false",
            Form::Only(_) => "left out",
            Form::Succeed => "Ok",
        }
    }

    /// What is written before and after the code, and in its place, so that the mutation of this number can be chosen.
    pub fn choice(&self, number: u32) -> Choice {
        let (label, end) = (30_000 + number, 60_000 + number);
        let test = |assembly: Assembly| {
            let compare = assembly.line(&format!("cmp dword ptr [rip + X86_VCPU_MUTANT], {number}"));
            compare + &assembly.line(&format!("je {label}f"))
        };
        let around = |before: String, after: String| Choice { before, after, replaced: None };
        match &self.form {
            Form::Delete => around(format!("if !crate::mutant({number}) {{ "), " }".to_owned()),
            Form::Always(true) => around(format!("(crate::mutant({number}) || ("), "))".to_owned()),
            Form::Always(false) => around(format!("(!crate::mutant({number}) && ("), "))".to_owned()),
            Form::Never => around(String::new(), format!(" && !crate::mutant({number})")),
            Form::Only(rest) => around(format!("(if crate::mutant({number}) {{ {rest} }} else {{ "), " })".to_owned()),
            Form::Succeed => around(format!("if crate::mutant({number}) {{ Ok(()) }} else {{ "), " }".to_owned()),
            Form::Skip(assembly) => around(test(*assembly), assembly.line(&format!("{label}:"))),
            Form::Pop(assembly) | Form::Push(assembly) => {
                let step = if matches!(self.form, Form::Pop(_)) { "+" } else { "-" };
                let instead = format!("lea rsp, [rsp {step} 8]");
                let lines = [format!("jmp {end}f"), format!("{label}:"), instead, format!("{end}:")];
                around(test(*assembly), lines.iter().map(|line| assembly.line(line)).collect())
            }
            Form::DoNotJump { opposite, target, assembly } => {
                // Not to jump leaves the flags as they were; a jump is made without looking at them again.
                let first = assembly.line(&format!("j{opposite} {label}f"));
                let jump = [format!("jmp {target}"), format!("{label}:")];
                let jump: String = jump.iter().map(|line| assembly.line(line)).collect();
                Choice { before: String::new(), after: String::new(), replaced: Some(first + &test(*assembly) + &jump) }
            }
        }
    }
}

pub struct Choice {
    pub before: String,
    pub after: String,
    pub replaced: Option<String>,
}
