//! The paths that a file names: its `use` trees spelled out, and the paths inside expressions.

use super::source::Source;

/// A path such as `crate::types::Offset`, and the line, from 1, where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Segments joined by `::`.
    pub path: String,
    /// Line, from 1.
    pub line: usize,
}

/// All paths of two or more segments, and all `use` paths.
pub fn paths(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    let mut line = 0;
    while line < source.code.len() {
        let text = source.code[line].trim_start();
        let text = text.strip_prefix("pub").map_or(text, |rest| rest.trim_start_matches(|c| c != ' ' && c != 'u'));
        if let Some(tree) = text.trim_start().strip_prefix("use ") {
            let start = line;
            let mut tree = tree.to_owned();
            while !tree.contains(';') && line + 1 < source.code.len() {
                line += 1;
                tree.push_str(&source.code[line]);
            }
            let tree: String = tree.split(';').next().unwrap_or_default().chars().collect();
            spell_out("", &tree, start + 1, &mut found);
        } else {
            in_expression(&source.code[line], line + 1, &mut found);
        }
        line += 1;
    }
    found
}

/// Whether a name is something that this file declares or imports, rather than a crate.
pub fn is_local(source: &Source, name: &str) -> bool {
    let declared = source.code.iter().any(|line| {
        let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        line.strip_prefix("mod ").is_some_and(|rest| rest.trim_end_matches([';', ' ', '{']) == name)
    });
    declared || paths(source).iter().any(|named| named.path.ends_with(&format!("::{name}")))
}

fn spell_out(prefix: &str, tree: &str, line: usize, found: &mut Vec<Named>) {
    let tree = tree.trim();
    match tree.split_once('{') {
        Some((head, rest)) => {
            let prefix = format!("{prefix}{}", head.trim());
            for part in split_top(rest.strip_suffix('}').unwrap_or(rest)) {
                spell_out(&prefix, part, line, found);
            }
        }
        None if tree.is_empty() => {}
        None => {
            let path = tree.split(" as ").next().unwrap_or_default().trim();
            let path = format!("{prefix}{path}");
            found.push(Named { path: path.trim_end_matches("::self").trim_start_matches("::").to_owned(), line });
        }
    }
}

fn split_top(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    parts
}

fn in_expression(code: &str, line: usize, found: &mut Vec<Named>) {
    let part = |character: char| character.is_alphanumeric() || character == '_' || character == ':';
    for token in code.split(|character| !part(character)) {
        let path = token.trim_end_matches(':');
        if path.contains("::") && !path.starts_with(':') {
            found.push(Named { path: path.to_owned(), line });
        }
    }
}
