//! What can go wrong between the broker and its bucket, sorted by what the caller must do.

use thiserror::Error;

/// The cause as the store's client or the file system gave it.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A failed store operation.
#[derive(Debug, Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("object not found key={key}")]
    NotFound {
        /// The key that was asked for.
        key: String,
    },
    /// The store refuses the credentials or the action; waiting does not help.
    #[error("the object store denies access key={key}: {cause}")]
    Denied {
        /// The key of the request.
        key: String,
        /// The store's answer.
        cause: Cause,
    },
    /// The store failed or could not be reached; the same request may work later.
    #[error("the object store is unavailable key={key}: {cause}")]
    Unavailable {
        /// The key of the request.
        key: String,
        /// The store's answer or the transport's error.
        cause: Cause,
    },
    /// No answer in time; a write may or may not have happened.
    #[error("the object store did not answer in time key={key} timeout_ms={timeout_ms}")]
    TimedOut {
        /// The key of the request.
        key: String,
        /// How long one attempt was waited for.
        timeout_ms: u64,
    },
    /// The condition of a conditional write does not hold (HTTP 412).
    #[error("the object is not in the expected state key={key}")]
    ConditionFailed {
        /// The key of the request.
        key: String,
    },
    /// Another conditional write of the same key is under way (HTTP 409); says nothing about the object.
    #[error("the object is contended key={key}")]
    Contended {
        /// The key of the request.
        key: String,
    },
    /// The object exists with another length than was written or asked for.
    #[error("object has an unexpected length key={key} expected_bytes={expected} found_bytes={found}")]
    WrongLength {
        /// The key of the object.
        key: String,
        /// Length that was written or asked for.
        expected: u64,
        /// Length that the store reports or sent.
        found: u64,
    },
    /// The store does not know the operation, or refuses the request as it is; retrying does not help.
    #[error("the object store rejects the request key={key}: {cause}")]
    Rejected {
        /// The key of the request.
        key: String,
        /// The store's answer.
        cause: Cause,
    },
    /// A `file://` store that failed to sync; nothing more is written to it before a restart.
    #[error("the file store failed to make a write durable and takes no more writes until a restart key={key}")]
    Poisoned {
        /// The key of the request.
        key: String,
    },
}

impl StoreError {
    /// Whether the same request may succeed later without anyone's help.
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Contended { .. } | Self::WrongLength { .. }
        )
    }

    /// Whether the store says nothing of itself: it does not answer, or lets nobody in, as with credentials that ran out.
    pub const fn is_outage(&self) -> bool {
        self.is_transient() || matches!(self, Self::Denied { .. })
    }
}

/// Why a conditional write did not end with the new content in place.
#[derive(Debug, Error)]
pub enum ReplaceError {
    /// Someone else changed the object first: read it again and decide anew.
    #[error("the object was changed by another writer key={key}")]
    Conflict {
        /// The key of the object.
        key: String,
    },
    /// The write may or may not have happened, and the store could not be asked: read the object and look for the nonce.
    #[error("the outcome of a conditional write is unknown key={key}")]
    Unknown {
        /// The key of the object.
        key: String,
        /// The last failure.
        source: StoreError,
    },
    /// The write did not happen.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A store URL or its settings that cannot be used; each names what to change.
#[derive(Debug, Error)]
pub enum LocationError {
    /// Not a URL.
    #[error("object store URL is malformed url={url}: {cause}")]
    Malformed {
        /// The text that was given.
        url: String,
        /// What is wrong with it.
        cause: url::ParseError,
    },
    /// Not one of the schemes that are known.
    #[error("object store URL has an unknown scheme scheme={scheme}; use file, memory, s3, gs or az")]
    UnknownScheme {
        /// The scheme that was given.
        scheme: String,
    },
    /// The URL lacks a part or has one too many.
    #[error("object store URL {problem} url={url}")]
    Incomplete {
        /// The text that was given, without secrets.
        url: String,
        /// What is missing or too much.
        problem: &'static str,
    },
    /// The client for the store could not be built from the settings.
    #[error("object store settings are not usable url={url}: {cause}")]
    Settings {
        /// The text that was given, without secrets.
        url: String,
        /// The client's complaint.
        cause: Cause,
    },
    /// The directory of a `file://` store cannot be used.
    #[error(
        "object store directory is not usable path={path}: {cause}; see that it can be made and written by this user"
    )]
    Directory {
        /// The directory.
        path: String,
        /// The file system's error.
        cause: std::io::Error,
    },
}
