//! How long to wait before asking again: exponential backoff with jitter, and a bounded number of times.

use std::time::Duration;

use super::StoreSettings;
use crate::runtime::entropy::Entropy;

/// A pause between half and all of `ceiling`: those who failed together do not come back together.
pub fn jittered(ceiling: Duration, entropy: &dyn Entropy) -> Duration {
    let half_ms = u64::try_from(ceiling.as_millis() / 2).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(half_ms + entropy.number() % half_ms)
}

/// The pauses of one operation.
pub(super) struct Backoff<'a> {
    entropy: &'a dyn Entropy,
    ceiling_ms: u64,
    longest_ms: u64,
    pauses_left: u32,
}

impl<'a> Backoff<'a> {
    pub(super) fn new(settings: &StoreSettings, entropy: &'a dyn Entropy) -> Self {
        Self {
            entropy,
            ceiling_ms: settings.backoff_first_ms.max(1),
            longest_ms: settings.backoff_longest_ms.max(1),
            pauses_left: settings.max_attempts.saturating_sub(1),
        }
    }

    /// The next pause: between half and all of a ceiling that doubles; `None` when it is time to give up.
    pub(super) fn next_pause(&mut self) -> Option<Duration> {
        self.pauses_left = self.pauses_left.checked_sub(1)?;
        let pause = jittered(Duration::from_millis(self.ceiling_ms), self.entropy);
        self.ceiling_ms = self.ceiling_ms.saturating_mul(2).min(self.longest_ms);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::production::KernelEntropy;

    #[test]
    fn pauses_grow_to_the_longest_and_end() {
        let settings = StoreSettings { max_attempts: 20, ..StoreSettings::default() };
        let mut backoff = Backoff::new(&settings, &KernelEntropy);
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.next_pause()).collect();
        assert_eq!(pauses.len(), 19);
        assert!(pauses[0] < Duration::from_millis(50));
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(5)));
        assert!(pauses[18] >= Duration::from_millis(2500));
    }
}
