//! Purity: a file whose header says `Pure` is a function of its arguments.
//!
//! Pure files take `(now, event)` and return actions, so that a simulation of them is worth something. The word stands
//! in the header, because it is the first thing that a reader has to know.

use super::source::{Source, Tree, Violation, words};

/// What a pure file never names, and what it does instead.
const IMPURE: &[(&str, &str)] = &[
    ("async", "return an action that a driver carries out"),
    ("await", "return an action that a driver carries out"),
    ("tokio", "return an action that a driver carries out"),
    ("Instant", "take `now: Monotonic`"),
    ("SystemTime", "take `now: Timestamp`"),
    ("Clock", "take `now`"),
    ("Mutex", "be owned by one task"),
    ("RwLock", "be owned by one task"),
    ("Atomic", "be owned by one task"),
    ("std::fs", "return an action"),
    ("Disk", "return an action"),
    ("Entropy", "take the random bytes as an argument"),
    ("HashMap", "BTreeMap, whose order is the same in every run"),
    ("HashSet", "BTreeSet, whose order is the same in every run"),
    ("std::env", "take it as an argument"),
];

/// File names that promise a state machine or a plan.
const PURE_NAMES: [&str; 2] = ["machine.rs", "planner.rs"];

fn is_pure(source: &Source) -> bool {
    words(&source.header(), "Pure").next().is_some()
}

/// Finds clocks, locks, tasks, IO and unordered maps in pure files; their tests are free.
pub fn pure_files_are_pure(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust().filter(|source| source.path.starts_with("src/") && is_pure(source)) {
        let tests = tree.test_lines(source);
        for (index, line) in source.code.iter().enumerate() {
            if tests.iter().any(|range| range.contains(&index)) {
                continue;
            }
            for (word, instead) in IMPURE.iter().filter(|(word, _)| words(line, word).next().is_some()) {
                let message = format!("a pure file names `{word}`: {instead}");
                found.push(Violation::new(&source.path, index + 1, message));
            }
        }
    }
}

/// Finds machines and planners that do not say that they are pure.
pub fn machines_and_planners_declare_themselves_pure(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust().filter(|source| source.path.starts_with("src/")) {
        let name = source.path.rsplit('/').next().unwrap_or_default();
        if PURE_NAMES.contains(&name) && !is_pure(source) {
            found.push(Violation::new(&source.path, 1, "is a state machine by its name: say `Pure` in its header"));
        }
    }
}
