//! What happens while a lane waits for the disk: cuts, deletions and failures between two of its steps.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;

use super::*;
use crate::log::{Continuation, ProducerState};
use crate::types::{ProducerEpoch, ProducerId};

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "segment")
}

/// A log with two sealed segments of three records each, which are archived and may go.
fn with_two_archived_segments() -> Fixture {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    for _ in 0..2 {
        fixture.append(3);
        log.request_roll();
        fixture.run();
    }
    fixture.checkpoint();
    log.advance_archived(Offset(6));
    fixture.checkpoint();
    fixture
}

impl Fixture {
    fn checkpoint(&mut self) {
        self.machine.pass_ms(1000);
        self.directory.request_checkpoint();
        self.run();
    }

    /// Has `cut` happen, and the journal know it, while write-behind is about to write ten records to a segment.
    fn cut_while_written(&mut self, mut cut: impl FnMut(&Arc<PartitionLog>) + Send + 'static) {
        let log = self.log();
        self.run();
        for value in 0..10 {
            log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
        }
        let (tasks, mut random, log) = (Arc::clone(&self.machine.tasks), Random::new(1), Arc::downgrade(&log));
        let mut is_cut = false;
        self.machine.disk.meanwhile(move |operation, path| {
            if operation == Operation::Write && is_segment(path) && !is_cut {
                is_cut = true;
                let log = log.upgrade().expect("it is written");
                assert_eq!(log.offsets().durable, Offset(10));
                cut(&log);
                tasks.run_all(&mut random);
            }
            Ok(())
        });
        self.run();
    }
}

/// The values of the records from `from` on.
fn values(directory: &LogDirectory, from: i64) -> Vec<u8> {
    let log = directory.logs()[0].clone();
    let end = log.offsets().high_watermark;
    let read = |offset| log.read(Offset(offset), end, 1).unwrap().execute().unwrap().remove(0);
    // Behind the value there is but the number of headers.
    (from..end.0).map(read).map(|bytes| bytes[bytes.len() - 2]).collect()
}

/// The log goes on after `kept`, now and after a power cut.
fn check_goes_on(mut fixture: Fixture, from: i64, kept: &[u8]) {
    let log = fixture.log();
    assert!(log.truncated());
    for value in [50, 51] {
        log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
    }
    fixture.run();
    let expected = [kept, &[50, 51]].concat();
    assert_eq!(values(&fixture.directory, from), expected);
    let machine = fixture.crash();
    assert_eq!(values(&open(&machine).unwrap(), from), expected);
}

#[test]
fn what_is_cut_on_its_way_to_a_segment_does_not_get_there() {
    let mut fixture = Fixture::new();
    fixture.cut_while_written(|log| log.truncate_to(Offset(4)).unwrap());
    assert_eq!(fixture.log().offsets().log_end, Offset(4));
    check_goes_on(fixture, 0, &[0, 1, 2, 3]);
}

#[test]
fn what_is_given_up_on_its_way_to_a_segment_does_not_get_there() {
    let mut fixture = Fixture::new();
    fixture.cut_while_written(|log| {
        let producers = ProducerState::default();
        let at = Offset(20);
        log.continue_at(Continuation { log_start: at, at, epochs: log.epochs(), producers }).unwrap();
    });
    assert_eq!(fixture.log().offsets().log_end, Offset(20));
    check_goes_on(fixture, 20, &[]);
}

#[test]
fn a_partition_that_is_written_to_without_a_break_is_sealed_by_age_as_others_are() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(1);
    let (tasks, mut random, appending) = (Arc::clone(&fixture.machine.tasks), Random::new(1), Arc::downgrade(&log));
    let (mut is_appending, mut left) = (false, 1000);
    fixture.machine.disk.meanwhile(move |operation, path| {
        let is_written = operation == Operation::Write && is_segment(path) && left > 0;
        if is_written && !std::mem::replace(&mut is_appending, true) {
            left -= 1;
            let log = appending.upgrade().expect("it is written");
            log.append(&batch(2), LeaderEpoch(1), Timestamp(0), None).unwrap();
            tasks.run_all(&mut random);
            is_appending = false;
        }
        Ok(())
    });
    // Four hours, and segments are sealed after one.
    for _ in 0..24 {
        fixture.machine.pass_ms(10 * 60 * 1000);
        fixture.checkpoint();
    }
    let sealed = log.archivable_segments().len();
    assert!((3..=4).contains(&sealed), "{sealed} segments were sealed");
}

