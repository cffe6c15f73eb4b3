//! Bans: words that are not used here, each with what is used instead.

use super::source::{Tree, Violation, words};

/// A word of code, where it may stand after all (a prefix of the path), and what to write instead.
type Ban = (&'static str, &'static [&'static str], &'static str);

const IN_CODE: &[Ban] = &[
    ("todo!", &[], "finish it, or return an error that says what is not supported"),
    ("unimplemented!", &[], "finish it, or return an error that says what is not supported"),
    ("dbg!", &[], "a tracing event"),
    ("unsafe", &["src/lib.rs", "tests/fuzz/allocations.rs"], "rustix, or a crate that keeps the proof"),
    ("#[ignore]", &[], "a faster test, or a slower suite"),
    ("#[ignore =", &[], "a faster test, or a slower suite"),
    ("#[allow(", &[], "`#[expect(lint, reason = \"…\")]`, which notices when it is no longer needed"),
    ("unbounded_channel", &[], "a channel with a bound"),
    ("spawn_blocking", &[], "a lane of runtime::tasks"),
    ("std::sync::Mutex", &[], "parking_lot::Mutex, which is never poisoned"),
    ("std::sync::RwLock", &[], "parking_lot::RwLock, which is never poisoned"),
    ("to_ne_bytes", &[], "to_be_bytes or to_le_bytes: formats do not depend on the machine"),
    ("from_ne_bytes", &[], "from_be_bytes or from_le_bytes: formats do not depend on the machine"),
    ("Other(String)", &[], "a variant with named fields"),
];

/// Words of code that are banned outside tests only.
const IN_PRODUCT: &[Ban] = &[
    (".unwrap()", &[], "`?`, or `expect` with a local proof as its text"),
    ("println!", &["src/cli/"], "a tracing event, or the output of cli"),
    ("eprintln!", &["src/cli/", "src/main.rs"], "a tracing event, or the output of cli"),
    (
        "tokio::time",
        &["src/runtime/production/", "src/server/", "src/http/", "src/cli/"],
        "runtime::clock, which a simulation can move",
    ),
    ("process::exit", &["src/cli/", "src/main.rs"], "an error that main turns into an exit code"),
];

/// Words banned from comments and documents as well.
const IN_TEXT: &[Ban] = &[
    ("TODO", &[], "do it, or file it"),
    ("FIXME", &[], "fix it, or file it"),
    ("XXX", &[], "say it in words"),
    ("LSO", &[], "`last_stable_offset` or `log_start_offset`: Kafka uses the abbreviation for both"),
    ("LEO", &[], "`log_end_offset`"),
];

/// Places that say where something was written or fetched, which is nobody's business and breaks elsewhere.
const PLACES: &[&str] = &[
    "/work/",
    "/root/",
    "/home/",
    "crates.io",
    "proxy.golang.org",
    "pypi.org",
    "pythonhosted.org",
    "registry.npmjs.org",
    "repo.maven.apache.org",
    "repo1.maven.org",
    "deb.debian.org",
];

/// The tables above name what they ban.
const THIS_LINTER: &str = "tests/tidy";

/// Finds banned words in code and text.
pub fn banned_words_are_absent(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.files().filter(|source| !source.path.starts_with(THIS_LINTER)) {
        let tests = tree.test_lines(source);
        for (index, line) in source.code.iter().enumerate() {
            let in_test = tests.iter().any(|range| range.contains(&index));
            let bans = IN_CODE.iter().chain(IN_PRODUCT.iter().filter(|_| !in_test));
            report(&source.path, index + 1, line, bans, found);
        }
        let prose = source.path.ends_with(".md") || source.is_rust() || source.path.ends_with(".py");
        for (index, line) in source.text.lines().enumerate().filter(|_| prose) {
            report(&source.path, index + 1, line, IN_TEXT.iter(), found);
        }
    }
}

fn report<'a>(path: &str, number: usize, line: &str, bans: impl Iterator<Item = &'a Ban>, found: &mut Vec<Violation>) {
    for (word, places, instead) in bans {
        let allowed = places.iter().any(|place| path.starts_with(place));
        if !allowed && words(line, word).next().is_some() {
            found.push(Violation::new(path, number, format!("not `{word}` but {instead}")));
        }
    }
}

/// Finds paths of one machine and addresses of package registries, which belong to the clients' own settings.
pub fn no_machine_or_registry_is_named(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.files().filter(|source| !source.path.starts_with(THIS_LINTER)) {
        for (index, line) in source.text.lines().enumerate() {
            for place in PLACES.iter().filter(|place| line.contains(**place)) {
                found.push(Violation::new(&source.path, index + 1, format!("names a place: `{place}`")));
            }
        }
    }
}
