//! A log among replicas, one case at a time: what is committed, what followers get and take, who is told.

use std::sync::Weak;

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::log::{Continuation, LogObserver, ReplicaAppended, ReplicaBatches, ReplicaRead, ReplicaRun, Replication};
use crate::record::RecordError;
use crate::types::{ProducerEpoch, ProducerId};

fn partition() -> TopicPartition {
    TopicPartition::new(TopicId::from_bytes([1; 16]), 0)
}

/// Batches of one record each, with their place.
fn placed(places: &[(i64, i32)]) -> Bytes {
    let place = |&(offset, epoch): &(i64, i32)| {
        batch(u8::try_from(offset).unwrap()).placed(Offset(offset), LeaderEpoch(epoch)).bytes().clone()
    };
    places.iter().map(place).collect::<Vec<_>>().concat().into()
}

/// Everything that a follower gets from `from` on, and where it ends.
fn read_all(log: &PartitionLog, from: i64) -> (Vec<u8>, Offset) {
    let (mut bytes, mut from) = (Vec::new(), Offset(from));
    loop {
        let read = match log.read_for_replica(from, 1500).unwrap() {
            ReplicaRead::Ready(read) => read,
            ReplicaRead::Disk(read) => ReplicaBatches::of_stored(from, read.execute().unwrap()).unwrap(),
        };
        if read.is_empty() {
            return (bytes, from);
        }
        bytes.extend(read.chunks.concat());
        from = read.next_offset;
    }
}

fn is_resolved(wait: &mut Wait) -> bool {
    match wait {
        Wait::Ready => true,
        Wait::Pending(receiver) => receiver.try_recv().is_ok(),
    }
}

impl Fixture {
    /// The log as a follower in an epoch.
    fn follower(&self, epoch: i32) -> Arc<PartitionLog> {
        let log = self.directory.log_or_create(partition(), LogSettings::default());
        log.follow_epoch(LeaderEpoch(epoch)).unwrap();
        log
    }

    /// Has everything durable sealed, and a checkpoint know it.
    fn make_certain(&mut self) {
        self.run();
        self.directory.logs()[0].request_roll();
        self.run();
        self.machine.pass_ms(1000);
        self.directory.request_checkpoint();
        self.run();
    }
}

fn append_replica(log: &Arc<PartitionLog>, run: Bytes, epoch: i32) -> Result<ReplicaAppended, AppendError> {
    log.append_replica(&ReplicaRun::new(run)?, LeaderEpoch(epoch), Timestamp(0), None)
}

#[test]
fn a_log_among_replicas_commits_what_it_is_told_and_no_more_than_is_durable() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    log.set_alone(false);
    let waits = fixture.append(3);
    assert_eq!((log.offsets().durable, log.offsets().high_watermark), (Offset(3), Offset(0)));
    assert_eq!(log.commit(Offset(2)), Offset(2));
    assert_eq!(log.commit(Offset(1)), Offset(2), "it never retreats");
    assert_eq!(acknowledged(waits), 2);
    let appended = log.append(&batch(3), LeaderEpoch(1), Timestamp(0), None).unwrap();
    assert_eq!(log.commit(appended.next_offset), Offset(3), "nothing beyond is durable");
    fixture.run();
    assert_eq!(log.offsets().high_watermark, Offset(3));
    log.set_alone(true);
    assert_eq!(log.offsets().high_watermark, Offset(4));
    assert_eq!(acknowledged(fixture.append(1)), 1);
    log.set_alone(false);
    assert_eq!(log.offsets().high_watermark, Offset(5), "what the only replica committed stays committed");
}

#[test]
fn after_a_restart_only_what_a_checkpoint_knew_to_be_committed_is() {
    let mut fixture = Fixture::new();
    fixture.log().set_alone(false);
    fixture.append(4);
    fixture.log().commit(Offset(2));
    fixture.make_certain();
    assert!(fixture.log().archivable_segments().is_empty(), "it may yet be cut");
    fixture.append(2);
    fixture.log().commit(Offset(5));
    assert_eq!(fixture.directory.logs_to_archive().len(), 1, "the segment is committed by now");
    let fixture = fixture.reopened();
    let log = fixture.directory.logs()[0].clone();
    assert_eq!(log.offsets().high_watermark, Offset(6), "nobody has said that there are others");
    log.begin_replicated(None);
    assert_eq!(log.replication(), Replication::Followed);
    assert_eq!((log.offsets().high_watermark, log.offsets().log_end), (Offset(2), Offset(6)));
    log.begin_replicated(Some(Offset(4)));
    assert_eq!(log.offsets().high_watermark, Offset(4));
    assert_eq!(log.commit(Offset(6)), Offset(6));
}

