//! The list of metrics. Adding one is one line with its doc comment, which is also the help text that Prometheus shows;
//! its name is `alluvium_<section>_<field>`, with `_total` appended to counters.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::labels::{ApiLabel, ErrorLabel, FetchSource, Labeled, MemoryShare, RefuseReason, StoreOperation};
use super::{Counter, Gauge, LatencyHistogram, SizeHistogram};

/// Declares the sections, their fields and the registry that shows them.
macro_rules! metrics {
    ($($(#[doc = $section_doc:literal])+ $section:ident: $type:ident {
        $($(#[doc = $help:literal])+ $field:ident: $metric:ty,)+
    })+) => {
        $(
            $(#[doc = $section_doc])+
            #[derive(Clone, Debug, Default)]
            pub struct $type {
                $($(#[doc = $help])+ pub $field: $metric,)+
            }

            impl $type {
                fn register(&self, registry: &mut Registry) {
                    $(registry.register(
                        concat!(stringify!($section), "_", stringify!($field)),
                        concat!($($help,)+).trim().trim_end_matches('.'),
                        self.$field.clone(),
                    );)+
                }
            }
        )+

        /// Every metric of one broker.
        pub struct Metrics {
            registry: Registry,
            $($(#[doc = $section_doc])+ pub $section: $type,)+
        }

        impl Metrics {
            /// All metrics at zero.
            pub fn new() -> Arc<Self> {
                let mut registry = Registry::with_prefix("alluvium");
                $(
                    let $section = $type::default();
                    $section.register(&mut registry);
                )+
                Arc::new(Self { registry, $($section,)+ })
            }
        }
    };
}

metrics! {
    /// The Kafka listeners.
    server: ServerMetrics {
        /// Open client connections.
        connections: Gauge,
        /// Connections accepted.
        accepted_connections: Counter,
        /// Connections refused or closed by the broker.
        refused_connections: Labeled<RefuseReason, Counter>,
        /// Requests that are being handled.
        requests_in_flight: Gauge,
        /// Bytes of requests, with their frame headers.
        request_bytes: Counter,
        /// Bytes of answers, with their frame headers.
        response_bytes: Counter,
        /// Requests by API.
        requests: Family<ApiLabel, Counter>,
        /// Error codes answered, by API and code.
        request_errors: Family<ErrorLabel, Counter>,
        /// Time from the last byte of a request to its answer being ready to send, waits that the client asked for included.
        request_duration_seconds: Family<ApiLabel, LatencyHistogram>,
        /// Time that producers were made to wait so that the archive and write-behind keep up.
        throttle_seconds: LatencyHistogram,
    }
    /// Records that came in.
    produce: ProduceMetrics {
        /// Records appended.
        records: Counter,
        /// Batches appended.
        batches: Counter,
        /// Bytes of batches appended, as clients sent them.
        bytes: Counter,
        /// Batches refused by validation.
        rejected_batches: Counter,
        /// Batches acknowledged again because an idempotent producer sent them twice.
        duplicate_batches: Counter,
    }
    /// Records that went out.
    fetch: FetchMetrics {
        /// Bytes of batches sent to consumers, by the tier that served them.
        bytes: Labeled<FetchSource, Counter>,
        /// Batches sent to consumers.
        batches: Counter,
        /// Fetches that wait for data.
        waiting: Gauge,
        /// Cached incremental fetch sessions.
        sessions: Gauge,
        /// Reads of segments whose result was there, or on its way, before they were asked for.
        read_ahead: Counter,
        /// Time from a fetch's asking for archived records that are not at hand until they were.
        archive_read_seconds: LatencyHistogram,
    }
    /// The journals.
    journal: JournalMetrics {
        /// Groups written; each is one synchronous write.
        groups: Counter,
        /// Entries written.
        entries: Counter,
        /// Bytes written, padding included.
        written_bytes: Counter,
        /// Time of the synchronous write of one group.
        write_seconds: LatencyHistogram,
        /// Size of one group.
        group_bytes: SizeHistogram,
        /// Bytes that recovery would replay now.
        replay_bytes: Gauge,
        /// Bytes of journal files on disk.
        allocated_bytes: Gauge,
        /// Checkpoints taken.
        checkpoints: Counter,
        /// Time of one checkpoint.
        checkpoint_seconds: LatencyHistogram,
    }
    /// The partitions' logs.
    log: LogMetrics {
        /// Partitions that this broker holds.
        partitions: Gauge,
        /// Segments on local disk.
        segments: Gauge,
        /// Bytes of segments on local disk.
        local_bytes: Gauge,
        /// Segments rolled.
        rolled_segments: Counter,
        /// Local segments deleted, by retention or because the archive holds them.
        deleted_segments: Counter,
        /// Bytes written behind the journal into segments.
        written_bytes: Counter,
        /// Time of one sync of a segment, or of the file system that many are on, when one is rolled and at checkpoints.
        sync_seconds: LatencyHistogram,
        /// Data directories out of service.
        offline_directories: Gauge,
        /// Partitions out of service, as local segments of theirs are missing.
        unavailable_partitions: Gauge,
        /// Free bytes of the fullest data directory's file system.
        available_bytes: Gauge,
        /// Seconds until the first data directory is full at the pace of the last ten minutes, with local copies of archived
        /// records counted as room; at most 2592000, also while none fills.
        time_to_full_seconds: Gauge,
        /// Producers whose sequence numbers are remembered.
        producer_ids: Gauge,
        /// Producers that were forgotten because too many are remembered.
        forgotten_producers: Counter,
        /// Time that the recovery of one data directory took.
        recovery_seconds: LatencyHistogram,
    }
    /// The archive.
    archive: ArchiveMetrics {
        /// Age of the oldest record that is not yet archived, sealed or not, in seconds.
        lag_seconds: Gauge,
        /// Bytes of sealed segments that are not yet archived.
        lag_bytes: Gauge,
        /// 1 while so much waits that archiving takes cores like requests do.
        urgent: Gauge,
        /// Segments uploaded, verified and committed.
        archived_segments: Counter,
        /// Bytes of batches that were archived.
        archived_bytes: Counter,
        /// Bytes of objects uploaded.
        uploaded_bytes: Counter,
        /// Uploads under way.
        uploads: Gauge,
        /// Attempts to archive a segment that failed and will be repeated.
        failed_uploads: Counter,
        /// Rebuilt batches that differed from the log, which stops the segment from being committed.
        verification_failures: Counter,
        /// Time to read a segment from the log and encode it.
        encode_seconds: LatencyHistogram,
        /// Time to read an encoded segment back and compare it with the log.
        verify_seconds: LatencyHistogram,
        /// Time to upload the objects of a segment.
        upload_seconds: LatencyHistogram,
        /// Time to commit an uploaded segment to the partition's head.
        commit_seconds: LatencyHistogram,
        /// Segments, and lists of older ones, that retention or deletions of records have passed.
        expired_segments: Counter,
        /// Partitions that were looked at for retention.
        retained_partitions: Counter,
        /// Partitions whose local log was found behind the archive and goes on from there.
        continued_logs: Counter,
        /// Objects deleted by retention, topic deletion or the sweeper.
        deleted_objects: Counter,
        /// Partitions that were looked through for orphaned objects.
        swept_partitions: Counter,
        /// Objects deleted because nothing refers to them and no writer can commit them any more.
        orphaned_objects: Counter,
        /// Commits refused because another owner has taken the partition over.
        fenced_commits: Counter,
    }
    /// Reads of archived records.
    archive_read: ArchiveReadMetrics {
        /// Chunks fetched and rebuilt.
        chunks: Counter,
        /// Single runs of a chunk fetched and rebuilt, for readers that jump.
        runs: Counter,
        /// Bytes fetched from the object store for readers, footers and indexes included.
        fetched_bytes: Counter,
        /// Bytes of batches rebuilt, as clients get them.
        rebuilt_bytes: Counter,
        /// Time of one fetch of a chunk, or of a part of it, from the object store.
        fetch_seconds: LatencyHistogram,
        /// Time on a worker for rebuilding a chunk or a run.
        decode_seconds: LatencyHistogram,
        /// Reads that failed because archived data is damaged or gone.
        damaged_reads: Counter,
        /// Reads that failed because the object store did not answer.
        failed_reads: Counter,
    }
    /// The disk cache of rebuilt archive chunks.
    cache: CacheMetrics {
        /// Reads that found their chunk.
        hits: Counter,
        /// Reads that had to have their chunk fetched.
        misses: Counter,
        /// Reads that joined a fetch already under way.
        joined: Counter,
        /// Chunks evicted.
        evictions: Counter,
        /// Bytes on disk.
        bytes: Gauge,
    }
    /// The object store.
    store: StoreMetrics {
        /// Requests, each retry counted.
        requests: Labeled<StoreOperation, Counter>,
        /// Requests that failed, each retry counted; a condition that did not hold is an answer and not a failure.
        errors: Labeled<StoreOperation, Counter>,
        /// Time of one request.
        request_seconds: Labeled<StoreOperation, LatencyHistogram>,
        /// Requests under way.
        requests_in_flight: Gauge,
        /// Bytes read.
        read_bytes: Counter,
        /// Bytes written.
        written_bytes: Counter,
        /// 1 while the store answers, 0 after a failure until the next success.
        available: Gauge,
    }
    /// The memory budget.
    memory: MemoryMetrics {
        /// Bytes in use, by share.
        used_bytes: Labeled<MemoryShare, Gauge>,
        /// Bytes allowed, by share.
        limit_bytes: Labeled<MemoryShare, Gauge>,
    }
    /// Consumer groups.
    group: GroupMetrics {
        /// Groups known to this coordinator.
        groups: Gauge,
        /// Members of all groups.
        members: Gauge,
        /// Rebalances completed.
        rebalances: Counter,
        /// Members removed because their session timed out.
        expired_members: Counter,
        /// Offsets committed.
        committed_offsets: Counter,
        /// Committed offsets kept.
        offsets: Gauge,
        /// Partitions of `__consumer_offsets` whose log can't be read: their groups have no coordinator.
        failed_coordinators: Gauge,
        /// Partitions of `__consumer_offsets` whose groups the bucket's snapshot has as they were earlier, as no coordinator
        /// answers for them.
        unsaved_partitions: Gauge,
    }
    /// Replication among brokers.
    replication: ReplicationMetrics {
        /// Bytes of batches sent to followers.
        sent_bytes: Counter,
        /// Bytes of batches taken of leaders.
        received_bytes: Counter,
        /// Connections over which followers get their records.
        sessions: Gauge,
        /// Partitions led here of which fewer replicas are in sync than there are.
        under_replicated: Gauge,
        /// Changes of in-sync replicas that this broker asked for.
        proposals: Counter,
    }
    /// The cluster's metadata.
    metadata: MetadataMetrics {
        /// Version of the image that this broker acts on.
        image_version: Gauge,
        /// Topics.
        topics: Gauge,
        /// Commands committed.
        commands: Counter,
        /// Time from a command's submission to its application.
        commit_seconds: LatencyHistogram,
    }
    /// The process.
    process: ProcessMetrics {
        /// Unix time in seconds at which the broker started.
        start_time_seconds: Gauge,
        /// Resident memory.
        resident_bytes: Gauge,
        /// Open file descriptors.
        open_files: Gauge,
        /// 1 when the broker is ready to serve.
        ready: Gauge,
    }
}

impl Metrics {
    /// The metrics of one API, resolved once by the caller: afterwards counting a request takes no lock.
    pub fn api(&self, api: &'static str) -> ApiMetrics {
        ApiMetrics {
            requests: self.server.requests.get_or_create_owned(&ApiLabel { api }),
            duration: self.server.request_duration_seconds.get_or_create_owned(&ApiLabel { api }),
        }
    }

    /// Counts an error code that an API answered with. Takes a lock and hashes: errors are rare.
    pub fn count_error(&self, api: &'static str, error: &'static str) {
        self.server.request_errors.get_or_create(&ErrorLabel { api, error }).inc();
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    pub fn encode(&self) -> String {
        let mut open_metrics = String::new();
        text::encode(&mut open_metrics, &self.registry).expect("writing to a string does not fail");
        to_prometheus_text(&open_metrics)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// What the server counts for each request of one API.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// Requests.
    pub requests: Counter,
    /// Time until the answer was ready.
    pub duration: LatencyHistogram,
}

/// OpenMetrics names a counter's family without the `_total` of its samples and ends with `# EOF`; the older text format,
/// which every scraper and `promtool` reads, wants the sample's name in both places and knows no end.
fn to_prometheus_text(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + open_metrics.len() / 8);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let family = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' '));
        if let Some((name, help)) = family
            && lines.peek().is_some_and(|next| next.strip_prefix("# TYPE ") == Some(&format!("{name} counter")))
        {
            out.push_str(&format!("# HELP {name}_total {help}\n# TYPE {name}_total counter\n"));
            lines.next();
        } else if line != "# EOF" {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_shown_under_the_name_of_their_samples() {
        let metrics = Metrics::new();
        metrics.journal.groups.inc_by(3);
        let text = metrics.encode();
        let expected = "# HELP alluvium_journal_groups_total Groups written; each is one synchronous write.\n\
                        # TYPE alluvium_journal_groups_total counter\n\
                        alluvium_journal_groups_total 3\n";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("EOF"));
    }

    #[test]
    fn every_value_of_a_closed_label_is_shown_from_the_start() {
        let text = Metrics::new().encode();
        for share in MemoryShare::ALL {
            assert!(text.contains(&format!("alluvium_memory_used_bytes{{share=\"{}\"}} 0", share.name())), "{text}");
        }
        assert!(text.contains("alluvium_store_request_seconds_bucket{le=\"+Inf\",operation=\"put\"} 0"), "{text}");
    }

    #[test]
    fn an_api_is_shown_once_it_is_resolved() {
        let metrics = Metrics::new();
        let produce = metrics.api("Produce");
        produce.requests.inc();
        produce.duration.observe(std::time::Duration::from_micros(300));
        metrics.count_error("Produce", "CORRUPT_MESSAGE");
        let text = metrics.encode();
        assert!(text.contains("alluvium_server_requests_total{api=\"Produce\"} 1\n"), "{text}");
        let bucket = "alluvium_server_request_duration_seconds_bucket{le=\"0.0005\",api=\"Produce\"} 1\n";
        assert!(text.contains(bucket), "{text}");
        let error = "alluvium_server_request_errors_total{api=\"Produce\",error=\"CORRUPT_MESSAGE\"} 1\n";
        assert!(text.contains(error), "{text}");
    }

    #[test]
    fn metrics_of_two_brokers_are_apart() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.produce.records.inc();
        assert_eq!((one.produce.records.get(), two.produce.records.get()), (1, 0));
    }
}
