//! Consumer groups and committed offsets: pure machines, and the driver that logs their state.
//!
//! A group belongs to one partition of `__consumer_offsets` ([`partition_of`]), and that partition's coordinator owns it.
//! What a coordinator promises is in its log before it is promised: requests become records, the records of many requests
//! share an append, and replies leave only once that append is durable. After a crash the log is read again and yields
//! the same offsets and groups; what was never answered may or may not be there.
//!
//! - [`Groups`] is what the server calls; it finds the group's [`Session`], the task that drives one coordinator.
//! - [`Coordinator`] is the pure machine: what its log says, a machine for every classic group, and what waits for the log.
//! - [`records`] are the log's keys and values, in Apache Kafka's own format; [`snapshot`] is what the bucket keeps of them.
//! - [`OffsetsLog`] is what a coordinator needs of its partition's log; the broker gives it.

mod classic;
mod coordinator;
mod error;
pub mod fuzz;
mod groups;
mod partition;
pub mod records;
pub mod request;
mod session;
mod settings;
pub mod snapshot;
mod timers;

pub use coordinator::{Action, Coordinator, CoordinatorStats, Event, LoadFailure};
pub use error::{FormatError, GroupError};
pub use groups::{Groups, ReadGroups};
pub use partition::{DEFAULT_PARTITIONS, partition_of};
pub use session::{Caller, CoordinatorMetrics, OffsetsLog, OffsetsLogError, Session, walk_log};
pub use settings::GroupSettings;
pub use timers::Now;
