//! The virtual clock of the memory port: the time-stamp counter of the worker's turns alone.
//!
//! On one core the generator, the director and the sink take turns. If the time of the first and the last ran, a rate would be
//! of all three. So it stands still while they work, and frames are due by a clock that only the worker moves.
//!
//! It also stands still while the machine has taken the core away. Over established flows the worst turn that is the program's own is 32 frames
//! and 64 timers with every line of theirs in memory, some 25 µs, so that what takes longer than [`VirtualClock::GAP`] was an interruption: it is
//! counted, and charged as the turn before it. Behind it the caches are somebody else's; until they are refilled ([`VirtualClock::RECOVERY`])
//! the clock goes on, but what is lost then is set aside and told apart, not counted as the director's.
//!
//! How long that takes is a matter of the flows: one is in the cache again when a packet of it has come, and packets come in random order. A
//! clock that went by the size of a cache alone (half a millisecond) took the rest of it, some ten milliseconds with 100,000 flows, for the
//! director's own slowness: no rate above the one out of memory then held, and searches differed by how often the machine had interrupted.

use lcs_dataplane::cycles::{tsc, tsc_hz};

/// Cycles of the worker's turns.
#[derive(Debug, Clone)]
pub(crate) struct VirtualClock {
    cycles: u64,
    usual: u64,
    gap: u64,
    hz: f64,
    recovery: u64,
    recovered: u64,
    /// Turns that were interrupted.
    pub interruptions: u64,
    /// Cycles of these.
    pub left_out: u64,
}

impl VirtualClock {
    /// Seconds; a turn that takes longer was interrupted.
    pub const GAP: f64 = 30e-6;
    /// Least seconds of its own time in which a worker has its caches again when another program had the core: the second-level cache, and what of
    /// the last one was lost, at some GB/s from memory.
    pub const RECOVERY: f64 = 500e-6;
    /// Seconds for each flow: twice the time of a packet, after which six of seven flows have been met.
    pub const FLOW_RECOVERY: f64 = 150e-9;
    /// Most seconds for all flows: more of them than this are not in a cache anyway.
    pub const LONGEST_RECOVERY: f64 = 30e-3;
    /// The same behind an interrupt, which leaves most of them alone.
    pub const SHORT_RECOVERY: f64 = 50e-6;
    /// Seconds; what takes longer was another program and no interrupt.
    pub const LONG: f64 = 100e-6;

    /// A clock that takes a turn of more than `gap` seconds for an interruption, behind which so many flows must be met again.
    pub fn new(gap: f64, flows: usize) -> Self {
        let hz = tsc_hz() as f64;
        let recovery = (Self::FLOW_RECOVERY * flows as f64).clamp(Self::RECOVERY, Self::LONGEST_RECOVERY);
        let (gap, recovery) = ((hz * gap) as u64, (hz * recovery) as u64);
        VirtualClock { cycles: 0, usual: 0, gap, hz, recovery, recovered: 0, interruptions: 0, left_out: 0 }
    }

    /// Whether the worker still suffers from an interruption.
    #[inline]
    pub fn recovering(&self) -> bool {
        self.cycles < self.recovered
    }

    /// Runs a turn of the worker; the clock goes on by what it took.
    #[inline]
    pub fn turn<T>(&mut self, turn: impl FnOnce() -> T) -> T {
        let begin = tsc();
        let result = turn();
        self.pass(tsc().wrapping_sub(begin));
        result
    }

    #[inline]
    fn pass(&mut self, cycles: u64) {
        if cycles > self.gap {
            self.interruptions += 1;
            self.left_out += cycles;
            self.cycles += self.usual;
            let long = cycles as f64 > self.hz * Self::LONG;
            let recovery = if long { self.recovery } else { (self.hz * Self::SHORT_RECOVERY) as u64 };
            self.recovered = self.recovered.max(self.cycles + recovery);
        } else {
            self.usual = cycles;
            self.cycles += cycles;
        }
    }

    /// Cycles so far.
    #[inline]
    pub fn cycles(&self) -> u64 {
        self.cycles
    }

