//! What a directory does when its disk is full, fails or lies, one case at a time.

mod damage;
mod descriptors;
mod disk_reads;
mod meetings;
mod replicas;
mod syncs;
mod waiting;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    AppendError, DirectoryMetrics, DirectorySettings, JournalSettings, Level, LogDirectory, LogSettings, OpenError,
    Owner, PartitionLog, ReadError, ReadPlan, RecoveryReport, Wait,
};
use crate::record::{Batch, BatchBuilder, BatchOptions};
use crate::sim::{Machine, Operation, Random};
use crate::types::{ClusterId, Incarnation, LeaderEpoch, NodeId, Offset, Timestamp, TopicId, TopicPartition};

const VALUE_BYTES: usize = 1000;

struct Fixture {
    machine: Machine,
    random: Random,
    directory: LogDirectory,
}

fn settings() -> DirectorySettings {
    DirectorySettings {
        journal: JournalSettings { file_bytes: 64 << 10, max_bytes: 512 << 10 },
        tail_bytes: 8 << 10,
        index_bytes: 256,
        unwritten_bytes: 128 << 10,
        write_behind_bytes: 4 << 10,
        checkpoint_bytes: 128 << 10,
        checkpoint_interval: std::time::Duration::from_secs(60),
        max_producers: 10_000,
        removed_bytes: 1,
    }
}

fn open(machine: &Machine) -> Result<LogDirectory, OpenError> {
    open_with(machine, DirectoryMetrics::default())
}

fn open_with(machine: &Machine, metrics: DirectoryMetrics) -> Result<LogDirectory, OpenError> {
    open_reported(machine, metrics).map(|(directory, _)| directory)
}

fn open_reported(machine: &Machine, metrics: DirectoryMetrics) -> Result<(LogDirectory, RecoveryReport), OpenError> {
    let owner = Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    LogDirectory::open(&machine.runtime(), Path::new("/data"), owner, settings(), metrics)
}

fn batch(value: u8) -> Batch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Timestamp(i64::from(value)), None, Some(&[value; VALUE_BYTES]), std::iter::empty());
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}

impl Fixture {
    fn new() -> Self {
        Self::seeded(7)
    }

    fn seeded(seed: u64) -> Self {
        let machine = Machine::new(seed);
        let directory = open(&machine).unwrap();
        Self { machine, random: Random::new(seed), directory }
    }

    fn counted(metrics: &DirectoryMetrics) -> Self {
        let machine = Machine::new(7);
        let directory = open_with(&machine, metrics.clone()).unwrap();
        Self { machine, random: Random::new(7), directory }
    }

    fn log(&self) -> Arc<PartitionLog> {
        let partition = TopicPartition::new(TopicId::from_bytes([1; 16]), 0);
        let log = self.directory.log_or_create(partition, LogSettings::default());
        log.begin_epoch(LeaderEpoch(1)).unwrap();
        log
    }

    /// The same machine after the process was killed and started again.
    fn reopened(self) -> Self {
        let Self { machine, random, directory } = self;
        machine.kill();
        drop(directory);
        let directory = open(&machine).unwrap();
        Self { machine, random, directory }
    }

    fn run(&mut self) {
        self.machine.tasks.run_all(&mut self.random);
    }

    fn append(&mut self, count: u8) -> Vec<Wait> {
        let log = self.log();
        let waits = (0..count)
            .map(|value| {
                let appended = log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
                log.when(Level::Committed, appended.next_offset)
            })
            .collect();
        self.run();
        waits
    }

    fn file(&self, extension: &str) -> PathBuf {
        let is_it = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        self.machine.disk.files().into_iter().find(is_it).unwrap()
    }

    fn crash(self) -> Machine {
        self.machine.power_cut();
        self.machine
    }
}

fn acknowledged(waits: Vec<Wait>) -> usize {
    let is_done = |wait| match wait {
        Wait::Ready => true,
        Wait::Pending(mut receiver) => receiver.try_recv().is_ok(),
    };
    waits.into_iter().map(is_done).filter(|&done| done).count()
}

