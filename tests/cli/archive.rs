//! The archive commands against what a broker archived, with the broker gone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use alluvium::runtime::clock::Clock;
use alluvium::runtime::production::SystemClock;
use serde_json::Value;

use crate::{alluvium, command, serve, signal, standard_error};

/// The files below a directory.
fn objects(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] }).collect()
}

/// Where to change a byte: the first and last ones, and others all over the object.
fn positions(length: usize) -> Vec<usize> {
    let spread = (0..30).map(|part| part * length / 30 + part % 7);
    let mut positions: Vec<usize> = [0, 1, length - 2, length - 1].into_iter().chain(spread).collect();
    positions.retain(|&at| at < length);
    positions
}

#[test]
fn what_a_broker_archived_is_listed_verified_and_printed_from_the_bucket_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, printed) = serve(directory.path(), &["--set", "data.retention_interval=200ms"]);
    let bootstrap = printed.lines().find_map(|line| line.trim().strip_prefix("kafka")).unwrap();
    let bootstrap = bootstrap.split_whitespace().next().unwrap();
    alluvium(&["topic", "create", "flights", "--config", "segment.ms=500", "--bootstrap", bootstrap]);
    // The second append comes when the segment of the first is old enough to be sealed.
    for lines in ["one\ntwo\nthree\n", "four\n"] {
        let mut produce =
            command(&["produce", "flights", "--bootstrap", bootstrap]).stdin(Stdio::piped()).spawn().unwrap();
        produce.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(produce.wait().unwrap().success());
        assert!(Command::new("sleep").arg("0.7").status().unwrap().success());
    }

    let url = format!("file://{}/object-store", directory.path().display());
    let archive = |command: &str, more: &[&str]| {
        alluvium(&[&["archive", command, "flights", "--object-store", url.as_str()], more].concat())
    };
    let clock = SystemClock::new();
    let listed = loop {
        let output = archive("ls", &["--json"]);
        if let Ok(listed) = serde_json::from_slice::<Value>(&output.stdout) {
            break listed;
        }
        let waited = Duration::from_nanos(clock.monotonic().0);
        assert!(waited < Duration::from_secs(90), "not archived: {}", standard_error(&output));
    };
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));

    assert_eq!((&listed["log_start_offset"], &listed["records"]), (&0.into(), &listed["next_offset"]), "{listed}");
    assert_eq!(archive("cat", &["--format", r"%o=%s\n", "-n", "3"]).stdout, b"0=one\n1=two\n2=three\n");
    assert_eq!(archive("cat", &["--from", "2", "-n", "1"]).stdout, b"three\n");
    assert_eq!(archive("verify", &[]).status.code(), Some(0));

    let object_of = |name: &str| {
        let all = objects(&directory.path().join("object-store")).into_iter();
        let mut of_topic = all.filter(|path| path.to_str().is_some_and(|path| path.contains("/flights-")));
        of_topic.find(|path| path.to_str().is_some_and(|path| path.ends_with(name)))
    };
    for name in [".parquet", ".aux", "head.json", "topic.json"] {
        let object = object_of(name).unwrap_or_else(|| panic!("{name} was not written"));
        let bytes = std::fs::read(&object).unwrap();
        for at in positions(bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&object, &changed).unwrap();
            let damaged = archive("verify", &[]);
            assert_eq!(damaged.status.code(), Some(3), "byte {at} of {name}: {}", standard_error(&damaged));
        }
        std::fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(archive("verify", &[]).status.code(), Some(3), "{name} was cut");
        std::fs::write(&object, &bytes).unwrap();
    }
    assert_eq!(archive("verify", &[]).status.code(), Some(0));

    let object = object_of(".parquet").unwrap();
    std::fs::remove_file(object).unwrap();
    let damaged = archive("verify", &[]);
    assert_eq!(damaged.status.code(), Some(3), "{}", standard_error(&damaged));
    assert!(String::from_utf8_lossy(&damaged.stdout).starts_with("DAMAGED flights partition 0"));
}
