//! Hands out producer ids from a block that the metadata quorum gave this broker.

use tokio::sync::Mutex;

use super::Broker;
use crate::metadata::{Command, CommandError, Outcome};
use crate::types::ProducerId;

/// Blocks that are passed over at a time.
const MOST_BLOCKS: usize = 1000;

/// What is left of the current block. Ids of a block that a crash interrupts are never handed out.
#[derive(Debug, Default)]
pub(super) struct ProducerIds {
    block: Mutex<std::ops::Range<i64>>,
}

impl Broker {
    /// A producer id that nobody has had before.
    ///
    /// # Errors
    /// [`CommandError`] when the quorum gives no new block.
    pub async fn new_producer_id(&self) -> Result<ProducerId, CommandError> {
        let mut block = self.producer_ids.block.lock().await;
        loop {
            if let Some(id) = block.next() {
                return Ok(ProducerId(id));
            }
            let command = Command::AllocateProducerIds { node_id: self.node_id(), broker_epoch: self.epoch() };
            match self.submit(command).await? {
                Outcome::ProducerIds { first, count } => *block = first.get()..first.get() + i64::from(count),
                outcome => unreachable!("an allocation is answered with a block, not with {outcome:?}"),
            }
        }
    }

    /// Gives out no id below `mark` any more: others have, by what the bucket knows.
    pub(super) async fn pass_over_producer_ids(&self, mark: ProducerId) -> Result<(), CommandError> {
        let mut block = self.producer_ids.block.lock().await;
        for _ in 0..MOST_BLOCKS {
            if self.image().next_producer_id() >= mark {
                return Ok(());
            }
            *block = 0..0;
            self.submit(Command::AllocateProducerIds { node_id: self.node_id(), broker_epoch: self.epoch() }).await?;
        }
        Ok(())
    }
}
