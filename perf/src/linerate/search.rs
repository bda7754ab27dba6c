//! The search for the highest rate that a device carries with no more than a given loss: RFC 2544, section 26.1.
//!
//! RFC 2544 leaves open how the rate is stepped; here it is a bisection between a rate that held and one that did not. On a machine
//! that others share a single trial can lose for reasons that are not the device's, so that a rate is judged by a majority of up to three trials
//! (what RFC 9004 and the drafts on MLRsearch call loss verification); a loss far beyond the goal needs no second opinion.
//! Trials that say nothing (the machine had the core, the generator was late) are neither for nor against a rate: others take their place.
//! The rate that is found is tried once more, for twice as long, before it is believed; and so is the rate above it that did not hold: the machine
//! may have been slow for as long as the trials that spoke against it took, and a search that believed these would end far below.

use super::trial::Trial;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How a search is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Seconds of a trial.
    pub seconds: f64,
    /// The search ends when the rates that held and that did not are as near as this share of the rate.
    pub resolution: f64,
    /// Trials that must agree on a rate: 2 for a majority of three, 1 for a single trial.
    pub agree: usize,
    /// It ends after so long, whatever it has found by then: for all goals together.
    pub budget: Duration,
}

/// What bounds the rate that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// Loss: the next rate, a resolution above, did not hold.
    Loss,
    /// Nothing: no more could be offered.
    Offered,
    /// The generator, which fell behind its schedule: the device may carry more.
    Generator,
    /// The machine, which interrupted so often that trials said nothing about a higher rate.
    Machine,
    /// Time was over before the resolution was reached.
    Time,
    /// No rate held.
    Never,
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Loss ratio that was allowed.
    pub goal: f64,
    /// Highest rate that held, frames/s; 0 when none did.
    pub rate: f64,
    /// Lowest rate that did not, frames/s.
    pub above: f64,
    /// What bounds it.
    pub limit: Limit,
    /// Trials that it took.
    pub trials: usize,
}

/// Trials of a rate that the machine may disturb before it is left: another one may find it quiet.
const DISTURBED: usize = 40;
/// Times that the rate above is tried again.
const AGAIN: usize = 4;
/// Rates below this share of the expected one are not looked at.
const LEAST: f64 = 0.001;
/// The first rate above is this many times the expected one; it is raised as often where all below it held.
const HEADROOM: f64 = 1.25;

/// Searches one device for several goals; trials serve all of them.
#[derive(Debug)]
pub struct Searcher<F> {
    search: Search,
    run: F,
    seen: Vec<(f64, Vec<Trial>)>,
    trials: usize,
    end: Instant,
}

enum Judgement {
    Holds,
    Loses,
    /// Its trials say nothing.
    Void(Limit),
}

impl<E, F: FnMut(f64, f64) -> Result<Trial, E>> Searcher<F> {
    /// A search that runs a trial of so many seconds at a rate by `run(rate, seconds)`. Its time begins now.
    pub fn new(search: Search, run: F) -> Self {
        Self::until(Instant::now() + search.budget, search, run)
    }

    /// The same, with its time over at `end` whatever the budget is.
    pub(crate) fn until(end: Instant, search: Search, run: F) -> Self {
        Searcher { search, run, seen: vec![], trials: 0, end }
    }

    fn is_over(&self) -> bool {
        Instant::now() > self.end
    }

    fn trial(&mut self, rate: f64, seconds: f64) -> Result<Trial, E> {
        self.trials += 1;
        (self.run)(rate, seconds)
    }