    /// Nanoseconds so far.
    #[inline]
    pub fn ns(&self) -> u64 {
        (self.cycles as f64 * 1e9 / self.hz) as u64
    }
}

/// When frames are due: one after the other at equal distances, by whatever clock.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    begin: f64,
    interval: f64,
    /// Frames that have been due, and that will have been in the end.
    n: u64,
    all: u64,
}

impl Schedule {
    /// From `begin` to `end`, cycles, a frame each `interval` cycles. A clock's rate is no round number: what is less than a millionth of an interval
    /// too long makes no frame more.
    pub fn new(begin: u64, end: u64, interval: f64) -> Self {
        let intervals = end.saturating_sub(begin) as f64 / interval;
        Schedule { begin: begin as f64, interval, n: 0, all: (intervals - 1e-6).ceil() as u64 }
    }

    /// The time of the next frame, cycles.
    #[inline]
    fn next(&self) -> f64 {
        self.n as f64 * self.interval + self.begin
    }

    /// The time of the next frame if it is due at `now`.
    #[inline]
    pub fn due(&mut self, now: u64) -> Option<u64> {
        let next = self.next();
        (next <= now as f64 && self.n < self.all).then(|| {
            self.n += 1;
            next as u64
        })
    }

    /// Passes over all that is due at `now`, and returns how many frames that is.
    pub fn skip(&mut self, now: u64) -> u64 {
        let next = self.next();
        if next > now as f64 {
            return 0;
        }
        // Those at `next`, `next + interval`, … that are not after `now`.
        let n = ((now as f64 - next) / self.interval) as u64 + 1;
        let n = n.min(self.all - self.n);
        self.n += n;
        n
    }

    /// Whether the last frame has been due.
    pub fn over(&self) -> bool {
        self.n >= self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_due_once_and_none_after_the_end() {
        for (interval, expected) in [(10.0, 100), (3.0, 334), (0.25, 4000), (1000.0, 1), (999.9, 2)] {
            let mut one = Schedule::new(500, 1500, interval);
            let (mut n, mut now, mut last) = (0, 500, 0);
            while !one.over() {
                while let Some(due) = one.due(now) {
                    assert!(due <= now && due >= last && due < 1500);
                    (last, n) = (due, n + 1);
                }
                now += 7;
            }
            assert_eq!(n, expected, "{interval}");
            let mut other = Schedule::new(500, 1500, interval);
            let (mut n, mut now) = (0, 500);
            while !other.over() {
                // Single frames and whole gaps, mixed.
                n += u64::from(other.due(now).is_some()) + other.skip(now);
                assert_eq!(other.skip(now), 0);
                now += 70;
            }
            assert_eq!(n, expected, "{interval}");
        }
    }

    #[test]
    fn a_rate_and_a_time_make_a_number_of_frames_whatever_the_clocks_rate() {
        for hz in (2_249_999_000u64..2_250_001_000).step_by(7) {
            let begin = hz * 3 + 1;
            let mut schedule = Schedule::new(begin, begin + (0.01 * hz as f64) as u64, hz as f64 / 100e3);
            assert_eq!(schedule.skip(u64::MAX), 1000, "{hz}");
            assert!(schedule.over() && schedule.due(u64::MAX).is_none());
        }
    }

    #[test]
    fn an_interrupted_turn_is_charged_as_the_one_before() {
        let mut clock = VirtualClock::new(VirtualClock::GAP, 10);
        clock.pass(1000);
        let long = clock.gap + 1;
        assert!(!clock.recovering());
        clock.pass(long);
        assert!(clock.recovering());
        clock.pass(500);
        assert_eq!((clock.cycles(), clock.interruptions, clock.left_out), (2500, 1, long));
    }

    #[test]
    fn the_more_flows_the_longer_the_caches_take() {
        let recovery = |flows| VirtualClock::new(VirtualClock::GAP, flows).recovery as f64 / tsc_hz() as f64;
        assert!((recovery(1) - 500e-6).abs() < 1e-6 && (recovery(100_000) - 15e-3).abs() < 1e-5);
        assert!((recovery(50_000_000) - 30e-3).abs() < 1e-5);
    }
}
