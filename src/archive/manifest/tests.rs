//! The head under random histories of two writers, and its format.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::archive::key::{Fence, SegmentName, SegmentUuid};
use crate::types::*;

fn identity() -> HeadIdentity {
    HeadIdentity {
        cluster_id: ClusterId::from_bytes([1; 16]),
        topic: "flights".to_owned(),
        topic_id: TopicId::from_bytes([2; 16]),
        partition: PartitionIndex(3),
    }
}

fn writer(incarnation: u32, epoch: i32) -> Writer {
    let fence = Fence { incarnation: Incarnation(incarnation), leader_epoch: LeaderEpoch(epoch) };
    Writer { fence, broker: NodeId(epoch), process: BrokerIncarnationId::from_bytes([7; 16]) }
}

fn segment(writer: Writer, base: i64, next: i64, number: u64) -> Segment {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let uuid = SegmentUuid::from_entropy(bytes);
    let offsets = (next - base).cast_unsigned();
    let chunk = ChunkRow {
        offsets,
        max_timestamp: next,
        rows: offsets,
        parquet_bytes: 100,
        companion_bytes: 0,
        raw_bytes: 1,
        hash: 5,
    };
    Segment {
        name: SegmentName { base: Offset(base), next: Offset(next), fence: writer.fence, uuid },
        min_timestamp: Timestamp(base),
        max_timestamp: Timestamp(next),
        record_count: offsets,
        batch_count: 1,
        log_bytes: 10,
        parquet_bytes: 150,
        footer_start: 104,
        metadata_start: 110,
        parquet_hash: Hex128(1),
        companion_bytes: 0,
        companion_hash: Hex128(2),
        hash: Hex128(number.into()),
        chunks: vec![chunk],
    }
}

fn nonce(number: u64) -> Hex128 {
    Hex128(number.into())
}

#[test]
fn a_head_reads_back_as_written_and_its_bytes_are_fixed() {
    let writer = writer(1, 26);
    let first = Head::first(identity(), writer, nonce(9));
    let head = Head { log_start_offset: Offset(5), next_offset: Offset(5), ..first };
    let facts = CommitFacts {
        epochs: vec![EpochStart { epoch: LeaderEpoch(26), start: Offset(0) }],
        max_producer_id: Some(ProducerId(4)),
        producer_snapshot: Some(16..99),
    };
    let head = head.commit(writer, segment(writer, 5, 8, 7), &facts, nonce(10)).unwrap();
    assert_eq!(Head::parse(&head.to_bytes(), &identity()).unwrap(), head);
    let expected = concat!(
        r#"{"checksum":"CHECKSUM","format":1,"identity":{"cluster_id":"01010101010101010101010101010101","topic":"flights","#,
        r#""topic_id":"02020202020202020202020202020202","partition":3},"generation":2,"#,
        r#""nonce":"0000000000000000000000000000000a","writer":{"fence":{"incarnation":1,"leader_epoch":26},"broker":26,"process":"07070707070707070707070707070707"},"#,
        r#""log_start_offset":5,"next_offset":8,"epochs":[{"epoch":26,"start":5}],"spills":[],"segments":[{"#,
        r#""name":"00000000000000000005-00000000000000000008-00000001-0000001a-070000000000","min_timestamp":5,"#,
        r#""max_timestamp":8,"record_count":3,"batch_count":1,"log_bytes":10,"parquet_bytes":150,"footer_start":104,"metadata_start":110,"#,
        r#""parquet_hash":"00000000000000000000000000000001","companion_bytes":0,"#,
        r#""companion_hash":"00000000000000000000000000000002","hash":"00000000000000000000000000000007","chunks":[[3,8,3,100,0,1,5]]}],"tombstones":[],"#,
        r#""max_producer_id":4,"producer_snapshot":{"#,
        r#""segment":"00000000000000000005-00000000000000000008-00000001-0000001a-070000000000","start":16,"end":99}}"#,
    );
    let text = String::from_utf8(head.to_bytes().to_vec()).unwrap();
    let digits = SEAL_START.len()..SEAL_START.len() + CHECKSUM_DIGITS;
    assert_eq!(text.replace(&text[digits], "CHECKSUM"), expected);
}

#[test]
fn newer_formats_unknown_fields_and_foreign_heads_are_refused() {
    let head = Head::first(identity(), writer(0, 1), nonce(1));
    let text = String::from_utf8(head.to_bytes().to_vec()).unwrap();
    let newer = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(matches!(Head::parse(newer.as_bytes(), &identity()), Err(ManifestError::NewerFormat { format: 2, .. })));
    let unsealed = String::from_utf8(unseal(text.as_bytes()).unwrap()).unwrap();
    let unknown = unsealed.replacen("\"format\":1", "\"format\":1,\"color\":2", 1);
    let error = Head::parse(&seal(unknown.as_bytes()), &identity()).unwrap_err().to_string();
    assert!(error.contains("color"), "{error}");
    let foreign = HeadIdentity { partition: PartitionIndex(4), ..identity() };
    assert!(matches!(Head::parse(text.as_bytes(), &foreign), Err(ManifestError::Misplaced { what: "partition", .. })));
}

