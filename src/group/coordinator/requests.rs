//! Requests: which are let through, and what they become. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::Entry;
use super::state::walk;
use super::{Action, Coordinator, Phase};
use crate::group::classic::{self, ClassicGroup};
use crate::group::records::{CommittedOffset, Key, LogRecord};
use crate::group::request::{
    CLASSIC, CommitPartition, CommitTopic, DeletedTopics, DescribedGroup, FetchTopic, FetchedPartition, FetchedTopic,
    GroupState, JoinGroup, LeaveGroup, LeftMember, ListGroups, ListedGroup, OffsetCommit, OffsetDelete, OffsetFetch,
    PartitionResults, Reply, Request, Token,
};
use crate::group::timers::Now;
use crate::group::{GroupError, GroupSettings};
use crate::types::{LeaderEpoch, Timestamp, TopicId};

/// Longest name or id in a request, in bytes: leaves room to make a member id of a client id, and still fits the log's
/// format, whose strings are shorter than 32 KiB.
const MAX_NAME_BYTES: usize = 32_700;
/// Longest metadata beside an offset, whatever the setting says: the log's format.
const MAX_METADATA_BYTES: usize = 32_767;
/// From this version of OffsetCommit on, a group that does not exist has an error of its own.
const GROUP_ID_NOT_FOUND_VERSION: i16 = 9;

impl Coordinator {
    pub(super) fn request(&mut self, now: Now, token: Token, request: Request) {
        let refusal = check_form(&self.settings, &request).and_then(|()| match self.phase {
            Phase::Loading => Err(GroupError::CoordinatorLoadInProgress),
            Phase::Ended(error) => Err(error),
            Phase::Active => self.check(&request),
        });
        if let Err(error) = refusal {
            return self.reply(token, request.refused(error));
        }
        match request {
            Request::OffsetCommit(commit) => {
                let result = self.commit(now, commit);
                self.reply_in_order(token, Reply::OffsetCommit(result));
            }
            Request::OffsetFetch(fetch) => self.outbox.push(Entry::Fetch(token, fetch)),
            Request::OffsetDelete(delete) => {
                let result = self.delete_offsets(delete);
                self.reply_in_order(token, Reply::OffsetDelete(result));
            }
            Request::DeleteGroup { group_id } => {
                let result = self.delete_group(&group_id);
                self.reply_in_order(token, Reply::DeleteGroup(result));
            }
            Request::TopicsDeleted { topics } => self.outbox.push(Entry::DeleteTopics(token, topics)),
            Request::DescribeGroup { group_id } => {
                let described = self.groups.get(&group_id).map_or_else(|| dead(&group_id), ClassicGroup::described);
                self.reply(token, Reply::DescribeGroup(Ok(described)));
            }
            Request::ListGroups(list) => {
                let groups = self.list(&list);
                self.reply(token, Reply::ListGroups(Ok(groups)));
            }
            Request::ReadState => {
                let (records, _) = self.logged.records_from(None, usize::MAX);
                self.reply(token, Reply::ReadState(Ok(records)));
            }
            of_member => self.member_request(now, token, of_member),
        }
    }

    /// A request that is for the group's machine.
    fn member_request(&mut self, now: Now, token: Token, request: Request) {
        let group_id = match &request {
            Request::JoinGroup { join, .. } => {
                // A group comes into being with its first member, which has no id yet.
                if join.member_id.is_empty() {
                    self.ensure_group(now, &join.group_id);
                }
                &join.group_id
            }
            Request::SyncGroup(sync) => &sync.group_id,
            Request::Heartbeat(heartbeat) => &heartbeat.group_id,
            Request::LeaveGroup(leave) => &leave.group_id,
            _ => unreachable!("every other request is handled before"),
        };
        let group_id = Arc::clone(group_id);
        if !self.groups.contains_key(&group_id) {
            let reply = match request {
                Request::LeaveGroup(leave) => nobody_left(leave),
                request => request.refused(GroupError::UnknownMemberId),
            };
            return self.reply(token, reply);
        }
        let event = match request {
            Request::JoinGroup { mut join, member_uuid } => {
                let mut names = BTreeSet::new();
                join.protocols.retain(|protocol| names.insert(Arc::clone(&protocol.name)));
                classic::Event::Join { token, join, member_uuid }
            }
            Request::SyncGroup(sync) => classic::Event::Sync { token, sync },
            Request::Heartbeat(heartbeat) => classic::Event::Heartbeat { token, heartbeat },
            Request::LeaveGroup(leave) => classic::Event::Leave { token, leave },
            _ => unreachable!("every other request is handled before"),
        };
        self.handle_group(now, &group_id, event);
    }

    fn reply(&mut self, token: Token, reply: Reply) {
        self.actions.push(Action::Reply(token, reply));
    }

