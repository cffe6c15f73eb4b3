//! Good inputs to start from: what a broker writes, what Apache Kafka writes, and what once broke a decoder.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use alluvium::archive::key::{ClusterKeys, Fence, SegmentName, SegmentUuid};
use alluvium::archive::manifest::{Hex128, SpillList};
use alluvium::group::records::{CommittedOffset, Key, LogRecord, StoredGroup, StoredMember};
use alluvium::log::{ProducerRun, ProducerState, SEGMENT_HEADER_BYTES};
use alluvium::metadata::{Command as MetadataCommand, Image, command, snapshot};
use alluvium::record::compression::compress;
use alluvium::record::{BatchBuilder, BatchOptions, Compression, HeaderView};
use alluvium::types::{
    ClusterId, Incarnation, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId,
};
use bytes::Bytes;

type Seeds = BTreeMap<String, Vec<Vec<u8>>>;

/// Most bytes of one seed that is a part of a file.
const PART_BYTES: usize = 16 << 10;
/// More than any list is decompressed to.
const BOMB_BYTES: usize = 65 << 20;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// The seeds of a target.
pub fn of(target: &str) -> &'static [Vec<u8>] {
    static SEEDS: OnceLock<Seeds> = OnceLock::new();
    SEEDS.get_or_init(collect).get(target).map_or(&[], Vec::as_slice)
}

/// Writes the seeds of all targets where `ALLUVIUM_FUZZ_SEEDS` says.
pub fn export() {
    let Some(directory) = std::env::var_os("ALLUVIUM_FUZZ_SEEDS").map(PathBuf::from) else { return };
    for target in super::targets::TARGETS {
        let directory = directory.join(target.name);
        std::fs::create_dir_all(&directory).unwrap();
        for (number, seed) in of(target.name).iter().enumerate() {
            std::fs::write(directory.join(number.to_string()), seed).unwrap();
        }
    }
}

fn collect() -> Seeds {
    let mut seeds = Seeds::new();
    for target in super::targets::TARGETS {
        let corpus = corpus_of(target.name);
        seeds.entry(target.name.to_owned()).or_default().extend(corpus);
    }
    add_batches(&mut seeds);
    add_producers(&mut seeds);
    add_group_records(&mut seeds);
    add_metadata(&mut seeds);
    add_keys(&mut seeds);
    let bomb = compress(Compression::Zstd, &[0_u8].repeat(BOMB_BYTES)).unwrap();
    seeds.entry("spills".to_owned()).or_default().push(bomb);
    let directory = tempfile::tempdir().unwrap();
    run_a_broker(directory.path());
    add_files(&mut seeds, directory.path());
    seeds
}

