//! What a replica has while it leads: its machine, and the links to those that follow.

use std::sync::Arc;

use super::link::Link;
use super::replica::Replica;
use crate::log::{DiskRead, ReadError, ReplicaBatches, ReplicaRead};
use crate::metadata::command::AlterPartition;
use crate::metadata::image::{Image, Partition, ReplicaState};
use crate::metadata::{Command, CommandError};
use crate::replication::follower::Progress;
use crate::replication::leader::{Actions, Assignment, Event, LeaderReplica, LeaderStart, Member, Proposal};
use crate::replication::message::{LeaderSays, Message};
use crate::replication::window::Turn;
use crate::types::{BrokerEpoch, LeaderEpoch, NodeId, Offset, TopicPartition};

/// What a continuation may take: of producers beyond that those are forgotten that wrote longest ago.
const CONTINUATION_BYTES: usize = 8 << 20;

/// What a turn found.
#[derive(Debug)]
pub(super) enum Read {
    /// Batches in memory.
    Ready(Batches),
    /// They are in segments, to be read by a lane that may block; for the leader of this epoch.
    Disk(DiskRead, LeaderEpoch),
    /// Nothing that can be read yet.
    Nothing,
    /// The follower has to begin again: local records have left.
    Behind,
    /// The log can't be read, for now or for good.
    Failed(ReadError),
    /// This broker does not lead any more.
    NotLed,
}

/// Batches for a follower.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) message: Message<LeaderSays>,
    pub(super) next: Offset,
    pub(super) bytes: usize,
}

/// See the module.
pub(super) struct Leading {
    machine: LeaderReplica,
    /// The end of the log as it was told last; threads that append at once may tell in another order.
    log_end: Offset,
    /// Where the log ended at first. What is below is read once it is durable.
    began_at: Offset,
    /// The log start and the end of the archive that followers were last told of for themselves.
    ticked: (Offset, Offset),
    links: Vec<Arc<Link>>,
}

/// What an image says of a partition, for the leader's machine.
pub(super) fn assignment(image: &Image, partition: &Partition, min_in_sync: usize) -> Assignment {
    let members = partition.replicas.iter().map(|replica| Member {
        node_id: replica.node_id,
        broker_epoch: image.broker(replica.node_id).map_or(BrokerEpoch(-1), |broker| broker.epoch),
        is_in_sync: replica.state == ReplicaState::InSync,
        is_available: image.is_available(replica),
    });
    Assignment { partition_epoch: partition.partition_epoch, members: members.collect(), min_in_sync }
}

impl Leading {
    /// Begins to lead, in an epoch that the log has begun.
    pub(super) fn begin(replica: &Replica, leader_epoch: LeaderEpoch, assignment: Assignment) -> Self {
        let shared = replica.shared();
        let offsets = replica.log().offsets();
        let start = LeaderStart {
            node_id: shared.node_id,
            leader_epoch,
            log_end: offsets.log_end,
            durable: offsets.durable,
            high_watermark: offsets.high_watermark,
        };
        let followers = followers(shared.node_id, &assignment);
        let (machine, actions) =
            LeaderReplica::new(shared.runtime.clock.monotonic(), shared.settings.leader, start, assignment);
        let (log_end, ticked) = (offsets.log_end, (offsets.log_start, offsets.archived_to));
        let mut leading = Self { machine, log_end, began_at: log_end, ticked, links: Vec::new() };
        leading.connect(replica, &followers);
        leading.act(replica, actions);
        leading
    }

    /// The epoch in which it leads.
    pub(super) const fn epoch(&self) -> LeaderEpoch {
        self.machine.leader_epoch()
    }

    /// How many replicas are in sync, and how many have to be.
    pub(super) fn in_sync(&self) -> (usize, usize) {
        self.machine.in_sync()
    }

    /// Whether fewer replicas are in sync than there are.
    pub(super) fn is_under_replicated(&self) -> bool {
        self.machine.in_sync().0 <= self.links.len()
    }

    /// Stops sending.
    pub(super) fn leave(&self, id: TopicPartition) {
        self.links.iter().for_each(|link| link.leave(id));
    }

