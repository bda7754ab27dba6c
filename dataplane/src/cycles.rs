//! Cycle accounting: what each stage costs, always on.
//!
//! A stage is charged the cycles between two readings of the time-stamp counter. The reading that ends one
//! stage begins the next, so a pipeline of S stages costs S + 1 readings a batch, not two a packet; and of full
//! batches only some are measured, see [`Sampler`].
//! The counter is behind [`Meter`], so that the simulator and the tests stay deterministic.

use serde::{Deserialize, Serialize};

/// Where a pipeline reads cycles from.
pub trait Meter {
    /// A cycle count that never goes backwards on one core.
    fn read(&mut self) -> u64;
}

/// The processor's time-stamp counter (x86: TSC; aarch64: CNTVCT; elsewhere: nanoseconds).
#[derive(Debug, Clone, Copy, Default)]
pub struct Tsc;

impl Meter for Tsc {
    #[inline(always)]
    fn read(&mut self) -> u64 {
        tsc()
    }
}

/// Reads nothing: for tests, the simulator, and for measuring what accounting costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMeter;

impl Meter for NoMeter {
    #[inline(always)]
    fn read(&mut self) -> u64 {
        0
    }
}

/// Full turns of which one is measured, on average.
const SAMPLED: u64 = 8;
/// From this many frames on, a turn is a full one.
const FULL: usize = crate::batch::BURST / 2;

/// Which turns are measured.
///
/// A worker that keeps up has small batches and time to spare: every turn is measured. One that has fallen behind has full
/// batches and no time to spare: then each turn is measured with a probability of one in eight and charged eightfold, so that cycles
/// stay right on average. The draw is pseudo-random, or traffic with a period could hide from it. Packets and calls are always counted.
#[derive(Debug, Clone)]
pub struct Sampler {
    state: u64,
    full: bool,
}

impl Default for Sampler {
    fn default() -> Self {
        Sampler { state: 0x853c_49e6_748f_ea9b, full: false }
    }
}

impl Sampler {
    /// Begins a turn.
    #[inline(always)]
    pub fn start<'m, M: Meter>(&mut self, meter: &'m mut M) -> Stopwatch<'m, M> {
        if !self.full {
            return Stopwatch::start(meter);
        }
        // Knuth's MMIX generator: its high bits are good.
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let measured = self.state >> 61 == 0;
        let last = if measured { meter.read() } else { 0 };
        Stopwatch { meter, last, weight: if measured { SAMPLED } else { 0 } }
    }

    /// Says how many frames this turn has; the next turn is expected to be like it.
    #[inline(always)]
    pub fn seen(&mut self, frames: usize) {
        self.full = frames >= FULL;
    }
}

/// Charges stages one after the other: the reading that ends one begins the next.
#[derive(Debug)]
pub struct Stopwatch<'m, M> {
    meter: &'m mut M,
    last: u64,
    /// How many turns this one stands for; 0 when it is not measured.
    weight: u64,
}

impl<'m, M: Meter> Stopwatch<'m, M> {
    /// Starts now; measures.
    #[inline(always)]
    pub fn start(meter: &'m mut M) -> Self {
        let last = meter.read();
        Stopwatch { meter, last, weight: 1 }
    }

    /// The last reading.
    #[inline(always)]
    pub fn reading(&self) -> u64 {
        self.last
    }

    /// How many turns this one stands for; 0 when it is not measured.
    #[inline(always)]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Counts `packets` packets at `cost` and, when this turn is measured, charges what has passed since the last reading.
    #[inline(always)]
    pub fn lap(&mut self, cost: &mut StageCost, packets: usize) {
        cost.calls += 1;
        cost.packets += packets as u64;
        if self.weight != 0 {
            let now = self.meter.read();
            cost.weigh(packets, now.wrapping_sub(self.last), self.weight);
            self.last = now;
        }
    }

    /// Charges what has passed since the last reading to a stage whose packets of this turn have been counted.
    #[inline(always)]
    pub fn lap_more(&mut self, cost: &mut StageCost) {
        if self.weight != 0 {
            let now = self.meter.read();
            cost.cycles += now.wrapping_sub(self.last).wrapping_mul(self.weight);
            self.last = now;
        }
    }
}

