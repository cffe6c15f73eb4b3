//! How many requests the store has under way at once, over a backend that answers none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::task::{JoinHandle, yield_now};

use super::faulty::{Fault, FaultPlan, FaultyBackend};
use super::{Expected, Operation, Store, StoreSettings};
use crate::archive::tests::{open_store, settings};

const READS: usize = 5;
const WRITES: usize = 3;
/// Callers of each kind, far more than may be served.
const CALLERS: usize = 100;

/// Requests that reached the backend.
#[derive(Default)]
struct Arrived {
    reads: AtomicUsize,
    writes: AtomicUsize,
}

impl Arrived {
    /// Reads and writes, once everybody has got as far as it may.
    async fn counts(&self) -> (usize, usize) {
        for _ in 0..10 * CALLERS {
            yield_now().await;
        }
        (self.reads.load(Ordering::Relaxed), self.writes.load(Ordering::Relaxed))
    }
}

fn hanging(arrived: &Arc<Arrived>) -> Store {
    let arrived = Arc::clone(arrived);
    let plan: FaultPlan = Box::new(move |_, operation, _| {
        let is_read = matches!(operation, Operation::Get | Operation::GetRanges | Operation::Size);
        let count = if is_read { &arrived.reads } else { &arrived.writes };
        count.fetch_add(1, Ordering::Relaxed);
        Fault::Hangs
    });
    let limits = StoreSettings { concurrent_reads: READS, concurrent_writes: WRITES, ..settings() };
    open_store("memory:///").wrapped(|inner| Arc::new(FaultyBackend::new(inner, plan))).configured(limits)
}

/// One of the ways to read.
async fn read(store: Store, number: usize) {
    match number % 3 {
        0 => drop(store.get("object").await),
        1 => drop(store.get_ranges("object", std::slice::from_ref(&(0..1))).await),
        _ => drop(store.size("object").await),
    }
}

/// One of the ways to write, or to find what was written.
async fn write(store: Store, number: usize) {
    let (key, content) = (format!("object-{number}"), Bytes::from_static(b"content"));
    match number % 4 {
        0 => drop(store.put_immutable(&key, content).await),
        1 => drop(store.replace(&key, content, Expected::Absent).await),
        2 => drop(store.delete(&key).await),
        _ => drop(store.directories("").await),
    }
}

/// The first half of the callers gives up, and with it those that are served.
fn give_up(callers: &[JoinHandle<()>]) {
    callers[..CALLERS / 2].iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn few_requests_are_under_way_at_once_and_writes_leave_room_for_reads() {
    let arrived = Arc::new(Arrived::default());
    let store = hanging(&arrived);
    let writers: Vec<_> = (0..CALLERS).map(|number| tokio::spawn(write(store.clone(), number))).collect();
    assert_eq!(arrived.counts().await, (0, WRITES));
    let readers: Vec<_> = (0..CALLERS).map(|number| tokio::spawn(read(store.clone(), number))).collect();
    assert_eq!(arrived.counts().await, (READS, WRITES), "each kind has a limit of its own");
    give_up(&writers);
    assert_eq!(arrived.counts().await, (READS, 2 * WRITES), "others take the place of those that gave up");
    give_up(&readers);
    assert_eq!(arrived.counts().await, (2 * READS, 2 * WRITES));
}