#[test]
fn the_files_of_a_deleted_topic_let_others_be_written_between_them() {
    let mut fixture = with_two_archived_segments();
    let other = TopicPartition::new(TopicId::from_bytes([2; 16]), 0);
    let log = fixture.directory.log_or_create(other, LogSettings::default());
    log.begin_epoch(LeaderEpoch(1)).unwrap();
    fixture.run();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (tasks, mut random, seen) = (Arc::clone(&fixture.machine.tasks), Random::new(1), Arc::clone(&steps));
    fixture.machine.disk.meanwhile(move |operation, path| {
        let is_removal = operation == Operation::Remove && path.starts_with("/data/removed");
        if is_removal && seen.lock().is_empty() {
            for value in 0..100 {
                log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
            }
            tasks.run_all(&mut random);
        }
        if is_removal || (operation == Operation::Write && is_segment(path)) {
            seen.lock().push(operation);
        }
        Ok(())
    });
    fixture.log().delete().unwrap();
    fixture.run();
    let steps = std::mem::take(&mut *steps.lock());
    let written = steps.iter().position(|step| *step == Operation::Write).expect("the other is written");
    assert!(steps[written..].contains(&Operation::Remove), "the other had to wait: {steps:?}");
    let left = |fixture: &Fixture| fixture.directory.logs().iter().map(|log| log.partition()).collect::<Vec<_>>();
    assert_eq!(left(&fixture), [other]);
    assert_eq!(left(&fixture.reopened()), [other]);
}

#[test]
fn what_a_crash_leaves_of_a_deleted_topic_goes_at_the_next_start() {
    let mut fixture = with_two_archived_segments();
    fixture.log().delete().unwrap();
    let mut removals = 0;
    fixture.machine.disk.meanwhile(move |operation, _| {
        removals += usize::from(operation == Operation::Remove);
        if removals > 1 { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
    });
    fixture.run();
    let files = |machine: &Machine, directory: &str| {
        machine.disk.files().iter().filter(|path| path.starts_with(directory)).count()
    };
    assert_eq!((files(&fixture.machine, "/data/topics"), files(&fixture.machine, "/data/removed")), (0, 3));
    let mut fixture = fixture.reopened();
    assert!(fixture.directory.logs().is_empty());
    fixture.checkpoint();
    assert_eq!(files(&fixture.machine, "/data/removed"), 0);
}

#[test]
fn a_segment_goes_only_once_it_is_certain_that_the_one_before_is_gone() {
    let fixture = with_two_archived_segments();
    let log = fixture.log();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut failures) = (Arc::clone(&steps), 1);
    fixture.machine.disk.meanwhile(move |operation, path| {
        let is_removal = operation == Operation::Remove && is_segment(path);
        let follows = seen.lock().last() == Some(&Operation::Remove);
        if operation == Operation::SyncDirectory && follows && std::mem::take(&mut failures) > 0 {
            return Err(std::io::Error::from_raw_os_error(crate::runtime::disk::EMFILE));
        }
        if is_removal || operation == Operation::SyncDirectory {
            seen.lock().push(operation);
        }
        Ok(())
    });
    assert!(log.remove_local_below(Offset(6)).is_err());
    assert_eq!(log.remove_local_below(Offset(6)).unwrap(), 1);
    let steps = steps.lock();
    let removals: Vec<_> = steps.iter().enumerate().filter(|(_, step)| **step == Operation::Remove).collect();
    assert!(removals.len() == 2 && removals[1].0 > removals[0].0 + 1, "nothing is synced between them: {steps:?}");
}

#[test]
fn a_topic_that_is_deleted_while_local_copies_leave_takes_nothing_else_with_it() {
    let mut fixture = with_two_archived_segments();
    let log = fixture.log();
    let (done, is_done) = mpsc::channel();
    let (ask, asked) = mpsc::channel();
    let deleted = Arc::downgrade(&log);
    fixture.machine.disk.meanwhile(move |operation, path| {
        let Some(log) = deleted.upgrade().filter(|log| !log.is_deleted()) else { return Ok(()) };
        if operation == Operation::Remove && is_segment(path) {
            log.delete().unwrap();
            ask.send(()).unwrap();
            // It has to wait for the removal, so this passes in full.
            assert!(is_done.recv_timeout(Duration::from_millis(300)).is_err(), "the directory went under the removal");
        }
        Ok(())
    });
    thread::scope(|scope| {
        let tasks = Arc::clone(&fixture.machine.tasks);
        scope.spawn(move || {
            asked.recv_timeout(Duration::from_secs(60)).unwrap();
            tasks.run_all(&mut Random::new(1));
            let _ = done.send(());
        });
        // The second goes with its topic, unless it was faster.
        assert!((1..=2).contains(&log.remove_local_below(Offset(6)).unwrap()));
    });
    fixture.run();
    assert!(!fixture.directory.is_offline() && fixture.directory.logs().is_empty());
    assert!(!fixture.machine.disk.files().iter().any(|path| path.starts_with("/data/topics")));
    assert_eq!(acknowledged(fixture.append(2)), 2, "others are served");
}

