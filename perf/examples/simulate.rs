//! The seeded simulation for as many seeds as one likes:
//! `cargo run --release -p lcs-perf --example simulate -- content 0..1000 40`.
//!
//! Seeds run side by side, one on each core. `content 0..10000 10` are 10⁵ connections; `content 0..10000000 10`
//! are 10⁸, for a night.
//!
//! At the end it says how often the simulated hosts' stacks had to be helped (`network::sequence`): what was mended for them was
//! not tried.
//!
//! Prints every seed for which something did not hold and leaves its frames in `seed-N.pcapng`; ends with 1 if there was
//! one. A single seed (`17..18`) replays that seed.

use lcs_perf::network::capture::Capture;
use lcs_perf::network::sequence::Helped;
use lcs_perf::simulate::{self, Outcome, has_faults};
use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Run = fn(u64, u64, bool) -> Outcome;
type Replay = fn(u64, u64, bool, Capture) -> std::io::Result<Outcome>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((run, again, from, to, connections)) = read(&arguments) else {
        eprintln!("usage: simulate layer4|content|direct FROM..TO CONNECTIONS");
        eprintln!("\nseeds FROM up to, but not with, TO; connections of each; direct is content without a director");
        return ExitCode::from(2);
    };
    let next = AtomicU64::new(from);
    let total = Mutex::new(Total::default());
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to {
                        return;
                    }
                    let outcome = run(seed, connections, has_faults(seed));
                    if !outcome.ok() {
                        report(seed, &outcome, || capture(again, seed, connections));
                    }
                    let Ok(mut total) = total.lock() else { return };
                    total.add(&outcome);
                    if total.said.is_none_or(|at| at.elapsed() > PROGRESS) && started.elapsed() > PROGRESS {
                        total.said = Some(Instant::now());
                        let done = total.seeds as f64 / (to - from) as f64;
                        let left = started.elapsed().as_secs_f64() * (1.0 - done) / done;
                        eprintln!(
                            "{:.1} %, {} connections, {} bad seeds; {left:.0} s left",
                            100.0 * done,
                            total.made,
                            total.bad
                        );
                    }
                }
            });
        }
    });
    let Total { bad, made, answered, helped, with_help, .. } = total.into_inner().unwrap_or_default();
    println!(
        "{} seeds, {made} connections, {answered} answers, {bad} seeds with something that did not hold",
        to - from
    );
    println!("stacks helped in {with_help} seeds: {helped}");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// From one line of progress to the next.
const PROGRESS: Duration = Duration::from_secs(20);

/// What all seeds together have come to.
#[derive(Default)]
struct Total {
    seeds: u64,
    bad: u64,
    made: u64,
    answered: u64,
    /// How often stacks had to be helped, and in how many seeds.
    helped: Helped,
    with_help: u64,
    said: Option<Instant>,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.bad += u64::from(!outcome.ok());
        self.made += outcome.connections;
        self.answered += outcome.answered;
        self.helped.add(&outcome.helped);
        self.with_help += u64::from(outcome.helped != Helped::default());
    }
}

/// Runs a seed again with its frames written down.
fn capture(again: Replay, seed: u64, connections: u64) -> std::io::Result<String> {
    let path = format!("seed-{seed}.pcapng");
    let capture = Capture::new(Box::new(BufWriter::new(File::create(&path)?)), 1 << 20);
    again(seed, connections, has_faults(seed), capture)?;
    Ok(path)
}

fn report(seed: u64, outcome: &Outcome, capture: impl FnOnce() -> std::io::Result<String>) {
    match capture() {
        Ok(path) => println!("{outcome}\n  its frames are in {path}"),
        Err(e) => println!("{outcome}\n  the frames of seed {seed} could not be written: {e}"),
    }
}

fn read(arguments: &[String]) -> Option<(Run, Replay, u64, u64, u64)> {
    let [what, seeds, connections] = arguments else { return None };
    let (run, replay): (Run, Replay) = match what.as_str() {
        "layer4" => (simulate::run, simulate::replay),
        "content" => (simulate::content::run, simulate::content::replay),
        "direct" => (simulate::content::direct, simulate::content::replay_direct),
        _ => return None,
    };
    let (from, to) = seeds.split_once("..")?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from < to).then_some((run, replay, from, to, connections.parse().ok()?))
}
