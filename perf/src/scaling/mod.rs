//! `lcs perf scaling`: what several workers carry together, and what handing frames over between them costs.
//!
//! Every worker has a port of its own on the memory port, and its generator on its own core, so that nothing is shared but the
//! processor's last cache and its memory. Only the worker's turns are timed, by `linerate`'s clock. With a share of foreign frames the workers go in step: each puts as
//! many on its wire as a lane between two workers holds, and all run until everything has been taken over, so that nothing is lost and every
//! frame's cost on both workers is in the sum.

mod model;
pub mod plot;
mod report;

pub use model::{Check, Model, Need};
pub use report::Figures;

use crate::linerate::VirtualClock;
use crate::neighbour::{self, looked};
use crate::range::{OutOfRange, in_range};
use crate::stages::{self, Bench, GROUP, StagesError};
use crate::summary::Summary;
use crate::traffic::client_pair;
use lcs_dataplane::cycles::{Tsc, tsc_hz};
use lcs_dataplane::headers::tcp::flags::ACK;
use lcs_dataplane::port::memory::MemoryPort;
use lcs_dataplane::ring::{HANDOVER, Handover};
use lcs_dataplane::spread::Spread;
use lcs_hwconf::cores;
use lcs_pipelines::snapshot::Forward;
use serde::{Deserialize, Serialize};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// How packets reach the servers.
    pub forward: Forward,
    /// Numbers of workers.
    pub workers: Vec<usize>,
    /// Established flows of each worker.
    pub flows: usize,
    /// Shares of the frames that arrive at a worker which does not own them, 0 to 1.
    pub foreign: Vec<f64>,
    /// Rounds, in which all of these are measured in turn.
    pub rounds: usize,
    /// Seconds of a measurement.
    pub seconds: f64,
    /// Bytes of a frame, FCS included.
    pub size: usize,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            forward: Forward::Nat,
            workers: vec![1, 2],
            flows: 100_000,
            foreign: vec![0.0, 0.25, 0.5],
            rounds: 11,
            seconds: 0.2,
            size: 64,
            ipv6: false,
        }
    }
}

/// What cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum ScalingError {
    /// A number out of its range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// More workers than cores.
    #[error(
        "--workers asks for {asked}, and this process may run on {cores} core(s): a worker needs one of its own; name fewer"
    )]
    Cores {
        /// Workers.
        asked: usize,
        /// Cores.
        cores: usize,
    },
    /// A list without any value.
    #[error("{0} names no value; give at least one, or leave it out for the default")]
    Empty(&'static str),
    /// The flows could not be opened.
    #[error(transparent)]
    Flows(#[from] StagesError),
    /// The cores are not told, or a thread could not be bound to one.
    #[error(transparent)]
    Machine(#[from] lcs_hwconf::Error),
    /// Other programs ran on the cores all the time.
    #[error(
        "in {0} runs of {1} s a worker never had its core and its caches to itself: too much else runs on this machine for a figure; end it, or give --seconds more"
    )]
    Disturbed(usize, f64),
    /// Frames did not come out.
    #[error("{lost} of {sent} frames were not forwarded; the figures would not be of forwarding")]
    Lost {
        /// Frames put in.
        sent: u64,
        /// Frames that did not come out.
        lost: u64,
    },
}

/// How long a worker waits for a sibling that may have lost its core.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs of one measurement, until in one every worker had its core to itself for some of the time.
const RUNS: usize = 5;

/// So many workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Workers.
    pub workers: usize,
    /// One director, whose workers know of each other; otherwise as many directors of one worker each, which share nothing at all.
    pub steered: bool,
    /// Packets/s of all together, in the workers' own time, by round.
    pub rate: Summary,
    /// TSC cycles a packet.
    pub cycles: Summary,
    /// Ratio to one worker, by round; absent when one was not measured.
    pub ratio: Option<Summary>,
    /// The same of the rounds in which nobody used the cores' other hardware threads, neither this row's nor the one worker's.
    #[serde(default)]
    pub ratio_alone: Option<Summary>,
    /// The same of packets a second by the clock on the wall, generators included and whatever else ran on the cores.
    pub wall_ratio: Option<Summary>,
}