#[test]
fn what_a_killed_process_only_wrote_is_on_stable_storage_before_anything_follows_it() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let mut random = Random::new(seed);
        let write = |directory: &LogDirectory, number: u8, write_caching: bool, random: &mut Random| {
            let partition = TopicPartition::new(TopicId::from_bytes([number; 16]), 0);
            let log = directory.log_or_create(partition, LogSettings { write_caching, ..LogSettings::default() });
            log.begin_epoch(LeaderEpoch(i32::from(number))).unwrap();
            for value in 0..3 {
                log.append(&batch(value), LeaderEpoch(i32::from(number)), Timestamp(0), None).unwrap();
                machine.tasks.run_all(random);
            }
        };
        let directory = open(&machine).unwrap();
        write(&directory, 1, true, &mut random);
        machine.kill();
        drop(directory);
        let directory = open(&machine).unwrap();
        write(&directory, 2, false, &mut random);
        machine.power_cut();
        drop(directory);
        assert!(open(&machine).is_ok(), "seed {seed}");
    }
}

#[test]
fn what_a_checkpoint_has_of_a_block_that_was_only_written_hides_no_later_one() {
    for seed in 0..20 {
        let mut fixture = Fixture::seeded(seed);
        let partition = TopicPartition::new(TopicId::from_bytes([1; 16]), 0);
        let append = |fixture: &mut Fixture, values: std::ops::Range<u8>| {
            let settings = LogSettings { write_caching: true, ..LogSettings::default() };
            let log = fixture.directory.log_or_create(partition, settings);
            for value in values {
                log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
                fixture.run();
            }
        };
        fixture.log();
        fixture.run();
        append(&mut fixture, 0..5);
        fixture.machine.pass_ms(1000);
        fixture.directory.request_checkpoint();
        fixture.run();
        drop(fixture.directory);
        fixture.machine.power_cut();
        fixture.directory = open(&fixture.machine).unwrap();
        assert_eq!(fixture.directory.logs()[0].offsets().log_end, Offset(5));
        append(&mut fixture, 5..10);
        let fixture = fixture.reopened();
        assert_eq!(fixture.directory.logs()[0].offsets().log_end, Offset(10), "seed {seed}");
    }
}

#[test]
fn a_read_that_finds_its_segment_gone_says_so() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    for value in 0..20 {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
    }
    fixture.machine.tasks.run_all(&mut fixture.random);
    log.request_roll();
    fixture.machine.tasks.run_all(&mut fixture.random);
    let end = log.offsets().log_end;
    let read = log.read(Offset(0), end, 10_000).unwrap();
    let search = log.find_timestamp(Timestamp(0), end);
    assert!(matches!(read, ReadPlan::Disk(_)));
    log.advance_log_start(end).unwrap();
    fixture.machine.tasks.run_all(&mut fixture.random);
    fixture.directory.request_checkpoint();
    fixture.machine.tasks.run_all(&mut fixture.random);
    assert_eq!(log.remove_local_below(end).unwrap(), 1);
    assert!(matches!(read.execute(), Err(ReadError::Removed { .. })));
    assert!(matches!(search.execute(), Err(ReadError::Removed { .. })));
}

#[test]
fn a_failed_sync_takes_the_directory_offline_and_what_was_acknowledged_stays() {
    let mut fixture = Fixture::new();
    assert_eq!(acknowledged(fixture.append(20)), 20);
    fixture.machine.disk.fail_syncs();
    fixture.directory.request_checkpoint();
    fixture.run();
    assert!(fixture.directory.is_offline());
    let refused = fixture.log_append_now();
    assert!(matches!(refused, Err(AppendError::Offline { .. })));
    let machine = fixture.crash();
    let directory = open(&machine).unwrap();
    assert_eq!(directory.logs()[0].offsets().log_end, Offset(20));
}

impl Fixture {
    fn log_append_now(&self) -> Result<super::Appended, AppendError> {
        let log = self.directory.logs()[0].clone();
        log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None)
    }
}

#[test]
fn a_full_disk_keeps_what_is_acknowledged_and_serves_again_once_there_is_room() {
    let mut fixture = Fixture::new();
    fixture.append(1);
    fixture.machine.disk.set_capacity(70 << 10);
    assert_eq!(acknowledged(fixture.append(20)), 20);
    assert!(fixture.directory.is_full() && !fixture.directory.is_offline());
    fixture.machine.disk.set_capacity(u64::MAX);
    fixture.directory.tick();
    fixture.run();
    assert!(!fixture.directory.is_full());
    assert_eq!(acknowledged(fixture.append(100)), 100);
    let machine = fixture.crash();
    assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(121));
}

