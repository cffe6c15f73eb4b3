//! `alluvium log` on single segments and on a whole data directory, whole and with each kind of damage.

use super::verify::{Contents, verify};
use super::*;
use crate::log::{DirectoryMetrics, DirectorySettings, LogDirectory, LogSettings, Owner, PartitionLog};
use crate::record::{BatchBuilder, BatchOptions, Compression};
use crate::runtime::Runtime;
use crate::runtime::disk::{read_file, replace_file};
use crate::runtime::production::LocalDisk;
use crate::sim::{Machine, Random};
use crate::types::{ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, Timestamp, TopicId, TopicPartition};

/// Writes a segment of three batches of two records, with its index.
fn write_segment(directory: &Path) -> PathBuf {
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
    let identity = Identity {
        cluster_id: ClusterId::from_bytes([1; 16]),
        directory_id: DirectoryId::from_bytes([2; 16]),
        node_id: NodeId(1),
        incarnation: Incarnation(0),
    };
    let header = SegmentHeader {
        partition: TopicPartition::new(TopicId::from_bytes([3; 16]), 0),
        base_offset: Offset(10),
        created_at: Timestamp(1_357_016_400_000),
    };
    let (segment, mut writer) = Segment::create(&SegmentHome::new(&disk, identity), directory, header).unwrap();
    let batches: Vec<Batch> = (0..3)
        .map(|index| {
            let mut builder = BatchBuilder::new(BatchOptions::compressed(Compression::Lz4));
            for value in [b"one", b"two"] {
                builder.append(Timestamp(1_357_016_400_000), None, Some(value), std::iter::empty());
            }
            builder.build(Offset(10 + 2 * index), LeaderEpoch(4)).unwrap()
        })
        .collect();
    segment.append(&mut writer, &batches).unwrap();
    segment.store_index().unwrap();
    segment.path().to_owned()
}

fn verify_path(path: &Path) -> Result<Contents, String> {
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
    let opened = open(&disk, path).map_err(|flaw| flaw.why)?;
    let mut progress = Progress::new(Runtime::production().clock, "checked", false);
    verify(&*disk, path, &opened, None, None, &mut progress).map_err(|flaw| flaw.why)
}

/// What `verify --json` prints of one segment.
fn verdict(path: &Path) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("printed");
    let mut output = Output::to(std::fs::File::create(&printed).unwrap());
    assert!(verify_all(&Runtime::production(), path, true, &mut output).is_err());
    serde_json::from_slice(&std::fs::read(&printed).unwrap()).unwrap()
}

#[test]
fn a_whole_segment_is_found_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_segment(directory.path());
    let contents = verify_path(&path).unwrap();
    assert_eq!((contents.batches, contents.records, contents.next_offset), (3, 6, Offset(16)));
    assert_eq!(segments(&LocalDisk, directory.path()).unwrap_or_default(), [path]);
}

#[test]
fn every_changed_byte_is_found_and_its_batch_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_segment(directory.path());
    let whole = std::fs::read(&path).unwrap();
    let batch_bytes = (whole.len() - 128) / 3;
    for position in 128..whole.len() {
        // Nothing covers the leader epoch, which the broker sets; that of the last batch might be a new one.
        if position >= 128 + 2 * batch_bytes && (12..16).contains(&((position - 128) % batch_bytes)) {
            continue;
        }
        let mut changed = whole.clone();
        changed[position] ^= 0x01;
        std::fs::write(&path, &changed).unwrap();
        let why = verify_path(&path).expect_err(&format!("byte {position}"));
        let batch = 128 + (position - 128) / batch_bytes * batch_bytes;
        // A lying length or offset is noticed where the next batch should be.
        let next = batch + batch_bytes;
        assert!(
            why.contains(&batch.to_string()) || why.contains(&next.to_string()) || why.contains("index"),
            "byte {position}: {why}"
        );
    }
}

