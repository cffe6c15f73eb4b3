//! Counts what is asked of the object store.

use std::sync::Arc;
use std::time::Duration;

use crate::archive::store::{InFlight, Operation, StoreError, StoreObserver};
use crate::telemetry::{Counted, Metrics, StoreOperation};

/// Feeds the store's metrics.
pub(super) struct Observer {
    pub(super) metrics: Arc<Metrics>,
}

impl StoreObserver for Observer {
    fn request(&self, operation: Operation, elapsed: Duration, error: Option<&StoreError>) {
        let label = match operation {
            Operation::Put => StoreOperation::Put,
            Operation::Get => StoreOperation::Get,
            Operation::GetRanges => StoreOperation::GetRanges,
            Operation::Size => StoreOperation::Size,
            Operation::List => StoreOperation::List,
            Operation::Delete => StoreOperation::Delete,
            Operation::Replace => StoreOperation::Replace,
        };
        let metrics = &self.metrics.store;
        metrics.requests.of(label).inc();
        metrics.request_seconds.of(label).observe(elapsed);
        let failed = error.is_some_and(|error| !is_answer(error));
        if failed {
            metrics.errors.of(label).inc();
        }
        metrics.available.set(i64::from(!failed));
    }

    fn begin(&self) -> InFlight {
        Box::new(Counted::new(&self.metrics.store.requests_in_flight))
    }

    fn transferred(&self, operation: Operation, bytes: u64) {
        match operation {
            Operation::Put | Operation::Replace => self.metrics.store.written_bytes.inc_by(bytes),
            _ => self.metrics.store.read_bytes.inc_by(bytes),
        };
    }
}

/// Whether the store works and only says no: the object is not there, or another's conditional write came first.
const fn is_answer(error: &StoreError) -> bool {
    matches!(error, StoreError::NotFound { .. } | StoreError::ConditionFailed { .. } | StoreError::Contended { .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_no_failures() {
        let observer = Observer { metrics: Metrics::new() };
        let metrics = &observer.metrics.store;
        let (errors, key) = (metrics.errors.of(StoreOperation::Replace), || "key".to_owned());
        let request = |error: &StoreError| observer.request(Operation::Replace, Duration::ZERO, Some(error));
        request(&StoreError::TimedOut { key: key(), timeout_ms: 1 });
        assert_eq!((errors.get(), metrics.available.get()), (1, 0));
        for answer in [
            StoreError::NotFound { key: key() },
            StoreError::ConditionFailed { key: key() },
            StoreError::Contended { key: key() },
        ] {
            metrics.available.set(0);
            request(&answer);
            assert_eq!((errors.get(), metrics.available.get()), (1, 1), "{answer}");
        }
        assert_eq!(metrics.requests.of(StoreOperation::Replace).get(), 4);
    }
}
