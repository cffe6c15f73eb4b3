//! The words of the domain as types that can't be mixed up: identities, epochs, offsets and times.
//!
//! Every layer uses them; they own nothing and do no IO. A value that reaches one of these types from outside
//! has been checked by the layer that decoded it.

mod ids;
mod offset;
mod time;

pub use ids::{
    BrokerEpoch, BrokerIncarnationId, ClusterId, DirectoryId, Incarnation, LeaderEpoch, NodeId, PartitionEpoch,
    PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
pub use offset::Offset;
pub use time::{Monotonic, Timestamp};