    /// Has links to these followers, and no others.
    fn connect(&mut self, replica: &Replica, followers: &[NodeId]) {
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.links).into_iter().partition(|link| followers.contains(&link.follower()));
        go.iter().for_each(|link| link.leave(replica.id()));
        self.links = stay;
        for &follower in followers {
            if !self.links.iter().any(|link| link.follower() == follower) {
                let link = replica.shared().link(follower, replica.id());
                link.enter(replica);
                self.links.push(link);
            }
        }
    }

    /// A newer image, of the same epoch.
    pub(super) fn assigned(&mut self, replica: &Replica, assignment: Assignment) {
        let followers = followers(replica.shared().node_id, &assignment);
        self.connect(replica, &followers);
        self.handle(replica, Event::Assigned(assignment));
    }

    /// Something happened.
    pub(super) fn handle(&mut self, replica: &Replica, event: Event) {
        let actions = self.machine.handle(replica.shared().runtime.clock.monotonic(), event);
        self.act(replica, actions);
    }

    /// Batches were appended.
    pub(super) fn appended(&mut self, replica: &Replica, log_end: Offset) {
        if log_end <= self.log_end {
            return;
        }
        self.log_end = log_end;
        self.handle(replica, Event::Appended(log_end));
        self.links.iter().for_each(|link| link.appended(replica.id(), log_end));
    }

    /// What is below is on stable storage here.
    pub(super) fn durable(&mut self, replica: &Replica, durable: Offset) {
        // It may be told before the append itself is.
        self.appended(replica, durable);
        self.handle(replica, Event::Durable(durable));
        // Somebody may wait until all have deleted it.
        let log_start = replica.log().offsets().log_start;
        if log_start > self.ticked.0 {
            self.ticked.0 = log_start;
            self.tell_progress(replica);
        }
        if durable <= self.began_at {
            // It can be read since.
            self.links.iter().for_each(|link| link.appended(replica.id(), self.log_end));
        }
    }

    /// A follower, of the process that the session is with, has everything below an offset on stable storage, but for what it has
    /// deleted.
    pub(super) fn acknowledged(
        &mut self,
        replica: &Replica,
        node_id: NodeId,
        process: BrokerEpoch,
        durable: Offset,
        log_start: Offset,
    ) {
        if durable > self.log_end {
            // It was sent, and is on a disk there, before the append was told here.
            self.appended(replica, durable.min(replica.log().offsets().log_end));
        }
        let (broker_epoch, leader_epoch) = (process, self.epoch());
        self.handle(replica, Event::Acknowledged { node_id, broker_epoch, leader_epoch, durable, log_start });
    }

    /// Whether nobody who may lead next has records below an offset.
    pub(super) fn is_deleted_below(&self, offset: Offset) -> bool {
        self.machine.is_deleted_below(offset)
    }

    /// Time has passed; most partitions do not care.
    pub(super) fn tick(&mut self, replica: &Replica) {
        self.handle(replica, Event::Tick);
        // What was archived goes with records, or else now.
        let Progress { log_start, archived_to, .. } = self.progress(replica);
        if self.ticked != (log_start, archived_to) {
            self.ticked = (log_start, archived_to);
            self.tell_progress(replica);
        }
    }

    fn tell_progress(&self, replica: &Replica) {
        let now = replica.shared().runtime.clock.monotonic();
        self.links.iter().for_each(|link| link.progressed(replica.id(), now));
    }

    fn act(&self, replica: &Replica, actions: Actions) {
        if let Some(offset) = actions.commit {
            replica.log().commit(offset);
            self.tell_progress(replica);
        }
        if let (Some(proposal), Some(replica)) = (actions.propose, replica.shared_self()) {
            let (shared, epoch) = (Arc::clone(replica.shared()), self.epoch());
            shared.spawn(async move { propose(&replica, epoch, proposal).await });
        }
    }

    /// How far it is.
    pub(super) fn progress(&self, replica: &Replica) -> Progress {
        let offsets = replica.log().offsets();
        let high_watermark = self.machine.high_watermark();
        Progress { high_watermark, log_start: offsets.log_start, archived_to: offsets.archived_to }
    }

    /// What a follower with nothing to go on from is given; nothing while it may be elected for what it has.
    pub(super) fn continuation(&self, replica: &Replica, follower: NodeId) -> Option<Message<LeaderSays>> {
        let mut continuation = replica.log().snapshot_for_replica().ok()?;
        if !self.machine.may_begin_anew(follower, continuation.at) {
            return None;
        }
        continuation.keep_within(CONTINUATION_BYTES);
        let says = LeaderSays::Continuation(continuation.encode().into());
        Some(Message { partition: replica.id(), leader_epoch: self.epoch(), says })
    }

    /// What is next for a follower.
    pub(super) fn read(&self, replica: &Replica, turn: Turn) -> Read {
        match replica.log().read_for_replica(turn.from, turn.max_bytes) {
            Ok(ReplicaRead::Ready(batches)) if batches.is_empty() => Read::Nothing,
            Ok(ReplicaRead::Ready(batches)) => Read::Ready(self.batches(replica, batches)),
            Ok(ReplicaRead::Disk(read)) => Read::Disk(read, self.epoch()),
            Err(ReadError::Archived { .. } | ReadError::OutOfRange { .. }) => Read::Behind,
            Err(error) => Read::Failed(error),
        }
    }

    /// What was read, to be sent.
    pub(super) fn batches(&self, replica: &Replica, read: ReplicaBatches) -> Batches {
        let ReplicaBatches { chunks, next_offset, bytes } = read;
        let says = LeaderSays::Records { progress: self.progress(replica), batches: chunks };
        let message = Message { partition: replica.id(), leader_epoch: self.epoch(), says };
        Batches { message, next: next_offset, bytes }
    }
}

fn followers(node_id: NodeId, assignment: &Assignment) -> Vec<NodeId> {
    assignment.members.iter().map(|member| member.node_id).filter(|member| *member != node_id).collect()
}

/// Asks the metadata for another set of in-sync replicas, and tells the machine what became of that.
async fn propose(replica: &Replica, leader_epoch: LeaderEpoch, proposal: Proposal) {
    let shared = replica.shared();
    let Proposal { partition_epoch, in_sync } = proposal;
    let command = Command::AlterPartition(AlterPartition {
        node_id: shared.node_id,
        broker_epoch: shared.broker_epoch,
        partition: replica.id(),
        leader_epoch,
        partition_epoch,
        in_sync,
    });
    shared.metrics.replication.proposals.inc();
    let is_void = match shared.metadata.submit(command).await {
        // It is in the image by now.
        Ok(_) => return replica.observe_image(),
        Err(error @ (CommandError::Rejected(_) | CommandError::NotLeader { .. })) => {
            tracing::debug!(%error, partition = %replica.id(), "a change of the in-sync replicas was refused");
            true
        }
        Err(error) => {
            tracing::debug!(%error, partition = %replica.id(), "what became of a change of the in-sync replicas is not known");
            false
        }
    };
    replica.lead(Some(leader_epoch), |leading| {
        leading.handle(replica, Event::ProposalFailed { partition_epoch, is_void });
    });
}
