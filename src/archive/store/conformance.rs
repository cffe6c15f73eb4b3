//! One suite of behaviour, run over every backend: memory, a directory, and a server when one is named by
//! `ALLUVIUM_TEST_STORE=s3://bucket/prefix` (or `gs://`, `az://`) with the usual variables of its kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::TryStreamExt;
use xxhash_rust::xxh3::xxh3_128;

use super::faulty::{Fault, FaultyBackend};
use super::simulated::{BucketLies, SimBucket, Weather};
use super::*;
use crate::runtime::tasks::Priority;
use crate::sim::Machine;

fn open(url: &str, settings: StoreSettings) -> Store {
    open_on(&Runtime::production(), url, settings)
}

fn open_on(runtime: &Runtime, url: &str, settings: StoreSettings) -> Store {
    let workers = Workers::start(runtime.tasks.as_ref(), "store", Priority::Foreground, 2);
    let location = Location::parse(url).unwrap();
    Store::open(runtime, &location, settings, workers, Arc::new(Unobserved)).unwrap()
}

fn quick() -> StoreSettings {
    StoreSettings { backoff_first_ms: 1, backoff_longest_ms: 4, attempt_timeout_ms: 10_000, ..StoreSettings::default() }
}

fn directory_url(directory: &tempfile::TempDir) -> String {
    url::Url::from_directory_path(directory.path()).unwrap().to_string()
}

async fn keys(store: &Store, prefix: &str) -> Vec<String> {
    let mut keys: Vec<_> = store.list(prefix).map_ok(|object| object.key).try_collect().await.unwrap();
    keys.sort();
    keys
}

async fn conforms(store: &Store) {
    store.probe().await.unwrap();
    let root = format!("conformance/{:016x}/", store.inner.runtime.entropy.number());
    let small = format!("{root}deep/a=1/small");
    assert!(matches!(store.get(&small).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.size(&small).await, Err(StoreError::NotFound { .. })));
    store.put_immutable(&small, Bytes::from_static(b"0123456789")).await.unwrap();
    assert_eq!(store.get(&small).await.unwrap().0, "0123456789");
    assert_eq!(store.size(&small).await.unwrap(), 10);
    let ranges = store.get_ranges(&small, &[7..10, 0..2, 4..4]).await;
    if let Ok(ranges) = ranges {
        assert_eq!(ranges, [&b"789"[..], b"01", b""].map(Bytes::copy_from_slice));
    }
    assert!(
        store.get_ranges(&small, std::slice::from_ref(&(5..11))).await.is_err(),
        "a range past the end is an error"
    );

    // Larger than one part, so that a bucket takes it in several.
    let large = format!("{root}large");
    let content: Vec<u8> = (0..20 << 20).map(|at: u32| (at ^ (at >> 9)) as u8).collect();
    let spool = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(spool.path(), &content).unwrap();
    let file = store.inner.runtime.disk.open(spool.path(), crate::runtime::disk::Open::Read).unwrap();
    let length = content.len() as u64 - 1;
    let hash = xxh3_128(&content[..content.len() - 1]);
    let spooled = |hash, length| Payload::Spooled { file: Arc::clone(&file), length, hash: Some(hash) };
    for length in [length, 1000] {
        let refused = store.put_immutable(&large, spooled(hash + 1, length)).await;
        assert!(matches!(refused, Err(StoreError::Rejected { .. })), "other bytes than were verified");
        assert!(matches!(store.size(&large).await, Err(StoreError::NotFound { .. })));
    }
    store.put_immutable(&large, spooled(hash, length)).await.unwrap();
    let tail = store.get_ranges(&large, std::slice::from_ref(&(length - 5..length))).await.unwrap();
    assert_eq!(tail[0][..], content[content.len() - 6..content.len() - 1]);

    assert_eq!(keys(store, &root).await, [small.clone(), large.clone()]);
    assert_eq!(keys(store, &format!("{root}deep/")).await, std::slice::from_ref(&small));
    assert!(keys(store, &format!("{root}nothing/")).await.is_empty());
    assert_eq!(store.directories(&root).await.unwrap(), ["deep"]);
    assert_eq!(store.directories(&format!("{root}deep/")).await.unwrap(), ["a=1"]);
    assert!(store.directories(&format!("{root}nothing/")).await.unwrap().is_empty());
    store.delete(&small).await.unwrap();
    store.delete(&small).await.unwrap();
    store.delete(&large).await.unwrap();
    assert!(keys(store, &root).await.is_empty());
    counts_exactly(store, &format!("{root}counter")).await;
}

