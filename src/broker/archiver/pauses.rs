//! How long the archive's loops wait after a failure, so that a bucket that comes back is not met by all of them in step.

use std::time::Duration;

use crate::archive::store::jittered;
use crate::runtime::entropy::Entropy;
use crate::types::Monotonic;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after so many failures before this one: the longest it may be doubles from half a second to a minute.
pub(super) fn pause_after(failures: u32, entropy: &dyn Entropy) -> Duration {
    jittered((FIRST * 2_u32.saturating_pow(failures.min(16))).min(LONGEST), entropy)
}

/// When something is tried again that failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retry {
    failures: u32,
    not_before: Monotonic,
}

impl Retry {
    /// Whether its time has come.
    pub(super) fn is_due(&self, now: Monotonic) -> bool {
        self.not_before <= now
    }

    /// It failed once more.
    pub(super) fn fail(&mut self, now: Monotonic, entropy: &dyn Entropy) {
        self.not_before = now + pause_after(self.failures, entropy);
        self.failures = self.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::runtime::production::KernelEntropy;

    #[test]
    fn pauses_grow_to_the_longest_and_are_not_in_step() {
        for (failures, ceiling_ms) in [(0, 500), (1, 1000), (5, 16_000), (7, 60_000), (u32::MAX, 60_000)] {
            let ceiling = Duration::from_millis(ceiling_ms);
            let pauses: BTreeSet<_> = (0..100).map(|_| pause_after(failures, &KernelEntropy)).collect();
            assert!(pauses.iter().all(|pause| (ceiling / 2..=ceiling).contains(pause)), "{pauses:?}");
            assert!(pauses.len() > 10, "{pauses:?}");
        }
    }
}
