//! Cycle accounting: what each stage costs, always on.
//!
//! A stage is charged the cycles between two readings of the time-stamp counter. The reading that ends one
//! stage begins the next, so a pipeline of S stages costs S + 1 readings a batch, not two a packet.
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

/// Charges stages one after the other: the reading that ends one begins the next.
#[derive(Debug)]
pub struct Stopwatch<'m, M> {
    meter: &'m mut M,
    last: u64,
}

impl<'m, M: Meter> Stopwatch<'m, M> {
    /// Starts now.
    #[inline(always)]
    pub fn start(meter: &'m mut M) -> Self {
        let last = meter.read();
        Stopwatch { meter, last }
    }

    /// The last reading.
    #[inline(always)]
    pub fn reading(&self) -> u64 {
        self.last
    }

    /// Charges `cost` with what has passed since the last reading, for `packets` packets. Returns that, in cycles.
    #[inline(always)]
    pub fn lap(&mut self, cost: &mut StageCost, packets: usize) -> u64 {
        let now = self.meter.read();
        let cycles = now.wrapping_sub(self.last);
        self.last = now;
        cost.charge(packets, cycles);
        cycles
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
    /// Cycles spent.
    pub cycles: u64,
    /// Batches by the binary logarithm of their cycles per packet.
    pub histogram: [u64; BUCKETS],
}

impl StageCost {
    /// Charges a batch of `packets` packets with `cycles` cycles.
    #[inline]
    pub fn charge(&mut self, packets: usize, cycles: u64) {
        self.calls += 1;
        self.packets += packets as u64;
        self.cycles += cycles;
        // A batch has at most 32 packets: a multiplication by a tabulated reciprocal replaces the division.
        let each = (cycles as u32).saturating_mul(RECIPROCAL[packets.min(63)] as u32) >> 12;
        let bucket = (32 - (each | 1).leading_zeros() - 1) as usize;
        self.histogram[bucket.min(BUCKETS - 1)] += 1;
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

/// `4096 / n`, for the histogram.
static RECIPROCAL: [u16; 64] = {
    let mut table = [4096u16; 64];
    let mut n = 1;
    while n < 64 {
        table[n] = (4096 / n) as u16;
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_lands_in_the_bucket_of_its_cycles_per_packet() {
        let mut cost = StageCost::default();
        cost.charge(32, 32 * 40);
        cost.charge(1, 700);
        cost.charge(2, u64::from(u32::MAX));
        assert_eq!((cost.histogram[5], cost.histogram[9], cost.histogram[BUCKETS - 1]), (1, 1, 1));
        assert_eq!((cost.calls, cost.packets), (3, 35));
    }

    #[test]
    fn the_counter_has_a_plausible_frequency() {
        let hz = tsc_hz();
        assert!((100_000_000..20_000_000_000).contains(&hz), "{hz}");
    }
}
