//! Which partition of `__consumer_offsets` a group lives on.

use crate::types::PartitionIndex;

/// Partitions of `__consumer_offsets` unless configured otherwise (`offsets.topic.num.partitions`). Can't be changed once
/// groups exist: every group would be looked for elsewhere.
pub const DEFAULT_PARTITIONS: i32 = 50;

/// The partition whose coordinator owns a group: `Utils.abs(groupId.hashCode()) % partitions` in Apache Kafka, so that
/// tools which compute it themselves find the group. `partitions` is at least 1.
pub fn partition_of(group_id: &str, partitions: i32) -> PartitionIndex {
    assert!(partitions > 0, "a topic has at least one partition");
    PartitionIndex(java_hash_code(group_id).checked_abs().unwrap_or(0) % partitions)
}

/// Java's `String.hashCode`, which runs over UTF-16 code units.
fn java_hash_code(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_lie_where_apache_kafka_puts_them() {
        // Seen on Apache Kafka 4.3.1.
        for (group, partition) in [("old3", 40), ("simple", 26), ("simpleret", 47), ("odd2", 1), ("", 0)] {
            assert_eq!(partition_of(group, DEFAULT_PARTITIONS), PartitionIndex(partition), "{group}");
        }
    }

    #[test]
    fn hash_codes_are_those_of_java() {
        assert_eq!(java_hash_code("hello"), 99_162_322);
        assert_eq!(java_hash_code("grün😀"), {
            let units: [u16; 6] = [b'g'.into(), b'r'.into(), 0xfc, b'n'.into(), 0xd83d, 0xde00];
            units.iter().fold(0_i32, |hash, &unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
        });
        // The one hash code whose absolute value does not exist.
        assert_eq!(java_hash_code("polygenelubricants"), i32::MIN);
        assert_eq!(partition_of("polygenelubricants", 50), PartitionIndex(0));
    }
}
