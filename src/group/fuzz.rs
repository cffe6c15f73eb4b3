//! A door of `tests/fuzz` to a decoder that is private here. It takes any bytes, and must neither panic nor take memory out of
//! proportion.

use super::classic::subscribed_topics;

/// A consumer's subscription, as it joins a group with.
pub fn subscription(metadata: &[u8]) {
    let _ = subscribed_topics(metadata);
}