#[test]
fn a_journal_without_room_for_another_file_waits_for_it() {
    let mut fixture = Fixture::new();
    fixture.append(1);
    fixture.machine.disk.set_capacity(100 << 10);
    let mut waits = Vec::new();
    for _ in 0..40 {
        waits.extend(fixture.append(1));
        fixture.directory.tick();
    }
    assert!(fixture.directory.is_full() && !fixture.directory.is_offline());
    let before = acknowledged(waits);
    assert!(before < 40, "some wait");
    let refused = fixture.directory.logs()[0].read(Offset(0), Offset(1), 100).unwrap().execute();
    assert_eq!(refused.unwrap().len(), 1, "reads go on");
    fixture.machine.disk.set_capacity(u64::MAX);
    fixture.directory.tick();
    fixture.run();
    assert!(!fixture.directory.is_full());
    assert_eq!(acknowledged(fixture.append(1)), 1);
    let machine = fixture.crash();
    assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(42));
}

#[test]
fn a_start_on_a_full_disk_serves_what_there_is_and_writes_once_there_is_room() {
    let mut fixture = Fixture::new();
    fixture.append(1);
    fixture.machine.disk.set_capacity(70 << 10);
    assert_eq!(acknowledged(fixture.append(40)), 40);
    assert!(fixture.directory.is_full());
    let mut fixture = fixture.reopened();
    assert!(fixture.directory.is_full() && !fixture.directory.is_offline());
    let log = fixture.log();
    assert_eq!(log.offsets().log_end, Offset(41));
    let first = log.read(Offset(0), Offset(41), 1).unwrap().execute().unwrap();
    assert_eq!(first.len(), 1, "reads go on");
    fixture.machine.disk.set_capacity(u64::MAX);
    fixture.directory.tick();
    fixture.run();
    assert!(!fixture.directory.is_full());
    assert_eq!(acknowledged(fixture.append(100)), 100);
    let machine = fixture.crash();
    assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(141));
}

#[test]
fn a_record_that_follows_long_after_the_others_left_is_sealed_at_its_own_age() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(3);
    log.request_roll();
    fixture.run();
    fixture.directory.request_checkpoint();
    fixture.run();
    log.advance_archived(Offset(3));
    fixture.machine.pass_ms(1000);
    fixture.directory.request_checkpoint();
    fixture.run();
    assert_eq!(log.remove_local_below(Offset(3)).unwrap(), 1);
    fixture.machine.pass_ms(100 * 3_600_000);
    let appended = fixture.machine.runtime().clock.wall();
    fixture.append(1);
    let tick = |fixture: &mut Fixture, ms| {
        fixture.machine.pass_ms(ms);
        fixture.directory.tick();
        fixture.run();
        log.archivable_segments().len()
    };
    assert_eq!(tick(&mut fixture, 3_599_000), 0);
    assert_eq!(log.oldest_unarchived(), Some(appended));
    tick(&mut fixture, 1000);
    assert_eq!(tick(&mut fixture, 100), 1);
}

#[test]
fn a_segment_is_sealed_at_its_age_and_waits_for_the_archive_once_that_is_certain() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(3);
    let tick = |fixture: &mut Fixture, ms| {
        fixture.machine.pass_ms(ms);
        fixture.directory.tick();
        fixture.run();
    };
    tick(&mut fixture, 3_599_000);
    assert!(log.archivable_segments().is_empty());
    tick(&mut fixture, 1000);
    tick(&mut fixture, 100);
    assert_eq!(log.archivable_segments().len(), 1);
    assert_eq!(fixture.directory.logs_to_archive().len(), 1);
    log.advance_archived(Offset(3));
    assert!(fixture.directory.logs_to_archive().is_empty());
    // The next one has an age of its own, and a shorter one if the topic says so.
    fixture.append(1);
    log.configure(LogSettings { segment_age: std::time::Duration::from_secs(5), ..LogSettings::default() });
    tick(&mut fixture, 4000);
    assert_eq!(fixture.directory.logs_to_archive().len(), 0);
    tick(&mut fixture, 1000);
    tick(&mut fixture, 100);
    assert_eq!(fixture.directory.logs_to_archive().len(), 1);
    log.advance_archived(Offset(4));
    // One from a time that has not come is as good as old.
    fixture.machine.set_wall(864_000_000);
    fixture.append(1);
    tick(&mut fixture, 100);
    assert!(fixture.directory.logs_to_archive().is_empty());
    fixture.machine.set_wall(0);
    tick(&mut fixture, 100);
    tick(&mut fixture, 100);
    assert_eq!(fixture.directory.logs_to_archive().len(), 1);
}