/// Several writers each add to one counter by conditional writes; not one addition may be lost.
async fn counts_exactly(store: &Store, key: &str) {
    const WRITERS: usize = 4;
    const ADDITIONS: usize = 5;
    let writers = (0..WRITERS).map(|writer| async move {
        for addition in 0..ADDITIONS {
            loop {
                let (value, expected) = match store.get_if_present(key).await.unwrap() {
                    None => (0, Expected::Absent),
                    Some((content, version)) => {
                        let text = std::str::from_utf8(&content).unwrap();
                        (text.split(' ').next().unwrap().parse::<usize>().unwrap(), Expected::Version(version))
                    }
                };
                let content = Bytes::from(format!("{} by {writer}/{addition}", value + 1));
                match store.replace(key, content, expected).await {
                    Ok(_) => break,
                    Err(ReplaceError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    futures_util::future::join_all(writers).await;
    let (content, _) = store.get(key).await.unwrap();
    let count = std::str::from_utf8(&content).unwrap().split(' ').next().unwrap().to_owned();
    assert_eq!(count, (WRITERS * ADDITIONS).to_string());
    store.delete(key).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms_like_a_bucket() {
    conforms(&open("memory:///", quick())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conforms(&open(&directory_url(&directory), quick())).await;
}

/// The server's bucket that the environment names, and the options that open it.
pub(in crate::archive) fn server() -> Option<(String, StoreOptions)> {
    const PREFIXES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];
    let url = std::env::var("ALLUVIUM_TEST_STORE").ok()?;
    let options = std::env::vars().filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    Some((url, StoreOptions(options.collect())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_conforms() {
    let Some((url, options)) = server() else {
        eprintln!("skipped: set ALLUVIUM_TEST_STORE=s3://bucket/prefix and AWS_* to run against a server");
        return;
    };
    conforms(&open(&url, StoreSettings { options, ..quick() })).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_conforms_for_two_processes_and_under_lost_replies() {
    let directory = tempfile::tempdir().unwrap();
    let url = directory_url(&directory);
    let (first, second) = (open(&url, quick()), open(&url, quick()));
    let faulty = |store: &Store, seed| {
        store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, FaultyBackend::random(seed, 50, 100))))
    };
    let (first, second) = (faulty(&first, 1), faulty(&second, 2));
    tokio::join!(counts_together(&first, "shared/counter"), counts_together(&second, "shared/counter"));
    let (content, _) = first.get("shared/counter").await.unwrap();
    let count: u64 = std::str::from_utf8(&content).unwrap().split(' ').next().unwrap().parse().unwrap();
    // Not one addition may be lost. One whose answer was lost is made again if the other process has added meanwhile, for then
    // nothing tells that it happened: a writer that must not do that looks for its own work first, as the head's does.
    assert!(count >= 40, "{content:?}");
}

/// As [`counts_exactly`], for one of two processes, through a store that refuses and forgets.
async fn counts_together(store: &Store, key: &str) {
    for _ in 0..20 {
        let nonce = store.inner.runtime.entropy.number();
        loop {
            let Ok(found) = store.get_if_present(key).await else { continue };
            let (value, expected) = match &found {
                None => (0, Expected::Absent),
                Some((content, _)) if content.ends_with(format!(" {nonce}").as_bytes()) => break,
                Some((content, version)) => {
                    let text = std::str::from_utf8(content).unwrap();
                    (text.split(' ').next().unwrap().parse::<u64>().unwrap(), Expected::Version(version.clone()))
                }
            };
            let content = Bytes::from(format!("{} {nonce}", value + 1));
            match store.replace(key, content, expected).await {
                Ok(_) => break,
                Err(ReplaceError::Conflict { .. } | ReplaceError::Unknown { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let store = open("memory:///", quick());
    let lax = store.wrapped(|inner| {
        let plan = Box::new(|_, operation, _: &str| match operation {
            Operation::Replace => Fault::ConditionIgnored,
            _ => Fault::None,
        });
        Arc::new(FaultyBackend::new(inner, plan))
    });
    assert!(matches!(lax.probe().await, Err(ProbeError::ConditionIgnored { .. })));
    // A server that is right alone and wrong under contention, as one that checks and then writes.
    let racy = store.wrapped(|inner| {
        let plan = Box::new(|_, operation, key: &str| match operation {
            Operation::Replace if key.contains("race") => Fault::ConditionIgnored,
            _ => Fault::None,
        });
        Arc::new(FaultyBackend::new(inner, plan))
    });
    let error = racy.probe().await.unwrap_err();
    assert!(matches!(error, ProbeError::ConditionIgnored { check } if check.contains("concurrent")), "{error}");
    // One that does not know them, and says so.
    let old = store.wrapped(|inner| {
        let plan = Box::new(|_, operation, _: &str| match operation {
            Operation::Replace => Fault::Rejected,
            _ => Fault::None,
        });
        Arc::new(FaultyBackend::new(inner, plan))
    });
    let error = old.probe().await.unwrap_err();
    assert!(matches!(error, ProbeError::ConditionRefused { .. }), "{error}");
}

#[test]
fn no_store_that_is_only_slow_and_forgetful_is_taken_for_a_lax_one() {
    let mut passed = 0;
    for seed in 0..300 {
        let machine = Machine::new(seed);
        let bucket = SimBucket::new(seed, BucketLies::default());
        bucket.set_weather(Weather { slow: 10, lost: 3, ..Weather::default() });
        let settings = StoreSettings { attempt_timeout_ms: 2000, ..quick() };
        let store = open_on(&machine.runtime(), "memory:///", settings).wrapped(|_| Arc::new(bucket.clone()));
        let mut probe = Box::pin(store.probe());
        let result = loop {
            if let Some(result) = probe.as_mut().now_or_never() {
                break result;
            }
            if !bucket.run_one(machine.runtime().clock.monotonic()) {
                machine.pass_until_next(std::time::Duration::from_millis(100));
            }
        };
        match result {
            Ok(()) => passed += 1,
            Err(ProbeError::Failed { .. }) => {}
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(passed > 100, "{passed} of 300 starts");
}

#[tokio::test]
async fn a_hanging_request_is_given_up_and_tried_again() {
    let store = open("memory:///", StoreSettings { attempt_timeout_ms: 50, ..quick() });
    store.put_immutable("a", Bytes::from_static(b"x")).await.unwrap();
    let hanging = store.wrapped(|inner| {
        let plan = Box::new(|number, _, _: &str| if number < 2 { Fault::Hangs } else { Fault::None });
        Arc::new(FaultyBackend::new(inner, plan))
    });
    assert_eq!(hanging.get("a").await.unwrap().0, "x");
}

/// Given up from outside it would leave its parts in the bucket.
#[test]
fn an_upload_in_parts_is_not_given_up_before_its_requests_are() {
    let machine = Machine::new(1);
    let settings = StoreSettings { attempt_timeout_ms: 10_000, max_attempts: 1, ..quick() };
    let store = open_on(&machine.runtime(), "memory:///", settings);
    let hanging = store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, Box::new(|_, _, _| Fault::Hangs))));
    let mut put = Box::pin(hanging.put_immutable("key", Bytes::from(vec![7; 20 << 20])));
    let error = loop {
        if let Some(result) = put.as_mut().now_or_never() {
            break result.unwrap_err();
        }
        machine.pass_until_next(std::time::Duration::from_secs(1));
    };
    // It is begun, has three parts, which may be sent one after the other, and is completed or aborted.
    assert!(matches!(error, StoreError::TimedOut { timeout_ms: 50_000.., .. }), "{error}");
}

#[tokio::test]
async fn an_outage_ends_an_operation_after_bounded_attempts() {
    let store = open("memory:///", quick());
    let gone = store.wrapped(|inner| Arc::new(FaultyBackend::new(inner, Box::new(|_, _, _| Fault::Refused))));
    assert!(matches!(gone.get("a").await, Err(StoreError::Unavailable { .. })));
    let replaced = gone.replace("a", Bytes::from_static(b"x"), Expected::Absent).await;
    assert!(matches!(replaced, Err(ReplaceError::Unknown { .. })));
}

#[tokio::test]
async fn keys_cannot_leave_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory_url(&directory), quick());
    for key in ["../x", "a//b", "a/./b", ".locks/lock", "/etc/passwd", ""] {
        let put = store.put_immutable(key, Bytes::from_static(b"x")).await;
        assert!(matches!(put, Err(StoreError::Rejected { .. })), "{key}");
    }
}

#[test]
fn printed_options_keep_their_values_to_themselves() {
    let options = BTreeMap::from([("AWS_SECRET_ACCESS_KEY".to_owned(), "planted".to_owned())]);
    let settings = StoreSettings { options: StoreOptions(options), ..StoreSettings::default() };
    let printed = format!("{settings:?}");
    assert!(printed.contains("AWS_SECRET_ACCESS_KEY") && !printed.contains("planted"), "{printed}");
}
