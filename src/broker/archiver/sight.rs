//! What this broker has seen of the archive of partitions that it follows.
//!
//! Their leader says how far they are archived, and a log takes its word for what counts as archived. But nothing local goes on a
//! word: before that this process has read the head itself, and found the log's own epochs in it as far as both reach. Heads are looked
//! at only where local records are to go because of that, a bounded number at once; where a look fails, room is made by what
//! was seen before, and it is tried again later. After a crash each is looked at anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::catch_up::agrees_to;
use super::pauses::Retry;
use super::{Archiver, contradicted};
use crate::archive::partition::HeadError;
use crate::log::PartitionLog;
use crate::runtime::entropy::Entropy;
use crate::types::{Monotonic, TopicPartition};

/// Heads that are looked at at once.
const AT_ONCE: usize = 64;

/// Which heads are being looked at, and which could not be.
#[derive(Debug, Default)]
pub(super) struct Looks {
    under_way: BTreeSet<TopicPartition>,
    retries: BTreeMap<TopicPartition, Retry>,
}

impl Looks {
    /// Whether a head may be looked at: it is not being looked at, nor waited for since that failed.
    pub(super) fn may_begin(&self, id: TopicPartition, now: Monotonic) -> bool {
        !self.under_way.contains(&id) && self.retries.get(&id).is_none_or(|retry| retry.is_due(now))
    }

    /// Begins a look, if it may and there are not too many; it is over with [`Self::ended`].
    pub(super) fn begin(&mut self, id: TopicPartition, now: Monotonic) -> bool {
        self.may_begin(id, now) && self.under_way.len() < AT_ONCE && self.under_way.insert(id)
    }

    /// A look is over.
    pub(super) fn ended(
        &mut self,
        id: TopicPartition,
        result: Result<(), HeadError>,
        now: Monotonic,
        entropy: &dyn Entropy,
    ) {
        self.under_way.remove(&id);
        match result {
            Ok(()) => {
                self.retries.remove(&id);
            }
            Err(error) => {
                self.retries.entry(id).or_default().fail(now, entropy);
                if error.is_fenced() {
                    tracing::error!(%error, partition = %id, "nothing that is archived leaves the disk of this follower");
                } else {
                    tracing::warn!(%error, partition = %id, "what is archived stays on the disk of this follower for now");
                }
            }
        }
    }

    /// Forgets failures of partitions that are not followed any more.
    pub(super) fn keep(&mut self, followed: impl FnOnce() -> BTreeSet<TopicPartition>) {
        if !self.retries.is_empty() {
            let followed = followed();
            self.retries.retain(|id, _| followed.contains(id));
        }
    }
}

impl Archiver {
    /// Looks at the head of a partition that is followed here.
    pub(super) async fn look_at_head(&self, log: Arc<PartitionLog>) -> (TopicPartition, Result<(), HeadError>) {
        (log.partition(), self.see(&log).await)
    }

    async fn see(&self, log: &Arc<PartitionLog>) -> Result<(), HeadError> {
        let Some(archive) = self.partition(log.partition()) else { return Ok(()) };
        let believed = log.offsets().archived_to;
        let head = archive.refresh().await?;
        let seen_to = match &head {
            Some(head) => Some(agrees_to(log, head).ok_or_else(|| contradicted(log, &archive, head))?),
            None => None,
        };
        self.note_end(log, seen_to, believed).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::production::KernelEntropy;
    use crate::types::TopicId;

    fn id(number: usize) -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([7; 16]), i32::try_from(number).unwrap())
    }

    #[test]
    fn looks_are_bounded_and_one_that_failed_waits() {
        let (mut looks, now) = (Looks::default(), Monotonic(1_000_000_000));
        let begun = (0..2 * AT_ONCE).filter(|number| looks.begin(id(*number), now)).count();
        assert_eq!(begun, AT_ONCE);
        assert!(!looks.may_begin(id(0), now), "it is under way");
        looks.ended(id(0), Ok(()), now, &KernelEntropy);
        assert!(looks.begin(id(0), now));
        let failed = || Err(HeadError::Absent { key: "head.json".to_owned() });
        looks.ended(id(0), failed(), now, &KernelEntropy);
        assert!(!looks.may_begin(id(0), now));
        assert!(looks.may_begin(id(0), now + std::time::Duration::from_secs(60)));
        looks.keep(|| BTreeSet::from([id(0)]));
        assert!(!looks.may_begin(id(0), now));
        looks.keep(BTreeSet::new);
        assert!(looks.may_begin(id(0), now), "another time");
    }
}
