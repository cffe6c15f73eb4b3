//! Plans for small clusters, and what holds for all.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn node(rack: Option<&str>) -> Node {
    Node { rack: rack.map(str::to_owned), is_up: true, takes: true }
}

/// Brokers numbered from 1, in racks or none.
fn layout(racks: &[Option<&str>], partitions: &[(&str, &[i32], u64)]) -> Layout {
    let nodes = (1..).zip(racks.iter().map(|rack| node(*rack))).collect();
    let placed = |(partition, (topic, replicas, bytes)): (i32, &(&str, &[i32], u64))| Placed {
        topic: (*topic).to_owned(),
        partition,
        replicas: replicas.to_vec(),
        bytes: *bytes,
        may_move: true,
    };
    Layout { nodes, partitions: (0..).zip(partitions).map(placed).collect() }
}

/// The layout after a plan.
fn after(layout: &Layout, changes: &[Change]) -> Layout {
    let mut layout = layout.clone();
    for change in changes {
        layout.partitions[change.index].replicas.clone_from(&change.replicas);
    }
    layout
}

fn replicas(layout: &Layout) -> Vec<usize> {
    loads(layout, &[]).values().map(|load| load.replicas).collect()
}

fn leaders(layout: &Layout) -> Vec<usize> {
    loads(layout, &[]).values().map(|load| load.leaders).collect()
}

fn moved(changes: &[Change]) -> usize {
    changes.iter().map(|change| change.adds.len()).sum()
}

#[test]
fn a_new_broker_gets_its_share_and_no_more_moves_than_that() {
    let before = layout(
        &[None, None, None],
        &[
            ("a", &[1, 2], 5),
            ("a", &[2, 1], 5),
            ("a", &[1, 2], 5),
            ("b", &[2, 1], 5),
            ("b", &[1, 2], 5),
            ("b", &[2, 1], 5),
        ],
    );
    let changes = balanced(&before);
    let after = after(&before, &changes);
    assert_eq!((replicas(&after), leaders(&after), moved(&changes)), (vec![4, 4, 4], vec![2, 2, 2], 4));
    // Of both topics.
    let of = |topic: &str| {
        after.partitions.iter().filter(|placed| placed.topic == topic && placed.replicas.contains(&3)).count()
    };
    assert_eq!((of("a"), of("b")), (2, 2));
    assert_eq!(balanced(&after), []);
}

#[test]
fn replicas_are_spread_over_racks_before_all_else() {
    let racks = [Some("x"), Some("x"), Some("y")];
    let before = layout(&racks, &[("a", &[1, 2], 5), ("a", &[2, 1], 5), ("a", &[1, 2], 5)]);
    let changes = balanced(&before);
    let after = after(&before, &changes);
    assert!(after.partitions.iter().all(|placed| placed.replicas.contains(&3)), "{after:?}");
    assert_eq!(moved(&changes), 3, "and nothing goes back from there to be level");
    assert_eq!(leaders(&after), [1, 1, 1]);
}

#[test]
fn brokers_with_many_bytes_change_replicas_with_those_that_have_few() {
    let big = 10 * GIB;
    let before = layout(&[None, None], &[("a", &[1], big), ("b", &[1], big), ("c", &[2], GIB), ("d", &[2], GIB)]);
    let changes = balanced(&before);
    let bytes: Vec<u64> = loads(&before, &changes).values().map(|load| load.bytes).collect();
    assert_eq!((bytes, moved(&changes)), (vec![11 * GIB, 11 * GIB], 2));
    // What is about equal is left alone.
    let before = layout(&[None, None], &[("a", &[1], 10 * GIB), ("b", &[2], 9 * GIB)]);
    assert_eq!(balanced(&before), []);
}

