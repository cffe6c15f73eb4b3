//! The client commands against a running broker: the one that `ALLUVIUM_TEST_BOOTSTRAP` names, as Apache Kafka, or one of
//! alluvium's for each test.

use std::io::Write;
use std::process::{Child, Output, Stdio};

use serde_json::{Value, json};

use crate::{alluvium, command, serve, signal, standard_error};

/// A broker to test against, and a topic of its own.
struct Fixture {
    bootstrap: String,
    topic: String,
    started: Option<(Child, tempfile::TempDir)>,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let topic = format!("cli-{name}-{}", std::process::id());
        if let Ok(bootstrap) = std::env::var("ALLUVIUM_TEST_BOOTSTRAP") {
            return Self { bootstrap, topic, started: None };
        }
        let directory = tempfile::tempdir().unwrap();
        let (child, printed) = serve(directory.path(), &[]);
        let mut words = printed.split_whitespace().skip_while(|&word| word != "kafka");
        let bootstrap = words.nth(1).unwrap().to_owned();
        Self { bootstrap, topic, started: Some((child, directory)) }
    }

    /// Runs a command that has to succeed, and gives its output.
    fn run(&self, arguments: &[&str]) -> String {
        let output = alluvium(&[arguments, &["--bootstrap", &self.bootstrap]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", standard_error(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that has to fail; its exit code and its one line.
    fn fail(&self, arguments: &[&str]) -> (i32, String) {
        let output = alluvium(&[arguments, &["--bootstrap", &self.bootstrap]].concat());
        let error = standard_error(&output);
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        (output.status.code().unwrap(), error)
    }

    fn create(&self, partitions: &str) {
        self.run(&["topic", "create", &self.topic, "--partitions", partitions]);
    }

    fn produce(&self, arguments: &[&str], lines: &str) {
        let output = self.try_to_produce(arguments, lines);
        assert!(output.status.success(), "{arguments:?}: {}", standard_error(&output));
    }

    fn try_to_produce(&self, arguments: &[&str], lines: &str) -> Output {
        let arguments = [&["produce", &self.topic, "--bootstrap", &self.bootstrap], arguments].concat();
        let mut child = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn consume(&self, arguments: &[&str]) -> String {
        self.run(&[&["consume", &self.topic], arguments].concat())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        match &mut self.started {
            Some((broker, _)) => {
                signal(broker, "-TERM");
                broker.wait().unwrap();
            }
            None => {
                alluvium(&["topic", "delete", &self.topic, "--if-exists", "--bootstrap", &self.bootstrap]);
            }
        }
    }
}

#[test]
fn topics_are_created_described_altered_and_deleted() {
    let fixture = Fixture::new("topics");
    let topic = fixture.topic.as_str();
    let created = fixture.run(&["topic", "create", topic, "--partitions", "2", "--config", "retention.ms=86400000"]);
    assert_eq!(created, format!("created {topic}\n"));
    let (code, error) = fixture.fail(&["topic", "create", topic]);
    let hint = "; with --if-not-exists that is no error";
    assert!(code == 1 && error.contains("TopicAlreadyExists") && error.contains(hint), "{error}");
    assert_eq!(fixture.run(&["topic", "create", topic, "--if-not-exists"]), format!("exists {topic}\n"));
    fixture.run(&["topic", "alter", topic, "--partitions", "3", "--config", "segment.bytes=1048576"]);
    fixture.run(&["topic", "alter", topic, "--unset", "retention.ms"]);
    let described: Value = serde_json::from_str(&fixture.run(&["topic", "describe", topic, "--json"])).unwrap();
    assert_eq!(described["configs"], json!({ "segment.bytes": "1048576" }));
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3);
    let listed = fixture.run(&["topic", "list"]);
    assert!(listed.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == [topic, "3", "1"]), "{listed}");
    assert_eq!(fixture.run(&["topic", "delete", topic]), format!("deleted {topic}\n"));
    // One that is refused keeps no other.
    fixture.run(&["topic", "create", topic]);
    for names in [&[&format!("no-{topic}"), topic][..], &[topic]] {
        let (code, error) = fixture.fail(&[&["topic", "delete"], names].concat());
        assert!(code == 1 && error.contains("UnknownTopicOrPartition"), "{error}");
    }
}

#[test]
fn records_come_back_as_they_were_sent_in_every_codec() {
    let fixture = Fixture::new("codecs");
    fixture.create("1");
    let mut sent = Vec::new();
    for (index, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].iter().enumerate() {
        let records: Vec<Value> = (0..200)
            .map(|number| {
                json!({
                    "key": if number % 3 == 0 { Value::Null } else { json!(format!("key {number}")) },
                    "value": if number % 7 == 0 { Value::Null } else { json!(format!("{codec} {number} {}", "x".repeat(number))) },
                    "headers": [["a", "1"], ["a", null], ["b", { "base64": "/w==" }]],
                    "timestamp": 1_357_016_400_000_i64 + i64::from(index as i32) * 1000 + number as i64,
                })
            })
            .collect();
        let lines: Vec<String> = records.iter().map(Value::to_string).collect();
        fixture.produce(&["--json", "--compression", codec, "--batch-size", "4KiB"], &lines.join("\n"));
        sent.extend(records);
    }
    let read = fixture.consume(&["--json"]);
    let read: Vec<Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read.len(), sent.len());
    for (offset, (read, sent)) in read.iter().zip(&sent).enumerate() {
        for field in ["key", "value", "headers", "timestamp"] {
            assert_eq!(read[field], sent[field], "offset {offset} {field}");
        }
        assert_eq!(read["offset"], json!(offset));
    }
}

