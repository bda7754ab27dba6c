//! Looks at the core and its last-level cache while something runs there: which slices of its time it had to itself.
//!
//! Two neighbours slow a core down: one on its other hardware thread, which takes execution units ([`glance`]), and those on other cores, which take
//! room in the last-level cache ([`Chain`]). The first stays for some milliseconds, the second for about a second. What is to be expected of
//! a core that nobody disturbs is learnt from the looks of the run itself: the most additions that it ever ended in a cycle, and the
//! tenth percentile of what the chain took. So a cache that the program under test evicts itself shifts what is expected, and is not set aside.

use lcs_dataplane::cycles::{tsc, tsc_hz};
use lcs_dataplane::share::{Chain, WHOLE_CORE, glance};

/// Of the most additions a cycle, what a core gives to a thread that has it alone, at least: a glance finds up to a tenth less.
const ALONE: f64 = 0.8;
/// A core that was never found to give so many additions a cycle is not taken for a whole one, but for a part of a [`WHOLE_CORE`]: half of a core of four
/// or five ends less, a whole one of three more.
const WHOLE_AT_LEAST: f64 = 2.6;
/// So many of the highest looks are left out of the most: a look that an interrupt has spoilt finds more than there is.
const SPOILT: usize = 8;
/// Of the cache's usual time, what it takes while others use it, at least.
const EVICTED: f64 = 1.25;
/// Looks at the cache before its usual time is known: a tenth of a second.
const LEARNT: u32 = 400;
/// Looks of which the median is taken, for single ones scatter: about a millisecond, where what disturbs lasts a second.
const RECENT: usize = 5;
/// Buckets of times, each a fiftieth wider than the one before: to 10,000 cycles and more.
const BUCKETS: usize = 512;
const WIDTH: f64 = 1.02;

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Somebody used the core's other hardware thread.
    pub shared: bool,
    /// The last-level cache had lost more than it usually does.
    pub evicted: bool,
}

impl Look {
    /// Nobody disturbed, or nothing of it can be seen.
    pub const ALONE: Look = Look { shared: false, evicted: false };

    pub fn disturbed(self) -> bool {
        self.shared || self.evicted
    }

    fn or(self, other: Look) -> Look {
        Look { shared: self.shared || other.shared, evicted: self.evicted || other.evicted }
    }
}

/// The usual time of the chain, for one size of frames.
#[derive(Debug)]
struct Usual {
    size: u64,
    counts: Vec<u32>,
    looks: u32,
    /// Cycles from which on the cache counts as evicted.
    limit: f64,
}

impl Usual {
    fn new(size: u64) -> Self {
        Usual { size, counts: vec![0; BUCKETS], looks: 0, limit: f64::INFINITY }
    }

    fn note(&mut self, cycles: u64) {
        let at = ((cycles.max(1) as f64).ln() / WIDTH.ln()) as usize;
        if let Some(count) = self.counts.get_mut(at.min(BUCKETS - 1)) {
            *count += 1;
            self.looks += 1;
        }
    }

    fn learn(&mut self) {
        if self.looks < LEARNT {
            return;
        }
        let mut sum = 0;
        let tenth = self.counts.iter().position(|n| {
            sum += n;
            sum > self.looks / 10
        });
        // The middle of the bucket.
        self.limit = EVICTED * WIDTH.powf(tenth.unwrap_or(BUCKETS) as f64 + 0.5);
    }
}

/// Looks every [`Looks::SECONDS`], for a whole run.
#[derive(Debug)]
pub(super) struct Looks {
    every: u64,
    next: u64,
    chain: Chain,
    recent: [u64; RECENT],
    /// The most additions a cycle so far, rising; the first of them counts.
    most: [f64; SPOILT],
    usual: Vec<Usual>,
    at: usize,
    last: Look,
    /// Looks of this trial, and those that found a neighbour.
    pub looks: u32,
    pub shared: u32,
    pub evicted: u32,
}

impl Looks {
    /// Seconds between two looks, which take some hundredth of it.
    pub const SECONDS: f64 = 250e-6;

    pub fn new() -> Self {
        Looks {
            every: (tsc_hz() as f64 * Self::SECONDS) as u64,
            next: 0,
            chain: Chain::new(),
            recent: [0; RECENT],
            most: [0.0; SPOILT],
            usual: vec![],
            at: 0,
            last: Look::ALONE,
            looks: 0,
            shared: 0,
            evicted: 0,
        }
    }

