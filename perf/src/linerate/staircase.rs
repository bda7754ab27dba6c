//! The search up and down: the share of its capacity that a device carries without loss, on a machine whose speed changes.
//!
//! Between two rates a bisection compares trials of some seconds each with trials of other seconds, and on a machine that others share these are of
//! two machines: it ends where the machine was slow when the last rates were tried. Here every trial moves the rate a step: up when it
//! held, down when it lost (Dixon and Mood, *A method for obtaining and analyzing sensitivity data*, 1948). The rate wanders about the one at which
//! half of the trials hold, and that is the mean of the rates tried once the steps are small. All of the search's time weighs the same. It is the goal
//! exceed ratio of 0.5 that MLRsearch (draft-ietf-bmwg-mlrsearch) recommends, without its bisection; where the device is always equally quick, the
//! rate is that of RFC 2544 within a step.
//!
//! Before each pair of trials a short one offers more than can be carried, and what is stepped is the share of what came out then: when
//! the machine is a tenth slower for a second, both are. The share is the figure to compare; the rate is the share of the median capacity.

use super::search::{Found, Limit, Search};
use super::trial::Trial;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Turns of a search: a trial of the capacity, one for each goal.
pub(super) const TURNS: usize = 300;
/// Seconds of a trial of the capacity, at most.
const SPELL: f64 = 0.02;
/// Fewer trials than this tell no rate.
const LEAST: usize = 20;
/// Where the share begins.
const FIRST: f64 = 0.9;
/// The first step is so many times the least one.
const COARSE: f64 = 4.0;
/// The least step, in resolutions.
const STEP: f64 = 2.0;
/// Longest step.
const LONGEST: f64 = 0.5;
/// Of the trials, those at the beginning that are left out at least: one in so many.
const BEGINNING: usize = 6;
/// Most that is offered of the capacity, and least.
const BOUNDS: (f64, f64) = (0.001, 4.0);

/// What a search up and down knows of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Half {
    /// Share of its capacity at which half of the trials held.
    pub share: f64,
    /// Shares at which three quarters of them held, and one quarter.
    pub quarters: (f64, f64),
    /// Median capacity over the search, frames/s: what came out while more was offered than could be carried.
    pub capacity: f64,
    /// Trials behind these, the beginning left out.
    pub trials: usize,
}

/// What a search has found.
#[derive(Debug)]
pub(super) struct Climbed {
    pub found: [Found; 2],
    pub capacity: f64,
    pub turns: usize,
}

/// One goal's way up and down.
#[derive(Debug)]
struct Stair {
    goal: f64,
    share: f64,
    step: f64,
    least: f64,
    last: Option<bool>,
    /// Shares that were tried, and whether they held.
    seen: Vec<(f64, bool)>,
    /// Of these, those before the steps were small.
    coarse: usize,
    trials: usize,
    /// Trials at the highest rate there is.
    at_most: usize,
}

impl Stair {
    fn new(goal: f64, resolution: f64) -> Self {
        let least = (STEP * resolution).min(LONGEST);
        let step = (COARSE * least).min(LONGEST);
        Stair { goal, share: FIRST, step, least, last: None, seen: vec![], coarse: 0, trials: 0, at_most: 0 }
    }

    fn note(&mut self, held: bool) {
        self.seen.push((self.share, held));
        if self.last.is_some_and(|last| last != held) {
            self.step = (self.step / 2.0).max(self.least);
        }
        if self.step > self.least {
            self.coarse = self.seen.len();
        }
        self.last = Some(held);
        let by = 1.0 + self.step;
        self.share = (if held { self.share * by } else { self.share / by }).clamp(BOUNDS.0, BOUNDS.1);
    }

    fn found(&self, capacity: f64, most: f64, void: usize) -> Found {
        let behind = &self.seen[self.coarse.max(self.seen.len() / BEGINNING).min(self.seen.len())..];
        let held = self.seen.iter().filter(|(_, held)| *held).count();
        let limit = if behind.len() < LEAST && void > self.seen.len() {
            Limit::Machine
        } else if held == 0 && self.share <= BOUNDS.0 {
            Limit::Never
        } else if 2 * self.at_most > self.seen.len() && self.last == Some(true) {
            Limit::Offered
        } else if behind.len() < LEAST {
            Limit::Time
        } else {
            Limit::Loss
        };
        // With too few trials for small steps what there is says something still.
        let of = if behind.is_empty() { &self.seen[self.seen.len() * 2 / 3..] } else { behind };
        let mut found = Found { goal: self.goal, rate: 0.0, above: most, limit, trials: self.trials, half: None };
        if of.is_empty() || limit == Limit::Never {
            return found;
        }
        let share = (of.iter().map(|(share, _)| share.ln()).sum::<f64>() / of.len() as f64).exp();
        let fits = fit(of);
        let quarters = (level(&fits, 0.75).min(share), level(&fits, 0.25).max(share));
        found.rate = (share * capacity).min(most);
        found.above = (quarters.1 * capacity).min(most);
        found.half = Some(Half { share, quarters, capacity, trials: of.len() });
        found
    }
}

