//! Properties of blocks and entries: what is written reads back, and what is damaged is refused, or reads as what might have
//! been written.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use super::block::{BlockPosition, begin, finish};
use super::{
    BLOCK_HEADER_BYTES, Block, ENTRY_HEADER_BYTES, Entry, Mark, block_bytes, encode_mark, read_block, read_entry,
    write_append_header,
};
use crate::log::decoders::{continuation, partition};
use crate::sim::damaged;
use crate::types::{LeaderEpoch, Offset, TopicPartition};

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        vec(any::<u8>(), 0..60).prop_map(|batch| Entry::Append(batch.into())),
        any::<i64>().prop_map(|end| Entry::Mark(Mark::Truncate(Offset(end)))),
        any::<i64>().prop_map(|start| Entry::Mark(Mark::LogStart(Offset(start)))),
        any::<(i32, i64)>().prop_map(|(epoch, start)| Entry::Mark(Mark::EpochStart(LeaderEpoch(epoch), Offset(start)))),
        Just(Entry::Mark(Mark::Delete)),
        continuation().prop_map(|continuation| Entry::Mark(Mark::Continue(Arc::new(continuation)))),
    ]
}

fn bytes_of(partition: TopicPartition, entry: &Entry) -> Vec<u8> {
    match entry {
        Entry::Mark(mark) => encode_mark(partition, mark),
        Entry::Append(batch) => {
            let mut header = [0; ENTRY_HEADER_BYTES];
            write_append_header(partition, batch.len(), &mut header);
            [&header, &batch[..]].concat()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_block_reads_back_as_written_and_is_none_once_damaged(
        payload in vec(any::<u8>(), 0..200),
        [lap, sequence, synced] in any::<[u64; 3]>(),
        entries in any::<u32>(),
        mask in 1..=u8::MAX,
    ) {
        let position = BlockPosition { lap, sequence };
        let mut buffer = begin(block_bytes(payload.len()));
        buffer.extend(&payload);
        finish(&mut buffer, position, entries, synced);
        let bytes = buffer.freeze();
        let written = BLOCK_HEADER_BYTES + payload.len();
        let block = Block { position, entries, synced, payload: payload.into(), file_bytes: bytes.len() };
        prop_assert_eq!(read_block(&bytes), Some(block));
        for bad in damaged(&bytes[..written], mask) {
            prop_assert_eq!(read_block(&bad.into()), None);
        }
    }

    #[test]
    fn entries_read_back_as_written_one_after_another(entries in vec((partition(), entry()), 0..5)) {
        let payload: Vec<u8> = entries.iter().flat_map(|(partition, entry)| bytes_of(*partition, entry)).collect();
        let mut payload = Bytes::from(payload);
        for expected in entries {
            prop_assert_eq!(read_entry(&mut payload), Ok(expected));
        }
        prop_assert!(payload.is_empty());
    }

    #[test]
    fn a_damaged_entry_is_refused_or_reads_as_one_that_can_be_written(
        partition in partition(),
        entry in entry(),
        mask in 1..=u8::MAX,
    ) {
        let bytes = bytes_of(partition, &entry);
        for bad in damaged(&bytes, mask) {
            let is_cut = bad.len() < bytes.len();
            let Ok((partition, entry)) = read_entry(&mut Bytes::from(bad)) else { continue };
            prop_assert!(!is_cut, "read to its end, which is gone");
            let again = bytes_of(partition, &entry);
            prop_assert_eq!(read_entry(&mut Bytes::from(again)), Ok((partition, entry)));
        }
    }
}
