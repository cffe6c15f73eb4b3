//! Whether the broker is ready to serve, and what it waits for.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What keeps the broker from being ready, by component. Components report here; `/health/ready` and the gauge
/// `alluvium_process_ready` show it. The ready file does not follow it: that is written once, when the broker serves.
/// Cheap to clone; nobody decides by it but those who watch the broker.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    reasons: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    /// Records why a component is not ready; a later reason of the same component takes its place.
    pub fn not_ready(&self, component: &str, reason: impl Into<String>) {
        self.reasons.lock().insert(component.to_owned(), reason.into());
    }

    /// Records that a component is ready.
    pub fn ready(&self, component: &str) {
        self.reasons.lock().remove(component);
    }

    /// Why the broker is not ready, by component; empty when it is.
    pub fn reasons(&self) -> BTreeMap<String, String> {
        self.reasons.lock().clone()
    }
}
