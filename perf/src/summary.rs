//! Medians and spreads: how every figure is reported.

use serde::{Deserialize, Serialize};

/// Several measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The quarter below and above which a fourth of them lie: the spread to quote.
    pub quartiles: (f64, f64),
    /// How many there were.
    pub rounds: usize,
}

impl Summary {
    /// Summarises measurements; all zero for none.
    pub fn of(mut values: Vec<f64>) -> Summary {
        values.sort_by(f64::total_cmp);
        let at = |q: f64| values.get(((values.len() as f64 - 1.0) * q).round() as usize).copied().unwrap_or(0.0);
        Summary { median: at(0.5), min: at(0.0), max: at(1.0), quartiles: (at(0.25), at(0.75)), rounds: values.len() }
    }

    /// The same with every value multiplied.
    #[must_use]
    pub fn scaled(self, by: f64) -> Summary {
        let s = |v: f64| v * by;
        Summary {
            median: s(self.median),
            min: s(self.min),
            max: s(self.max),
            quartiles: (s(self.quartiles.0), s(self.quartiles.1)),
            rounds: self.rounds,
        }
    }
}

/// Between which two of `values` the median of what they are a sample of lies with a confidence of 95 % or more, whatever its distribution:
/// by the binomial distribution of how many values fall below it. `None` for fewer than six, whose extremes do not say so much.
pub fn median_interval(values: &[f64]) -> Option<(f64, f64)> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    // Of n values fewer than k+1 fall below the median with this probability: the lower tail.
    let n = values.len();
    let (mut tail, mut term, mut at) = (0.0, 0.5f64.powi(n as i32), None);
    for k in 0..n / 2 {
        tail += term;
        if 2.0 * tail > 0.05 {
            break;
        }
        at = Some(k);
        term *= (n - k) as f64 / (k + 1) as f64;
    }
    at.map(|k| (values[k], values[n - 1 - k]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks of the usual tables.
    #[test]
    fn the_interval_of_the_median_is_that_of_the_binomial_distribution() {
        for (n, from, to) in [(6, 1, 6), (8, 1, 8), (9, 2, 8), (12, 3, 10), (20, 6, 15), (100, 40, 61)] {
            let values: Vec<f64> = (1..=n).rev().map(f64::from).collect();
            assert_eq!(median_interval(&values), Some((f64::from(from), f64::from(to))), "{n}");
        }
        assert_eq!((median_interval(&[1.0; 5]), median_interval(&[])), (None, None));
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        let s = Summary::of(vec![3.0, 1.0, 2.0, 1000.0, 2.0]);
        assert_eq!((s.median, s.min, s.max, s.rounds), (2.0, 1.0, 1000.0, 5));
        assert_eq!(Summary::of(vec![]).median, 0.0);
    }
}