#[test]
fn who_waits_for_a_log_from_which_much_leaves_waits_for_one_segment_at_most() {
    let fixture = with_two_archived_segments();
    let log = fixture.log();
    let removed = Arc::new(AtomicUsize::new(0));
    let (ask, asked) = mpsc::channel();
    let (_quiet, nothing) = mpsc::channel::<()>();
    let count = Arc::clone(&removed);
    fixture.machine.disk.meanwhile(move |operation, path| {
        if operation == Operation::Remove && is_segment(path) && count.fetch_add(1, Ordering::SeqCst) == 0 {
            ask.send(()).unwrap();
            // For the other to stand in line; nothing comes.
            assert!(nothing.recv_timeout(Duration::from_millis(300)).is_err());
        }
        Ok(())
    });
    thread::scope(|scope| {
        let (log, removed) = (&log, &removed);
        let waiter = scope.spawn(move || {
            asked.recv_timeout(Duration::from_secs(60)).unwrap();
            let _writer = log.writer.lock();
            removed.load(Ordering::SeqCst)
        });
        assert_eq!(log.remove_local_below(Offset(6)).unwrap(), 2);
        assert_eq!(waiter.join().unwrap(), 1);
    });
}

#[test]
fn a_segment_that_can_not_be_removed_is_tried_again() {
    let mut fixture = with_two_archived_segments();
    let log = fixture.log();
    let mut failures = 1;
    fixture.machine.disk.meanwhile(move |operation, path| {
        if operation == Operation::Remove && is_segment(path) && failures > 0 {
            failures -= 1;
            return Err(io::Error::other("busy"));
        }
        Ok(())
    });
    assert!(log.remove_local_below(Offset(6)).is_err());
    assert!(matches!(log.read(Offset(0), Offset(6), 100), Err(ReadError::Archived { .. })), "nobody reads it");
    assert!(log.has_sealed_below(Offset(6)), "it is seen");
    assert_eq!(log.remove_local_below(Offset(6)).unwrap(), 2);
    assert_eq!(fixture.machine.disk.files().iter().filter(|path| is_segment(path)).count(), 1, "the empty one");
    assert_eq!(acknowledged(fixture.append(2)), 2);
}

#[test]
fn a_full_disk_gets_room_by_removals_that_need_none() {
    let mut fixture = with_two_archived_segments();
    let log = fixture.log();
    fixture.machine.disk.set_capacity(1);
    assert_eq!(log.remove_local_below(Offset(6)).unwrap(), 1, "the last one says where the log ends");
    fixture.machine.disk.set_capacity(u64::MAX);
    assert_eq!(log.remove_local_below(Offset(6)).unwrap(), 1);
    assert_eq!(acknowledged(fixture.append(2)), 2);
    let machine = fixture.crash();
    assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(8));
}

#[test]
fn a_journal_file_is_followed_only_when_its_sync_succeeds_and_one_that_fails_is_final() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    log.configure(LogSettings { write_caching: true, ..LogSettings::default() });
    fixture.run();
    let mut syncs = 0;
    fixture.machine.disk.meanwhile(move |operation, path| {
        let is_journal = path.extension().is_some_and(|extension| extension == "journal");
        if operation == Operation::Sync && is_journal {
            syncs += 1;
            assert_eq!(syncs, 1, "a failed sync is not tried again");
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    });
    for value in 0..100 {
        if log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).is_err() {
            break;
        }
        fixture.run();
    }
    assert!(fixture.directory.is_offline());
}

#[test]
fn who_waits_for_room_is_told_when_the_directory_goes_offline() {
    let mut fixture = Fixture::new();
    let all = fixture.directory.try_admit_producer(usize::MAX).unwrap();
    let mut waits = Box::pin(fixture.directory.admit(1));
    let mut held = Box::pin(fixture.directory.admit_producer(1));
    fixture.directory.hold_producers(true);
    assert!(waits.as_mut().now_or_never().is_none() && held.as_mut().now_or_never().is_none());
    fixture.machine.disk.fail_syncs();
    let log = fixture.log();
    log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).unwrap();
    fixture.directory.request_checkpoint();
    fixture.machine.tasks.run_all(&mut fixture.random);
    assert!(fixture.directory.is_offline());
    assert!(waits.as_mut().now_or_never().unwrap().is_none() && held.as_mut().now_or_never().unwrap().is_none());
    drop((waits, held, all));
    assert!(!fixture.directory.hold_producers(true), "nobody is to wait for it again");
    assert!(fixture.directory.try_admit_producer(1).is_none());
}

#[test]
fn producers_that_are_held_back_wait_and_the_broker_itself_does_not() {
    let fixture = Fixture::new();
    assert!(fixture.directory.hold_producers(true) && !fixture.directory.hold_producers(true));
    let mut waits = Box::pin(fixture.directory.admit_producer(1));
    assert!(waits.as_mut().now_or_never().is_none() && fixture.directory.try_admit_producer(1).is_none());
    assert!(fixture.directory.admit(1).now_or_never().unwrap().is_some());
    assert!(fixture.directory.hold_producers(false));
    assert!(waits.now_or_never().unwrap().is_some());
}

