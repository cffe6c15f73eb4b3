//! Entries of the journal: what can happen to a partition that must outlive a power cut.
//!
//! ```text
//!  0 kind u8   1 reserved [u8; 3]   4 body_bytes u32   8 topic_id [u8; 16]   24 partition i32   28 reserved u32   32 body
//! ```
//! Little-endian; the block that holds the entry checksums it. Bodies: `append` a whole record batch with its offset and
//! leader epoch set; `truncate` and `log_start` an offset i64; `epoch_start` a leader epoch i32 and an offset i64; `delete`
//! nothing; `continue` as in `continuation`.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use thiserror::Error;

use crate::log::continuation::Continuation;
use crate::types::{LeaderEpoch, Offset, PartitionIndex, TopicId, TopicPartition};

/// Bytes before an entry's body.
pub const ENTRY_HEADER_BYTES: usize = 32;

const APPEND: u8 = 1;
const TRUNCATE: u8 = 2;
const LOG_START: u8 = 3;
const EPOCH_START: u8 = 4;
const DELETE: u8 = 5;
const CONTINUE: u8 = 6;

/// A change of a partition other than an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The log ends here; what was at or above is void.
    Truncate(Offset),
    /// Records below are gone for clients.
    LogStart(Offset),
    /// A leader epoch began.
    EpochStart(LeaderEpoch, Offset),
    /// The partition was deleted; it never comes back under this topic id.
    Delete,
    /// Local records are void; the log goes on where the archive ends.
    Continue(Arc<Continuation>),
}

/// An entry as replay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record batch, whole.
    Append(Bytes),
    /// Any other change.
    Mark(Mark),
}

/// A checksummed block whose content makes no sense: a bug or a newer writer, never a torn write.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("journal entry is malformed kind={kind} body_bytes={body_bytes}")]
pub struct EntryError {
    /// Kind byte found.
    pub kind: u8,
    /// Body length found.
    pub body_bytes: usize,
}

/// Writes the header of an append whose batch of `batch_bytes` follows.
pub fn write_append_header(partition: TopicPartition, batch_bytes: usize, out: &mut [u8; ENTRY_HEADER_BYTES]) {
    write_header(APPEND, partition, batch_bytes, out);
}

/// Encodes a mark as a whole entry.
pub fn encode_mark(partition: TopicPartition, mark: &Mark) -> Vec<u8> {
    let mut body = Vec::with_capacity(12);
    let kind = match mark {
        Mark::Truncate(offset) => {
            body.put_i64_le(offset.0);
            TRUNCATE
        }
        Mark::LogStart(offset) => {
            body.put_i64_le(offset.0);
            LOG_START
        }
        Mark::EpochStart(epoch, offset) => {
            body.put_i32_le(epoch.0);
            body.put_i64_le(offset.0);
            EPOCH_START
        }
        Mark::Delete => DELETE,
        Mark::Continue(continuation) => {
            body.extend_from_slice(&continuation.encode());
            CONTINUE
        }
    };
    let mut header = [0; ENTRY_HEADER_BYTES];
    write_header(kind, partition, body.len(), &mut header);
    let mut entry = header.to_vec();
    entry.extend_from_slice(&body);
    entry
}

fn write_header(kind: u8, partition: TopicPartition, body_bytes: usize, out: &mut [u8; ENTRY_HEADER_BYTES]) {
    *out = [0; ENTRY_HEADER_BYTES];
    out[0] = kind;
    let body_bytes = u32::try_from(body_bytes).expect("entries are bounded by the request size");
    out[4..8].copy_from_slice(&body_bytes.to_le_bytes());
    out[8..24].copy_from_slice(partition.topic_id.as_bytes());
    out[24..28].copy_from_slice(&partition.partition.0.to_le_bytes());
}

