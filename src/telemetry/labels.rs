//! Labels. Those with a closed set of values are enums, and a [`Labeled`] metric is an array over the enum: no lock, no
//! hashing, and every value is shown from the start, so that a rate over it is never missing.

use std::fmt;
use std::marker::PhantomData;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, LabelSetEncoder, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// A label with a closed set of values.
pub trait Label: Copy + fmt::Debug + Send + Sync + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// The label's values, in the order of [`Label::index`].
    const VALUES: &'static [&'static str];

    /// This value's place in [`Label::VALUES`].
    fn index(self) -> usize;
}

/// Declares a label as an enum with the text of each value.
macro_rules! label {
    ($(#[$meta:meta])* $name:ident($label:literal) { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($text,)+];

            fn index(self) -> usize {
                self as usize
            }
        }

        impl $name {
            /// Every value, in the order in which they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value as metrics and settings name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }
    };
}

label! {
    /// Which part of the process's memory budget.
    MemoryShare("share") {
        /// Recent batches of all partitions, from which tail reads are served, and indexes of sealed segments.
        Tail = "tail",
        /// Requests that are being read or handled, and answers on their way out.
        Frames = "frames",
        /// Segments being turned into Parquet and uploaded.
        Uploads = "uploads",
        /// Archived data being read and decoded for consumers.
        Readers = "readers",
        /// Head objects and manifests of archived partitions.
        Heads = "heads",
        /// Consumer groups and their offsets.
        Groups = "groups",
    }
}

label! {
    /// What was asked of the object store.
    StoreOperation("operation") {
        /// Write an immutable object.
        Put = "put",
        /// Read a whole object.
        Get = "get",
        /// Read ranges of an object.
        GetRanges = "get_ranges",
        /// Ask for an object's length.
        Size = "size",
        /// List a prefix.
        List = "list",
        /// Delete an object.
        Delete = "delete",
        /// Write on a condition.
        Replace = "replace",
    }
}

label! {
    /// Which tier served fetched bytes.
    FetchSource("source") {
        /// The memory tail.
        Tail = "tail",
        /// Local segments.
        Local = "local",
        /// The chunk cache of the archive.
        Cache = "cache",
        /// Object storage.
        Archive = "archive",
    }
}

label! {
    /// Why a connection was refused or closed by the broker.
    RefuseReason("reason") {
        /// The total limit on connections.
        Total = "total_limit",
        /// The limit on connections from one address.
        PerAddress = "address_limit",
        /// A frame that is too large, truncated or not the protocol.
        BadFrame = "bad_frame",
        /// Idle for longer than allowed.
        Idle = "idle",
        /// The broker is shutting down.
        Shutdown = "shutdown",
    }
}

/// One metric per value of a label.
pub struct Labeled<L, M> {
    members: Vec<M>,
    label: PhantomData<L>,
}

impl<L: Label, M> Labeled<L, M> {
    /// The metric of one value.
    pub fn of(&self, label: L) -> &M {
        &self.members[label.index()]
    }
}

impl<L: Label, M: Default> Default for Labeled<L, M> {
    fn default() -> Self {
        Self { members: L::VALUES.iter().map(|_| M::default()).collect(), label: PhantomData }
    }
}

impl<L, M: Clone> Clone for Labeled<L, M> {
    fn clone(&self) -> Self {
        Self { members: self.members.clone(), label: PhantomData }
    }
}

impl<L, M: fmt::Debug> fmt::Debug for Labeled<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Labeled").field(&self.members).finish()
    }
}

impl<L: Label, M: EncodeMetric + TypedMetric> EncodeMetric for Labeled<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (value, member) in L::VALUES.iter().zip(&self.members) {
            member.encode(encoder.encode_family(&[(L::NAME, *value)])?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// The API that a request named. Callers use the fixed names of the table of APIs, which bounds the number of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ApiLabel {
    /// Kafka's name of the API, such as `Produce`.
    pub api: &'static str,
}

impl EncodeLabelSet for ApiLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("api", self.api)].encode(encoder)
    }
}

/// An error code that an API answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorLabel {
    /// Kafka's name of the API, such as `Produce`.
    pub api: &'static str,
    /// Kafka's name of the error, such as `NOT_LEADER_OR_FOLLOWER`.
    pub error: &'static str,
}

impl EncodeLabelSet for ErrorLabel {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        [("api", self.api), ("error", self.error)].encode(encoder)
    }
}