/// Hand-over at a share of foreign frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandOver {
    /// Workers.
    pub workers: usize,
    /// Share of the frames that arrived at a worker which does not own them: as asked, and as counted.
    pub asked: f64,
    /// As counted.
    pub share: f64,
    /// TSC cycles of all workers a frame, from clients only.
    pub cycles: Summary,
    /// TSC cycles that a frame which is handed over costs more than one that is not; absent for a share of 0.
    pub extra: Option<Summary>,
}

/// A worker of a group, with its flows.
struct Member {
    bench: Bench<MemoryPort, Tsc>,
    clock: VirtualClock,
    /// Flows of the other workers, by number.
    foreign: Vec<u32>,
    number: usize,
    core: usize,
}

/// What a member has done in one measurement.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    sent: u64,
    received: u64,
    undisturbed: u64,
    cycles: u64,
    handed: u64,
    elapsed: Duration,
    /// Additions a cycle that its core gave ([`crate::neighbour`]).
    additions: Option<f64>,
}

impl Done {
    /// Frames/s in the worker's own time.
    fn rate(&self) -> f64 {
        self.undisturbed as f64 * tsc_hz() as f64 / self.cycles.max(1) as f64
    }
}

/// Workers that belong together.
struct Group {
    members: Vec<Member>,
}

/// What the members of a group share while they go in step.
struct Step {
    barrier: Barrier,
    /// Foreign frames on their way to each member.
    toward: Vec<AtomicUsize>,
    stop: AtomicBool,
}

impl Group {
    /// So many workers with their flows open: of one director when `steered`, otherwise of one each.
    fn new(o: &Options, workers: usize, steered: bool, cores: &[usize]) -> Result<Group, StagesError> {
        let mut numbers: Vec<Vec<u32>> = vec![vec![]; workers];
        let bench = stages::Options {
            forward: o.forward,
            flows: o.flows,
            size: o.size,
            ipv6: o.ipv6,
            ..stages::Options::default()
        };
        let spread = Spread { workers: workers as u8, table: 0 };
        for n in 0.. {
            if numbers.iter().all(|all| all.len() == o.flows) {
                break;
            }
            let (client, _) = client_pair(&bench, n);
            let of = &mut numbers[usize::from(spread.owner(client))];
            if of.len() < o.flows {
                of.push(n as u32);
            }
        }
        let mut members = vec![];
        let lanes = if workers > 1 && steered { Handover::mesh(workers) } else { vec![] };
        let mut lanes = lanes.into_iter();
        for (number, core) in (0..workers).zip(cores) {
            // What siblings hand over needs buffers, too.
            let port = MemoryPort::new(1, 2 * GROUP + HANDOVER * workers);
            let place = if steered { (number as u8, workers as u8) } else { (0, 1) };
            let mut bench = Bench::among(&bench, port, Tsc, place, lanes.next());
            bench.traffic.set_numbers(numbers[number].clone());
            bench.fill()?;
            let others = (0..workers).filter(|w| *w != number);
            let foreign = others.flat_map(|w| numbers[w].iter().copied()).collect();
            members.push(Member {
                bench,
                clock: VirtualClock::new(VirtualClock::GAP, o.flows),
                foreign,
                number,
                core: *core,
            });
        }
        Ok(Group { members })
    }

    /// As [`Group::run_once`], again where a member was never left alone: there would be no figure of it.
    fn run(&mut self, seconds: f64, foreign: Option<f64>) -> Result<Vec<Done>, ScalingError> {
        for _ in 0..RUNS {
            let done = self.run_once(seconds, foreign)?;
            if done.iter().all(|d| d.undisturbed > 0) {
                return Ok(done);
            }
        }
        Err(ScalingError::Disturbed(RUNS, seconds))
    }

