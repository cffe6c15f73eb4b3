//! Offsets: positions in a partition's one, dense-or-gapped, ever growing numbering of records.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A record's position in its partition. End offsets are exclusive: the end is the next offset to assign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The largest offset; no record ever has it.
    pub const MAX: Self = Self(i64::MAX);

    /// The bare number, for the wire and for formats.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The following offset.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Add<i64> for Offset {
    type Output = Self;

    fn add(self, delta: i64) -> Self {
        Self(self.0 + delta)
    }
}

impl Sub for Offset {
    type Output = i64;

    fn sub(self, other: Self) -> i64 {
        self.0 - other.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
