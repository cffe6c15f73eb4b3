//! What is seen of syncs from outside.

use std::sync::mpsc;

use super::*;
use crate::log::write_behind::SYNC_FILES_LIMIT;

#[test]
fn every_sync_of_segments_is_timed_whether_one_by_one_or_of_all_at_once() {
    let metrics = DirectoryMetrics::default();
    let mut fixture = Fixture::counted(&metrics);
    let (syncs, seen) = mpsc::channel();
    fixture.machine.disk.meanwhile(move |operation, path| {
        let is_segment = path.extension().is_some_and(|extension| extension == "segment");
        if operation == Operation::SyncFilesystem || (operation == Operation::Sync && is_segment) {
            let _ = syncs.send(operation);
        }
        Ok(())
    });
    let log = fixture.log();
    fixture.append(3);
    log.request_roll();
    fixture.run();
    for index in 0..=SYNC_FILES_LIMIT as i32 {
        let partition = TopicPartition::new(TopicId::from_bytes([2; 16]), index);
        let log = fixture.directory.log_or_create(partition, LogSettings::default());
        log.begin_epoch(LeaderEpoch(1)).unwrap();
        log.append(&batch(1), LeaderEpoch(1), Timestamp(0), None).unwrap();
    }
    fixture.run();
    for _ in 0..2 {
        fixture.machine.pass_ms(settings().checkpoint_interval.as_millis() as u64 + 1);
        fixture.directory.tick();
        fixture.run();
    }
    let seen: Vec<_> = seen.try_iter().collect();
    assert!(seen.contains(&Operation::Sync) && seen.contains(&Operation::SyncFilesystem), "{seen:?}");
    assert_eq!(metrics.log.sync_seconds.count(), seen.len() as u64);
}
