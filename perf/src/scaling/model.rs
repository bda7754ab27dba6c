//! What more cores than were measured would give: two numbers from the measurement, and arithmetic.

use super::{HandOver, Row};
use crate::linerate::Size;
use serde::{Deserialize, Serialize};

/// What a number of workers would carry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Need {
    /// Workers.
    pub workers: usize,
    /// Packets/s when the card's RSS keeps both directions of a connection on its worker: nothing is handed over.
    pub fitting: f64,
    /// Packets/s when the card spreads frames regardless: all but one of so many are handed over. `None` when that was not measured.
    pub handed_over: Option<f64>,
}

/// A rate to be reached, and the workers that it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// What it is.
    pub name: String,
    /// Packets/s.
    pub rate: f64,
    /// Workers without hand-over; `None` when no number reaches it.
    pub fitting: Option<usize>,
    /// Workers with hand-over of all but one of so many.
    pub handed_over: Option<usize>,
}

/// What the model says of a share of frames handed over, and what was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Workers.
    pub workers: usize,
    /// Share of the frames.
    pub share: f64,
    /// TSC cycles a frame, by the model.
    pub predicted: f64,
    /// The same, as measured.
    pub measured: f64,
}

impl Check {
    /// By how much the model is wrong, as a share of what was measured.
    pub fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }

    /// Of all shares but none, with which the line begins, and the last, to which it was fitted.
    fn all(hand_overs: &[HandOver], extra: Option<f64>) -> Vec<Check> {
        let Some((fitted, extra)) = hand_overs.iter().rev().find(|h| h.extra.is_some()).zip(extra) else {
            return vec![];
        };
        let Some(none) = hand_overs.iter().find(|h| h.workers == fitted.workers && h.asked == 0.0) else {
            return vec![];
        };
        let others =
            hand_overs.iter().filter(|h| h.extra.is_some() && (h.workers, h.asked) != (fitted.workers, fitted.asked));
        let check = |h: &HandOver| Check {
            workers: h.workers,
            share: h.share,
            predicted: none.cycles.median + h.share * extra,
            measured: h.cycles.median,
        };
        others.filter(|h| h.workers == fitted.workers).map(check).collect()
    }
}

/// The model, fitted to what was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// Packets/s of one worker.
    pub one: f64,
    /// What each further worker costs all others, as a share of one: `R(n) = n · R(1) / (1 + contention · (n − 1))`.
    pub contention: f64,
    /// Cycles more that a frame costs which is handed over.
    pub hand_over: Option<f64>,
    /// What it says of measurements that it was not fitted to.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// What so many workers would carry.
    pub needs: Vec<Need>,
    /// 100 Gbit/s.
    pub targets: Vec<Target>,
    /// What is assumed.
    pub assumptions: Vec<String>,
}

/// Workers that the model is asked about.
const WORKERS: [usize; 4] = [4, 8, 16, 32];
/// Beyond this many nothing is looked for.
const MOST: usize = 1024;
const WIRE: f64 = 100e9;

impl Model {
    /// Fits to one worker and to the largest number that was measured; `None` without one worker.
    pub(super) fn fit(hz: u64, rows: &[Row], hand_overs: &[HandOver]) -> Option<Model> {
        let one = rows.iter().find(|r| r.workers == 1)?;
        let last = rows.last().filter(|r| r.workers > 1);
        let contention = last.and_then(|r| {
            let n = r.workers as f64;
            Some(((n / r.ratio.as_ref()?.median - 1.0) / (n - 1.0)).max(0.0))
        });
        let hand_over = hand_overs.iter().rev().find_map(|h| h.extra.as_ref()).map(|s| s.median.max(0.0));
        let mut model = Model {
            one: one.rate.median,
            contention: contention.unwrap_or(0.0),
            hand_over,
            checks: Check::all(hand_overs, hand_over),
            needs: vec![],
            targets: vec![],
            assumptions: vec![
                "the memory port: a card's driver costs cycles of its own (`lcs perf stages --port dpdk` measures a device's)".to_owned(),
                "a core for each worker, as fast as these, all on one NUMA node with the card; the last cache and the memory's bandwidth grow with the cores as from one to the last number measured".to_owned(),
                "flows are spread evenly over the workers; a single flow is never faster than one worker".to_owned(),
                "handed over means: of N workers' frames (N − 1)/N, as with the director's own hash; a lane that is full would lose more".to_owned(),
                format!(
                    "contention is {}",
                    if contention.is_some() { "from the largest number of workers measured, as a straight line" } else { "not measured (one worker only) and taken as none" }
                ),
            ],
        };
        model.needs = WORKERS
            .into_iter()
            .map(|n| Need { workers: n, fitting: model.fitting(n), handed_over: model.handed_over(n, hz) })
            .collect();
        for (name, size) in [("100 GbE at 64 B", Size::Bytes(64)), ("100 GbE at IMIX", Size::Imix)] {
            let rate = WIRE / size.wire_bits(1.0);
            let fitting = (1..=MOST).find(|n| model.fitting(*n) >= rate);
            let handed_over = (1..=MOST).find(|n| model.handed_over(*n, hz).is_some_and(|r| r >= rate));
            model.targets.push(Target { name: name.to_owned(), rate, fitting, handed_over });
        }
        Some(model)
    }

