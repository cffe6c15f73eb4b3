//! The one part of a member's metadata that the broker looks into: the topics that a consumer subscribes to.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Buf;

/// Protocol type of consumers, whose metadata is Kafka's `ConsumerProtocolSubscription`.
pub(super) const CONSUMER: &str = "consumer";

/// The topics in a subscription, or `None` when it can't be read. Every version begins like version 0: `version` int16, an
/// array of topic names; what follows is ignored.
pub(in crate::group) fn topics(mut metadata: &[u8]) -> Option<BTreeSet<Arc<str>>> {
    let _version = metadata.try_get_i16().ok()?;
    let count = metadata.try_get_i32().ok()?;
    let mut topics = BTreeSet::new();
    for _ in 0..count {
        let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
        let (name, rest) = metadata.split_at_checked(length)?;
        topics.insert(Arc::from(std::str::from_utf8(name).ok()?));
        metadata = rest;
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_of_a_subscription_are_read_and_lies_are_refused() {
        let metadata = b"\0\x03\0\0\0\x02\0\x01a\0\x02bb\xff\xff\xff\xff more";
        assert_eq!(topics(metadata), Some([Arc::from("a"), Arc::from("bb")].into()));
        assert_eq!(topics(b"\0\0\x7f\xff\xff\xff\0\x01a"), None);
        assert_eq!(topics(b"m"), None);
    }
}
