//! Latencies in buckets whose width grows with the value: a relative error below one percent, a few kilobytes, no allocation while noting.
//!
//! Why not the crate `hdrhistogram`: it has had no release since 2023, and this is all of it that is needed.

use serde::{Deserialize, Serialize};

/// Values below this have a bucket each; above it every power of two has half as many.
const LINEAR: u64 = 256;
const HALF: usize = (LINEAR / 2) as usize;
/// Powers of two from [`LINEAR`] to 2^40 ns, 18 minutes.
const OCTAVES: usize = 32;
/// What [`Latency::percentiles`] lists.
const PERCENTILES: [f64; 9] = [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 99.99];

/// Counts of values, ns.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum: u128,
    max: u64,
}

/// What a histogram comes to, ns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Probes that came back.
    pub probes: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them were as fast, or faster.
    pub p50: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1,000.
    pub p999: u64,
    /// All.
    pub max: u64,
    /// More of these: percent, and ns.
    pub percentiles: Vec<(f64, u64)>,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = vec![0; LINEAR as usize + OCTAVES * HALF].into_boxed_slice();
        Histogram { buckets, count: 0, sum: 0, max: 0 }
    }
}

fn bucket(value: u64) -> usize {
    if value < LINEAR {
        return value as usize;
    }
    // So that the 8 highest bits are left, of which the first is always set.
    let shift = value.ilog2() - 7;
    LINEAR as usize + (shift as usize - 1) * HALF + (value >> shift) as usize - HALF
}

/// The largest value of a bucket.
fn highest(bucket: usize) -> u64 {
    if bucket < LINEAR as usize {
        return bucket as u64;
    }
    let (octave, at) = ((bucket - LINEAR as usize) / HALF, (bucket - LINEAR as usize) % HALF);
    (((at + HALF) as u64 + 1) << (octave + 1)) - 1
}

impl Histogram {
    /// Notes a value.
    pub fn note(&mut self, ns: u64) {
        let at = bucket(ns).min(self.buckets.len() - 1);
        self.buckets[at] += 1;
        self.count += 1;
        self.sum += u128::from(ns);
        self.max = self.max.max(ns);
    }

    /// Values that were noted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value that so many percent do not exceed; 0 when there is none.
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut sum = 0;
        for (at, n) in self.buckets.iter().enumerate() {
            sum += n;
            if sum >= rank {
                return highest(at).min(self.max);
            }
        }
        self.max
    }

    /// The values that are reported.
    pub fn summary(&self) -> Latency {
        let p = |percent| self.percentile(percent);
        Latency {
            probes: self.count,
            mean: self.sum as f64 / self.count.max(1) as f64,
            p50: p(50.0),
            p99: p(99.0),
            p999: p(99.9),
            max: self.max,
            percentiles: PERCENTILES.iter().map(|&percent| (percent, p(percent))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent_over_all_magnitudes() {
        for scale in [1u64, 37, 1_000, 999_999, 123_456_789] {
            let mut h = Histogram::default();
            for n in 1..=1000 {
                h.note(n * scale);
            }
            for (percent, exact) in
                [(50.0, 500 * scale), (99.0, 990 * scale), (99.9, 999 * scale), (100.0, 1000 * scale)]
            {
                let got = h.percentile(percent);
                assert!(got >= exact && got as f64 <= exact as f64 * 1.01 + 1.0, "{scale} {percent}: {got}, {exact}");
            }
            assert_eq!(h.summary().max, 1000 * scale);
        }
    }

    #[test]
    fn buckets_follow_each_other_without_gap_and_none_is_out_of_range() {
        for b in 0..LINEAR as usize + OCTAVES * HALF - 1 {
            assert_eq!((bucket(highest(b)), bucket(highest(b) + 1)), (b, b + 1));
        }
        let mut h = Histogram::default();
        h.note(u64::MAX);
        assert!(h.percentile(50.0) >= 1 << 38 && h.summary().max == u64::MAX);
        assert_eq!(Histogram::default().percentile(99.0), 0);
    }
}
