use super::super::search::Searcher;
use super::*;
use crate::summary::Summary;
use std::convert::Infallible;
use std::time::Duration;

const SEARCH: Search = Search { seconds: 0.02, resolution: 0.005, agree: 2, budget: Duration::from_secs(60) };
const SLICE: f64 = 250e-6;
const MOST: f64 = 200e6;

/// A device with a queue of 1024 frames, whose capacity is what `speed` says of each slice.
struct Model<S> {
    speed: S,
    slices: u64,
    queue: f64,
}

impl<S: FnMut(u64) -> f64> Model<S> {
    fn new(speed: S) -> Self {
        Model { speed, slices: 0, queue: 0.0 }
    }

    fn trial(&mut self, rate: f64, seconds: f64) -> Trial {
        let (mut lost, mut out) = (0.0, 0.0);
        let n = (seconds / SLICE).round() as u64;
        for _ in 0..n {
            let carried = ((self.speed)(self.slices) * SLICE).min(self.queue + rate * SLICE);
            self.slices += 1;
            out += carried;
            self.queue += rate * SLICE - carried;
            lost += (self.queue - 1024.0).max(0.0);
            self.queue = self.queue.min(1024.0);
        }
        self.queue = 0.0;
        let offered = (rate * seconds) as u64;
        Trial {
            rate,
            seconds,
            offered,
            received: offered - (lost.round() as u64).min(offered),
            forwarded_rate: out / (n as f64 * SLICE),
            ..Trial::default()
        }
    }
}

fn climbed(search: Search, mut run: impl FnMut(f64, f64) -> Trial) -> Climbed {
    let end = Instant::now() + search.budget;
    climb(search, [0.0, 0.001], MOST, (None, end), |r, s| Ok::<_, Infallible>(run(r, s))).unwrap().unwrap()
}

fn random(state: &mut u64) -> f64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

/// Where nobody disturbs, the search finds what RFC 2544's own does.
#[test]
fn a_device_that_is_always_equally_quick_has_the_rate_that_a_bisection_finds() {
    for capacity in [40e6, 12.3e6, 0.7e6] {
        let mut model = Model::new(|_| capacity);
        let up_and_down = climbed(SEARCH, |r, s| model.trial(r, s));
        let [ndr, pdr] = up_and_down.found;
        let plain = Search { agree: 1, ..SEARCH };
        let mut searcher = Searcher::new(plain, |r, s| Ok::<_, Infallible>(model.trial(r, s)));
        let bisected = searcher.find(0.0, MOST, 0.96 * capacity, 0.0).unwrap();
        assert!((ndr.rate / bisected.rate - 1.0).abs() < 0.01, "{capacity}: {ndr:?}, {bisected:?}");
        // The queue takes some frames that come too soon.
        let by_queue = 1024.0 / 0.02;
        assert!((ndr.rate / (capacity + by_queue) - 1.0).abs() < 0.01, "{capacity}: {ndr:?}");
        assert!(pdr.rate >= ndr.rate && pdr.rate < 1.02 * (capacity + by_queue), "{capacity}: {pdr:?}");
        let half = ndr.half.unwrap();
        assert!((up_and_down.capacity / capacity - 1.0).abs() < 1e-3 && half.quarters.0 <= half.share);
        assert!(half.quarters.1 <= 1.02 * half.share && ndr.limit == Limit::Loss, "{half:?}");
    }
}

/// States of half a second or so, up to a sixth apart, and single slices that scatter.
#[test]
fn searches_of_a_device_whose_speed_changes_agree() {
    let search = |seed: u64| {
        let (mut state, mut until, mut now) = (seed, 0, 0.0);
        let mut model = Model::new(move |n| {
            if n >= until {
                until = n + 1000 + (random(&mut state) * 3000.0) as u64;
                now = 32e6 + 6e6 * random(&mut state);
            }
            now * (0.9 + 0.2 * random(&mut state))
        });
        climbed(SEARCH, |r, s| model.trial(r, s)).found
    };
    let found: Vec<[Found; 2]> = (1..=5u64).map(|n| search(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    for which in [0, 1] {
        for of in [|f: &Found| f.rate, |f: &Found| f.half.unwrap().share] {
            let s = Summary::of(found.iter().map(|f| of(&f[which])).collect());
            assert!((s.max - s.min) / s.median < 0.05, "{which}: {s:?}");
        }
    }
}

#[test]
fn half_of_the_trials_hold_at_the_rate_and_a_quarter_above_it() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    let capacity = 10e6;
    let [ndr, _] = climbed(SEARCH, |rate, seconds| {
        // Holds at 0.8 with a probability of one half, from 0.7 to 0.9 with all and none.
        let held = random(&mut state) > (rate / capacity - 0.7) / 0.2;
        let offered = (rate * seconds) as u64;
        Trial {
            rate,
            seconds,
            offered,
            received: offered - u64::from(!held),
            forwarded_rate: capacity,
            ..Trial::default()
        }
    })
    .found;
    let half = ndr.half.unwrap();
    assert!((half.share - 0.8).abs() < 0.02 && (ndr.rate / capacity - half.share).abs() < 1e-9, "{half:?}");
    assert!((half.quarters.0 - 0.75).abs() < 0.03 && (half.quarters.1 - 0.85).abs() < 0.03, "{half:?}");
}

#[test]
fn a_search_ends_in_its_time_whatever_its_trials_say() {
    for short in [false, true] {
        let search = Search { budget: Duration::from_millis(40), ..SEARCH };
        let (begun, mut trials) = (Instant::now(), 0);
        let mut model = Model::new(|_| 10e6);
        let [ndr, _] = climbed(search, |r, s| {
            trials += 1;
            std::thread::sleep(Duration::from_millis(2));
            Trial { short, ..model.trial(r, s) }
        })
        .found;
        // Nine hundred trials would take two seconds.
        assert!(trials <= 21, "{trials} in {:?}", begun.elapsed());
        assert_eq!(ndr.limit, if short { Limit::Machine } else { Limit::Time });
        assert_eq!(ndr.rate == 0.0, short, "{ndr:?}");
    }
}

#[test]
fn a_machine_that_leaves_too_little_undisturbed_is_known_before_time_is_over() {
    let now = Instant::now();
    let mut model = Model::new(|_| 10e6);
    let times = (Some((now, 5)), now + Duration::from_secs(60));
    let mut trials = 0;
    let run = |r, s| {
        trials += 1;
        Ok::<_, Infallible>(Trial { short: true, ..model.trial(r, s) })
    };
    assert!(climb(SEARCH, [0.0, 0.001], MOST, times, run).unwrap().is_none() && trials < 5);
}

#[test]
fn a_device_that_always_loses_has_no_rate_and_one_that_never_does_is_bounded_by_what_can_be_offered() {
    let [ndr, pdr] = climbed(SEARCH, |r, s| Trial { received: 0, ..Model::new(|_| 1e6).trial(r, s) }).found;
    assert_eq!((ndr.limit, ndr.rate, pdr.rate), (Limit::Never, 0.0, 0.0));
    let [ndr, _] = climbed(SEARCH, |r, s| Model::new(|_| f64::INFINITY).trial(r, s)).found;
    assert!(ndr.limit == Limit::Offered && ndr.rate > 0.99 * MOST, "{ndr:?}");
}
