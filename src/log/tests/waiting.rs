//! What waits for the archive, and who waits for news of a log.

use super::*;

#[test]
fn what_was_deleted_does_not_wait_for_the_archive() {
    let mut fixture = Fixture::new();
    let log = fixture.log();
    fixture.append(3);
    log.request_roll();
    fixture.run();
    fixture.directory.request_checkpoint();
    fixture.run();
    assert!(log.oldest_unarchived().is_some());
    assert_eq!(fixture.directory.logs_to_archive().len(), 1);
    log.advance_log_start(Offset(3)).unwrap();
    fixture.run();
    assert!(log.oldest_unarchived().is_none());
    assert!(fixture.directory.logs_to_archive().is_empty());
}

#[test]
fn who_watches_a_log_twice_is_told_once() {
    let fixture = Fixture::new();
    let log = fixture.log();
    let watchers: Vec<_> = (0..2).map(|_| Arc::new(tokio::sync::Notify::new())).collect();
    for notify in watchers.iter().flat_map(|notify| [notify; 3]) {
        log.watch(notify);
    }
    assert_eq!(log.state.lock().watchers.len(), 2);
}
