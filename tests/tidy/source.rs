//! A tree of source files in memory, and a reader of Rust that is just good enough to tell code from comments and text.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// What breaks a rule, and where.
#[derive(Debug)]
pub struct Violation {
    /// Name in the table of rules; filled in by whoever ran the rule.
    pub rule: &'static str,
    /// Path from the root of the package, with `/`.
    pub path: String,
    /// Line, from 1; 0 where the file as a whole is meant.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub message: String,
}

impl Violation {
    /// A violation in a file at a line.
    pub fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { rule: "", path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} [{}]", self.path, self.line, self.message, self.rule)
    }
}

/// One file as text, and for Rust also with comments and the insides of literals blanked out.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root of the package, with `/`.
    pub path: String,
    /// The text as it is.
    pub text: String,
    /// Lines of code: comments, strings and character literals replaced by spaces. Only for Rust.
    pub code: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { blank(text).lines().map(str::to_owned).collect() } else { Vec::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The top-level module it belongs to: `archive` for `src/archive/key.rs`; none outside `src/` and for `src/lib.rs`.
    pub fn module(&self) -> Option<&str> {
        let name = self.path.strip_prefix("src/")?.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (name != "lib").then_some(name)
    }

    /// The documentation at the head of the file, without the `//!`.
    pub fn header(&self) -> String {
        let lines = self.text.lines().take_while(|line| line.starts_with("//!"));
        lines.map(|line| line.trim_start_matches("//!").trim()).collect::<Vec<_>>().join("\n")
    }
}

/// Sources by path.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    sources: BTreeMap<String, Source>,
}

impl Tree {
    /// Reads what people wrote under a directory: no build output, nothing binary.
    pub fn read(root: &Path) -> Self {
        let mut tree = Self::default();
        let mut directories = vec![root.to_path_buf()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if matches!(name.as_str(), ".git" | "target" | "alluvium-data" | "Cargo.lock" | "__pycache__") {
                    continue;
                }
                if path.is_dir() {
                    directories.push(path);
                } else if let Ok(text) = fs::read_to_string(&path) {
                    let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
                    tree = tree.with(&relative, &text);
                }
            }
        }
        tree
    }

    /// The same tree with one file added or replaced.
    pub fn with(mut self, path: &str, text: &str) -> Self {
        self.sources.insert(path.to_owned(), Source::new(path, text));
        self
    }

    /// All files in the order of their paths.
    pub fn files(&self) -> impl Iterator<Item = &Source> {
        self.sources.values()
    }

    /// All Rust files.
    pub fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files().filter(|source| source.is_rust())
    }

    /// Lines, from 0, that hold tests: all of a test file, else the bodies behind `#[cfg(test)]`.
    pub fn test_lines(&self, source: &Source) -> Vec<Range<usize>> {
        if !source.path.starts_with("src/") || self.is_test_module(&source.path) {
            let all = 0..source.code.len();
            return vec![all];
        }
        let starts = (0..source.code.len()).filter(|&line| source.code[line].contains("#[cfg(test)]"));
        starts.map(|start| start..block(&source.code, start).map_or(start, |(_, end)| end) + 1).collect()
    }

    /// Whether the file, or a directory above it, is a module that somebody declares behind `#[cfg(test)]`.
    fn is_test_module(&self, path: &str) -> bool {
        let module = path.trim_end_matches(".rs").trim_end_matches("/mod");
        let Some((parent, name)) = module.rsplit_once('/') else { return false };
        let declaration = format!("mod {name};");
        let declarers = [format!("{parent}.rs"), format!("{parent}/mod.rs"), format!("{parent}/lib.rs")];
        let declared = declarers.iter().filter_map(|declarer| self.get(declarer)).any(|declarer| {
            let mut lines = declarer.code.windows(2);
            lines.any(|pair| pair[0].contains("#[cfg(test)]") && pair[1].trim_start().ends_with(&declaration))
        });
        declared || self.is_test_module(parent)
    }

    /// One file.
    pub fn get(&self, path: &str) -> Option<&Source> {
        self.sources.get(path)
    }

    /// Whether a path names a file, or a directory that holds one.
    pub fn has(&self, path: &str) -> bool {
        self.sources.contains_key(path) || self.files().any(|source| source.path.starts_with(&format!("{path}/")))
    }
}

/// The lines, from 0, of the first and the last brace of the block that starts at or after a line; none if a `;` comes first.
pub fn block(code: &[String], start: usize) -> Option<(usize, usize)> {
    let (mut depth, mut nested, mut opened) = (0usize, 0usize, start);
    for (line, text) in code.iter().enumerate().skip(start) {
        for character in text.chars() {
            match character {
                '(' | '[' => nested += 1,
                ')' | ']' => nested = nested.saturating_sub(1),
                '{' if depth == 0 => (depth, opened) = (1, line),
                '{' => depth += 1,
                '}' if depth <= 1 => return Some((opened, line)),
                '}' => depth -= 1,
                ';' if depth == 0 && nested == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

/// Where a word stands by itself in a line of code, as byte positions.
pub fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |character: char| character.is_alphanumeric() || character == '_';
    line.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let open_left = !word.starts_with(part) || !before.is_some_and(part);
        let open_right = !word.ends_with(part) || !after.is_some_and(part);
        open_left && open_right
    })
}

/// Replaces comments and the insides of literals by spaces and keeps every line break.
fn blank(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let before = out.chars().next_back();
        let length = literal_length(rest, before).unwrap_or(0);
        if length == 0 {
            out.push(character);
            rest = &rest[character.len_utf8()..];
            continue;
        }
        out.extend(rest[..length].chars().map(|inside| if inside == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

/// The bytes of a comment or literal that starts here, if one does.
fn literal_length(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    let in_word = before.is_some_and(|character| character.is_alphanumeric() || character == '_');
    if rest.starts_with('"') {
        return Some(quoted_length(rest, '"'));
    }
    if !in_word && (rest.starts_with("r\"") || rest.starts_with("r#") || rest.starts_with("br\"")) {
        let hashes = rest.trim_start_matches(['b', 'r']).chars().take_while(|&character| character == '#').count();
        let open = rest.find('"')?;
        let close = format!("\"{}", "#".repeat(hashes));
        // `r#name` is an identifier, not text.
        let plain = rest[..open].chars().all(|character| matches!(character, 'b' | 'r' | '#'));
        return plain.then(|| rest[open + 1..].find(&close).map_or(rest.len(), |end| open + 1 + end + close.len()));
    }
    if let Some(after) = rest.strip_prefix('\'') {
        // A lifetime has no closing quote right after its first character.
        let mut characters = after.chars();
        let (first, second) = (characters.next()?, characters.next());
        return (first == '\\' || second == Some('\'')).then(|| quoted_length(rest, '\''));
    }
    None
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn block_comment_length(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0usize);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[test]
fn comments_and_literals_are_blanked_and_lines_kept() {
    let text = "let a = \"// no { \\\" comment\"; // } gone\nlet b: &'static str = r#\"a \"{\" b\"#; /* x /* y */\n */ f('{', '\\'')";
    assert_eq!(blank(text).lines().count(), text.lines().count());
    assert_eq!(blank(text).split_whitespace().collect::<String>(), "leta=;letb:&'staticstr=;f(,)");
}

#[test]
fn a_word_is_found_only_by_itself() {
    assert_eq!(words("redb::x mredb redb_y redb", "redb").collect::<Vec<_>>(), [0, 21]);
}
