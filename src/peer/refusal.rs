//! A peer's no, as it travels in an answer. Made by who answers requests, read by who asked. Nothing of it is kept.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A peer's no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What the caller can act on.
    pub code: RefusalCode,
    /// For people.
    pub reason: String,
}

/// What a refused caller can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The request is of another cluster, or its caller is not who it says it is.
    Foreign,
    /// The caller belongs to the cluster no more.
    Removed,
    /// Nobody here answers that: another version, or a part that has not started yet.
    Unknown,
    /// The request can't be read.
    Malformed,
    /// Another node does that.
    NotLeader,
    /// It was tried and failed.
    Failed,
    /// It is not allowed.
    Denied,
}

impl Refusal {
    /// A refusal with a reason.
    pub fn new(code: RefusalCode, reason: impl ToString) -> Self {
        Self { code, reason: reason.to_string() }
    }
}
