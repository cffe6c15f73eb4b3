//! The archive commands against what a broker archived, with the broker gone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use alluvium::archive::manifest::{ClusterStamp, Head};
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

/// An archive of one topic in a directory, and the broker that made it gone.
struct Archive {
    directory: tempfile::TempDir,
    /// What `ls` says.
    listed: Value,
}

impl Archive {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (mut child, printed) = serve(directory.path(), &["--set", "data.retention_interval=200ms"]);
        let bootstrap = printed.lines().find_map(|line| line.trim().strip_prefix("kafka")).unwrap();
        let bootstrap = bootstrap.split_whitespace().next().unwrap();
        alluvium(&["topic", "create", "flights", "--config", "segment.ms=500", "--bootstrap", bootstrap]);
        for (name, setting, why) in [
            ("local", "remote.storage.enable=false", "topic local is not archived"),
            ("uncopied", "remote.log.copy.disable=true", "topic uncopied is not copied to the archive"),
        ] {
            alluvium(&["topic", "create", name, "--config", setting, "--bootstrap", bootstrap]);
            let refused = alluvium(&["archive", "flush", name, "--wait", "--bootstrap", bootstrap]);
            assert_eq!(refused.status.code(), Some(1));
            assert!(standard_error(&refused).contains(why), "{}", standard_error(&refused));
        }
        // The second append comes when the segment of the first is old enough to be sealed.
        for lines in ["one\ntwo\nthree\n", "four\n"] {
            let mut produce =
                command(&["produce", "flights", "--bootstrap", bootstrap]).stdin(Stdio::piped()).spawn().unwrap();
            produce.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
            assert!(produce.wait().unwrap().success());
            assert!(Command::new("sleep").arg("0.7").status().unwrap().success());
        }
        let mut archive = Self { directory, listed: Value::Null };
        let clock = SystemClock::new();
        while archive.listed.is_null() {
            let output = archive.run("ls", &["--json"]);
            archive.listed = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let waited = Duration::from_nanos(clock.monotonic().0);
            assert!(waited < Duration::from_secs(90), "not archived: {}", standard_error(&output));
        }
        signal(&child, "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        archive
    }

    fn store(&self) -> PathBuf {
        self.directory.path().join("object-store")
    }

    fn run(&self, command: &str, more: &[&str]) -> Output {
        let url = format!("file://{}", self.store().display());
        alluvium(&[&["archive", command, "flights", "--object-store", url.as_str()], more].concat())
    }

    /// Has the archive checked, and gives what was said of the damage.
    fn damage(&self) -> String {
        let output = self.run("verify", &[]);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), standard_error(&output));
        assert_eq!(output.status.code(), Some(3), "{said}");
        said
    }

    fn object(&self, name: &str) -> PathBuf {
        let found =
            objects(&self.store()).into_iter().find(|path| path.to_str().is_some_and(|path| path.contains(name)));
        found.unwrap_or_else(|| panic!("{name} was not written"))
    }
}

