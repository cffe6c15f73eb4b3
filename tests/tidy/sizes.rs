//! Sizes: what no longer fits a reader's head is split.

use super::source::{Source, Tree, Violation, block, words};

/// Code lines of a file beyond which it must be split; tests count apart.
const FILE_LINES: usize = 800;
/// Code lines beyond which the header must say why: `//! Long because …`.
const EXPLAINED_LINES: usize = 500;
/// Lines of tests that may stand in the file they test; more go to `tests.rs` beside it.
const INLINE_TEST_LINES: usize = 250;
/// Code lines of a function's body; clippy holds the same, but can be told to look away.
const FUNCTION_LINES: usize = 70;

/// Finds files that are too long, too long without a reason, or drowned by their own tests.
pub fn files_are_short(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust() {
        let tests = tree.test_lines(source);
        let in_test = |line: usize| tests.iter().any(|range| range.contains(&line));
        let all = (0..source.code.len()).filter(|&line| is_code(source, line));
        let (inline, own): (Vec<usize>, Vec<usize>) = all.partition(|&line| in_test(line));
        let whole_file_is_tests = own.is_empty();
        let (own, inline) = if whole_file_is_tests { (inline.len(), 0) } else { (own.len(), inline.len()) };
        let mut report = |message: String| found.push(Violation::new(&source.path, 0, message));
        if own > FILE_LINES {
            report(format!("{own} code lines, {FILE_LINES} at most: split it"));
        } else if own > EXPLAINED_LINES && !source.header().contains("Long because") {
            report(format!("{own} code lines: split it, or say `Long because …` in its header"));
        }
        if inline > INLINE_TEST_LINES {
            report(format!("{inline} lines of inline tests: move them to tests.rs beside it"));
        }
    }
}

/// Finds functions that are too long.
pub fn functions_are_short(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust() {
        for start in 0..source.code.len() {
            let Some(at) = words(&source.code[start], "fn").next() else { continue };
            let name: String = source.code[start][at + 2..].trim_start().chars().take_while(|c| *c != '(').collect();
            let Some((open, end)) = block(&source.code, start).filter(|_| !name.is_empty()) else { continue };
            let lines = (open + 1..end).filter(|&line| is_code(source, line)).count();
            if lines > FUNCTION_LINES {
                let message = format!("`{name}` has {lines} lines, {FUNCTION_LINES} at most: split it");
                found.push(Violation::new(&source.path, start + 1, message));
            }
        }
    }
}

fn is_code(source: &Source, line: usize) -> bool {
    !source.code[line].trim().is_empty()
}
