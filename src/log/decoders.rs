//! Properties of what reads the files of a data directory: what is written reads back, and what is damaged is refused, or,
//! where no checksum tells, reads as what might have been written. Blocks and entries of the journal are in its own tests.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::checkpoint::{Checkpoint, FRAME_BYTES, PartitionCheckpoint, SegmentRecord, decode, frame};
use super::continuation::Continuation;
use super::directory::IDENTITY;
use super::epoch_cache::EpochCache;
use super::journal::ReplayPosition;
use super::producer_snapshot::ProducerSnapshot;
use super::producer_state::{BatchMark, ProducerEntry, ProducerState};
use super::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex};
use super::stamp::{Identity, STAMP_BYTES};
use crate::record::{BatchBuilder, BatchOptions};
use crate::sim::damaged;
use crate::types::{
    ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, Offset, ProducerEpoch, ProducerId, Timestamp, TopicId,
    TopicPartition,
};

pub(super) fn identity() -> impl Strategy<Value = Identity> {
    any::<([u8; 16], [u8; 16], i32, u32)>().prop_map(|(cluster, directory, node, incarnation)| Identity {
        cluster_id: ClusterId::from_bytes(cluster),
        directory_id: DirectoryId::from_bytes(directory),
        node_id: NodeId(node),
        incarnation: Incarnation(incarnation),
    })
}

pub(super) fn partition() -> impl Strategy<Value = TopicPartition> {
    any::<([u8; 16], i32)>().prop_map(|(topic, number)| TopicPartition::new(TopicId::from_bytes(topic), number))
}

pub(super) fn continuation() -> impl Strategy<Value = Continuation> {
    (any::<(i64, i64)>(), epochs(), producers()).prop_map(|((one, two), epochs, producers)| Continuation {
        log_start: Offset(one.min(two)),
        at: Offset(one.max(two)),
        epochs,
        producers,
    })
}

fn epochs() -> impl Strategy<Value = EpochCache> {
    vec((1..1000_i32, 1..1_i64 << 40), 0..5).prop_map(|steps| {
        let starts = steps.into_iter().scan((-1_i32, -1_i64), |(epoch, start), (epochs, offsets)| {
            *epoch += epochs;
            *start += offsets;
            Some((LeaderEpoch(*epoch), Offset(*start)))
        });
        EpochCache::from_starts(starts.collect()).expect("both grow")
    })
}

fn producers() -> impl Strategy<Value = ProducerState> {
    let mark = any::<(i16, [i32; 2], [i64; 3])>().prop_map(|(epoch, sequences, [base, next, timestamp])| BatchMark {
        epoch: ProducerEpoch(epoch),
        base_sequence: sequences[0],
        last_sequence: sequences[1],
        base_offset: Offset(base),
        next_offset: Offset(next),
        timestamp: Timestamp(timestamp),
    });
    btree_map(any::<i64>(), (any::<i64>(), vec(mark, 1..4)), 0..3).prop_map(|entries| {
        let mut producers = ProducerState::default();
        for (id, (last_append, batches)) in entries {
            let entry = ProducerEntry { batches: batches.into(), last_append: Timestamp(last_append) };
            producers.restore(ProducerId(id), entry);
        }
        producers
    })
}

fn partition_checkpoint() -> impl Strategy<Value = PartitionCheckpoint> {
    let segment = any::<(i64, u64, i64, i64)>().prop_map(|(base, bytes, created_at, max_timestamp)| SegmentRecord {
        base_offset: Offset(base),
        bytes,
        created_at: Timestamp(created_at),
        max_timestamp: Timestamp(max_timestamp),
    });
    let numbers = any::<(u64, [i64; 5], bool)>();
    (partition(), numbers, vec(segment, 0..3), epochs(), producers()).prop_map(
        |(partition, (written_sequence, offsets, has_active), segments, epochs, producers)| {
            let [log_start, local_log_start, archived_to, high_watermark, recovery_point] = offsets.map(Offset);
            PartitionCheckpoint {
                partition,
                written_sequence,
                log_start,
                local_log_start,
                archived_to,
                high_watermark,
                recovery_point,
                segments,
                has_active,
                epochs,
                producers,
            }
        },
    )
}

fn checkpoint() -> impl Strategy<Value = Checkpoint> {
    (any::<[u64; 3]>(), vec(partition_checkpoint(), 0..3)).prop_map(|([lap, file_offset, sequence], partitions)| {
        Checkpoint { replay: ReplayPosition { lap, file_offset, sequence }, partitions }
    })
}

