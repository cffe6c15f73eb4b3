//! Each invariant is seen to be broken.

use std::sync::Arc;

use super::*;
use crate::metadata::testing::image_with_brokers;
use crate::record::{Batch, BatchBuilder, BatchOptions};
use crate::types::{LeaderEpoch, NodeId, Offset, Timestamp, TopicId, TopicPartition};

/// A batch of records with numbers.
fn batch(base: i64, epoch: i32, numbers: &[u64]) -> Batch {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for number in numbers {
        builder.append(Timestamp(1), None, Some(record_of(*number, 3).as_slice()), std::iter::empty());
    }
    builder.build(Offset(base), LeaderEpoch(epoch)).unwrap()
}

#[test]
fn lost_moved_and_doubled_records_are_found() {
    let mut writes = Writes::default();
    writes.acknowledge(Offset(0), &batch(0, 0, &[1, 2])).unwrap();
    writes.acknowledge(Offset(3), &batch(0, 0, &[4])).unwrap();
    assert_eq!((writes.end(), writes.batches()), (Offset(4), 2));
    assert_eq!(writes.check(&[batch(0, 0, &[1, 2]), batch(2, 1, &[3]), batch(3, 1, &[4])]), Ok(()));
    let judged = |batches: &[Batch]| writes.check(batches).unwrap_err();
    assert!(judged(&[batch(0, 0, &[1, 2, 3])]).contains("record 4 was acknowledged at 3"));
    assert!(judged(&[batch(0, 0, &[1, 2, 4])]).contains("record 4 was acknowledged at 3"));
    assert!(judged(&[batch(0, 0, &[1, 2, 1, 4])]).contains("record 1 is there twice"));
    assert!(writes.acknowledge(Offset(1), &batch(0, 0, &[5])).is_err(), "two at one offset");
}

#[test]
fn what_changes_after_it_was_read_is_found() {
    let mut reads = Reads::default();
    let log = [batch(0, 0, &[1, 2]), batch(2, 1, &[3])];
    reads.take(Offset(1), &log).unwrap();
    assert_eq!(reads.check(&log), Ok(()));
    assert!(reads.take(Offset(2), &[batch(2, 2, &[3])]).is_err(), "another epoch");
    assert!(reads.take(Offset(2), &[batch(2, 1, &[4])]).is_err(), "another record");
    assert!(reads.take(Offset(1), &[batch(1, 0, &[2])]).is_err(), "another batch");
    assert!(reads.take(Offset(3), &[batch(4, 1, &[5])]).is_err(), "a gap");
    assert!(reads.check(&log[..1]).is_err(), "its end is gone");
    assert!(reads.check(&[]).is_err(), "all of it is gone");
}

#[test]
fn two_leaders_of_an_epoch_and_one_that_lacks_records_are_found() {
    let mut leaders = Leaders::default();
    let partition = |number| TopicPartition::new(TopicId::ZERO, number);
    let at = |number, epoch| (partition(number), LeaderEpoch(epoch));
    assert_eq!(leaders.observe(at(0, 1), NodeId(1), Offset(5), Offset(5)), Ok(()));
    assert_eq!(leaders.observe(at(0, 1), NodeId(1), Offset(5), Offset(9)), Ok(()), "it was looked at before");
    assert!(leaders.observe(at(0, 1), NodeId(2), Offset(9), Offset(9)).is_err());
    assert!(leaders.observe(at(0, 3), NodeId(2), Offset(8), Offset(9)).is_err());
    assert_eq!(leaders.observe(at(0, 3), NodeId(2), Offset(9), Offset(9)), Ok(()));
    assert_eq!(leaders.observe(at(0, 2), NodeId(1), Offset(5), Offset(9)), Ok(()), "it was deposed before");
    assert_eq!(leaders.observe(at(1, 1), NodeId(2), Offset(0), Offset(0)), Ok(()));
}

#[test]
fn replicas_that_differ_are_found() {
    let log = || vec![batch(0, 0, &[1, 2]), batch(2, 1, &[3]), batch(3, 1, &[4])];
    let with = |other: Vec<Batch>| check_replicas(&[(NodeId(1), log()), (NodeId(2), other)]);
    assert_eq!(with(log()), Ok(()));
    assert_eq!(with(log().split_off(1)), Ok(()), "it holds less of what is archived");
    assert!(with(vec![batch(0, 0, &[1, 2]), batch(2, 1, &[5]), batch(3, 1, &[4])]).is_err());
    assert!(with(vec![batch(0, 0, &[1, 2]), batch(3, 1, &[4])]).is_err());
    assert!(with(log()[..2].to_vec()).is_err(), "it ends too early");
}

#[test]
fn images_of_one_version_that_differ_are_found() {
    let mut images = Images::default();
    let image = |rack| Arc::new(image_with_brokers(&[(1, rack)]));
    assert_eq!(images.observe(&image("a")), Ok(()));
    assert_eq!(images.observe(&image("a")), Ok(()));
    assert!(images.observe(&image("b")).is_err());
    assert_eq!(images.newest(), Some(image("a").version()));
}
