//! The search for the highest rate that a device carries with no more than a given loss: RFC 2544, section 26.1.
//!
//! RFC 2544 leaves open how the rate is stepped; here it is a bisection between a rate that held and one that did not. On a machine
//! that others share a single trial can lose for reasons that are not the device's, so that a rate is judged by a majority of up to three trials
//! (what RFC 9004 and the drafts on MLRsearch call loss verification); a loss far beyond the goal needs no second opinion.
//! Trials that say nothing (the machine had the core, the generator was late) are neither for nor against a rate: others take their place.
//! The rate that is found and the one above it, which did not hold, are asked once more before they are believed, for the machine
//! may have been slow, or quick, for as long as their trials took; the majority of all trials of a rate decides, of up to five then. Every rate
//! is asked so once, whether it held or not, so that this leans neither up nor down. One trial a rate and none again is RFC 2544 as it stands.

use super::staircase::Half;
use super::trial::Trial;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// How a search is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Search {
    /// Seconds of a trial.
    pub seconds: f64,
    /// The search ends when the rates that held and that did not are as near as this share of the rate. The least step up or down is twice this.
    pub resolution: f64,
    /// Trials that must agree on a rate: 2 for a majority of three, 1 for a single trial. What is searched up and down
    /// ([`Method::UpAndDown`](super::Method)) is so for 2 and more.
    pub agree: usize,
    /// It ends after so long, whatever it has found by then.
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
    /// Highest rate that held, frames/s; 0 when none did. Of a search up and down the rate at which half of the trials held.
    pub rate: f64,
    /// Lowest rate that did not, frames/s. Of a search up and down the rate at which three quarters of the trials did not.
    pub above: f64,
    /// What bounds it.
    pub limit: Limit,
    /// Trials that it took.
    pub trials: usize,
    /// Of a search up and down.
    #[serde(default)]
    pub half: Option<Half>,
}