    /// All members at once, each pinned, for some time. `foreign` is `None` for both directions of own frames only.
    fn run_once(&mut self, seconds: f64, foreign: Option<f64>) -> Result<Vec<Done>, ScalingError> {
        let workers = self.members.len();
        let step = Step {
            barrier: Barrier::new(workers),
            toward: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            stop: AtomicBool::new(false),
        };
        let results: Vec<_> = thread::scope(|scope| {
            let run = |member: &mut Member| {
                let pinned = cores::pin(member.core);
                // Whoever failed must not leave the others waiting at the barrier, so that all pass it first.
                step.barrier.wait();
                pinned?;
                let (done, additions) = looked(|| member.run(Duration::from_secs_f64(seconds), foreign, &step));
                Ok(Done { additions, ..done })
            };
            let threads: Vec<_> = self.members.iter_mut().map(|m| scope.spawn(move || run(m))).collect();
            let joined = threads.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
            joined.collect()
        });
        let done = results.into_iter().collect::<Result<Vec<Done>, lcs_hwconf::Error>>()?;
        let (sent, received): (u64, u64) = done.iter().fold((0, 0), |(s, r), d| (s + d.sent, r + d.received));
        if sent != received {
            return Err(ScalingError::Lost { sent, lost: sent.saturating_sub(received) });
        }
        Ok(done)
    }
}

/// Of flows, so many are drawn with one number.
fn any(random: u64, of: usize) -> usize {
    ((random >> 33) as usize) % of.max(1)
}

impl Member {
    fn run(&mut self, time: Duration, foreign: Option<f64>, step: &Step) -> Done {
        let flows = self.bench.traffic.open();
        let spread = Spread { workers: step.toward.len() as u8, table: 0 };
        let mut done = Done::default();
        let handed = self.bench.worker.counters().handed_over;
        let started = Instant::now();
        loop {
            let mut toward = vec![0; step.toward.len()];
            for _ in 0..GROUP {
                let pair = match foreign {
                    None => self.bench.traffic.any(flows),
                    Some(share) => {
                        let r = self.bench.traffic.random();
                        if ((r & 0xffff) as f64) < share * 65_536.0 && !self.foreign.is_empty() {
                            let n = self.foreign[any(r, self.foreign.len())] as usize;
                            let pair = client_pair(self.bench.options(), n);
                            toward[usize::from(spread.owner(pair.0))] += 1;
                            pair
                        } else {
                            self.bench.traffic.client_side(any(r, flows))
                        }
                    }
                };
                let (worker, traffic) = (&mut self.bench.worker, &self.bench.traffic);
                done.sent += u64::from(traffic.inject(worker.port_mut(), 0, pair, ACK, None, 0));
            }
            if foreign.is_none() || step.toward.len() == 1 {
                self.drain(&mut done, 0);
                if started.elapsed() >= time {
                    break;
                }
                continue;
            }
            // In step: everything that was put on a wire is carried before more is.
            for (to, n) in step.toward.iter().zip(toward) {
                to.fetch_add(n, Ordering::Relaxed);
            }
            if self.number == 0 && started.elapsed() >= time {
                step.stop.store(true, Ordering::Relaxed);
            }
            step.barrier.wait();
            let expected = step.toward[self.number].swap(0, Ordering::Relaxed);
            self.drain(&mut done, expected);
            let last = step.stop.load(Ordering::Relaxed);
            step.barrier.wait();
            if last {
                break;
            }
        }
        done.elapsed = started.elapsed();
        done.handed = self.bench.worker.counters().handed_over - handed;
        done
    }

    /// Turns until the wire is empty and so many frames were taken over.
    fn drain(&mut self, done: &mut Done, expected: usize) {
        let until = self.bench.worker.counters().taken_over + expected as u64;
        // A frame that a sibling could not hand over never comes; that it is missing is found when all are counted.
        let mut last = Instant::now();
        loop {
            let worker = &mut self.bench.worker;
            if worker.port().waiting() == 0 && worker.counters().taken_over >= until {
                break;
            }
            let before = self.clock.cycles();
            let mut undisturbed = self.clock.clone();
            let frames = undisturbed.turn(|| worker.poll(stages::NOW));
            if frames == 0 {
                // Nothing to do but wait for a sibling, which is no work.
                if last.elapsed() > PATIENCE {
                    break;
                }
                thread::yield_now();
                continue;
            }
            last = Instant::now();
            self.clock = undisturbed;
            let sent = self.bench.worker.port_mut().take_sent(|_, _| {}) as u64;
            done.received += sent;
            if !self.clock.recovering() {
                done.undisturbed += sent;
                done.cycles += self.clock.cycles() - before;
            }
        }
    }
}

