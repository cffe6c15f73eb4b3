//! What can go wrong between a client and a cluster.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use thiserror::Error;

use crate::cli::Exit;
use crate::record::RecordError;

/// Why a request got no useful answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No connection could be opened.
    #[error("cannot reach a broker: {source}; is one running there? address={address}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke while a request was under way.
    #[error("the broker closed the connection during {api}: {source} address={address}")]
    Closed {
        /// The broker.
        address: String,
        /// The request.
        api: &'static str,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// No answer in time.
    #[error("the broker gave no answer to {api} within {}ms address={address}", limit.as_millis())]
    TimedOut {
        /// The broker.
        address: String,
        /// The request.
        api: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// The broker and this client have no version of the request in common.
    #[error("the broker supports no version of {api} that this client knows address={address}")]
    Unsupported {
        /// The broker.
        address: String,
        /// The request.
        api: &'static str,
    },
    /// The answer does not follow the protocol.
    #[error("the broker's answer to {api} is not understood: {reason} address={address}")]
    Malformed {
        /// The broker.
        address: String,
        /// The request.
        api: &'static str,
        /// Where it went wrong.
        reason: String,
    },
    /// The broker refused.
    #[error("{what}: {}", refusal(*code, message.as_deref()))]
    Refused {
        /// What was asked.
        what: String,
        /// Kafka's error code.
        code: ResponseError,
        /// The broker's own words.
        message: Option<String>,
    },
    /// A partition that the topic does not have.
    #[error("the topic has no such partition topic={topic} partition={partition} partitions={partitions}")]
    NoSuchPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: i32,
        /// How many there are.
        partitions: usize,
    },
    /// A batch that can't be read or built.
    #[error("a record batch of the topic is damaged or unreadable: {source} topic={topic} partition={partition}")]
    Batch {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
}

/// The broker's words and the code; in our words where the broker has none.
fn refusal(code: ResponseError, message: Option<&str>) -> String {
    let ours = match code {
        ResponseError::UnknownTopicOrPartition => Some("there is no such topic or partition"),
        ResponseError::OffsetOutOfRange => Some("there are no records at that offset any more, or not yet"),
        ResponseError::KafkaStorageError => {
            Some("the partition's directory is offline or misses segments; the broker's log says what to do")
        }
        ResponseError::LeaderNotAvailable => Some("a partition has no leader at the moment"),
        ResponseError::MessageTooLarge => Some("a batch is larger than the topic allows; try a smaller --batch-size"),
        _ => None,
    };
    match message.or(ours) {
        Some(words) => format!("{words} ({code:?})"),
        None => format!("{code:?}"),
    }
}

impl ClientError {
    /// A refusal, if the code is one.
    pub fn check(what: impl Into<String>, code: i16, message: Option<&str>) -> Result<(), Self> {
        match ResponseError::try_from_code(code) {
            None => Ok(()),
            Some(code) => Err(Self::Refused { what: what.into(), code, message: message.map(str::to_owned) }),
        }
    }

    /// Whether the same request may succeed later, or at another broker.
    pub const fn is_retriable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Closed { .. } | Self::TimedOut { .. } => true,
            Self::Refused { code, .. } => code.is_retriable(),
            _ => false,
        }
    }

    /// Whether the cluster has no such topic.
    pub const fn is_unknown_topic(&self) -> bool {
        matches!(self, Self::Refused { code: ResponseError::UnknownTopicOrPartition, .. })
    }

    /// The command line's exit code.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Closed { .. } | Self::TimedOut { .. } => Exit::Unreachable,
            Self::Batch { .. } => Exit::Damaged,
            Self::NoSuchPartition { .. } => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_without_words_of_the_broker_has_ours() {
        let refused = ClientError::check("fetching", ResponseError::KafkaStorageError.code(), None).unwrap_err();
        assert!(refused.to_string().contains("; the broker's log says what to do (KafkaStorageError)"), "{refused}");
    }
}