/// Takes the entry at the start of a block's payload.
pub fn read_entry(payload: &mut Bytes) -> Result<(TopicPartition, Entry), EntryError> {
    if payload.len() < ENTRY_HEADER_BYTES {
        return Err(EntryError { kind: 0, body_bytes: payload.len() });
    }
    let mut header = payload.split_to(ENTRY_HEADER_BYTES);
    let kind = header.get_u8();
    header.advance(3);
    let body_bytes = header.get_u32_le() as usize;
    let mut topic_id = [0; 16];
    header.copy_to_slice(&mut topic_id);
    let partition = PartitionIndex(header.get_i32_le());
    let malformed = EntryError { kind, body_bytes };
    if body_bytes > payload.len() {
        return Err(malformed);
    }
    let mut body = payload.split_to(body_bytes);
    let entry = match (kind, body_bytes) {
        (APPEND, _) => Entry::Append(body),
        (TRUNCATE, 8) => Entry::Mark(Mark::Truncate(Offset(body.get_i64_le()))),
        (LOG_START, 8) => Entry::Mark(Mark::LogStart(Offset(body.get_i64_le()))),
        (EPOCH_START, 12) => Entry::Mark(Mark::EpochStart(LeaderEpoch(body.get_i32_le()), Offset(body.get_i64_le()))),
        (DELETE, 0) => Entry::Mark(Mark::Delete),
        (CONTINUE, _) => {
            let continuation = Continuation::decode(&body).ok_or(malformed)?;
            Entry::Mark(Mark::Continue(Arc::new(continuation)))
        }
        _ => return Err(malformed),
    };
    Ok((TopicPartition { topic_id: TopicId::from_bytes(topic_id), partition }, entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::epoch_cache::EpochCache;
    use crate::log::producer_state::ProducerState;
    use crate::record::{BatchBuilder, BatchOptions};
    use crate::types::{ProducerEpoch, ProducerId, Timestamp};

    /// What format 1 wrote, an entry a line; never to be changed.
    const FORMAT_1: &str = include_str!("../fixtures/journal_entries_1.hex");

    fn partition() -> TopicPartition {
        TopicPartition::new(TopicId::from_bytes([5; 16]), 12)
    }

    fn producers() -> ProducerState {
        let mut producers = ProducerState::default();
        for base in [30, 38] {
            let options = BatchOptions {
                producer_id: ProducerId(7),
                producer_epoch: ProducerEpoch(2),
                ..BatchOptions::default()
            };
            let mut builder = BatchBuilder::new(BatchOptions { base_sequence: (base - 30) / 8, ..options });
            builder.append(Timestamp(1_700_000_000_000), None, Some(b"value"), std::iter::empty());
            let batch = builder.build(Offset(base.into()), LeaderEpoch(4)).unwrap();
            producers.record(batch.header(), Offset(40), Timestamp(1_700_000_000_001));
        }
        producers
    }

    fn marks() -> Vec<Mark> {
        let epochs = vec![(LeaderEpoch(1), Offset(0)), (LeaderEpoch(4), Offset(9))];
        let epochs = EpochCache::from_starts(epochs).unwrap();
        let continuation = Continuation { log_start: Offset(3), at: Offset(40), epochs, producers: producers() };
        vec![
            Mark::Truncate(Offset(7)),
            Mark::LogStart(Offset(8)),
            Mark::EpochStart(LeaderEpoch(3), Offset(9)),
            Mark::Delete,
            Mark::Continue(Arc::new(continuation)),
        ]
    }

    #[test]
    fn entries_of_format_1_are_read_and_written_for_ever() {
        let mut expected = marks().into_iter().map(Entry::Mark).collect::<Vec<_>>();
        expected.push(Entry::Append(Bytes::from_static(b"a batch")));
        let lines = FORMAT_1.lines().map(|line| line.split_whitespace().next().unwrap());
        let kept: Vec<String> = lines.map(str::to_owned).collect();
        let written = expected.iter().map(|entry| match entry {
            Entry::Mark(mark) => encode_mark(partition(), mark),
            Entry::Append(batch) => {
                let mut header = [0; ENTRY_HEADER_BYTES];
                write_append_header(partition(), batch.len(), &mut header);
                [&header, &batch[..]].concat()
            }
        });
        let written: Vec<Vec<u8>> = written.collect();
        let digits = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(written.iter().map(digits).collect::<Vec<_>>(), kept);
        for (bytes, entry) in written.into_iter().zip(expected) {
            assert_eq!(read_entry(&mut Bytes::from(bytes)), Ok((partition(), entry)));
        }
    }

    #[test]
    fn garbage_is_an_error() {
        let mut cut = Bytes::from(encode_mark(partition(), &marks()[0])).slice(..36);
        assert!(read_entry(&mut cut).is_err());
        let mut unknown = encode_mark(partition(), &Mark::Delete);
        unknown[0] = 99;
        assert!(read_entry(&mut Bytes::from(unknown)).is_err());
    }
}