#[test]
fn reading_begins_and_stops_where_it_is_told() {
    let fixture = Fixture::new("positions");
    fixture.create("1");
    let record =
        |number: i64| json!({ "value": number.to_string(), "timestamp": 1_000_000 + number * 1000 }).to_string();
    let lines: Vec<String> = (0..100).map(record).collect();
    fixture.produce(&["--json"], &lines.join("\n"));
    let numbers = |range: std::ops::Range<i32>| range.map(|number| format!("{number}\n")).collect::<String>();
    for (arguments, expected) in [
        (&["--from", "97"][..], 97..100),
        (&["--from", "-2"], 98..100),
        (&["--from", "end"], 0..0),
        (&["--from", "10", "--until", "13"], 10..13),
        (&["--from", "@1050000", "--until", "@1052000"], 50..52),
        (&["--from", "@1049001", "--count", "1"], 50..51),
        (&["--from", "@9999999999999"], 0..0),
        (&["--until", "2", "--partition", "0"], 0..2),
    ] {
        assert_eq!(fixture.consume(arguments), numbers(expected), "{arguments:?}");
    }
    let (code, error) = fixture.fail(&["consume", &fixture.topic, "--partition", "5"]);
    assert!(code == 2 && error.contains("partition=5"), "{error}");
}

#[test]
fn what_comes_before_a_bad_line_is_sent_and_the_line_is_named() {
    let fixture = Fixture::new("bad-lines");
    fixture.create("1");
    for (arguments, lines, bad, before) in [
        (&["-K", ":"][..], "k:1\nk:2\nbad\nk:lost\n", "3 is not a record: no separator \":\" in it", "acknowledged: 2"),
        (&["--json"], "{\"value\":\"3\"}\n{\"vale\":4}\n", "2 is not a record: vale is not part", "acknowledged: 1"),
        (
            &["--json"],
            "{\"value\":\"4\"}\n{\"partition\":7}\n",
            "2 has nowhere to go: the topic has no",
            "acknowledged: 1",
        ),
        (&["--json", "--acks", "0"], "text", "1 is not a record: not a JSON object", "sent: 0"),
    ] {
        let output = fixture.try_to_produce(arguments, lines);
        let error = standard_error(&output);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.starts_with(&format!("error: line {bad}")), "{error}");
        assert!(error.ends_with(&format!("; records {before}\n")), "{error}");
    }
    assert_eq!(fixture.consume(&[]), "1\n2\n3\n4\n");
}

#[test]
fn separators_may_be_written_as_escapes() {
    let fixture = Fixture::new("escapes");
    fixture.create("1");
    fixture.produce(&["-K", r"\t"], "a\t1\nb\\t\t2\n");
    fixture.produce(&["-K", r"\x01\0"], "c\x01\x003\n");
    fixture.produce(&["-K", r"\\"], "d\\4\n");
    assert_eq!(fixture.consume(&["--format", r"%k\x3a%s\n"]), "a:1\nb\\t:2\nc:3\nd:4\n");
}

#[test]
fn keys_go_to_the_partition_that_the_java_client_chooses() {
    let fixture = Fixture::new("keys");
    fixture.create("6");
    fixture.produce(&["--key-separator", ":"], "21:a\nfoobar:b\na-little-bit-long-string:c\n21:d\n");
    let mut lines: Vec<String> = fixture.consume(&["--format", r"%k %p\n"]).lines().map(str::to_owned).collect();
    lines.sort();
    // Utils.toPositive(Utils.murmur2(key)) % 6 of the Java client.
    assert_eq!(lines, ["21 0", "21 0", "a-little-bit-long-string 2", "foobar 0"]);
}