fn check(o: &Options, cores: usize) -> Result<(), ScalingError> {
    for workers in &o.workers {
        in_range("--workers", *workers, 1, 64)?;
        if *workers > cores {
            return Err(ScalingError::Cores { asked: *workers, cores });
        }
    }
    if o.workers.is_empty() {
        return Err(ScalingError::Empty("--workers"));
    }
    for share in &o.foreign {
        in_range("--foreign", *share, 0.0, 1.0)?;
    }
    in_range("--flows", o.flows, 1, 5_000_000)?;
    in_range("--rounds", o.rounds, 1, 1_000)?;
    in_range("--seconds", o.seconds, 0.01, 60.0)?;
    in_range("--size", o.size, if o.ipv6 { 78 } else { 64 }, 1518)?;
    Ok(())
}

/// Measures. `progress` is told what is being done.
///
/// # Errors
/// Options out of range, too few cores, or frames that were not forwarded.
pub fn measure(o: &Options, mut progress: impl FnMut(&str)) -> Result<Figures, ScalingError> {
    let available: Vec<usize> = cores::available()?.into_iter().map(|c| c.id).collect();
    check(o, available.len())?;
    // The last cores first: the first one usually has the machine's own work.
    let cores: Vec<usize> = available.iter().rev().copied().collect();
    let mut counts = o.workers.clone();
    counts.sort_unstable();
    counts.dedup();
    let (mut groups, mut kinds) = (vec![], vec![]);
    for workers in &counts {
        progress(&format!("opening {} flows for each of {workers} worker(s)", o.flows));
        if *workers > 1 {
            kinds.push((*workers, false));
            groups.push(Group::new(o, *workers, false, &cores)?);
        }
        kinds.push((*workers, true));
        groups.push(Group::new(o, *workers, true, &cores)?);
    }
    let mut own: Vec<Vec<Vec<Done>>> = vec![vec![]; groups.len()];
    let mut handed: Vec<Vec<Vec<Vec<Done>>>> = vec![vec![vec![]; o.foreign.len()]; groups.len()];
    // The first round warms up.
    for round in 0..=o.rounds {
        progress(&format!("round {round} of {}", o.rounds));
        for (g, group) in groups.iter_mut().enumerate() {
            let done = group.run(o.seconds, None)?;
            if round > 0 {
                own[g].push(done);
            }
            if group.members.len() == 1 || !kinds[g].1 {
                continue;
            }
            for (s, share) in o.foreign.iter().enumerate() {
                let done = group.run(o.seconds, Some(*share))?;
                if round > 0 {
                    handed[g][s].push(done);
                }
            }
        }
    }
    let rate = |done: &[Done]| done.iter().map(Done::rate).sum::<f64>();
    let wall = |done: &[Done]| done.iter().map(|d| d.received as f64 / d.elapsed.as_secs_f64()).sum::<f64>();
    let cycles = |done: &[Done]| {
        done.iter().map(|d| d.cycles).sum::<u64>() as f64
            / done.iter().map(|d| d.undisturbed).sum::<u64>().max(1) as f64
    };
    let whole = neighbour::whole(own.iter().flatten().flatten().filter_map(|done| done.additions));
    let is_alone = |done: &[Done]| done.iter().all(|done| done.additions.is_some_and(|rate| rate >= whole));
    let rows: Vec<Row> = kinds
        .iter()
        .zip(&own)
        .map(|((workers, steered), rounds)| {
            let pairs = || rounds.iter().zip(&own[0]).filter(|_| counts[0] == 1);
            let undisturbed =
                pairs().filter(|(d, one)| is_alone(d) && is_alone(one)).map(|(d, one)| rate(d) / rate(one));
            let undisturbed: Vec<f64> = undisturbed.collect();
            let ratios = |of: &dyn Fn(&[Done]) -> f64| {
                (counts[0] == 1)
                    .then(|| Summary::of(rounds.iter().zip(&own[0]).map(|(d, one)| of(d) / of(one)).collect()))
            };
            Row {
                workers: *workers,
                steered: *steered,
                rate: Summary::of(rounds.iter().map(|d| rate(d)).collect()),
                cycles: Summary::of(rounds.iter().map(|d| cycles(d)).collect()),
                ratio: ratios(&rate),
                ratio_alone: (!undisturbed.is_empty()).then(|| Summary::of(undisturbed)),
                wall_ratio: ratios(&wall),
            }
        })
        .collect();
    let mut hand_overs = vec![];
    for ((workers, _), shares) in kinds.iter().zip(&handed) {
        // What handing over costs is against the run of the same round without it.
        let none = o.foreign.iter().position(|s| *s == 0.0).map(|at| &shares[at]);
        for (asked, rounds) in o.foreign.iter().zip(shares).filter(|(_, rounds)| !rounds.is_empty()) {
            let (frames, over) = rounds.iter().flatten().fold((0, 0), |(f, h), d| (f + d.received, h + d.handed));
            let share = over as f64 / (frames as f64).max(1.0);
            let extra = none.filter(|_| share > 0.0).map(|none| {
                Summary::of(rounds.iter().zip(none).map(|(d, without)| (cycles(d) - cycles(without)) / share).collect())
            });
            let cycles = Summary::of(rounds.iter().map(|d| cycles(d)).collect());
            hand_overs.push(HandOver { workers: *workers, asked: *asked, share, cycles, extra });
        }
    }
    let model = Model::fit(tsc_hz(), &rows, &hand_overs);
    Ok(Figures { options: o.clone(), tsc_hz: tsc_hz(), cores, rows, hand_overs, model })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quick() -> Options {
        Options { flows: 300, rounds: 2, seconds: 0.01, ..Options::default() }
    }

    #[test]
    fn workers_carry_their_own_frames_and_those_that_siblings_hand_over() {
        let cores = cores::available().unwrap().len();
        let workers = if cores > 1 { vec![1, 2] } else { vec![1] };
        for forward in [Forward::Nat, Forward::Dr] {
            let o = Options { forward, workers: workers.clone(), ..quick() };
            let figures = measure(&o, |_| {}).unwrap();
            assert_eq!(figures.rows.len(), 2 * workers.len() - 1);
            assert!(figures.rows.iter().all(|r| r.rate.median > 1e5), "{figures}");
            if cores == 1 {
                println!("skipped: hand-over needs two cores");
                continue;
            }
            let shares: Vec<f64> = figures.hand_overs.iter().map(|h| h.share).collect();
            assert!(
                shares[0] == 0.0 && (0.15..0.35).contains(&shares[1]) && (0.4..0.6).contains(&shares[2]),
                "{shares:?}"
            );
            let checked = figures.model.as_ref().map_or(0, |model| model.checks.len());
            assert!(
                checked == 1 && figures.to_string().contains("held against what it was not fitted to"),
                "{figures}"
            );
            let text = figures.to_string();
            assert!(text.contains("148.8") && text.contains("assum"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (o, what) in [
            (Options { workers: vec![], ..quick() }, "--workers names no value"),
            (Options { workers: vec![0], ..quick() }, "--workers is 0"),
            (Options { workers: vec![64], ..quick() }, "name fewer"),
            (Options { foreign: vec![1.5], ..quick() }, "--foreign is 1.5"),
            (Options { size: 20, ..quick() }, "--size is 20"),
        ] {
            if what == "name fewer" && cores::available().unwrap().len() >= 64 {
                continue;
            }
            let said = measure(&o, |_| {}).unwrap_err().to_string();
            assert!(said.contains(what), "{said}");
        }
    }
}
