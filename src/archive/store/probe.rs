//! Proves at start-up that a store keeps the promises the archive is built on.
//!
//! Some servers accept the headers of conditional writes and ignore them; others check and then write, so that two
//! writers can both win. Either would let two leaders commit to one head, so such a store is refused, with the reason.
//! The races need about as long as the slowest contended write of the store; probe objects are removed afterwards.

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::StreamExt;
use thiserror::Error;

use super::{Expected, Operation, Store, StoreError, Version};

/// Where probe objects are.
const DIRECTORY: &str = "probe/";
/// Races that are run at once, each on a key of its own, and the writers of each.
const RACES: usize = 4;
const WRITERS_PER_RACE: usize = 6;
/// How often an object is removed before it counts as one that stays.
const REMOVALS: usize = 4;

/// Why a store cannot hold an archive.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// A conditional write happened although its condition did not hold.
    #[error("the object store does not honour conditional writes: {check}; use a store that does")]
    ConditionIgnored {
        /// What was tried.
        check: &'static str,
    },
    /// Conditional writes are refused, whatever their condition.
    #[error("the object store does not take conditional writes: {source}; use a store that does")]
    ConditionRefused {
        /// What it said.
        source: StoreError,
    },
    /// What was written could not be read, found or removed.
    #[error("the object store does not give back what it was given: {check}")]
    Inconsistent {
        /// What was tried.
        check: &'static str,
    },
    /// A plain request failed.
    #[error("the object store fails at start-up while {during}: {source}")]
    Failed {
        /// What was tried.
        during: &'static str,
        /// The failure.
        source: StoreError,
    },
}

impl Store {
    /// Proves write, conditional write, read, list and delete, and races conditional writes against each other.
    pub async fn probe(&self) -> Result<(), ProbeError> {
        // All in one directory, so that a file store keeps no more than that.
        let stem = format!("{DIRECTORY}{:016x}-", self.inner.runtime.entropy.number());
        let result = self.probe_at(&stem).await;
        for key in (0..RACES).map(|race| format!("{stem}race-{race}")).chain([format!("{stem}serial")]) {
            if let Err(error) = self.delete(&key).await {
                tracing::warn!(key, %error, "could not remove a probe object");
            }
        }
        result
    }

    async fn probe_at(&self, stem: &str) -> Result<(), ProbeError> {
        self.probe_serial(&format!("{stem}serial")).await?;
        let races = (0..RACES).map(|race| {
            let key = format!("{stem}race-{race}");
            async move { self.probe_race(&key).await }
        });
        join_all(races).await.into_iter().collect()
    }

    async fn probe_serial(&self, key: &str) -> Result<(), ProbeError> {
        let first = Bytes::from_static(b"{\"probe\":1}");
        let second = Bytes::from_static(b"{\"probe\":2}");
        let create = self.replace(key, first.clone(), Expected::Absent).await;
        let created = create.map_err(|error| during_replace("creating an object conditionally", error))?;
        match self.once(key, &second, &Expected::Absent).await {
            Ok(_) => return Err(ProbeError::ConditionIgnored { check: "a second create of one key succeeded" }),
            Err(StoreError::ConditionFailed { .. } | StoreError::Contended { .. }) => {}
            Err(source) => return Err(ProbeError::Failed { during: "creating an object twice", source }),
        }
        let update = self.replace(key, second.clone(), Expected::Version(created.clone())).await;
        update.map_err(|error| during_replace("updating an object conditionally", error))?;
        match self.once(key, &first, &Expected::Version(created)).await {
            Ok(_) => return Err(ProbeError::ConditionIgnored { check: "an update with a stale version succeeded" }),
            Err(StoreError::ConditionFailed { .. } | StoreError::Contended { .. }) => {}
            Err(source) => return Err(ProbeError::Failed { during: "updating with a stale version", source }),
        }
        let failed = |during| move |source| ProbeError::Failed { during, source };
        let (found, _) = self.get(key).await.map_err(failed("reading an object"))?;
        if found != second {
            return Err(ProbeError::Inconsistent { check: "a read does not return what was written last" });
        }
        let range = self.get_ranges(key, std::slice::from_ref(&(1..6))).await.map_err(failed("reading a range"))?;
        if range[0] != second.slice(1..6) {
            return Err(ProbeError::Inconsistent { check: "a ranged read returns other bytes" });
        }
        let listed: Vec<_> = self.list(DIRECTORY).collect().await;
        let listed: Result<Vec<_>, _> = listed.into_iter().collect();
        if !listed.map_err(failed("listing"))?.iter().any(|object| object.key == *key) {
            return Err(ProbeError::Inconsistent { check: "a listing does not show an object that exists" });
        }
        // An attempt at creating it that timed out may be carried out once it is gone.
        for _ in 0..REMOVALS {
            self.delete(key).await.map_err(failed("removing an object"))?;
            if self.get_if_present(key).await.map_err(failed("reading a removed object"))?.is_none() {
                return Ok(());
            }
        }
        Err(ProbeError::Inconsistent { check: "a removed object can still be read" })
    }