/// A reader that is behind goes through all segments, whose indexes would fill the memory of a machine with a large disk.
#[test]
fn indexes_of_sealed_segments_stay_within_their_memory() {
    let metrics = DirectoryMetrics::default();
    let mut fixture = Fixture::counted(&metrics);
    let log = fixture.log();
    log.configure(LogSettings { segment_bytes: 4 << 10, ..LogSettings::default() });
    for value in 0..60 {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
        fixture.run();
    }
    fixture.directory.request_checkpoint();
    fixture.run();
    let (sealed, used, before) = (log.archivable_segments(), &metrics.tail_bytes, metrics.tail_bytes.get());
    assert!(sealed.len() > 10);
    for segment in &sealed {
        assert_eq!(segment.read(segment.base_offset(), Offset::MAX, 1).unwrap().len(), 1);
        assert!(used.get() - before <= settings().index_bytes as i64, "{} more than {before}", used.get() - before);
    }
    assert!(used.get() > before);
}

#[test]
fn what_a_directory_does_is_counted() {
    let metrics = DirectoryMetrics::default();
    let mut fixture = Fixture::counted(&metrics);
    fixture.append(4);
    assert!((4_000..=8 << 10).contains(&metrics.tail_bytes.get()), "{}", metrics.tail_bytes.get());
    fixture.append(36);
    let journal = &metrics.journal;
    assert!(journal.groups.get() > 0);
    assert_eq!(journal.entries.get(), 41, "an epoch and the batches");
    assert_eq!(journal.replay_bytes.get().cast_unsigned(), journal.written_bytes.get());
    fixture.directory.close();
    assert_eq!((journal.replay_bytes.get(), metrics.tail_bytes.get()), (0, 0));
    assert!(journal.checkpoints.get() > 0 && journal.allocated_bytes.get() > 0);
    assert_eq!((metrics.log.partitions.get(), metrics.log.segments.get()), (1, 1));
    assert!(metrics.log.local_bytes.get() > 40_000 && metrics.log.written_bytes.get() > 40_000);
    let metrics = DirectoryMetrics::default();
    let opened = open_with(&fixture.machine, metrics.clone()).unwrap();
    assert_eq!((metrics.log.partitions.get(), metrics.log.segments.get()), (1, 1), "known from the start on");
    assert!(metrics.log.local_bytes.get() > 40_000 && metrics.journal.allocated_bytes.get() > 0);
    drop(opened);
}

#[test]
fn a_lap_that_got_no_block_frees_no_file_that_is_needed() {
    let mut fixture = Fixture::new();
    fixture.append(3);
    let Fixture { machine, mut random, directory } = fixture;
    directory.close();
    // The process ends between a lap's header and its first block, in the second file.
    let directory = open(&machine).unwrap();
    let mut writes = 0;
    machine.disk.meanwhile(move |operation, path| {
        let is_journal = path.extension().is_some_and(|extension| extension == "journal");
        writes += usize::from(operation == Operation::Write && is_journal);
        if writes > 1 { Err(std::io::Error::other("the process ends")) } else { Ok(()) }
    });
    directory.logs()[0].begin_epoch(LeaderEpoch(2)).unwrap();
    machine.tasks.run_all(&mut random);
    assert!(directory.is_offline());
    let mut fixture = Fixture { machine, random, directory }.reopened();
    // The next lap is in the first file, and the one after it may not be.
    for value in 3..6 {
        let log = fixture.directory.logs()[0].clone();
        log.begin_epoch(LeaderEpoch(i32::from(value))).unwrap();
        let offset = log.append(&batch(value), LeaderEpoch(value.into()), Timestamp(0), None).unwrap().next_offset;
        fixture.run();
        assert_eq!(log.offsets().durable, offset);
        drop(log);
        fixture = fixture.reopened();
        assert_eq!(fixture.directory.logs()[0].offsets().log_end, offset);
    }
}

