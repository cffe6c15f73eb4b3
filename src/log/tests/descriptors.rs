//! File descriptors that run out: what waits, and what must not count as done.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use super::*;
use crate::log::write_behind::SYNC_FILES_LIMIT;
use crate::runtime::disk::EMFILE;

/// Has what needs a file descriptor fail where `fails` says so.
fn without_descriptors(machine: &Machine, mut fails: impl FnMut(Operation, &Path) -> bool + Send + 'static) {
    machine.disk.meanwhile(move |operation, path| {
        let needs_one = matches!(operation, Operation::Open | Operation::SyncDirectory | Operation::SyncFilesystem);
        if needs_one && fails(operation, path) { Err(io::Error::from_raw_os_error(EMFILE)) } else { Ok(()) }
    });
}

#[test]
fn file_descriptors_that_run_out_hold_producers_up_and_harm_nothing() {
    for (seed, write_caching) in (0..40).map(|seed| (seed, seed % 2 == 0)) {
        let mut fixture = Fixture::seeded(seed);
        fixture.append(1);
        let log = fixture.log();
        log.configure(LogSettings { segment_bytes: 4 << 10, write_caching, ..LogSettings::default() });
        let (failing, mut random) = (Arc::new(AtomicBool::new(false)), Random::new(seed));
        without_descriptors(&fixture.machine, {
            let failing = Arc::clone(&failing);
            move |_, _| failing.load(Ordering::Relaxed) && random.below(3) > 0
        });
        let mut waits = Vec::new();
        let mut has_failed = false;
        for round in 0..30 {
            failing.store(round % 3 > 0, Ordering::Relaxed);
            for value in 0..=(round + seed as u8) % 5 {
                let appended = log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
                waits.push(log.when(Level::Committed, appended.next_offset));
            }
            fixture.directory.request_checkpoint();
            fixture.run();
            has_failed |= fixture.directory.is_full();
            fixture.directory.tick();
            fixture.run();
            assert!(!fixture.directory.is_offline());
        }
        failing.store(false, Ordering::Relaxed);
        for _ in 0..2 {
            fixture.directory.tick();
            fixture.run();
        }
        assert!(has_failed && !fixture.directory.is_full());
        let appended = waits.len();
        assert_eq!(acknowledged(waits), appended);
        drop(log);
        // What write.caching leaves to the operating system may go with the power.
        let machine = if write_caching { close_and_cut_power(fixture) } else { fixture.crash() };
        assert_eq!(open(&machine).unwrap().logs()[0].offsets().log_end, Offset(appended as i64 + 1));
    }
}

#[test]
fn a_checkpoint_whose_sync_could_not_begin_counts_nothing_as_synced() {
    let mut fixture = Fixture::new();
    let topic = TopicId::from_bytes([1; 16]);
    let partitions: Vec<_> = (0..=SYNC_FILES_LIMIT as i32).map(|index| TopicPartition::new(topic, index)).collect();
    for &partition in &partitions {
        let log = fixture.directory.log_or_create(partition, LogSettings::default());
        log.begin_epoch(LeaderEpoch(1)).unwrap();
        log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).unwrap();
    }
    fixture.run();
    let (failed, has_failed) = mpsc::channel();
    let mut failed = Some(failed);
    without_descriptors(&fixture.machine, move |operation, _| {
        operation == Operation::SyncFilesystem && failed.take().is_some_and(|failed| failed.send(()).is_ok())
    });
    for _ in 0..2 {
        fixture.machine.pass_ms(settings().checkpoint_interval.as_millis() as u64 + 1);
        fixture.directory.tick();
        fixture.run();
    }
    assert!(has_failed.try_recv().is_ok() && !fixture.directory.is_offline());
    let machine = fixture.crash();
    let directory = open(&machine).unwrap();
    for partition in partitions {
        let log = directory.log(partition).unwrap();
        assert_eq!(log.offsets().log_end, Offset(1));
        assert!(log.read(Offset(0), Offset(1), 1).unwrap().execute().is_ok());
    }
}

/// The clean stop makes a checkpoint by which the journal is not needed any more.
fn close_and_cut_power(fixture: Fixture) -> Machine {
    let Fixture { machine, directory, .. } = fixture;
    directory.close();
    machine.power_cut();
    machine
}

#[test]
fn a_deleted_partition_whose_removal_could_not_be_synced_does_not_come_back() {
    for seed in 0..20 {
        let mut fixture = Fixture::seeded(seed);
        fixture.append(20);
        fixture.directory.request_checkpoint();
        fixture.run();
        let mut failures = 1;
        without_descriptors(&fixture.machine, move |operation, path| {
            let is_topic = path.parent().is_some_and(|parent| parent.ends_with("topics"));
            operation == Operation::SyncDirectory && is_topic && std::mem::take(&mut failures) > 0
        });
        fixture.log().delete().unwrap();
        fixture.run();
        // The journal files that tell of it are used again.
        let other = TopicPartition::new(TopicId::from_bytes([2; 16]), 0);
        let log = fixture.directory.log_or_create(other, LogSettings::default());
        log.begin_epoch(LeaderEpoch(1)).unwrap();
        for value in 0..100 {
            log.append(&batch(value), LeaderEpoch(1), Timestamp(0), None).unwrap();
            fixture.run();
        }
        drop(log);
        let machine = close_and_cut_power(fixture);
        machine.disk.lose(Path::new("/data/checkpoint"));
        let found: Vec<_> = open(&machine).unwrap().logs().iter().map(|log| log.partition()).collect();
        assert_eq!(found, [other]);
    }
}
