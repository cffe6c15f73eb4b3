//! The log stays short, and says the same at every step.

use super::*;
use crate::group::records::CommittedOffset;

#[test]
fn the_log_stays_short_whatever_is_committed() {
    let settings = GroupSettings { rewrite_min_bytes: 20_000, max_batch_bytes: 4_000, ..settings() };
    let mut bench = Bench::new(settings.clone());
    bench.join_alone("stable", b"");
    let (mut longest, mut appended) = (0, 0);
    for round in 0..20_000 {
        let before = bench.log.next;
        bench.commit(simple("g", round % 100, round.into()));
        bench.replies.clear();
        appended += bench.log.next - before;
        longest = longest.max(bench.log.bytes());
    }
    let live = bench.log.state();
    assert_eq!(live, bench.coordinator.logged);
    let limit = settings.rewrite_min_bytes.max(live.record_bytes() * settings.rewrite_factor);
    // While the state is walked, the log grows by the walk and by what comes meanwhile.
    assert!(longest <= limit + 2 * live.record_bytes() + 2 * settings.max_batch_bytes as u64, "{longest} > {limit}");
    assert!(appended < 20_000 * 3 / 2, "rewriting costs little: {appended}");
    assert_eq!((bench.fetch("g", "t", 99), bench.describe("stable").state), (19_999, GroupState::Stable));
    let again = Bench::on(bench.log.clone(), settings, at(2));
    assert_eq!(again.coordinator.logged, live);
}

#[test]
fn a_log_of_tombstones_alone_is_cut_too() {
    let mut bench = Bench::new(GroupSettings { rewrite_min_bytes: 1_000, ..settings() });
    for round in 0..100 {
        bench.commit(simple("g", 0, round));
        bench.ask(Request::DeleteGroup { group_id: id("g") });
    }
    assert!(bench.log.bytes() < 2_000);
    assert_eq!(bench.log.state(), LoggedState::default());
}

#[test]
fn a_group_that_lost_its_last_offset_is_still_there_after_rewriting() {
    let mut bench = Bench::new(GroupSettings { rewrite_min_bytes: 1_000, ..settings() });
    bench.commit(simple("emptied", 0, 1));
    bench.ask(Request::OffsetDelete(OffsetDelete { group_id: id("emptied"), topics: vec![(id("t"), vec![0])] }));
    for round in 0..100 {
        bench.commit(simple("g", 0, round));
    }
    assert!(bench.log.start > Offset(3));
    let mut again = Bench::on(bench.log.clone(), settings(), at(2));
    assert_eq!(
        (again.describe("emptied").state, bench.describe("emptied").state),
        (GroupState::Empty, GroupState::Empty)
    );
}

#[test]
fn the_cursor_walks_everything_in_pieces_of_any_size() {
    let mut bench = Bench::new(settings());
    bench.join_alone("b", b"");
    for (group, partition) in [("a", 0), ("a", 1), ("b", 7), ("c", 0), ("c", 1), ("c", 2)] {
        bench.commit(OffsetCommit { generation: -1, ..simple(group, partition, 1) });
    }
    let state = bench.log.state();
    let (all, _) = state.records_from(None, usize::MAX);
    for max_bytes in [1, 60, 100, 150, 300, 1000] {
        let (mut walked, mut cursor) = (Vec::new(), None);
        loop {
            let (records, next) = state.records_from(cursor.as_ref(), max_bytes);
            walked.extend(records);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(walked, all);
    }
    let mut rebuilt = LoggedState::default();
    all.iter().for_each(|record| rebuilt.apply(record).unwrap());
    assert_eq!(rebuilt, state);
    assert_eq!(CommittedOffset::decode(all[0].value.as_ref().unwrap()).unwrap().offset, 1);
}
