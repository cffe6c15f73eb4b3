//! Replicas agree: where two of them have records, these are the same bytes, and all end at the same offset.

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::record::Batch;
use crate::types::NodeId;

/// Judges the logs of a partition: for each replica the batches that are on its disk, up to the high watermark.
pub(in super::super) fn check_replicas(logs: &[(NodeId, Vec<Batch>)]) -> Check {
    let mut known = BTreeMap::new();
    for (node_id, batches) in logs {
        let mut at = None;
        for batch in batches {
            let (base, next) = (batch.header().base_offset, batch.header().next_offset());
            ensure!(at.is_none_or(|at| at == base), "the log of broker {node_id} goes on at {base}, after {at:?}");
            at = Some(next);
            let (of, bytes) = known.entry(base).or_insert((*node_id, batch.bytes()));
            ensure!(*bytes == batch.bytes(), "brokers {of} and {node_id} have different batches at {base}");
        }
    }
    // One that begins within a batch of another would have been told from it by where batches begin.
    for (node_id, batches) in logs {
        let Some(first) = batches.first() else { continue };
        let mut expected = known.range(first.header().base_offset..).map(|(base, _)| *base);
        let missing = expected.find(|base| batches.iter().all(|batch| batch.header().base_offset != *base));
        ensure!(missing.is_none(), "broker {node_id} has no batch at {missing:?}, and another has");
    }
    Ok(())
}
