//! What reads of the disk hold up, and how much a start reads.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A log with a sealed and an active segment, of `rounds` times 50 records each.
fn with_two_segments(rounds: usize) -> Fixture {
    let mut fixture = Fixture::new();
    for part in 0..2 {
        for _ in 0..rounds {
            fixture.append(50);
        }
        if part == 0 {
            fixture.log().request_roll();
            fixture.run();
        }
    }
    fixture.directory.request_checkpoint();
    fixture.run();
    fixture
}

/// Has somebody append, and the batch become durable, whenever a file is opened for the first time, which is in the middle of a
/// read; tells how often.
fn appending_meanwhile(fixture: &Fixture, log: &Arc<PartitionLog>) -> Arc<AtomicUsize> {
    let (tasks, mut random, log) = (Arc::clone(&fixture.machine.tasks), Random::new(1), Arc::downgrade(log));
    let met = Arc::new(AtomicUsize::new(0));
    let (meetings, mut opened) = (Arc::clone(&met), BTreeSet::new());
    fixture.machine.disk.meanwhile(move |operation, path| {
        if operation == Operation::Open && opened.insert(path.to_owned()) {
            let log = log.upgrade().expect("it is read");
            // Whoever would wait here waits for ever: the reader is on the same thread.
            assert!(log.state.try_lock().is_some(), "who reads {} holds up appends", path.display());
            assert!(log.writer.try_lock().is_some(), "who reads {} holds up write-behind", path.display());
            let appended = log.append(&batch(9), LeaderEpoch(1), Timestamp(0), None).unwrap();
            tasks.run_all(&mut random);
            assert_eq!(log.offsets().durable, appended.next_offset);
            meetings.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    });
    met
}

#[test]
fn who_reads_the_disk_holds_up_nobody_who_appends() {
    // After a restart no index is in memory, and a read has more to do.
    let fixture = with_two_segments(1).reopened();
    let log = fixture.log();
    let met = appending_meanwhile(&fixture, &log);
    for from in [0, 50] {
        let plan = log.read(Offset(from), Offset(100), 4000).unwrap();
        assert!(matches!(plan, ReadPlan::Disk(_)), "{plan:?}");
        let batches = plan.execute().unwrap();
        assert!(!batches.is_empty());
    }
    let found = log.find_timestamp(Timestamp(20), Offset(100)).execute().unwrap().unwrap();
    assert_eq!(found.header().base_offset, Offset(20));
    // The first segment's index, and both segments.
    assert_eq!((met.load(Ordering::Relaxed), log.offsets().durable), (3, Offset(103)));
}

/// What a clean stop leaves is taken at the checkpoint's word: a start takes no longer where there is more.
#[test]
fn a_start_after_a_clean_stop_reads_no_records() {
    let read_bytes = |rounds: usize| {
        let Fixture { machine, directory, .. } = with_two_segments(rounds);
        directory.close();
        machine.kill();
        let before = machine.disk.read_bytes();
        let directory = open(&machine).unwrap();
        assert_eq!(directory.logs()[0].offsets().log_end, Offset(100 * rounds as i64));
        machine.disk.read_bytes() - before
    };
    let (few, many) = (read_bytes(1), read_bytes(30));
    let more = 29 * 100 * VALUE_BYTES as u64;
    // The journal's files are read, of which there are no more than it may have.
    assert!(many < few + more / 8, "{few} bytes are read, and {many} where there are {more} more");
}
