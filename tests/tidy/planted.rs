//! A small tidy tree, and for every rule sources that break it: the linter's own tests.

use super::source::Tree;

/// A file that breaks one rule at one line.
pub struct Plant {
    /// Name of the rule that has to find it.
    pub rule: &'static str,
    /// Where the file is planted.
    pub path: &'static str,
    /// Line that has to be reported.
    pub line: usize,
    /// The file.
    pub text: &'static str,
}

const LIBRARY: &str = "//! The library.
pub mod docs;
pub mod runtime;
pub mod telemetry;
pub mod types;
pub mod protocol;
pub mod record;
pub mod log;
pub mod metadata;
pub mod archive;
pub mod group;
pub mod broker;
pub mod http;
pub mod server;
pub mod cli;
pub mod config;
";

const DECISION: &str = "# 0001: An ack\n## Context\n## Decision\n## Rejected\n## How we will know\n";

/// A tree that keeps every rule, with the cases that come close to breaking one.
pub fn tidy_tree() -> Tree {
    let machine = "//! The machine. Pure.\nuse crate::types::Offset;\n// Mutex and async may be spoken of.\n\
                   #[cfg(test)]\nmod tests {\n    use std::collections::HashMap;\n    #[test]\n    \
                   fn a_test_may_use_what_it_likes() {\n        Some(1).unwrap();\n    }\n}\n";
    let store = "//! The store door.\nuse object_store::path::Path;\nuse crate::archive::{parquet, key};\n\
                 fn f() { parquet::write(\"todo! { unsafe\"); }\n";
    Tree::default()
        .with("src/lib.rs", LIBRARY)
        .with("src/types/mod.rs", "//! The words.\n")
        .with("src/metadata/machine.rs", machine)
        .with("src/archive/mod.rs", "//! The archive.\nmod parquet;\nmod store;\nfn f() { parquet::write(); }\n")
        .with("src/archive/store/mod.rs", store)
        .with("src/archive/parquet/mod.rs", "//! The codec.\nuse parquet::arrow::ArrowWriter;\n")
        .with(
            "src/docs/mod.rs",
            "//! The documents.\n#[doc = include_str!(\"decisions/0001-an-ack.md\")]\npub mod acks {}\n#[doc = include_str!(\"decisions/0001-other.md\")]\npub mod other {}\n#[doc = include_str!(\"glossary.md\")]\npub mod glossary {}\n",
        )
        .with("src/docs/glossary.md", "In `types/mod.rs` and `README.md`.\n")
        .with("src/docs/decisions/0001-an-ack.md", DECISION)
        .with("README.md", "See [the types](src/types), [a site](https://example.org) and [below](#x).\n")
        .with("Cargo.toml", "[dependencies]\n# a comment = 1\ntokio = \"1\"\n[dev-dependencies]\ntempfile = \"3\"\n")
        .with(".ci/run", "#!/usr/bin/env bash\n# Runs everything.\n")
}

/// Sources that break exactly one rule each.
pub fn violations() -> Vec<Plant> {
    let mut plants = vec![
        // layers
        plant("layers", "src/record/a.rs", 2, "//! A file.\nuse crate::log::Journal;\n"),
        plant("layers", "src/log/a.rs", 2, "//! A file.\nuse crate::{\n    archive::Planner, types::Offset};\n"),
        plant("layers", "src/group/a.rs", 2, "//! A sibling.\nfn f() { crate::archive::flush(); }\n"),
        plant("layers", "src/kitchen/a.rs", 0, "//! A new room.\n"),
        plant(
            "modules",
            "src/lib.rs",
            3,
            "//! The library.\npub mod record;\npub mod types;\npub mod docs;\n\
                                           pub mod metadata;\npub mod archive;\n",
        ),
        plant("modules", "src/lib.rs", 0, "//! The library.\npub mod types;\npub mod docs;\npub mod archive;\n"),
        // doors
        plant("doors", "src/log/a.rs", 2, "//! A file.\nuse openraft::Raft;\n"),
        plant("doors", "src/log/a.rs", 2, "//! A file.\nfn f() { std::fs::read(\"x\"); }\n"),
        plant("doors", "src/archive/a.rs", 2, "//! A file.\npub(crate) use parquet::file::metadata;\n"),
        plant("doors", "src/broker/a.rs", 2, "//! A file.\nuse std::time::{Duration, Instant};\n"),
        plant("door-table", "Cargo.toml", 2, "[dependencies]\nleft-pad = \"1\"\n"),
        // bans
        plant("bans", "src/log/a.rs", 2, "//! A file.\nfn f() { todo!() }\n"),
        plant("bans", "src/log/a.rs", 3, "//! A file.\n#[cfg(not(x))]\nfn f() { g().unwrap(); }\n"),
        plant("bans", "src/log/a.rs", 2, "//! A file.\n// TODO: later\n"),
        plant("bans", "tests/a.rs", 3, "//! A file.\n#[test]\n#[ignore]\nfn a_test_that_is_never_run() {}\n"),
        plant("bans", "tests/a.py", 2, "\"\"\"A script.\"\"\"\n# FIXME\n"),
        plant("places", "README.md", 1, "Built in /home/somebody/alluvium.\n"),
        plant("places", "tests/peers/pom.xml", 1, "<url>https://repo1.maven.org/maven2</url>\n"),
        // documents
        plant("header", "src/log/a.rs", 1, "// A file.\n"),
        plant("header", "tests/a.sh", 1, "#!/usr/bin/env bash\nset -e\n"),
        plant("header", "tests/a.py", 1, "import os\n"),
        plant("test-names", "tests/a.rs", 2, "//! A file.\n#[test]\nfn test_append() {}\n"),
        plant("decisions", "src/docs/decisions/0001-other.md", 0, DECISION),
        plant("rendered", "src/docs/operations.md", 0, "# Operations\n"),
        plant("links", "README.md", 1, "See [nothing](src/nothing.rs).\n"),
        plant("links", "src/docs/glossary.md", 1, "See `log/nothing.rs`.\n"),
        // purity
        plant("purity", "src/group/a.rs", 2, "//! Pure: groups.\nuse std::collections::HashMap;\n"),
        plant("purity", "src/group/a.rs", 2, "//! Pure: groups.\nasync fn f() {}\n"),
        plant("pure-names", "src/group/machine.rs", 1, "//! The machine.\n"),
    ];
    plants.push(plant("file-size", "src/log/a.rs", 0, leak(format!("//! A file.\n{}", "fn f() {}\n".repeat(801)))));
    plants.push(plant("file-size", "src/log/a.rs", 0, leak(format!("//! A file.\n{}", "fn f() {}\n".repeat(501)))));
    let tests = "    fn f() {}\n".repeat(260);
    let tests = format!("//! A file.\nfn g() {{}}\n#[cfg(test)]\nmod tests {{\n{tests}}}\n");
    plants.push(plant("file-size", "src/log/a.rs", 0, leak(tests)));
    let long = format!("//! A file.\nfn f(\n    a: [u8; 4],\n) {{\n{}}}\n", "    g();\n".repeat(71));
    plants.push(plant("function-size", "src/log/a.rs", 2, leak(long)));
    plants
}

fn plant(rule: &'static str, path: &'static str, line: usize, text: &'static str) -> Plant {
    Plant { rule, path, line, text }
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}
