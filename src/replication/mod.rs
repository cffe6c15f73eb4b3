//! How records get from the broker that leads a partition to those that follow it, and when they count as committed.
//!
//! The leader pushes: a batch goes to the followers as soon as it has its offset, while the leader's own disk takes it. A follower
//! answers with what is on its stable storage, and the leader commits what all in-sync replicas have there.
//!
//! - [`divergence`]: what a follower does with its own log when a leader begins.
//! - [`leader`] and [`follower`]: one partition in one leader epoch, seen from either side.
//! - [`window`]: how much of what may be under way to one follower.
//! - [`message`]: what leader and follower say to each other, as bytes.
//!
//! All of it is pure: `broker` carries the actions out on logs and connections. Nothing is kept here over a crash; a replica begins
//! with what its log has, and leader and follower compare their histories again. Decision 0075 has the reasons.

pub mod divergence;
pub mod follower;
#[cfg(test)]
mod invariants;
pub mod leader;
pub mod message;
#[cfg(test)]
mod simulation;
pub mod window;
