//! Documents: every file says what it is, every test what it shows, every decision why.

use std::collections::BTreeMap;

use super::source::{Tree, Violation};

const DECISIONS: &str = "src/docs/decisions/";
const SECTIONS: [&str; 4] = ["## Context", "## Decision", "## Rejected", "## How we will know"];
/// Words that a test's name has at least; below that it names a function rather than a behaviour.
const TEST_NAME_WORDS: usize = 3;

/// Finds Rust files that do not open with `//!`, and scripts that do not say what they are for.
pub fn every_file_says_what_it_is(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.files() {
        let first = source.text.lines().next().unwrap_or_default();
        let ok = match source.path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("rs") => first.starts_with("//! ") && source.header().trim_end().contains(' '),
            Some("py") => source.text.trim_start_matches("#!/usr/bin/env python3\n").starts_with("\"\"\""),
            _ if first.starts_with("#!") => {
                source.text.lines().nth(1).is_some_and(|line| line.starts_with("# ") || line.starts_with("\"\"\""))
            }
            _ => true,
        };
        if !ok {
            found.push(Violation::new(&source.path, 1, "does not open by saying what it is and who uses it"));
        }
    }
}

/// Finds tests whose name is not a sentence.
pub fn test_names_are_sentences(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust() {
        for (index, line) in source.code.iter().enumerate() {
            let attribute = line.trim();
            if !attribute.starts_with("#[test]") && !attribute.starts_with("#[tokio::test") {
                continue;
            }
            let Some(rest) = source.code[index + 1..].iter().find_map(|line| line.split("fn ").nth(1)) else {
                continue;
            };
            let name = rest.split('(').next().unwrap_or_default();
            if name.split('_').count() < TEST_NAME_WORDS {
                let message = format!("`{name}` does not say in a sentence what holds");
                found.push(Violation::new(&source.path, index + 1, message));
            }
        }
    }
}

/// Finds decision records with a wrong name, a number used twice, or a part missing.
pub fn decision_records_are_whole_and_numbered_once(tree: &Tree, found: &mut Vec<Violation>) {
    let mut numbers = BTreeMap::new();
    for source in tree.files() {
        let Some(name) = source.path.strip_prefix(DECISIONS).and_then(|name| name.strip_suffix(".md")) else {
            continue;
        };
        let mut report = |line, message: String| found.push(Violation::new(&source.path, line, message));
        let (number, slug) = name.split_once('-').unwrap_or((name, ""));
        let slug_ok =
            !slug.is_empty() && slug.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if number.len() != 4 || !number.chars().all(|c| c.is_ascii_digit()) || !slug_ok {
            report(0, "is not named NNNN-slug.md".to_owned());
            continue;
        }
        if let Some(other) = numbers.insert(number.to_owned(), name) {
            report(0, format!("number {number} is taken by {other}"));
        }
        let title = source.text.lines().next().unwrap_or_default();
        if !title.starts_with(&format!("# {number}")) {
            report(1, format!("does not begin with `# {number} …`"));
        }
        for section in SECTIONS.iter().filter(|section| !source.text.lines().any(|line| line.trim() == **section)) {
            report(0, format!("lacks `{section}`"));
        }
    }
}

/// Finds documents under `src/docs/` that no module includes, and which rustdoc so never shows.
pub fn documents_are_rendered(tree: &Tree, found: &mut Vec<Violation>) {
    let modules: String =
        tree.rust().filter(|source| source.path.starts_with("src/docs/")).map(|source| &*source.text).collect();
    for source in tree.files() {
        let Some(document) = source.path.strip_prefix("src/docs/").filter(|name| name.ends_with(".md")) else {
            continue;
        };
        let file = document.rsplit('/').next().unwrap_or_default();
        if !modules.contains(&format!("{file}\"")) {
            found.push(Violation::new(&source.path, 0, "no module under src/docs includes it"));
        }
    }
}

/// Finds links of Markdown documents to files that are not there, and files that documents on the present name and that are
/// not there.
pub fn links_lead_somewhere(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.files().filter(|source| source.path.ends_with(".md")) {
        for (index, line) in source.text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let target = target.split('#').next().unwrap_or_default();
                let elsewhere = target.is_empty() || target.contains("://") || target.contains("::");
                if !elsewhere && !tree.has(&resolve(&source.path, target)) {
                    found.push(Violation::new(&source.path, index + 1, format!("leads nowhere: {target}")));
                }
            }
            let is_present = source.path.starts_with("src/docs/") && !source.path.contains("/decisions/");
            let code = line.split('`').skip(1).step_by(2).filter(|_| is_present);
            let named = code.filter(|code| code.contains('/') && (code.ends_with(".rs") || code.ends_with(".py")));
            for name in named.filter(|name| !tree.has(name) && !tree.has(&format!("src/{name}"))) {
                found.push(Violation::new(&source.path, index + 1, format!("names what is not there: {name}")));
            }
        }
    }
}

fn resolve(from: &str, target: &str) -> String {
    let mut segments: Vec<&str> = from.split('/').collect();
    segments.pop();
    for segment in target.trim_end_matches('/').split('/') {
        match segment {
            "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    segments.join("/")
}
