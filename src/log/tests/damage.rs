//! Files that are lost or damaged between two lives: what is put together again, what is refused, and what is told to readers.

use super::*;
use crate::log::Missing;
use crate::log::segment::{SEGMENT_HEADER_BYTES, SegmentWriter};
use crate::runtime::disk::Disk;

/// Many small segments, sealed and known to a checkpoint.
fn with_segments(records: u8) -> Fixture {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    log.configure(LogSettings { segment_bytes: 4 << 10, ..LogSettings::default() });
    for value in 0..records {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
        fixture.run();
    }
    fixture
}

/// Stops cleanly; the segment files, oldest first.
fn stopped(fixture: Fixture) -> (Machine, Vec<PathBuf>) {
    let Fixture { machine, directory, .. } = fixture;
    directory.close();
    machine.kill();
    let segments = machine.disk.files();
    let segments = segments.into_iter().filter(|path| path.extension().is_some_and(|found| found == "segment"));
    let segments = segments.collect();
    (machine, segments)
}

fn reopen(machine: &Machine) -> (LogDirectory, RecoveryReport) {
    reopen_counted(machine, &DirectoryMetrics::default())
}

fn reopen_counted(machine: &Machine, metrics: &DirectoryMetrics) -> (LogDirectory, RecoveryReport) {
    open_reported(machine, metrics.clone()).unwrap()
}

fn read(directory: &LogDirectory, from: i64) -> Result<usize, ReadError> {
    let log = directory.logs()[0].clone();
    let chunks = log.read(Offset(from), log.offsets().high_watermark, 1)?.execute()?;
    Ok(chunks.len())
}

fn checkpoint() -> PathBuf {
    PathBuf::from("/data/checkpoint")
}

/// Everything is there, and a retried batch is known.
fn check_whole(directory: &LogDirectory, end: i64) {
    let log = directory.logs()[0].clone();
    assert_eq!(log.offsets().log_end, Offset(end));
    assert!((log.offsets().local_log_start.0..end).all(|offset| matches!(read(directory, offset), Ok(1))));
    assert_eq!(log.epochs().latest(), Some(LeaderEpoch(1)));
}

#[test]
fn a_checkpoint_that_is_lost_or_damaged_is_rebuilt_after_a_clean_stop() {
    for damage in [SimDamage::Lost, SimDamage::Flipped] {
        let (machine, _) = stopped(with_segments(120));
        damage.apply(&machine, &checkpoint());
        let (directory, report) = reopen(&machine);
        assert!(report.rebuilt.partitions == 1 && report.rebuilt.segments > 1, "{report:?}");
        check_whole(&directory, 120);
        // It is written again soon, and the next start has nothing to rebuild.
        machine.tasks.run_all(&mut Random::new(1));
        drop(directory);
        machine.kill();
        let (directory, report) = reopen(&machine);
        assert_eq!(report.rebuilt.partitions, 0);
        check_whole(&directory, 120);
    }
}

enum SimDamage {
    Lost,
    Flipped,
}

impl SimDamage {
    fn apply(&self, machine: &Machine, path: &Path) {
        match self {
            Self::Lost => machine.disk.lose(path),
            Self::Flipped => machine.disk.flip_bit(path, 90),
        }
    }
}

#[test]
fn a_power_cut_while_a_lost_checkpoint_is_rebuilt_leaves_enough_to_rebuild_it_again() {
    for (changes, is_lost_again) in (0..60).flat_map(|changes| [(changes, false), (changes, true)]) {
        let mut fixture = with_segments(60);
        let log = fixture.log();
        log.advance_log_start(Offset(50)).unwrap();
        fixture.run();
        fixture.directory.request_checkpoint();
        fixture.run();
        // The journal still has some of what goes.
        assert!(log.remove_local_below(Offset(50)).unwrap() > 0);
        drop(log);
        let machine = fixture.crash();
        machine.disk.lose(&checkpoint());
        machine.disk.cut_power_after(changes);
        if let Ok(directory) = open(&machine) {
            machine.tasks.run_all(&mut Random::new(changes));
            drop(directory);
        }
        machine.power_cut();
        machine.kill();
        if is_lost_again && machine.disk.files().contains(&checkpoint()) {
            machine.disk.lose(&checkpoint());
        }
        let directory = open(&machine).unwrap_or_else(|error| panic!("cut after {changes} changes: {error}"));
        assert_eq!(directory.logs()[0].offsets().log_end, Offset(60));
    }
}

#[test]
fn a_partition_that_a_power_cut_took_before_its_first_segment_keeps_no_directory_closed() {
    for seed in 0..20 {
        let mut fixture = Fixture::seeded(seed);
        let log = fixture.log();
        log.configure(LogSettings { write_caching: true, ..LogSettings::default() });
        fixture.run();
        for value in 0..8 {
            log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
        }
        fixture.run();
        drop(log);
        let machine = fixture.crash();
        let directory = open(&machine).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(directory.logs()[0].offsets().log_end <= Offset(8));
    }
}

