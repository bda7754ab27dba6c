//! The seeded simulation for as many seeds as one likes:
//! `cargo run --release -p lcs-perf --example simulate -- content 0..1000 40`.
//!
//! Prints every seed for which something did not hold and leaves its frames in `seed-N.pcapng`; ends with 1 if there was
//! one. A single seed (`17..18`) replays that seed.

use lcs_perf::network::capture::Capture;
use lcs_perf::simulate::{self, Outcome, has_faults};
use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;

type Run = fn(u64, u64, bool) -> Outcome;
type Replay = fn(u64, u64, bool, Capture) -> std::io::Result<Outcome>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((run, again, from, to, connections)) = read(&arguments) else {
        eprintln!("usage: simulate layer4|content|direct FROM..TO CONNECTIONS");
        eprintln!("\nseeds FROM up to, but not with, TO; connections of each; direct is content without a director");
        return ExitCode::from(2);
    };
    let (mut bad, mut made, mut answered) = (0u64, 0, 0);
    for seed in from..to {
        let outcome = run(seed, connections, has_faults(seed));
        made += outcome.connections;
        answered += outcome.answered;
        if outcome.ok() {
            continue;
        }
        bad += 1;
        println!("{outcome}");
        let path = format!("seed-{seed}.pcapng");
        let captured = File::create(&path).and_then(|f| {
            let capture = Capture::new(Box::new(BufWriter::new(f)), 1 << 20);
            again(seed, connections, has_faults(seed), capture)
        });
        match captured {
            Ok(_) => println!("  its frames are in {path}"),
            Err(e) => println!("  its frames could not be written to {path}: {e}"),
        }
    }
    println!(
        "{} seeds, {made} connections, {answered} answers, {bad} seeds with something that did not hold",
        to - from
    );
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
