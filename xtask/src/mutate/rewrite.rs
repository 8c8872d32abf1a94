//! All mutations in one crate: each stands beside what it changes, and a number in the image says which is made. So the
//! host is built once, and a mutation costs a boot.

use std::{cmp::Reverse, ops::Range};

use anyhow::{Context, Result, ensure};

use super::mutation::Mutation;

/// Stands after the number in the image.
const MARK: &[u8; 16] = b"x86_vcpu mutant\0";

/// In place of a number: none is made, and the code says which it reaches.
pub const RECORD: u32 = u32::MAX;

/// Begins a line about a number that was reached; 0 is a new virtual CPU, from where all are told anew.
pub const REACHED: char = '~';

/// What is added to the crate: the number, and how its code asks for it. Assembly reads it by its name.
pub fn support(count: usize) -> String {
    SUPPORT.replace("COUNT", &(count + 1).to_string())
}

const SUPPORT: &str = r#"
#[repr(C)]
struct Mutant(core::sync::atomic::AtomicU32, [u8; 16]);
#[unsafe(no_mangle)]
#[used]
static X86_VCPU_MUTANT: Mutant = Mutant(core::sync::atomic::AtomicU32::new(0), *b"x86_vcpu mutant\0");
#[inline(never)]
fn mutant(number: u32) -> bool {
    let chosen = X86_VCPU_MUTANT.0.load(core::sync::atomic::Ordering::Relaxed);
    if chosen == u32::MAX {
        mutant_reached(number);
    }
    chosen == number
}
static MUTANTS_REACHED: [core::sync::atomic::AtomicBool; COUNT] =
    [const { core::sync::atomic::AtomicBool::new(false) }; COUNT];
/// Number 0 is a new virtual CPU.
#[cold]
fn mutant_reached(number: u32) {
    use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
    static PRINTS: AtomicBool = AtomicBool::new(false);
    if number == 0 {
        MUTANTS_REACHED.iter().for_each(|reached| reached.store(false, SeqCst));
    } else if MUTANTS_REACHED[number as usize].swap(true, SeqCst) {
        return;
    }
    while PRINTS.swap(true, SeqCst) {}
    let mut divisor = 1_000_000;
    let print = |byte: u8| unsafe { core::arch::asm!("out 0xE9, al", in("al") byte, options(nostack, preserves_flags)) };
    print(b'~');
    while divisor > 0 {
        if number >= divisor || divisor == 1 {
            print(b'0' + (number / divisor % 10) as u8);
        }
        divisor /= 10;
    }
    print(b'\n');
    PRINTS.store(false, SeqCst);
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

/// A text to be put at a place of the file, or in place of a range.
struct Piece {
    range: Range<usize>,
    text: String,
    /// At one place: ends come before beginnings; of two ends that of the inner one first, of two beginnings that of the
    /// outer.
    order: (u8, Reverse<usize>, usize),
}

/// The text of a file with all of its mutations, which have these numbers. `resets` are the places where a new virtual CPU
/// begins.
pub fn rewrite(text: &str, mutations: &[(u32, &Mutation)], resets: &[usize]) -> String {
    let mut pieces = Vec::new();
    for place in resets {
        let text = "crate::mutant(0);".to_owned();
        pieces.push(Piece { range: *place..*place, text, order: (1, Reverse(usize::MAX), 0) });
    }
    let count = mutations.len();
    for (index, (number, mutation)) in mutations.iter().enumerate() {
        let Range { start, end } = mutation.range.clone();
        let choice = mutation.choice(*number);
        if let Some(text) = choice.replaced {
            pieces.push(Piece { range: start..end, text, order: (2, Reverse(0), 0) });
            continue;
        }
        pieces.push(Piece { range: start..start, text: choice.before, order: (1, Reverse(end), index) });
        pieces.push(Piece { range: end..end, text: choice.after, order: (0, Reverse(start), count - index) });
    }
    pieces.sort_by_key(|piece| (piece.range.start, piece.order));
    let (mut all, mut at) = (String::new(), 0);
    for Piece { range, text: piece, .. } in pieces {
        all += &text[at..range.start];
        all += &piece;
        at = range.end;
    }
    all + &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::generate::mutations;

    /// The text with all of its mutations.
    fn all(text: &str) -> String {
        let found = mutations("a.rs", text, &syn::parse_file(text).unwrap());
        let numbered: Vec<(u32, &Mutation)> = (1..).zip(&found).collect();
        rewrite(text, &numbered, &[])
    }

    #[test]
    fn mutations_may_stand_in_each_other() {
        assert_eq!(
            all("fn f() { if a && b { c(); } }"),
            "fn f() { if (!crate::mutant(2) && ((crate::mutant(1) || (a)) && (crate::mutant(3) || (b)))) \
             { if !crate::mutant(4) { c(); } } }"
        );
        assert_eq!(
            all("fn f() -> u8 { A | B }"),
            "fn f() -> u8 { (if crate::mutant(1) { B } else { (if crate::mutant(2) { A } else { A | B }) }) }"
        );
        // What is written has the syntax of Rust.
        for text in ["fn f() { if let A(b) = c && d { } }", "fn f() { match a { b if c => g(), _ => x = 1 } }"] {
            syn::parse_file(&all(text)).unwrap();
        }
    }

    /// Where flags are read later, an instruction before that keeps them cannot be chosen away: the choice changes them.
    #[test]
    fn instructions_are_jumped_over() {
        let text =
            all(r#"fn f() { naked_asm!("mov a, b", "cmp a, b", "mov c, d", "jne 4f", "pop rbx", "4:", "ret") }"#);
        let choice =
            |number: u32| format!(r#""cmp dword ptr [rip + X86_VCPU_MUTANT], {number}", "je {}f", "#, 30_000 + number);
        assert!(text.contains(&format!(r#"{}"mov a, b","30001:", "#, choice(1))), "{text}");
        assert!(
            text.contains(&format!(
                r#"{}"cmp a, b","30002:",  "mov c, d", "je 30003f", {}"jmp 4f", "30003:", "#,
                choice(2),
                choice(3)
            )),
            "{text}"
        );
        assert!(
            text.contains(&format!(
                r#"{}"pop rbx","jmp 60004f", "30004:", "lea rsp, [rsp + 8]", "60004:", "#,
                choice(4)
            )),
            "{text}"
        );
    }

    #[test]
    fn the_pieces_of_a_text_keep_their_line_breaks() {
        let text = all(r#"macro_rules! m { () => { concat!("mov a, [{", $x, "}]\n", "wrmsr\n", "ret\n", "end") } }"#);
        assert!(text.contains(r#""je 30001f\n", "mov a, [{", $x, "}]\n","30001:\n","#), "{text}");
        assert!(text.contains(r#""je 30002f\n", "wrmsr\n","30002:\n","#), "{text}");
    }

    #[test]
    fn the_number_is_written_once() {
        let mut image = [&[0; 8][..], MARK, &[1]].concat();
        select(&mut image, 0x0102_0304).unwrap();
        assert_eq!(image[4..8], [4, 3, 2, 1]);
        assert!(select(&mut [0; 64], 1).is_err());
        assert!(select(&mut [&[0; 4][..], MARK, MARK].concat(), 1).is_err());
    }
}
