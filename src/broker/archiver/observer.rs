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
        // An object that is not there is an answer.
        let failed = error.is_some_and(|error| !matches!(error, StoreError::NotFound { .. }));
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
