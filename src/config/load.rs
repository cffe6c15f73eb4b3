//! Puts the sources of settings together and refuses what is not a setting.
//!
//! Each source becomes a list of assignments that remember where they come from. figment merges them by precedence and
//! reads the result into [`Settings`]; whatever it or we refuse is reported with the origin of the assignment that won.

use std::path::{Path, PathBuf};

use figment::error::{Error as FigmentError, Kind};
use figment::providers::Serialized;
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use toml_edit::{ImDocument, Item, TableLike};

use super::error::{ConfigError, Problem};
use super::settings::{LISTENER_FIELDS, SECTIONS, Settings};
use crate::runtime::disk::{Disk, read_file};

/// The beginning of the variables that are settings.
pub const VARIABLE_PREFIX: &str = "ALLUVIUM__";
/// The beginning of listeners' settings; a name and a dot follow.
const LISTENERS_PREFIX: &str = "listeners.kafka.";
/// The largest configuration file that is read.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// One setting given a value by one source.
#[derive(Clone, Debug)]
pub struct Assignment {
    key: String,
    value: Value,
    origin: String,
}

impl Assignment {
    /// A value given as text, by a variable or a flag; `origin` is what the user would recognise.
    pub fn text(key: impl Into<String>, text: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { key: key.into(), value: Value::from(text.into()), origin: origin.into() }
    }

    /// The same for a list of one text, which is not looked into.
    pub fn one(key: impl Into<String>, text: impl Into<String>, origin: impl Into<String>) -> Self {
        Self { key: key.into(), value: Value::from(vec![text.into()]), origin: origin.into() }
    }

    /// The setting, as `section.key`.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Where settings come from, lowest precedence first; defaults are below them all.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// The environment; variables that are not settings are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags of the command line.
    pub flags: Vec<Assignment>,
}

/// Settings with the memory of where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings in effect.
    pub settings: Settings,
    /// Everything that was assigned, lowest precedence first.
    assignments: Vec<Assignment>,
}

impl Loaded {
    /// Where the setting, or what lies below it, was set; `None` for a default.
    pub fn origin(&self, key: &str) -> Option<&str> {
        origin(&self.assignments, key)
    }

    /// A problem with a setting, carrying its origin.
    pub(super) fn problem(&self, key: &str, text: impl std::fmt::Display) -> Problem {
        problem(self.origin(key), key, text)
    }
}

fn origin<'a>(assignments: &'a [Assignment], key: &str) -> Option<&'a str> {
    let covers =
        |assigned: &str| assigned.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    assignments.iter().rev().find(|assignment| covers(&assignment.key)).map(|assignment| assignment.origin.as_str())
}

/// What is wrong with the value of a setting, which `--set` and variables name themselves.
fn problem(origin: Option<&str>, key: &str, text: impl std::fmt::Display) -> Problem {
    let origin = origin.unwrap_or_default().to_owned();
    let is_named = origin.strip_prefix("--set ") == Some(key) || variable(&origin, "").is_some_and(|it| it.key == key);
    let text = if is_named { text.to_string() } else { format!("{key}: {text}") };
    Problem { origin, text }
}

/// Reads all sources into settings. Nothing is checked beyond names and types; that is the work of `resolve`.
pub fn load(sources: &Sources, disk: &dyn Disk) -> Result<Loaded, ConfigError> {
    let file = sources.file.as_deref().map(|path| read_assignments(path, disk)).transpose()?.unwrap_or_default();
    let mut environment: Vec<_> = sources.environment.iter().filter_map(|(name, text)| variable(name, text)).collect();
    take_listener_names(&mut environment, file.iter().chain(&sources.flags));
    let mut problems = Vec::new();
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    let mut assignments = Vec::new();
    for layer in [file, environment, sources.flags.clone()] {
        let mut values = Dict::new();
        for assignment in &layer {
            match path_of(&assignment.key) {
                Some(path) => insert(&mut values, &path, assignment.value.clone()),
                None => problems.push(unknown(assignment)),
            }
        }
        figment = figment.merge(Layer { values });
        assignments.extend(layer);
    }
    if !problems.is_empty() {
        return Err(ConfigError::Invalid { problems });
    }
    match figment.extract_lossy::<Settings>() {
        Ok(settings) => Ok(Loaded { settings, assignments }),
        Err(error) => {
            let problems = error.into_iter().map(|error| unreadable(&error, &assignments)).collect();
            Err(ConfigError::Invalid { problems })
        }
    }
}

