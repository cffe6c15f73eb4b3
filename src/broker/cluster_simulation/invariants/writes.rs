//! Every record that was acknowledged is in the log in the end, at the offset that was acknowledged, and no record is there twice.

use std::collections::BTreeMap;

use super::{Check, ensure};
use crate::record::{Batch, MAX_DECOMPRESSED_BYTES};
use crate::types::Offset;

/// The numbers of records, by which they are told apart whatever partition and producer they are of, and their bytes.
type Records = Vec<(Offset, u64)>;

/// The value of a record with a number, which is followed by so many bytes.
pub(in super::super) fn record_of(number: u64, rest: usize) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.resize(value.len() + rest, number.to_be_bytes()[7]);
    value
}

/// The records of a batch as they are placed in it.
fn records(batch: &Batch) -> Result<Records, String> {
    let payload = batch.decompressed(MAX_DECOMPRESSED_BYTES).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for record in batch.header().records(&payload) {
        let record = record.map_err(|error| error.to_string())?;
        let number = record.value.and_then(|value| value.first_chunk::<8>());
        let number = number.ok_or_else(|| format!("the record at {} is nobody's", record.offset))?;
        found.push((record.offset, u64::from_be_bytes(*number)));
    }
    Ok(found)
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub(in super::super) struct Writes {
    /// Records by their offset.
    acknowledged: BTreeMap<Offset, u64>,
    batches: usize,
}

impl Writes {
    /// A batch was acknowledged at an offset.
    pub(in super::super) fn acknowledge(&mut self, base_offset: Offset, batch: &Batch) -> Check {
        for (at, number) in records(&batch.placed(base_offset, batch.header().leader_epoch))? {
            let before = self.acknowledged.insert(at, number);
            ensure!(
                before.is_none_or(|before| before == number),
                "two records were acknowledged at {at}: {before:?} and then {number}"
            );
        }
        self.batches += 1;
        Ok(())
    }

    /// First offset after all that was acknowledged.
    pub(in super::super) fn end(&self) -> Offset {
        self.acknowledged.last_key_value().map_or(Offset::ZERO, |(last, _)| last.next())
    }

    /// How many batches were acknowledged.
    pub(in super::super) const fn batches(&self) -> usize {
        self.batches
    }

    /// Judges all batches that there are in the end.
    pub(in super::super) fn check(&self, batches: &[Batch]) -> Check {
        let mut found = BTreeMap::new();
        let mut places = BTreeMap::new();
        for (at, number) in batches.iter().map(records).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            ensure!(found.insert(at, number).is_none(), "two records are at {at}");
            let before = places.insert(number, at);
            ensure!(before.is_none(), "record {number} is there twice: at {before:?} and at {at}");
        }
        for (at, number) in &self.acknowledged {
            let is = found.get(at);
            let now = places.get(number);
            ensure!(
                is == Some(number),
                "record {number} was acknowledged at {at}, where {is:?} is; it is at {now:?}, and the log ends at {:?}",
                found.last_key_value().map(|(last, _)| last.next())
            );
        }
        Ok(())
    }
}