    /// Finds the highest rate whose loss is at most `goal`. `most` is the highest that can be offered, `guess` where the
    /// answer is expected. `held` is a rate that is known to hold, or 0; what is found is not below it.
    ///
    /// # Errors
    /// Whatever a trial cannot do.
    pub fn find(&mut self, goal: f64, most: f64, guess: f64, held: f64) -> Result<Found, E> {
        let before = self.trials;
        let raised = |above: f64| (above * HEADROOM).min(most);
        let least = guess.clamp(f64::MIN_POSITIVE, most) * LEAST;
        let mut rate = guess.clamp(held.max(least).min(most), most);
        // Nothing speaks against the rate above but that nobody has tried it, until one has been.
        let (mut low, mut high, mut limit) = (held, raised(rate), Limit::Offered);
        // Rates that did not hold, falling.
        let mut failed: Vec<(f64, Limit)> = vec![];
        let mut again = AGAIN;
        loop {
            while high - low > self.search.resolution * high {
                match self.judge(rate, goal)? {
                    Judgement::Holds => low = rate,
                    Judgement::Loses => (high, limit) = (rate, Limit::Loss),
                    Judgement::Void(Limit::Time) => {
                        limit = Limit::Time;
                        break;
                    }
                    Judgement::Void(why) => (high, limit) = (rate, why),
                }
                if high == rate {
                    failed.push((rate, limit));
                }
                if high < least {
                    break;
                }
                if limit == Limit::Offered && high - low <= self.search.resolution * high {
                    high = raised(high);
                }
                rate = if low <= 0.0 { high * 0.6 } else { (low + high) / 2.0 };
            }
            if again == 0 || self.search.agree < 2 || limit != Limit::Loss || low <= 0.0 || self.is_over() {
                break;
            }
            again -= 1;
            self.seen.retain(|(rate, _)| *rate != high);
            if !matches!(self.judge(high, goal)?, Judgement::Holds) {
                break;
            }
            failed.retain(|(rate, _)| *rate > high);
            low = high;
            (high, limit) = failed.last().copied().unwrap_or((raised(high), Limit::Offered));
            rate = (low * 1.1).min((low + high) / 2.0);
        }
        // Twice as long, and lower by a resolution each time it fails.
        for _ in 0..8 {
            if low <= held || limit == Limit::Time || self.is_over() {
                break;
            }
            let trial = self.trial(low, 2.0 * self.search.seconds)?;
            if trial.holds(goal) != Some(false) {
                break;
            }
            let again = self.trial(low, 2.0 * self.search.seconds)?;
            if again.holds(goal) != Some(false) {
                break;
            }
            (high, limit) = (low, Limit::Loss);
            low = (low * (1.0 - 2.0 * self.search.resolution)).max(held);
        }
        if low <= 0.0 && limit == Limit::Loss {
            limit = Limit::Never;
        }
        Ok(Found { goal, rate: low, above: high, limit, trials: self.trials - before })
    }