/// One source's values, for figment to merge.
struct Layer {
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named("settings")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, FigmentError> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// Puts a value at the end of a path of tables.
fn insert(table: &mut Dict, path: &[&str], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert((*last).to_owned(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry((*first).to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// The path of tables to a setting; `None` when there is no such setting.
fn path_of(key: &str) -> Option<Vec<&str>> {
    let (section_name, rest) = key.split_once('.')?;
    let section = SECTIONS.iter().find(|section| section.name == section_name)?;
    let (field, below) = rest.split_once('.').map_or((rest, None), |(field, below)| (field, Some(below)));
    section.fields.iter().find(|known| known.name == field)?;
    match (section_name, field, below) {
        ("listeners", "kafka", Some(below)) => {
            let (name, listener_field) = below.split_once('.')?;
            LISTENER_FIELDS.contains(&listener_field).then(|| vec![section_name, field, name, listener_field])
        }
        // Kafka's names have dots of their own.
        ("topics", "defaults", Some(below)) => Some(vec![section_name, field, below]),
        (_, _, None) => Some(vec![section_name, field]),
        _ => None,
    }
}

fn unknown(assignment: &Assignment) -> Problem {
    let key = &assignment.key;
    let text = match nearest(key) {
        (_, near) if near == *key => {
            format!(
                "{key} is a section and no setting; set what is in it, as {key}.KEY: `alluvium config docs` lists all"
            )
        }
        (true, near) => format!("{key} is not a setting; did you mean {near}?"),
        (false, near) => {
            format!("{key} is not a setting; the nearest is {near}, and `alluvium config docs` lists them all")
        }
    };
    Problem { origin: assignment.origin.clone(), text }
}

/// The setting whose name is closest, whether the section or the key was mistyped, or the section was left out, and whether it
/// is close enough to be meant.
fn nearest(key: &str) -> (bool, String) {
    let leaf = key.rsplit('.').next().unwrap_or(key);
    let fields = SECTIONS.iter().flat_map(|section| {
        section.fields.iter().map(move |field| {
            let full = format!("{}.{}", section.name, field.name);
            let by_leaf = 1 + strsim::damerau_levenshtein(leaf, field.name);
            (strsim::damerau_levenshtein(key, &full).min(by_leaf), full)
        })
    });
    let listener = match key.split('.').collect::<Vec<_>>()[..] {
        [_, _, name, _] => Some(LISTENER_FIELDS.map(|field| format!("listeners.kafka.{name}.{field}"))),
        _ => None,
    };
    let sections = SECTIONS.iter().map(|section| section.name.to_owned());
    let others = sections.chain(listener.into_iter().flatten());
    let others = others.map(|full| (strsim::damerau_levenshtein(key, &full), full));
    let (distance, near) = fields.chain(others).min().expect("there are settings");
    (distance <= 2.max(leaf.len() / 3), near)
}

/// A value that does not read as its setting's type.
fn unreadable(error: &FigmentError, assignments: &[Assignment]) -> Problem {
    let key = error.path.join(".");
    let what = match &error.kind {
        Kind::InvalidType(found, expected) => {
            format!("found {found}, expected {}", range_of(expected).map_or(expected.as_str(), |_| "a whole number"))
        }
        Kind::InvalidValue(found, expected) => match range_of(expected) {
            Some((least, most)) => format!("found {found}, expected a whole number from {least} to {most}"),
            None => format!("found {found}, expected {expected}"),
        },
        Kind::UnknownVariant(found, expected) => format!("found `{found}`, expected one of {}", expected.join(", ")),
        other => other.to_string(),
    };
    problem(origin(assignments, &key), &key, what)
}

/// What fits into an integer of a type.
fn range_of(integer: &str) -> Option<(i128, i128)> {
    Some(match integer {
        "u8" => (0, u8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "u64" | "usize" => (0, u64::MAX.into()),
        "i32" => (i32::MIN.into(), i32::MAX.into()),
        "i64" => (i64::MIN.into(), i64::MAX.into()),
        _ => return None,
    })
}

/// Reads a variable, if it is a setting: `ALLUVIUM__NETWORK__MAX_FRAME` is `network.max_frame`.
fn variable(name: &str, text: &str) -> Option<Assignment> {
    let key = name.strip_prefix(VARIABLE_PREFIX)?.to_ascii_lowercase().replace("__", ".");
    // No topic setting of Kafka has an underscore, and no variable can have a dot.
    let key = match key.strip_prefix("topics.defaults.") {
        Some(config) => format!("topics.defaults.{}", config.replace('_', ".")),
        None => key,
    };
    Some(Assignment::text(key, text, name))
}

/// Variables give listeners no capitals: a name that another source has is meant whatever its case.
fn take_listener_names<'a>(variables: &mut [Assignment], others: impl Iterator<Item = &'a Assignment>) {
    let names: Vec<_> = others.filter_map(|other| Some(listener_setting(&other.key)?.0)).collect();
    for variable in variables {
        let Some((name, field)) = listener_setting(&variable.key) else { continue };
        if let Some(known) = names.iter().find(|known| known.eq_ignore_ascii_case(name)) {
            variable.key = format!("{LISTENERS_PREFIX}{known}.{field}");
        }
    }
}

/// A listener's name and setting.
fn listener_setting(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(LISTENERS_PREFIX)?.split_once('.')
}

/// Reads a file into assignments that know their lines.
fn read_assignments(path: &Path, disk: &dyn Disk) -> Result<Vec<Assignment>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let bytes = read_file(disk, path, FILE_LIMIT_BYTES).map_err(unreadable)?;
    let shown = path.display();
    let text = String::from_utf8(bytes).map_err(|_| ConfigError::one(shown.to_string(), "the file is not UTF-8"))?;
    let document = ImDocument::parse(text.as_str()).map_err(|error| {
        let line = line_of(&text, error.span().map_or(0, |span| span.start));
        ConfigError::one(format!("{shown}:{line}"), error.message().lines().collect::<Vec<_>>().join(", "))
    })?;
    let mut assignments = Vec::new();
    collect(document.as_table(), &mut Vec::new(), &mut |path, value, start| {
        assignments.push(Assignment {
            key: path.join("."),
            value,
            origin: format!("{shown}:{}", line_of(&text, start)),
        });
    });
    Ok(assignments)
}

/// Walks a table down to its values, giving each with its path and where its key begins.
fn collect(table: &dyn TableLike, path: &mut Vec<String>, found: &mut impl FnMut(&[String], Value, usize)) {
    for (name, item) in table.iter() {
        let start = table.key(name).and_then(toml_edit::Key::span).map_or(0, |span| span.start);
        path.push(name.to_owned());
        match item.as_table_like() {
            // Nothing in it would tell that its name is wrong.
            Some(inner) if inner.is_empty() && !is_table(path) => found(path, value_of(item), start),
            Some(inner) => collect(inner, path, found),
            None => found(path, value_of(item), start),
        }
        path.pop();
    }
}

/// Whether settings may lie below a path.
fn is_table(path: &[String]) -> bool {
    match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [section] => SECTIONS.iter().any(|known| known.name == section),
        ["listeners", "kafka"] | ["listeners", "kafka", _] | ["topics", "defaults"] => true,
        _ => false,
    }
}

fn value_of(item: &Item) -> Value {
    let Some(value) = item.as_value() else {
        return Value::from(Vec::<Value>::new());
    };
    scalar(value)
}

fn scalar(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().clone()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(yes) => Value::from(*yes.value()),
        toml_edit::Value::Array(items) => Value::from(items.iter().map(scalar).collect::<Vec<_>>()),
        other => Value::from(other.to_string().trim().to_owned()),
    }
}

fn line_of(text: &str, position: usize) -> usize {
    1 + text.bytes().take(position).filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ByteSize, Interval};
    use crate::runtime::production::LocalDisk;

    fn load_all(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alluvium.toml");
        let sources = Sources {
            file: file.map(|text| {
                std::fs::write(&path, text).unwrap();
                path.clone()
            }),
            environment: environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect(),
            flags: flags.iter().map(|(key, text)| Assignment::text(*key, *text, format!("--set {key}"))).collect(),
        };
        let shown = path.display().to_string();
        load(&sources, &LocalDisk).map_err(|error| error.to_string().replace(&shown, "alluvium.toml"))
    }

    #[test]
    fn later_sources_win_and_each_value_knows_its_origin() {
        let file = "[network]\nmax_frame = \"10MiB\"\nmax_connections = 7\nidle_timeout = \"1m\"\n";
        let environment = [("ALLUVIUM__NETWORK__MAX_FRAME", "20MiB"), ("ALLUVIUM__NETWORK__MAX_CONNECTIONS", "8")];
        let loaded = load_all(Some(file), &environment, &[("network.max_frame", "30MiB")]).unwrap();
        let network = &loaded.settings.network;
        assert_eq!((network.max_frame, network.max_connections), (ByteSize::mib(30), 8));
        assert_eq!(network.idle_timeout, Interval::minutes(1));
        assert_eq!(loaded.origin("network.max_frame"), Some("--set network.max_frame"));
        assert_eq!(loaded.origin("network.max_connections"), Some("ALLUVIUM__NETWORK__MAX_CONNECTIONS"));
        assert!(loaded.origin("network.idle_timeout").unwrap().ends_with("alluvium.toml:4"));
        assert_eq!(loaded.origin("network.fetch_max"), None);
    }

    #[test]
    fn nothing_set_gives_the_defaults() {
        assert_eq!(load_all(None, &[("HOME", "/root")], &[]).unwrap().settings, Settings::default());
    }

    #[test]
    fn listeners_lists_and_topic_defaults_can_be_set_from_every_source() {
        let file = "[listeners.kafka.external]\naddress = \"0.0.0.0:9093\"\n\
                    [data]\ndirectories = [\"/a\", \"/b\"]\n[topics.defaults]\nretention.ms = 1000\n\"segment.ms\" = \"5\"\n";
        let environment = [
            ("ALLUVIUM__LISTENERS__KAFKA__EXTERNAL__ADVERTISED", "broker:9093"),
            ("ALLUVIUM__TOPICS__DEFAULTS__SEGMENT_BYTES", "1048576"),
        ];
        let settings = load_all(Some(file), &environment, &[("data.directories", "/c, /d")]).unwrap().settings;
        let external = &settings.listeners.kafka["external"];
        assert_eq!((external.address.as_str(), external.advertised.as_deref()), ("0.0.0.0:9093", Some("broker:9093")));
        assert_eq!(settings.data.directories.0, [PathBuf::from("/c"), PathBuf::from("/d")]);
        let file = file.replace("external", "EXTERNAL");
        let settings = load_all(Some(&file), &environment, &[]).unwrap().settings;
        assert_eq!(settings.listeners.kafka.len(), 1);
        assert_eq!(settings.listeners.kafka["EXTERNAL"].advertised.as_deref(), Some("broker:9093"));
        let defaults: Vec<_> = settings.topics.defaults.0.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(defaults, [("retention.ms", "1000"), ("segment.bytes", "1048576"), ("segment.ms", "5")]);
    }

    #[test]
    fn a_list_is_written_in_a_variable_or_flag_as_in_a_file_and_without_quotes_too() {
        for (text, expected) in [
            (r#"["a","b"]"#, &["a", "b"][..]),
            (r#" [ "/a", '/b, c' ] "#, &["/a", "/b, c"]),
            ("[a, /b]", &["a", "/b"]),
            ("[a]", &["a"]),
            ("[1,2]", &["1", "2"]),
            ("a,b", &["a", "b"]),
            ("./[a]", &["./[a]"]),
            ("[]", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            let flag = load_all(None, &[], &[("data.directories", text)]).unwrap();
            let variable = load_all(None, &[("ALLUVIUM__DATA__DIRECTORIES", text)], &[]).unwrap();
            assert_eq!(flag.settings.data.directories.0, expected, "{text}");
            assert_eq!(variable.settings.data.directories.0, expected, "{text}");
        }
        for text in [r#"["a","b""#, "[a", "[a]b", r#"["a",["b"]]"#] {
            let error = load_all(None, &[], &[("data.directories", text)]).unwrap_err();
            let expected = "--set data.directories: needs a list of paths, as [\"/a\", \"/b\"], or in a";
            assert!(error.starts_with(expected), "{error}");
        }
    }

    /// What is refused, and with which words.
    const REFUSED: [(&str, &str); 16] = [
        (
            "[network]\nmax_frme = \"1MiB\"",
            "alluvium.toml:2: network.max_frme is not a setting; did you mean network.max_frame?",
        ),
        (
            "\n\n[netwrok]\nmax_frame = \"1MiB\"",
            "alluvium.toml:4: netwrok.max_frame is not a setting; did you mean network.max_frame?",
        ),
        ("max_frame = \"1MiB\"", "alluvium.toml:1: max_frame is not a setting; did you mean network.max_frame?"),
        ("quux = { frobnicate = 1 }", "alluvium.toml:1: quux.frobnicate is not a setting; the nearest is "),
        (
            "[network]\nmax_frame = \"12XB\"",
            "alluvium.toml:2: network.max_frame: \"12XB\" is not a size; write it like 64MiB, 1GB or 4096",
        ),
        (
            "[network]\nidle_timeout = 10",
            "alluvium.toml:2: network.idle_timeout: found signed int `10`, expected a duration in quotes with its unit, \
             like \"250ms\", \"10s\" or \"1h\"",
        ),
        (
            "[network]\nmax_connections = \"many\"",
            "alluvium.toml:2: network.max_connections: found string \"many\", expected a whole number",
        ),
        (
            "[network]\nmax_frame_size = \"1MiB\"",
            "alluvium.toml:2: network.max_frame_size is not a setting; the nearest is network.max_frame, and `alluvium",
        ),
        (
            "[memory]\ntail_percent = 300",
            "alluvium.toml:2: memory.tail_percent: found signed int `300`, expected a whole number from 0 to 255",
        ),
        (
            "[listeners]\nallow_insecure = \"perhaps\"",
            "alluvium.toml:2: listeners.allow_insecure: found string \"perhaps\", expected a boolean",
        ),
        (
            "[telemetry]\nlog_format = \"xml\"",
            "alluvium.toml:2: telemetry.log_format: found `xml`, expected one of text, json",
        ),
        (
            "[listeners.kafka.a]\nadress = \"x\"",
            "alluvium.toml:2: listeners.kafka.a.adress is not a setting; did you mean listeners.kafka.a.address?",
        ),
        ("network = 1", "alluvium.toml:1: network is a section and no setting; set what is in it, as network.KEY: "),
        ("[listners]\n", "alluvium.toml:1: listners is not a setting; did you mean listeners?"),
        ("[archive]\nsecret_access_key = 123456", "alluvium.toml:2: archive.secret_access_key: needs text in quotes"),
        ("[network\n", "alluvium.toml:1: "),
    ];

    #[test]
    fn what_is_not_a_setting_or_does_not_read_as_one_is_refused_with_file_and_line() {
        for (file, expected) in REFUSED {
            let error = load_all(Some(file), &[], &[]).unwrap_err();
            assert!(error.starts_with(expected), "{file}\n  got      {error}\n  expected {expected}");
            assert!(!error.contains("123456") && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_mistyped_variable_or_flag_is_named() {
        let error = load_all(None, &[("ALLUVIUM__NETWORK__MAXFRAME", "1")], &[("cluster.nodeid", "1")]).unwrap_err();
        let expected = "ALLUVIUM__NETWORK__MAXFRAME: network.maxframe is not a setting; did you mean network.max_frame?\n\
                        --set cluster.nodeid: cluster.nodeid is not a setting; did you mean cluster.node_id?";
        assert_eq!(error, expected);
    }

    #[test]
    fn a_missing_file_is_an_error() {
        let sources = Sources { file: Some(PathBuf::from("/nowhere/alluvium.toml")), ..Sources::default() };
        let error = load(&sources, &LocalDisk).unwrap_err().to_string();
        assert!(error.contains("path=/nowhere/alluvium.toml; check --config"), "{error}");
    }
}
