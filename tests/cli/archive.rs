//! The archive commands against what a broker archived, with the broker gone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use alluvium::runtime::clock::Clock;
use alluvium::runtime::production::SystemClock;
use serde_json::Value;

use crate::{alluvium, command, serve, signal, standard_error};

/// The first Parquet object below a directory.
fn parquet_object(directory: &Path) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().find_map(|path| {
        if path.is_dir() {
            parquet_object(path)
        } else {
            path.extension().is_some_and(|it| it == "parquet").then(|| path.clone())
        }
    })
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

    let object = parquet_object(&directory.path().join("object-store")).unwrap();
    let bytes = std::fs::read(&object).unwrap();
    std::fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
    let damaged = archive("verify", &[]);
    assert_eq!(damaged.status.code(), Some(3), "{}", standard_error(&damaged));
    assert!(String::from_utf8_lossy(&damaged.stdout).starts_with("DAMAGED flights partition 0"));
}