    /// Replies once all that was asked before is durable.
    fn reply_in_order(&mut self, token: Token, reply: Reply) {
        self.outbox.push(Entry::Reply(token, reply));
    }

    /// What can be refused without a look at the group.
    fn check(&self, request: &Request) -> Result<(), GroupError> {
        match request {
            Request::JoinGroup { join, .. } => self.check_join(join),
            Request::OffsetDelete(delete) => check_names(delete.topics.iter().map(|(topic, _)| topic)),
            Request::OffsetCommit(commit) => {
                check_names([&commit.group_id].into_iter().chain(commit.topics.iter().map(|topic| &topic.topic)))
            }
            _ => Ok(()),
        }
    }

    fn check_join(&self, join: &JoinGroup) -> Result<(), GroupError> {
        check_names([&join.group_id, &join.client_id, &join.client_host, &join.protocol_type])?;
        check_names(join.protocols.iter().map(|protocol| &protocol.name).chain(&join.group_instance_id))?;
        // Members that are there may go on, as long as they do not grow.
        let known = self.groups.get(&join.group_id).map_or(0, |group| group.bytes_of(join));
        let grows_by = classic::member_bytes(join).saturating_sub(known);
        if grows_by > 0 && self.state_bytes() + grows_by > self.max_state_bytes {
            return Err(GroupError::GroupMaxSizeReached);
        }
        Ok(())
    }

    fn commit(&mut self, now: Now, commit: OffsetCommit) -> Result<Vec<PartitionResults>, GroupError> {
        match self.groups.get(&commit.group_id) {
            Some(group) => group.check_commit(&commit)?,
            // A consumer that assigns partitions to itself; its group exists by its offsets alone.
            None if commit.generation < 0 => {}
            None if commit.api_version >= GROUP_ID_NOT_FOUND_VERSION => return Err(GroupError::GroupIdNotFound),
            None => return Err(GroupError::IllegalGeneration),
        }
        let (results, records) = self.commit_records(now, &commit);
        if records.iter().map(LogRecord::bytes).sum::<usize>() > self.settings.max_batch_bytes {
            return Err(GroupError::InvalidCommitOffsetSize);
        }
        self.handle_group(now, &commit.group_id, classic::Event::Committed { member_id: commit.member_id });
        if !records.is_empty() {
            self.outbox.push(Entry::Write { records, then: None });
        }
        Ok(results)
    }

    fn commit_records(&self, now: Now, commit: &OffsetCommit) -> (Vec<PartitionResults>, Vec<LogRecord>) {
        let expire_timestamp = commit.retention_ms.map(|retention| Timestamp(now.wall.0.saturating_add(retention)));
        let mut records = Vec::new();
        let mut commit_one = |topic: &CommitTopic, partition: &CommitPartition| {
            self.check_partition(&commit.group_id, &topic.topic, partition)?;
            let committed = CommittedOffset {
                offset: partition.offset,
                leader_epoch: partition.leader_epoch,
                metadata: partition.metadata.clone(),
                commit_timestamp: now.wall,
                expire_timestamp,
                topic_id: topic.topic_id,
            };
            records.push(committed.record(&commit.group_id, &topic.topic, partition.partition));
            Ok(())
        };
        let results = (commit.topics.iter())
            .map(|topic| PartitionResults {
                topic: Arc::clone(&topic.topic),
                topic_id: topic.topic_id,
                partitions: (topic.partitions.iter())
                    .map(|partition| (partition.partition, commit_one(topic, partition).err()))
                    .collect(),
            })
            .collect();
        (results, records)
    }

    fn check_partition(&self, group_id: &str, topic: &str, commit: &CommitPartition) -> Result<(), GroupError> {
        let limit = self.settings.offset_metadata_max_bytes.min(MAX_METADATA_BYTES);
        // As in Apache Kafka the limit counts UTF-16 units, which are at most as many as bytes.
        let metadata = &commit.metadata;
        if metadata.len() > limit && (metadata.len() > MAX_METADATA_BYTES || metadata.encode_utf16().count() > limit) {
            return Err(GroupError::OffsetMetadataTooLarge);
        }
        if self.is_full() && self.logged.offset(group_id, topic, commit.partition).is_none() {
            return Err(GroupError::InvalidCommitOffsetSize);
        }
        Ok(())
    }