#[test]
fn the_first_bad_byte_is_a_field_of_the_json() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_segment(directory.path());
    let whole = std::fs::read(&path).unwrap();
    let batch_bytes = (whole.len() - 128) / 3;
    for (changed, expected) in [(0, 0), (128 + 61, 128), (128 + batch_bytes + 61, 128 + batch_bytes)] {
        let mut bytes = whole.clone();
        bytes[changed] ^= 0x01;
        std::fs::write(&path, &bytes).unwrap();
        let verdict = verdict(&path);
        assert_eq!((&verdict["ok"], &verdict["position"]), (&json!(false), &json!(expected)), "{verdict}");
    }
}

#[test]
fn a_bad_index_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_segment(directory.path());
    let index = path.with_extension("index");
    let mut content = std::fs::read(&index).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&index, content).unwrap();
    let why = verify_path(&path).unwrap_err();
    assert!(why.contains("a broker makes it anew"), "{why}");
}

/// What a command prints, and whether it found damage.
fn run_on(path: &Path, is_dump: bool, json: bool) -> (String, Option<Exit>) {
    let captured = crate::cli::tests::Captured::default();
    let (disk, mut output): (Arc<dyn Disk>, _) = (Arc::new(LocalDisk), Output::to(captured.clone()));
    let result = match is_dump {
        true if is_index(path) => index::dump(&*disk, path, json, &mut output),
        true => {
            let mut progress = Progress::new(Runtime::production().clock, "printed", false);
            dump(&disk, path, true, json, &mut progress, &mut output).map(|bad| assert_eq!(bad, 1))
        }
        false => verify_all(&Runtime::production(), path, json, &mut output),
    };
    output.flush().unwrap();
    (captured.text(), result.err().map(|failure| failure.exit()))
}

#[test]
fn an_index_is_printed_and_checked_by_itself_and_against_its_segment() {
    let directory = tempfile::tempdir().unwrap();
    let segment = write_segment(directory.path());
    let index = segment.with_extension("index");
    let (printed, _) = run_on(&index, true, false);
    assert!(printed.contains("index of a segment up to offset 16") && printed.contains("1 entries"), "{printed}");
    assert!(printed.lines().nth(1).unwrap().starts_with("offset 10 at byte 128"), "{printed}");
    let (printed, _) = run_on(&index, true, true);
    let entry: Value = serde_json::from_str(printed.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&entry["offset"], &entry["position"]), (&json!(10), &json!(128)));
    let (said, exit) = run_on(&index, false, false);
    assert!(exit.is_none() && said.contains("1 entries, as its segment has them"), "{said}");

    // Whole by itself, and of a segment that is longer.
    let content = std::fs::read(&segment).unwrap();
    std::fs::write(&segment, &content[..128 + (content.len() - 128) / 3]).unwrap();
    let (said, exit) = run_on(&index, false, false);
    let why = "the file ends here, and its index has it up to byte ";
    assert!(exit == Some(Exit::Damaged) && said.contains(why), "{said}");
    std::fs::remove_file(&segment).unwrap();
    let (said, exit) = run_on(&index, false, false);
    assert!(exit.is_none() && said.contains("no segment beside it"), "{said}");
    let whole = std::fs::read(&index).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&index, changed).unwrap();
        assert_eq!(run_on(&index, false, false).1, Some(Exit::Damaged), "byte {at}");
    }
}

#[test]
fn a_batch_with_a_wrong_checksum_is_marked_and_the_others_are_printed() {
    let directory = tempfile::tempdir().unwrap();
    let segment = write_segment(directory.path());
    let mut content = std::fs::read(&segment).unwrap();
    let batch_bytes = (content.len() - 128) / 3;
    content[128 + 2 * batch_bytes - 1] ^= 1;
    std::fs::write(&segment, &content).unwrap();
    let (printed, _) = run_on(&segment, true, false);
    let marked: Vec<&str> = printed.lines().filter(|line| line.contains("DAMAGED")).collect();
    assert!(matches!(&marked[..], [line] if line.starts_with("offset 12..14")), "{printed}");
    assert_eq!(printed.matches("value=one").count(), 2, "{printed}");
    let (printed, _) = run_on(&segment, true, true);
    assert_eq!(printed.matches("\"error\":").count(), 1, "{printed}");
}

