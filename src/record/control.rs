//! End-transaction markers: the one record of a control batch (KIP-98, `EndTransactionMarker`).
//!
//! ```text
//! key   0 version i16 (0)   2 type i16 (0 abort, 1 commit; others are for the quorum of Kafka itself)
//! value 0 version i16 (0)   2 coordinator_epoch i32
//! ```

use super::{Attributes, Batch, BatchBuilder, BatchOptions, Record, RecordError};
use crate::types::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Timestamp};

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransactionResult {
    /// Its records are void.
    Abort,
    /// Its records count.
    Commit,
}

/// A decoded end-transaction marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransactionMarker {
    /// How the transaction ended.
    pub result: TransactionResult,
    /// Epoch of the transaction coordinator that wrote the marker; fences an older one.
    pub coordinator_epoch: i32,
}

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 0;

impl EndTransactionMarker {
    /// Reads the marker in a record of a control batch; `None` for the other types of control records.
    pub fn read(record: &Record<'_>) -> Result<Option<Self>, RecordError> {
        let key = record.key.unwrap_or_default();
        let Some(&[version_high, version_low, type_high, type_low]) = key.first_chunk::<4>() else {
            return Err(RecordError::Truncated { needed: 4, available: key.len() });
        };
        let version = i16::from_be_bytes([version_high, version_low]);
        if version < KEY_VERSION {
            return Err(RecordError::Malformed {
                what: "control record version is negative",
                value: i64::from(version),
            });
        }
        let result = match i16::from_be_bytes([type_high, type_low]) {
            0 => TransactionResult::Abort,
            1 => TransactionResult::Commit,
            _ => return Ok(None),
        };
        let value = record.value.unwrap_or_default();
        let Some(&[_, _, a, b, c, d]) = value.first_chunk::<6>() else {
            return Err(RecordError::Truncated { needed: 6, available: value.len() });
        };
        Ok(Some(Self { result, coordinator_epoch: i32::from_be_bytes([a, b, c, d]) }))
    }

    /// The control batch that ends a producer's transaction in one partition.
    pub fn batch(
        self,
        timestamp: Timestamp,
        producer_id: ProducerId,
        producer_epoch: ProducerEpoch,
    ) -> Result<Batch, RecordError> {
        let mut builder = BatchBuilder::new(BatchOptions {
            attributes: Attributes::default().with_transactional(true).with_control(true),
            producer_id,
            producer_epoch,
            ..BatchOptions::default()
        });
        let kind: i16 = match self.result {
            TransactionResult::Abort => 0,
            TransactionResult::Commit => 1,
        };
        let key = [KEY_VERSION.to_be_bytes(), kind.to_be_bytes()].concat();
        let value = [&VALUE_VERSION.to_be_bytes()[..], &self.coordinator_epoch.to_be_bytes()[..]].concat();
        builder.append(timestamp, Some(&key), Some(&value), std::iter::empty());
        builder.build(Offset::ZERO, LeaderEpoch::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_reads_back_as_written() {
        let marker = EndTransactionMarker { result: TransactionResult::Commit, coordinator_epoch: 7 };
        let batch = marker.batch(Timestamp(5), ProducerId(3), ProducerEpoch(1)).unwrap();
        assert!(batch.header().attributes.is_control() && batch.header().attributes.is_transactional());
        let payload = batch.payload();
        let record = batch.header().records(&payload).next().unwrap().unwrap();
        assert_eq!(EndTransactionMarker::read(&record), Ok(Some(marker)));
        assert_eq!(record.key, Some(&[0, 0, 0, 1][..]));
    }

    #[test]
    fn unknown_control_types_are_passed_over_and_short_ones_refused() {
        let record = |key: &'static [u8]| Record {
            offset: Offset(0),
            timestamp: Timestamp(0),
            key: Some(key),
            value: None,
            headers: Default::default(),
        };
        assert_eq!(EndTransactionMarker::read(&record(&[0, 0, 0, 9])), Ok(None));
        assert!(EndTransactionMarker::read(&record(&[0, 0])).is_err());
        assert!(EndTransactionMarker::read(&record(&[0, 0, 0, 1])).is_err());
    }
}