    pub(super) fn fetch(&self, fetch: &OffsetFetch) -> Vec<FetchedTopic> {
        match &fetch.topics {
            Some(topics) => topics.iter().map(|topic| self.fetch_topic(&fetch.group_id, topic)).collect(),
            None => {
                let offsets = self.logged.groups.get(&fetch.group_id).map(|logged| &logged.offsets);
                let topics = offsets.into_iter().flatten().map(|(topic, partitions)| FetchedTopic {
                    topic: Arc::clone(topic),
                    topic_id: partitions.values().next().map_or(TopicId::ZERO, |committed| committed.topic_id),
                    partitions: (partitions.iter())
                        .map(|(&partition, committed)| fetched(partition, Some(committed)))
                        .collect(),
                });
                topics.collect()
            }
        }
    }

    fn fetch_topic(&self, group_id: &str, asked: &FetchTopic) -> FetchedTopic {
        let same_topic = |committed: &&CommittedOffset| {
            asked.topic_id.is_zero() || committed.topic_id.is_zero() || committed.topic_id == asked.topic_id
        };
        let find = |partition| self.logged.offset(group_id, &asked.topic, partition).filter(same_topic);
        FetchedTopic {
            topic: Arc::clone(&asked.topic),
            topic_id: asked.topic_id,
            partitions: asked.partitions.iter().map(|&partition| fetched(partition, find(partition))).collect(),
        }
    }

    fn delete_offsets(&mut self, delete: OffsetDelete) -> Result<Vec<PartitionResults>, GroupError> {
        let group = self.groups.get(&delete.group_id).ok_or(GroupError::GroupIdNotFound)?;
        group.check_offset_delete()?;
        let mut tombstones = Vec::new();
        let results = (delete.topics.into_iter())
            .map(|(topic, partitions)| {
                let error = group.is_subscribed_to(&topic).then_some(GroupError::GroupSubscribedToTopic);
                if error.is_none() {
                    // Also where no offset is known: one may be on its way into the log.
                    tombstones.extend(partitions.iter().map(|&partition| {
                        LogRecord::tombstone(Key::encode_offset(&delete.group_id, &topic, partition))
                    }));
                }
                let partitions = partitions.into_iter().map(|partition| (partition, error)).collect();
                PartitionResults { topic, topic_id: TopicId::ZERO, partitions }
            })
            .collect();
        self.push_tombstones(tombstones);
        Ok(results)
    }

    fn delete_group(&mut self, group_id: &Arc<str>) -> Result<(), GroupError> {
        let group = self.groups.get(group_id).ok_or(GroupError::GroupIdNotFound)?;
        if group.state() != GroupState::Empty {
            return Err(GroupError::NonEmptyGroup);
        }
        let offsets = self.logged.groups.get(group_id).map(|logged| &logged.offsets);
        let keys = offsets.into_iter().flat_map(walk);
        let keys = keys.map(|(topic, partition, _)| Key::encode_offset(group_id, topic, partition));
        let keys = keys.chain([Key::encode_group(group_id)]);
        let tombstones = keys.map(LogRecord::tombstone).collect();
        self.push_tombstones(tombstones);
        Ok(())
    }

    /// Deletes what is committed of topics, before all that is queued: that may be of new topics of these names. No append may
    /// be under way.
    pub(super) fn delete_topics(&mut self, token: Token, topics: &DeletedTopics) {
        assert!(!self.outbox.is_appending(), "what is found is not changed by an append under way");
        let mut tombstones = Vec::new();
        for (group_id, logged) in &self.logged.groups {
            for (topic, partition, committed) in walk(&logged.offsets) {
                if topics.get(topic).is_some_and(|identities| identities.contains(&committed.topic_id)) {
                    tombstones.push(LogRecord::tombstone(Key::encode_offset(group_id, topic, partition)));
                }
            }
        }
        let mut entries = self.writes(tombstones);
        entries.push(Entry::Reply(token, Reply::TopicsDeleted(Ok(()))));
        self.outbox.push_first(entries);
    }

    fn push_tombstones(&mut self, tombstones: Vec<LogRecord>) {
        for write in self.writes(tombstones) {
            self.outbox.push(write);
        }
    }

