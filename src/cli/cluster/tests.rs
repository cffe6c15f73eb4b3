//! What a cluster's status comes to, and what is said of it.

use super::*;
use crate::cli::tests::{Captured, alluvium};
use crate::peer::authority::Authority;
use crate::peer::token::JoinToken;
use crate::runtime::peers::Secret;
use crate::runtime::production::LocalDisk;
use crate::types::{ClusterId, NodeId, TopicId};

fn member(id: i32, is_fenced: bool) -> Member {
    Member { id, host: "::1".to_owned(), port: 9092, rack: Some("zone".to_owned()).filter(|_| id == 1), is_fenced }
}

fn partition(index: i32, leader: i32, in_sync: &[i32]) -> Partition {
    Partition { index, leader, replicas: vec![1, 2, 3], in_sync: in_sync.to_vec() }
}

/// Three brokers of which some are fenced, and the partitions of one topic.
fn status(fenced: &[i32], partitions: Vec<Partition>) -> Status {
    let brokers = [1, 2, 3].map(|id| member(id, fenced.contains(&id))).into();
    let node = |id: i32, lag: Option<i64>| QuorumNode { id, lag, last_caught_up_ms: lag.filter(|lag| *lag == 0) };
    Status {
        members: Members { cluster_id: "c".to_owned(), controller: 1, brokers },
        quorum: Some(Quorum {
            leader: 1,
            voters: vec![node(1, Some(0)), node(2, None)],
            observers: vec![node(3, Some(7))],
        }),
        topics: vec![Topic {
            name: "t".to_owned(),
            topic_id: TopicId::from_bytes([0; 16]),
            is_internal: false,
            partitions,
        }],
        moving: Vec::new(),
    }
}

fn healthy() -> Vec<Partition> {
    vec![partition(0, 1, &[1, 2, 3]), partition(1, 2, &[3, 2, 1])]
}

/// What is printed, and how the command ends.
fn printed(status: &Status, json: bool) -> (String, Result<(), Failure>) {
    let captured = Captured::default();
    let mut output = Output::to(captured.clone());
    if json {
        output.json(&status.json()).unwrap()
    } else {
        status.print(&mut output).unwrap()
    }
    let verdict = status.verdict(json, &mut output);
    output.flush().unwrap();
    (captured.text(), verdict)
}

#[test]
fn a_cluster_that_is_well_is_shown_with_its_brokers_and_voters() {
    let (text, verdict) = printed(&status(&[], healthy()), false);
    verdict.unwrap();
    let expected = "\
cluster   c
metadata  led by 1
BROKER  ADDRESS     RACK  STATE   METADATA  LAG
1       [::1]:9092  zone  active  leader    0
2       [::1]:9092        active  voter     unknown
3       [::1]:9092        active  observer  7
2 partitions of 1 topics: 0 offline, 0 under-replicated, 0 reassigning
all is well
";
    assert_eq!(text, expected);
}

#[test]
fn the_last_line_says_what_to_do_about_the_worst() {
    let (text, verdict) = printed(&status(&[2, 3], healthy()), false);
    assert!(verdict.is_ok() && text.ends_with("`alluvium cluster unregister 2`\n"), "{text}");
    assert!(text.contains("\nbroker 2,3 is fenced: start it, or, if it is gone for good, remove it"), "{text}");
    let (text, verdict) = printed(&status(&[], vec![partition(0, 1, &[1, 3])]), false);
    assert!(verdict.is_ok() && text.contains("\n1 partitions lack a replica in sync: "), "{text}");
    assert!(text.contains("\nt      0          under-replicated  1,2,3     1,3\n"), "{text}");
    let (text, verdict) = printed(&status(&[2], vec![partition(0, -1, &[2])]), false);
    let failure = verdict.unwrap_err();
    assert_eq!(failure.exit(), Exit::Offline);
    assert_eq!(failure.to_string(), "1 partitions have no leader: start broker 2, where their replicas are");
    assert!(text.ends_with("\nt      0          OFFLINE  1,2,3     2\n"), "{text}");
    let failure = printed(&status(&[], vec![partition(0, -1, &[2])]), true).1.unwrap_err();
    assert!(failure.to_string().ends_with("the logs of the brokers that hold them say why"), "{failure}");
}

