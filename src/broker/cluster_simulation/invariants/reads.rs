//! What a consumer was given below the high watermark never changes: whoever reads there later finds the same, without a gap.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Check, ensure};
use crate::record::{Batch, BatchHeader, Compression, MAX_DECOMPRESSED_BYTES};
use crate::types::Offset;

/// What a client sees of a batch, whatever its codec: the archive may give it with another one.
type Content = (BatchHeader, Bytes);

fn content(batch: &Batch) -> Result<Content, String> {
    batch.verify_checksum().map_err(|error| error.to_string())?;
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).map_err(|error| error.to_string())?;
    let attributes = batch.header().attributes.with_compression(Compression::None);
    Ok((BatchHeader { batch_length: 0, checksum: 0, attributes, ..*batch.header() }, payload))
}

/// What was read, by where each batch begins.
#[derive(Debug, Default)]
pub(in super::super) struct Reads {
    seen: BTreeMap<Offset, Content>,
}

impl Reads {
    /// Takes batches that were read at an offset, and judges them by what was read before.
    pub(in super::super) fn take(&mut self, offset: Offset, batches: &[Batch]) -> Check {
        let mut at = offset;
        for batch in batches {
            let (base, next) = (batch.header().base_offset, batch.header().next_offset());
            let is_next = if at == offset { base <= at && at < next } else { base == at };
            ensure!(is_next, "a read at {offset} came to {at} and then to a batch of {base} to {next}");
            let found = content(batch).map_err(|error| format!("a read at {offset}: {error}"))?;
            let before = self.seen.range(..next).next_back();
            if let Some((_, (header, _))) = before {
                let is_apart = header.next_offset() <= base || header.base_offset == base;
                ensure!(is_apart, "a read at {offset} gave {:?}, where {header:?} was", batch.header());
            }
            let known = self.seen.entry(base).or_insert_with(|| found.clone());
            ensure!(*known == found, "a read at {offset} gave {:?}, where {:?} was", batch.header(), known.0);
            at = next;
        }
        Ok(())
    }

    /// Judges all batches that there are in the end: they hold everything that was ever read.
    pub(in super::super) fn check(&mut self, batches: &[Batch]) -> Check {
        let Some(first) = batches.first() else {
            ensure!(self.seen.is_empty(), "{} batches were read, and none is there", self.seen.len());
            return Ok(());
        };
        self.take(first.header().base_offset, batches)?;
        let end = batches.last().map_or(Offset::ZERO, |last| last.header().next_offset());
        let beyond = self.seen.range(end..).next();
        ensure!(beyond.is_none(), "{:?} was read, and the log ends at {end}", beyond.map(|(_, (header, _))| header));
        Ok(())
    }
}