#[test]
fn small_batches_that_take_all_permits_are_written() {
    let machine = Machine::new(7);
    let owner = Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    let settings = DirectorySettings { tail_bytes: 4 << 20, ..settings() };
    let opened =
        LogDirectory::open(&machine.runtime(), Path::new("/data"), owner, settings, DirectoryMetrics::default());
    let mut fixture = Fixture { machine, random: Random::new(7), directory: opened.unwrap().0 };
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(Timestamp(0), None, Some(b"small"), std::iter::empty());
    let small = builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap();
    let all = settings.unwritten_bytes;
    // Of the bytes that may be unwritten this is a tenth, and no partition has enough to be written for its own sake.
    for partition in 0..i32::try_from(all / 1024).unwrap() {
        let partition = TopicPartition::new(TopicId::from_bytes([1; 16]), partition);
        let log = fixture.directory.log_or_create(partition, LogSettings::default());
        log.begin_epoch(LeaderEpoch(1)).unwrap();
        let permit = fixture.directory.try_admit_producer(small.bytes().len()).unwrap();
        log.append(&small, LeaderEpoch(1), Timestamp(0), Some(permit)).unwrap();
    }
    assert!(fixture.directory.try_admit_producer(1).is_none());
    fixture.run();
    assert!(fixture.directory.try_admit_producer(all).is_some());
}

/// A batch of an idempotent producer, its first.
fn numbered(producer: i64) -> Batch {
    let (producer_id, producer_epoch) = (ProducerId(producer), ProducerEpoch(0));
    let mut builder =
        BatchBuilder::new(BatchOptions { producer_id, producer_epoch, base_sequence: 0, ..BatchOptions::default() });
    builder.append(Timestamp(0), None, Some(b"value"), std::iter::empty());
    builder.build(Offset::ZERO, LeaderEpoch::NONE).unwrap()
}

#[test]
fn producers_are_bounded_over_all_partitions_of_a_directory_together() {
    let machine = Machine::new(7);
    let owner = Owner { cluster_id: ClusterId::from_bytes([9; 16]), node_id: NodeId(1), incarnation: Incarnation(0) };
    let settings = DirectorySettings { max_producers: 50, ..settings() };
    let metrics = DirectoryMetrics::default();
    let opened = LogDirectory::open(&machine.runtime(), Path::new("/data"), owner, settings, metrics.clone());
    let mut fixture = Fixture { machine, random: Random::new(7), directory: opened.unwrap().0 };
    let all = |fixture: &Fixture| fixture.directory.logs().iter().map(|log| log.producers().len()).sum::<usize>();
    for producer in 0..600 {
        let partition = TopicPartition::new(TopicId::from_bytes([1; 16]), producer % 10);
        let log = fixture.directory.log_or_create(partition, LogSettings::default());
        log.begin_epoch(LeaderEpoch(1)).unwrap();
        let now = Timestamp(producer.into());
        log.append(&numbered(producer.into()), LeaderEpoch(1), now, None).unwrap();
        assert!(log.producers().entries().any(|(id, _)| id == ProducerId(producer.into())), "the newest is remembered");
        fixture.run();
        assert!(all(&fixture) <= 50);
    }
    assert_eq!(metrics.log.forgotten_producers.get(), 600 - all(&fixture) as u64);
    // Those of a partition that is gone leave room.
    for log in fixture.directory.logs().into_iter().take(5) {
        log.delete().unwrap();
    }
    fixture.run();
    fixture.run();
    let left = all(&fixture);
    let log = fixture.directory.logs()[0].clone();
    for producer in 1000..1010 {
        log.append(&numbered(producer), LeaderEpoch(1), Timestamp(producer), None).unwrap();
        fixture.run();
    }
    assert_eq!(all(&fixture), left + 10);
}

#[test]
fn a_restart_forgets_no_producer_before_the_log_is_told_for_how_long() {
    let mut fixture = Fixture::new();
    let numbered = numbered(7);
    let append = |fixture: &Fixture, batch: &Batch| {
        let now = fixture.machine.runtime().clock.wall();
        fixture.log().append(batch, LeaderEpoch(1), now, None).unwrap()
    };
    append(&fixture, &numbered);
    fixture.directory.request_checkpoint();
    fixture.run();
    let mut fixture = fixture.reopened();
    fixture.machine.pass_ms(3 * 86_400_000);
    append(&fixture, &batch(1));
    fixture.directory.request_checkpoint();
    fixture.run();
    assert!(append(&fixture, &numbered).duplicate.is_some());
}
