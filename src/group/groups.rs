//! All coordinators of this broker: each group's requests find theirs here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use parking_lot::RwLock;

use super::request::{
    DescribedGroup, FetchedTopic, Heartbeat, JoinGroup, JoinRefused, JoinedGroup, LeaveGroup, LeftMember, ListGroups,
    ListedGroup, OffsetCommit, OffsetDelete, OffsetFetch, PartitionResults, Reply, Request, SyncGroup, SyncedGroup,
};
use super::session::{CoordinatorMetrics, OffsetsLog, Session};
use super::{GroupError, GroupSettings, partition_of, snapshot};
use crate::runtime::Runtime;
use crate::types::{PartitionIndex, TopicId};

/// The coordinators that this broker runs, by partition of `__consumer_offsets`.
pub struct Groups {
    runtime: Runtime,
    settings: Arc<GroupSettings>,
    partitions: i32,
    metrics: CoordinatorMetrics,
    /// What the state of all coordinators takes.
    memory_bytes: Arc<AtomicUsize>,
    sessions: RwLock<BTreeMap<PartitionIndex, Session>>,
}

/// Takes the result out of a reply of the kind that its request has.
macro_rules! expect_reply {
    ($reply:expr, $kind:ident) => {
        match $reply {
            Reply::$kind(result) => result,
            other => unreachable!("a reply has the kind of its request: {other:?}"),
        }
    };
}

impl Groups {
    /// Without any coordinator yet; `partitions` is what `__consumer_offsets` has.
    pub fn new(runtime: Runtime, settings: GroupSettings, partitions: i32, metrics: CoordinatorMetrics) -> Self {
        let settings = Arc::new(settings);
        Self { runtime, settings, partitions, metrics, memory_bytes: Arc::default(), sessions: RwLock::default() }
    }

    /// The partition whose leader coordinates a group.
    pub fn partition_of(&self, group_id: &str) -> PartitionIndex {
        partition_of(group_id, self.partitions)
    }

    /// This broker leads a partition now: starts its coordinator, in place of an earlier one.
    pub fn lead(&self, partition: PartitionIndex, log: Arc<dyn OffsetsLog>) {
        let memory = Arc::clone(&self.memory_bytes);
        let session = Session::start(log, Arc::clone(&self.settings), &self.runtime, self.metrics.clone(), memory);
        self.sessions.write().insert(partition, session);
    }

    /// Coordinators that run here.
    pub fn coordinators(&self) -> usize {
        self.sessions.read().len()
    }

    /// This broker does not lead a partition any more: whoever waits is told to find the coordinator again.
    pub fn resign(&self, partition: PartitionIndex) {
        self.sessions.write().remove(&partition);
    }

    /// JoinGroup; resolves when the rebalance that it starts or joins is over.
    pub async fn join_group(&self, join: JoinGroup) -> Result<JoinedGroup, JoinRefused> {
        let group_id = Arc::clone(&join.group_id);
        let member_uuid = *uuid::Builder::from_random_bytes(self.runtime.entropy.identity()).as_uuid();
        expect_reply!(self.call(&group_id, Request::JoinGroup { join, member_uuid }).await, JoinGroup)
    }

    /// SyncGroup; resolves when the leader's assignment is durable.
    pub async fn sync_group(&self, sync: SyncGroup) -> Result<SyncedGroup, GroupError> {
        let group_id = Arc::clone(&sync.group_id);
        expect_reply!(self.call(&group_id, Request::SyncGroup(sync)).await, SyncGroup)
    }