#[test]
fn leaders_are_shared_by_the_order_of_replicas_alone_and_over_third_brokers() {
    // Broker 1 shares nothing with 3, but 2 does with both.
    let mut before = layout(
        &[None, None, None],
        &[("a", &[1, 2], 1), ("a", &[1, 2], 1), ("a", &[1, 2], 1), ("b", &[2, 3], 1), ("b", &[3, 2], 1)],
    );
    before.nodes.values_mut().for_each(|node| node.takes = false);
    before.partitions[4].replicas = vec![2, 3];
    assert_eq!(leaders(&before), [3, 2, 0]);
    let changes = balanced(&before);
    let after = after(&before, &changes);
    assert_eq!((moved(&changes), leaders(&after)), (0, vec![2, 2, 1]));
}

#[test]
fn only_what_may_move_does_and_only_to_brokers_that_take_it() {
    let all: [(&str, &[i32], u64); 4] = [("a", &[1], 5), ("a", &[1], 5), ("b", &[1], 5), ("b", &[1], 5)];
    let mut before = layout(&[None, None, None], &all);
    before.partitions[..2].iter_mut().for_each(|placed| placed.may_move = false);
    before.nodes.get_mut(&2).unwrap().takes = false;
    let changes = balanced(&before);
    assert!(changes.iter().all(|change| change.index >= 2 && change.adds == [3]), "{changes:?}");
    assert_eq!(replicas(&after(&before, &changes)), [2, 0, 2]);
    // A broker that is down keeps what it has.
    before.nodes.get_mut(&1).unwrap().is_up = false;
    assert_eq!(balanced(&before), []);
}

#[test]
fn a_drained_broker_has_nothing_left_and_nothing_else_moves() {
    let racks = [Some("x"), Some("y"), Some("x"), Some("y")];
    let mut before = layout(&racks, &[("a", &[1, 2], 5), ("a", &[3, 2], 5), ("a", &[1, 4], 5), ("b", &[4, 1], 5)]);
    before.nodes.get_mut(&1).unwrap().takes = false;
    let changes = drained(&before, 1).unwrap();
    assert!(changes.iter().all(|change| change.drops == [1] && change.adds == [3]), "its rack stays: {changes:?}");
    assert_eq!(changes.len(), 3);
    assert_eq!(loads(&before, &changes)[&1], Load::default());
}

#[test]
fn a_broker_that_others_can_not_stand_in_for_is_not_drained() {
    let mut before = layout(&[None, None, None], &[("a", &[1], 5), ("a", &[1, 2, 3], 5)]);
    before.nodes.get_mut(&1).unwrap().takes = false;
    assert_eq!(drained(&before, 1), Err(NoPlace { index: 1, brokers: 2 }));
}

proptest! {
    #[test]
    fn plans_keep_replicas_apart_and_are_done_once(
        racks in vec(proptest::option::of("[xyz]"), 1..7),
        partitions in vec((0..4_u8, 1..4_usize, 0..50_u64, any::<u64>()), 0..60),
    ) {
        let count = racks.len();
        let mut before = layout(&racks.iter().map(Option::as_deref).collect::<Vec<_>>(), &[]);
        for (number, (topic, factor, gib, seed)) in (0..).zip(partitions) {
            let mut ids: Vec<i32> = (1..).take(count).collect();
            ids.rotate_left(usize::try_from(seed % count as u64).unwrap());
            ids.truncate(factor);
            let bytes = gib * GIB;
            before.partitions.push(Placed { topic: topic.to_string(), partition: number, replicas: ids, bytes, may_move: true });
        }
        let changes = balanced(&before);
        let planned = after(&before, &changes);
        for (old, new) in before.partitions.iter().zip(&planned.partitions) {
            let distinct: BTreeSet<_> = new.replicas.iter().collect();
            prop_assert_eq!(distinct.len(), old.replicas.len());
            let spread = |placed: &Placed| {
                placed.replicas.iter().map(|id| before.nodes[id].rack.clone()).collect::<BTreeSet<_>>().len()
            };
            prop_assert!(spread(new) >= spread(old));
        }
        if racks.iter().all(Option::is_none) {
            let counts = replicas(&planned);
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{:?}", counts);
        }
        prop_assert_eq!(moved(&balanced(&planned)), 0);
    }
}