#[test]
fn a_follower_takes_what_its_leader_has_as_it_is_and_nothing_else() {
    let mut fixture = Fixture::new();
    let log = fixture.follower(3);
    let run = placed(&[(0, 1), (1, 1), (2, 3)]);
    let appended = append_replica(&log, run.clone(), 3).unwrap();
    assert_eq!(appended, ReplicaAppended { log_end: Offset(3), batches: 3 });
    fixture.run();
    assert_eq!((log.offsets().durable, log.offsets().high_watermark), (Offset(3), Offset(0)));
    let starts = [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(3), Offset(2))];
    assert_eq!(log.epochs().starts(), starts);
    assert_eq!(read_all(&log, 0), (run.to_vec(), Offset(3)));

    let again = AppendError::OutOfOrder { log_end: Offset(3), found: Offset(0) };
    assert_eq!(append_replica(&log, run.clone(), 3), Err(again));
    for epoch in [2, 4] {
        let (found, oldest) = (LeaderEpoch(epoch), LeaderEpoch(3));
        let foreign = AppendError::ForeignEpoch { found, oldest, newest: LeaderEpoch(3) };
        assert_eq!(append_replica(&log, placed(&[(3, epoch)]), 3), Err(foreign));
    }
    let fenced = AppendError::Fenced { epoch: LeaderEpoch(2), current: LeaderEpoch(3) };
    assert_eq!(append_replica(&log, placed(&[(3, 2)]), 2), Err(fenced.clone()));
    assert_eq!(log.follow_epoch(LeaderEpoch(2)), Err(fenced));
    let mut damaged = placed(&[(3, 3), (4, 3)]).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let is_damaged = append_replica(&log, damaged.clone().into(), 3);
    assert!(matches!(is_damaged, Err(AppendError::Record(RecordError::ChecksumMismatch { .. }))));
    damaged.pop();
    let is_cut = append_replica(&log, damaged.into(), 3);
    assert!(matches!(is_cut, Err(AppendError::Record(RecordError::Truncated { .. }))));
    let produced = log.append(&batch(1), LeaderEpoch(3), Timestamp(0), None);
    assert!(matches!(produced, Err(AppendError::WrongRole { .. })));
    assert!(matches!(log.begin_epoch(LeaderEpoch(3)), Err(AppendError::Fenced { .. })), "another led in it");
    assert_eq!(log.offsets().log_end, Offset(3), "nothing of all that was stored");

    let mut fixture = fixture.reopened();
    let log = fixture.directory.logs()[0].clone();
    log.begin_replicated(None);
    assert_eq!((read_all(&log, 0), log.epochs().starts()), ((run.to_vec(), Offset(3)), &starts[..]));
    log.begin_epoch(LeaderEpoch(4)).unwrap();
    assert_eq!(log.replication(), Replication::Led);
    log.append(&batch(3), LeaderEpoch(4), Timestamp(0), None).unwrap();
    assert!(matches!(append_replica(&log, placed(&[(4, 4)]), 4), Err(AppendError::WrongRole { .. })));
    fixture.run();
    assert_eq!(log.offsets().durable, Offset(4));
}