#[test]
fn a_segment_that_is_missing_beside_its_index_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let segment = write_segment(directory.path());
    std::fs::write(directory.path().join("00000000000000000003.index"), b"").unwrap();
    let (said, exit) = run_on(directory.path(), false, false);
    assert_eq!(exit, Some(Exit::Damaged));
    assert!(said.contains(&format!("ok {}", segment.display())), "{said}");
    assert!(said.contains("00000000000000000003.segment: it is missing"), "{said}");
}

const DATA: &str = "/data";

fn open_data(machine: &Machine) -> LogDirectory {
    let owner = Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    let (settings, metrics) = (DirectorySettings::default(), DirectoryMetrics::default());
    LogDirectory::open(&machine.runtime(), Path::new(DATA), owner, settings, metrics).unwrap().0
}

fn run(machine: &Machine) {
    machine.tasks.run_all(&mut Random::new(7));
}

/// Topic 1 and topic 2 have two partitions each, of a sealed segment of epoch 1 and an active one of epoch 2, in a directory
/// that was closed and is open again.
fn written() -> (Machine, LogDirectory) {
    let machine = Machine::new(7);
    let directory = open_data(&machine);
    for (topic, index) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        let partition = TopicPartition::new(TopicId::from_bytes([topic; 16]), index);
        let log = directory.log_or_create(partition, LogSettings::default());
        for epoch in [1, 2].map(LeaderEpoch) {
            log.begin_epoch(epoch).unwrap();
            append(&log, epoch);
            run(&machine);
            if epoch == LeaderEpoch(1) {
                log.request_roll();
                run(&machine);
            }
        }
    }
    directory.close();
    let directory = open_data(&machine);
    (machine, directory)
}

fn append(log: &Arc<PartitionLog>, epoch: LeaderEpoch) {
    for value in [b"one", b"two"] {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.append(Timestamp(1_357_016_400_000), None, Some(value), std::iter::empty());
        log.append(&builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap(), epoch, Timestamp(0), None).unwrap();
    }
}

/// What `verify` says of a path, and how many lines begin with DAMAGED.
fn verified(machine: &Machine, path: impl AsRef<Path>) -> (String, usize) {
    let captured = crate::cli::tests::Captured::default();
    let mut output = Output::to(captured.clone());
    let result = verify_all(&machine.runtime(), path.as_ref(), false, &mut output);
    output.flush().unwrap();
    let said = captured.text();
    let damaged = said.lines().filter(|line| line.starts_with("DAMAGED ")).count();
    let expected = if damaged == 0 { None } else { Some(Exit::Damaged) };
    assert_eq!(result.err().map(|failure| failure.exit()), expected, "{said}");
    (said, damaged)
}

fn segment_of(topic: u8, index: i32, base_offset: i64) -> PathBuf {
    let topic = Path::new(DATA).join("topics").join(TopicId::from_bytes([topic; 16]).to_string());
    topic.join(index.to_string()).join(format!("{base_offset:020}.segment"))
}

#[test]
fn a_segment_is_as_long_as_the_checkpoint_says_or_longer() {
    let (machine, directory) = written();
    let disk = machine.runtime().disk;
    assert_eq!(verified(&machine, DATA).1, 0);
    for path in [segment_of(1, 0, 0), segment_of(1, 0, 2)] {
        let whole = read_file(&*disk, &path, 1 << 20).unwrap();
        let batch_bytes = (whole.len() - 128) / 2;
        let _ = disk.remove_file(&path.with_extension("index"));
        for length in [0, 1, 56, 100, 127, 128, 129, 128 + batch_bytes, whole.len() - 1] {
            replace_file(&*disk, &path, &whole[..length]).unwrap();
            let line = format!("DAMAGED {}: byte {length}: the file ends here, ", path.display());
            for place in [Path::new(DATA), path.parent().unwrap(), &path] {
                let (said, damaged) = verified(&machine, place);
                assert!(damaged == 1 && said.contains(&line), "{length}: {said}");
            }
        }
        replace_file(&*disk, &path, &whole).unwrap();
    }
    // What came since the checkpoint is beyond it.
    let log = &directory.logs()[0];
    log.begin_epoch(LeaderEpoch(3)).unwrap();
    append(log, LeaderEpoch(3));
    log.request_roll();
    run(&machine);
    let (said, damaged) = verified(&machine, DATA);
    assert!(damaged == 0 && said.contains("up to offset 6"), "{said}");
}

