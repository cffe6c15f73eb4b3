//! Who belongs to a cluster no more: what it hears, and how its vote is taken.

use super::*;
use crate::metadata::Command;
use crate::types::DirectoryId;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_was_unregistered_loses_its_vote_and_hears_that_it_was_removed() {
    let mut cluster = Cluster3::new();
    let first = cluster.start(1).await;
    let second = cluster.start(2).await;
    let third = cluster.start(3).await;
    let mut voters = BTreeSet::new();
    for _ in 0..1500 {
        voters = first.quorum_status().await.map(|status| status.voters).unwrap_or_default();
        if voters.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(voters, [1, 2, 3].map(NodeId).into());
    third.drain().await;
    until("it takes part", || active(&first) == BTreeSet::from([1, 2])).await;

    // Of one that is no broker any more nobody knows the directory.
    first.submit(Command::UnregisterBroker { node_id: NodeId(3) }).await.unwrap();
    assert!(first.votes_unregistered(NodeId(3)).await);
    assert!(!first.votes_unregistered(NodeId(2)).await);
    assert!(first.remove_voter(NodeId(2), DirectoryId::ZERO).await.is_err(), "its directory is known");
    first.remove_voter(NodeId(3), DirectoryId::ZERO).await.unwrap();
    assert!(!first.votes_unregistered(NodeId(3)).await);

    first.unregister(NodeId(3)).await.unwrap();
    let status = first.quorum_status().await.unwrap();
    assert_eq!(status.progress.keys().copied().collect::<Vec<_>>(), [1, 2].map(NodeId));
    let why = tokio::time::timeout(Duration::from_secs(30), third.stopped()).await.unwrap();
    assert!(why.contains("removed from the cluster"), "{why}");
    third.stop_waiting();
    third.shutdown().await;

    let settings = cluster.settings(3);
    let said = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap_err().to_string();
    assert!(said.contains("removed from the cluster"), "{said}");
    assert_eq!(active(&second), BTreeSet::from([1, 2]));
    for broker in [second, first] {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}
