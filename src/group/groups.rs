//! All coordinators of this broker: each group's requests find theirs here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use parking_lot::RwLock;

use super::coordinator::check_form;
use super::records::LogRecord;
use super::request::{
    DescribedGroup, FetchedTopic, Heartbeat, JoinGroup, JoinRefused, JoinedGroup, LeaveGroup, LeftMember, ListGroups,
    ListedGroup, OffsetCommit, OffsetDelete, OffsetFetch, PartitionResults, Reply, Request, SyncGroup, SyncedGroup,
};
use super::session::{Caller, CoordinatorMetrics, OffsetsLog, Session};
use super::{GroupError, GroupSettings, partition_of};
use crate::runtime::{Runtime, clock};
use crate::types::PartitionIndex;

/// How long one coordinator is waited for when the state of all is read: its log may be so slow that it takes no requests.
const READ_PATIENCE: Duration = Duration::from_secs(5);

/// The coordinators that this broker runs, by partition of `__consumer_offsets`.
pub struct Groups {
    runtime: Runtime,
    settings: Arc<GroupSettings>,
    metrics: CoordinatorMetrics,
    /// What the state of all coordinators takes.
    memory_bytes: Arc<AtomicUsize>,
    led: RwLock<Led>,
}

/// The coordinators of one topic. Under one lock, so that nobody finds a group where it is in another one.
struct Led {
    /// What the topic has, or will have once it is created.
    partitions: i32,
    sessions: BTreeMap<PartitionIndex, Session>,
}

/// What the coordinators say of their groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadGroups {
    /// The records of all groups that were read; those of one group lie together.
    pub records: Vec<LogRecord>,
    /// The partitions that groups are spread over.
    pub partitions: i32,
    /// Those of them whose groups were not read: their coordinators load, or can't, or do not answer, or are not here.
    pub unread: BTreeSet<PartitionIndex>,
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
    /// Without any coordinator yet; `partitions` is what `__consumer_offsets` has, or will have.
    pub fn new(runtime: Runtime, settings: GroupSettings, partitions: i32, metrics: CoordinatorMetrics) -> Self {
        let led = RwLock::new(Led { partitions, sessions: BTreeMap::new() });
        Self { runtime, settings: Arc::new(settings), metrics, memory_bytes: Arc::default(), led }
    }

    /// The partition whose leader coordinates a group.
    #[cfg(test)]
    pub fn partition_of(&self, group_id: &str) -> PartitionIndex {
        partition_of(group_id, self.led.read().partitions)
    }

    /// From now on groups are spread over the partitions of a topic that is another one than before: ends what coordinators there
    /// are.
    pub fn begin(&self, partitions: i32) {
        *self.led.write() = Led { partitions, sessions: BTreeMap::new() };
    }

    /// This broker leads a partition now: starts its coordinator, in place of an earlier one, whose log is of an earlier epoch or
    /// which has ended.
    pub fn lead(&self, partition: PartitionIndex, log: Arc<dyn OffsetsLog>) -> Caller {
        let (settings, memory) = (Arc::clone(&self.settings), Arc::clone(&self.memory_bytes));
        let session = Session::start(partition, log, settings, &self.runtime, self.metrics.clone(), memory);
        let caller = session.caller();
        self.led.write().sessions.insert(partition, session);
        caller
    }

    /// Whether the coordinator of a partition is here, and can't load its log, and does not try again.
    pub fn has_failed(&self, partition: PartitionIndex) -> bool {
        self.led.read().sessions.get(&partition).is_some_and(Session::has_failed)
    }

    /// This broker does not lead a partition any more: whoever waits is told to find the coordinator again. Gives the coordinator
    /// that there was, which ends.
    pub fn resign(&self, partition: PartitionIndex) -> Option<Caller> {
        let session = self.led.write().sessions.remove(&partition);
        session.as_ref().map(Session::caller)
    }

    /// As [`Groups::resign`], for all partitions.
    pub fn resign_all(&self) {
        self.led.write().sessions.clear();
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

    /// The groups and offsets of all coordinators here, and which can't say theirs.
    pub async fn read_all(&self) -> ReadGroups {
        let (partitions, callers) = self.callers();
        let mut read = ReadGroups { partitions, ..ReadGroups::default() };
        read.unread.extend((0..partitions).map(PartitionIndex));
        let reads = callers.iter().map(|(partition, caller)| async move {
            let answer = caller.call(Request::ReadState);
            (*partition, clock::timeout(&*self.runtime.clock, READ_PATIENCE, answer).await)
        });
        for (partition, answer) in futures_util::future::join_all(reads).await {
            let Ok(reply) = answer else { continue };
            if let Ok(records) = expect_reply!(reply, ReadState) {
                read.unread.remove(&partition);
                read.records.extend(records);
            }
        }
        read
    }

    fn callers(&self) -> (i32, Vec<(PartitionIndex, Caller)>) {
        let led = self.led.read();
        let callers = led.sessions.iter().map(|(partition, session)| (*partition, session.caller()));
        (led.partitions, callers.collect())
    }

    async fn call(&self, group_id: &str, request: Request) -> Reply {
        let caller = {
            let led = self.led.read();
            led.sessions.get(&partition_of(group_id, led.partitions)).map(Session::caller)
        };
        match caller {
            Some(caller) => caller.call(request).await,
            None => {
                let misformed = check_form(&self.settings, &request).err();
                request.refused(misformed.unwrap_or(GroupError::NotCoordinator))
            }
        }
    }

    /// Asks every coordinator at once; those that resign meanwhile have nothing to say.
    async fn call_all(&self, request: &Request) -> Vec<Reply> {
        let resigned = request.refused(GroupError::NotCoordinator);
        let (_, callers) = self.callers();
        let replies = callers.iter().map(|(_, caller)| caller.call(request.clone()));
        futures_util::future::join_all(replies).await.into_iter().filter(|reply| *reply != resigned).collect()
    }
}

impl std::fmt::Debug for Groups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("partitions", &self.led.read().partitions).finish_non_exhaustive()
    }
}