#[test]
fn a_leader_gives_its_batches_away_before_they_are_durable() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.run();
    // Of a log that is the only replica nobody asks for it.
    log.append(&batch(0), LeaderEpoch(1), Timestamp(0), None).unwrap();
    assert_eq!(log.state.lock().replica.pending.start(), None);
    log.set_alone(false);
    for value in 1..4 {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
    }
    assert_eq!(log.offsets().durable, Offset(0));
    assert_eq!(read_all(&log, 0), (Vec::new(), Offset(0)), "once it is durable");
    assert_eq!(read_all(&log, 1), (placed(&[(1, 1), (2, 1), (3, 1)]).to_vec(), Offset(4)));
    fixture.run();
    assert_eq!(log.state.lock().replica.pending.start(), None);
    let all = placed(&[(0, 1), (1, 1), (2, 1), (3, 1)]).to_vec();
    assert_eq!(read_all(&log, 0), (all.clone(), Offset(4)));
    assert!(matches!(log.read_for_replica(Offset(5), 100), Err(ReadError::OutOfRange { .. })));
    // From segments too, once memory is short.
    fixture.append(20);
    assert!(matches!(log.read_for_replica(Offset(0), 100), Ok(ReplicaRead::Disk(_))));
    assert_eq!(read_all(&log, 0).0[..all.len()], all);
    assert_eq!(read_all(&log, 0).1, Offset(24));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Appended(Offset),
    Durable(Offset),
    Unavailable,
}

#[derive(Default)]
struct Observer {
    told: Mutex<Vec<Told>>,
}

impl LogObserver for Observer {
    fn appended(&self, _: TopicPartition, log_end: Offset) {
        self.told.lock().push(Told::Appended(log_end));
    }

    fn durable(&self, _: TopicPartition, durable: Offset) {
        self.told.lock().push(Told::Durable(durable));
    }

    fn unavailable(&self, _: TopicPartition) {
        self.told.lock().push(Told::Unavailable);
    }
}

fn observer() -> (Arc<Observer>, Option<Weak<dyn LogObserver>>) {
    let observer = Arc::new(Observer::default());
    let told: Arc<dyn LogObserver> = observer.clone();
    (observer, Some(Arc::downgrade(&told)))
}

#[test]
fn an_observer_is_told_of_appends_of_durability_and_of_the_end() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.run();
    let (observer, told) = observer();
    log.observe(told.clone());
    log.append(&batch(0), LeaderEpoch(1), Timestamp(0), None).unwrap();
    fixture.run();
    assert_eq!(*observer.told.lock(), [Told::Appended(Offset(1)), Told::Durable(Offset(1))]);
    log.delete().unwrap();
    assert_eq!(observer.told.lock().last(), Some(&Told::Unavailable));
    observer.told.lock().clear();
    log.observe(told);
    assert_eq!(*observer.told.lock(), [Told::Unavailable], "who comes later is told, too");
}

#[test]
fn an_observer_is_told_that_the_directory_went_offline() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(20);
    let (observer, told) = observer();
    log.observe(told);
    fixture.machine.disk.fail_syncs();
    fixture.directory.request_checkpoint();
    fixture.run();
    assert!(fixture.directory.is_offline());
    assert!(observer.told.lock().contains(&Told::Unavailable));
    assert!(log.state.lock().replica.pending.start().is_none());
}

#[test]
fn a_cut_takes_the_high_watermark_along_and_batches_wait_for_its_end() {
    let mut fixture = Fixture::new();
    let log = fixture.follower(1);
    append_replica(&log, placed(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]), 1).unwrap();
    fixture.run();
    log.commit(Offset(4));
    log.follow_epoch(LeaderEpoch(2)).unwrap();
    assert!(matches!(log.when_whole(), Wait::Ready));
    log.truncate_to(Offset(3)).unwrap();
    let mut whole = log.when_whole();
    assert!(!is_resolved(&mut whole));
    assert_eq!(log.commit(Offset(5)), Offset(4), "what is about to be cut is not committed");
    assert_eq!(append_replica(&log, placed(&[(3, 2)]), 2), Err(AppendError::Truncating));
    fixture.run();
    assert!(is_resolved(&mut whole));
    assert_eq!((log.offsets().log_end, log.offsets().high_watermark), (Offset(3), Offset(3)));
    append_replica(&log, placed(&[(3, 2)]), 2).unwrap();
    fixture.run();
    assert_eq!(log.epochs().starts(), [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(2), Offset(3))]);
}

#[test]
fn an_epoch_in_which_a_leader_got_nothing_does_not_keep_out_what_another_had_before() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    log.set_alone(false);
    fixture.append(2);
    log.begin_epoch(LeaderEpoch(3)).unwrap();
    log.follow_epoch(LeaderEpoch(4)).unwrap();
    append_replica(&log, placed(&[(2, 2), (3, 4)]), 4).unwrap();
    fixture.run();
    let starts = [(LeaderEpoch(1), Offset(0)), (LeaderEpoch(2), Offset(2)), (LeaderEpoch(4), Offset(3))];
    assert_eq!(log.epochs().starts(), starts);
    let fixture = fixture.reopened();
    assert_eq!(fixture.directory.logs()[0].epochs().starts(), starts);
}