    /// Whether a rate holds: what a majority of its trials says.
    fn judge(&mut self, rate: f64, goal: f64) -> Result<Judgement, E> {
        let at = match self.seen.iter().position(|(r, _)| *r == rate) {
            Some(at) => at,
            None => {
                self.seen.push((rate, vec![]));
                self.seen.len() - 1
            }
        };
        loop {
            if self.is_over() {
                return Ok(Judgement::Void(Limit::Time));
            }
            let trials = &self.seen[at].1;
            let says = |what: Option<bool>| trials.iter().filter(|t| t.holds(goal) == what).count();
            let (good, bad, void) = (says(Some(true)), says(Some(false)), says(None));
            if good >= self.search.agree {
                return Ok(Judgement::Holds);
            }
            if bad >= self.search.agree || trials.iter().any(|t| t.holds(goal) == Some(false) && t.is_clear(goal)) {
                return Ok(Judgement::Loses);
            }
            let late = trials.iter().filter(|t| t.behind_ratio() > Trial::BEHIND || t.missed() > 0).count();
            if late > self.search.agree {
                return Ok(Judgement::Void(Limit::Generator));
            }
            if void > DISTURBED {
                return Ok(Judgement::Void(Limit::Machine));
            }
            let trial = self.trial(rate, self.search.seconds)?;
            self.seen[at].1.push(trial);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const SEARCH: Search = Search { seconds: 1.0, resolution: 0.005, agree: 2, budget: Duration::from_secs(60) };

    fn trial(rate: f64, seconds: f64, carried: f64, behind: u64) -> Trial {
        let offered = (rate * seconds) as u64;
        let received = (offered - behind).min((carried * seconds) as u64);
        Trial { rate, seconds, offered, behind, received, ..Trial::default() }
    }

    fn find(goal: f64, mut run: impl FnMut(f64, f64) -> Trial) -> Found {
        Searcher::new(SEARCH, |r, s| Ok::<_, Infallible>(run(r, s))).find(goal, 10e6, 9.5e6, 0.0).unwrap()
    }

    #[test]
    fn a_known_capacity_is_found_within_the_resolution() {
        for capacity in [9.9e6, 9.45e6, 5.123e6, 0.8e6, 40e3] {
            let found = find(0.0, |r, s| trial(r, s, capacity, 0));
            assert!(found.rate <= capacity && found.rate > capacity * 0.99, "{capacity}: {found:?}");
            assert!(found.above > capacity && found.limit == Limit::Loss, "{found:?}");
            assert!(found.trials < 60, "{found:?}");
            // A loss of 5 % is carried at a rate of capacity / 0.95.
            let found = find(0.05, |r, s| trial(r, s, capacity, 0));
            let expected = (capacity / 0.95).min(10e6);
            assert!((found.rate / expected - 1.0).abs() < 0.01, "{capacity}: {found:?}");
        }
    }

    #[test]
    fn a_trial_that_loses_now_and_then_for_no_reason_does_not_lower_the_rate() {
        let mut n = 0;
        let found = find(0.0, |r, s| {
            n += 1;
            let t = trial(r, s, 6e6, 0);
            // Every fourth trial loses some frames whatever its rate.
            if n % 4 == 0 { Trial { received: t.received - 100, ..t } } else { t }
        });
        assert!((5.9e6..=6e6).contains(&found.rate), "{found:?}");
    }

    #[test]
    fn a_machine_that_was_slow_for_a_while_does_not_lower_the_rate() {
        for slow in [2..12, 5..8, 4..10] {
            let mut n = 0;
            let found = find(0.0, |r, s| {
                n += 1;
                trial(r, s, if slow.contains(&n) { 3e6 } else { 6e6 }, 0)
            });
            assert!((5.9e6..=6e6).contains(&found.rate) && found.limit == Limit::Loss, "{slow:?}: {found:?}");
            assert!(found.above > 6e6 && found.trials < 90, "{found:?}");
        }
    }

    #[test]
    fn a_device_that_never_loses_is_bounded_by_what_can_be_offered_and_one_that_always_does_has_no_rate() {
        let found = find(0.0, |r, s| trial(r, s, f64::INFINITY, 0));
        assert!(found.limit == Limit::Offered && found.rate > 9.9e6, "{found:?}");
        let found = find(0.001, |r, s| Trial { received: 0, ..trial(r, s, 1e6, 0) });
        assert_eq!((found.limit, found.rate), (Limit::Never, 0.0));
    }

    #[test]
    fn a_generator_that_falls_behind_is_named_and_is_no_loss() {
        let found = find(0.0, |r, s| trial(r, s, 9e6, if r > 4e6 { ((r - 4e6) * s) as u64 } else { 0 }));
        assert_eq!(found.limit, Limit::Generator);
        assert!((3.9e6..4.1e6).contains(&found.rate), "{found:?}");
    }

    #[test]
    fn a_trial_that_the_machine_disturbed_is_taken_neither_for_loss_nor_for_a_rate_that_holds() {
        let mut n = 0;
        let found = find(0.0, |r, s| {
            n += 1;
            let t = trial(r, s, 6e6, 0);
            // Every third trial is disturbed, and loses nothing or everything.
            let received = if n % 2 == 0 { 0 } else { t.offered };
            if n % 3 == 0 { Trial { disturbed: 0.9, received, ..t } } else { t }
        });
        assert!((5.9e6..=6e6).contains(&found.rate) && found.limit == Limit::Loss, "{found:?}");
        let found = find(0.0, |r, s| Trial { disturbed: 1.0, ..trial(r, s, f64::INFINITY, 0) });
        assert_eq!((found.limit, found.rate), (Limit::Machine, 0.0));
    }

    #[test]
    fn a_guess_that_is_far_too_low_bounds_nothing() {
        for goal in [0.0, 0.05] {
            let run = |r: f64, s: f64| Ok::<_, Infallible>(trial(r, s, 8e6, 0));
            let found = Searcher::new(SEARCH, run).find(goal, 10e6, 0.5e6, 0.0).unwrap();
            let expected = 8e6 / (1.0 - goal);
            assert!((found.rate / expected - 1.0).abs() < 0.01 && found.limit == Limit::Loss, "{found:?}");
        }
    }

    #[test]
    fn a_rate_that_is_known_to_hold_is_not_gone_below() {
        // Slower than it was when that rate held.
        let mut searcher = Searcher::new(SEARCH, |r, s| Ok::<_, Infallible>(trial(r, s, 4e6, 0)));
        let found = searcher.find(0.001, 10e6, 6.1e6, 6e6).unwrap();
        assert_eq!(found.rate, 6e6, "{found:?}");
    }

    #[test]
    fn a_search_ends_with_its_time_also_where_no_trial_says_anything() {
        let begun = Instant::now();
        let search = Search { budget: Duration::from_millis(20), ..SEARCH };
        let mut searcher = Searcher::new(search, |r, s| {
            // Each takes the time that a trial takes.
            std::thread::sleep(Duration::from_millis(2));
            Ok::<_, Infallible>(Trial { disturbed: 1.0, ..trial(r, s, 5e6, 0) })
        });
        let found = searcher.find(0.0, 10e6, 9e6, 0.0).unwrap();
        assert!(found.limit == Limit::Time && found.trials <= 11, "{found:?} after {:?}", begun.elapsed());
    }

    #[test]
    fn a_search_without_time_tries_nothing() {
        let run = |r: f64, s: f64| Ok::<_, Infallible>(trial(r, s, 5e6, 0));
        let mut searcher = Searcher::until(Instant::now() - Duration::from_millis(1), SEARCH, run);
        let found = searcher.find(0.0, 10e6, 9e6, 0.0).unwrap();
        assert_eq!((found.limit, found.trials), (Limit::Time, 0));
    }
}
