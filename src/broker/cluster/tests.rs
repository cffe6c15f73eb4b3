//! Several brokers of one cluster in this process, over the loopback: how they come together, and what becomes of one that goes.

mod archive;
mod clients;
mod groups;
mod membership;
mod replication;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::archive::store::Location;
use crate::broker::settings::ClusterSettings;
use crate::broker::{Broker, BrokerSettings, NewTopic};
use crate::metadata::image::BrokerState;
use crate::peer::identity_files::IdentityFiles;
use crate::peer::token::JoinToken;
use crate::runtime::Runtime;
use crate::runtime::peers::Secret;
use crate::telemetry::Metrics;
use crate::types::Timestamp;

/// One that is killed in the end: nothing of it goes on.
struct Cluster3 {
    root: tempfile::TempDir,
    token: Option<String>,
    members: Vec<String>,
}

fn cluster_settings(join: &[String], token: Option<&str>) -> ClusterSettings {
    ClusterSettings {
        listen: ([127, 0, 0, 1], 0).into(),
        advertised: None,
        join: join.to_vec(),
        token: token.map(|token| Secret::new(token.to_owned())),
        pki: None,
        voters: 3,
        connections: 1,
        session_timeout: Duration::from_secs(3),
        replica_lag_max: Duration::from_secs(10),
    }
}

impl Cluster3 {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), token: None, members: Vec::new() }
    }

    fn settings(&self, number: i32) -> BrokerSettings {
        let home = self.root.path().join(number.to_string());
        let mut settings = BrokerSettings::small(&home);
        settings.node_id = NodeId(number);
        settings.archive.location = store_at(self.root.path());
        settings.cluster = Some(cluster_settings(&self.members, self.token.as_deref()));
        settings
    }

    async fn start(&mut self, number: i32) -> Arc<Broker> {
        let settings = self.settings(number);
        let home = settings.directories[0].clone();
        let broker = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
        if self.token.is_none() {
            self.token = Some(token(&broker, &home));
        }
        let address = broker.cluster.as_ref().unwrap().plane.address().to_owned();
        self.members.push(address);
        broker
    }
}

fn store_at(root: &Path) -> Location {
    Location::parse(&format!("file://{}", root.join("shared-store").display())).unwrap()
}

/// As `alluvium cluster token` makes it.
fn token(broker: &Broker, home: &Path) -> String {
    let runtime = broker.runtime();
    let files = IdentityFiles::of(home);
    let secret = files.join_secret(&*runtime.disk).unwrap().unwrap();
    let authority = files.load(&*runtime.disk).unwrap().unwrap().authorities[0].clone();
    let expires = Timestamp(runtime.clock.wall().0 + 60_000);
    let fingerprint = crate::peer::authority::fingerprint(&authority);
    JoinToken::new(secret.expose(), broker.cluster_id(), fingerprint, expires).to_string()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}");
}

async fn create(broker: &Broker, name: &str, partitions: i32) {
    broker.create_topic(NewTopic { partitions, ..NewTopic::by_default(name) }, false).await.unwrap();
}