    /// Heartbeat.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Result<(), GroupError> {
        let group_id = Arc::clone(&heartbeat.group_id);
        expect_reply!(self.call(&group_id, Request::Heartbeat(heartbeat)).await, Heartbeat)
    }

    /// LeaveGroup.
    pub async fn leave_group(&self, leave: LeaveGroup) -> Result<Vec<LeftMember>, GroupError> {
        let group_id = Arc::clone(&leave.group_id);
        expect_reply!(self.call(&group_id, Request::LeaveGroup(leave)).await, LeaveGroup)
    }

    /// OffsetCommit; resolves when the offsets are durable.
    pub async fn commit_offsets(&self, commit: OffsetCommit) -> Result<Vec<PartitionResults>, GroupError> {
        let group_id = Arc::clone(&commit.group_id);
        expect_reply!(self.call(&group_id, Request::OffsetCommit(commit)).await, OffsetCommit)
    }

    /// OffsetFetch for one group.
    pub async fn fetch_offsets(&self, fetch: OffsetFetch) -> Result<Vec<FetchedTopic>, GroupError> {
        let group_id = Arc::clone(&fetch.group_id);
        expect_reply!(self.call(&group_id, Request::OffsetFetch(fetch)).await, OffsetFetch)
    }

    /// OffsetDelete.
    pub async fn delete_offsets(&self, delete: OffsetDelete) -> Result<Vec<PartitionResults>, GroupError> {
        let group_id = Arc::clone(&delete.group_id);
        expect_reply!(self.call(&group_id, Request::OffsetDelete(delete)).await, OffsetDelete)
    }

    /// DeleteGroups for one group.
    pub async fn delete_group(&self, group_id: Arc<str>) -> Result<(), GroupError> {
        let request = Request::DeleteGroup { group_id: Arc::clone(&group_id) };
        expect_reply!(self.call(&group_id, request).await, DeleteGroup)
    }

    /// DescribeGroups for one group.
    pub async fn describe_group(&self, group_id: Arc<str>) -> Result<DescribedGroup, GroupError> {
        let request = Request::DescribeGroup { group_id: Arc::clone(&group_id) };
        expect_reply!(self.call(&group_id, request).await, DescribeGroup)
    }

    /// ListGroups, over all coordinators here.
    pub async fn list_groups(&self, list: ListGroups) -> Result<Vec<ListedGroup>, GroupError> {
        let mut groups = Vec::new();
        for reply in self.call_all(&Request::ListGroups(list)).await {
            groups.extend(expect_reply!(reply, ListGroups)?);
        }
        Ok(groups)
    }

    /// Forgets the offsets of a topic that was deleted. Coordinators that can't now keep them until they expire.
    pub async fn topic_deleted(&self, topic: Arc<str>, topic_id: TopicId) {
        for reply in self.call_all(&Request::TopicDeleted { topic, topic_id }).await {
            if let Err(error) = expect_reply!(reply, TopicDeleted) {
                tracing::debug!(%error, "offsets of a deleted topic are left to expire");
            }
        }
    }

    /// The groups and offsets of all coordinators here, in the format of [`snapshot`]; fails while one of them loads, or is
    /// about to end.
    pub async fn snapshot(&self) -> Result<Vec<u8>, GroupError> {
        let mut records = Vec::new();
        for reply in self.ask_all(&Request::ReadState).await {
            records.extend(expect_reply!(reply, ReadState)?);
        }
        Ok(snapshot::encode(&records))
    }

    async fn call(&self, group_id: &str, request: Request) -> Reply {
        let caller = self.sessions.read().get(&self.partition_of(group_id)).map(Session::caller);
        match caller {
            Some(caller) => caller.call(request).await,
            None => request.refused(GroupError::NotCoordinator),
        }
    }

    /// Asks every coordinator at once; those that resign meanwhile have nothing to say.
    async fn call_all(&self, request: &Request) -> Vec<Reply> {
        let resigned = request.refused(GroupError::NotCoordinator);
        self.ask_all(request).await.into_iter().filter(|reply| *reply != resigned).collect()
    }

    async fn ask_all(&self, request: &Request) -> Vec<Reply> {
        let callers: Vec<_> = self.sessions.read().values().map(Session::caller).collect();
        futures_util::future::join_all(callers.iter().map(|caller| caller.call(request.clone()))).await
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}
