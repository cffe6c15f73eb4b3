//! The `alluvium` binary as its users meet it: processes, signals, pipes and exit codes.

mod archive;
mod hostile;
mod kafka;
mod leaderless;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use alluvium::runtime::clock::Clock;
use alluvium::runtime::production::SystemClock;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn alluvium(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn standard_error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Starts a broker on free ports and waits until it has printed its block, which is given too.
fn serve(directory: &Path, more: &[&str]) -> (Child, String) {
    let directory = directory.to_str().unwrap();
    let arguments = ["serve", "--data-dir", directory, "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let mut child = command(&[&arguments, more].concat()).spawn().unwrap();
    let mut printed = String::new();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    while !printed.contains("recovered") && lines.read_line(&mut printed).unwrap() > 0 {}
    if !printed.contains("recovered") {
        let mut error = String::new();
        child.stderr.as_mut().unwrap().read_to_string(&mut error).unwrap();
        panic!("serve printed only {printed:?}: {error}");
    }
    (child, printed)
}

/// Waits for a ready file.
fn wait_for(ready: &Path) {
    for _ in 0..600 {
        if ready.exists() {
            return;
        }
        assert!(Command::new("sleep").arg("0.1").status().unwrap().success());
    }
    panic!("{} did not come", ready.display());
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    for arguments in [
        &["serve", "--nonsense"][..],
        &["serve", "--set", "network.max_frme=1"],
        &["serve", "--kafka-listen", "0.0.0.0:9092"],
        &["config", "check", "--config", "/nowhere/alluvium.toml"],
        &["config", "check", "--object-store", "ftp://x"],
        &["serve", "--object-store", "s3://b/p", "--set", "archive.endpoint=nonsense"],
        &["archive", "ls", "--object-store", "s3://b/p", "--set", "archive.endpoint=localhost:9000"],
        &["topic", "list", "--bootstrap", "localhost"],
        &["topic", "list", "--bootstrap", "127.0.0.1:9092,"],
    ] {
        let output = alluvium(arguments);
        let error = standard_error(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        assert!(error.starts_with("error: ") && output.stdout.is_empty(), "{arguments:?}: {error}");
    }
}

#[test]
fn what_is_wrong_with_a_configuration_is_a_result_too() {
    let output = alluvium(&["config", "check", "--json", "--set", "data.journal_max=1MiB"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problem = json["problems"][0].as_str().unwrap();
    assert!(json["ok"] == false && problem.contains("two journal files"), "{json}");
    assert_eq!((output.status.code(), standard_error(&output)), (Some(2), format!("error: {problem}\n")));
}

#[test]
fn help_and_version_are_results_and_not_errors() {
    for arguments in [&["--help"][..], &["--version"], &["serve", "--help"], &["config", "docs"]] {
        let output = alluvium(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let mut child = command(&["config", "docs"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), standard_error(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_termination_signal_ends_a_broker_with_status_0() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["-TERM", "-INT"] {
        let (mut child, _) = serve(directory.path(), &[]);
        let clock = SystemClock::new();
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{name}");
        let took = Duration::from_nanos(clock.monotonic().0);
        assert!(took < Duration::from_secs(5), "{name} took {took:?}");
    }
}

#[test]
fn a_variable_that_is_not_text_is_refused_if_it_is_a_setting() {
    use std::os::unix::ffi::OsStrExt;
    let bad = std::ffi::OsStr::from_bytes(b"/data/\xff");
    let output = command(&["config", "check"]).env("ALLUVIUM__DATA__DIRECTORIES", bad).output().unwrap();
    let expected = "error: ALLUVIUM__DATA__DIRECTORIES: the variable is not UTF-8\n";
    assert_eq!((output.status.code(), standard_error(&output).as_str()), (Some(2), expected));
    let output = command(&["config", "check"]).env("SOMEBODY_ELSES", bad).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", standard_error(&output));
}

#[test]
fn a_broker_whose_output_nobody_reads_serves() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready");
    let data = directory.path().join("data");
    let listen = ["--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let files = ["--data-dir", data.to_str().unwrap(), "--ready-file", ready.to_str().unwrap()];
    let mut child = command(&[&["serve"], &listen[..], &files].concat()).spawn().unwrap();
    drop(child.stdout.take());
    wait_for(&ready);
    assert!(child.try_wait().unwrap().is_none());
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_during_a_start_that_waits_for_its_bucket_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    // It accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("archive.endpoint=http://{}", silent.local_addr().unwrap());
    let mut serve = command(&["serve", "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    serve.args(["--object-store", "s3://lake/case", "--set", &endpoint]).current_dir(directory.path());
    serve.envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ALLOW_HTTP", "true")]);
    let ready = directory.path().join("ready.json");
    std::fs::write(&ready, "of an earlier start").unwrap();
    let mut child = serve.args(["--ready-file", "ready.json"]).spawn().unwrap();
    silent.accept().unwrap();
    assert!(!ready.exists(), "a broker that is not ready yet is told to be");
    let clock = SystemClock::new();
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let took = Duration::from_nanos(clock.monotonic().0);
    assert!(took < Duration::from_secs(5), "took {took:?}");
}

#[test]
fn the_ready_file_names_the_addresses_that_were_bound() {
    let directory = tempfile::tempdir().unwrap();
    let mut serve = command(&["serve", "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    serve.args(["--ready-file", "ready.json"]).current_dir(directory.path());
    std::fs::write(directory.path().join("ready.json"), "of an earlier start").unwrap();
    let mut child = serve.spawn().unwrap();
    let mut printed = String::new();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap());
    while !printed.contains("recovered") && lines.read_line(&mut printed).unwrap() > 0 {}
    let path = directory.path().join("ready.json");
    let clock = SystemClock::new();
    while !path.exists() && Duration::from_nanos(clock.monotonic().0) < Duration::from_secs(10) {}
    let ready: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for name in ["kafka", "http"] {
        let address = ready[name].as_str().unwrap();
        std::net::TcpStream::connect(address).unwrap();
        assert!(printed.contains(address), "{printed}");
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_that_is_refused_leaves_no_ready_file_of_an_earlier_one() {
    let directory = tempfile::tempdir().unwrap();
    let ready = directory.path().join("ready.json");
    let ready_file = ["--ready-file", ready.to_str().unwrap()];
    std::fs::write(&ready, "of an earlier start").unwrap();
    let wrong = alluvium(&[&ready_file[..], &["--set", "network.max_frame=nonsense"]].concat());
    assert_eq!(wrong.status.code(), Some(2), "{}", standard_error(&wrong));
    assert!(!ready.exists());

    // Another process may have an address that is in use, but none that is not this machine's.
    std::fs::write(&ready, "of an earlier start").unwrap();
    let elsewhere = ["--kafka-listen", "192.0.2.1:9092", "--http-listen", "127.0.0.1:0", "--allow-insecure"];
    let data_directory = ["--data-dir", directory.path().to_str().unwrap()];
    let refused = alluvium(&[&ready_file[..], &data_directory, &elsewhere].concat());
    let error = standard_error(&refused);
    assert!(refused.status.code() == Some(1) && error.contains("cannot listen on 192.0.2.1:9092 for Kafka"), "{error}");
    assert!(!ready.exists());
}

#[test]
fn a_second_start_by_mistake_leaves_the_ready_file_of_the_broker_that_runs() {
    let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ready = directory.path().join("ready.json");
    let ready_file = ["--ready-file", ready.to_str().unwrap()];
    let (mut child, _) = serve(directory.path(), &ready_file);
    wait_for(&ready);
    let written = std::fs::read_to_string(&ready).unwrap();
    let addresses: serde_json::Value = serde_json::from_str(&written).unwrap();
    let address = |name: &str| addresses[name].as_str().unwrap().to_owned();
    let (kafka, http, any) = (address("kafka"), address("http"), "127.0.0.1:0");
    // The same command finds all of it taken; others find the data directory, or an address.
    for (data, kafka, http) in [
        (&directory, kafka.as_str(), http.as_str()),
        (&directory, any, any),
        (&other, kafka.as_str(), any),
        (&other, any, http.as_str()),
    ] {
        let data = data.path().to_str().unwrap();
        let again = ["serve", "--data-dir", data, "--kafka-listen", kafka, "--http-listen", http];
        let refused = alluvium(&[&again[..], &ready_file].concat());
        let error = standard_error(&refused);
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(std::fs::read_to_string(&ready).is_ok_and(|left| left == written), "{error}");
    }
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_whose_bucket_can_not_be_reached_is_told_by_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("archive.endpoint=http://{closed}");
    let mut serve = command(&["serve", "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    serve.args(["--object-store", "s3://lake/case", "--set", &endpoint]).current_dir(directory.path());
    serve.envs([("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ALLOW_HTTP", "true")]);
    let ended = serve.output().unwrap();
    assert_eq!(ended.status.code(), Some(4), "{}", standard_error(&ended));
}

#[test]
fn a_data_directory_in_use_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, _) = serve(directory.path(), &[]);
    let shown = directory.path().to_str().unwrap();
    let second =
        alluvium(&["serve", "--data-dir", shown, "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
    let error = standard_error(&second);
    let refusal = error.lines().find(|line| line.starts_with("error: "));
    assert!(refusal.is_some_and(|line| line.contains(shown) && line.contains("; stop that one")), "{error}");
    assert_eq!(second.status.code(), Some(1), "{error}");
    signal(&child, "-TERM");
    child.wait().unwrap();
}

/// What a start in a directory is refused with.
fn refused(directory: &Path, more: &[&str]) -> String {
    let directory = directory.to_str().unwrap();
    let arguments = ["--data-dir", directory, "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let output = alluvium(&[&arguments, more].concat());
    let error = standard_error(&output);
    assert_eq!(output.status.code(), Some(1), "{error}");
    error.lines().find(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{error}")).to_owned()
}

#[test]
fn a_start_that_is_refused_says_why_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut arguments = vec!["serve", "--data-dir", directory.path().to_str().unwrap()];
    arguments.extend(["--kafka-listen", &address, "--http-listen", "127.0.0.1:0"]);
    let error = standard_error(&alluvium(&arguments));
    let expected = format!("cannot listen on {address} for Kafka: ");
    assert!(error.contains(&expected) && error.contains("; choose another with --kafka-listen"), "{error}");

    let error = refused(directory.path(), &["--ready-file", "/nowhere/ready.json"]);
    assert!(error.contains("/nowhere/ready.json: ") && error.contains("; give --ready-file a path"), "{error}");

    let database = directory.path().join("metadata/metadata.redb");
    let bytes = std::fs::read(&database).unwrap();
    std::fs::write(&database, vec![0x5a; bytes.len()]).unwrap();
    let error = refused(directory.path(), &[]);
    let shown = database.parent().unwrap().to_str().unwrap();
    for part in [shown, "metadata database failed: ", "; look at the disk, and restore the directory from a copy"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    std::fs::write(&database, bytes).unwrap();

    let error = refused(directory.path(), &["--set", "cluster.node_id=77"]);
    assert!(
        error.contains("; set cluster.node_id to the one found") && error.matches(" path=").count() == 1,
        "{error}"
    );

    let other = tempfile::tempdir().unwrap();
    let (mut child, _) = serve(other.path(), &[]);
    signal(&child, "-TERM");
    child.wait().unwrap();
    std::fs::copy(other.path().join("identity"), directory.path().join("identity")).unwrap();
    let error = refused(directory.path(), &[]);
    assert!(error.contains("belongs elsewhere found=(cluster=") && !error.contains("Id("), "{error}");
}

#[test]
fn the_block_says_whose_data_is_where_and_what_was_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ["--set", "cluster.node_id=7", "--set", "data.checkpoint_interval=1h"];
    let (mut child, printed) = serve(directory.path(), &settings);
    let line = |printed: &str, name: &str| {
        let found = printed.lines().find_map(|line| line.trim().strip_prefix(name));
        found.unwrap_or_else(|| panic!("{name}: {printed}")).trim().to_owned()
    };
    let data = directory.path().display().to_string();
    let store = format!("file://{data}/object-store");
    assert_eq!((line(&printed, "data"), line(&printed, "archive")), (data, store.clone()));
    assert_eq!(line(&printed, "recovered"), "0 partitions, 0 bytes replayed");
    let cluster = line(&printed, "cluster");
    let (cluster_id, node) = cluster.split_once(' ').unwrap();
    assert_eq!(node, "node 7");
    let archived = |id: &str| alluvium(&["archive", "ls", "--object-store", &store, "--cluster", id]).status.code();
    assert_eq!((archived(cluster_id), archived(&"0".repeat(32))), (Some(0), Some(2)));

    let bootstrap = printed.split_whitespace().skip_while(|&word| word != "kafka").nth(1).unwrap();
    let mut produce = command(&["produce", "counted", "--bootstrap", bootstrap]).stdin(Stdio::piped()).spawn().unwrap();
    produce.stdin.take().unwrap().write_all(b"one\n").unwrap();
    assert!(produce.wait().unwrap().success());
    // No end that leaves nothing to replay.
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, printed) = serve(directory.path(), &settings);
    assert_eq!(line(&printed, "cluster"), cluster);
    let recovered = line(&printed, "recovered");
    let replayed = recovered.strip_suffix(" bytes replayed").and_then(|counts| counts.split_once(" partitions, "));
    let counts = replayed.map(|(partitions, bytes)| (partitions, bytes.parse::<u64>().unwrap() > 0));
    assert_eq!(counts, Some(("1", true)), "{recovered}");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_block_shows_what_clients_are_told() {
    let directory = tempfile::tempdir().unwrap();
    for (advertised, shown) in [("localhost:0", ", advertised as localhost:"), ("127.0.0.1:0", "(default)")] {
        let (mut child, printed) = serve(directory.path(), &["--kafka-advertise", advertised]);
        let line = printed.lines().find(|line| line.trim().starts_with("kafka"));
        assert!(line.is_some_and(|line| line.contains(shown)), "{printed}");
        signal(&child, "-TERM");
        child.wait().unwrap();
    }
}

#[test]
fn partitions_are_written_and_read_in_turns() {
    let directory = tempfile::tempdir().unwrap();
    let (mut child, printed) = serve(directory.path(), &["--set", "network.fetch_max=1MiB"]);
    let bootstrap = printed.split_whitespace().skip_while(|&word| word != "kafka").nth(1).unwrap();
    let created = alluvium(&["topic", "create", "turns", "--partitions", "2", "--bootstrap", bootstrap]);
    assert!(created.status.success(), "{}", standard_error(&created));
    for (partition, kib, lines) in [("0", 800, 4), ("1", 400, 1)] {
        let arguments = ["produce", "turns", "--partition", partition, "--bootstrap", bootstrap];
        let mut produce = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
        let line = "x".repeat(kib << 10) + "\n";
        produce.stdin.take().unwrap().write_all(line.repeat(lines).as_bytes()).unwrap();
        assert!(produce.wait().unwrap().success());
    }
    let consumed = alluvium(&["consume", "turns", "--format", r"%p\n", "--bootstrap", bootstrap]);
    assert_eq!(String::from_utf8(consumed.stdout).unwrap(), "0\n1\n0\n0\n0\n");

    // Records without a key go on with the next partition after each batch, also where one leaves room that is too small.
    let created = alluvium(&["topic", "create", "spread", "--partitions", "3", "--bootstrap", bootstrap]);
    assert!(created.status.success(), "{}", standard_error(&created));
    let arguments = ["produce", "spread", "--batch-size", "10KiB", "--bootstrap", bootstrap];
    let mut produce = command(&arguments).stdin(Stdio::piped()).spawn().unwrap();
    let line = "x".repeat(6 << 10) + "\n";
    produce.stdin.take().unwrap().write_all(line.repeat(9).as_bytes()).unwrap();
    assert!(produce.wait().unwrap().success());
    let consumed = alluvium(&["consume", "spread", "--format", r"%p\n", "--bootstrap", bootstrap]);
    let mut partitions: Vec<_> = consumed.stdout.lines().map(Result::unwrap).collect();
    partitions.sort();
    assert_eq!(partitions.join(""), "000111222");
    signal(&child, "-TERM");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