/// Shares, rising, and the part of the trials that held there, falling: isotonic regression, each block at the mean of its shares (Oron and Flournoy,
/// *Centered isotonic regression*, 2017). No form of the curve is taken for granted.
fn fit(seen: &[(f64, bool)]) -> Vec<(f64, f64)> {
    let mut sorted = seen.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    // Of each block the sum of shares, trials that held, and trials.
    let mut blocks: Vec<(f64, f64, f64)> = vec![];
    for same in sorted.chunk_by(|a, b| b.0 - a.0 < 1e-9) {
        let n = same.len() as f64;
        blocks.push((same[0].0 * n, same.iter().filter(|(_, held)| *held).count() as f64, n));
        while let [.., before, last] = blocks[..]
            && before.1 / before.2 < last.1 / last.2
        {
            blocks.truncate(blocks.len() - 2);
            blocks.push((before.0 + last.0, before.1 + last.1, before.2 + last.2));
        }
    }
    blocks.into_iter().map(|(shares, held, n)| (shares / n, held / n)).collect()
}

/// Where so great a part of the trials held, between the points of [`fit`].
fn level(fits: &[(f64, f64)], part: f64) -> f64 {
    let ends = fits.first().zip(fits.last());
    let Some(((first, of_first), (last, of_last))) = ends else { return 0.0 };
    if part >= *of_first {
        return *first;
    }
    if part <= *of_last {
        return *last;
    }
    let between = fits.windows(2).find(|w| w[1].1 <= part);
    between.map_or(*last, |w| w[0].0 + (w[1].0 - w[0].0) * (w[0].1 - part) / (w[0].1 - w[1].1))
}

fn median(values: &[f64]) -> f64 {
    crate::summary::Summary::of(values.to_vec()).median
}

/// Searches the rates whose loss is at most `goals`, the smaller one first, until `end`. `most` is more than can be carried; `run(rate, seconds)`
/// is a trial. `None` where fewer turns than asked for were over at a time, `soon`.
///
/// # Errors
/// Whatever a trial cannot do.
pub(super) fn climb<E>(
    search: Search,
    goals: [f64; 2],
    most: f64,
    (soon, end): (Option<(Instant, usize)>, Instant),
    mut run: impl FnMut(f64, f64) -> Result<Trial, E>,
) -> Result<Option<Climbed>, E> {
    let mut stairs = goals.map(|goal| Stair::new(goal, search.resolution));
    let (mut capacities, mut void) = (vec![], 0);
    for turn in 0..TURNS {
        let now = Instant::now();
        if soon.is_some_and(|(soon, turns)| now > soon && capacities.len() < turns) {
            return Ok(None);
        }
        if now > end {
            break;
        }
        let full = run(most, search.seconds.min(SPELL))?;
        let capacity = full.forwarded_rate;
        if full.is_void() || capacity <= 0.0 {
            void += 1;
            continue;
        }
        capacities.push(capacity);
        // Both goals stand as near to the trial of the capacity.
        for at in if turn % 2 == 0 { [0, 1] } else { [1, 0] } {
            if Instant::now() > end {
                break;
            }
            let stair = &mut stairs[at];
            let rate = (stair.share * capacity).min(most);
            let trial = run(rate, search.seconds)?;
            stair.trials += 1;
            let Some(held) = trial.holds(stair.goal) else {
                void += 1;
                continue;
            };
            stair.at_most += usize::from(rate >= most);
            stair.note(held);
        }
    }
    let capacity = median(&capacities);
    let [ndr, pdr] = stairs.map(|stair| stair.found(capacity, most, void));
    // A trial without loss has no more than is allowed: what the means of both scatter is no difference.
    let pdr = if pdr.rate < ndr.rate { Found { goal: pdr.goal, trials: pdr.trials, ..ndr.clone() } } else { pdr };
    Ok(Some(Climbed { found: [ndr, pdr], capacity, turns: capacities.len() }))
}

#[cfg(test)]
#[path = "staircase_tests.rs"]
mod tests;
