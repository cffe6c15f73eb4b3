//! Doors: which dependency, and which part of the standard library, may be named where.

use super::imports;
use super::source::{Source, Tree, Violation};

/// A crate or path, and the places under `src/` that may name it; the empty place is everywhere.
type Door = (&'static str, &'static [&'static str]);

const ANYWHERE: &[&str] = &[""];
const SEAMS: &[&str] = &["runtime/production/"];

const DOORS: &[Door] = &[
    // the machine
    ("std::fs", SEAMS),
    ("std::thread", SEAMS),
    ("std::time::Instant", SEAMS),
    ("std::time::SystemTime", SEAMS),
    ("std::net::TcpStream", SEAMS),
    ("std::net::TcpListener", SEAMS),
    ("std::net::UdpSocket", &["runtime/production/", "config/host.rs"]),
    ("tokio::net", SEAMS),
    ("tokio::fs", SEAMS),
    ("tokio::signal", &["cli/"]),
    ("std::env", &["cli/", "config/", "main.rs"]),
    ("std::process", &["cli/", "main.rs", "runtime/production/"]),
    ("rustix", &["runtime/production/", "config/host.rs", "cli/serve.rs"]),
    ("getrandom", SEAMS),
    // one room per capability
    ("openraft", &["metadata/raft/"]),
    ("redb", &["metadata/raft/"]),
    ("rand_core", &["metadata/raft/"]),
    ("quinn", &["runtime/production/quic.rs"]),
    ("webpki", &["runtime/production/", "peer/"]),
    ("rcgen", &["peer/"]),
    ("x509_parser", &["peer/"]),
    ("ring", &["runtime/production/", "peer/"]),
    ("object_store", &["archive/store/"]),
    ("reqwest", &["archive/store/"]),
    ("rustls", &["runtime/production/", "archive/store/", "peer/"]),
    ("parquet", &["archive/parquet/"]),
    ("arrow_array", &["archive/parquet/"]),
    ("arrow_buffer", &["archive/parquet/"]),
    ("arrow_schema", &["archive/parquet/"]),
    ("kafka_protocol", &["protocol/", "server/", "cli/"]),
    ("zstd", &["record/", "archive/"]),
    ("lz4_flex", &["record/"]),
    ("snap", &["record/"]),
    ("flate2", &["record/"]),
    ("prometheus_client", &["telemetry/", "http/"]),
    ("tracing_subscriber", &["telemetry/", "cli/"]),
    ("axum", &["http/"]),
    ("figment", &["config/"]),
    ("toml", &["config/"]),
    ("toml_edit", &["config/"]),
    ("strsim", &["config/", "cli/"]),
    ("clap", &["cli/", "config/", "main.rs"]),
    ("anyhow", &["cli/", "config/", "main.rs"]),
    // tools of the trade
    ("tokio", ANYWHERE),
    ("futures_util", ANYWHERE),
    ("bytes", ANYWHERE),
    ("parking_lot", ANYWHERE),
    ("uuid", ANYWHERE),
    ("thiserror", ANYWHERE),
    ("tracing", ANYWHERE),
    ("crc32c", ANYWHERE),
    ("xxhash_rust", ANYWHERE),
    ("base64", &["cli/", "peer/"]),
    ("url", &["archive/", "config/"]),
    ("serde", ANYWHERE),
    ("serde_json", ANYWHERE),
    ("imbl", &["metadata/"]),
];

/// Finds a crate or a part of the standard library that is named outside its room. Tests are free.
pub fn dependencies_are_named_behind_their_doors(tree: &Tree, found: &mut Vec<Violation>) {
    for source in tree.rust().filter(|source| source.path.starts_with("src/")) {
        let tests = tree.test_lines(source);
        let free = |line: usize| tests.iter().any(|range| range.contains(&(line - 1)));
        for named in imports::paths(source).into_iter().filter(|named| !free(named.line)) {
            if let Some((door, places)) = DOORS.iter().find(|door| leads_out(source, &named.path, door)) {
                let message = format!("`{door}` may be named only in {}", places.join(", "));
                found.push(Violation::new(&source.path, named.line, message));
            }
        }
    }
}

fn leads_out(source: &Source, path: &str, (door, places): &Door) -> bool {
    let place = source.path.strip_prefix("src/").unwrap_or_default();
    let through = path == *door || path.strip_prefix(door).is_some_and(|rest| rest.starts_with("::"));
    through && !places.iter().any(|allowed| place.starts_with(allowed)) && !imports::is_local(source, door)
}

/// Makes whoever adds a dependency say where it may be named.
pub fn every_dependency_has_a_door(tree: &Tree, found: &mut Vec<Violation>) {
    let Some(manifest) = tree.get("Cargo.toml") else { return };
    let mut section = "";
    for (index, line) in manifest.text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim();
        } else if section == "[dependencies]"
            && let Some((name, _)) = line.split_once('=').filter(|(name, _)| !name.starts_with('#'))
        {
            let name = name.trim().replace('-', "_");
            if !DOORS.iter().any(|(door, _)| *door == name) {
                let message = format!("say in tests/tidy/doors.rs where `{name}` may be named");
                found.push(Violation::new(&manifest.path, index + 1, message));
            }
        }
    }
}
