//! What is seen of one size of frames through one subject, round by round.

use super::search::{Found, Limit, Searcher};
use super::{Device, LOADS, LinerateError, Options, Row, Size, Subject, Trial};
use crate::summary::{Summary, median_interval};
use std::time::Instant;

/// What rounds have seen of one row so far.
#[derive(Default)]
pub(super) struct Seen {
    pub saturated: Vec<f64>,
    generator: Vec<f64>,
    pub searches: Vec<[Found; 2]>,
    pub seconds: Vec<f64>,
    interruptions: (u64, f64),
    set_aside: u64,
    gaps: (u64, f64),
    loads: Vec<(f64, Trial)>,
    /// Of each search, whether it told apart; none where the device runs elsewhere.
    apart: Vec<bool>,
}

/// Share of the time in which a core may be shared for a search that sets this time aside.
const SHARED: f64 = 0.4;
/// Share of a search's time after which one that sets such time aside gives way to one that counts all.
const PATIENCE: f64 = 0.6;
/// Trials of more than can be carried, of which the first that says something is believed.
const SATURATED: usize = 5;

impl Seen {
    /// A round's search. Where the device runs on this core, what somebody else's use of it costs is set aside, unless that is most of the time, or
    /// becomes so: then the search counts all, in the time that is left.
    pub fn search(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<(), LinerateError> {
        let begin = Instant::now();
        let apart = self.search_apart(device, o, size, begin + o.search.budget.mul_f64(PATIENCE))?;
        if device.runs_here() {
            self.apart.push(apart.is_some());
        }
        let found = if let Some(found) = apart {
            found
        } else {
            device.set_apart(false);
            let (capacity, _) = self.saturate(device, o, size)?;
            self.search_once(device, o, size, capacity, begin + o.search.budget)?
        };
        self.searches.push(found);
        self.seconds.push(begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// A search that sets aside what is lost while the core is shared; none where that can't be told, or is too much, or `end` comes first.
    fn search_apart(
        &mut self,
        device: &mut impl Device,
        o: &Options,
        size: Size,
        end: Instant,
    ) -> Result<Option<[Found; 2]>, LinerateError> {
        if !device.runs_here() {
            return Ok(None);
        }
        device.set_apart(true);
        let (capacity, shared) = self.saturate(device, o, size)?;
        if shared <= SHARED {
            let found = self.search_once(device, o, size, capacity, end)?;
            if !found.iter().any(|f| matches!(f.limit, Limit::Machine | Limit::Time)) {
                return Ok(Some(found));
            }
        }
        // The row shows what was saturated as its searches were made.
        self.saturated.pop();
        Ok(None)
    }

    fn note(&mut self, trial: &Trial) {
        self.interruptions.0 += trial.interruptions;
        self.interruptions.1 += trial.interrupted_ms;
        self.set_aside += trial.set_aside;
        self.gaps.0 += trial.gaps;
        self.gaps.1 += trial.gaps_ms;
    }

    /// Offers more than can be carried: how many frames/s came out, and for which share of the time the core was shared.
    pub fn saturate(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<(f64, f64), LinerateError> {
        let mut trial;
        let mut tries = 0;
        loop {
            trial = device.trial(device.most(size), o.search.seconds, size, false)?;
            // What is lost here is lost on purpose, whoever interrupts.
            self.note(&Trial { set_aside: 0, ..trial.clone() });
            tries += 1;
            if tries == SATURATED || trial.forwarded_rate > 0.0 && trial.disturbed <= Trial::DISTURBED {
                break;
            }
        }
        self.saturated.push(trial.forwarded_rate);
        Ok((trial.forwarded_rate, trial.shared))
    }

    /// Searches NDR and PDR around what is carried when more is offered, until `end` at the latest.
    fn search_once(
        &mut self,
        device: &mut impl Device,
        o: &Options,
        size: Size,
        capacity: f64,
        end: Instant,
    ) -> Result<[Found; 2], LinerateError> {
        let most = device.most(size);
        let (mut generator, mut noted) = (vec![], Seen::default());
        let mut searcher = Searcher::until(end, o.search, |rate, seconds| {
            let trial = device.trial(rate, seconds, size, false)?;
            noted.note(&trial);
            generator.push(trial.generator_cycles);
            Ok::<_, LinerateError>(trial)
        });
        let ndr = searcher.find(0.0, most, 0.96 * capacity, 0.0)?;
        let pdr = searcher.find(o.loss, most, (0.98 * capacity).max(ndr.rate * 1.005), ndr.rate)?;
        self.interruptions.0 += noted.interruptions.0;
        self.interruptions.1 += noted.interruptions.1;
        self.set_aside += noted.set_aside;
        self.gaps.0 += noted.gaps.0;
        self.gaps.1 += noted.gaps.1;
        self.generator.push(Summary::of(generator).median);
        Ok([ndr, pdr])
    }

    /// Measures latency at shares of the median NDR.
    pub fn loads(&mut self, device: &mut impl Device, o: &Options, size: Size) -> Result<(), LinerateError> {
        let ndr = Summary::of(self.searches.iter().map(|s| s[0].rate).collect()).median;
        for share in LOADS.into_iter().filter(|_| ndr > 0.0) {
            let trial = device.trial(ndr * share, 2.0 * o.search.seconds, size, true)?;
            self.note(&trial);
            self.loads.push((share, trial));
        }
        Ok(())
    }

    pub fn row(self, subject: Subject, size: Size) -> Row {
        let rates = |which: usize| {
            let rates: Vec<f64> = self.searches.iter().filter_map(|s| s.get(which)).map(|f| f.rate).collect();
            (!rates.is_empty()).then(|| Summary::of(rates))
        };
        let by = |apart: bool| {
            let found = self.searches.iter().zip(&self.apart).filter(|(_, was)| **was == apart);
            let rates: Vec<f64> = found.map(|([ndr, _], _)| ndr.rate).collect();
            (!rates.is_empty()).then(|| Summary::of(rates))
        };
        Row {
            alone: by(true),
            shared: by(false),
            subject,
            size,
            ndr: rates(0),
            ndr_interval: median_interval(&self.searches.iter().map(|[ndr, _]| ndr.rate).collect::<Vec<_>>()),
            pdr: rates(1),
            saturated: Summary::of(self.saturated),
            generator_cycles: Summary::of(self.generator),
            searches: self.searches,
            search_seconds: self.seconds,
            loads: self.loads,
            interruptions: self.interruptions,
            set_aside: self.set_aside,
            gaps: self.gaps,
        }
    }
}