#[test]
fn a_checkpoint_is_not_rebuilt_over_a_hole_in_the_segments() {
    let (machine, segments) = stopped(with_segments(120));
    machine.disk.lose(&checkpoint());
    machine.disk.lose(&segments[2]);
    assert!(matches!(open(&machine), Err(OpenError::SegmentDamaged { .. })));
}

#[test]
fn a_checkpoint_is_not_rebuilt_when_the_journal_lacks_what_it_must_have() {
    let mut fixture = with_segments(120);
    fixture.directory.request_checkpoint();
    fixture.run();
    fixture.append(60);
    let machine = fixture.crash();
    let journals: Vec<_> = machine
        .disk
        .files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|found| found == "journal"))
        .collect();
    assert!(journals.len() > 1, "more than one file");
    machine.disk.lose(&checkpoint());
    // Whichever file is lost: either the rest is whole without it, or the directory stays closed.
    let mut refused = 0;
    for journal in &journals {
        let content = machine.disk.content(journal);
        machine.disk.lose(journal);
        match open(&machine) {
            Ok(directory) => assert!(directory.logs()[0].offsets().log_end >= Offset(120)),
            Err(error) => {
                assert!(
                    matches!(error, OpenError::JournalDamaged { .. } | OpenError::SegmentDamaged { .. }),
                    "{error}"
                );
                refused += 1;
            }
        }
        machine.kill();
        machine.disk.put(journal, content);
    }
    assert!(refused > 0);
}

/// Two lives, each with a journal file of its own: after a clean stop the second does without the first. The files, oldest
/// first.
fn with_two_journal_files() -> (Fixture, PathBuf, PathBuf) {
    let mut fixture = Fixture::new();
    fixture.append(6);
    let first = fixture.file("journal");
    let (machine, _) = stopped(fixture);
    let directory = open(&machine).unwrap();
    let mut fixture = Fixture { machine, random: Random::new(7), directory };
    for _ in 0..5 {
        fixture.append(1);
    }
    let files = fixture.machine.disk.files();
    let is_second = |path: &PathBuf| path.extension() == first.extension() && *path != first;
    let second = files.into_iter().find(is_second).unwrap();
    (fixture, first, second)
}

#[test]
fn the_newest_journal_file_is_missed_when_its_header_is_damaged() {
    let (fixture, _, newest) = with_two_journal_files();
    let machine = fixture.crash();
    let sound = machine.disk.content(&newest);
    let blank = [vec![0; 4096], sound[4096..].to_vec()].concat();
    let (mut flipped, mut worse) = (sound.clone(), sound.clone());
    for at in [60, 2048 + 60] {
        flipped[at] ^= 1;
        worse[at] ^= 1;
    }
    // The first block as well: the others tell.
    worse[4096 + 100] ^= 1;
    for damaged in [blank, flipped, worse] {
        machine.disk.put(&newest, damaged);
        let refused = open(&machine).err();
        assert!(matches!(&refused, Some(OpenError::JournalDamaged { .. })), "{refused:?}");
        machine.kill();
    }
    machine.disk.put(&newest, sound);
    assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(11));
}

#[test]
fn a_journal_file_that_is_not_needed_any_more_may_lose_its_header() {
    let (fixture, oldest, _) = with_two_journal_files();
    let machine = fixture.crash();
    for at in [60, 2048 + 60] {
        machine.disk.flip_bit(&oldest, at);
    }
    assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(11));
}

#[test]
fn a_partition_of_which_all_is_archived_still_knows_its_end_without_a_checkpoint() {
    let mut fixture = with_segments(120);
    let log = fixture.log();
    log.request_roll();
    fixture.run();
    log.advance_archived(Offset(120));
    fixture.directory.request_checkpoint();
    fixture.run();
    assert!(log.remove_local_below(Offset(120)).unwrap() > 1);
    assert_eq!(log.offsets().local_log_start, Offset(120));
    drop(log);
    let (machine, segments) = stopped(fixture);
    assert_eq!(segments.len(), 1, "an empty one");
    machine.disk.lose(&checkpoint());
    let (directory, _) = reopen(&machine);
    let offsets = directory.logs()[0].offsets();
    assert_eq!(offsets.log_end, Offset(120));
    // The journal may still have the last of them.
    assert!(offsets.local_log_start > Offset(20) && offsets.archived_to == offsets.local_log_start, "{offsets:?}");
    assert_eq!(offsets.log_start, Offset::ZERO, "the archive's head knows better, and only it may raise this");
}