    /// Tombstones in as many appends as they need: each stands for itself, and a deletion that a crash cuts short can be asked
    /// for again.
    fn writes(&self, tombstones: Vec<LogRecord>) -> Vec<Entry> {
        let (mut writes, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
        for tombstone in tombstones {
            if bytes + tombstone.bytes() > self.settings.max_batch_bytes {
                writes.push(Entry::Write { records: std::mem::take(&mut records), then: None });
                bytes = 0;
            }
            bytes += tombstone.bytes();
            records.push(tombstone);
        }
        if !records.is_empty() {
            writes.push(Entry::Write { records, then: None });
        }
        writes
    }

    /// Tombstones of offsets whose retention has passed, and of empty groups that lose their last offset or have none; a
    /// part of a batch at a time.
    pub(super) fn expired_offsets(&mut self, now: Now) -> Vec<LogRecord> {
        let mut tombstones = Vec::new();
        if !self.expiry_due {
            return tombstones;
        }
        let mut bytes = 0;
        let mut all = self.expired(now).peekable();
        while let Some(tombstone) = all.next_if(|next| bytes + next.bytes() <= self.settings.max_batch_bytes / 2) {
            bytes += tombstone.bytes();
            tombstones.push(tombstone);
        }
        let more = all.peek().is_some();
        drop(all);
        self.expiry_due = more;
        tombstones
    }

    fn expired(&self, now: Now) -> impl Iterator<Item = LogRecord> {
        let groups = self.logged.groups.iter().filter_map(|(id, logged)| Some((id, logged, self.groups.get(id)?)));
        groups.flat_map(move |(group_id, logged, group)| {
            let is_expired = move |topic: &str, committed: &CommittedOffset| {
                !group.is_subscribed_to(topic) && self.is_expired(now, group, committed)
            };
            let expired = walk(&logged.offsets).filter(move |&(topic, _, committed)| is_expired(topic, committed));
            let keys = expired.map(move |(topic, partition, _)| Key::encode_offset(group_id, topic, partition));
            let none_left =
                group.is_idle() && walk(&logged.offsets).all(|(topic, _, committed)| is_expired(topic, committed));
            keys.chain(none_left.then(|| Key::encode_group(group_id))).map(LogRecord::tombstone)
        })
    }

    fn is_expired(&self, now: Now, group: &ClassicGroup, committed: &CommittedOffset) -> bool {
        let Some(start) = group.retention_start(committed.commit_timestamp) else { return false };
        let retention_ms = i64::try_from(self.settings.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let expiry = committed.expire_timestamp.unwrap_or(Timestamp(start.0.saturating_add(retention_ms)));
        now.wall >= expiry
    }

    fn list(&self, list: &ListGroups) -> Vec<ListedGroup> {
        let asked = |names: &[Arc<str>], name: &str| {
            names.is_empty() || names.iter().any(|asked| asked.trim().eq_ignore_ascii_case(name))
        };
        if !asked(&list.types, CLASSIC) {
            return Vec::new();
        }
        let groups = self.groups.values().filter(|group| asked(&list.states, group.state().name()));
        groups.map(ClassicGroup::listed).collect()
    }
}

/// What is refused whoever coordinates the group, and whether its coordinator has loaded or not (`GroupCoordinatorService`).
pub(in crate::group) fn check_form(settings: &GroupSettings, request: &Request) -> Result<(), GroupError> {
    match request {
        Request::JoinGroup { join, .. } => {
            check_group_id(&join.group_id)?;
            let timeout = u64::try_from(join.session_timeout_ms).map(Duration::from_millis);
            let accepted = settings.min_session_timeout..=settings.max_session_timeout;
            let is_accepted = timeout.is_ok_and(|timeout| accepted.contains(&timeout));
            if is_accepted { Ok(()) } else { Err(GroupError::InvalidSessionTimeout) }
        }
        Request::SyncGroup(sync) => check_group_id(&sync.group_id),
        Request::Heartbeat(heartbeat) => check_group_id(&heartbeat.group_id),
        Request::LeaveGroup(leave) => check_group_id(&leave.group_id),
        Request::OffsetDelete(delete) => check_group_id(&delete.group_id),
        _ => Ok(()),
    }
}

fn check_group_id(group_id: &str) -> Result<(), GroupError> {
    if group_id.is_empty() { Err(GroupError::InvalidGroupId) } else { Ok(()) }
}

fn check_names<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> Result<(), GroupError> {
    let fits = names.into_iter().all(|name| name.len() <= MAX_NAME_BYTES);
    if fits { Ok(()) } else { Err(GroupError::InvalidGroupId) }
}

fn fetched(partition: i32, committed: Option<&CommittedOffset>) -> FetchedPartition {
    FetchedPartition {
        partition,
        offset: committed.map_or(-1, |committed| committed.offset),
        leader_epoch: committed.map_or(LeaderEpoch::NONE, |committed| committed.leader_epoch),
        metadata: committed.map(|committed| committed.metadata.clone()).unwrap_or_default(),
    }
}

fn dead(group_id: &Arc<str>) -> DescribedGroup {
    DescribedGroup {
        group_id: Arc::clone(group_id),
        state: GroupState::Dead,
        protocol_type: Arc::default(),
        protocol: Arc::default(),
        members: Vec::new(),
    }
}

fn nobody_left(leave: LeaveGroup) -> Reply {
    let members = leave.members.into_iter().map(|member| LeftMember {
        member_id: member.member_id,
        group_instance_id: member.group_instance_id,
        error: Some(GroupError::UnknownMemberId),
    });
    Reply::LeaveGroup(Ok(members.collect()))
}