/// An index, and where its segment begins.
fn index() -> impl Strategy<Value = (Offset, SegmentIndex)> {
    let batches = vec((0..1000_i64, 61..20_000_u64, 0..i64::MAX), 0..20);
    (0..1_i64 << 40, batches).prop_map(|(base, batches)| {
        let mut index = SegmentIndex::new(Offset(base));
        let (mut offset, mut position) = (base, SEGMENT_HEADER_BYTES);
        for (gap, bytes, timestamp) in batches {
            offset += gap;
            let mut builder = BatchBuilder::new(BatchOptions::default());
            builder.append(Timestamp(timestamp), None, None, std::iter::empty());
            let batch = builder.build(Offset(offset), LeaderEpoch(0)).unwrap();
            index.observe(batch.header(), position).unwrap();
            (offset, position) = (offset + 1, position + bytes);
        }
        (Offset(base), index)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stamp_reads_back_as_written_and_is_refused_once_damaged(identity in identity(), mask in 1..=u8::MAX) {
        let mut bytes = Vec::new();
        IDENTITY.write(&identity, &mut bytes);
        prop_assert_eq!(IDENTITY.read(&bytes), Ok(identity));
        for bad in damaged(&bytes, mask) {
            prop_assert!(IDENTITY.read(&bad).is_err());
        }
    }

    #[test]
    fn a_producer_snapshot_reads_back_and_a_damaged_one_is_refused_or_reads_as_one_that_can_be_written(
        offset in any::<i64>(),
        producers in producers(),
        mask in 1..=u8::MAX,
    ) {
        let snapshot = ProducerSnapshot { offset: Offset(offset), producers };
        let bytes = snapshot.encode();
        prop_assert_eq!(ProducerSnapshot::decode(&bytes), Some(snapshot));
        for bad in damaged(&bytes, mask) {
            let Some(read) = ProducerSnapshot::decode(&bad) else { continue };
            prop_assert!(bad.len() == bytes.len(), "read to its end, which is gone");
            prop_assert_eq!(ProducerSnapshot::decode(&read.encode()), Some(read));
        }
    }

    #[test]
    fn a_checkpoint_reads_back_as_written_and_is_refused_once_damaged(
        identity in identity(),
        checkpoint in checkpoint(),
        mask in 1..=u8::MAX,
    ) {
        let content = checkpoint.encode(&identity);
        let framed = &content[STAMP_BYTES..];
        prop_assert_eq!(decode(framed), Some(checkpoint));
        for bad in damaged(framed, mask) {
            prop_assert_eq!(decode(&bad), None);
        }
        // Behind the checksum.
        let body = &framed[FRAME_BYTES..];
        for bad in damaged(body, mask) {
            let Some(read) = decode(&frame(&bad)) else { continue };
            prop_assert!(bad.len() == body.len(), "read to its end, which is gone");
            let again = read.encode(&identity);
            prop_assert_eq!(decode(&again[STAMP_BYTES..]), Some(read));
        }
    }

    #[test]
    fn a_segments_header_reads_back_and_damage_to_it_is_refused_or_changes_nothing(
        identity in identity(),
        partition in partition(),
        (base, created_at) in any::<(i64, i64)>(),
        mask in 1..=u8::MAX,
    ) {
        let header = SegmentHeader { partition, base_offset: Offset(base), created_at: Timestamp(created_at) };
        let bytes = header.encode(&identity);
        prop_assert_eq!(SegmentHeader::decode(&bytes), Ok((header, identity)));
        for bad in damaged(&bytes, mask) {
            let read = SegmentHeader::decode(&bad);
            prop_assert!(read.is_err() || read == Ok((header, identity)), "{:?}", read);
        }
    }

    #[test]
    fn an_index_reads_back_as_written_and_is_refused_once_damaged(
        identity in identity(),
        (base, index) in index(),
        next_offset in any::<i64>(),
        segment_bytes in any::<u64>(),
        mask in 1..=u8::MAX,
    ) {
        let content = index.encode(&identity, Offset(next_offset), segment_bytes);
        let read = |content: &[u8]| SegmentIndex::decode(content, &identity, base, segment_bytes);
        prop_assert_eq!(read(&content), Some(index));
        for bad in damaged(&content, mask) {
            prop_assert_eq!(read(&bad), None);
        }
    }
}
