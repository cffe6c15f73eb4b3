//! What an operator can set about groups.

use std::time::Duration;

/// Settings of every coordinator. Names in parentheses are Apache Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// Members that one group may have (`group.max.size`). A rebalance costs memory and time in proportion.
    pub max_size: usize,
    /// Shortest session timeout that a member may ask for (`group.min.session.timeout.ms`). Short ones find dead members
    /// sooner and cost heartbeats.
    pub min_session_timeout: Duration,
    /// Longest session timeout that a member may ask for (`group.max.session.timeout.ms`).
    pub max_session_timeout: Duration,
    /// How long the first rebalance of an empty group waits for more members (`group.initial.rebalance.delay.ms`). Delays
    /// the first record that a new group sees, and saves rebalances while its members start.
    pub initial_rebalance_delay: Duration,
    /// How long a member that has never had an assignment may wait in a rebalance before it is asked to join again.
    pub new_member_join_timeout: Duration,
    /// Bytes of metadata beside one committed offset (`offset.metadata.max.bytes`); each costs memory for as long as the
    /// offset lives. At most 32,767.
    pub offset_metadata_max_bytes: usize,
    /// How long offsets are kept after their group became empty, or after the last commit of a group without members
    /// (`offsets.retention.minutes`).
    pub offsets_retention: Duration,
    /// How often expired offsets are looked for (`offsets.retention.check.interval.ms`). Each look walks all offsets.
    pub offsets_retention_check_interval: Duration,
    /// Bytes of records in one append. A group or a commit whose records are larger is refused.
    pub max_batch_bytes: usize,
    /// Bytes of records that may wait for the append under way; above it requests wait in their queue.
    pub max_queued_bytes: usize,
    /// Bytes of memory that the groups and offsets of all coordinators may take; above it new members and new offsets are
    /// refused, while what is there goes on working.
    pub max_state_bytes: usize,
    /// Bytes of log at which the live state is appended again so that the log's start can advance. A smaller log loads
    /// faster; rewriting costs one append of the live state each time.
    pub rewrite_min_bytes: u64,
    /// The log is rewritten when it passes this many times the bytes of the live state (and `rewrite_min_bytes`), which
    /// bounds rewriting to one byte in `rewrite_factor - 1` appended.
    pub rewrite_factor: u64,
    /// Wait before the log is read again after an append or a load failed.
    pub reload_backoff: Duration,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            max_size: i32::MAX as usize,
            min_session_timeout: Duration::from_secs(6),
            max_session_timeout: Duration::from_secs(30 * 60),
            initial_rebalance_delay: Duration::from_secs(3),
            new_member_join_timeout: Duration::from_secs(5 * 60),
            offset_metadata_max_bytes: 4096,
            offsets_retention: Duration::from_secs(7 * 24 * 60 * 60),
            offsets_retention_check_interval: Duration::from_secs(10 * 60),
            max_batch_bytes: 1_000_000,
            max_queued_bytes: 4 << 20,
            max_state_bytes: 64 << 20,
            rewrite_min_bytes: 1 << 20,
            rewrite_factor: 4,
            reload_backoff: Duration::from_millis(500),
        }
    }
}
