//! What the client knows of a cluster: brokers, topics and leaders.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::{ClientError, Connection};
use crate::runtime::Runtime;
use crate::types::{Monotonic, TopicId};

/// Asks again this often while a topic has no leader yet, as right after its creation.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Connections that were not used for so long are opened anew; brokers close them after ten minutes.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// One topic as the cluster describes it.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its identity; zero from brokers that have none.
    pub topic_id: TopicId,
    /// Made by the cluster for itself.
    pub is_internal: bool,
    /// Its partitions, by number.
    pub partitions: Vec<Partition>,
}

impl Topic {
    /// Which of these partitions have no leader.
    fn leaderless(&self, needs: impl Fn(i32) -> bool) -> Vec<String> {
        let without = self.partitions.iter().filter(|partition| !partition.is_led() && needs(partition.index));
        without.map(|partition| partition.index.to_string()).collect()
    }
}

/// One partition as the cluster describes it.
#[derive(Clone, Debug)]
pub struct Partition {
    /// Its number.
    pub index: i32,
    /// The broker that leads it; −1 for none.
    pub leader: i32,
    /// Brokers that hold it.
    pub replicas: Vec<i32>,
    /// Brokers that are in sync.
    pub in_sync: Vec<i32>,
}

impl Partition {
    /// Whether it has a leader.
    pub const fn is_led(&self) -> bool {
        self.leader >= 0
    }
}

/// A cluster, reached through any of its brokers. Connections are opened when they are needed and dropped on failure.
pub struct Cluster {
    runtime: Runtime,
    bootstrap: Vec<String>,
    limit: Duration,
    brokers: BTreeMap<i32, String>,
    controller: i32,
    /// With when each was last used.
    connections: BTreeMap<String, (Connection, Monotonic)>,
}

impl Cluster {
    /// A cluster behind `host:port` addresses separated by commas. Nothing is connected yet.
    pub fn new(runtime: Runtime, bootstrap: &str, limit: Duration) -> Self {
        let bootstrap = bootstrap.split(',').map(|address| address.trim().to_owned()).collect();
        Self { runtime, bootstrap, limit, brokers: BTreeMap::new(), controller: -1, connections: BTreeMap::new() }
    }

    /// How long to wait for an answer.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// The machine that the client runs on.
    pub const fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A connection to an address.
    async fn connection(&mut self, address: &str) -> Result<&mut Connection, ClientError> {
        let now = self.runtime.clock.monotonic();
        // Brokers close what is idle, which a request would only notice too late.
        self.connections.retain(|_, (_, used)| now.since(*used) < LONGEST_IDLE);
        // Looked up twice, since a reference that is returned early would be borrowed for too long.
        if !self.connections.contains_key(address) {
            let connection = Connection::open(&*self.runtime.net, address, self.limit).await?;
            self.connections.insert(address.to_owned(), (connection, now));
        }
        let (connection, used) = self.connections.get_mut(address).expect("just inserted");
        *used = now;
        Ok(connection)
    }

    /// A connection to any broker.
    pub async fn any(&mut self) -> Result<&mut Connection, ClientError> {
        let addresses: Vec<String> = self.bootstrap.iter().chain(self.brokers.values()).cloned().collect();
        let mut last = None;
        for address in addresses {
            match self.connection(&address).await {
                Ok(_) => return self.connection(&address).await,
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is at least one bootstrap address"))
    }

    /// A connection to one broker, by its number.
    pub async fn broker(&mut self, node: i32) -> Result<&mut Connection, ClientError> {
        match self.brokers.get(&node).cloned() {
            Some(address) => self.connection(&address).await,
            None => self.any().await,
        }
    }

    /// A connection to the broker that takes changes to topics.
    pub async fn controller(&mut self) -> Result<&mut Connection, ClientError> {
        if self.brokers.is_empty() {
            self.describe(Some(&[]), false).await?;
        }
        self.broker(self.controller).await
    }

    /// Forgets every connection, after one of them failed.
    pub fn disconnect(&mut self) {
        self.connections.clear();
    }

    /// Waits a little before a request is repeated.
    pub async fn pause(&self) {
        tokio::time::sleep(RETRY_PAUSE).await;
    }

    /// All topics, or the named ones, each with what is wrong with it.
    pub async fn describe(
        &mut self,
        names: Option<&[&str]>,
        create: bool,
    ) -> Result<Vec<Result<Topic, ClientError>>, ClientError> {
        let named = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(names.map(|names| names.iter().map(named).collect()))
            .with_allow_auto_topic_creation(create);
        let answer: MetadataResponse = self.any().await?.send(&request).await?;
        self.brokers =
            answer.brokers.iter().map(|broker| (broker.node_id.0, address_of(&broker.host, broker.port))).collect();
        self.controller = answer.controller_id.0;
        Ok(answer.topics.into_iter().map(read_topic).collect())
    }

    /// One topic with a leader for each partition that `needs` one. Waits for a topic that is being made, and for leaders, up to
    /// the usual limit.
    pub async fn topic(&mut self, name: &str, create: bool, needs: impl Fn(i32) -> bool) -> Result<Topic, ClientError> {
        let deadline = self.runtime.clock.monotonic() + self.limit;
        loop {
            let found = self.describe(Some(&[name]), create).await?.pop();
            let refused = |code, message| ClientError::Refused { what: format!("topic {name}"), code, message };
            let error = match found.unwrap_or_else(|| Err(refused(ResponseError::UnknownTopicOrPartition, None))) {
                Ok(topic) => match topic.leaderless(&needs) {
                    without if without.is_empty() && !topic.partitions.is_empty() => return Ok(topic),
                    without => {
                        let message = format!("no leader at the moment for partitions {}", without.join(", "));
                        refused(ResponseError::LeaderNotAvailable, Some(message).filter(|_| !without.is_empty()))
                    }
                },
                Err(error) => error,
            };
            if !error.is_retriable()
                || error.is_unknown_topic() && !create
                || self.runtime.clock.monotonic() >= deadline
            {
                return Err(error);
            }
            self.pause().await;
        }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.bootstrap.join(","))
    }
}

/// A topic's name on the wire.
pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Text on the wire.
pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A host and a port as one text, as they are connected to.
pub(super) fn address_of(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn read_topic(topic: MetadataResponseTopic) -> Result<Topic, ClientError> {
    let name = topic.name.map(|name| name.0.to_string()).unwrap_or_default();
    ClientError::check(format!("topic {name}"), topic.error_code, None)?;
    let mut partitions: Vec<Partition> = topic
        .partitions
        .iter()
        .map(|partition| Partition {
            index: partition.partition_index,
            leader: partition.leader_id.0,
            replicas: partition.replica_nodes.iter().map(|node| node.0).collect(),
            in_sync: partition.isr_nodes.iter().map(|node| node.0).collect(),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.index);
    Ok(Topic { name, topic_id: TopicId::new(topic.topic_id), is_internal: topic.is_internal, partitions })
}