/// The time-stamp counter, not serialising: a reading may move by some tens of cycles, which a batch averages out.
#[inline(always)]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: RDTSC is available on every x86_64 processor and reads a counter only.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// The counter's frequency in cycles per second, measured once against the monotonic clock (takes 20 ms).
pub fn tsc_hz() -> u64 {
    use std::sync::OnceLock;
    use std::time::{Duration, Instant};
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let (start, from) = (Instant::now(), tsc());
        while start.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let (elapsed, cycles) = (start.elapsed(), tsc() - from);
        (u128::from(cycles) * 1_000_000_000 / elapsed.as_nanos()) as u64
    })
}

/// Buckets of the histogram: bucket `i` counts batches whose cycles per packet were in `[2^i, 2^(i+1))`, the last one everything above.
pub const BUCKETS: usize = 20;

/// What one stage has cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageCost {
    /// Batches in which the stage had at least one packet.
    pub calls: u64,
    /// Packets that the stage worked on.
    pub packets: u64,
    /// Cycles spent, extrapolated from the batches that were measured (see [`Sampler`]).
    pub cycles: u64,
    /// Batches by the binary logarithm of their cycles per packet.
    pub histogram: [u64; BUCKETS],
}

impl StageCost {
    /// Charges one batch of `packets` packets with `cycles` cycles.
    pub fn charge(&mut self, packets: usize, cycles: u64) {
        self.calls += 1;
        self.packets += packets as u64;
        self.weigh(packets, cycles, 1);
    }

    /// Charges the cycles of a batch of `packets` packets (already counted) that stands for `weight` batches.
    #[inline(never)]
    fn weigh(&mut self, packets: usize, cycles: u64, weight: u64) {
        self.cycles += cycles.wrapping_mul(weight);
        let bucket = (cycles / packets.max(1) as u64).max(1).ilog2() as usize;
        self.histogram[bucket.min(BUCKETS - 1)] += weight;
    }

    /// Cycles per packet, 0 when there was none.
    pub fn per_packet(&self) -> f64 {
        if self.packets == 0 { 0.0 } else { self.cycles as f64 / self.packets as f64 }
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &StageCost) -> StageCost {
        let mut histogram = self.histogram;
        for (h, e) in histogram.iter_mut().zip(earlier.histogram) {
            *h = h.wrapping_sub(e);
        }
        StageCost {
            calls: self.calls.wrapping_sub(earlier.calls),
            packets: self.packets.wrapping_sub(earlier.packets),
            cycles: self.cycles.wrapping_sub(earlier.cycles),
            histogram,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up by what it is told.
    struct Steps(u64, u64);

    impl Meter for Steps {
        fn read(&mut self) -> u64 {
            self.0 += self.1;
            self.0
        }
    }

    #[test]
    fn a_batch_lands_in_the_bucket_of_its_cycles_per_packet() {
        let mut cost = StageCost::default();
        for (packets, cycles) in [(32, 32 * 40), (1, 700), (2, u64::from(u32::MAX)), (3, 0)] {
            Stopwatch::start(&mut Steps(0, cycles)).lap(&mut cost, packets);
        }
        let h = cost.histogram;
        assert_eq!((h[0], h[5], h[9], h[BUCKETS - 1]), (1, 1, 1, 1));
        assert_eq!((cost.calls, cost.packets, cost.cycles), (4, 38, 1280 + 700 + u64::from(u32::MAX)));
    }

    #[test]
    fn small_turns_are_all_measured_and_full_ones_extrapolated() {
        let (mut sampler, mut meter, mut cost) = (Sampler::default(), Steps(0, 1000), StageCost::default());
        for _ in 0..100 {
            sampler.start(&mut meter).lap(&mut cost, 4);
            sampler.seen(4);
        }
        assert_eq!((cost.calls, cost.packets, cost.cycles, cost.histogram[7]), (100, 400, 100_000, 100));
        sampler.seen(32);
        let mut cost = StageCost::default();
        let readings = meter.0;
        for _ in 0..80_000 {
            sampler.start(&mut meter).lap(&mut cost, 32);
            sampler.seen(32);
        }
        assert_eq!((cost.calls, cost.packets), (80_000, 2_560_000));
        // 10,000 measured turns of standard deviation 94, two readings each.
        let measured = (meter.0 - readings) / 2000;
        assert!((9_500..10_500).contains(&measured), "{measured}");
        assert_eq!((cost.cycles, cost.histogram[4]), (measured * 8000, measured * 8));
    }

    #[test]
    fn the_counter_has_a_plausible_frequency() {
        let hz = tsc_hz();
        assert!((100_000_000..20_000_000_000).contains(&hz), "{hz}");
    }
}