#[test]
fn damage_in_the_middle_of_the_journal_is_not_taken_for_a_torn_tail() {
    let mut fixture = Fixture::new();
    for _ in 0..5 {
        fixture.append(2);
    }
    let journal = fixture.file("journal");
    let machine = fixture.crash();
    machine.disk.flip_bit(&journal, 4096 + 4096 + 100);
    assert!(matches!(open(&machine), Err(OpenError::JournalDamaged { .. })));
    machine.kill();
    machine.disk.flip_bit(&journal, 4096 + 4096 + 100);
    assert!(open(&machine).is_ok());
}

#[test]
fn damaged_segment_bytes_are_not_served() {
    let mut fixture = Fixture::new();
    fixture.append(30);
    let segment = fixture.file("segment");
    fixture.machine.disk.flip_bit(&segment, 128 + 500);
    let read = |from| {
        let plan = fixture.directory.logs()[0].read(Offset(from), Offset(30), 100)?;
        assert!(matches!(plan, ReadPlan::Disk(_)), "the tail is small");
        plan.execute()
    };
    assert!(matches!(read(0), Err(ReadError::Corrupt { .. })));
    assert!(read(3).is_ok());
}

#[test]
fn a_damaged_segment_goes_only_where_the_archive_has_it_and_serves_it() {
    let mut fixture = Fixture::new();
    fixture.append(30);
    let log = fixture.log();
    log.request_roll();
    fixture.run();
    fixture.directory.request_checkpoint();
    fixture.run();
    let segment = fixture.file("segment");
    fixture.machine.disk.flip_bit(&segment, 128 + 500);
    let read = |archive_serves| {
        let ReadPlan::Disk(read) = log.read(Offset(0), Offset(30), 100).unwrap() else { panic!("the tail is small") };
        log.execute(read, archive_serves)
    };
    assert!(matches!(read(true), Err(ReadError::Corrupt { .. })), "nothing is archived");
    log.advance_archived(Offset(30));
    fixture.machine.pass_ms(1000);
    fixture.directory.request_checkpoint();
    fixture.run();
    assert!(matches!(read(false), Err(ReadError::Corrupt { .. })), "nobody reads the archive");
    assert!(fixture.machine.disk.files().contains(&segment));
    assert!(read(true).unwrap().is_empty());
    assert!(!fixture.machine.disk.files().contains(&segment));
    assert!(matches!(log.read(Offset(0), Offset(30), 100), Err(ReadError::Archived { .. })));
}

#[test]
fn a_clean_stop_leaves_nothing_to_replay() {
    let mut fixture = Fixture::new();
    fixture.append(30);
    let Fixture { machine, directory, .. } = fixture;
    directory.close();
    machine.kill();
    let owner = Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    let (directory, report) = LogDirectory::open(
        &machine.runtime(),
        Path::new("/data"),
        owner,
        DirectorySettings::default(),
        DirectoryMetrics::default(),
    )
    .unwrap();
    assert_eq!((report.partitions, report.replayed_blocks), (1, 0));
    assert_eq!(directory.logs()[0].offsets().log_end, Offset(30));
}

#[test]
fn segments_are_never_removed_because_checkpoint_and_journal_are_gone() {
    let mut fixture = Fixture::new();
    fixture.append(30);
    let Fixture { machine, directory, .. } = fixture;
    directory.close();
    machine.kill();
    let disk = machine.runtime().disk;
    for lost in machine.disk.files().iter().filter(|path| !path.to_string_lossy().contains("/topics/")) {
        if !lost.ends_with("identity") {
            disk.remove_file(lost).unwrap();
        }
    }
    assert!(matches!(open(&machine), Err(OpenError::CheckpointDamaged { .. })));
    assert!(machine.disk.files().iter().any(|path| path.extension().is_some_and(|found| found == "segment")));
}

#[test]
fn a_directory_of_another_cluster_or_in_use_is_refused() {
    let fixture = Fixture::new();
    assert!(matches!(open(&fixture.machine), Err(OpenError::Locked { .. })));
    let machine = fixture.crash();
    let owner = Owner { cluster_id: ClusterId::from_bytes([8; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    let foreign = LogDirectory::open(
        &machine.runtime(),
        Path::new("/data"),
        owner,
        DirectorySettings::default(),
        DirectoryMetrics::default(),
    );
    assert!(matches!(foreign, Err(OpenError::Stamp { .. })));
}
