//! Who leads what, and who belongs to the cluster now.
//!
//! [`election`] and [`reassignment`] are rules that [`machine::apply`](super::machine::apply) follows on every node, so that one
//! small command, as that a broker is gone, changes all that follows from it at once. [`machine`] runs on the leader of the
//! metadata alone and decides which commands to submit: it hears the brokers. Nothing of it is kept over a crash or a change of
//! the leader: the image has what was decided, and the next controller hears the brokers anew.

pub mod election;
pub mod machine;
pub mod reassignment;
mod upkeep;
