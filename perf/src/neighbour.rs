//! Which rounds of a measurement had their core to themselves.
//!
//! On a shared machine a figure is one of two: that of a whole core, or that of a core whose other hardware thread somebody else keeps busy
//! ([`lcs_dataplane::share`]). A median over both says how often the neighbour was there. So each round is taken with a look at the core before and
//! after it, and figures are given for both kinds of rounds.

use crate::summary::Summary;
use lcs_dataplane::share::{WHOLE_CORE, additions_per_cycle};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Of the best rate, what a core gives to a thread that has it alone, at least.
const ALONE: f64 = 0.9;

/// Looks at the core before and after each round.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Additions a cycle, the fewer of the two looks at each round.
    rates: Vec<f64>,
}

/// Runs a round; also says how many additions a cycle the core gave, the fewer of the looks before and after it.
pub(crate) fn looked<T>(round: impl FnOnce() -> T) -> (T, Option<f64>) {
    let before = additions_per_cycle();
    let out = round();
    (out, before.zip(additions_per_cycle()).map(|(before, after)| before.min(after)))
}

/// From which rate on a core was whole, given the best of these.
pub(crate) fn whole(rates: impl IntoIterator<Item = f64>) -> f64 {
    rates.into_iter().fold(WHOLE_CORE, f64::max) * ALONE
}

impl Watch {
    /// Runs a round.
    pub(crate) fn round<T>(&mut self, round: impl FnOnce() -> T) -> T {
        let (out, rate) = looked(round);
        self.rates.extend(rate);
        out
    }

    /// Sorts the rounds' values; `None` where the core can't be looked at.
    pub(crate) fn sort(&self, values: &[f64]) -> Option<Sharing> {
        Sharing::of(&self.rates, values)
    }
}

/// A figure by whether the core was shared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sharing {
    /// Additions that the core ended in a cycle for this thread, over the rounds; 4 or more where it had the core to itself.
    pub additions_per_cycle: Summary,
    /// Rounds with the core to themselves.
    pub alone: Option<Summary>,
    /// Rounds that shared it with another hardware thread.
    pub shared: Option<Summary>,
}

impl Sharing {
    fn of(rates: &[f64], values: &[f64]) -> Option<Sharing> {
        if rates.is_empty() {
            return None;
        }
        let whole = whole(rates.iter().copied());
        let (mut alone, mut shared) = (vec![], vec![]);
        for (rate, value) in rates.iter().zip(values) {
            if *rate >= whole { alone.push(*value) } else { shared.push(*value) }
        }
        let some = |values: Vec<f64>| (!values.is_empty()).then(|| Summary::of(values));
        Some(Sharing { additions_per_cycle: Summary::of(rates.to_vec()), alone: some(alone), shared: some(shared) })
    }
}

impl Sharing {
    /// In words, with so many digits behind the point.
    pub(crate) fn with(self, digits: usize) -> String {
        let of =
            |s: &Summary| format!("{:.digits$} ({:.digits$} – {:.digits$})", s.median, s.quartiles.0, s.quartiles.1);
        let rounds = self.additions_per_cycle.rounds;
        let (few, many) = (self.additions_per_cycle.min, self.additions_per_cycle.max);
        let rate = format!("{few:.1} – {many:.1} additions a cycle");
        match (&self.alone, &self.shared) {
            (Some(alone), None) => format!("the core was ours alone ({rate}): {}", of(alone)),
            (None, Some(shared)) => {
                format!("the core was shared with another hardware thread all the time ({rate}): {}", of(shared))
            }
            (Some(alone), Some(shared)) => format!(
                "the core was ours alone in {} of {rounds} rounds ({rate}): {}; shared with another hardware thread: {}",
                alone.rounds,
                of(alone),
                of(shared)
            ),
            (None, None) => "no round to sort".to_owned(),
        }
    }
}

/// Two columns: the median of the rounds that had the core to themselves, and of those that shared it.
pub(crate) fn columns(sharing: Option<&Sharing>, digits: usize) -> String {
    let median = |of: fn(&Sharing) -> Option<Summary>| {
        let known = sharing.and_then(of);
        known.map_or_else(|| "–".to_owned(), |summary| format!("{:.digits$}", summary.median))
    };
    format!("{:>7} {:>7}", median(|sharing| sharing.alone), median(|sharing| sharing.shared))
}

/// What these columns mean.
pub(crate) const COLUMNS: &str = "alone, shared: median of the rounds in which the core was ours alone, and in which somebody else used its other hardware thread";

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_sorted_by_what_the_core_gave() {
        let sharing = Sharing::of(&[4.0, 2.2, 3.9, 2.4], &[60.0, 100.0, 62.0, 104.0]).unwrap();
        let alone = sharing.alone.map(|s| (s.rounds, s.max));
        let shared = sharing.shared.map(|s| (s.rounds, s.min));
        assert_eq!((alone, shared), (Some((2, 62.0)), Some((2, 100.0))));
        assert!(sharing.to_string().contains("in 2 of 4 rounds"), "{sharing}");
    }

    /// A neighbour that never goes away leaves nothing to compare with but what such cores are known to give.
    #[test]
    fn a_core_that_is_always_shared_is_not_taken_for_a_whole_one() {
        let sharing = Sharing::of(&[2.2, 2.3], &[100.0, 104.0]).unwrap();
        assert_eq!((sharing.alone, sharing.shared.map(|s| s.rounds)), (None, Some(2)));
        assert_eq!(Sharing::of(&[], &[1.0]), None);
    }
}
