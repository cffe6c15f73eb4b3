//! Histograms of plain atomics with fixed bounds: an observation is a scan of a dozen bounds and two relaxed additions,
//! with no lock, so that it may stand on the hot path.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds of the latency buckets in nanoseconds: 100 µs to 10 s; what is slower falls into the last, unbounded one.
const LATENCY_BOUNDS_NS: [u64; BOUNDS] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
    500_000_000,
    2_500_000_000,
    10_000_000_000,
];
/// Upper bounds of the size buckets in bytes: 256 B to 1 GiB, by factors of four.
const SIZE_BOUNDS_BYTES: [u64; BOUNDS] =
    [1 << 8, 1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26, 1 << 28, 1 << 30];
const BOUNDS: usize = 12;

#[derive(Default)]
struct Cells {
    /// Observations by bucket; the last has no upper bound.
    counts: [AtomicU64; BOUNDS + 1],
    /// Sum of what was observed, in the unit of the bounds.
    sum: AtomicU64,
}

impl Cells {
    fn observe(&self, bounds: &[u64; BOUNDS], value: u64) {
        let bucket = bounds.iter().position(|&bound| value <= bound).unwrap_or(BOUNDS);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Hands the buckets over, divided by `scale` to arrive at the unit that is shown.
    fn encode(&self, bounds: &[u64; BOUNDS], scale: f64, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let upper = bounds.iter().map(|&bound| bound as f64 / scale).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = upper.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.sum.load(Ordering::Relaxed) as f64 / scale;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// Declares a histogram over one unit.
macro_rules! histogram {
    ($(#[$meta:meta])* $name:ident, $bounds:ident, $scale:expr) => {
        $(#[$meta])*
        #[derive(Clone, Default)]
        pub struct $name {
            cells: Arc<Cells>,
        }

        impl $name {
            /// Number of observations so far.
            pub fn count(&self) -> u64 {
                self.cells.count()
            }
        }

        impl TypedMetric for $name {
            const TYPE: MetricType = MetricType::Histogram;
        }

        impl EncodeMetric for $name {
            fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
                self.cells.encode(&$bounds, $scale, encoder)
            }

            fn metric_type(&self) -> MetricType {
                Self::TYPE
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(count={})"), self.count())
            }
        }
    };
}

histogram! {
    /// How long something took; shown in seconds.
    LatencyHistogram, LATENCY_BOUNDS_NS, 1e9
}
histogram! {
    /// How large something was; shown in bytes.
    SizeHistogram, SIZE_BOUNDS_BYTES, 1.0
}

impl LatencyHistogram {
    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        self.cells.observe(&LATENCY_BOUNDS_NS, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl SizeHistogram {
    /// Counts one size in bytes.
    pub fn observe(&self, bytes: u64) {
        self.cells.observe(&SIZE_BOUNDS_BYTES, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_grow_from_bucket_to_bucket() {
        assert!(LATENCY_BOUNDS_NS.is_sorted() && SIZE_BOUNDS_BYTES.is_sorted());
    }

    #[test]
    fn an_observation_on_a_bound_falls_below_it_and_one_past_the_last_is_kept() {
        let histogram = SizeHistogram::default();
        for bytes in [0, 256, 257, u64::from(u32::MAX)] {
            histogram.observe(bytes);
        }
        let counts: Vec<u64> = histogram.cells.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        assert_eq!((counts[0], counts[1], counts[BOUNDS], histogram.count()), (2, 1, 1, 4));
    }
}
