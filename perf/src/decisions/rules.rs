//! ns a decision, by mix and number of rules.

use super::workload::{Mix, request};
use super::{DecisionsError, Subject};
use crate::neighbour::{COLUMNS, Sharing, Watch, columns};
use crate::summary::Summary;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Requests that are decided in turn.
const REQUESTS: usize = 64;
/// Timed slices a round and size.
const SLICES: usize = 5;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesOptions {
    /// Numbers of rules.
    pub rules: Vec<usize>,
    /// What they are about.
    pub mixes: Vec<Mix>,
    /// Rounds, each with a figure of its own for every number of rules.
    pub rounds: usize,
}

impl Default for RulesOptions {
    fn default() -> Self {
        RulesOptions { rules: vec![10, 100, 1000, 10_000], mixes: Mix::ALL.to_vec(), rounds: 15 }
    }
}

/// One mix with one number of rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RulesRow {
    /// What the rules are about.
    pub mix: Mix,
    /// How many there are.
    pub rules: usize,
    /// ns a decision, extraction included.
    pub nanoseconds: Summary,
    /// The same by whether the core was shared; absent where that can't be told.
    pub sharing: Option<Sharing>,
    /// Its median against that of the mix's first number of rules.
    pub against_first: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RulesFigures {
    /// With what.
    pub options: RulesOptions,
    /// Mix by mix.
    pub rows: Vec<RulesRow>,
}

/// Measures; `progress` is told what comes next.
///
/// # Errors
/// When an option is out of range, or a request is not decided as it should be.
pub fn measure(options: &RulesOptions, mut progress: impl FnMut(&str)) -> Result<RulesFigures, DecisionsError> {
    let range = |what, value, mend| Err(DecisionsError::Range { what, value, mend });
    if let Some(&n) = options.rules.iter().find(|n| !(1..=100_000).contains(*n)) {
        return range("a number of rules", n, "1 to 100000");
    }
    if !(1..=10_000).contains(&options.rounds) {
        return range("a number of rounds", options.rounds, "1 to 10000");
    }
    let mut rows: Vec<RulesRow> = Vec::new();
    for &mix in &options.mixes {
        progress(&format!("{mix}: compiling"));
        let takes = |place: usize, count: usize| place * 7919 % count;
        let mut subjects = Vec::new();
        for &count in &options.rules {
            let mut subject = Subject::new(&mix.rules(count), 1 << 20)?;
            let requests: Vec<Vec<u8>> = (0..REQUESTS).map(|p| request(takes(p, count), mix.body())).collect();
            subject.check(&requests, |place| takes(place, count))?;
            subjects.push((subject, requests, Vec::with_capacity(options.rounds), Watch::default()));
        }
        // In turns, so that a slow spell of the machine does not fall on one of them alone.
        for round in 0..options.rounds {
            progress(&format!("{mix}: round {} of {}", round + 1, options.rounds));
            for (subject, requests, figures, watch) in &mut subjects {
                figures.push(watch.round(|| subject.time(requests, SLICES)));
            }
        }
        let first = rows.len();
        for (&count, (_, _, figures, watch)) in options.rules.iter().zip(subjects) {
            let sharing = watch.sort(&figures);
            let nanoseconds = Summary::of(figures);
            let base = rows.get(first).map_or(nanoseconds.median, |row| row.nanoseconds.median);
            let against_first = nanoseconds.median / base;
            rows.push(RulesRow { mix, rules: count, nanoseconds, sharing, against_first });
        }
    }
    Ok(RulesFigures { options: options.clone(), rows })
}

impl fmt::Display for RulesFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.options.rules.first().copied().unwrap_or(0);
        writeln!(
            f,
            "ns a decision, HTTP extraction included; {} requests in turn; {} rounds, each the best of {SLICES} slices; \
             sizes interleaved",
            REQUESTS, self.options.rounds
        )?;
        writeln!(f, "{COLUMNS}")?;
        writeln!(f)?;
        writeln!(
            f,
            "{:<8} {:>8} {:>10} {:>19} {:>7} {:>7}  × {first} rules",
            "mix", "rules", "median ns", "quartiles", "alone", "shared"
        )?;
        for row in &self.rows {
            let (low, high) = row.nanoseconds.quartiles;
            writeln!(
                f,
                "{:<8} {:>8} {:>10.0} {:>19} {} {:>9.2}",
                row.mix.to_string(),
                row.rules,
                row.nanoseconds.median,
                format!("{low:.0} – {high:.0}"),
                columns(row.sharing.as_ref(), 0),
                row.against_first
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_decides_as_meant_and_gives_a_figure_for_every_number() {
        let options = RulesOptions { rules: vec![3, 70], rounds: 2, ..RulesOptions::default() };
        let figures = measure(&options, |_| {}).unwrap();
        assert_eq!(figures.rows.len(), 2 * Mix::ALL.len());
        assert!(figures.rows.iter().all(|r| r.nanoseconds.min > 0.0 && r.nanoseconds.rounds == 2));
        assert!(figures.rows.iter().step_by(2).all(|r| r.against_first == 1.0));
        let wrong = RulesOptions { rules: vec![0], ..options };
        assert!(matches!(measure(&wrong, |_| {}), Err(DecisionsError::Range { .. })));
    }
}