#[test]
fn metadata_without_a_leader_is_worst_of_all() {
    let mut status = status(&[2], vec![partition(0, -1, &[2])]);
    status.quorum = None;
    let (text, verdict) = printed(&status, false);
    let failure = verdict.unwrap_err();
    assert_eq!(failure.exit(), Exit::Offline);
    assert!(failure.to_string().starts_with("the metadata has no leader: more than half"), "{failure}");
    assert!(text.contains("\nmetadata  NO LEADER\n"), "{text}");
    let json = status.json();
    assert!(json["leader"].is_null() && json["voters"] == json!([]), "{json}");
}

#[test]
fn a_replica_that_is_on_its_way_to_a_broker_is_not_missing() {
    let mut status = status(&[], vec![partition(0, 1, &[1, 2]), partition(1, 1, &[1, 2])]);
    let moving =
        Moving { topic: "t".to_owned(), partition: 0, replicas: vec![1, 2, 3], adding: vec![3], removing: vec![1] };
    status.moving.push(moving);
    let under: Vec<i32> = status.under_replicated().iter().map(|(_, partition)| partition.index).collect();
    assert_eq!(under, [1]);
    let (text, _) = printed(&status, false);
    assert!(text.contains("\nt      0          to 3 from 1       1,2,3\n"), "{text}");
}

#[test]
fn many_partitions_are_counted_and_json_has_them_all() {
    let partitions: Vec<_> = (0..60).map(|index| partition(index, 1, &[1])).collect();
    let status = status(&[], partitions);
    let (text, _) = printed(&status, false);
    assert!(text.contains("\nand 10 more, which --json lists\n"), "{text}");
    assert!(text.contains("\nt      49 ") && !text.contains("\nt      50 "), "{text}");
    let (text, _) = printed(&status, true);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["under_replicated"].as_array().unwrap().len(), 60);
    assert_eq!(json["under_replicated"][3], json!({ "topic": "t", "partition": 3, "replicas": [1, 2, 3], "isr": [1] }));
    let broker = json!({ "id": 1, "host": "::1", "port": 9092, "rack": "zone", "fenced": false });
    assert_eq!((&json["brokers"][0], &json["leader"]), (&broker, &json!(1)));
    let voters = json!([{ "id": 1, "lag": 0, "last_caught_up_ms": 0 }, { "id": 2, "lag": null }]);
    assert_eq!((&json["voters"], &json["observers"]), (&voters, &json!([{ "id": 3, "lag": 7 }])));
    for list in ["fenced", "offline", "reassigning"] {
        assert_eq!(json[list], json!([]), "{list}");
    }
}

#[test]
fn a_token_is_made_of_a_members_files_alone() {
    let directory = tempfile::tempdir().unwrap();
    let shown = directory.path().to_str().unwrap();
    let ask = |valid: &str| alluvium(&["cluster", "token", "--data-dir", shown, "--valid", valid], &[]);
    let refused = ask("1h").unwrap_err();
    assert!(refused.contains("started with --peer-listen") && refused.ends_with(shown), "{refused}");
    let (files, cluster_id) = (IdentityFiles::of(directory.path()), ClusterId::from_entropy([7; 16]));
    let clock = crate::runtime::Runtime::production().clock;
    let authority = Authority::new(cluster_id, clock.wall()).unwrap();
    let request = files.node_key(&LocalDisk).unwrap().certificate_request().unwrap();
    let certificate = authority.issue(cluster_id, NodeId(3), &request, [1; 16], clock.wall()).unwrap();
    files.store(&LocalDisk, &certificate, std::slice::from_ref(&authority.certificate)).unwrap();
    files.store_join_secret(&LocalDisk, &Secret::new(vec![9; 32])).unwrap();
    let before = clock.wall();
    let printed = ask("1h").unwrap();
    let token: JoinToken = printed.strip_suffix('\n').unwrap().parse().unwrap();
    assert_eq!(printed, format!("{token}\n"));
    assert_eq!(token.verify(&[9; 32], cluster_id, before), Ok(()));
    assert_eq!(token.authority(), authority.fingerprint());
    let good_ms = token.expires().get() - before.get();
    assert!((3_600_000..3_700_000).contains(&good_ms), "{good_ms}");
    for valid in ["0s", "366d"] {
        assert!(ask(valid).unwrap_err().contains("more than nothing and at most 365d"));
    }
}
