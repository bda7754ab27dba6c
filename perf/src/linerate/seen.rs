//! The searches of one size of frames through one subject, and what rounds come to.

use super::search::{Found, Searcher};
use super::trial::Trial;
use super::{Device, LOADS, LinerateError, Method, Neighbours, Options, Rates, Row, Size, Subject, WARM, staircase};
use crate::summary::Summary;
use std::time::Instant;

/// Part of a search's time after which so few turns mean that neighbours disturb nearly all of it.
const SOON: u32 = 4;
/// So few: with what the rest brings they would hardly be enough.
const FEW: usize = 8;
/// Parts of a search's time that what is measured beside it may take: a trial of latencies, of the reflector, the first of a size.
pub(super) const BESIDE: u32 = 10;
/// A trial that says nothing, of the capacity or of latencies, is run so often.
const TRIES: usize = 4;
/// Seconds of a trial of latencies, in those of the search's own: these are short where it goes up and down.
const LOAD_SECONDS: (f64, f64) = (2.0, 20.0);

/// What trials have seen beside rates.
#[derive(Default)]
struct Noted {
    generator: Vec<f64>,
    interruptions: (u64, f64),
    set_aside: u64,
    gaps: (u64, f64),
    /// Worker's time in all and set aside, and looks that found a neighbour, weighed by the time.
    seconds: [f64; 4],
}

impl Noted {
    fn note(&mut self, trial: &Trial) {
        self.interruptions.0 += trial.interruptions;
        self.interruptions.1 += trial.interrupted_ms;
        self.set_aside += trial.set_aside;
        self.gaps.0 += trial.gaps;
        self.gaps.1 += trial.gaps_ms;
        let took = trial.seconds / (1.0 - trial.disturbed).max(0.01);
        for (sum, share) in self.seconds.iter_mut().zip([1.0, trial.disturbed, trial.shared, trial.evicted]) {
            *sum += share * took;
        }
    }

    fn neighbours(&self, apart: bool, turns: usize) -> Neighbours {
        let [all, set_aside, shared, evicted] = self.seconds;
        let share = |of: f64| of / all.max(f64::MIN_POSITIVE);
        Neighbours { apart, set_aside: share(set_aside), shared: share(shared), evicted: share(evicted), turns }
    }
}

/// What rounds have seen of one row so far.
#[derive(Default)]
pub(super) struct Seen {
    method: Method,
    pub saturated: Vec<f64>,
    generator: Vec<f64>,
    pub searches: Vec<[Found; 2]>,
    seconds: Vec<f64>,
    noted: Noted,
    loads: Vec<(f64, Trial)>,
    neighbours: Vec<Neighbours>,
}

