//! What a cluster's own words come to, and how a plan is shown.

use super::*;
use crate::cli::client::Partition;
use crate::cli::client::quorum::Member;
use crate::cli::tests::{Captured, alluvium};
use crate::types::TopicId;

const MIB: u64 = 1 << 20;

fn survey(fenced: &[i32], partitions: &[(i32, &[i32])]) -> Survey {
    let member =
        |id: i32| Member { id, host: "::1".to_owned(), port: 9092, rack: None, is_fenced: fenced.contains(&id) };
    let partition = |(index, (leader, replicas)): (i32, &(i32, &[i32]))| Partition {
        index,
        leader: *leader,
        replicas: replicas.to_vec(),
        in_sync: replicas.to_vec(),
    };
    let topic = Topic {
        name: "t".to_owned(),
        topic_id: TopicId::from_bytes([1; 16]),
        is_internal: false,
        partitions: (0..).zip(partitions).map(partition).collect(),
    };
    let on = |index: i32, bytes: u64| (("t".to_owned(), index), OnDisk { bytes, lag: 0 });
    Survey {
        members: Members { cluster_id: "c".to_owned(), controller: 1, brokers: [1, 2, 3].map(member).to_vec() },
        topics: vec![topic],
        moving: BTreeMap::new(),
        on_disk: BTreeMap::from([
            (1, BTreeMap::from([on(0, 3 * MIB), on(1, MIB)])),
            (2, BTreeMap::from([on(1, 2 * MIB)])),
        ]),
    }
}

fn balanced(survey: &Survey, topics: &[String], brokers: &[i32]) -> Plan {
    let layout = survey.layout(&Aim::Balance { topics, brokers });
    Plan { changes: plan::balanced(&layout), layout, drains: None }
}

#[test]
fn a_plan_shows_what_moves_and_what_that_copies() {
    let survey = survey(&[3], &[(1, &[1]), (1, &[1])]);
    assert!(survey.knows_sizes(), "of those that are up");
    let plan = balanced(&survey, &[], &[]);
    let captured = Captured::default();
    let mut output = Output::to(captured.clone());
    plan.print(true, &mut output).unwrap();
    output.flush().unwrap();
    let expected = "\
BROKER  REPLICAS  PREFERRED LEADER  ON DISK
1       2 -> 1    2 -> 1            4.0 MiB -> 3.0 MiB
2       0 -> 1    0 -> 1            0 KiB -> 1.0 MiB
3       0         0                 0 KiB
TOPIC  PARTITION  FROM  TO  COPIED
t      1          1     2   1.0 MiB
1 partitions change, 1 replicas are copied: 1.0 MiB; what is archived is not copied
";
    assert_eq!(captured.text(), expected);
    let json = plan.json("planned");
    assert_eq!((&json["result"], &json["bytes"], &json["copies"]), (&json!("planned"), &json!(MIB), &json!(1)));
    assert_eq!(json["changes"][0]["adding"], json!([2]));
    let replicas = Throttled { leaders: BTreeSet::from([(1, 1)]), followers: BTreeSet::from([(1, 2)]) };
    assert_eq!(plan.throttled(), BTreeMap::from([("t".to_owned(), replicas)]));
}

#[test]
fn what_is_on_its_way_counts_where_it_goes_and_is_left_alone() {
    let mut survey = survey(&[], &[(1, &[2, 1]), (1, &[1]), (-1, &[3])]);
    let moving =
        Moving { topic: "t".to_owned(), partition: 0, replicas: vec![2, 1], adding: vec![2], removing: vec![1] };
    survey.moving = by_place(vec![moving]);
    let layout = survey.layout(&Aim::Balance { topics: &[], brokers: &[] });
    let may: Vec<_> = layout.partitions.iter().map(|placed| (&*placed.replicas, placed.may_move)).collect();
    assert_eq!(may, [(&[2][..], false), (&[1], true), (&[3], false)]);
    assert!(balanced(&survey, &[], &[]).changes.is_empty());
    // A broker that is to be empty gives that up as well.
    let layout = survey.layout(&Aim::Drain(2));
    let changes = drained(&survey, &layout, 2).unwrap();
    assert_eq!((changes.len(), changes[0].index, &*changes[0].drops), (1, 0, &[2][..]));
}

#[test]
fn what_can_not_be_is_refused_with_what_to_do() {
    let survey = survey(&[3], &[(1, &[1, 2]), (-1, &[3])]);
    let refused = |node: i32| {
        let layout = survey.layout(&Aim::Drain(node));
        drained(&survey, &layout, node).unwrap_err()
    };
    assert!(refused(1).to_string().ends_with(
        "without broker 1 there are 1 brokers that could hold them; add a broker first, or start one that is down"
    ));
    assert!(refused(3).to_string().starts_with("partition 1 of t has no leader"));
    assert_eq!(refused(9).to_string(), "no broker has the number 9, and no partition is there");
    let check = |topic: &str, node| survey.check(&[topic.to_owned()], &[node]).map_err(|failure| failure.to_string());
    assert_eq!(check("t", 2), Ok(()));
    assert_eq!(check("u", 2), Err("there is no topic u".to_owned()));
    assert!(check("t", 9).unwrap_err().starts_with("there is no broker 9"));
    assert!(check("t", 3).unwrap_err().starts_with("broker 3 is fenced"));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let refused = |more: &[&str]| alluvium(&[&["cluster", "rebalance"], more].concat(), &[]).unwrap_err();
    assert!(refused(&["--yes", "--dry-run"]).contains("cannot be used with"));
    assert!(refused(&["--throttle", "0"]).contains("nothing would move"));
    assert!(refused(&["--at-once", "0"]).contains("--at-once"));
}

#[test]
fn sizes_are_for_people() {
    let shown = [0, 1, 1536 << 10, 5 << 30, (1 << 40) + (1 << 39)].map(human);
    assert_eq!(shown, ["0 KiB", "1 KiB", "1.5 MiB", "5.0 GiB", "1.5 TiB"]);
}