#[test]
fn what_a_broker_archived_is_listed_verified_and_printed_from_the_bucket_alone() {
    let archive = Archive::make();
    let listed = &archive.listed;
    assert_eq!((&listed["log_start_offset"], &listed["records"]), (&0.into(), &listed["next_offset"]), "{listed}");
    assert_eq!(archive.run("cat", &["--format", r"%o=%s\n", "-n", "3"]).stdout, b"0=one\n1=two\n2=three\n");
    assert_eq!(archive.run("cat", &["--from", "2", "-n", "1"]).stdout, b"three\n");
    assert_eq!(archive.run("verify", &[]).status.code(), Some(0));

    // What a broker on this machine could not do does not matter to who looks into a bucket.
    let elsewhere = ["--set", "listeners.kafka.a.address=0.0.0.0:9092", "--set", "memory.tail_percent=1"];
    assert_eq!(archive.run("cat", &[&["-n", "1"], &elsewhere[..]].concat()).stdout, b"one\n");
    let unknown = archive.run("ls", &["--cluster", "000000000000000000000000000000ff"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(standard_error(&unknown).contains("holds no cluster 000000000000000000000000000000ff"));

    let stamp = archive.object("cluster.json");
    let ours = stamp.parent().unwrap();
    let other = ours.with_file_name("000000000000000000000000000000ff");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(&stamp, other.join("cluster.json")).unwrap();
    let several = archive.run("ls", &[]);
    let ours = ours.file_name().unwrap().to_str().unwrap();
    assert_eq!(several.status.code(), unknown.status.code());
    let said = standard_error(&several);
    assert!(said.contains(ours) && said.contains("000000000000000000000000000000ff"), "{said}");
    assert_eq!(archive.run("ls", &["--cluster", ours]).status.code(), Some(0));
    std::fs::remove_dir_all(&other).unwrap();

    // As a check would: what is printed is not known to be all.
    let object = archive.object(".parquet");
    let bytes = std::fs::read(&object).unwrap();
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    for damaged in [Some(&changed[..]), Some(&bytes[..bytes.len() / 2]), None] {
        std::fs::remove_file(&object).unwrap();
        if let Some(damaged) = damaged {
            std::fs::write(&object, damaged).unwrap();
        }
        let output = archive.run("cat", &[]);
        let error = standard_error(&output);
        assert_eq!((output.status.code(), error.lines().count()), (Some(3), 1), "{error}");
        std::fs::write(&object, &bytes).unwrap();
    }
}

#[test]
fn a_store_that_does_not_answer_is_unreachable_and_is_waited_for_as_long_as_is_set() {
    // It accepts connections and never answers; once it is closed, it refuses them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut list =
        command(&["archive", "ls", "--object-store", "s3://lake/p", "--set", "archive.request_timeout=200ms"]);
    list.envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ALLOW_HTTP", "true")]);
    list.env("AWS_ENDPOINT_URL", endpoint);
    let clock = SystemClock::new();
    let hanging = list.output().unwrap();
    assert_eq!(hanging.status.code(), Some(4), "{}", standard_error(&hanging));
    drop(silent);
    let closed = list.output().unwrap();
    assert_eq!(closed.status.code(), Some(4), "{}", standard_error(&closed));
    let waited = Duration::from_nanos(clock.monotonic().0);
    assert!(waited < Duration::from_secs(25), "{waited:?}");
}

#[test]
fn a_local_segment_that_only_the_checkpoint_knows_of_is_missed() {
    let archive = Archive::make();
    let directory = archive.directory.path();
    let verify = || alluvium(&["log", "verify", directory.to_str().unwrap()]);
    let archived = objects(&directory.join("topics"));
    let (mut child, printed) = serve(directory, &[]);
    let bootstrap = printed.split_whitespace().skip_while(|&word| word != "kafka").nth(1).unwrap();
    let mut produce = command(&["produce", "local", "--bootstrap", bootstrap]).stdin(Stdio::piped()).spawn().unwrap();
    produce.stdin.take().unwrap().write_all(b"one\n").unwrap();
    assert!(produce.wait().unwrap().success());
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(verify().status.code(), Some(0), "{}", said(&verify()));

    // One that is in the archive may have gone since the checkpoint.
    let first = archived.iter().find(|path| path.extension().unwrap() == "index").unwrap();
    std::fs::remove_file(first).unwrap();
    std::fs::remove_file(first.with_extension("segment")).unwrap();
    assert_eq!(verify().status.code(), Some(0), "{}", said(&verify()));

    let local = objects(&directory.join("topics")).into_iter().find(|path| !archived.contains(path)).unwrap();
    std::fs::remove_file(&local).unwrap();
    let verified = verify();
    assert_eq!(verified.status.code(), Some(3), "{}", said(&verified));
    let line = format!("DAMAGED {}: it is missing, and the checkpoint lists it", local.display());
    assert!(said(&verified).contains(&line), "{}", said(&verified));
}

#[test]
fn damage_in_any_object_of_the_bucket_is_found() {
    let archive = Archive::make();
    let of_cluster = ["cluster.json", "meta/producer-ids.json", "meta/groups.json", "meta/groups/", "topic.json"];
    for name in of_cluster.into_iter().chain([".parquet", ".aux", "head.json"]) {
        let object = archive.object(name);
        let bytes = std::fs::read(&object).unwrap();
        for at in positions(bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(&object, &changed).unwrap();
            archive.damage();
        }
        std::fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
        archive.damage();
        if of_cluster.contains(&name) {
            std::fs::remove_file(&object).unwrap();
            let said = archive.damage();
            let key = object.strip_prefix(archive.store()).unwrap().display().to_string();
            assert!(said.contains("object is missing: ") && said.contains(&key), "{said}");
        }
        std::fs::write(&object, &bytes).unwrap();
    }
    assert_eq!(archive.run("verify", &[]).status.code(), Some(0));

    // Whole, and of another cluster: what is sealed again passes its own checksum alone.
    let object = archive.object("cluster.json");
    let bytes = std::fs::read(&object).unwrap();
    let cluster_id = "000000000000000000000000000000ff".parse().unwrap();
    let stamp = ClusterStamp { cluster_id, ..ClusterStamp::parse(&bytes).unwrap() };
    std::fs::write(&object, stamp.to_bytes()).unwrap();
    assert!(archive.damage().contains("another cluster"));
    std::fs::write(&object, bytes).unwrap();

    std::fs::remove_file(archive.object(".parquet")).unwrap();
    assert!(archive.damage().starts_with("DAMAGED flights partition 0"));
}

#[test]
fn a_head_that_lacks_a_segment_or_has_one_twice_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, printed) = serve(directory.path(), &["--set", "data.checkpoint_interval=200ms"]);
    let bootstrap = printed.split_whitespace().skip_while(|&word| word != "kafka").nth(1).unwrap();
    for line in ["one\n", "two\n", "three\n"] {
        let mut produce =
            command(&["produce", "flights", "--bootstrap", bootstrap]).stdin(Stdio::piped()).spawn().unwrap();
        produce.stdin.take().unwrap().write_all(line.as_bytes()).unwrap();
        assert!(produce.wait().unwrap().success());
        let flushed = alluvium(&["archive", "flush", "flights", "--wait", "--bootstrap", bootstrap]);
        assert!(flushed.status.success(), "{}", said(&flushed));
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let archive = Archive { directory, listed: Value::Null };
    let object = archive.object("head.json");
    let whole = Head::parse_any(&std::fs::read(&object).unwrap()).unwrap();
    assert_eq!(whole.segments.len(), 3);
    // Sealed again, so that it passes its own checksum.
    let write = |head: &Head| std::fs::write(&object, head.to_bytes()).unwrap();
    for at in [0, 1] {
        let mut head = whole.clone();
        head.segments.remove(at);
        write(&head);
        let said = archive.damage();
        assert!(said.contains(&format!("  offsets are missing before this segment offset={at} key=")), "{said}");
    }
    let mut head = whole.clone();
    head.segments.pop();
    write(&head);
    let said = archive.damage();
    assert!(said.contains("  the head ends beyond its last segment offset=2 key="), "{said}");
    head.segments.insert(1, whole.segments[0].clone());
    write(&head);
    let said = archive.damage();
    assert!(said.contains("manifest contradicts itself: segments overlap at_offset=0"), "{said}");
    write(&whole);
    assert_eq!(archive.run("verify", &[]).status.code(), Some(0));
}

/// What `archive` says of all topics, or of the one.
fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), standard_error(output))
}