    /// Packets/s of `n` workers, nothing handed over.
    pub fn fitting(&self, n: usize) -> f64 {
        let n = n as f64;
        n * self.one / (1.0 + self.contention * (n - 1.0))
    }

    /// The same when all but one of `n` frames are handed over, which adds its cycles to those of a frame.
    pub fn handed_over(&self, n: usize, hz: u64) -> Option<f64> {
        let (cycles, share) = (hz as f64 / self.one, (n as f64 - 1.0) / n as f64);
        Some(self.fitting(n) * cycles / (cycles + share * self.hand_over?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Summary;

    fn row(workers: usize, rate: f64, ratio: f64) -> Row {
        let of = |v: f64| Summary::of(vec![v]);
        Row {
            workers,
            steered: true,
            rate: of(rate),
            cycles: of(100.0),
            ratio: Some(of(ratio)),
            ratio_alone: None,
            wall_ratio: None,
        }
    }

    #[test]
    fn the_model_gives_back_what_was_measured_and_says_what_a_link_needs() {
        let extra = Some(Summary::of(vec![300.0]));
        let hand_over = |asked: f64, cycles: f64, extra| HandOver {
            workers: 2,
            asked,
            share: asked,
            cycles: Summary::of(vec![cycles]),
            extra,
        };
        let quarter = hand_over(0.25, 200.0, Some(Summary::of(vec![400.0])));
        let all = [hand_over(0.0, 100.0, None), quarter, hand_over(0.5, 250.0, extra)];
        let rows = [row(1, 20e6, 1.0), row(2, 38e6, 1.9)];
        let m = Model::fit(2_000_000_000, &rows, &all).unwrap();
        assert!((m.fitting(2) - 38e6).abs() < 1.0 && m.fitting(1) == 20e6, "{m:?}");
        // A quarter of 300 more than 100 was expected, and not what was measured.
        let [check] = m.checks[..] else { panic!("{m:?}") };
        assert_eq!((check.predicted, check.measured, check.error()), (175.0, 200.0, -0.125));
        // 100 cycles and half of 300 more.
        assert!((m.handed_over(2, 2_000_000_000).unwrap() - 38e6 / 2.5).abs() < 1.0);
        assert!((m.targets[0].rate - 148.81e6).abs() < 1e4 && (m.targets[1].rate - 32.74e6).abs() < 1e4, "{m:?}");
        assert!(m.targets[1].fitting == Some(2) && m.targets[0].fitting.unwrap() >= 8, "{m:?}");
        assert!(m.targets[1].handed_over > m.targets[1].fitting && m.targets[0].handed_over.is_none(), "{m:?}");
        // A contention that saturates below the link has no answer, and is not looked for without end.
        let m = Model::fit(2_000_000_000, &[row(1, 1e6, 1.0), row(2, 1.2e6, 1.2)], &[]).unwrap();
        assert!(m.targets[0].fitting.is_none() && m.needs[0].handed_over.is_none());
        assert!(Model::fit(2_000_000_000, &[row(2, 1e6, 1.0)], &[]).is_none());
    }
}
