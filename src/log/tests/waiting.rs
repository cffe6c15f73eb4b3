//! What waits for the archive, and who waits for news of a log.

use std::time::Duration;

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

/// What its topic wants is known a little later, and may be far more than any default.
#[test]
fn a_recovered_log_is_sealed_by_no_age_before_it_is_told_one() {
    let mut fixture = Fixture::new();
    fixture.append(3);
    let mut fixture = fixture.reopened();
    let log = fixture.directory.logs().remove(0);
    let tick = |fixture: &mut Fixture| {
        fixture.machine.pass_ms(100);
        fixture.directory.tick();
        fixture.run();
    };
    fixture.machine.pass_ms(1_000_000_000);
    tick(&mut fixture);
    let aged = |seconds| LogSettings { segment_age: Duration::from_secs(seconds), ..LogSettings::default() };
    log.configure(aged(2_000_000));
    tick(&mut fixture);
    assert!(log.archivable_segments().is_empty());
    log.configure(aged(1_000_000));
    tick(&mut fixture);
    tick(&mut fixture);
    assert_eq!(log.archivable_segments().len(), 1);
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
