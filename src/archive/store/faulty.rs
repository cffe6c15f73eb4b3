//! A store that fails on purpose, for tests and simulations: the same plan and the same requests give the same faults.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;

use super::backend::{Attempt, Backend, Expected, Listed, Payload, Version};
use super::{Operation, StoreError};
use crate::runtime::net::BoxFuture;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is carried out and answered.
    None,
    /// It fails without any effect, as by 503.
    Refused,
    /// It fails without any effect, as by 403.
    Denied,
    /// It fails without any effect, as by 501.
    Rejected,
    /// The client panics.
    Panics,
    /// It is carried out, and the answer is lost.
    ReplyLost,
    /// It has no effect and is never answered.
    Hangs,
    /// For a conditional write: it is carried out whatever the condition says, as lax servers do.
    ConditionIgnored,
}

/// Decides the fault of a request by its number (from 0), its kind and its key.
pub type FaultPlan = Box<dyn FnMut(u64, Operation, &str) -> Fault + Send>;

/// Passes requests to another backend, or not, as a plan says.
pub struct FaultyBackend {
    inner: Arc<dyn Backend>,
    plan: Mutex<(u64, FaultPlan)>,
}

impl FaultyBackend {
    /// Wraps `inner`; `plan` is asked once per request.
    pub fn new(inner: Arc<dyn Backend>, plan: FaultPlan) -> Self {
        Self { inner, plan: Mutex::new((0, plan)) }
    }

    /// A plan that refuses or loses replies at random: of a thousand requests about so many each.
    pub fn random(seed: u64, refused_per_mille: u64, lost_per_mille: u64) -> FaultPlan {
        let mut state = seed;
        Box::new(move |_, _, _| {
            let roll = split_mix(&mut state) % 1000;
            if roll < refused_per_mille {
                Fault::Refused
            } else if roll < refused_per_mille + lost_per_mille {
                Fault::ReplyLost
            } else {
                Fault::None
            }
        })
    }

    /// A plan that ends the world at request `number`: that one gets `last`, all later ones are refused. What a process
    /// that dies there leaves behind.
    pub fn dies_at(number: u64, last: Fault) -> FaultPlan {
        Box::new(move |request, _, _| match request.cmp(&number) {
            std::cmp::Ordering::Less => Fault::None,
            std::cmp::Ordering::Equal => last,
            std::cmp::Ordering::Greater => Fault::Refused,
        })
    }

    fn fault(&self, operation: Operation, key: &str) -> Fault {
        let mut guard = self.plan.lock();
        let (number, plan) = &mut *guard;
        let fault = plan(*number, operation, key);
        *number += 1;
        fault
    }

    async fn apply<T>(&self, operation: Operation, key: &str, request: BoxFuture<'_, Attempt<T>>) -> Attempt<T> {
        match self.fault(operation, key) {
            Fault::None | Fault::ConditionIgnored => request.await,
            Fault::Refused => Err(unavailable(key)),
            Fault::Denied => Err(denied(key)),
            Fault::Rejected => Err(rejected(key)),
            Fault::Panics => panic!("planned panic"),
            Fault::ReplyLost => {
                // A failure of the request itself is lost too.
                let _ = request.await;
                Err(unavailable(key))
            }
            Fault::Hangs => std::future::pending().await,
        }
    }
}

impl fmt::Debug for FaultyBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyBackend({:?})", self.inner)
    }
}

impl Backend for FaultyBackend {
    fn put<'a>(&'a self, key: &'a str, payload: &'a Payload) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(self.apply(Operation::Put, key, self.inner.put(key, payload)))
    }

    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<(Bytes, Version)>> {
        Box::pin(self.apply(Operation::Get, key, self.inner.get(key)))
    }

    fn get_ranges<'a>(&'a self, key: &'a str, ranges: &'a [Range<u64>]) -> BoxFuture<'a, Attempt<Vec<Bytes>>> {
        Box::pin(self.apply(Operation::GetRanges, key, self.inner.get_ranges(key, ranges)))
    }

    fn size<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<u64>> {
        Box::pin(self.apply(Operation::Size, key, self.inner.size(key)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Attempt<Listed>> {
        match self.fault(Operation::List, prefix) {
            Fault::None | Fault::ConditionIgnored => self.inner.list(prefix),
            Fault::Hangs => stream::pending().boxed(),
            Fault::Denied => stream::iter([Err(denied(prefix))]).boxed(),
            Fault::Rejected => stream::iter([Err(rejected(prefix))]).boxed(),
            Fault::Panics => panic!("planned panic"),
            Fault::Refused | Fault::ReplyLost => stream::iter([Err(unavailable(prefix))]).boxed(),
        }
    }

    fn directories<'a>(&'a self, prefix: &'a str) -> BoxFuture<'a, Attempt<Vec<String>>> {
        Box::pin(self.apply(Operation::List, prefix, self.inner.directories(prefix)))
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Attempt<()>> {
        Box::pin(self.apply(Operation::Delete, key, self.inner.delete(key)))
    }

    fn replace<'a>(&'a self, key: &'a str, content: Bytes, expected: &'a Expected) -> BoxFuture<'a, Attempt<Version>> {
        Box::pin(async move {
            let fault = self.fault(Operation::Replace, key);
            match fault {
                Fault::None => self.inner.replace(key, content, expected).await,
                Fault::Refused => Err(unavailable(key)),
                Fault::Denied => Err(denied(key)),
                Fault::Rejected => Err(rejected(key)),
                Fault::Panics => panic!("planned panic"),
                Fault::ReplyLost => {
                    let _ = self.inner.replace(key, content, expected).await;
                    Err(unavailable(key))
                }
                Fault::Hangs => std::future::pending().await,
                Fault::ConditionIgnored => {
                    self.inner.put(key, &Payload::Memory(content)).await?;
                    Ok(self.inner.get(key).await?.1)
                }
            }
        })
    }
}

fn denied(key: &str) -> StoreError {
    StoreError::Denied { key: key.to_owned(), cause: "planned fault".into() }
}

fn rejected(key: &str) -> StoreError {
    StoreError::Rejected { key: key.to_owned(), cause: "planned fault".into() }
}

fn unavailable(key: &str) -> StoreError {
    StoreError::Unavailable { key: key.to_owned(), cause: "planned fault".into() }
}

/// The next number of the SplitMix64 sequence (Steele, Lea and Flood, 2014).
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