/// Trials of a rate that the machine may disturb before it is left: another one may find it quiet.
const DISTURBED: usize = 40;
/// Rates below this share of where the answer is expected are not looked at.
const LEAST: f64 = 0.001;
/// Until a rate has failed, the next one is so much higher.
const GROWTH: f64 = 1.25;

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
        Searcher { search, run, seen: vec![], trials: 0, end: Instant::now() + search.budget }
    }

    fn trial(&mut self, rate: f64, seconds: f64) -> Result<Trial, E> {
        self.trials += 1;
        (self.run)(rate, seconds)
    }

    /// Finds the highest rate whose loss is at most `goal`. `most` is the highest that can be offered, `guess` where the
    /// answer is expected. `held` is a rate that is known to hold, or 0; the answer is not below it.
    ///
    /// # Errors
    /// Whatever a trial cannot do.
    pub fn find(&mut self, goal: f64, most: f64, guess: f64, held: f64) -> Result<Found, E> {
        let before = self.trials;
        let least = LEAST * guess.min(most);
        let agree = self.search.agree;
        // Rates that held, rising; those that did not, falling; and those that were asked again.
        let (mut passed, mut failed): (Vec<f64>, Vec<(f64, Limit)>) = (vec![held], vec![]);
        let mut again: Vec<f64> = vec![held];
        let mut rate = guess.clamp(held.max(least), most);
        // What can be offered at all may hold: a device that never loses has no rate above it.
        let (low, high, mut limit) = loop {
            let ends = |passed: &[f64], failed: &[(f64, Limit)]| {
                let (high, limit) = failed.last().copied().unwrap_or((most, Limit::Offered));
                (passed.last().copied().unwrap_or(0.0), high, limit)
            };
            let (low, high, limit) = ends(&passed, &failed);
            let near = high - low <= self.search.resolution * high || high < least;
            let need = if !near {
                agree
            } else if let Some(unsure) = [low, high].into_iter().find(|rate| {
                agree > 1 && *rate > 0.0 && (limit == Limit::Loss || *rate == low) && !again.contains(rate)
            }) {
                again.push(unsure);
                rate = unsure;
                agree + 1
            } else {
                break (low, high, limit);
            };
            passed.retain(|passed| *passed < rate || *passed == held);
            failed.retain(|(lost, _)| *lost > rate);
            match self.judge(rate, goal, need)? {
                Judgement::Holds => passed.push(rate),
                Judgement::Loses => failed.push((rate, Limit::Loss)),
                Judgement::Void(Limit::Time) => {
                    let (low, high, _) = ends(&passed, &failed);
                    break (low, high, Limit::Time);
                }
                Judgement::Void(why) => failed.push((rate, why)),
            }
            let (low, high, _) = ends(&passed, &failed);
            rate = if low <= 0.0 {
                high * 0.6
            } else if failed.is_empty() {
                (low * GROWTH).min(most)
            } else {
                (low * GROWTH).min((low + high) / 2.0)
            };
        };
        if low <= 0.0 && limit == Limit::Loss {
            limit = Limit::Never;
        }
        Ok(Found { goal, rate: low, above: high, limit, trials: self.trials - before, half: None })
    }

    /// Whether a rate holds: what `need` of its trials say first, or one by itself that lost far more.
    fn judge(&mut self, rate: f64, goal: f64, need: usize) -> Result<Judgement, E> {
        let at = match self.seen.iter().position(|(r, _)| *r == rate) {
            Some(at) => at,
            None => {
                self.seen.push((rate, vec![]));
                self.seen.len() - 1
            }
        };
        loop {
            let trials = &self.seen[at].1;
            let says = |what: Option<bool>| trials.iter().filter(|t| t.holds(goal) == what).count();
            let (good, bad, void) = (says(Some(true)), says(Some(false)), says(None));
            if good >= need {
                return Ok(Judgement::Holds);
            }
            let clear = trials.iter().any(|t| t.holds(goal) == Some(false) && t.is_clear(goal));
            if bad >= need || clear && need <= self.search.agree {
                return Ok(Judgement::Loses);
            }
            let late = trials.iter().filter(|t| t.behind_ratio() > Trial::BEHIND || t.missed() > 0).count();
            if late > need {
                return Ok(Judgement::Void(Limit::Generator));
            }
            if void > DISTURBED {
                return Ok(Judgement::Void(Limit::Machine));
            }
            if Instant::now() > self.end {
                return Ok(Judgement::Void(Limit::Time));
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
            if n % 3 == 0 { Trial { short: true, received, ..t } } else { t }
        });
        assert!((5.9e6..=6e6).contains(&found.rate) && found.limit == Limit::Loss, "{found:?}");
        let found = find(0.0, |r, s| Trial { short: true, ..trial(r, s, f64::INFINITY, 0) });
        assert_eq!((found.limit, found.rate), (Limit::Machine, 0.0));
    }

    /// The device is quick by turns: no rate that it held by chance is believed for that, nor is one that was ever tried left out.
    #[test]
    fn a_rate_that_held_by_chance_is_not_believed() {
        let mut n = 0;
        let found = find(0.0, |r, s| {
            n += 1;
            trial(r, s, if (2..6).contains(&n) { 9e6 } else { 6e6 }, 0)
        });
        assert!((5.9e6..=6e6).contains(&found.rate) && found.limit == Limit::Loss, "{found:?}");
    }

    #[test]
    fn the_rate_with_loss_is_not_below_the_one_without() {
        let mut n = 0;
        let run = |r, s| {
            n += 1;
            Ok::<_, Infallible>(trial(r, s, if n > 20 { 3e6 } else { 6e6 }, 0))
        };
        let mut searcher = Searcher::new(SEARCH, run);
        let ndr = searcher.find(0.0, 10e6, 5.9e6, 0.0).unwrap();
        let pdr = searcher.find(0.001, 10e6, 6e6, ndr.rate).unwrap();
        assert!(pdr.rate >= ndr.rate && ndr.rate > 0.0, "{ndr:?} {pdr:?}");
    }

    #[test]
    fn no_rate_is_judged_longer_than_there_is_time() {
        let search = Search { budget: Duration::from_millis(20), ..SEARCH };
        let begun = Instant::now();
        let mut searcher = Searcher::new(search, |r, s| {
            std::thread::sleep(Duration::from_millis(2));
            Ok::<_, Infallible>(Trial { short: true, ..trial(r, s, 5e6, 0) })
        });
        assert_eq!(searcher.find(0.0, 10e6, 9e6, 0.0).unwrap().limit, Limit::Time);
        // Forty trials that say nothing would take four times as long.
        assert!(searcher.trials < 40, "{:?}", begun.elapsed());
    }

    #[test]
    fn a_search_ends_with_its_time() {
        let search = Search { budget: Duration::ZERO, ..SEARCH };
        let mut searcher = Searcher::new(search, |r, s| Ok::<_, Infallible>(trial(r, s, 5e6, 0)));
        std::thread::sleep(Duration::from_millis(1));
        let found = searcher.find(0.0, 10e6, 9e6, 0.0).unwrap();
        assert_eq!((found.limit, found.trials), (Limit::Time, 0));
    }
}