    /// A trial with frames of so many bytes on average begins, and with it the first slice.
    pub fn begin(&mut self, size: u64) {
        self.at = self.usual.iter().position(|u| u.size == size).unwrap_or_else(|| {
            self.usual.push(Usual::new(size));
            self.usual.len() - 1
        });
        if let Some(usual) = self.usual.get_mut(self.at) {
            usual.learn();
        }
        self.look();
        (self.looks, self.shared, self.evicted) = (0, 0, 0);
    }

    /// Where a slice has ended, or ends `now`: what either of its ends has found.
    #[inline]
    pub fn ended(&mut self, now: bool) -> Option<Look> {
        (now || tsc() >= self.next).then(|| self.look())
    }

    /// What the last look found.
    pub fn last(&self) -> Look {
        self.last
    }

    /// From now on the cache of a trial with such frames is expected to take so many cycles.
    #[cfg(test)]
    pub fn expect(&mut self, size: u64, cycles: u64) {
        self.begin(size);
        if let Some(usual) = self.usual.get_mut(self.at) {
            *usual = Usual::new(size);
            (0..1_000_000).for_each(|_| usual.note(cycles));
        }
    }

    #[inline(never)]
    fn look(&mut self) -> Look {
        let chain = self.chain.glance();
        let found = self.judge(glance(), chain);
        self.looks += 1;
        self.shared += u32::from(found.shared);
        self.evicted += u32::from(found.evicted);
        self.next = tsc() + self.every;
        std::mem::replace(&mut self.last, found).or(found)
    }

    fn judge(&mut self, additions: Option<f64>, chain: Option<u64>) -> Look {
        let mut found = Look::ALONE;
        if let Some(rate) = additions {
            if rate > self.most[0] {
                self.most[0] = rate;
                self.most.sort_by(f64::total_cmp);
            }
            found.shared = rate < ALONE * if self.most[0] >= WHOLE_AT_LEAST { self.most[0] } else { WHOLE_CORE };
        }
        if let (Some(cycles), Some(usual)) = (chain, self.usual.get_mut(self.at)) {
            self.recent.rotate_left(1);
            self.recent[RECENT - 1] = cycles;
            let mut sorted = self.recent;
            sorted.sort_unstable();
            let median = sorted[RECENT / 2];
            // What somebody on the other thread does to this core's own caches is not the last one's.
            if !found.shared {
                usual.note(median);
            }
            found.evicted = median as f64 > usual.limit;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many looks, of which those at the end are returned.
    fn looks(looks: &mut Looks, rate: f64, cycles: u64, times: usize) -> Look {
        looks.begin(64);
        (0..times).map(|_| looks.judge(Some(rate), Some(cycles))).last().unwrap_or(Look::ALONE)
    }

    #[test]
    fn a_core_is_compared_with_the_best_that_it_gave_itself() {
        for (whole, half) in [(4.0, 2.1), (2.9, 1.5), (6.0, 3.1)] {
            let mut of = Looks::new();
            // Before this core was ever seen whole, half of one of six cannot be told from one of three.
            assert_eq!(looks(&mut of, half, 400, 20).shared, half < WHOLE_AT_LEAST);
            assert!(!looks(&mut of, whole, 400, 20).shared, "{whole}");
            assert!(looks(&mut of, half, 400, 20).shared && !looks(&mut of, whole * 0.9, 400, 20).shared, "{whole}");
        }
        // Some looks that found more than there is are no measure.
        let mut of = Looks::new();
        looks(&mut of, 9.0, 400, SPOILT - 1);
        assert!(!looks(&mut of, 4.0, 400, 20).shared);
    }

    #[test]
    fn a_cache_that_others_use_is_told_from_one_that_is_always_so_slow() {
        let mut of = Looks::new();
        assert!(!looks(&mut of, 4.0, 900, 10).evicted);
        looks(&mut of, 4.0, 400, 500);
        assert!(looks(&mut of, 4.0, 520, 10).evicted && !looks(&mut of, 4.0, 440, 10).evicted);
        // One look that was slow is none.
        assert!(!looks(&mut of, 4.0, 2000, 1).evicted);
        // Another program under test, which fills the cache itself.
        let mut of = Looks::new();
        looks(&mut of, 4.0, 1500, 500);
        assert!(!looks(&mut of, 4.0, 1600, 500).evicted);
    }
}