impl Seen {
    /// A round's search.
    pub fn search(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<(), LinerateError> {
        let started = Instant::now();
        let end = started + o.search.budget;
        device.end_by(end);
        if device.own_time() && o.search.agree > 1 {
            self.method = Method::UpAndDown;
            let soon = started + o.search.budget / SOON;
            if !self.climb(device, o, size, true, (Some((soon, FEW)), end))? {
                self.climb(device, o, size, false, (None, end))?;
            }
        } else {
            device.set_apart(false);
            self.bisect(device, o, size)?;
        }
        self.seconds.push(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// What the trials of a search that counts have seen.
    fn keep(&mut self, noted: Noted) {
        self.generator.push(Summary::of(noted.generator).median);
        self.add(&noted.interruptions, noted.set_aside, &noted.gaps);
    }

    fn add(&mut self, interruptions: &(u64, f64), set_aside: u64, gaps: &(u64, f64)) {
        self.noted.interruptions.0 += interruptions.0;
        self.noted.interruptions.1 += interruptions.1;
        self.noted.set_aside += set_aside;
        self.noted.gaps.0 += gaps.0;
        self.noted.gaps.1 += gaps.1;
    }

    /// Searches up and down; `false`, with nothing kept, where too little time was undisturbed by `soon` to set the rest aside.
    fn climb(
        &mut self,
        device: &mut impl Device,
        o: &Options,
        size: Size,
        apart: bool,
        times: (Option<(Instant, usize)>, Instant),
    ) -> Result<bool, LinerateError> {
        device.set_apart(apart);
        let (most, mut noted) = (device.most(size), Noted::default());
        let climbed = staircase::climb(o.search, [0.0, o.loss], most, times, |rate, seconds| {
            let mut trial = device.trial(rate, seconds, size, false)?;
            if rate < most {
                noted.generator.push(trial.generator_cycles);
            } else {
                // What is lost here is lost on purpose, whoever disturbs.
                trial.set_aside = 0;
            }
            noted.note(&trial);
            Ok::<_, LinerateError>(trial)
        })?;
        let Some(climbed) = climbed else { return Ok(false) };
        self.neighbours.push(noted.neighbours(apart, climbed.turns));
        self.saturated.push(climbed.capacity);
        self.searches.push(climbed.found);
        self.keep(noted);
        Ok(true)
    }

    /// Offers more than can be carried; what a trial said of it that says something, where one of some does.
    pub fn saturate(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<f64, LinerateError> {
        let most = device.most(size);
        let seconds = if device.own_time() { o.search.seconds.max(WARM) } else { o.search.seconds };
        let mut trial = device.trial(most, seconds, size, false)?;
        for _ in 1..TRIES {
            if !trial.short && trial.forwarded_rate > 0.0 {
                break;
            }
            trial = device.trial(most, seconds, size, false)?;
        }
        self.add(&(trial.interruptions, trial.interrupted_ms), 0, &(trial.gaps, trial.gaps_ms));
        self.saturated.push(trial.forwarded_rate);
        Ok(trial.forwarded_rate)
    }

    /// Searches NDR and PDR between rates that held and others.
    fn bisect(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<(), LinerateError> {
        let most = device.most(size);
        let capacity = self.saturate(device, o, size)?;
        // A capacity of a moment says where to begin, and not where to end.
        let guess = if capacity > 0.0 { capacity } else { most };
        let (mut noted, here) = (Noted::default(), device.own_time());
        let mut searcher = Searcher::new(o.search, |rate, seconds| {
            let trial = device.trial(rate, seconds, size, false)?;
            noted.note(&trial);
            noted.generator.push(trial.generator_cycles);
            Ok::<_, LinerateError>(trial)
        });
        let ndr = searcher.find(0.0, most, 0.96 * guess, 0.0)?;
        let pdr = searcher.find(o.loss, most, (0.98 * guess).max(ndr.rate * 1.005), ndr.rate)?;
        if here {
            self.neighbours.push(noted.neighbours(false, 0));
        }
        self.searches.push([ndr, pdr]);
        self.keep(noted);
        Ok(())
    }

    /// Searches whose rates are shown: those that set disturbed time aside, where there are any.
    fn headline(&self) -> bool {
        self.neighbours.iter().any(|n| n.apart)
    }

    /// Of values by search, those of the searches that did, or did not; all where nothing can be set aside.
    fn kind<'v, T>(&self, values: &'v [T], apart: bool) -> Vec<&'v T> {
        let all = self.neighbours.is_empty();
        let of = |(at, _): &(usize, &T)| all || self.neighbours.get(*at).is_some_and(|n| n.apart == apart);
        values.iter().enumerate().filter(of).map(|(_, value)| value).collect()
    }

    /// Their rates.
    fn rates(&self, apart: bool) -> Option<(Summary, Summary, Option<[Summary; 2]>)> {
        let found = self.kind(&self.searches, apart);
        if found.is_empty() {
            return None;
        }
        let rate = |which: usize| Summary::of(found.iter().map(|f| f[which].rate).collect());
        let share = |which: usize| {
            let shares: Vec<f64> = found.iter().filter_map(|f| Some(f[which].half?.share)).collect();
            (!shares.is_empty()).then(|| Summary::of(shares))
        };
        let shares = share(0).zip(share(1)).map(|(ndr, pdr)| [ndr, pdr]);
        Some((rate(0), rate(1), shares))
    }

    /// Measures latency at shares of the median NDR, as this was found.
    pub fn loads(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<(), LinerateError> {
        let apart = self.headline();
        let ndr = self.rates(apart).map_or(0.0, |(ndr, ..)| ndr.median);
        device.set_apart(apart);
        let times = if self.method == Method::UpAndDown { LOAD_SECONDS.1 } else { LOAD_SECONDS.0 };
        for share in LOADS.into_iter().filter(|_| ndr > 0.0) {
            let end = Instant::now() + o.search.budget / BESIDE;
            device.end_by(end);
            let mut trial = device.trial(ndr * share, times * o.search.seconds, size, true)?;
            for _ in 1..TRIES {
                if !trial.short || Instant::now() > end {
                    break;
                }
                trial = device.trial(ndr * share, times * o.search.seconds, size, true)?;
            }
            self.add(&(trial.interruptions, trial.interrupted_ms), trial.set_aside, &(trial.gaps, trial.gaps_ms));
            self.loads.push((share, trial));
        }
        Ok(())
    }

    pub fn row(self, subject: Subject, size: Size) -> Row {
        let shown = self.rates(self.headline());
        let saturated = self.kind(&self.saturated, self.headline()).into_iter().copied().collect();
        let kind = |apart: bool| {
            let (ndr, pdr, shares) = self.rates(apart)?;
            Some(Rates { ndr, pdr, shares: shares? })
        };
        Row {
            method: self.method,
            alone: kind(true),
            counted: kind(false),
            subject,
            size,
            ndr: shown.map(|(ndr, ..)| ndr),
            pdr: shown.map(|(_, pdr, _)| pdr),
            shares: shown.and_then(|(.., shares)| shares),
            saturated: Summary::of(saturated),
            generator_cycles: Summary::of(self.generator),
            searches: self.searches,
            neighbours: self.neighbours,
            search_seconds: self.seconds,
            loads: self.loads,
            interruptions: self.noted.interruptions,
            set_aside: self.noted.set_aside,
            gaps: self.noted.gaps,
        }
    }
}