#[test]
fn a_changed_byte_anywhere_in_a_manifest_is_found() {
    let writer = writer(0, 1);
    let head = Head::first(identity(), writer, nonce(1));
    let head = head.commit(writer, segment(writer, 0, 5, 1), &CommitFacts::default(), nonce(2)).unwrap();
    let (_, reference, list) = head.spill(writer, nonce(3)).unwrap();
    let mut bytes = head.to_bytes().to_vec();
    let mut spilled = list.to_bytes().to_vec();
    for at in 0..bytes.len().max(spilled.len()) {
        for bit in 0..8 {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
                assert!(Head::parse(&bytes, &identity()).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
            if let Some(byte) = spilled.get_mut(at) {
                *byte ^= 1 << bit;
                assert!(SpillList::parse(&spilled, &identity(), &reference).is_err(), "byte {at} bit {bit}");
                spilled[at] ^= 1 << bit;
            }
        }
    }
}

#[test]
fn a_deposed_writer_is_fenced_and_an_incarnation_outranks_every_epoch() {
    let (old, new, restored) = (writer(0, 7), writer(0, 8), writer(1, 0));
    let head = Head::first(identity(), old, nonce(1));
    let head = head.take_over(new, nonce(2)).unwrap();
    let facts = CommitFacts::default();
    let late = head.commit(old, segment(old, 0, 1, 1), &facts, nonce(3));
    assert!(matches!(late, Err(TransitionError::Fenced { .. })));
    assert!(matches!(head.take_over(old, nonce(3)), Err(TransitionError::Fenced { .. })));
    let rival = Writer { process: BrokerIncarnationId::from_bytes([8; 16]), ..new };
    assert_eq!(head.take_over(rival, nonce(3)), Err(TransitionError::Rival { fence: new.fence }));
    let copied = head.commit(rival, segment(rival, 0, 1, 1), &facts, nonce(3));
    assert_eq!(copied, Err(TransitionError::Rival { fence: new.fence }));
    let early = head.commit(restored, segment(restored, 0, 1, 1), &facts, nonce(3));
    assert!(matches!(early, Err(TransitionError::NotTakenOver { .. })));
    let head = head.take_over(restored, nonce(3)).unwrap();
    assert!(matches!(head.take_over(new, nonce(4)), Err(TransitionError::Fenced { .. })));
}

#[test]
fn only_the_next_segment_is_committed_and_only_once() {
    let writer = writer(0, 1);
    let facts = CommitFacts::default();
    let head = Head::first(identity(), writer, nonce(1));
    let gap = head.commit(writer, segment(writer, 5, 9, 1), &facts, nonce(2));
    assert!(matches!(gap, Err(TransitionError::NotContiguous { .. })));
    let head = head.commit(writer, segment(writer, 0, 5, 1), &facts, nonce(2)).unwrap();
    let again = head.commit(writer, segment(writer, 0, 5, 2), &facts, nonce(3));
    assert!(matches!(again, Err(TransitionError::AlreadyArchived { .. })));
    // What is of an earlier epoch than what is archived is another history.
    let epochs = |epoch| vec![EpochStart { epoch: LeaderEpoch(epoch), start: Offset(5) }];
    let facts_of = |epoch| CommitFacts { epochs: epochs(epoch), ..CommitFacts::default() };
    let newer = head.commit(writer, segment(writer, 5, 9, 3), &facts_of(4), nonce(3)).unwrap();
    let older = newer.commit(writer, segment(writer, 9, 12, 4), &facts_of(3), nonce(4));
    assert!(matches!(older, Err(TransitionError::EpochBackwards { .. })));
    // What was deleted before it was archived leaves a hole below the log start, and nowhere else.
    let head = head.advance_log_start(writer, Offset(20), None, Timestamp(0), nonce(3)).unwrap();
    let beyond = head.commit(writer, segment(writer, 21, 30, 3), &facts, nonce(4));
    assert!(matches!(beyond, Err(TransitionError::NotContiguous { .. })));
    assert!(head.commit(writer, segment(writer, 15, 30, 3), &facts, nonce(4)).is_ok());
}

#[test]
fn epochs_below_the_log_start_are_forgotten() {
    let writer = writer(0, 9);
    let epoch = |epoch, start| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
    let facts = CommitFacts { epochs: vec![epoch(2, 0), epoch(5, 10), epoch(6, 30)], ..CommitFacts::default() };
    let head = Head::first(identity(), writer, nonce(1));
    let head = head.commit(writer, segment(writer, 0, 50, 1), &facts, nonce(2)).unwrap();
    let head = head.advance_log_start(writer, Offset(12), None, Timestamp(0), nonce(3)).unwrap();
    assert_eq!(head.epochs, [epoch(5, 10), epoch(6, 30)]);
}

#[test]
fn numbers_that_no_segment_has_are_refused() {
    let good = segment(writer(0, 9), 0, 50, 1);
    assert_eq!(good.check(), Ok(()));
    let mut rows = good.clone();
    rows.chunks[0].rows = u64::MAX;
    let mut parts = good.clone();
    parts.chunks[0].companion_bytes = u64::MAX - 1;
    let mut raw = good.clone();
    raw.chunks[0].raw_bytes = u64::MAX - 300;
    let before = Segment { metadata_start: good.footer_start - 1, ..good.clone() };
    let beyond = Segment { metadata_start: good.parquet_bytes, ..good.clone() };
    let log = Segment { log_bytes: u64::MAX, ..good.clone() };
    for bad in [rows, parts, raw, before, beyond, log, Segment { record_count: 1 << 60, ..good }] {
        assert!(matches!(bad.check(), Err(TransitionError::BadSegment { .. })), "{bad:?}");
    }
}

/// What a random history does next.
#[derive(Clone, Debug)]
enum Step {
    TakeOver { by: usize },
    Commit { by: usize, offsets: i64 },
    Spill { by: usize },
    AdvanceLogStart { by: usize, share: u8, with_list: bool },
    Sweep { by: usize },
    Refresh { by: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let by = 0..2_usize;
    prop_oneof![
        1 => by.clone().prop_map(|by| Step::TakeOver { by }),
        12 => (by.clone(), 1..50_i64).prop_map(|(by, offsets)| Step::Commit { by, offsets }),
        2 => by.clone().prop_map(|by| Step::Spill { by }),
        2 => (by.clone(), any::<u8>(), any::<bool>())
            .prop_map(|(by, share, with_list)| Step::AdvanceLogStart { by, share, with_list }),
        2 => by.clone().prop_map(|by| Step::Sweep { by }),
        4 => by.prop_map(|by| Step::Refresh { by }),
    ]
}

/// A bucket with one head, two writers with their own, possibly outdated, copies of it, and what truly happened.
struct World {
    stored: Head,
    spills: BTreeMap<(Offset, u64), SpillList>,
    copies: [Head; 2],
    writers: [Writer; 2],
    next_epoch: i32,
    committed: Vec<SegmentName>,
    deleted: Vec<SegmentName>,
    clock: u64,
}

impl World {
    fn new() -> Self {
        let writers = [writer(0, 1), writer(0, 0)];
        let stored = Head::first(identity(), writers[0], nonce(0));
        let copies = [stored.clone(), stored.clone()];
        Self {
            stored,
            spills: BTreeMap::new(),
            copies,
            writers,
            next_epoch: 2,
            committed: Vec::new(),
            deleted: Vec::new(),
            clock: 0,
        }
    }

    /// The conditional write: only from the very head that is stored.
    fn swap(&mut self, by: usize, next: Head) -> bool {
        if self.copies[by] != self.stored {
            return false;
        }
        assert_eq!(next.generation, self.stored.generation + 1);
        self.stored = Head::parse(&next.to_bytes(), &identity()).unwrap();
        self.copies[by] = self.stored.clone();
        true
    }

    fn apply(&mut self, step: &Step) {
        self.clock += 1;
        let fresh = nonce(self.clock);
        match *step {
            Step::Refresh { by } => self.copies[by] = self.stored.clone(),
            Step::TakeOver { by } => {
                self.writers[by] = writer(0, self.next_epoch);
                self.next_epoch += 1;
                if let Ok(next) = self.copies[by].take_over(self.writers[by], fresh) {
                    self.swap(by, next);
                }
            }
            Step::Commit { by, offsets } => {
                let (writer, copy) = (self.writers[by], &self.copies[by]);
                let base = copy.next_offset.0;
                let segment = segment(writer, base, base + offsets, self.clock);
                let name = segment.name;
                if let Ok(next) = copy.commit(writer, segment, &CommitFacts::default(), fresh)
                    && self.swap(by, next)
                {
                    self.committed.push(name);
                }
            }
            Step::Spill { by } => {
                if let Ok((next, reference, list)) = self.copies[by].spill(self.writers[by], fresh) {
                    // The list is written before the head, and stays behind as an orphan when the head loses.
                    self.spills.insert((reference.first, reference.generation), list);
                    self.swap(by, next);
                }
            }
            Step::AdvanceLogStart { by, share, with_list } => {
                let copy = &self.copies[by];
                let offset = Offset(copy.next_offset.0 * i64::from(share) / 255);
                let straddled = copy.straddled_spill(offset).filter(|_| with_list);
                let list = straddled.map(|spill| self.spills[&(spill.first, spill.generation)].clone());
                let not_before = Timestamp(self.clock as i64 + 5);
                if let Ok(next) = copy.advance_log_start(self.writers[by], offset, list.as_ref(), not_before, fresh) {
                    self.swap(by, next);
                }
            }
            Step::Sweep { by } => {
                let now = Timestamp(self.clock as i64);
                let due: Vec<_> = self.copies[by].due_tombstones(now).copied().collect();
                if let Ok(next) = self.copies[by].drop_tombstones(self.writers[by], &due, now, fresh)
                    && self.swap(by, next)
                {
                    for tombstone in due {
                        let names = self.names_of(&tombstone);
                        self.deleted.extend(names);
                    }
                }
            }
        }
    }

    fn names_of(&self, tombstone: &Tombstone) -> Vec<SegmentName> {
        match tombstone.what {
            Tombstoned::Segment(name) => vec![name],
            Tombstoned::Spill(spill) => self.live_of(&spill),
        }
    }

    fn live_of(&self, spill: &SpillRef) -> Vec<SegmentName> {
        let list = &self.spills[&(spill.first, spill.generation)];
        let bytes = list.to_bytes();
        let list = SpillList::parse(&bytes, &identity(), spill).unwrap();
        list.segments.iter().filter(|segment| segment.next() > spill.live_from).map(|segment| segment.name).collect()
    }

    /// Every committed segment is in exactly one place, and what is readable has neither hole nor overlap.
    fn check(&self) {
        let mut live: Vec<SegmentName> = self.stored.spills.iter().flat_map(|spill| self.live_of(spill)).collect();
        live.extend(self.stored.segments.iter().map(|segment| segment.name));
        let mut accounted = live.clone();
        accounted.extend(self.stored.tombstones.iter().flat_map(|tombstone| self.names_of(tombstone)));
        accounted.extend(&self.deleted);
        accounted.sort();
        let mut committed = self.committed.clone();
        committed.sort();
        assert_eq!(accounted, committed, "a committed segment is lost, or in two places");

        let mut offset = self.stored.log_start_offset;
        for name in live.iter().filter(|name| name.next > self.stored.log_start_offset) {
            assert!(name.base <= offset, "a hole before {name}");
            offset = name.next;
        }
        assert!(offset == self.stored.next_offset || self.stored.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_writers_never_lose_duplicate_or_overlap_a_range(steps in proptest::collection::vec(step(), 1..400)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }
}

#[test]
fn a_full_head_asks_for_a_spill_and_goes_on_after_it() {
    let writer = writer(0, 1);
    let mut head = Head::first(identity(), writer, nonce(0));
    let mut number = 0;
    for _ in 0..3 * MAX_INLINE_SEGMENTS {
        number += 1;
        if head.needs_spill() {
            let refused =
                head.commit(writer, segment(writer, head.next_offset.0, 1 << 40, 0), &CommitFacts::default(), nonce(0));
            assert!(matches!(refused, Err(TransitionError::Full { .. })));
            let (next, reference, list) = head.spill(writer, nonce(number)).unwrap();
            assert_eq!(SpillList::parse(&list.to_bytes(), &identity(), &reference).unwrap(), list);
            head = next;
        }
        let base = head.next_offset.0;
        let next = head.commit(writer, segment(writer, base, base + 2, number), &CommitFacts::default(), nonce(number));
        head = next.unwrap();
    }
    head.check().unwrap();
    assert!(head.to_bytes().len() < 256 << 10, "{}", head.to_bytes().len());
    assert!(matches!(head.position(Offset(1)), Position::Spill(spill) if spill.first == Offset(0)));
    let last = head.next_offset;
    assert!(matches!(head.position(Offset(last.0 - 1)), Position::Segment(segment) if segment.next() == last));
    assert_eq!(head.position(last), Position::Beyond);
}

#[test]
fn no_snapshot_of_groups_is_written_that_could_not_be_read() {
    assert!(check_snapshot_length(GROUP_SNAPSHOT_LIMIT_BYTES).is_ok());
    let refused = check_snapshot_length(GROUP_SNAPSHOT_LIMIT_BYTES + 1);
    assert!(matches!(refused, Err(ManifestError::TooLarge { .. })), "{refused:?}");
    let object = compress_group_snapshot(b"groups").unwrap();
    assert_eq!(decompress_group_snapshot(&object, hash_of(&object)).unwrap(), "groups");
    assert!(matches!(decompress_group_snapshot(&object, Hex128(7)), Err(ManifestError::Checksum)));
}