#[test]
fn a_segment_is_where_its_header_says() {
    let (machine, _directory) = written();
    let disk = machine.runtime().disk;
    let content = read_file(&*disk, &segment_of(1, 0, 0), 1 << 20).unwrap();
    for path in [segment_of(1, 1, 0), segment_of(2, 0, 0), segment_of(1, 0, 2)] {
        let own = read_file(&*disk, &path, 1 << 20).unwrap();
        replace_file(&*disk, &path, &content).unwrap();
        let (said, damaged) = verified(&machine, &path);
        let topic = TopicId::from_bytes([1; 16]);
        let why =
            format!("the segment belongs elsewhere: its header says topic {topic}, partition 0, offset 0; move it");
        assert!(damaged == 1 && said.contains(&why) && !said.contains("delete"), "{said}");
        replace_file(&*disk, &path, &own).unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = std::fs::read(write_segment(elsewhere.path())).unwrap();
    replace_file(&*disk, &segment_of(1, 0, 0), &foreign).unwrap();
    let (said, damaged) = verified(&machine, segment_of(1, 0, 0));
    assert!(damaged == 1 && said.contains("the segment belongs to another data directory"), "{said}");
}

#[test]
fn what_the_checkpoint_lists_is_missed_unless_it_was_deleted() {
    // The directory of a partition, of its topic, and that of all topics.
    for (level, segments) in [(1, 2), (2, 4), (3, 8)] {
        let (machine, _directory) = written();
        let lost = segment_of(1, 1, 0).ancestors().nth(level).unwrap().to_owned();
        machine.runtime().disk.remove_directory(&lost).unwrap();
        let (said, damaged) = verified(&machine, DATA);
        assert!(damaged == segments && said.contains("it is missing, and the checkpoint lists it"), "{level}: {said}");
    }
    let (machine, directory) = written();
    let log = directory.log(TopicPartition::new(TopicId::from_bytes([1; 16]), 1)).unwrap();
    log.delete().unwrap();
    run(&machine);
    let (said, damaged) = verified(&machine, DATA);
    assert!(damaged == 0 && said.lines().count() == 6, "{said}");
}

#[test]
fn what_is_archived_or_deleted_may_be_gone_before_the_next_checkpoint() {
    let (machine, directory) = written();
    let log = directory.log(TopicPartition::new(TopicId::from_bytes([1; 16]), 0)).unwrap();
    log.advance_log_start(Offset(2)).unwrap();
    run(&machine);
    directory.request_checkpoint();
    run(&machine);
    assert_eq!(log.remove_local_below(Offset(2)).unwrap(), 1);
    assert_eq!(verified(&machine, DATA).1, 0);
    // But then there is a later one, though it be empty.
    machine.runtime().disk.remove_directory(segment_of(1, 0, 0).parent().unwrap()).unwrap();
    assert_eq!(verified(&machine, DATA).1, 2);
}

#[test]
fn a_changed_leader_epoch_is_found() {
    let (machine, _directory) = written();
    let disk = machine.runtime().disk;
    for (path, position) in [(segment_of(1, 0, 0), 128), (segment_of(1, 0, 2), 128)] {
        let whole = read_file(&*disk, &path, 1 << 20).unwrap();
        for byte in 12..16 {
            let mut changed = whole.clone();
            changed[position + byte] ^= 4;
            replace_file(&*disk, &path, &changed).unwrap();
            let (said, damaged) = verified(&machine, &path);
            assert!(damaged == 1 && said.contains("byte 128: the batch has leader epoch "), "{byte}: {said}");
        }
        replace_file(&*disk, &path, &whole).unwrap();
    }
}
