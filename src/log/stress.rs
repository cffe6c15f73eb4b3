//! The log on the real machine: threads that append, read and remove at once while its lanes write, seal, checkpoint and evict.
//! The simulation has the crashes; this has the races.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    DirectoryMetrics, DirectorySettings, JournalSettings, Level, LogDirectory, LogSettings, Owner, PartitionLog, Wait,
};
use crate::record::{Batch, BatchBuilder, BatchHeader, BatchOptions};
use crate::runtime::Runtime;
use crate::types::{
    ClusterId, Incarnation, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId, TopicPartition,
};

const PARTITIONS: i32 = 12;
const WRITERS: i64 = 4;
const READ: std::ops::Range<i32> = 0..3;
const REMOVED: std::ops::Range<i32> = 3..5;
const BATCHES: i32 = 600;

fn open(path: &Path) -> LogDirectory {
    let owner = Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    let settings = DirectorySettings {
        journal: JournalSettings { file_bytes: 1 << 20, max_bytes: 8 << 20 },
        tail_bytes: 512 << 10,
        index_bytes: 256,
        unwritten_bytes: 1 << 20,
        write_behind_bytes: 32 << 10,
        checkpoint_bytes: 2 << 20,
        checkpoint_interval: std::time::Duration::from_secs(60),
        max_producers: 10_000,
        removed_bytes: 256 << 10,
    };
    LogDirectory::open(&Runtime::production(), path, owner, settings, DirectoryMetrics::default()).unwrap().0
}

fn log(directory: &LogDirectory, partition: i32) -> Arc<PartitionLog> {
    let settings = LogSettings { segment_bytes: 200 << 10, ..LogSettings::default() };
    let log = directory.log_or_create(TopicPartition::new(TopicId::from_bytes([1; 16]), partition), settings);
    log.begin_epoch(LeaderEpoch(1)).unwrap();
    log
}

fn batch(writer: i64, sequence: i32) -> Batch {
    let options = BatchOptions {
        producer_id: ProducerId(writer),
        producer_epoch: ProducerEpoch(0),
        base_sequence: sequence,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    let value = vec![writer as u8; 200 + (sequence as usize * 37) % 1500];
    builder.append(Timestamp(i64::from(sequence)), None, Some(&value), std::iter::empty());
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}

/// Appends to every partition in turn, waiting now and then.
fn write(directory: &LogDirectory, writer: i64) {
    let logs: Vec<_> = (0..PARTITIONS).map(|partition| log(directory, partition)).collect();
    let mut next = vec![0; logs.len()];
    for number in 0..BATCHES * PARTITIONS {
        let partition = (number % PARTITIONS) as usize;
        let batch = batch(writer, next[partition]);
        next[partition] += 1;
        let permit = loop {
            match directory.try_admit_producer(batch.bytes().len()) {
                Some(permit) => break permit,
                None => std::thread::yield_now(),
            }
        };
        let appended = logs[partition].append(&batch, LeaderEpoch(1), Timestamp(0), Some(permit)).unwrap();
        assert_eq!(appended.duplicate, None);
        if number % 64 == 0
            && let Wait::Pending(wait) = logs[partition].when(Level::Committed, appended.next_offset)
        {
            wait.blocking_recv().unwrap();
        }
    }
}

/// Reads a partition from its beginning, again and again, until told to stop.
fn read_until(log: &PartitionLog, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let end = log.offsets().high_watermark;
        check(log, end);
    }
}

/// Has what is sealed taken for archived, and local copies go, until told to stop and some are gone.
fn remove_until(directory: &LogDirectory, log: &PartitionLog, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) || log.offsets().local_log_start == Offset::ZERO {
        let sealed = log.archivable_segments();
        let end = sealed.last().map_or(Offset::ZERO, |last| last.extent().next_offset);
        if end > log.offsets().archived_to {
            log.advance_archived(end);
            directory.request_checkpoint();
        }
        log.remove_local_below(end).unwrap();
        std::thread::yield_now();
    }
}

/// Every local offset below `end` is there once, in order, and each writer's batches are in sequence.
fn check(log: &PartitionLog, end: Offset) {
    let mut from = log.offsets().local_log_start;
    let first = (from == Offset::ZERO).then_some(0);
    let mut sequences = [first; WRITERS as usize];
    while from < end {
        let chunks = log.read(from, end, 64 << 10).unwrap().execute().unwrap();
        assert!(!chunks.is_empty(), "nothing at {from} below {end}");
        for chunk in chunks {
            let header = BatchHeader::read(&chunk).unwrap();
            assert_eq!(header.base_offset, from);
            let writer = usize::try_from(header.producer_id.0).unwrap();
            assert!(sequences[writer].is_none_or(|next| next == header.base_sequence));
            sequences[writer] = Some(header.base_sequence + 1);
            from = header.next_offset();
        }
    }
}

#[test]
fn threads_that_append_read_and_remove_at_once_agree_on_one_order() {
    let path = tempfile::tempdir().unwrap();
    let directory = open(path.path());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = READ
            .map(|partition| {
                let (log, stop) = (log(&directory, partition), &stop);
                scope.spawn(move || read_until(&log, stop))
            })
            .collect();
        let removers: Vec<_> = REMOVED
            .map(|partition| {
                let (directory, log, stop) = (&directory, log(&directory, partition), &stop);
                scope.spawn(move || remove_until(directory, &log, stop))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let directory = &directory;
                scope.spawn(move || write(directory, writer))
            })
            .collect();
        let written: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        stop.store(true, Ordering::Relaxed);
        let others = readers.into_iter().chain(removers).map(std::thread::ScopedJoinHandle::join);
        assert!(others.chain(written).all(|result| result.is_ok()));
    });
    let expected = Offset(i64::from(BATCHES) * WRITERS);
    for log in directory.logs() {
        assert_eq!(log.offsets().log_end, expected);
    }
    // Dropped without a close: what the lanes had not written by then is replayed.
    drop(directory);
    let directory = open(path.path());
    for log in directory.logs() {
        assert_eq!(log.offsets().log_end, expected);
        check(&log, expected);
    }
}