/// The lines of a committed corpus: digits, and behind `#` why they are there.
fn corpus_of(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fuzz/corpus/{target}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    text.lines().map(|line| unhex(line.split('#').next().unwrap_or_default().trim())).collect()
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

fn add_batches(seeds: &mut Seeds) {
    let payload: Vec<u8> = (0..3000_u32).map(|n| (n * n % 251) as u8).collect();
    for codec in CODECS {
        let mut builder = BatchBuilder::new(BatchOptions::compressed(codec));
        for n in 0..3 {
            let headers = [HeaderView { key: b"h", value: None }, HeaderView { key: b"h", value: Some(b"v") }];
            let key: Option<&[u8]> = (n != 1).then_some(b"key");
            builder.append(
                Timestamp(1_700_000_000_000 + n),
                key,
                Some(b"value value value value"),
                headers.into_iter(),
            );
        }
        let batch = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
        for target in ["produced_batches", "stored_batches"] {
            seeds.entry(target.to_owned()).or_default().push(batch.bytes().to_vec());
        }
        if codec != Compression::None {
            let name = format!("{codec:?}").to_lowercase();
            seeds.entry(name).or_default().extend([compress(codec, &payload).unwrap(), batch.payload().to_vec()]);
        }
    }
    // Batches that can't be rows are rare: these stand for them. The target sets the checksums.
    let mut companion = b"ALVAUX\r\n\0\0\0\x01\0\0\0\0".to_vec();
    for (kind, content) in [(4, &seeds["stored_batches"][1][..]), (1, &seeds["stored_batches"][0]), (17, b"{}")] {
        companion.extend([kind, 0, 0, 0]);
        companion.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
        companion.extend([0; 8]);
        companion.extend(content);
    }
    seeds.entry("companions".to_owned()).or_default().push(companion);
    let kafka =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/record_batches.txt"));
    let kafka = kafka.unwrap();
    let lines = kafka.lines().filter(|line| !line.starts_with('#'));
    let batches = lines.filter_map(|line| line.split_whitespace().last()).map(unhex);
    seeds.entry("stored_batches".to_owned()).or_default().extend(batches);
}

fn add_producers(seeds: &mut Seeds) {
    let mut run = ProducerRun::new(ProducerState::default(), 10, Timestamp(5));
    for (producer, sequence) in [(7, 0), (7, 1), (9, 0)] {
        let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(0));
        let options = BatchOptions { producer_id, producer_epoch, base_sequence: sequence, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(options);
        builder.append(Timestamp(5), None, Some(b"value"), std::iter::empty());
        run.add(builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap().header());
    }
    let snapshot = run.snapshot(Offset(3)).expect("two producers are remembered");
    seeds.entry("producer_snapshots".to_owned()).or_default().push(snapshot.encode().to_vec());
}

fn add_group_records(seeds: &mut Seeds) {
    let subscription = b"\0\x03\0\0\0\x02\0\x01a\0\x02bb\xff\xff\xff\xff more".to_vec();
    seeds.entry("subscriptions".to_owned()).or_default().push(subscription);
    let offset = CommittedOffset {
        offset: 5,
        leader_epoch: LeaderEpoch(1),
        metadata: "text".into(),
        commit_timestamp: Timestamp(1000),
        expire_timestamp: None,
        topic_id: TopicId::from_entropy([3; 16]),
    };
    let member = StoredMember {
        member_id: "member".into(),
        group_instance_id: Some("instance".into()),
        client_id: "client".into(),
        client_host: "host".into(),
        rebalance_timeout_ms: 1000,
        session_timeout_ms: 1000,
        subscription: Bytes::from_static(b"subscription"),
        assignment: Bytes::from_static(b"assignment"),
    };
    let group = StoredGroup {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("member".into()),
        state_timestamp: Some(Timestamp(5)),
        members: vec![member],
    };
    let records = [
        LogRecord { key: Key::encode_group("group"), value: Some(group.encode()) },
        LogRecord { key: Key::encode_offset("group", "topic", 0), value: Some(offset.encode()) },
    ];
    let parts = records.iter().flat_map(|record| [Some(record.key.clone()), record.value.clone()]).flatten();
    seeds.entry("group_records".to_owned()).or_default().extend(parts.map(|part| part.to_vec()));
    seeds.entry("group_snapshots".to_owned()).or_default().push(alluvium::group::snapshot::encode(&records));
}

fn add_metadata(seeds: &mut Seeds) {
    let register = command::RegisterBroker {
        cluster_id: ClusterId::from_entropy([1; 16]),
        node_id: NodeId(1),
        incarnation_id: alluvium::types::BrokerIncarnationId::from_entropy([2; 16]),
        listeners: BTreeMap::from([(
            "a".to_owned(),
            command::Endpoint {
                host: "host".to_owned(),
                port: 9092,
                security_protocol: command::SecurityProtocol::Plaintext,
            },
        )]),
        rack: Some("rack".to_owned()),
        directories: vec![alluvium::types::DirectoryId::from_entropy([4; 16])],
        newest_leader_epoch: None,
        missed_registrations: 0,
        peer: None,
        starts_fenced: false,
        may_have_lost_unsynced: false,
    };
    let commands = [
        MetadataCommand::SetClusterId(register.cluster_id),
        MetadataCommand::RegisterBroker(register),
        MetadataCommand::DeleteTopic { topic_id: TopicId::from_entropy([2; 16]) },
    ];
    let mut image = Image::default();
    for command in &commands[..2] {
        alluvium::metadata::machine::apply(&mut image, command).unwrap();
    }
    let group = command::encode_group(&commands);
    // Format, kind and log id of an entry of the quorum's log before the commands.
    let entry = [&[1, 1], [0_u8; 20].as_slice(), &group].concat();
    seeds.entry("metadata_commands".to_owned()).or_default().push(group);
    seeds.entry("metadata_images".to_owned()).or_default().push(snapshot::encode(&image));
    let vote = vec![1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 1];
    let membership = br#"{"log_id":null,"voters":[[1]],"nodes":{"1":"a:1"}}"#;
    let membership = [&[1, 2], [0_u8; 20].as_slice(), membership].concat();
    seeds.entry("quorum_records".to_owned()).or_default().extend([entry, vote, membership]);
    let header = serde_json::json!({
        "format": 1, "cluster_id": ClusterId::from_entropy([1; 16]), "node_id": 1,
        "last_log_id": { "term": 1, "node_id": 1, "index": 5 },
        "membership": { "log_id": null, "voters": [[1]], "nodes": { "1": "a:1" } },
        "bytes": 100, "checksum": 7
    });
    seeds.entry("snapshot_headers".to_owned()).or_default().push(header.to_string().into_bytes());
}

fn add_keys(seeds: &mut Seeds) {
    let cluster = ClusterKeys::new(ClusterId::from_entropy([1; 16]));
    let keys = cluster.topic("some.topic-name", TopicId::from_entropy([2; 16])).partition(7);
    let name = SegmentName {
        base: Offset(5),
        next: Offset(1000),
        fence: Fence { incarnation: Incarnation(1), leader_epoch: LeaderEpoch(26) },
        uuid: SegmentUuid::from_entropy([3; 16]),
    };
    let keys = [
        name.to_string(),
        keys.parquet(&name),
        keys.companion(&name),
        keys.head(),
        keys.spill(Offset(5), Offset(1000), 3),
        cluster.group_snapshot(5, Hex128(7)),
    ];
    seeds.entry("keys".to_owned()).or_default().extend(keys.map(String::into_bytes));
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Has a broker write a file of every kind below a directory, and ends it.
fn run_a_broker(directory: &Path) {
    let directory = directory.to_str().expect("a path of our own");
    let settings = ["--set", "data.journal_file=1MiB", "--set", "data.journal_max=16MiB"];
    let serve = ["serve", "--data-dir", directory, "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let mut broker = program(&[&serve[..], &settings].concat()).spawn().unwrap();
    let bootstrap = bootstrap_of(&mut broker);
    let client = |arguments: &[&str], input: &str| {
        let mut child =
            program(&[arguments, &["--bootstrap", &bootstrap]].concat()).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{arguments:?}");
    };
    client(&["topic", "create", "seeds", "--partitions", "1"], "");
    let lines: String = (0..300).map(|n| format!("key{}\tvalue {n} of some length\n", n % 7)).collect();
    client(&["produce", "seeds", "-K", "\t", "-H", "name=value", "-z", "lz4"], &lines);
    client(&["produce", "seeds", "--batch-size", "1KiB"], &lines);
    client(&["archive", "flush", "seeds", "--wait"], "");
    client(&["produce", "seeds"], "hot\n");
    assert!(Command::new("kill").arg(broker.id().to_string()).status().unwrap().success());
    assert!(broker.wait().unwrap().success());
}

fn bootstrap_of(broker: &mut Child) -> String {
    let lines = BufReader::new(broker.stdout.take().unwrap()).lines();
    let mut printed = lines.map_while(Result::ok).take_while(|line| !line.contains("recovered"));
    let line = printed.find(|line| line.trim().starts_with("kafka")).expect("the broker says where it listens");
    line.split_whitespace().nth(1).expect("an address").to_owned()
}

/// The files of a broker, and the parts of them that targets take.
fn add_files(seeds: &mut Seeds, directory: &Path) {
    for (name, content) in files_below(directory) {
        let mut add = |target: &str, seed: &[u8]| seeds.entry(target.to_owned()).or_default().push(seed.to_vec());
        let part = |from: usize| &content[from.min(content.len())..(from + PART_BYTES).min(content.len())];
        match name.rsplit('.').next().unwrap_or_default() {
            "journal" => {
                add("journal_headers", &content[..4096]);
                add("journal_blocks", part(4096));
                add("journal_entries", part(4096 + 40));
            }
            "segment" => {
                add("segment_headers", part(0));
                add("stored_batches", part(SEGMENT_HEADER_BYTES as usize));
            }
            "index" => add("segment_indexes", &content),
            "parquet" => {
                let length = u32::from_le_bytes(content[content.len() - 8..][..4].try_into().unwrap()) as usize;
                add("parquet_footers", &content[content.len() - 8 - length..]);
                add("parquet_rows", &content);
            }
            "aux" => add("companions", &content),
            "identity" => add("identities", &content),
            "checkpoint" => add("checkpoints", &content),
            _ if name == "head.json" => {
                let head: serde_json::Value = serde_json::from_slice(&content).unwrap();
                let list = serde_json::json!({
                    "format": head["format"], "identity": head["identity"], "segments": head["segments"]
                });
                add("spilled_lists", list.to_string().as_bytes());
                add("spills", &serde_json::from_value::<SpillList>(list).unwrap().to_bytes());
                add("heads", &content);
            }
            "json" => add("stamps_of_the_bucket", &content),
            _ => {}
        }
    }
}

fn files_below(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("spool") {
            continue; // scratch, of which nothing is ever read
        }
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            found.push((name, std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
