//! What must hold, one file each. They are fed with what clients were told and what is seen of the brokers, and know nothing of how
//! the simulation goes.
//!
//! - [`writes`]: what was acknowledged is there, at its offset, once (C1, C2, C3).
//! - [`reads`]: what was consumed never changes (R5, C2, C6).
//! - [`leaders`]: one leader for an epoch, and it has all that was acknowledged (R2, R6).
//! - [`replicas`]: replicas agree byte for byte (R1).
//! - [`images`]: images of one version are equal (M2).

mod images;
mod leaders;
mod reads;
mod replicas;
mod writes;

pub(super) use images::Images;
pub(super) use leaders::Leaders;
pub(super) use reads::Reads;
pub(super) use replicas::check_replicas;
pub(super) use writes::{Writes, record_of};

use super::{Check, ensure};

#[cfg(test)]
mod tests;
