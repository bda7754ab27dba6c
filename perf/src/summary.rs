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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_an_outlier() {
        let s = Summary::of(vec![3.0, 1.0, 2.0, 1000.0, 2.0]);
        assert_eq!((s.median, s.min, s.max, s.rounds), (2.0, 1.0, 1000.0, 5));
        assert_eq!(Summary::of(vec![]).median, 0.0);
    }
}