#[test]
fn a_missing_segment_takes_its_partition_out_of_service_and_no_other() {
    let mut fixture = with_segments(30);
    let other = TopicPartition::new(TopicId::from_bytes([2; 16]), 0);
    let log = fixture.directory.log_or_create(other, LogSettings::default());
    log.begin_epoch(LeaderEpoch(1)).unwrap();
    log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).unwrap();
    fixture.run();
    drop(log);
    let (machine, segments) = stopped(fixture);
    let content = machine.disk.content(&segments[2]);
    machine.disk.lose(&segments[2]);
    let metrics = DirectoryMetrics::default();
    let (directory, report) = reopen_counted(&machine, &metrics);
    assert_eq!((report.unavailable, metrics.log.unavailable_partitions.get()), (1, 1));
    let log = directory.logs()[0].clone();
    let refused = log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None);
    let Err(AppendError::Missing(Missing { from, to, .. })) = refused else { panic!("{refused:?}") };
    assert!(from < to && to < Offset(30), "{from} to {to}");
    assert!(matches!(read(&directory, 0), Err(ReadError::Missing(missing)) if missing.from == from));
    let other = directory.log(other).unwrap();
    assert!(other.append(&batch(2), LeaderEpoch(1), Timestamp(0), None).is_ok());
    machine.tasks.run_all(&mut Random::new(1));

    // A checkpoint later it is still known to be missing, and putting it back is all that it takes.
    directory.request_checkpoint();
    machine.tasks.run_all(&mut Random::new(1));
    assert_eq!(metrics.log.unavailable_partitions.get(), 1);
    drop((log, other, directory));
    machine.kill();
    let (directory, report) = reopen(&machine);
    assert_eq!(report.unavailable, 1);
    drop(directory);
    machine.kill();
    machine.disk.put(&segments[2], content);
    let (directory, report) = reopen(&machine);
    assert_eq!(report.unavailable, 0);
    check_whole(&directory, 30);
}

#[test]
fn deleting_the_records_up_to_what_is_missing_brings_the_partition_back() {
    let (machine, segments) = stopped(with_segments(30));
    machine.disk.lose(&segments[1]);
    let metrics = DirectoryMetrics::default();
    let (directory, _) = reopen_counted(&machine, &metrics);
    let log = directory.logs()[0].clone();
    let Err(AppendError::Missing(missing)) = log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None) else {
        panic!("not missed")
    };
    log.advance_log_start(missing.to).unwrap();
    machine.tasks.run_all(&mut Random::new(1));
    assert!(log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).is_ok());
    assert!(read(&directory, missing.to.0).is_ok());
    directory.request_checkpoint();
    machine.tasks.run_all(&mut Random::new(1));
    assert_eq!(metrics.log.unavailable_partitions.get(), 0);
}

#[test]
fn what_the_archive_has_is_not_missed() {
    let (machine, segments) = stopped(with_segments(30));
    machine.disk.lose(&segments[1]);
    let (directory, _) = reopen(&machine);
    let log = directory.logs()[0].clone();
    let Err(AppendError::Missing(missing)) = log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None) else {
        panic!("not missed")
    };
    log.advance_archived(missing.to);
    assert!(log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).is_ok());
    assert!(matches!(read(&directory, missing.from.0), Err(ReadError::Archived { .. })));
    assert!(read(&directory, missing.to.0).is_ok());
}

#[test]
fn a_segment_that_lost_its_end_is_missed_and_the_log_goes_on_after_it() {
    for which in [0, usize::MAX] {
        let (machine, segments) = stopped(with_segments(30));
        let segment = segments.get(which).unwrap_or(segments.last().unwrap()).clone();
        let content = machine.disk.content(&segment);
        machine.disk.put(&segment, content[..content.len() - 10].to_vec());
        let (directory, report) = reopen(&machine);
        assert_eq!((report.unavailable, directory.logs()[0].offsets().log_end), (1, Offset(30)));
        drop(directory);
        machine.kill();
        machine.disk.put(&segment, content);
        let (directory, report) = reopen(&machine);
        assert_eq!(report.unavailable, 0);
        check_whole(&directory, 30);
    }
}

#[test]
fn a_damaged_header_or_index_costs_nothing() {
    let (machine, segments) = stopped(with_segments(30));
    machine.disk.flip_bit(&segments[0], 60);
    machine.disk.flip_bit(&segments[1].with_extension("index"), 70);
    machine.disk.lose(&segments[2].with_extension("index"));
    let (directory, _) = reopen(&machine);
    check_whole(&directory, 30);
}

