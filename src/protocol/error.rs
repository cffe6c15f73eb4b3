//! What can be wrong with a frame. Kafka answers none of these: it closes the connection, and so do we.

use thiserror::Error;

use super::Api;

/// Bytes that are no request that is served, or an answer that can't be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProtocolError {
    /// A length prefix that is negative or over the limit.
    #[error("frame length is out of range length={length} limit_bytes={limit}")]
    FrameLength {
        /// The length that the prefix claims.
        length: i32,
        /// The most that is accepted.
        limit: usize,
    },
    /// The frame ends before its fields do.
    #[error("message is truncated field={field} needed_bytes={needed} available_bytes={available}")]
    Truncated {
        /// Where it ends.
        field: &'static str,
        /// Bytes that the field calls for.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// A length, count or marker that no field can have.
    #[error("field is malformed field={field} value={value}")]
    Malformed {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// More array elements and tagged fields than one message may have.
    #[error("message has too many elements field={field} limit={limit}")]
    TooManyElements {
        /// Where the limit was passed.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
    /// An API that is not served.
    #[error("unknown api key={key} version={version}")]
    UnknownApi {
        /// The key asked for.
        key: i16,
        /// The version asked for.
        version: i16,
    },
    /// A version that is not accepted.
    #[error("unsupported version api={api} version={version}")]
    UnsupportedVersion {
        /// The API.
        api: Api,
        /// The version asked for.
        version: i16,
    },
    /// A field is null where it must not be, or text is not UTF-8.
    #[error("message does not decode api={api} version={version}")]
    Undecodable {
        /// The API.
        api: Api,
        /// The message's version.
        version: i16,
    },
    /// An answer holds what its version can't express; a fault of ours.
    #[error("answer does not encode api={api} version={version}")]
    Unencodable {
        /// The API.
        api: Api,
        /// The answer's version.
        version: i16,
    },
}