    /// Many creates at once, then many updates of the same version at once: at most one of each may succeed.
    async fn probe_race(&self, key: &str) -> Result<(), ProbeError> {
        self.race(key, Expected::Absent, "several concurrent creates of one key succeeded").await?;
        let settled = self.get(key).await;
        let (_, version) = settled.map_err(|source| ProbeError::Failed { during: "reading after a race", source })?;
        let expected = Expected::Version(version);
        self.race(key, expected, "several concurrent updates of one version succeeded").await
    }

    async fn race(&self, key: &str, expected: Expected, check: &'static str) -> Result<(), ProbeError> {
        let writers = (0..WRITERS_PER_RACE).map(|_| {
            let content = Bytes::from(format!("{{\"racer\":\"{:016x}\"}}", self.inner.runtime.entropy.number()));
            let expected = expected.clone();
            async move { (self.once(key, &content, &expected).await.is_ok(), content) }
        });
        let results = join_all(writers).await;
        let winners: Vec<_> = results.iter().filter(|(won, _)| *won).map(|(_, content)| content).collect();
        if winners.len() > 1 {
            return Err(ProbeError::ConditionIgnored { check });
        }
        // When every racer was turned away for contention, a lone write must get through.
        if winners.is_empty() {
            let content = Bytes::from(format!("{{\"racer\":\"{:016x}\"}}", self.inner.runtime.entropy.number()));
            return match self.replace(key, content, expected).await {
                Ok(_) | Err(super::ReplaceError::Conflict { .. }) => Ok(()),
                Err(error) => Err(during_replace("writing after a race", error)),
            };
        }
        let (found, _) =
            self.get(key).await.map_err(|source| ProbeError::Failed { during: "reading after a race", source })?;
        if found != *winners[0] {
            return Err(ProbeError::ConditionIgnored { check: "a loser's content replaced the winner's" });
        }
        Ok(())
    }

    async fn once(&self, key: &str, content: &Bytes, expected: &Expected) -> Result<Version, StoreError> {
        let request = || self.inner.backend.replace(key, content.clone(), expected);
        self.attempt(Operation::Replace, key, std::time::Duration::ZERO, request).await
    }
}

fn during_replace(during: &'static str, error: super::ReplaceError) -> ProbeError {
    match error {
        super::ReplaceError::Conflict { .. } => {
            ProbeError::Inconsistent { check: "a conditional write of an untouched object was refused" }
        }
        super::ReplaceError::Store(source @ StoreError::Rejected { .. }) => ProbeError::ConditionRefused { source },
        super::ReplaceError::Unknown { source, .. } | super::ReplaceError::Store(source) => {
            ProbeError::Failed { during, source }
        }
    }
}
