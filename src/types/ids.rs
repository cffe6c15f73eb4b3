//! Identities and epochs. Each is a newtype, so that a partition number is never taken for a node or an epoch.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Declares a 16-byte identity that prints as 32 hexadecimal digits, the form used in paths, object keys and logs.
macro_rules! uuid_newtype {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "uuid::serde::simple")] Uuid);

        impl $name {
            /// The all-zero identity, which Kafka reserves for "absent".
            pub const ZERO: Self = Self(Uuid::nil());

            /// Wraps an identity that was read or generated elsewhere.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// Makes a fresh random identity (RFC 9562 version 4) from 16 bytes of entropy.
            pub const fn from_entropy(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// Reads the 16 bytes of an identity, most significant first.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The 16 bytes, most significant first.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The identity as the Kafka protocol crate wants it.
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// True for the reserved all-zero identity.
            pub const fn is_zero(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

uuid_newtype! {
    /// Identity of a cluster; stamped on every data directory and on the bucket.
    ClusterId
}
uuid_newtype! {
    /// Identity of a topic. A topic that is deleted and created again has another one.
    TopicId
}
uuid_newtype! {
    /// Identity of one data directory, made when the directory is formatted.
    DirectoryId
}

uuid_newtype! {
    /// Identity of one broker process, made when it starts; tells a restart from a repeated registration.
    BrokerIncarnationId
}

/// Declares a signed number with a name; arithmetic is left out on purpose unless the type adds it.
macro_rules! number_newtype {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The bare number, for the wire and for formats.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_newtype! {
    /// A broker's number, Kafka's `node.id`.
    NodeId(i32)
}
number_newtype! {
    /// A partition's number within its topic, from 0.
    PartitionIndex(i32)
}
number_newtype! {
    /// The term of a partition's leadership (KIP-101). Grows with every change of leader or of incarnation.
    LeaderEpoch(i32)
}
number_newtype! {
    /// Grows with every change of a partition's replicas, in-sync set or leader (KIP-497).
    PartitionEpoch(i32)
}
number_newtype! {
    /// The term of a broker's registration with the metadata quorum.
    BrokerEpoch(i64)
}
number_newtype! {
    /// Identity of an idempotent or transactional producer (KIP-98); −1 means none.
    ProducerId(i64)
}
number_newtype! {
    /// The fencing term of a producer id (KIP-98); −1 means none.
    ProducerEpoch(i16)
}
number_newtype! {
    /// How often this cluster was restored from its bucket; fences an old cluster that is still alive.
    Incarnation(u32)
}

impl LeaderEpoch {
    /// Kafka's marker for "unknown leader epoch".
    pub const NONE: Self = Self(-1);

    /// The epoch after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl ProducerId {
    /// Kafka's marker for a batch that was not produced idempotently.
    pub const NONE: Self = Self(-1);

    /// True when the batch carries idempotence data.
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl ProducerEpoch {
    /// Kafka's marker for a batch that was not produced idempotently.
    pub const NONE: Self = Self(-1);
}

/// One partition, named by the topic's identity and not by its reusable name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's identity.
    pub topic_id: TopicId,
    /// The partition's number within the topic.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// Pairs a topic's identity with a partition's number.
    pub const fn new(topic_id: TopicId, partition: i32) -> Self {
        Self { topic_id, partition: PartitionIndex(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_prints_as_hex_and_reads_back() {
        let id = TopicId::from_entropy([7; 16]);
        let text = id.to_string();
        assert_eq!(text.len(), 32);
        assert_eq!(text.parse::<TopicId>().unwrap(), id);
        assert_eq!(TopicId::from_bytes(*id.as_bytes()), id);
    }
}