fn active(broker: &Broker) -> BTreeSet<i32> {
    let image = broker.image();
    let active = image.brokers().filter(|broker| broker.state == BrokerState::Active);
    active.map(|broker| broker.node_id.get()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_brokers_come_together_and_one_that_goes_is_missed_by_nobody_for_long() {
    let mut cluster = Cluster3::new();
    let first = cluster.start(1).await;
    create(&first, "early", 3).await;
    let second = cluster.start(2).await;
    let third = cluster.start(3).await;
    let all = [&first, &second, &third];
    for broker in all {
        assert_eq!(broker.cluster_id(), first.cluster_id());
        until("not all know of each other", || active(broker) == BTreeSet::from([1, 2, 3])).await;
        until("a topic is not known", || broker.image().topic_named("early").is_some()).await;
    }
    // The quorum grows by itself, so that it outlives any one of them.
    let mut voters = BTreeSet::new();
    for _ in 0..1500 {
        voters = second.quorum_status().await.map(|status| status.voters).unwrap_or_default();
        if voters.len() == 3 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(voters, [1, 2, 3].map(NodeId).into());

    create(&third, "late", 6).await;
    assert!(third.image().topic_named("late").is_some(), "who wrote it finds it");
    let leaders: BTreeSet<_> =
        third.image().topic_named("late").unwrap().partitions.iter().filter_map(|it| it.leader).collect();
    assert_eq!(leaders, [1, 2, 3].map(NodeId).into(), "all take part");

    // The first made the cluster, and leads the metadata. It goes in good order.
    first.drain().await;
    first.stop_waiting();
    first.shutdown().await;
    until("the first is still taken for active", || active(&second) == BTreeSet::from([2, 3])).await;
    let wanted = || NewTopic { partitions: 1, ..NewTopic::by_default("without-the-first") };
    for _ in 0..100 {
        // One that was on its way to the first may be lost, or not.
        if second.create_topic(wanted(), false).await.is_ok()
            || second.image().topic_named("without-the-first").is_some()
        {
            break;
        }
    }
    until("the others agree", || third.image().topic_named("without-the-first").is_some()).await;

    // It comes back as what it was, without a token, to members that it remembers.
    (cluster.token, cluster.members) = (None, Vec::new());
    let first = Broker::open(Runtime::production(), cluster.settings(1), Metrics::new()).await.unwrap();
    assert!(first.image().topic_named("without-the-first").is_some(), "it has caught up before it takes part");
    until("it takes part", || active(&third) == BTreeSet::from([1, 2, 3])).await;
    for broker in [first, second, third] {
        broker.stop_waiting();
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_has_no_good_token_or_another_store_or_a_number_that_is_taken_is_not_let_in() {
    let mut cluster = Cluster3::new();
    let first = cluster.start(1).await;
    let refused = async |settings: BrokerSettings| {
        let opened = Broker::open(Runtime::production(), settings, Metrics::new()).await;
        opened.expect_err("it is let in").to_string()
    };
    let with_token = |number: i32, token: Option<String>| {
        let mut settings = cluster.settings(number);
        settings.cluster.as_mut().unwrap().token = token.map(Secret::new);
        settings
    };
    let said = refused(with_token(2, None)).await;
    assert!(said.contains("alluvium cluster token"), "{said}");
    let said = refused(with_token(2, Some("not a token".to_owned()))).await;
    assert!(said.contains("join token can't be used"), "{said}");

    let good: JoinToken = cluster.token.as_ref().unwrap().parse().unwrap();
    let expires = Timestamp(first.runtime().clock.wall().0 + 60_000);
    let forged = JoinToken::new(&[7; 32], first.cluster_id(), good.authority(), expires);
    let said = refused(with_token(2, Some(forged.to_string()))).await;
    assert!(said.contains("the cluster refuses this broker"), "{said}");
    let stranger = JoinToken::new(&[7; 32], first.cluster_id(), [9; 32], expires);
    let said = refused(with_token(2, Some(stranger.to_string()))).await;
    assert!(said.contains("the cluster refuses this broker"), "of another authority: {said}");

    let said = refused(with_token(1, cluster.token.clone()).tap_home(&cluster, "other")).await;
    assert!(said.contains("--node-id"), "{said}");
    let mut elsewhere = cluster.settings(2);
    elsewhere.archive.location = store_at(&cluster.root.path().join("elsewhere"));
    let said = refused(elsewhere).await;
    assert!(said.contains("--object-store"), "{said}");
    assert_eq!(active(&first), BTreeSet::from([1]));
    first.stop_waiting();
    first.shutdown().await;
}

impl BrokerSettings {
    /// The same broker with another data directory.
    fn tap_home(mut self, cluster: &Cluster3, name: &str) -> Self {
        self.directories = vec![cluster.root.path().join(name)];
        self
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_by_itself_becomes_the_first_of_a_cluster_and_keeps_what_it_has() {
    let mut cluster = Cluster3::new();
    let mut settings = cluster.settings(1);
    settings.cluster = None;
    let alone = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap();
    create(&alone, "old", 2).await;
    let (cluster_id, epoch) = (alone.cluster_id(), alone.epoch());
    alone.stop_waiting();
    alone.shutdown().await;

    let first = cluster.start(1).await;
    assert_eq!(first.cluster_id(), cluster_id);
    assert!(first.epoch() > epoch);
    let topic = first.image().topic_named("old").unwrap().clone();
    assert_eq!(topic.partitions.iter().map(|it| it.leader).collect::<Vec<_>>(), [Some(NodeId(1)); 2]);
    let second = cluster.start(2).await;
    assert!(second.image().topic_named("old").is_some());
    for broker in [second, first] {
        broker.stop_waiting();
        broker.shutdown().await;
    }

    // It can't be alone again: the other may be needed.
    let mut settings = cluster.settings(2);
    settings.cluster = None;
    let said = Broker::open(Runtime::production(), settings, Metrics::new()).await.unwrap_err().to_string();
    assert!(said.contains("--peer-listen"), "{said}");
}
