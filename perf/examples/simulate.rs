//! The seeded simulation for as many seeds as one likes: `cargo run --release -p lcs-perf --example simulate -- 0..1000 40`.
//!
//! Prints every seed for which something did not hold and leaves its frames in `seed-N.pcapng`; ends with 1 if there was one.
//! A single seed (`17..18`) replays that seed.

use lcs_perf::network::capture::Capture;
use lcs_perf::simulate::{has_faults, replay, run};
use std::fs::File;
use std::io::BufWriter;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((from, to, connections)) = read(&arguments) else {
        eprintln!("usage: simulate FROM..TO CONNECTIONS\n\nseeds FROM up to, but not with, TO; connections of each");
        return ExitCode::from(2);
    };
    let (mut bad, mut made) = (0u64, 0);
    for seed in from..to {
        let outcome = run(seed, connections, has_faults(seed));
        made += outcome.connections;
        if outcome.ok() {
            continue;
        }
        bad += 1;
        println!("{outcome}");
        let path = format!("seed-{seed}.pcapng");
        let captured = File::create(&path)
            .and_then(|f| replay(seed, connections, has_faults(seed), Capture::new(Box::new(BufWriter::new(f)), 1 << 20)));
        match captured {
            Ok(_) => println!("  its frames are in {path}"),
            Err(e) => println!("  its frames could not be written to {path}: {e}"),
        }
    }
    println!("{} seeds, {made} connections, {bad} seeds for which something did not hold", to - from);
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read(arguments: &[String]) -> Option<(u64, u64, u64)> {
    let [seeds, connections] = arguments else { return None };
    let (from, to) = seeds.split_once("..")?;
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from < to).then_some((from, to, connections.parse().ok()?))
}