fn numbered(producer: i64, sequence: i32) -> Batch {
    let options = BatchOptions {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        base_sequence: sequence,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    builder.append(Timestamp(1), None, Some(&[7; VALUE_BYTES]), std::iter::empty());
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}

/// A leader whose first six records have left for the archive.
fn leader_with_archive() -> (Fixture, Arc<PartitionLog>) {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    let append = |producer: i64, sequences: std::ops::Range<i32>| {
        for sequence in sequences {
            log.append(&numbered(producer, sequence), LeaderEpoch(1), Timestamp(0), None).unwrap();
        }
    };
    append(7, 0..3);
    append(8, 0..3);
    fixture.make_certain();
    log.advance_archived(Offset(6));
    fixture.make_certain();
    assert_eq!(log.remove_local_below(Offset(6)).unwrap(), 1);
    append(8, 3..10);
    fixture.run();
    (fixture, log)
}

#[test]
fn a_replica_that_begins_has_what_its_leader_has_and_knows_its_producers() {
    let (leading, leader) = leader_with_archive();
    assert!(matches!(leader.read_for_replica(Offset(0), 100), Err(ReadError::Archived { .. })));
    let snapshot = leader.snapshot_for_replica().unwrap();
    assert_eq!((snapshot.log_start, snapshot.at), (Offset(0), Offset(6)));
    let mut fixture = Fixture::new();
    let log = fixture.follower(1);
    log.continue_at(Continuation::decode(&snapshot.encode()).unwrap()).unwrap();
    let mut whole = log.when_whole();
    fixture.run();
    assert!(is_resolved(&mut whole));
    append_replica(&log, read_all(&leader, 6).0.into(), 1).unwrap();
    fixture.run();
    let check = |log: &PartitionLog| {
        let offsets = log.offsets();
        assert_eq!((offsets.log_start, offsets.local_log_start, offsets.log_end), (Offset(0), Offset(6), Offset(13)));
        assert_eq!(offsets.archived_to, Offset(6));
        assert_eq!(log.epochs(), leader.epochs());
        assert_eq!(read_all(log, 6), read_all(&leader, 6));
    };
    check(&log);
    drop(log);
    let fixture = fixture.reopened();
    let log = fixture.directory.logs()[0].clone();
    check(&log);
    log.begin_replicated(None);
    assert_eq!(log.offsets().high_watermark, Offset(6), "what is archived was committed");
    log.begin_epoch(LeaderEpoch(2)).unwrap();
    // The last five of each are known, of whatever is local or not.
    for (producer, sequences) in [(7, 0..3), (8, 5..10)] {
        for sequence in sequences {
            let again = log.append(&numbered(producer, sequence), LeaderEpoch(2), Timestamp(0), None).unwrap();
            assert!(again.duplicate.is_some(), "producer {producer} sequence {sequence}");
        }
    }
    drop(leading);
}

#[test]
fn an_archive_that_is_ahead_of_a_follower_counts_once_its_segments_are_certain() {
    let mut fixture = Fixture::new();
    let log = fixture.follower(1);
    append_replica(&log, placed(&[(0, 1), (1, 1), (2, 1)]), 1).unwrap();
    fixture.run();
    log.advance_archived(Offset(5));
    assert_eq!((log.offsets().archived_to, log.offsets().high_watermark), (Offset(0), Offset(3)));
    fixture.make_certain();
    assert_eq!(log.offsets().archived_to, Offset(3));
    fixture.make_certain();
    assert_eq!(log.remove_local_below(Offset(3)).unwrap(), 1);
    // What the leader deletes was committed, and goes as far as there are records.
    append_replica(&log, placed(&[(3, 1), (4, 1)]), 1).unwrap();
    fixture.run();
    log.advance_log_start(Offset(9)).unwrap();
    fixture.run();
    assert_eq!((log.offsets().log_start, log.offsets().high_watermark), (Offset(5), Offset(5)));
}
