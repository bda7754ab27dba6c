//! How long the worker keeps a packet waiting at most: the lengths of the loop's turns, and which of the long ones are ours.
//!
//! On a machine that others share, a turn is also long because the hypervisor took the core away, which says nothing about the program. Two
//! things tell them apart. The pipeline is deterministic: when the same table is filled and emptied twice, turn `i` does the same
//! work both times, so a pause of ours is there twice and one of the machine's is not; the *repeated* length of a turn is the
//! shorter of its two. And a loop that does nothing but read the clock, for as long as the turns took, shows how long the machine stops
//! any program on this core.

use lcs_dataplane::cycles::tsc;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Lengths of turns, TSC cycles each, in the order in which they were made.
#[derive(Debug, Default, Clone)]
pub(crate) struct Turns(Vec<u32>);

impl Turns {
    /// With room for `turns`, so that noting one does not move the others.
    pub(crate) fn with_capacity(turns: usize) -> Self {
        Turns(Vec::with_capacity(turns))
    }

    /// Times `turn`; returns its cycles.
    pub(crate) fn time(&mut self, turn: impl FnOnce()) -> u64 {
        let before = tsc();
        turn();
        let cycles = tsc() - before;
        self.0.push(u32::try_from(cycles).unwrap_or(u32::MAX));
        cycles
    }
}

/// What the turns of one phase were like. Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pauses {
    /// Turns of the loop.
    pub turns: usize,
    /// Half of them were shorter.
    pub median_us: f64,
    /// All but one in ten thousand were shorter.
    pub p9999_us: f64,
    /// The longest, whatever made it long.
    pub longest_us: f64,
    /// The longest of those that took as long when the same was done again: the program's own. `longest_us` can be this or the machine's.
    pub longest_repeated_us: f64,
}

impl Pauses {
    /// From the same phase, run twice.
    pub(crate) fn of(first: &Turns, second: &Turns, hz: u64) -> Pauses {
        let us = |cycles: u32| f64::from(cycles) / hz as f64 * 1e6;
        let mut all: Vec<u32> = second.0.clone();
        all.sort_unstable();
        let at = |q: f64| all.get(((all.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(0);
        let repeated = first.0.iter().zip(&second.0).map(|(a, b)| *a.min(b)).max().unwrap_or(0);
        Pauses {
            turns: all.len(),
            median_us: us(at(0.5)),
            p9999_us: us(at(0.9999)),
            longest_us: us(at(1.0)),
            longest_repeated_us: us(repeated),
        }
    }
}

impl fmt::Display for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "median {:.1} µs, 99.99 % under {:.1} µs, longest {:.1} µs, longest that repeats {:.1} µs ({} turns)",
            self.median_us, self.p9999_us, self.longest_us, self.longest_repeated_us, self.turns
        )
    }
}

/// How long the machine stopped a loop that does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BareLoop {
    /// How long it ran, seconds.
    pub seconds: f64,
    /// Its longest gap, microseconds.
    pub longest_us: f64,
    /// Its gaps of more than 100 µs.
    pub over_100_us: usize,
}

impl BareLoop {
    /// Spins for `cycles` TSC cycles.
    pub(crate) fn run(cycles: u64, hz: u64) -> BareLoop {
        let limit = hz / 10_000;
        let start = tsc();
        let (mut last, mut longest, mut over) = (start, 0, 0);
        while last - start < cycles {
            let now = tsc();
            let gap = now - last;
            longest = gap.max(longest);
            over += usize::from(gap > limit);
            last = now;
        }
        let us = |cycles: u64| cycles as f64 / hz as f64 * 1e6;
        BareLoop { seconds: us(last - start) / 1e6, longest_us: us(longest), over_100_us: over }
    }
}

impl fmt::Display for BareLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BareLoop { seconds, longest_us, over_100_us } = self;
        write!(
            f,
            "a bare loop on this core: longest gap {longest_us:.1} µs, {over_100_us} over 100 µs in {seconds:.2} s"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_does_not_come_again_is_not_the_programs() {
        let (mut first, mut second) = (Turns(vec![1000; 100]), Turns(vec![1000; 100]));
        first.0[7] = 500_000;
        second.0[9] = 900_000;
        (first.0[40], second.0[40]) = (3000, 4000);
        let p = Pauses::of(&first, &second, 1_000_000_000);
        assert_eq!((p.turns, p.median_us, p.longest_us, p.longest_repeated_us), (100, 1.0, 900.0, 3.0));
    }

    #[test]
    fn the_bare_loop_runs_as_long_as_it_is_told() {
        let b = BareLoop::run(2_000_000, 1_000_000_000);
        assert!(b.seconds >= 0.002 && b.longest_us > 0.0, "{b}");
    }
}