#[test]
fn a_lost_or_damaged_head_is_found_and_hides_no_other_partition() {
    let archive = Archive::make();
    let url = format!("file://{}", archive.store().display());
    let list = || alluvium(&["archive", "ls", "--object-store", &url]);
    assert_eq!(list().status.code(), Some(0));
    // The objects of another partition, whose head is not there.
    let of_partition_0 = archive.object("kafka_partition=0").parent().unwrap().to_owned();
    let of_partition_1 = of_partition_0.with_file_name("kafka_partition=1");
    std::fs::create_dir(&of_partition_1).unwrap();
    let first_base = format!("{:020}-", 0);
    let of_first = |object: &&PathBuf| object.file_name().unwrap().to_str().unwrap().starts_with(&first_base);
    for object in objects(&of_partition_0).iter().filter(of_first) {
        std::fs::copy(object, of_partition_1.join(object.file_name().unwrap())).unwrap();
    }
    let young = archive.run("verify", &[]);
    assert_eq!(young.status.code(), Some(0), "{}", said(&young));
    assert!(said(&young).contains("new flights partition 1: objects without a head"), "{}", said(&young));
    assert_eq!(list().status.code(), Some(0));

    // Those of a second segment came after a head.
    let object = objects(&of_partition_1).remove(0);
    let name = object.file_name().unwrap().to_str().unwrap();
    let second = of_partition_1.join(name.replace(&first_base, &format!("{:020}-", 1)));
    std::fs::copy(&object, &second).unwrap();
    assert!(archive.damage().contains("DAMAGED flights partition 1"));
    std::fs::remove_file(second).unwrap();
    assert_eq!(archive.run("verify", &[]).status.code(), Some(0));

    for object in objects(&of_partition_1) {
        let file = std::fs::File::options().write(true).open(object).unwrap();
        file.set_modified(file.metadata().unwrap().modified().unwrap() - Duration::from_secs(3600)).unwrap();
    }
    let lost = "objects without a head: its first upload is under way or broke off, or the head is lost";
    let verified = archive.damage();
    assert!(verified.starts_with("ok flights partition 0") && verified.contains("ok what a restore"), "{verified}");
    assert!(verified.contains("DAMAGED flights partition 1") && verified.contains(lost), "{verified}");
    for output in [archive.run("verify", &["-p", "1"]), archive.run("ls", &[]), list(), archive.run("cat", &[])] {
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(said(&output).contains(lost), "{}", said(&output));
    }
    assert_eq!(archive.run("verify", &["-p", "0"]).status.code(), Some(0));
    assert_eq!(archive.run("verify", &["-p", "2"]).status.code(), Some(2));

    // A head that is there and can't be read.
    let head = archive.object("head.json");
    let of_partition_1 = head.parent().unwrap().with_file_name("p=00001");
    std::fs::create_dir(&of_partition_1).unwrap();
    // Of the other partition, of whom all would be told twice.
    std::fs::copy(&head, of_partition_1.join("head.json")).unwrap();
    let verified = archive.damage();
    assert!(verified.contains("manifest belongs to another partition expected=1 found=0"), "{verified}");
    assert!(verified.starts_with("ok flights partition 0") && verified.contains("p=00001/head.json"), "{verified}");
    std::fs::write(of_partition_1.join("head.json"), b"{}").unwrap();
    let verified = archive.damage();
    assert!(verified.starts_with("ok flights partition 0") && verified.contains("p=00001/head.json"), "{verified}");
    let listed = list();
    assert_eq!(listed.status.code(), Some(3), "{}", said(&listed));
    assert!(String::from_utf8_lossy(&listed.stdout).contains("flights "), "{}", said(&listed));
    assert!(standard_error(&listed).contains("p=00001/head.json"), "{}", said(&listed));
}