#[test]
fn damage_within_a_segment_is_told_and_what_is_around_it_served() {
    // In the length of the third batch: nothing behind it can be found by walking.
    let batch_bytes = batch(0).bytes().len();
    let (machine, segments) = stopped(with_segments(30));
    machine.disk.flip_bit(&segments[0], 128 + 2 * batch_bytes + 8);
    machine.disk.lose(&segments[0].with_extension("index"));
    let (directory, _) = reopen(&machine);
    assert!(read(&directory, 1).is_ok());
    assert!(matches!(read(&directory, 2), Err(ReadError::Corrupt { .. })));
    let next = segments[1].file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(read(&directory, next).is_ok());
    assert!(directory.logs()[0].append(&batch(1), LeaderEpoch(1), Timestamp(0), None).is_ok());
}

#[test]
fn damage_within_the_active_segment_takes_nothing_down() {
    let (machine, segments) = stopped(with_segments(30));
    machine.disk.flip_bit(segments.last().unwrap(), 128 + 8);
    let (directory, _) = reopen(&machine);
    let log = directory.logs()[0].clone();
    for value in 0..20 {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
        machine.tasks.run_all(&mut Random::new(1));
    }
    log.request_roll();
    machine.tasks.run_all(&mut Random::new(1));
    assert!(!directory.is_offline());
    assert!(read(&directory, 0).is_ok() && read(&directory, 49).is_ok());
}

#[test]
fn a_wrong_offset_in_a_segment_is_not_served() {
    let batch_bytes = batch(0).bytes().len();
    let (machine, segments) = stopped(with_segments(30));
    // The checksum of a batch does not cover its offset.
    machine.disk.flip_bit(&segments[0], 128 + batch_bytes + 7);
    let (directory, _) = reopen(&machine);
    let log = directory.logs()[0].clone();
    let chunks = log.read(Offset(0), Offset(30), 1 << 20).unwrap().execute().unwrap();
    assert_eq!(chunks.len(), 1, "only what is before it");
    assert!(matches!(read(&directory, 1), Err(ReadError::Missing(_))));
}

/// Seals the active segment, and has a checkpoint know it.
fn roll(fixture: &mut Fixture) {
    fixture.log().request_roll();
    fixture.run();
    fixture.directory.request_checkpoint();
    fixture.run();
}

/// What follows a cut at the end of a sealed segment is in one of its own: that one's length is in a checkpoint already.
#[test]
fn a_sealed_segment_that_a_cut_leaves_whole_does_not_grow() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(4);
    roll(&mut fixture);
    assert_eq!(log.archivable_segments().len(), 1);
    for value in 4..7 {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
    }
    log.truncate_to(Offset(6)).unwrap();
    fixture.run();
    assert!(log.truncated());
    log.append(&batch(6), LeaderEpoch(1), Timestamp(0), None).unwrap();
    fixture.directory.request_checkpoint();
    fixture.run();
    let sealed = log.archivable_segments();
    assert_eq!((sealed.len(), sealed[0].extent().next_offset), (1, Offset(4)));
    let (machine, _) = stopped(fixture);
    machine.disk.lose(&checkpoint());
    let (directory, _) = reopen(&machine);
    check_whole(&directory, 7);
}

#[test]
fn the_largest_timestamp_of_a_segment_is_found_anew_once_it_was_cut() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(4);
    let largest = |log: &PartitionLog| log.archivable_segments().last().unwrap().sealed_max_timestamp().unwrap();
    roll(&mut fixture);
    assert_eq!(largest(&log), Timestamp(3));
    log.truncate_to(Offset(2)).unwrap();
    fixture.run();
    assert!(log.truncated());
    log.append(&batch(9), LeaderEpoch(1), Timestamp(0), None).unwrap();
    fixture.run();
    log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).unwrap();
    fixture.directory.request_checkpoint();
    fixture.run();
    drop(log);
    // As long as it was when it was sealed, and after a restart it is known by its file alone.
    let mut fixture = fixture.reopened();
    assert_eq!(fixture.log().segments()[0].newest_timestamp().unwrap(), Timestamp(9));
    roll(&mut fixture);
    assert_eq!(largest(&fixture.log()), Timestamp(9));
}

/// After a power cut, what follows the place of a cut may be anything.
#[test]
fn a_segment_is_cut_before_what_is_torn() {
    let mut fixture = Fixture::new();
    fixture.append(4);
    roll(&mut fixture);
    let segment = fixture.log().archivable_segments()[0].clone();
    let mut content = fixture.machine.disk.content(segment.path());
    let (all, batch_bytes) = (content.len(), (content.len() - SEGMENT_HEADER_BYTES as usize) / 4);
    content[all - 2 * batch_bytes..].fill(0);
    fixture.machine.disk.put(segment.path(), content);
    let disk: Arc<dyn Disk> = fixture.machine.runtime().disk;
    let writer = SegmentWriter::open(&disk, segment.path()).unwrap();
    segment.truncate(&writer, Offset(2)).unwrap();
    assert_eq!(segment.extent().next_offset, Offset(2));
    assert_eq!(fixture.machine.disk.content(segment.path()).len(), all - 2 * batch_bytes);
}
